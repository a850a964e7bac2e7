"""From secondary electrons to grey levels: shot noise, gain, offset, clipping, line-wise artefacts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.specimens import Array

_GREY_OF_UNIT_SIGNAL = 110.0
_DARK_LEVEL = 8.0


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
