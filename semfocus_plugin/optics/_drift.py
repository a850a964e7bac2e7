"""How far one picture lies from another, and the drift that several pictures of a run show.

The shift is the maximum of a cross-correlation in which every frequency counts by what both pictures carry of it
(Knapp & Carter, The generalized correlation method for estimation of time delay, IEEE Trans. ASSP 24, 1976): frames of
a run are blurred unequally, and the sharper one shows what the other does not. The uncertainty comes from the phases
that are left. A lens moves the picture too, so the drift is fitted together with a shift by the working distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LOWEST, _HIGHEST, _NOISE = 0.006, 0.35, 0.42
"""Cycles a pixel that count; noise is read off above the last."""
_RINGS, _IN_RING, _FEWEST = 32, 12, 48
"""Rings at most, frequencies in one at least, and frequencies at all."""
_BEFORE_ZERO = 0.85
"""Of the first zero of a disc of radius r, at 0.61 / r cycles a pixel: beyond it contrast is reversed."""
_MOST = 0.95
"""Coherence that is believed at most: frames differ by rotation and magnification too."""
_WINDOW = 1.5
"""Neighbouring frequencies share what a Hann window spreads: variances are this much larger along each axis."""
_CLEAR = 7.0
"""Standard deviations of its noise by which the maximum must stand out."""
_SECOND = 0.7
"""Of the maximum, at which another one makes it ambiguous, as on a periodic sample."""
_BOTH_WAYS = 0.01
"""Of the curvature of the maximum along its sharper axis: what shows one direction alone moves along it unseen."""
_OVERLAP = 0.5
"""Share of each side of the frame that both must show."""
_STEPS = 8
_LENS = 3000.0
"""nm by which a mm of working distance moves the picture, standard deviation: lenses have some 1 to 5 µm."""
_FASTEST = 1000.0
"""nm/s; standard deviation of a drift before anything is seen."""
_MODEL, _TURN = 0.1, 1.0
"""Pixels by which a shift errs besides, and pixels more with every mm of working distance: a lens turns the picture
about its middle, and what is seen may lie beside it."""
_AGREE = 4.0
"""Sum of squares, over their number, from which pictures do not move as lens and drift would have them."""


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much what a picture shows lies beside what another shows.

    Parameters
    ----------
    x, y : float
        Pixels, to the right and downwards.
    covariance : ndarray of shape (2, 2)
        Square pixels.
    """

    x: float
    y: float
    covariance: Array


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture of a run, for `drift_of`.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        Raw frame.
    time : float
        When it was taken, s.
    working_distance : float
        mm.
    blur : float
        Radius of its blur, pixels; 0 where it is not known.
    """

    pixels: NDArray[Any]
    time: float
    working_distance: float
    blur: float


def shift_between(first: NDArray[Any], second: NDArray[Any], blur: float = 0.0) -> Shift | None:
    """Return by how much the second picture lies beside the first, or None where they do not show the same.

    Parameters
    ----------
    first, second : ndarray of shape (H, W)
        Raw frames of one size and magnification.
    blur : float
        Radius of the wider blur of both, pixels.
    """
    height, width = first.shape
    row = column = 0
    for _ in range(2):
        rows, columns = height - abs(row), width - abs(column)
        if rows < _OVERLAP * height or columns < _OVERLAP * width:
            return None
        one = first[max(-row, 0) : max(-row, 0) + rows, max(-column, 0) : max(-column, 0) + columns]
        other = second[max(row, 0) : max(row, 0) + rows, max(column, 0) : max(column, 0) + columns]
        found = _residual_shift(one, other, blur)
        if found is None:
            return None
        shift = Shift(column + found.x, row + found.y, found.covariance)
        if not (round(found.x) or round(found.y)):
            break
        row, column = round(shift.y), round(shift.x)
    return shift


def _residual_shift(first: NDArray[Any], second: NDArray[Any], blur: float) -> Shift | None:
    height, width = first.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    one, other = (_transformed(frame, window) for frame in (first, second))
    ky, kx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    k = np.hypot(ky, kx)
    highest = min(_HIGHEST, _BEFORE_ZERO * 0.61 / blur) if blur > 0 else _HIGHEST
    # Gain of a line changes from line to line: it lies in the column of no horizontal frequency
    used = (k > _LOWEST) & (k < highest) & (kx > 0) & (kx < 0.5)
    if used.sum() < _FEWEST:
        return None
    rings = min(_RINGS, int(used.sum()) // _IN_RING)
    frequency = k[used]
    # Rings between those of equal width and those of equal numbers: the lowest would hold too few frequencies
    by_number = frequency.argsort().argsort() / len(frequency)
    by_width = (frequency - _LOWEST) / (highest - _LOWEST)
    ring = np.minimum(0.5 * rings * (by_number + by_width), rings - 1).astype(np.intp)
    count = np.maximum(np.bincount(ring, minlength=rings), 1)
    power, cross = [], (np.conj(one) * other)[used]
    shared: Array = np.ones(rings)
    for transform in (one, other):
        each = np.square(np.abs(transform))
        noise = float(np.median(each[k > _NOISE])) / math.log(2)
        mean = np.bincount(ring, each[used], minlength=rings) / count
        shared = shared * np.clip(1 - noise / np.maximum(mean, 1e-30), 0.0, 1.0)
        power.append(mean)
    shared = np.minimum(shared, _MOST)
    # Weight of Hannan & Thomson: coherence / (1 − coherence), over the power that both share
    weight = np.sqrt(shared) / (1 - shared) / np.sqrt(np.maximum(power[0] * power[1], 1e-30))
    terms = weight[ring] * cross
    spread = math.sqrt(2 * float(np.square(np.abs(terms)).sum())) * _WINDOW
    if not spread > 0:
        return None
    full = np.zeros(k.shape, complex)
    full[used] = terms
    surface = np.fft.irfft2(full, (height, width)) * (height * width)
    top = np.unravel_index(int(surface.argmax()), surface.shape)
    where = np.array([_signed(int(top[1]), width), _signed(int(top[0]), height)], float)
    waves = 2 * math.pi * np.stack([np.broadcast_to(kx, k.shape)[used], np.broadcast_to(ky, k.shape)[used]])
    start = where.copy()
    for _ in range(_STEPS):
        turned = terms * np.exp(1j * (where @ waves))
        curvature = (waves * turned.real) @ waves.T
        try:
            inverse = np.linalg.inv(curvature)
        except np.linalg.LinAlgError:
            return None
        where = where - inverse @ (waves @ turned.imag)
        if not np.abs(where - start).max() <= 2:
            return None
    turned = terms * np.exp(1j * (where @ waves))
    curvature = (waves * turned.real) @ waves.T
    peak = 2 * float(turned.real.sum())
    least, most = np.linalg.eigvalsh(curvature)
    if not (peak >= _CLEAR * spread and least > _BOTH_WAYS * most):
        return None
    x = _signed(np.arange(width), width)[None, :] - where[0]
    y = _signed(np.arange(height), height)[:, None] - where[1]
    squares = curvature[0, 0] * x * x + 2 * curvature[0, 1] * x * y + curvature[1, 1] * y * y
    beyond = surface[squares > 18 * 0.5 * peak]
    if beyond.size and float(beyond.max()) > _SECOND * peak:
        return None
    inverse = np.linalg.inv(curvature)
    gradient = (waves * np.square(turned.imag)) @ waves.T * _WINDOW**2
    return Shift(float(where[0]), float(where[1]), inverse @ gradient @ inverse)


def _transformed(frame: NDArray[Any], window: Array) -> NDArray[np.complex128]:
    pixels = frame.astype(np.float64)
    pixels -= (pixels * window).sum() / window.sum()
    return np.fft.rfft2(pixels * window)


def _signed(index: Any, length: int) -> Any:
    """Return an index of a cyclic array as a shift to either side."""
    return (index + length // 2) % length - length // 2


def drift_of(frames: Sequence[Frame], pixel: float) -> tuple[float, float, float] | None:
    """Return the drift that pictures of one field show, to the right and downwards, and its standard deviation.

    Parameters
    ----------
    frames : sequence of Frame
        Of one size and magnification, in the order of their times.
    pixel : float
        nm.

    Returns
    -------
    tuple of float or None
        nm/s, nm/s and nm/s; None where too few show the same, where they move as no drift does, or where what was
        drifted from the first to the last is not known to a pixel.
    """
    if len(frames) < 2 or not frames[-1].time > frames[0].time:
        return None
    base = min(frames, key=lambda frame: frame.blur)
    rows, values, weights = [], [], []
    for frame in frames:
        if frame is base:
            continue
        found = shift_between(base.pixels, frame.pixels, max(base.blur, frame.blur))
        if found is None:
            continue
        seconds, lens = frame.time - base.time, frame.working_distance - base.working_distance
        error = _MODEL**2 + (_TURN * lens) ** 2
        precision = np.linalg.inv(found.covariance + error * np.eye(2)) / pixel**2
        rows.append(np.hstack([seconds * np.eye(2), lens * np.eye(2)]))
        values.append(np.array([found.x, found.y]) * pixel)
        weights.append(precision)
    if not rows:
        return None
    prior = np.diag([_FASTEST**-2.0] * 2 + [_LENS**-2.0] * 2)
    inverse = np.linalg.inv(prior + sum(r.T @ w @ r for r, w in zip(rows, weights, strict=True)))
    best = inverse @ sum(r.T @ w @ v for r, w, v in zip(rows, weights, values, strict=True))
    left = [v - r @ best for r, v in zip(rows, values, strict=True)]
    squares = float(best @ prior @ best + sum(e @ w @ e for e, w in zip(left, weights, strict=True)))
    misfit = squares / (2 * len(rows))
    sigma = math.sqrt(float(np.linalg.eigvalsh(inverse[:2, :2])[-1]) * max(misfit, 1.0))
    if misfit > _AGREE or sigma * (frames[-1].time - frames[0].time) > pixel:
        return None
    return float(best[0]), float(best[1]), sigma
