"""Full scale of grey levels: 10, 12 and 14 bits travel in 16, right or left aligned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError, OutOfRangeError

__all__ = ["check_bit_depth", "full_scale", "in_unit", "native", "saturation"]

_DEPTHS = (10, 12, 14)
_SMALLEST = 511
_MOST_SHIFTED = 8
_BANDS = (0.015, 0.004)
"""Widths of a plateau, as shares of its level: what is subtracted of every pixel widens it, ..."""
_PLATEAU, _HIGHER, _BELOW = 0.005, 4.0, 8
"""... its least share of the pixels, and how many times it is higher than each of so many bands below it."""
_HOT = 0.0005
"""Share of pixels that may be brighter than the plateau: defects of a camera."""


def check_bit_depth(value: object, name: str = "bit_depth") -> int:
    """Return a bit depth as a whole number from 1 to 16.

    Raises
    ------
    InvalidParameterError
        When it is no whole number.
    OutOfRangeError
        When it is outside 1 to 16.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidParameterError(f"{name} must be a whole number from 1 to 16, not {value!r}")
    if not 1 <= value <= 16:
        raise OutOfRangeError(f"{name} must be from 1 to 16, not {value}")
    return int(value)


def full_scale(pixels: NDArray[Any], bit_depth: int | None = None) -> int:
    """Return the grey level at which a detector of that depth saturates.

    Parameters
    ----------
    pixels : ndarray
        Grey levels: unsigned integers, or floating point in 0..1, whose full scale is 1.
    bit_depth : int, optional
        Bits of the detector, where they are known. Else they are detected: a brightest level of 2ⁿ − 1 is a saturated
        one; in 16 bits that leave their lowest bits empty the rest counts (12 bits shifted left by four); otherwise the
        least of 10, 12, 14 and 16 bits that holds all levels counts.

    Returns
    -------
    int
        1023, 4095, 16383 or 65535, shifted left as the levels are; 255 for uint8. Levels above the given depth make the
        whole of the type count.
    """
    if pixels.dtype.kind != "u":
        return 1
    bits = 8 * int(pixels.dtype.itemsize)
    whole = int(2**bits - 1)
    if pixels.size == 0 or (bit_depth is None and bits == 8):
        return whole
    peak = int(pixels.max())
    union = int(np.bitwise_or.reduce(pixels, axis=None))
    empty = (union & -union).bit_length() - 1 if union else 0
    if bit_depth is not None:
        if peak >> bit_depth == 0:
            return int(2**bit_depth - 1)
        return whole >> (bits - bit_depth) << (bits - bit_depth) if empty >= bits - bit_depth else whole
    if peak >= _SMALLEST and peak & (peak + 1) == 0:
        return peak
    if 2 <= empty <= _MOST_SHIFTED and peak >> (bits - 1):
        return whole >> empty << empty
    return next((2**depth - 1 for depth in _DEPTHS if 0 < peak < 2**depth), whole)


def saturation(pixels: NDArray[Any], top: int) -> float:
    """Return the grey level from which pixels count as saturated: full scale, or that of a plateau below it.

    What saturated and then had a dark frame taken off, or was scaled, piles up at a level of its own: the brightest
    one, far more frequent than the levels below it. Noise leaves no such edge in a bright part of a sample.

    Parameters
    ----------
    pixels : ndarray
        Grey levels as for `full_scale`.
    top : int
        Full scale.
    """
    levels, frequencies = pixels.ravel(), None
    if pixels.dtype in (np.uint8, np.uint16):
        frequencies = np.bincount(levels)
        place = (levels.size - 1) * (1 - _HOT)
        pair = np.searchsorted(np.cumsum(frequencies), [math.floor(place), math.ceil(place)], side="right")
        peak, highest = float(np.interp(place % 1.0, (0, 1), pair)), float(len(frequencies) - 1)
        levels = np.arange(len(frequencies))
    else:
        peak, highest = (float(np.quantile(levels, 1 - _HOT)), float(levels.max())) if levels.size else (0.0, 0.0)
    if not 0 < peak < top:
        return top
    step = 1.0 if frequencies is not None else 0.0
    for share in _BANDS:
        edges = peak + step / 2 - max(share * peak, step) * np.arange(_BELOW + 1, -1, -1)
        edges[-1] = max(peak, highest) + step
        counts, _ = np.histogram(levels, edges, weights=frequencies)
        if counts[-1] >= max(_PLATEAU * pixels.size, _HIGHER * counts[:-1].max()):
            return float(edges[-2])
    return top


def in_unit(pixels: NDArray[Any], top: int) -> NDArray[Any]:
    """Return grey levels whose full scale is that of their type.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        uint8, uint16, or floating point.
    top : int
        Level of saturation, from `full_scale`; of no account for floating point.

    Returns
    -------
    ndarray of shape (H, W)
        The pixels themselves where they use the whole of their type, else float32 in 0..1.
    """
    if pixels.dtype.kind != "u" or top >= np.iinfo(pixels.dtype).max:
        return pixels
    unit: NDArray[np.float32] = np.minimum(pixels.astype(np.float32) / np.float32(top), np.float32(1.0))
    return unit


def native(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return pixels in the byte order of this computer: the array itself, or a copy where it has the other one."""
    return pixels if pixels.dtype.isnative else pixels.astype(pixels.dtype.newbyteorder("="))
