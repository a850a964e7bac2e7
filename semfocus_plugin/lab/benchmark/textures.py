"""Sharp samples for the simulated columns of the benchmark: periodic ones, random ones, and crops of micrographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.lab.benchmark.pictures import Picture

__all__ = ["PERIODIC", "crop", "periodic", "random_texture", "sample_for"]

_Array = NDArray[np.float32]

_FINER = 3
"""Samples a pixel along each axis; edges of drawn samples are averaged over them."""


def crop(picture: Picture, shape: tuple[int, int], random: np.random.Generator) -> _Array:
    """Return a piece of a micrograph in 0 to 1, mirrored at its edges, flipped or transposed at random.

    Parameters
    ----------
    picture : Picture
        A sharp micrograph; every second of its pixels is averaged away where it is large enough.
    shape : tuple of int
        Lines and pixels along a line.
    random : numpy.random.Generator
        Draws place and orientation.
    """
    pixels = picture.pixels.astype(np.float32)
    if min(pixels.shape[0] // 2 - shape[0], pixels.shape[1] // 2 - shape[1]) >= 0:
        height, width = (size // 2 * 2 for size in pixels.shape)
        pixels = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    if random.random() < 0.5:
        pixels = pixels.T
    pixels = pixels[:: 1 if random.random() < 0.5 else -1, :: 1 if random.random() < 0.5 else -1]
    spare = [max(wanted - size, 0) for wanted, size in zip(shape, pixels.shape, strict=True)]
    if any(spare):
        pixels = np.pad(pixels, [(each // 2, each - each // 2) for each in spare], mode="symmetric")
    top, left = (int(random.integers(size - wanted + 1)) for size, wanted in zip(pixels.shape, shape, strict=True))
    piece = pixels[top : top + shape[0], left : left + shape[1]]
    low, high = np.percentile(piece, (0.5, 99.5))
    return np.asarray((piece - low) / max(float(high - low), 1e-6), dtype=np.float32).clip(0, 1)


def random_texture(shape: tuple[int, int], random: np.random.Generator) -> _Array:
    """Return grains of many sizes with bright edges over an uneven ground, in 0 to 1."""
    height, width = shape
    sample = 0.3 + 0.08 * _cloud(shape, 1.5, random)
    grid = np.arange(height)[:, None], np.arange(width)[None, :]
    for _ in range(int(random.integers(60, 400))):
        y, x = random.uniform(0, height), random.uniform(0, width)
        radius = float(np.exp(random.uniform(math.log(1.2), math.log(22.0))))
        reach = math.ceil(radius) + 2
        top, bottom = max(int(y) - reach, 0), min(int(y) + reach + 1, height)
        left, right = max(int(x) - reach, 0), min(int(x) + reach + 1, width)
        squeeze, turn = random.uniform(0.5, 1.0), random.uniform(0, math.pi)
        dy, dx = grid[0][top:bottom] - y, grid[1][:, left:right] - x
        along, across = dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)
        inside = radius - np.hypot(along, across / squeeze)
        level = random.uniform(0.35, 0.9) + 0.3 * np.exp(-np.abs(inside) / 1.2)
        cover = np.clip(inside + 0.5, 0, 1)
        piece = sample[top:bottom, left:right]
        piece += cover * (level - piece)
    return np.asarray(sample + 0.03 * _cloud(shape, 0.7, random), dtype=np.float32).clip(0, 1)


def _cloud(shape: tuple[int, int], slope: float, random: np.random.Generator) -> _Array:
    """Return noise of unit deviation whose amplitude falls with frequency to the power `slope`."""
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    frequency[0, 0] = 1.0
    waves = np.fft.rfft2(random.normal(size=shape)) / frequency**slope
    waves[0, 0] = 0.0
    cloud = np.fft.irfft2(waves, shape)
    return np.asarray(cloud / cloud.std(), dtype=np.float32)


def periodic(kind: str, shape: tuple[int, int], random: np.random.Generator) -> _Array:
    """Return a periodic sample in 0 to 1: period 6 to 100 pixels, any direction, with defects in half of them.

    Parameters
    ----------
    kind : str
        Key of `PERIODIC`.
    shape : tuple of int
        Lines and pixels along a line.
    random : numpy.random.Generator
        Draws period, direction, duty, contrast and defects.
    """
    period, turn = float(np.exp(random.uniform(math.log(6.0), math.log(100.0)))), random.uniform(0, math.pi)
    height, width = shape
    y = (np.arange(height * _FINER) + 0.5)[:, None] / _FINER - height / 2
    x = (np.arange(width * _FINER) + 0.5)[None, :] / _FINER - width / 2
    u = ((x * math.cos(turn) + y * math.sin(turn)) / period + random.random()).astype(np.float32)
    v = ((y * math.cos(turn) - x * math.sin(turn)) / period + random.random()).astype(np.float32)
    fine = PERIODIC[kind](u, v, random)
    sample = fine.reshape(height, _FINER, width, _FINER).mean(axis=(1, 3))
    if random.random() < 0.5:
        _defects(sample, random)
    low = random.uniform(0.1, 0.4)
    return np.asarray(low + random.uniform(0.25, 0.9 - low) * sample, dtype=np.float32)


def _grating(u: _Array, v: _Array, random: np.random.Generator) -> _Array:
    return (u % 1.0 < random.uniform(0.3, 0.7)).astype(np.float32) + 0 * v


def _mesh(u: _Array, v: _Array, random: np.random.Generator) -> _Array:
    bar = random.uniform(0.15, 0.4)
    return ((u % 1.0 < bar) | (v % 1.0 < bar)).astype(np.float32)


def _dots(u: _Array, v: _Array, random: np.random.Generator) -> _Array:
    radius = random.uniform(0.2, 0.4)
    return np.asarray(np.hypot(u % 1.0 - 0.5, v % 1.0 - 0.5) < radius, np.float32)


def _bricks(u: _Array, v: _Array, random: np.random.Generator) -> _Array:
    row = np.floor(v)
    along, joint = (0.5 * u + 0.5 * (row % 2)) % 1.0, random.uniform(0.06, 0.15)
    return np.asarray((along > joint / 2) & (v % 1.0 > joint), dtype=np.float32)


def _chip(u: _Array, v: _Array, random: np.random.Generator) -> _Array:
    """Cells that repeat, each with the same random pads and lines of two levels."""
    pads = random.random((6, 6)) < 0.45
    levels = random.uniform(0.4, 1.0, (6, 6)).astype(np.float32)
    cell = np.where(pads, levels, np.float32(0.0))
    row, column = (np.minimum((along % 1.0 * 6).astype(np.int32), 5) for along in (v, u))  # a rounded 1 is the last
    return np.asarray(cell[row, column])


PERIODIC: Mapping[str, Callable[[_Array, _Array, np.random.Generator], _Array]] = MappingProxyType(
    {"grating": _grating, "mesh": _mesh, "dots": _dots, "bricks": _bricks, "chip": _chip}
)
"""Periodic samples by name, as functions of two coordinates in periods."""


def _defects(sample: _Array, random: np.random.Generator) -> None:
    """Put specks and scratches onto a sample, in place."""
    height, width = sample.shape
    for _ in range(int(random.integers(2, 20))):
        radius = int(random.integers(1, 6))
        y, x = int(random.integers(radius, height - radius)), int(random.integers(radius, width - radius))
        sample[y - radius : y + radius, x - radius : x + radius] = random.random()


def sample_for(pictures: Sequence[Picture], number: int, shape: tuple[int, int], random: np.random.Generator) -> Any:
    """Return a crop of a micrograph for every second number, where there are micrographs, else a random texture."""
    if pictures and number % 2 == 0:
        return crop(pictures[(number // 2) % len(pictures)], shape, random)
    return random_texture(shape, random)
