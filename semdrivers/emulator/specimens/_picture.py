"""A user's micrograph as a specimen, mirrored at its edges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.specimens._fields import Array, Window
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.microscope import number

_MEAN_INTENSITY = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture laid on the stage, its centre at stage position (0, 0).

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        Any real or integer dtype, at least 8 × 8.
    pixel_size : float
        nm.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For an array that is no grey picture, or a pixel size that is not above 0.
    """

    pixels: NDArray[Any]
    pixel_size: float
    _levels: list[Array] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        pixels = np.asarray(self.pixels)
        if pixels.ndim != 2 or min(pixels.shape) < 8 or pixels.dtype.kind not in "uifb":
            raise InvalidParameterError(
                f"a specimen picture must be a grey image of at least 8 × 8 pixels, not {pixels.dtype} {pixels.shape}"
            )
        if number("pixel_size", self.pixel_size, "nm") <= 0:
            raise OutOfRangeError(f"pixel_size must be above 0 nm, not {self.pixel_size:g} nm")
        level = pixels.astype(np.float32)
        if not np.isfinite(level).all():
            raise InvalidParameterError("a specimen picture must hold finite numbers only")
        level -= min(float(level.min()), 0.0)
        self._levels.append(level * np.float32(_MEAN_INTENSITY / max(float(level.mean()), 1e-12)))

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        size = self.pixel_size * 1e-3
        octave = 0
        while window.pixel >= 1.5 * size * 2**octave and min(self._level(octave).shape) >= 16:
            octave += 1
        picture = self._level(octave)
        scale = size * 2**octave
        rows, columns = picture.shape
        x = (window.x + window.pixel * np.arange(window.width)) / scale + (columns - 1) / 2
        y = (window.y + window.pixel * np.arange(window.height)) / scale + (rows - 1) / 2
        lines = _interpolate(picture, y, axis=0)
        frame = _interpolate(lines, x, axis=1)
        return np.ascontiguousarray(frame), np.zeros_like(frame)

    def _level(self, octave: int) -> Array:
        """The picture averaged over squares of 2**octave pixels."""
        while len(self._levels) <= octave:
            last = self._levels[-1]
            even = last[: last.shape[0] // 2 * 2, : last.shape[1] // 2 * 2]
            self._levels.append((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4)
        return self._levels[octave]


def _interpolate(picture: Array, position: NDArray[np.float64], axis: int) -> Array:
    """Linear interpolation along one axis, with mirrored edges."""
    count = picture.shape[axis]
    base = np.floor(position).astype(np.int64)
    fraction = (position - base).astype(np.float32)

    def mirrored(index: NDArray[np.int64]) -> NDArray[np.int64]:
        index = index % (2 * count)
        return np.where(index < count, index, 2 * count - 1 - index)

    if axis == 0:
        fraction = fraction[:, None]
    low = picture.take(mirrored(base), axis=axis)
    return low + fraction * (picture.take(mirrored(base + 1), axis=axis) - low)
