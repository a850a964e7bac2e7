"""What a change of working distance does to the image besides its focus: it shifts, turns and changes in size."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.physics._optics import FrequencyGrid
from semdrivers.emulator.specimens import Array

# Pixels; the corners of an image that would move less are left where they are, and its sharpness with them
_LEAST = 0.5


def shift(spectrum: NDArray[np.complex64], grid: FrequencyGrid, x: float, y: float) -> None:
    """Shift an image by (x, y) pixels, exactly: its spectrum is changed in place."""
    spectrum *= np.exp(np.complex64(-1j) * grid.kx * np.float32(x))
    spectrum *= np.exp(np.complex64(-1j) * grid.ky * np.float32(y))


def turn(image: Array, angle: float, scale: float) -> Array:
    """Turn an image by `angle` (rad) about its middle, and magnify it by `scale`; its edges are drawn out.

    Bilinear, so a little softer than before: what moves by less than half a pixel is returned as it is.
    """
    height, width = image.shape
    if (abs(angle) + abs(scale - 1)) * math.hypot(height, width) / 2 < _LEAST:
        return image
    across, down = _axes(height, width)
    cosine, sine = np.float32(math.cos(angle) / scale), np.float32(math.sin(angle) / scale)
    x = (cosine * across + np.float32((width - 1) / 2)) + sine * down
    y = (cosine * down + np.float32((height - 1) / 2)) - sine * across
    np.clip(x, 0, np.float32(width - 1.001), out=x)
    np.clip(y, 0, np.float32(height - 1.001), out=y)
    left, top = x.astype(np.int32), y.astype(np.int32)
    x -= left
    y -= top
    place = top * np.int32(width)
    place += left
    flat = image.ravel()
    upper = flat.take(place)
    upper += x * (flat.take(place + 1) - upper)
    place += np.int32(width)
    lower = flat.take(place)
    lower += x * (flat.take(place + 1) - lower)
    lower -= upper
    lower *= y
    upper += lower
    return upper


@functools.lru_cache(maxsize=16)
def _axes(height: int, width: int) -> tuple[Array, Array]:
    """Columns and lines, counted from the middle."""
    across = np.arange(width, dtype=np.float32)[None, :] - np.float32((width - 1) / 2)
    down = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
    return across, down
