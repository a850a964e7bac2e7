"""From secondary electrons to grey levels: shot noise, gain, offset, clipping, line-wise artefacts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.specimens import Array

_GREY_OF_UNIT_SIGNAL = 110.0
_DARK_LEVEL = 8.0
_LEAST_CONTRAST = 0.05


def shot_noise(signal: Array, electrons: float, secondary_yield: float, random: np.random.Generator) -> Array:
    """Replace a noise-free signal by what the arriving secondaries make of it.

    The number of secondaries of a pixel is compound Poisson, of mean λ = signal · n₀ · δ and variance (1 + δ) λ. It
    is drawn as the square of a Gaussian around √λ, which has that mean, that variance and nearly that skewness, in a
    quarter of the time.
    """
    secondaries = electrons * secondary_yield
    spread = np.float32(math.sqrt(1 + secondary_yield) / 2)
    root = np.sqrt(np.maximum(signal, 0) * np.float32(secondaries))
    root += spread * random.standard_normal(signal.shape, dtype=np.float32)
    np.square(root, out=root)
    root -= spread * spread
    root *= np.float32(1 / secondaries)
    return root


def line_noise(height: int, width: int, length: int, random: np.random.Generator) -> Array:
    """Return noise of unit variance that is averaged over `length` pixels along the line: a slow preamplifier."""
    white = random.standard_normal((height, width + length), dtype=np.float32)
    total = np.cumsum(white, axis=1, dtype=np.float64)
    noise: Array = ((total[:, length:] - total[:, :-length]) / math.sqrt(length)).astype(np.float32)
    return noise


def stretched(signal: Array, bits: int) -> NDArray[Any]:
    """Return uint8 or uint16 grey levels of a signal whose 1st and 99th percentile lie at 4 and 96 % of the scale.

    A signal flatter than 5 % of the nominal one is stretched as if it had that contrast.
    """
    low, high = (float(q) for q in np.percentile(signal, [1, 99]))
    spread = max(high - low, _LEAST_CONTRAST)
    top = 255.0 if bits == 8 else 65535.0
    grey = (signal - np.float32((low + high) / 2)) * np.float32(0.92 * top / spread) + np.float32(top / 2 + 0.5)
    return np.clip(grey, 0, np.float32(top)).astype(np.uint8 if bits == 8 else np.uint16)


def gain_of(contrast: float) -> float:
    """Detector gain of a contrast setting: 1 at 0.5, a factor of two for every 0.25."""
    return float(4.0 ** (2 * contrast - 1))


def grey_levels(signal: Array, brightness: float, contrast: float, bits: int) -> NDArray[Any]:
    """Return uint8 or uint16 grey levels of a signal, clipped at both ends."""
    scale = 1.0 if bits == 8 else 257.0
    top = 255.0 * scale
    gain = _GREY_OF_UNIT_SIGNAL * gain_of(contrast) * scale
    offset = (_DARK_LEVEL + 255.0 * (brightness - 0.5)) * scale + 0.5
    grey = signal * np.float32(gain)
    grey += np.float32(offset)
    np.clip(grey, 0, np.float32(top), out=grey)
    return grey.astype(np.uint8 if bits == 8 else np.uint16)
