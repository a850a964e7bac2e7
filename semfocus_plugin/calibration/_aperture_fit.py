"""Aperture and place of focus from a focal series, with the field itself as the ruler.

A frame at working distance w shows a disc of radius r = R |w − w*| / (w · pixel), R being the radius of the aperture.
AENet reports the order of blurs well, but their scale differs by up to 30 % from one field to the next. So frames in
focus are blurred here with discs of known radius, given the noise of the instrument, and shown to AENet: the curve from
radius to what AENet reports of *this* field is what the series is fitted with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.networks import Evaluator
from semfocus_plugin.optics import NOMINAL_APERTURE

Array = NDArray[Any]

RADII = np.array([0.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 11.0, 15.0, 20.0, 27.0, 36.0])
"""Radii in pixels at which the curve of a field is measured."""

_DRAWS = 3
_SMOOTH = 3.0
_LEVELS = 12
_MAD_OF_NORMAL = 0.6745
_WIDEST_FACTOR = 8.0
"""Apertures from an eighth of the nominal one to eight times as much are considered."""
_SIGMA = 0.08
"""Scatter of what AENet reports, in ln(1 + radius), among frames of one field."""
_OUTLIER = 0.02
_GRID = 161
_PASSES = 3
_HELD = 1e-4
"""A pass looks closer at where the probability is above this share of its peak."""


@dataclass(frozen=True, slots=True)
class ApertureFit:
    """What a focal series shows of the column.

    Parameters
    ----------
    aperture : float
        Radius of the aperture, mm.
    scatter : float
        Standard deviation of `aperture` as a share of it, from the scatter within the series alone.
    working_distance : float
        Working distance of best focus, mm.
    residual : float
        Root mean square deviation of ln(1 + blur radius) from the fit.
    """

    aperture: float
    scatter: float
    working_distance: float
    residual: float


def field_curve(focused: Array, unfocused: Array, evaluate: Evaluator, magnification: float) -> Array:
    """Return ln(1 + blur radius) as AENet reports it of a field blurred by each of `RADII`, shape (12,), never falling.

    Parameters
    ----------
    focused : ndarray of shape (N, H, W)
        Frames in focus, in 0..1, three at least.
    unfocused : ndarray of shape (2, H, W)
        Two frames of one place far from focus, which differ in noise alone.
    evaluate : Evaluator
        Reports the blur.
    magnification : float
        Plain number.
    """
    random = np.random.default_rng(0)
    reference = focused.mean(axis=0)
    deviation = _noise_law(focused)
    # Noise from out of focus, where edges that jitter from frame to frame are not taken for it.
    noise = (unfocused[0] - unfocused[1]) / (math.sqrt(2) * deviation(blur(unfocused.mean(axis=0), _SMOOTH)))
    log_blurs = []
    for radius in RADII:
        seen = blur(reference, float(radius))
        values = []
        for _ in range(_DRAWS):
            # Shifted at random: another frame's noise, with the correlation along the line that detectors give it.
            moved = np.roll(noise, random.integers(0, noise.shape), axis=(0, 1))
            frame = np.clip(seen + deviation(seen) * moved, 0, 1).astype(np.float32)
            values.append(evaluate(frame, magnification).log_blur or 0.0)
        log_blurs.append(float(np.mean(values)))
    return np.maximum.accumulate(np.array(log_blurs))


def _noise_law(frames: Array) -> Callable[[Array], Array]:
    """Return the standard deviation of noise as a function of grey level: counted electrons make bright ground noisier.

    The variance is a straight line through what the frames of one place differ by, level by level.
    """
    level = np.broadcast_to(blur(frames.mean(axis=0), 1.5), frames[1:].shape).ravel()
    difference = (np.diff(frames, axis=0) / math.sqrt(2)).ravel()
    edges = np.quantile(level, np.linspace(0, 1, _LEVELS + 1)[1:-1])
    group = np.searchsorted(edges, level)
    members = [group == k for k in range(_LEVELS) if (group == k).any()]
    means = np.array([level[member].mean() for member in members])
    variances = np.array([(np.median(np.abs(difference[member])) / _MAD_OF_NORMAL) ** 2 for member in members])
    slope, middle = 0.0, float(variances.mean())
    if np.ptp(means) > 1e-6:
        slope = max(0.0, float(np.polyfit(means, variances, 1)[0]))
    least = 0.1 * middle + 1e-12
    return lambda grey: np.sqrt(np.maximum(middle + slope * (grey - means.mean()), least))


def blur(picture: Array, radius: float) -> Array:
    """Return a picture seen through a disc of a radius in pixels, mirrored at its edges."""
    if radius < 1:
        return picture
    margin = math.ceil(radius) + 1
    padded = np.pad(picture, margin, mode="reflect")
    across = np.arange(-margin, margin + 1)
    # The soft edge of one pixel widens the disc a little; its mean square is that of the sharp disc again.
    disc = np.clip(math.sqrt(radius**2 - 5 / 12) + 0.5 - np.hypot(across, across[:, None]), 0, 1)
    kernel = np.zeros_like(padded, dtype=np.float64)
    kernel[: len(across), : len(across)] = disc / disc.sum()
    kernel = np.roll(kernel, (-margin, -margin), axis=(0, 1))
    seen = np.fft.irfft2(np.fft.rfft2(padded) * np.fft.rfft2(kernel), padded.shape)
    return np.asarray(seen[margin:-margin, margin:-margin])


def fit_aperture(
    places: Sequence[float], log_blurs: Sequence[float], pixel: float, curve: Array | None = None
) -> ApertureFit:
    """Fit a focal series at one magnification.

    The two unknowns are laid out on a grid, so that nothing depends on where a search would begin.

    Parameters
    ----------
    places : sequence of float
        Working distances in mm, on both sides of focus.
    log_blurs : sequence of float
        ln(1 + blur radius in pixels) of each frame, as AENet reports it.
    pixel : float
        mm.
    curve : ndarray of shape (12,), optional
        From `field_curve`; without it AENet is taken at its word.
    """
    where, seen = np.asarray(places), np.asarray(log_blurs)
    curve = np.log1p(RADII) if curve is None else curve
    reach = math.log(_WIDEST_FACTOR)
    scales, centres = np.linspace(-reach, reach, _GRID), np.linspace(where.min(), where.max(), _GRID)
    for _ in range(_PASSES):
        log = np.zeros((_GRID, _GRID))
        for place, value in zip(where, seen, strict=True):
            misfit = (np.interp(_radius(scales[:, None], centres, place, pixel), RADII, curve) - value) / _SIGMA
            log += np.log((1 - _OUTLIER) * np.exp(-0.5 * misfit**2) + _OUTLIER / 10)
        weight = np.exp(log - log.max())
        by_scale, by_centre = weight.sum(axis=1), weight.sum(axis=0)
        mean = float(by_scale @ scales / by_scale.sum())
        spread = math.sqrt(float(by_scale @ (scales - mean) ** 2 / by_scale.sum()))
        centre = float(by_centre @ centres / by_centre.sum())
        scales, centres = _closer(scales, by_scale), _closer(centres, by_centre)
    expected = np.interp(_radius(mean, centre, where, pixel), RADII, curve)
    residual = float(np.sqrt(np.mean((seen - expected) ** 2)))
    return ApertureFit(NOMINAL_APERTURE * math.exp(mean), spread * max(1.0, residual / _SIGMA), centre, residual)


def _radius(scale: Any, centre: Any, place: Any, pixel: float) -> Array:
    return np.asarray(NOMINAL_APERTURE * np.exp(scale) * np.abs(centre - place) / (place * pixel))


def _closer(axis: Array, probability: Array) -> Array:
    held = np.flatnonzero(probability > _HELD * probability.max())
    first, last = max(held[0] - 1, 0), min(held[-1] + 1, len(axis) - 1)
    return np.linspace(axis[first], axis[last], len(axis))
