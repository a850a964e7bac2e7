"""Relief and tilt that no single working distance brings into focus, read off the frames that a run took anyway.

The field is split into tiles. In every tile the ratio of the power spectra of the frames shows where the focus of that
tile lies, whatever the sample. Where one focus for all tiles fits much worse than a focus for each, and these foci lie
further apart than their errors, the field has no single focus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from semfocus_plugin.optics._nominal import TUNGSTEN
from semfocus_plugin.optics._spectra import BEYOND_BINS, LEAST_DISAGREEMENT, power_of, transfer, transform_of, variance
from semfocus_plugin.optics._views import Array, View, Views, prepare, visible

LEAST = 1.5
"""Depths of field over the field that are worth a word."""

SURE = 30.0
"""How much worse one focus for all tiles fits, in units of χ², before relief is believed; by chance it is up to 25."""

_ROWS, _COLUMNS = 3, 4
_HIGH, _WIDE = 0.4, 0.3
"""Share of the frame's lines and columns that a tile spans: it overlaps its neighbours, for its edges count little."""
_LEAST_SIDE = 96
_EDGES = np.geomspace(0.025, 0.4, 10)
"""Limits of the rings, cycles a pixel."""
_RINGS = len(_EDGES) - 1
_LOWEST_COLUMN = 2
"""Gain of a line and streaks lie in the columns of the lowest horizontal frequencies."""
_WINDOWED = 2.0
"""Modes of a tile that depend on each other, under its window."""
_FOCI = np.arange(-10.0, 10.01, 0.25)
"""Where the focus of a tile may lie, in depths of field from that of the field."""
_APERTURES = np.array([0.8, 1.0, 1.25])
_APERTURE_ERROR = 0.2
_LEAST_ERROR = 0.15
"""Depths of field: a tile's focus is never known better."""
_RANGE = 2.56
"""From the standard deviation to the distance between the 10 % and the 90 % quantiles."""
_LEAST_TILES = 6
"""Tiles, of twelve, that must show their focus to `_SURE` depths of field."""
_SURE = 1.5
_SHRINK = 4
"""Pixels averaged for the search of the shift between two frames, whose precision is as much."""
_FARTHEST = 7


@dataclass(frozen=True, slots=True)
class Relief:
    """How far the focus differs over the field.

    Parameters
    ----------
    spread : float
        Between the deepest and the highest tenth of the field, in depths of field.
    uncertainty : float
        Its standard error, in depths of field.
    tilt : float
        Share of the variation that a plane explains, 0 to 1.
    """

    spread: float
    uncertainty: float
    tilt: float

    @property
    def sentence(self) -> str:
        """What it is and what to do, for a person."""
        amount = f"the focus varies by {self.spread:.1f} ± {self.uncertainty:.1f} depths of field over the field"
        if self.tilt > 0.8:
            return f"no single working distance is sharp: {amount}, as on a tilted sample: level the stage"
        return (
            f"no single working distance is sharp: {amount}: use a smaller aperture or a longer working distance, "
            "or focus on the part that matters"
        )


def relief(
    views: Sequence[View], focus: float, *, aperture: float | None = None, core: float = TUNGSTEN
) -> Relief | None:
    """Return how far the focus differs over the field, or None when it does not or the frames cannot show it.

    Astigmatism can pass for relief, where edges of one direction fill one tile and those of another the next: ask
    `semfocus_plugin.findings.finding`, which looks for astigmatism first.

    Parameters
    ----------
    views : sequence of View
        Raw frames of one field at one magnification, at two or more working distances.
    focus : float
        Working distance of the focus found, mm; it may be off by a few depths of field.
    aperture : float, optional
        Aperture radius in mm, where it has been calibrated.
    core : float
        Diameter of the focused probe, mm; it sets the depth of field.

    Returns
    -------
    Relief or None
        Never less than `LEAST` depths of field.

    Raises
    ------
    InvalidParameterError
        For lengths that are not above 0, or frames of several shapes or pixel sizes.
    """
    ready = prepare(views, focus, aperture, core)
    if ready is None or min(ready.frames[0].shape) < _LEAST_SIDE:
        return None
    disagreement, terms = _disagreement(ready)
    prior = (np.log(_APERTURES) / _APERTURE_ERROR) ** 2
    each = disagreement.min(axis=2).sum(axis=1)
    scale = max(LEAST_DISAGREEMENT, 2 * float(each.min()) / max(terms, 1.0))
    together = float((disagreement.sum(axis=1).min(axis=1) / scale + prior).min())
    aperture_found = int((each / scale + prior).argmin())
    if together - float((each / scale + prior)[aperture_found]) < SURE:
        return None
    foci, errors = _foci(disagreement[aperture_found] / scale)
    if int((errors < _SURE).sum()) < _LEAST_TILES:
        return None
    deviation, uncertainty, tilt = _variation(foci, errors)
    if _RANGE * deviation < LEAST:
        return None
    return Relief(_RANGE * deviation, _RANGE * uncertainty, tilt)


def _disagreement(ready: Views) -> tuple[Array, float]:
    """Return the sum of squares by aperture, tile and focus, shape (3, 12, 81), and the number of terms in a tile's."""
    reference = int(np.abs(ready.defocus).argmin())
    still = ready.frames[reference]
    moved = [(0, 0) if frame is still else _shift(frame, still) for frame in ready.frames]
    spectra = [_spectra(frame, *shift) for frame, shift in zip(ready.frames, moved, strict=True)]
    power, error = (np.array(each) for each in zip(*spectra, strict=True))
    weight = visible(power, error)
    root = np.sqrt(weight / error)[:, :, None]
    seen = power[:, :, None] * root
    wave = _geometry(*still.shape)[2]
    radius = np.abs(ready.defocus[:, None] - _FOCI)[:, None, :, None] * ready.blur[:, None, None, None] * wave
    total = []
    for scale in _APERTURES:
        model = transfer(radius * scale) * root
        product = np.maximum((seen * model).sum(axis=0), 0.0)
        explained = product**2 / np.maximum((model**2).sum(axis=0), 1e-30)
        total.append(((seen**2).sum(axis=0) - explained).sum(axis=-1))
    return np.array(total), float(weight.sum()) * (len(power) - 1)


def _foci(disagreement: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of the focus of every tile."""
    likelihood = np.exp(-0.5 * (disagreement - disagreement.min(axis=1, keepdims=True)))
    likelihood /= likelihood.sum(axis=1, keepdims=True)
    mean = likelihood @ _FOCI
    spread = likelihood @ _FOCI**2 - mean**2
    return mean, np.sqrt(np.maximum(spread, 0.0) + _LEAST_ERROR**2)


def _variation(foci: Array, errors: Array) -> tuple[float, float, float]:
    """Return the standard deviation of the foci beyond their errors, its error, and the share that a plane explains.

    The moments are weighted as for random effects (DerSimonian & Laird, Controlled Clinical Trials 7, 1986), by turns
    with the deviation found.
    """
    between = 0.0
    for _ in range(20):
        weight = 1 / (errors**2 + between)
        mean = float((weight * foci).sum() / weight.sum())
        excess = (foci - mean) ** 2 - errors**2
        between = max(0.0, float((weight**2 * excess).sum() / (weight**2).sum()))
    weight = 1 / (errors**2 + between)
    rows, columns = np.divmod(np.arange(len(foci)), _COLUMNS)
    plane = np.column_stack([np.ones(len(foci)), rows - rows.mean(), columns - columns.mean()])
    root = np.sqrt(weight)
    fitted = plane @ np.linalg.lstsq(plane * root[:, None], foci * root, rcond=None)[0]
    left = float((weight * (foci - fitted) ** 2).sum() / max(float((weight * (foci - mean) ** 2).sum()), 1e-12))
    deviation = math.sqrt(between)
    error = 1 / math.sqrt(2 * float((weight**2).sum())) / max(deviation, 1e-6)
    return deviation, error, 1 - left


def _spectra(frame: Array, down: int, right: int) -> tuple[Array, Array]:
    """Return the power of the sample in the tiles of a frame, and its variance, each of shape (12, 9).

    Pairs of pixels along a line are averaged first, which halves the work; lines stay single, for the noise comes from
    what is independent from line to line.
    """
    window, rings, _, modes, beyond = _geometry(*frame.shape)
    height, wide = window.shape[0], 2 * window.shape[1]
    tops, lefts = _corners(frame.shape[0], height, _ROWS, down), _corners(frame.shape[1], wide, _COLUMNS, right)
    tiles = np.stack([frame[y : y + height, x : x + wide] for y in tops for x in lefts])
    tiles = 0.5 * (tiles[:, :, ::2] + tiles[:, :, 1::2])
    tiles -= ((tiles * window).sum(axis=(1, 2)) / window.sum())[:, None, None]
    power = power_of(tiles * window) / np.square(window).sum()
    noise = np.broadcast_to(power[:, beyond].mean(axis=1)[:, None], power.shape)
    total, floor = (each.reshape(len(tiles), -1) @ rings for each in (power, noise))
    return total - floor, variance(total - floor, floor, modes)


def _corners(size: int, tile: int, count: int, shift: int) -> list[int]:
    """Return where tiles begin that follow the sample, which has moved by `shift`, as far as the frame goes."""
    return [min(max(round(k * (size - tile) / (count - 1)) + shift, 0), size - tile) for k in range(count)]


def _shift(frame: Array, other: Array) -> tuple[int, int]:
    """Return by how many pixels (down, right) the sample lies further in `frame`, to within a few."""
    first, second = _small(frame), _small(other)
    surface = np.fft.irfft2(first * np.conj(second))
    surface = np.roll(surface, (_FARTHEST, _FARTHEST), (0, 1))[: 2 * _FARTHEST + 1, : 2 * _FARTHEST + 1]
    down, right = np.unravel_index(int(surface.argmax()), surface.shape)
    return _SHRINK * (int(down) - _FARTHEST), _SHRINK * (int(right) - _FARTHEST)


def _small(frame: Array) -> Array:
    """Return the transform of a frame on large pixels, without its gradients and its finest structure."""
    height, width = (2 * (size // _SHRINK // 2) for size in frame.shape)
    small = frame[: height * _SHRINK, : width * _SHRINK].reshape(height, _SHRINK, width, _SHRINK).mean(axis=(1, 3))
    small -= small.mean()
    small *= np.hanning(height)[:, None] * np.hanning(width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    return np.asarray(transform_of(small) * ((frequency > 0.02) & (frequency < 0.3)))


@lru_cache(maxsize=4)
def _geometry(height: int, width: int) -> tuple[Array, Array, Array, Array, Array]:
    """Return window of a tile, matrix from modes to means of rings, by ring 2π · frequency and modes, and the noise."""
    rows, columns = round(_HIGH * height), round(0.5 * _WIDE * width)
    window = (np.hanning(rows + 2)[1:-1, None] * np.hanning(columns + 2)[1:-1]).astype(np.float32)
    vertical, horizontal = np.fft.fftfreq(rows)[:, None], 0.5 * np.fft.rfftfreq(columns)[None, :]
    frequency = np.hypot(vertical, horizontal)
    ring = np.digitize(frequency, _EDGES) - 1
    used = (ring >= 0) & (ring < _RINGS) & (np.arange(horizontal.size) >= _LOWEST_COLUMN)
    chosen = (np.where(used, ring, -1).ravel()[:, None] == np.arange(_RINGS)).astype(np.float32)
    modes = np.maximum(chosen.sum(axis=0), 1.0)
    rings = chosen / modes
    wave = 2 * math.pi * np.exp(np.log(np.maximum(frequency, 1e-9)).ravel() @ rings)
    return window, rings, wave, modes / _WINDOWED, np.abs(vertical[:, 0]) > BEYOND_BINS
