"""Procedural textures to train on: many kinds of surface, none of them one of the named specimens.

A texture is a picture of a few hundred pixels, composed at random from grains, shapes, fibres, stripes, particles,
cracks and cloudy fields of every size. It is laid under the emulator's beam as a user's micrograph would be.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.specimens import Window, footprint, lattice_uniform, noise, rough

__all__ = ["Array", "Generator", "log_uniform", "texture"]

Array = NDArray[Any]
"""float32 throughout; numpy's stubs lose the dtype in mixed arithmetic."""
Generator = np.random.Generator
"""Source of random numbers."""


def texture(random: Generator, width: int = 640, height: int = 480) -> Array:
    """Return a random texture, shape (height, width), float32, mean about 1, never negative."""
    window = Window(float(random.integers(0, 10_000)), 0.0, 1.0, width, height)
    picture = _pick(random, _GROUNDS)(window, random)
    for _ in range(random.integers(0, 4)):
        _pick(random, _OVERLAYS)(window, random, picture)
    picture -= picture.mean()
    picture /= picture.std() + np.float32(1e-6)
    spread = math.exp(random.uniform(math.log(0.06), math.log(0.5)))
    picture = np.tanh(picture / 3) * np.float32(3)
    if random.random() < 0.15:
        picture = -picture
    return np.maximum(1 + np.float32(spread) * picture, np.float32(0.02)).astype(np.float32)


def _pick(random: Generator, choices: list[Callable[..., Array]]) -> Callable[..., Array]:
    return choices[int(random.integers(len(choices)))]


def log_uniform(random: Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform between those of two limits."""
    return float(math.exp(random.uniform(math.log(low), math.log(high))))


def _seed(random: Generator) -> int:
    return int(random.integers(1 << 30))


# Grounds: fill the picture


def _clouds(window: Window, random: Generator) -> Array:
    coarse = log_uniform(random, 6, 200)
    field = rough(window, coarse, 2, random.uniform(0.1, 1.1), _seed(random), log_uniform(random, 0.25, 4))
    kind = random.integers(5)
    if kind == 0:
        return field
    if kind == 1:
        return np.tanh(field * np.float32(log_uniform(random, 2, 30)))
    if kind == 2:
        return np.exp(-np.abs(field) * np.float32(log_uniform(random, 2, 15)))
    if kind == 3:
        return np.exp(field * np.float32(random.uniform(0.5, 1.2)))
    return np.abs(field)


def _grains(window: Window, random: Generator) -> Array:
    """Voronoi cells: a tone each, dark or bright boundaries, perhaps a texture inside."""
    cell = log_uniform(random, 5, 120)
    stretch = log_uniform(random, 0.4, 2.5)
    seed = _seed(random)
    warp = random.uniform(0, 0.4) * cell
    x = (window.xs[None, :] + warp * noise(window, cell, cell, seed + 1)) / (cell * stretch)
    y = (window.ys[:, None] + warp * noise(window, cell, cell, seed + 2)) / cell
    ix, iy = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    columns, rows = np.arange(ix.min() - 1, ix.max() + 2), np.arange(iy.min() - 1, iy.max() + 2)
    lattice = np.meshgrid(columns, rows)
    along, down, tones = (lattice_uniform(*lattice, seed + k).ravel() for k in (3, 4, 5))
    along, down = along + lattice[0].ravel().astype(np.float32), down + lattice[1].ravel().astype(np.float32)
    here = (iy - rows[0]) * columns.size + (ix - columns[0])
    nearest = np.full(x.shape, 9.0, np.float32)
    second = nearest.copy()
    tone = np.zeros_like(nearest)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            cell_number = here + (dy * columns.size + dx)
            distance = (along.take(cell_number) - x) ** 2 + (down.take(cell_number) - y) ** 2
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            np.copyto(tone, tones.take(cell_number), where=closer)
            np.copyto(nearest, distance, where=closer)
    boundary = (np.sqrt(second) - np.sqrt(nearest)) * np.float32(cell)
    line = np.exp(-((boundary / np.float32(log_uniform(random, 0.8, 4))) ** 2))
    inside = rough(window, cell, 2, 0.5, seed + 6) * np.float32(random.uniform(0, 0.3))
    relief = np.float32(random.uniform(0, 1)) * np.sqrt(nearest)
    return tone * np.float32(random.uniform(0.2, 1)) + np.float32(random.uniform(-1, 1)) * line + inside - relief


def _stripes(window: Window, random: Generator) -> Array:
    pitch = log_uniform(random, 2.2, 60)
    angle = random.uniform(0, math.pi)
    warp = random.uniform(0, 2) * pitch * noise(window, 20 * pitch, 12 * pitch, _seed(random))
    along = window.xs[None, :] * math.cos(angle) + window.ys[:, None] * math.sin(angle) + warp
    phase = np.sin(along * np.float32(2 * math.pi / pitch))
    if random.random() < 0.4:
        across = window.ys[:, None] * math.cos(angle) - window.xs[None, :] * math.sin(angle) + warp
        other = np.sin(across * np.float32(2 * math.pi / (pitch * log_uniform(random, 0.5, 3))))
        phase = np.maximum(phase, other) if random.random() < 0.5 else phase * other
    sharp = np.tanh((phase - random.uniform(-0.7, 0.7)) * np.float32(log_uniform(random, 1, 15)))
    return (sharp + np.float32(random.uniform(0.1, 0.6)) * _clouds(window, random)).astype(np.float32)


def _lattice(window: Window, random: Generator) -> Array:
    """Dots or holes, row by row, at places that are periodic up to a warp: their image can look sharp twice."""
    pitch = log_uniform(random, 4, 50)
    stretch = log_uniform(random, 0.6, 1.6)
    angle = random.uniform(0, math.pi)
    warp = random.uniform(0, 0.8) * pitch
    x = window.xs[None, :] + warp * noise(window, 8 * pitch, 8 * pitch, _seed(random))
    y = window.ys[:, None] + warp * noise(window, 8 * pitch, 8 * pitch, _seed(random))
    along = (x * math.cos(angle) + y * math.sin(angle)) / np.float32(pitch)
    across = (y * math.cos(angle) - x * math.sin(angle)) / np.float32(pitch * stretch)
    along = along + np.float32(0.5 * random.integers(2)) * (np.floor(across) % 2)
    dx, dy = along - np.floor(along) - 0.5, across - np.floor(across) - 0.5
    distance = np.sqrt(dx * dx + (dy * np.float32(stretch)) ** 2)
    radius = random.uniform(0.15, 0.5) * min(1.0, stretch)
    body = np.clip((radius - distance) * np.float32(pitch / log_uniform(random, 0.7, 4)) + np.float32(0.5), 0, 1)
    tone = np.float32(random.choice([-1.0, 1.0])) * body
    return (tone + np.float32(random.uniform(0.05, 0.5)) * _clouds(window, random)).astype(np.float32)


def _plain(window: Window, random: Generator) -> Array:
    return np.float32(0.05) * rough(window, 100, 2, 0.6, _seed(random))


def _regular(window: Window, random: Generator) -> Array:
    """Grating, mesh, array of dots, or bricks: strictly periodic, perhaps with defects and a little dirt."""
    pitch = log_uniform(random, 6, 100)
    other = pitch * log_uniform(random, 0.4, 2.5)
    angle = random.uniform(0, math.pi)
    x, y = window.xs[None, :], window.ys[:, None]
    along = (x * math.cos(angle) + y * math.sin(angle)) / np.float32(pitch) + np.float32(random.random())
    across = (y * math.cos(angle) - x * math.sin(angle)) / np.float32(other) + np.float32(random.random())
    kind = int(random.integers(4))
    if kind == 3:
        along = along + np.float32(0.5) * (np.floor(across) % 2)
    row, column = np.floor(across), np.floor(along)
    dx, dy = np.abs(along - column - 0.5) * np.float32(pitch), np.abs(across - row - 0.5) * np.float32(other)
    soft = np.float32(1 / log_uniform(random, 0.7, 2.5))
    share = random.uniform(0.12, 0.45)
    bar_x = np.clip((np.float32(share * pitch) - dx) * soft + np.float32(0.5), 0, 1)
    bar_y = np.clip((np.float32(share * other) - dy) * soft + np.float32(0.5), 0, 1)
    if kind == 0:
        body = bar_x
    elif kind == 1:
        body = np.maximum(bar_x, bar_y)
    elif kind == 2 and random.random() < 0.6:
        radius = share * min(pitch, other)
        body = np.clip((np.float32(radius) - np.sqrt(dx * dx + dy * dy)) * soft + np.float32(0.5), 0, 1)
    else:
        body = bar_x * bar_y
    if kind >= 2 and random.random() < 0.5:
        cell = lattice_uniform(column.astype(np.int64), row.astype(np.int64), _seed(random))
        body = body * np.where(cell < random.uniform(0, 0.15), np.float32(random.uniform(0, 0.7)), np.float32(1))
    dirt = np.float32(random.choice([0.0, 0.02, 0.1, 0.3])) * _clouds(window, random)
    return (np.float32(random.choice([-1.0, 1.0])) * body + dirt).astype(np.float32)


def _lamellae(window: Window, random: Generator) -> Array:
    """Plates laid over one another, each with ridges of its own, nearly the same direction or any, and a rim."""
    pitch = log_uniform(random, 2.2, 40)
    main, spread = random.uniform(0, math.pi), log_uniform(random, 0.03, 2)
    size = log_uniform(random, max(12, 2 * pitch), 300)
    warp = random.uniform(0, 0.6) * pitch * noise(window, 14 * pitch, 14 * pitch, _seed(random))
    thickness, rim = log_uniform(random, 0.12, 0.5), random.uniform(0, 1.2)
    ribs, rib_pitch = random.uniform(0, 0.8) * (random.random() < 0.5), pitch * log_uniform(random, 0.25, 1.5)
    picture = np.float32(0.3) * _clouds(window, random)
    count = int(min(250, max(1, 1.5 * window.width * window.height / size**2)))
    for _ in range(count):
        patch = footprint(window, random.uniform(0, window.width), random.uniform(0, window.height), 1.3 * size)
        if patch is None:
            continue
        rows, columns, dx, dy = patch
        angle = main + spread * random.normal()
        across = dx * math.cos(angle) + dy * math.sin(angle)
        along = dy * math.cos(angle) - dx * math.sin(angle)
        outline = np.maximum(np.abs(across) / np.float32(0.7 * size), np.abs(along) / np.float32(size))
        outline = np.maximum(outline, np.sqrt(across**2 + along**2) / np.float32(1.05 * size))
        phase = (across + warp[rows, columns]) / np.float32(pitch) + np.float32(random.random())
        off = np.abs(phase - np.round(phase))
        ridge = np.exp(-((off * np.float32(1 / (thickness * max(1.0, 1.5 / pitch)))) ** 2))
        tone: Array = np.float32(0.4 * random.normal()) + ridge
        if ribs:
            place = along / np.float32(rib_pitch) + np.round(phase) * np.float32(0.37)
            bar = np.exp(-((np.abs(place - np.round(place)) * 4) ** 2))
            tone = tone + np.float32(ribs) * bar * (1 - ridge)
        tone = tone + np.float32(rim) * np.exp(-(((1 - outline) * np.float32(size / 2)) ** 2))
        np.copyto(picture[rows, columns], tone.astype(np.float32), where=outline < 1)
    return picture


def _leaves(window: Window, random: Generator) -> Array:
    """Opaque shapes, one over another, of sizes that follow a power law."""
    picture = np.float32(0.3) * _clouds(window, random)
    smallest, largest = log_uniform(random, 1.2, 8), log_uniform(random, 25, 140)
    exponent = random.uniform(1.5, 2.8)
    count = int(min(1200, 0.7 * window.width * window.height / (smallest * largest) * random.uniform(0.3, 1)))
    u = random.random(count)
    a, b = smallest ** (1 - exponent), largest ** (1 - exponent)
    sizes = np.sort((a + (b - a) * u) ** (1 / (1 - exponent)))[::-1]
    if random.random() < 0.5:
        random.shuffle(sizes)
    kind = int(random.integers(4))
    for size in sizes:
        _shape(window, random, picture, float(size), kind)
    return picture


# Overlays: add to the picture in place


def _shape(window: Window, random: Generator, picture: Array, size: float, kind: int) -> None:
    """One opaque shape: ball, disc, rod or polygon, with shading and a bright edge."""
    x, y = random.uniform(0, window.width), random.uniform(0, window.height)
    stretch = math.exp(random.uniform(-0.6, 0.6)) if kind != 2 else log_uniform(random, 1.5, 4)
    patch = footprint(window, x, y, size * max(stretch, 1 / stretch))
    if patch is None:
        return
    rows, columns, dx, dy = patch
    angle = random.uniform(0, math.pi)
    along = (dx * math.cos(angle) + dy * math.sin(angle)) / np.float32(size * stretch)
    across = (dy * math.cos(angle) - dx * math.sin(angle)) / np.float32(size / stretch)
    if kind == 3:
        sides = int(random.integers(3, 7))
        turn = 2 * math.pi / sides
        distance = np.max(
            [along * math.cos(k * turn) + across * math.sin(k * turn) for k in range(sides)], axis=0
        ) * np.float32(1.3)
    else:
        distance = np.sqrt(along * along + across * across)
    softness = np.float32(max(0.7 / size, 1e-3))
    body = np.clip((1 - distance) / softness + np.float32(0.5), 0, 1)
    tone = random.normal(0, 0.7) + random.normal(0, 0.3) * along
    if kind == 0:
        tone = tone + 0.25 / (np.sqrt(np.maximum(1 - distance**2, 0)) + 0.25)
    else:
        tone = tone + random.uniform(-0.3, 1.0) * np.exp(-(((1 - distance) * size / random.uniform(0.8, 3)) ** 2))
    target = picture[rows, columns]
    target += body * (tone - target)


def _particles(window: Window, random: Generator, picture: Array) -> Array:
    kind = int(random.integers(4))
    low, high = log_uniform(random, 1.0, 6), log_uniform(random, 6, 40)
    for _ in range(int(log_uniform(random, 4, 300))):
        _shape(window, random, picture, log_uniform(random, low, high), kind)
    return picture


def _fibres(window: Window, random: Generator, picture: Array) -> Array:
    """Curved fibres with edge-bright round profiles."""
    width = log_uniform(random, 1.0, 18)
    main, spread = random.uniform(0, math.pi), random.uniform(0.05, 1.6)
    x, y = window.xs[None, :], window.ys[:, None]
    for _ in range(int(min(40, log_uniform(random, 3, 500 / width)))):
        angle = main + spread * random.normal()
        cx, cy = random.uniform(0, window.width), random.uniform(0, window.height)
        along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        across = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        across = across + np.float32(random.normal(0, 6e-4)) * along**2
        radius = width * random.uniform(0.6, 1.5)
        distance = np.abs(across) / np.float32(radius)
        body = np.clip((1 - distance) * np.float32(radius / 0.7) + np.float32(0.5), 0, 1)
        edge = 0.3 / (np.sqrt(np.maximum(1 - distance**2, 0)) + 0.3)
        tone = random.normal(0.3, 0.5) + edge
        picture += body * (tone.astype(np.float32) - picture)
    return picture


def _cracks(window: Window, random: Generator, picture: Array) -> Array:
    length = log_uniform(random, 10, 150)
    field = rough(window, length, 4, random.uniform(0.8, 1.3), _seed(random), log_uniform(random, 0.3, 3))
    width = log_uniform(random, 0.5, 4) / length
    picture += np.float32(random.choice([-1.5, 1.5])) * np.exp(-((field / np.float32(3 * width)) ** 2))
    return picture


def _patches(window: Window, random: Generator, picture: Array) -> Array:
    """Another ground, seen through holes in the first."""
    mask = rough(window, log_uniform(random, 20, 250), 3, 1.0, _seed(random))
    body = np.clip((mask - random.uniform(-1, 1)) * np.float32(log_uniform(random, 3, 30)), 0, 1)
    other = _pick(random, _GROUNDS)(window, random)
    picture += body * (other / (other.std() + np.float32(1e-6)) - picture)
    return picture


def _grain_noise(window: Window, random: Generator, picture: Array) -> Array:
    fine = rough(window, log_uniform(random, 3, 20), 2, random.uniform(0, 0.6), _seed(random))
    picture += np.float32(random.uniform(0.05, 0.5)) * picture.std() * fine
    return picture


_GROUNDS: list[Callable[..., Array]] = [
    _clouds,
    _clouds,
    _grains,
    _grains,
    _stripes,
    _stripes,
    _lattice,
    _regular,
    _lamellae,
    _lamellae,
    _plain,
    _leaves,
    _leaves,
    _leaves,
]
_OVERLAYS: list[Callable[..., Array]] = [_particles, _particles, _fibres, _cracks, _patches, _grain_noise]
