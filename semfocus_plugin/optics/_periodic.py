"""Whether a sample repeats itself: out of focus a network misreads the blur of one that does.

Where the blur radius is 0.61 periods the disc's transfer vanishes; beyond, the contrast comes back reversed, and the
frame looks like one that is nearly in focus.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.optics._spectra import BEYOND_BINS, power_of

PLAIN = 0.3
"""Share of the fine contrast that is the sample's, from which a frame of a periodic sample is no reversed contrast."""

_REPEATS = 0.75
"""Correlation of a frame with itself, a period away, from which its sample is periodic; textures have up to 0.5."""
_RISE = 0.3
"""By how much that is more than half a period away, at least: shading and soft edges correlate at any distance."""
_SAME = 0.9
"""Share of the largest correlation from which a shorter distance is the period."""
_LOWEST, _HIGHEST = 1 / 110, 0.4
"""Frequencies of a sample that are compared, cycles a pixel."""
_SHORTEST = 6
"""Pixels of the shortest period."""
_LARGEST_SIDE = 640
_LEAST_SAMPLE = 0.02
"""Share of the power that must be the sample's, and not noise."""
_CHANCE = 2.0
"""Standard deviations of noise in a band of frequencies that are taken off."""
_BANDS = 24

_STANDS_OUT = 20.0
"""Power of a wave over that of the noise from which no noise has it: of 700 frames of noise the largest had 21."""
_ALONE = 3.0
"""The same over all that is around it: shading and edges have neighbours like themselves."""
_AROUND = 12, 4
"""Half-widths of what is around a wave, and of the wave itself, in modes of a frame padded to twice its size."""
_COARSEST = 1 / 40
"""Lowest frequency of a faint wave; lower ones may be shading. Cycles a pixel."""
_LINES = 6
"""Columns of the lowest horizontal frequencies: gain and offset of lines are there."""
_SMOOTH = 17
"""Columns over which the noise is averaged: few lines say how strong it is at each."""


def period_of(pixels: NDArray[Any]) -> float | None:
    """Return the period of a sample that repeats itself, or None.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), any real dtype
        Raw frame. The middle of one that is larger than 640 pixels is taken.

    Returns
    -------
    float or None
        Pixels, from 6 to a third of the smaller side.
    """
    frame = _middle(pixels)
    window, total, band, modes, noisy, lag, overlap, away, within = _geometry(*frame.shape)
    frame -= float((frame * window).sum(dtype=np.float64)) / total
    power = power_of(frame * window)
    sample = power - power[noisy].mean(axis=0)
    whole, shown = (np.bincount(band, each.ravel(), _BANDS + 2) for each in (power, sample))
    # Each frequency counts by the share of the sample there, as far as chance does not explain it.
    weight = np.maximum(shown / np.maximum(whole, 1e-30) - _CHANCE / np.sqrt(np.maximum(modes, 1)), 0.0)
    weight[[0, -1]] = 0.0
    if float(weight @ whole) <= _LEAST_SAMPLE * float(whole[1:-1].sum()):
        return None
    sample *= weight.astype(np.float32).take(band).reshape(sample.shape)
    # Power is real, so a picture correlates with itself as much upwards as downwards
    downwards = np.conj(np.fft.rfft(sample, axis=0)[: frame.shape[0] // 3 + 1])
    lags = np.fft.irfft(downwards, frame.shape[1]).take(lag)
    lags = np.concatenate([lags[:0:-1], lags])
    middle = lags.size // 2
    lags /= overlap * lags[middle]
    found = within[lags[within] >= _SAME * _REPEATS]
    width = 2 * (frame.shape[1] // 3) + 1
    for neighbour in (1, width - 1, width, width + 1):
        found = found[lags[found] >= np.maximum(lags[found + neighbour], lags[found - neighbour])]
    down, across = found // width - middle // width, found % width - width // 2
    found = found[lags[found] - lags[middle + down // 2 * width + across // 2] >= _RISE]
    most = float(lags[found].max(initial=0.0))
    return float(away[found[lags[found] >= _SAME * most]].min()) if most >= _REPEATS else None


def faint_wave(pixels: NDArray[Any]) -> tuple[float, float] | None:
    """Return the period and the power of the wave that stands out most from the noise of a frame, or None.

    Far out of focus a sample that repeats itself shows little, and all of that in one mode of the spectrum.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), any real dtype
        Raw frame. The middle of one that is larger than 640 pixels is taken.

    Returns
    -------
    tuple of float, or None
        Pixels; and the power over that of the noise at such frequencies.
    """
    frame = _middle(pixels)
    window, frequency, noisy, allowed = _padded_geometry(*frame.shape)
    frame -= float((frame * window).sum(dtype=np.float64)) / float(window.sum(dtype=np.float64))
    padded = np.zeros((2 * frame.shape[0], 2 * frame.shape[1]), np.float32)
    padded[: frame.shape[0], : frame.shape[1]] = frame * window
    power = power_of(padded)
    column = np.pad(power[noisy].mean(axis=0), _SMOOTH // 2, mode="edge")
    power /= np.maximum(np.convolve(column, np.full(_SMOOTH, 1 / _SMOOTH), "valid"), 1e-30).astype(np.float32)
    y, x = divmod(int((power * allowed).argmax()), power.shape[1])
    most = float(power[y, x])
    around, own = _AROUND
    rows, first = np.arange(y - around, y + around + 1) % len(power), max(x - around, 0)
    neighbours = power[rows, first : x + around + 1]
    neighbours[around - own : around + own + 1, max(x - own - first, 0) : x + own + 1 - first] = 0.0
    stands_out = allowed[y, x] and most >= _STANDS_OUT and most >= _ALONE * float(neighbours.max())
    return (1 / float(frequency[y, x]), most) if stands_out else None


def _middle(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return a copy of the middle of a frame, no larger than what periods are looked for in."""
    top, left = (max(0, size - _LARGEST_SIDE) // 2 for size in pixels.shape)
    return pixels[top : top + _LARGEST_SIDE, left : left + _LARGEST_SIDE].astype(np.float32)


@lru_cache(maxsize=4)
def _padded_geometry(height: int, width: int) -> tuple[Any, ...]:
    """Return the window of a frame; and of one padded to twice its size frequency, lines of noise, modes of a wave."""
    y, x = (
        np.sin(0.5 * math.pi * np.minimum(1.0, 8 * np.minimum(along, 1 - along))) ** 2
        for along in ((np.arange(size) + 0.5) / size for size in (height, width))
    )
    vertical = np.abs(np.fft.fftfreq(2 * height))
    frequency = np.hypot(vertical[:, None], np.fft.rfftfreq(2 * width))
    allowed = (frequency >= _COARSEST) & (frequency <= _HIGHEST) & (np.arange(frequency.shape[1]) >= _LINES)
    return (y[:, None] * x).astype(np.float32), frequency, vertical > BEYOND_BINS, allowed


@lru_cache(maxsize=4)
def _geometry(height: int, width: int) -> tuple[Any, ...]:
    """Return window and its sum, band of every mode, modes of each, lines of noise alone; and of lags up to a third.

    Of those: where they are in the transform, from no lag on, the overlap of the window with itself over that of no
    lag, their length, and those among which a period may be.
    """
    window = (np.hanning(height)[:, None] * np.hanning(width)).astype(np.float32)
    y, x = height // 3, width // 3
    overlap = np.fft.irfft2(np.abs(np.fft.rfft2(window)) ** 2, window.shape)
    down, across = np.mgrid[-y : y + 1, -x : x + 1]
    lag = (down % height * width + across % width).ravel()
    away = np.hypot(down, across).ravel()
    inside = (np.abs(down) < y) & (np.abs(across) < x)
    vertical = np.abs(np.fft.fftfreq(height))
    frequency = np.hypot(vertical[:, None], np.fft.rfftfreq(width))
    band = np.digitize(frequency, np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1)).ravel()
    return (
        window,
        float(window.sum(dtype=np.float64)),
        band,
        np.bincount(band, minlength=_BANDS + 2),
        vertical > BEYOND_BINS,
        lag[lag.size // 2 :],
        (overlap.take(lag) / overlap[0, 0]).astype(np.float32),
        away,
        np.flatnonzero(inside.ravel() & (away >= _SHORTEST) & (away <= min(y, x))),
    )
