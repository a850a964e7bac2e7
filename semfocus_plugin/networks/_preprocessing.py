"""From raw pixels to what the networks see, used unchanged in training and at the instrument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError

MAGNIFICATION_SCALE = 100_000.0
"""Divisor of the magnification in the mag-image and in the state."""

FAST_WIDTH, FAST_HEIGHT = 320, 240
"""Pixels of a line, and lines, of the FAST frame: what AENet sees at once."""

LARGEST = 2048 * 2048
"""Pixels of the largest picture that is looked at as a whole; of larger ones windows are scored."""

_WINDOWS = 6
"""Windows of a large picture along either side."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One picture, preprocessed.

    Parameters
    ----------
    unit : ndarray of shape (H, W), float32
        Median-filtered picture in 0..1, for the metrics; of a large picture its windows, one below the other.
    frames : ndarray of shape (N, 2, H, W), float32
        Input of AENet: the normalised picture and the mag-image. N is 1, or the number of windows of a large picture.
    """

    unit: NDArray[np.float32]
    frames: NDArray[np.float32]


def median3(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the 3×3 median of every pixel, edges replicated.

    A min/max network on shifted views: the columns of the window are sorted once and shared by three windows;
    the median of nine is then the median of (largest minimum, median of medians, least maximum).

    Parameters
    ----------
    pixels : ndarray of shape (..., H, W)
        Any real dtype.

    Returns
    -------
    ndarray of the same shape and dtype
    """
    padded = np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    low, middle, high = _sort3(padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :])
    largest_low = np.maximum(np.maximum(low[..., :-2], low[..., 1:-1]), low[..., 2:])
    least_high = np.minimum(np.minimum(high[..., :-2], high[..., 1:-1]), high[..., 2:])
    median_middle = _median_of_three(middle[..., :-2], middle[..., 1:-1], middle[..., 2:])
    return _median_of_three(largest_low, median_middle, least_high)


def to_unit(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return grey levels in 0..1: uint8 / 255, uint16 / 65535, floating point as it is.

    Raises
    ------
    InvalidParameterError
        For another dtype.
    """
    if pixels.dtype == np.uint8 or pixels.dtype == np.uint16:
        return np.asarray(pixels * np.float32(1.0 / np.iinfo(pixels.dtype).max), dtype=np.float32)
    if np.issubdtype(pixels.dtype, np.floating):
        return np.asarray(pixels, dtype=np.float32)
    raise InvalidParameterError(f"pixels must be uint8, uint16 or floating point in 0..1, not {pixels.dtype}")


def normalise(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (I − μ) / σ over the last two axes (equation 2); zeros for a flat picture."""
    mean = unit.mean(axis=(-2, -1), keepdims=True, dtype=np.float64).astype(np.float32)
    centred = unit - mean
    deviation = np.sqrt(np.mean(np.square(centred), axis=(-2, -1), keepdims=True, dtype=np.float64))
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
    return np.asarray(centred * scale.astype(np.float32), dtype=np.float32)


def preprocess(pixels: NDArray[Any], magnification: float) -> Prepared:
    """Return the median-filtered picture and AENet's input, the median computed once.

    Parameters
    ----------
    pixels : ndarray of shape (H, W) or (N, H, W), uint8 or uint16, or floating point in 0..1
        Raw picture, the whole width of the field scanned, or several, as `windows_of` cuts them from a large one. One
        of less than 240 rows, as the removal of a data bar leaves it, is completed by its mirror image.
    magnification : float
        Plain number.
    """
    scale = mag_image_value(magnification, pixels.shape[-1]) / MAGNIFICATION_SCALE
    unit = to_unit(median3(pixels.reshape(-1, *pixels.shape[-2:])))
    whole = unit.reshape(-1, unit.shape[-1])
    normalised = normalise(whole).reshape(unit.shape)
    missing = FAST_HEIGHT - unit.shape[1]
    if missing > 0:
        normalised = np.pad(normalised, [(0, 0), (0, missing), (0, 0)], mode="reflect")
    frames = np.empty((len(unit), 2, *normalised.shape[1:]), dtype=np.float32)
    frames[:, 0] = normalised
    frames[:, 1] = scale
    return Prepared(whole, frames)


def windows_of(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return windows of a large picture, shape (N, 240, 320): a grid over the whole of it.

    To the networks each is a picture of its own, at the magnification that `mag_image_value` gives for the whole one.
    """
    tops = np.linspace(0, pixels.shape[0] - FAST_HEIGHT, _WINDOWS).astype(int)
    lefts = np.linspace(0, pixels.shape[1] - FAST_WIDTH, _WINDOWS).astype(int)
    return np.stack([pixels[top : top + FAST_HEIGHT, left : left + FAST_WIDTH] for top in tops for left in lefts])


def mag_image_value(magnification: float, width: int) -> float:
    """Return the value of the mag-image for a frame `width` pixels wide.

    It is the magnification at which a frame of 320 pixels has the same pixel: the network sees a window of 320, and
    cannot know how large the frame is that the window comes from.
    """
    return magnification * (width / FAST_WIDTH)


def prepare(pixels: NDArray[Any], magnification: float) -> NDArray[np.float32]:
    """Return AENet's input, shape (1, 2, H, W), float32; see `preprocess`."""
    return preprocess(pixels, magnification).frames


def _sort3(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    low, high = np.minimum(a, b), np.maximum(a, b)
    least = np.minimum(low, c)
    rest = np.maximum(low, c)
    return least, np.minimum(rest, high), np.maximum(rest, high)


def _median_of_three(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c)))
