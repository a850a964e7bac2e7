"""Building blocks of procedural specimens: hashed lattices, band-limited noise, scattered objects.

Everything is a function of world coordinates and a seed, so a specimen is infinite and the same place always looks
the same, at any magnification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of float32 throughout; numpy's stubs lose the dtype in mixed arithmetic."""

# Lattice points of a window above which `noise` computes only those beside a pixel. The result is the same but for the
# rounding of sums, so the limit lies above every frame from magnification 100 up.
_MOST_POINTS = 6e6


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the specimen, sampled on pixels.

    Parameters
    ----------
    x, y : float
        Centre of the first pixel, µm.
    pixel : float
        µm.
    width, height : int
        Pixels.
    """

    x: float
    y: float
    pixel: float
    width: int
    height: int

    @property
    def xs(self) -> Array:
        """Column coordinates, µm, relative to `x` (float32 would lose absolute ones)."""
        return np.arange(self.width, dtype=np.float32) * np.float32(self.pixel)

    @property
    def ys(self) -> Array:
        """Line coordinates, µm, relative to `y`."""
        return np.arange(self.height, dtype=np.float32) * np.float32(self.pixel)

    @property
    def size(self) -> tuple[float, float]:
        """Extent (x, y) in µm."""
        return self.width * self.pixel, self.height * self.pixel


def lattice_hash(ix: NDArray[np.int64], iy: NDArray[np.int64], seed: int) -> NDArray[np.uint32]:
    """Hash integer lattice points to uniformly distributed 32-bit words."""
    with np.errstate(over="ignore"):
        h = ix.astype(np.uint32) * np.uint32(0x85EBCA6B) ^ iy.astype(np.uint32) * np.uint32(0xC2B2AE35)
        h ^= np.uint32((seed * 0x9E3779B1) & 0xFFFFFFFF)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            h ^= h >> np.uint32(shift)
            h *= np.uint32(factor)
        return h ^ (h >> np.uint32(16))


def lattice_uniform(ix: NDArray[np.int64], iy: NDArray[np.int64], seed: int) -> Array:
    """Uniform numbers in 0..1 at integer lattice points."""
    return lattice_hash(ix, iy, seed).astype(np.float32) * np.float32(2.0**-32)


def _weights(start: float, pixel: float, count: int, cell: float, *, sparse: bool) -> tuple[NDArray[np.int64], Array]:
    """Lattice indices along one axis, and the (count, lattice) matrix of smooth interpolation weights.

    `sparse` leaves out the indices that no pixel lies beside: with cells far below a pixel, nearly all of them.
    """
    position = (start + pixel * np.arange(count)) / cell
    base = np.floor(position).astype(np.int64)
    t = position - base
    t = t * t * t * (t * (t * 6 - 15) + 10)
    points = np.union1d(base, base + 1) if sparse else np.arange(int(base[0]), int(base[-1]) + 2)
    column = np.searchsorted(points, base)
    matrix = np.zeros((count, points.size), np.float32)
    rows = np.arange(count)
    matrix[rows, column] = 1 - t
    matrix[rows, column + 1] = t
    return points, matrix


def noise(window: Window, cell_x: float, cell_y: float, seed: int) -> Array:
    """Smooth lattice noise of zero mean and about unit variance; `cell_x`, `cell_y` in µm."""
    size_x, size_y = window.size
    sparse = (size_x / cell_x) * (size_y / cell_y) > _MOST_POINTS
    points_x, weights_x = _weights(window.x, window.pixel, window.width, cell_x, sparse=sparse)
    points_y, weights_y = _weights(window.y, window.pixel, window.height, cell_y, sparse=sparse)
    grid = lattice_uniform(*np.meshgrid(points_x, points_y), seed) - np.float32(0.5)
    return np.float32(4.6) * (weights_y @ grid @ weights_x.T)


def rough(window: Window, coarse: float, fine: float, slope: float, seed: int, anisotropy: float = 1.0) -> Array:
    """Noise of many octaves between two lengths (µm): amplitude falls as length**slope; unit variance about.

    Octaves below two pixels are left out: they would alias.
    """
    fine = max(fine, 2 * window.pixel)
    total = np.zeros((window.height, window.width), np.float32)
    power, length, octave = 0.0, coarse, 0
    while length >= fine:
        amplitude = (length / coarse) ** slope
        total += np.float32(amplitude) * noise(window, length * anisotropy, length, seed + 101 * octave)
        power += amplitude**2
        length /= 1.9
        octave += 1
    return total / np.float32(math.sqrt(power)) if power else total


def scattered(window: Window, cell: float, probability: float, reach: float, seed: int) -> Array:
    """Points of a hashed, jittered lattice that can reach into the window.

    Returns
    -------
    ndarray of shape (N, 6), float32
        x, y in µm relative to the window's first pixel, then four uniform numbers for the caller's use.
    """
    ix = np.arange(math.floor((window.x - reach) / cell), math.floor((window.x + window.size[0] + reach) / cell) + 1)
    iy = np.arange(math.floor((window.y - reach) / cell), math.floor((window.y + window.size[1] + reach) / cell) + 1)
    gx, gy = (a.ravel() for a in np.meshgrid(ix, iy))
    present = lattice_uniform(gx, gy, seed) < probability
    gx, gy = gx[present], gy[present]
    u = [lattice_uniform(gx, gy, seed + 7919 * (k + 1)) for k in range(6)]
    x = (gx * cell - window.x).astype(np.float32) + u[0] * np.float32(cell)
    y = (gy * cell - window.y).astype(np.float32) + u[1] * np.float32(cell)
    return np.stack([x, y, *u[2:]], axis=1)


def footprint(window: Window, x: float, y: float, radius: float) -> tuple[slice, slice, Array, Array] | None:
    """Slices of the square of `radius` (µm) about (x, y), with offsets dx (1, w) and dy (h, 1) in µm; None outside."""
    p = window.pixel
    left, right = max(int((x - radius) / p), 0), min(int((x + radius) / p) + 2, window.width)
    top, bottom = max(int((y - radius) / p), 0), min(int((y + radius) / p) + 2, window.height)
    if left >= right or top >= bottom:
        return None
    dx = np.arange(left, right, dtype=np.float32)[None, :] * np.float32(p) - np.float32(x)
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] * np.float32(p) - np.float32(y)
    return slice(top, bottom), slice(left, right), dx, dy


def median(values: Array) -> float:
    """Return the median as `numpy.median` does, to the last bit, at a third of its price for small float32 arrays."""
    flat = values.ravel()
    middle, odd = divmod(flat.size, 2)
    if odd:
        return float(np.partition(flat, middle)[middle])
    ordered = np.partition(flat, (middle - 1, middle))
    return float((ordered[middle - 1] + ordered[middle]) / np.float32(2))


def specks(window: Window, points: Array, radius: Array, tone: Array, intensity: Array) -> None:
    """Lay discs no wider than about a pixel, by area, on the four nearest pixels.

    Parameters
    ----------
    points : ndarray of shape (N, 2)
        x, y in µm relative to the window's first pixel.
    radius, tone : ndarray of shape (N,)
        µm, and intensity of the disc.
    intensity : ndarray of shape (height, width)
        Drawn on in place.
    """
    x, y = points[:, 0] / np.float32(window.pixel), points[:, 1] / np.float32(window.pixel)
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - column, y - row
    area = np.minimum(np.float32(math.pi) * (radius / np.float32(window.pixel)) ** 2, np.float32(1.0))
    cover: Array = np.zeros(intensity.size, np.float32)
    weighted: Array = np.zeros_like(cover)
    for down, right, weight in (
        (0, 0, (1 - fx) * (1 - fy)),
        (0, 1, fx * (1 - fy)),
        (1, 0, (1 - fx) * fy),
        (1, 1, fx * fy),
    ):
        r, c = row + down, column + right
        inside = (r >= 0) & (r < window.height) & (c >= 0) & (c < window.width)
        index = r[inside] * window.width + c[inside]
        share = (area * weight)[inside]
        cover += np.bincount(index, share, cover.size).astype(np.float32)
        weighted += np.bincount(index, share * tone[inside], cover.size).astype(np.float32)
    cover, weighted = cover.reshape(intensity.shape), weighted.reshape(intensity.shape)
    excess = np.maximum(cover, 1)
    intensity *= 1 - cover / excess
    intensity += weighted / excess


def smoothstep(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)
