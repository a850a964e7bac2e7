"""MAPFoSt (Binding, Mikula, Denk 2013) from the package ``mapfost``: aberrations from a pair of test frames.

Lengths go to the package in units of pixel/α, with the half-angle of every working distance taken into account, so
that its optimiser is as well conditioned at 500× as at 30 000×. Frames are laid over each other first: the turn and
the change in size that go with the working distance are undone (at 500× they are more than the method bears), then
the shift. The package crops the spectrum but lays the wave vectors of the whole width over what is left; the
half-angle is multiplied by the same factor, without which it corrects by half and less.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Peer

__all__ = ["PEER", "TEST_DEFOCUS", "aberrations", "find"]

TEST_DEFOCUS = 3.0
"""Of the two test frames, to either side, in depths of field."""

# Depths of field between the frames of the Tenengrad sweep that finds the capture range in a wide window
_BRACKETING_STEP = 10.0

# Share of the spectrum that is used where the probe core is much finer than a pixel; less where it is wider
_APERTURE = 0.35
_CROP = 160  # Edge of the square that is used, pixels
_LEAST_TURN = 0.5  # Pixels by which a turn must move the corners to be undone: undoing it costs sharpness
_FURTHEST_SHIFT = 40  # Pixels; a larger shift between the frames is taken for a mistake of the correlation
_PASSES = 6  # Most corrections of a run
_SETTLED = 0.5  # A correction below this ends the run, in units of the accuracy asked for


def find(bench: Bench) -> Answer:
    """Correct pass by pass until a correction is below the tolerance."""
    low, high = bench.bracket(_BRACKETING_STEP)
    here = bench.sharpest if bench.wide else 0.0
    for _ in range(_PASSES):
        found = aberrations(bench, here)
        if found is None:
            return Answer(bench.place(here), False, "the package gave no estimate")
        target = min(max(here + found[0], low), high)
        moved, here = abs(target - here), target
        if moved < _SETTLED * bench.tolerance:
            return Answer(bench.place(here), True, f"the last correction was {moved:.2f} depths of field")
    return Answer(bench.place(here), False, f"no small correction within {_PASSES} passes")


def aberrations(bench: Bench, here: float) -> tuple[float, float, float] | None:
    """Return the way to the focus and both components of the astigmatism, in depths of field, or None.

    Estimated from two frames on either side of `here`.
    """
    from mapfost.mapfost import est_aberr

    centre = bench.place(here)
    radius = bench.optics.aperture_radius / bench.pixel
    places = [bench.place(here - TEST_DEFOCUS), bench.place(here + TEST_DEFOCUS)]
    frames = [_levelled(bench, bench.look(place), place - centre) for place in places]
    aperture = _APERTURE * bench.pixel / math.hypot(bench.pixel, bench.optics.core)
    known = [radius * (1 - centre / place) for place in places]
    valid, _, result = est_aberr(
        _aligned(*frames),
        known,
        pix_size_um=1.0,
        num_aperture=aperture,
        crop_size=(_CROP, _CROP),
        crop_ref=((320 - _CROP) // 2, (240 - _CROP) // 2),
        test_ims_aligned=1,
        radial_aperture=aperture,
        use_bessel=True,
    )
    if valid is not True or result is None:
        return None
    best = centre * (1 - float(result.x[0]) / radius)
    unit = bench.scale * centre
    x, y = (float(value) * centre / radius / unit for value in result.x[1:])
    return bench.coordinate(max(best, 0.1 * centre)) - here, x, y


def _levelled(bench: Bench, frame: NDArray[np.float64], away: float) -> NDArray[np.float64]:
    """Undo how the image turned and grew over `away` mm of working distance, where that moves the square's corners."""
    from scipy.ndimage import affine_transform

    angle, size = -bench.optics.rotation * away, 1 / (1 + bench.optics.growth * away)
    if (abs(angle) + abs(size - 1)) * _CROP / math.sqrt(2) < _LEAST_TURN:
        return frame
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / size
    middle = (np.array(frame.shape) - 1) / 2
    result: NDArray[np.float64] = affine_transform(frame, matrix, middle - matrix @ middle, order=1, mode="nearest")
    return result


def _aligned(first: NDArray[np.float64], second: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return both frames, the second shifted onto the first by whole pixels (phase correlation of what is coarse)."""
    spectra = [np.fft.rfft2(frame - frame.mean()) for frame in (first, second)]
    ky = np.fft.fftfreq(first.shape[0])[:, None]
    kx = np.fft.rfftfreq(first.shape[1])[None, :]
    coarse = np.exp(-0.5 * (kx**2 + ky**2) / 0.05**2)
    product = spectra[0] * np.conj(spectra[1])
    peak = np.fft.irfft2(coarse * product / np.maximum(np.abs(product), 1e-9), first.shape)
    row, column = np.unravel_index(int(np.argmax(peak)), peak.shape)
    shift = [(int(n) + size // 2) % size - size // 2 for n, size in zip((row, column), first.shape, strict=True)]
    if max(abs(n) for n in shift) > _FURTHEST_SHIFT:
        shift = [0, 0]
    return [first, np.roll(second, shift, (0, 1))]


PEER = Peer("mapfost", "MAPFoSt (package mapfost 4.3.1), given α at every WD", find, ("mapfost", "skimage", "requests"))
"""The method, as the benchmark runs it."""
