"""Whether a sample repeats itself: out of focus a network misreads the blur of one that does.

Where the blur radius is 0.61 periods the disc's transfer vanishes; beyond, the contrast comes back reversed, and the
frame looks like one that is nearly in focus.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.optics._spectra import BEYOND_BINS

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
    height, width = pixels.shape
    top, left = max(0, height - _LARGEST_SIDE) // 2, max(0, width - _LARGEST_SIDE) // 2
    frame = pixels[top : top + _LARGEST_SIDE, left : left + _LARGEST_SIDE].astype(np.float32)
    window, overlap, band, noisy = _geometry(*frame.shape)
    frame -= float((frame * window).sum(dtype=np.float64)) / float(window.sum(dtype=np.float64))
    transform = np.fft.rfft2(frame * window)
    power = transform.real**2 + transform.imag**2
    sample = power - power[noisy].mean(axis=0)
    whole, shown, modes = (
        np.bincount(band.ravel(), each.ravel(), _BANDS + 2) for each in (power, sample, np.ones_like(power))
    )
    # Each frequency counts by the share of the sample there, as far as chance does not explain it.
    weight = np.maximum(shown / np.maximum(whole, 1e-30) - _CHANCE / np.sqrt(np.maximum(modes, 1)), 0.0)
    weight[[0, -1]] = 0.0
    if float(weight @ whole) <= _LEAST_SAMPLE * float(whole[1:-1].sum()):
        return None
    sample = sample * weight[band]
    y, x = (size // 3 for size in frame.shape)
    lags = np.roll(np.fft.irfft2(sample, frame.shape), (y, x), (0, 1))[: 2 * y + 1, : 2 * x + 1]
    lags /= overlap * (lags[y, x] / overlap[y, x])
    down, across = np.mgrid[-y : y + 1, -x : x + 1]
    half = lags[down // 2 + y, across // 2 + x]
    away = np.hypot(down, across)
    inner = lags[1:-1, 1:-1]
    highest = np.zeros(lags.shape, bool)
    highest[1:-1, 1:-1] = np.all(
        [inner >= lags[1 + i : i - 1 or None, 1 + j : j - 1 or None] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0
    )
    repeated = np.where(highest & (away >= _SHORTEST) & (away <= min(y, x)) & (lags - half >= _RISE), lags, 0.0)
    most = float(repeated.max())
    return float(away[repeated >= _SAME * most].min()) if most >= _REPEATS else None


@lru_cache(maxsize=4)
def _geometry(height: int, width: int) -> tuple[NDArray[Any], ...]:
    """Return the window, its overlap with itself by lag, the band of every mode, the lines of noise alone."""
    window = (np.hanning(height)[:, None] * np.hanning(width)).astype(np.float32)
    y, x = height // 3, width // 3
    overlap = np.fft.irfft2(np.abs(np.fft.rfft2(window)) ** 2, window.shape)
    vertical = np.abs(np.fft.fftfreq(height))
    band = np.digitize(np.hypot(vertical[:, None], np.fft.rfftfreq(width)), np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1))
    return window, np.roll(overlap, (y, x), (0, 1))[: 2 * y + 1, : 2 * x + 1], band, vertical > BEYOND_BINS
