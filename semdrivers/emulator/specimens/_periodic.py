"""Periodic specimens: grating, mesh, array of dots, brick wall, chip."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.specimens._fields import Array, Window, lattice_uniform, rough, smoothstep
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.microscope import number

# µm; a period that is not given is drawn between these: 6 to 100 pixels of the FAST frame at 5000×
_SHORTEST, _LONGEST = 0.5, 8.0
_PERIODS = 0.05, 500.0  # µm; the least and the greatest period
_DEFECTIVE = 0.06  # Share of the cells that are missing where there are defects
_MEAN = 0.35  # Strength that a pattern too fine for the pixels fades to
_RELIEF = 0.02  # Height of a feature, periods
_BLOCKS = 7  # Rectangles in a cell of the chip


@dataclass(frozen=True, slots=True)
class Periodic:
    """A pattern that repeats itself; what is not given is drawn from the seed.

    Parameters
    ----------
    pattern : str
        ``"grating"``, ``"mesh"``, ``"dot-array"``, ``"brick-wall"`` or ``"chip"``.
    seed : int
        Random seed; fixes what is not given, the shares of the features and the places of the defects.
    period : float, optional
        µm, 0.05 to 500; by default 0.5 to 8 µm, uniform on a logarithmic scale.
    direction : float, optional
        Degrees from the x axis to the direction in which the pattern repeats itself; by default any.
    defects : bool, optional
        Whether cells are missing and there is dirt; without, the pattern is perfect. By default one in two has some.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For an unknown pattern, or a period or direction that is no number or beyond the limits.
    """

    pattern: str
    seed: int
    period: float | None = None
    direction: float | None = None
    defects: bool | None = None

    def __post_init__(self) -> None:
        if self.pattern not in _PATTERNS:
            raise InvalidParameterError(f"no pattern {self.pattern!r}; there are {', '.join(_PATTERNS)}")
        period, direction, defects = np.random.default_rng([self.seed, 6]).random(3)
        if self.period is None:
            object.__setattr__(self, "period", float(_SHORTEST * (_LONGEST / _SHORTEST) ** period))
        elif not _PERIODS[0] <= number("period", self.period, "µm") <= _PERIODS[1]:
            raise OutOfRangeError(
                f"period must be within {_PERIODS[0]:g} to {_PERIODS[1]:g} µm, not {self.period:g} µm"
            )
        if self.direction is None:
            object.__setattr__(self, "direction", float(180 * direction))
        elif not math.isfinite(number("direction", self.direction, "°")):
            raise OutOfRangeError(f"direction must be a finite number of degrees, not {self.direction:g}")
        if self.defects is None:
            object.__setattr__(self, "defects", bool(defects < 0.5))

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        assert self.period is not None
        assert self.direction is not None
        turn = math.radians(self.direction)
        x = (window.x + window.pixel * np.arange(window.width))[None, :]
        y = (window.y + window.pixel * np.arange(window.height))[:, None]
        u = (x * math.cos(turn) + y * math.sin(turn)) / self.period
        v = (y * math.cos(turn) - x * math.sin(turn)) / self.period
        feature, column, row = _PATTERNS[self.pattern](u, v, window.pixel / self.period, self.seed)
        shown = min(1.0, (self.period / (2 * window.pixel)) ** 2)
        feature = np.float32(_MEAN) + np.float32(shown) * (feature - np.float32(_MEAN))
        dirt: Array = np.zeros_like(feature)
        if self.defects:
            feature = np.where(lattice_uniform(column, row, self.seed + 11) < _DEFECTIVE, np.float32(0), feature)
            dirt = smoothstep(rough(window, 4 * self.period, 2 * window.pixel, 0.7, self.seed + 12), 1.7, 2.1)
        intensity = np.float32(0.45) + np.float32(0.75) * feature
        intensity += dirt * (np.float32(1.5) - intensity)
        return intensity.astype(np.float32), (np.float32(_RELIEF * self.period) * feature).astype(np.float32)


# Strength of the feature, 0 to 1, and column and row of the cell of every pixel
Cells = tuple[Array, NDArray[np.int64], NDArray[np.int64]]
Lengths = NDArray[np.float64]  # Place in periods


def _within(distance: Lengths, half: float, pixel: float) -> Array:
    """1 where `distance` is below `half`, 0 beyond, with an edge of at least a pixel; all in periods."""
    soft = max(pixel, 0.02)
    return np.clip((half - distance) / soft + 0.5, 0, 1).astype(np.float32)


def _share(seed: int, low: float, high: float) -> float:
    """A share of the period that a seed draws."""
    return float(np.random.default_rng([seed, 7]).uniform(low, high))


def _nearest(place: Lengths) -> tuple[Lengths, NDArray[np.int64]]:
    """Distance to the nearest whole number, and that number."""
    cell = np.rint(place)
    return np.abs(place - cell), cell.astype(np.int64)


def _grating(u: Lengths, v: Lengths, pixel: float, seed: int) -> Cells:
    across, column = _nearest(u)
    return _within(across, _share(seed, 0.2, 0.3), pixel), column, np.floor(v / 6).astype(np.int64)


def _mesh(u: Lengths, v: Lengths, pixel: float, seed: int) -> Cells:
    (across, column), (along, row) = _nearest(u), _nearest(v)
    return _within(np.minimum(across, along), _share(seed, 0.1, 0.2), pixel), column, row


def _dots(u: Lengths, v: Lengths, pixel: float, seed: int) -> Cells:
    (across, column), (along, row) = _nearest(u), _nearest(v)
    return _within(np.hypot(across, along), _share(seed, 0.2, 0.35), pixel), column, row


def _bricks(u: Lengths, v: Lengths, pixel: float, seed: int) -> Cells:
    along, row = _nearest(2 * v)
    across, column = _nearest(u + 0.5 * (row % 2))
    joint = np.minimum(0.5 - across, (0.5 - along) / 2)
    return _within(-joint, -_share(seed, 0.03, 0.06), pixel), column, row


def _chip(u: Lengths, v: Lengths, pixel: float, seed: int) -> Cells:
    column, row = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    x, y = u - column, v - row
    strength = np.zeros(x.shape, np.float32)
    random = np.random.default_rng([seed, 8])
    for _ in range(_BLOCKS):
        (left, top), (wide, high), tone = random.uniform(0.05, 0.85, 2), random.uniform(0.06, 0.5, 2), random.random()
        middle_x, middle_y = (left + min(left + wide, 0.95)) / 2, (top + min(top + high, 0.95)) / 2
        inside = _within(np.abs(x - middle_x), middle_x - left, pixel) * _within(
            np.abs(y - middle_y), middle_y - top, pixel
        )
        strength += inside * (np.float32(0.4 + 0.6 * tone) - strength)
    return strength, column, row


_PATTERNS: dict[str, Callable[[Lengths, Lengths, float, int], Cells]] = {
    "grating": _grating,
    "mesh": _mesh,
    "dot-array": _dots,
    "brick-wall": _bricks,
    "chip": _chip,
}

PERIODIC: dict[str, Callable[..., Periodic]] = {name: partial(Periodic, name) for name in _PATTERNS}
"""Factories of the periodic specimens, by name: ``factory(seed, period=None)``."""
