"""What a peer is given: a microscope that counts, the beam's true half-angle, a window, steps in depths of field."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semdrivers.microscope import TAKE_UP, Microscope, Range
from semfocus_plugin.lab.benchmark.peers.sharpness import tenengrad
from semfocus_plugin.optics import NOMINAL_PIXEL

__all__ = ["Answer", "Bench", "Optics", "Peer", "approach"]

# Half-width in depths of field up to which a sharpness curve is taken as having one peak and no flat part
_NEAR_WINDOW = 14.0


@dataclass(frozen=True, slots=True)
class Optics:
    """What a peer knows of the beam.

    Parameters
    ----------
    aperture_radius : float
        mm; the half-angle in rad is this over the working distance in mm, at every working distance.
    core : float
        Diameter of the focused probe, mm.
    rotation, growth : float
        Turn (rad) and relative change in size of the image a mm of working distance, as calibrated; for methods that
        lay two frames over each other.
    """

    aperture_radius: float
    core: float
    rotation: float = 0.0
    growth: float = 0.0


def approach(microscope: Microscope, limits: Range, working_distance: float) -> None:
    """Move to a working distance (mm, clipped to the limits) from below, against hysteresis of the lens."""
    target = limits.clip(working_distance)
    if target < microscope.working_distance and target > limits.minimum:
        microscope.working_distance = limits.clip(round(target - TAKE_UP, 9))
    microscope.working_distance = target


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer answers.

    Parameters
    ----------
    working_distance : float
        mm.
    claimed : bool
        Whether it reports focus.
    reason : str
        One sentence.
    """

    working_distance: float
    claimed: bool = True
    reason: str = ""


class Bench:
    """A search window at one magnification, in a coordinate in which one unit is one depth of field everywhere.

    The half-angle falls as 1/WD, so the depth of field grows with the working distance; the coordinate is
    ``u = ln(WD / WD₀) · aperture radius / √(pixel² + core²)`` with u = 0 where the search starts.

    Parameters
    ----------
    microscope : Microscope
        The instrument, already at the magnification of this search.
    optics : Optics
        The nominal beam.
    window : tuple of float
        Lowest and highest working distance in mm between which the focus is said to lie.
    start : float
        mm.
    tolerance : float
        Largest error asked for, in depths of field.
    """

    def __init__(
        self, microscope: Microscope, optics: Optics, window: tuple[float, float], start: float, tolerance: float = 1.0
    ) -> None:
        self.microscope = microscope
        self.optics = optics
        self.magnification = microscope.magnification
        self.limits = microscope.capabilities.working_distance
        self.window = self.limits.clip(window[0]), self.limits.clip(window[1])
        self.start = min(max(start, self.window[0]), self.window[1])
        self.tolerance = tolerance
        self._sharpness: dict[float, float] = {}

    @property
    def pixel(self) -> float:
        """Pixel of the FAST frame, mm."""
        return NOMINAL_PIXEL / self.magnification

    @property
    def scale(self) -> float:
        """Depth of field over working distance."""
        return math.hypot(self.pixel, self.optics.core) / self.optics.aperture_radius

    @property
    def ends(self) -> tuple[float, float]:
        """The window in depths of field from the start."""
        return self.coordinate(self.window[0]), self.coordinate(self.window[1])

    @property
    def wide(self) -> bool:
        """Whether the window reaches into the flat part of a sharpness curve."""
        low, high = self.ends
        return high - low > 2 * _NEAR_WINDOW

    def coordinate(self, working_distance: float) -> float:
        """Return a working distance in mm as depths of field from the start."""
        return math.log(working_distance / self.start) / self.scale

    def place(self, coordinate: float) -> float:
        """Return the working distance in mm, on the instrument's grid and within the window."""
        raw = self.start * math.exp(coordinate * self.scale)
        low, high = self.window
        step = self.limits.step
        snapped = round(raw / step) * step if step > 0 else raw
        return min(max(round(snapped, 9), low), high)

    def look(self, working_distance: float) -> NDArray[np.float64]:
        """Move, acquire a FAST frame, and return it, shape (240, 320), in grey levels."""
        approach(self.microscope, self.limits, working_distance)
        return np.asarray(self.microscope.acquire().pixels, dtype=np.float64)

    def sharpness(self, coordinate: float) -> float:
        """Return Tenengrad at a coordinate; a place already looked at costs no second frame."""
        place = self.place(coordinate)
        if place not in self._sharpness:
            self._sharpness[place] = tenengrad(self.look(place))
        return self._sharpness[place]

    @property
    def sharpest(self) -> float:
        """Coordinate of the sharpest frame so far."""
        return self.coordinate(max(self._sharpness, key=lambda place: self._sharpness[place]))

    def bracket(self, step: float) -> tuple[float, float]:
        """Return where to look for the peak: the window, or in a wide one the surroundings of a sweep's best frame.

        `step` is that of the sweep, in depths of field.
        """
        low, high = self.ends
        if not self.wide:
            return low, high
        self.sweep(low, high, step)
        best = self.sharpest
        return max(best - step, low), min(best + step, high)

    def sweep(self, low: float, high: float, step: float) -> NDArray[np.float64]:
        """Look at evenly spaced places from `low` to `high` at most `step` apart; return rows (sharpness, place)."""
        places = np.linspace(low, high, max(math.ceil((high - low) / step), 1) + 1)
        return np.array([(self.sharpness(float(place)), place) for place in places])


@dataclass(frozen=True, slots=True)
class Peer:
    """A method to compare with.

    Parameters
    ----------
    name, description : str
        For tables.
    find : callable
        From a `Bench` to an `Answer`.
    packages : tuple of str
        Modules that it needs; without them it is skipped.
    """

    name: str
    description: str
    find: Callable[[Bench], Answer]
    packages: tuple[str, ...] = ()
