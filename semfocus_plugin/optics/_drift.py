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
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.optics._spectra import transform_of

Array = NDArray[np.float64]

_LOWEST, _HIGHEST, _NOISE = 0.006, 0.35, 0.42
"""Cycles a pixel that count; noise is read off above the last."""
_RINGS, _IN_RING, _FEWEST = 32, 12, 48
"""Rings at most, frequencies in one at least, and frequencies at all."""
_FINE = 8192
"""Rings of equal area that frequencies are counted in."""
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
_STEPS, _SETTLED = 8, 1e-4
"""Steps of Newton's method at most, and pixels of one that is the last."""
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
    return _shift(first, second, blur, {})


def _shift(first: NDArray[Any], second: NDArray[Any], blur: float, known: dict[tuple[int, ...], Any]) -> Shift | None:
    """Return what `shift_between` does; transforms of parts of the first picture are kept in `known`."""
    height, width = first.shape
    row = column = 0
    for _ in range(2):
        rows, columns = height - abs(row), width - abs(column)
        if rows < _OVERLAP * height or columns < _OVERLAP * width:
            return None
        rows, columns = _quick(rows), _quick(columns)
        one = first[max(-row, 0) : max(-row, 0) + rows, max(-column, 0) : max(-column, 0) + columns]
        other = second[max(row, 0) : max(row, 0) + rows, max(column, 0) : max(column, 0) + columns]
        key = max(-row, 0), max(-column, 0), rows, columns
        if key not in known:
            known[key] = _transformed(one)
        found = _residual_shift(known[key], _transformed(other), blur, (rows, columns))
        if found is None:
            return None
        shift = Shift(column + found.x, row + found.y, found.covariance)
        if not (round(found.x) or round(found.y)):
            break
        row, column = round(shift.y), round(shift.x)
    return shift


@lru_cache(maxsize=256)
def _quick(length: int) -> int:
    """Return the largest length up to that one without prime factors above 13: others take a transform four times."""
    rest = length
    for factor in (2, 3, 5, 7, 11, 13):
        while rest % factor == 0:
            rest //= factor
    return length if rest == 1 else _quick(length - 1)


def _residual_shift(one: Any, other: Any, blur: float, shape: tuple[int, int]) -> Shift | None:
    height, width = shape
    ky, kx = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    square = (ky * ky)[:, None] + kx * kx
    highest = min(_HIGHEST, _BEFORE_ZERO * 0.61 / blur) if blur > 0 else _HIGHEST
    # Gain of a line changes from line to line: it lies in the column of no horizontal frequency
    used = np.flatnonzero((square > _LOWEST**2) & (square < highest**2) & (kx > 0))
    number = len(used)
    if number < _FEWEST:
        return None
    rings, within = min(_RINGS, number // _IN_RING), square.take(used)
    # Rings between those of equal width and those of equal numbers: the lowest would hold too few frequencies
    fine = (within * (_FINE / highest**2)).astype(np.intp)
    by_number = np.cumsum(np.bincount(fine, minlength=_FINE))[fine] / number
    by_width = (np.sqrt(within) - _LOWEST) / (highest - _LOWEST)
    ring = np.minimum(0.5 * rings * (by_number + by_width), rings - 1).astype(np.intp)
    count = np.maximum(np.bincount(ring, minlength=rings), 1)
    power = []
    shared: Array = np.ones(rings)
    beyond = np.flatnonzero(square > _NOISE**2)
    for transform in (one, other):
        each = transform.real**2 + transform.imag**2
        noise = _median(each.take(beyond)) / math.log(2)
        mean = np.bincount(ring, each.take(used), minlength=rings) / count
        shared = shared * np.clip(1 - noise / np.maximum(mean, 1e-30), 0.0, 1.0)
        power.append(mean)
    shared = np.minimum(shared, _MOST)
    # Weight of Hannan & Thomson: coherence / (1 − coherence), over the power that both share
    weight = np.sqrt(shared) / (1 - shared) / np.sqrt(np.maximum(power[0] * power[1], 1e-30))
    terms = np.zeros(square.shape, np.complex64)
    terms.ravel()[used] = weight.astype(np.float32).take(ring) * np.conj(one.take(used)) * other.take(used)
    spread = math.sqrt(2 * float(np.vdot(terms, terms).real)) * _WINDOW
    if not spread > 0:
        return None
    rows, columns = np.flatnonzero(np.abs(ky) < highest), np.flatnonzero(kx < highest)
    surface = np.fft.irfft(np.fft.ifft(terms[:, columns], axis=0), width) * (height * width)
    top = np.unravel_index(int(surface.argmax()), surface.shape)
    start = where = np.array([_signed(int(top[1]), width), _signed(int(top[0]), height)], float)
    terms, waves = terms[np.ix_(rows, columns)], (2 * math.pi * kx[columns], 2 * math.pi * ky[rows])
    for _ in range(_STEPS):
        turned, curvature = _turned(terms, waves, where)
        try:
            inverse = np.linalg.inv(curvature)
        except np.linalg.LinAlgError:
            return None
        step = inverse @ [turned.imag.sum(axis=0) @ waves[0], turned.imag.sum(axis=1) @ waves[1]]
        where = where - step
        if not np.abs(where - start).max() <= 2:
            return None
        if np.abs(step).max() < _SETTLED:
            break
    turned, curvature = _turned(terms, waves, where)
    peak = 2 * float(turned.real.sum())
    least, most = np.linalg.eigvalsh(curvature)
    if not (peak >= _CLEAR * spread and least > _BOTH_WAYS * most):
        return None
    y, x = np.nonzero(surface > _SECOND * peak)
    x, y = _signed(x, width) - where[0], _signed(y, height) - where[1]
    squares = curvature[0, 0] * x * x + 2 * curvature[0, 1] * x * y + curvature[1, 1] * y * y
    if np.any(squares > 18 * 0.5 * peak):
        return None
    inverse = np.linalg.inv(curvature)
    gradient = _moments(np.square(turned.imag), waves) * _WINDOW**2
    return Shift(float(where[0]), float(where[1]), inverse @ gradient @ inverse)


def _turned(terms: Any, waves: tuple[Any, Any], where: Array) -> tuple[Any, Array]:
    """Return the terms of a cross-correlation at a shift, and its curvature there."""
    along, down = (np.exp(1j * place * wave).astype(np.complex64) for place, wave in zip(where, waves, strict=True))
    turned = terms * along * down[:, None]
    return turned, _moments(turned.real, waves)


def _moments(weight: Any, waves: tuple[Any, Any]) -> Array:
    """Return the second moments of waves, shape (2, 2)."""
    kx, ky = waves
    mixed = ky @ weight @ kx
    return np.array([[weight.sum(axis=0) @ (kx * kx), mixed], [mixed, weight.sum(axis=1) @ (ky * ky)]])


def _transformed(frame: NDArray[Any]) -> Any:
    window, total = _window(*frame.shape)
    pixels = frame.astype(np.float32)
    pixels -= np.float32(float((pixels * window).sum(dtype=np.float64)) / total)
    pixels *= window
    transform = transform_of(pixels)
    transform *= np.float32(pixels.size)
    return transform


@lru_cache(maxsize=4)
def _window(height: int, width: int) -> tuple[Any, float]:
    """Return a window of that shape, and its sum."""
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    return window, float(window.sum(dtype=np.float64))


def _median(values: Any) -> float:
    """Return what `numpy.median` does, at a fifth of its price for many."""
    middle = len(values) // 2
    ordered = np.partition(values, middle)
    return float(ordered[middle] if len(values) % 2 else (ordered[:middle].max() + ordered[middle]) / 2)


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
    known: dict[tuple[int, ...], Any] = {}
    rows, values, weights = [], [], []
    for frame in frames:
        if frame is base:
            continue
        found = _shift(base.pixels, frame.pixels, max(base.blur, frame.blur), known)
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
