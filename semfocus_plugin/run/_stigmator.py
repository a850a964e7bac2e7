"""The stigmator of a run: what it is known to do, where it may go, and how it gets there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import AutofocusError
from semdrivers.focus import AutofocusSettings
from semdrivers.microscope import Microscope, Range, has_member, read_number, stigmator_of

Array = NDArray[Any]

Matrix = tuple[tuple[float, float], tuple[float, float]]
"""Rows x and y of `Astigmatism` in µm, columns the change of either axis by one unit of the instrument."""

_ERROR = 0.05
"""Least relative error of a matrix, in amount and in direction."""
_TURN, _USUAL_TURN, _MOST_TURN = 0.05, 0.15, 0.5
"""Radians by which the astigmatism that an axis adds turns with every mm of working distance, as the picture does that
a lens turns; those where it is not known at which working distance a matrix was measured; and the most."""
_QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])
_TAKE_UP = 0.01
"""Share of its range by which an axis is set too low before it is set: its iron remembers where it came from."""
_FIRST = 0.01
"""Share of its range by which an axis is moved first where nothing is known of it."""
_AIM, _WIDTH = 3.0, 6.0
"""Depths of field that such a move should add, and those that it may."""
_LEAST_GROWTH, _GROWTH = 1.5, 5.0
"""Factors by which such a move grows at least and at most where it shows too little; by the latter it shrinks where the
frame shows nothing."""
_KNOWN = 0.3
"""Relative error from which the effect of an axis counts as known."""


@dataclass(frozen=True, slots=True)
class StigmatorEffect:
    """What a stigmator does, as it was measured.

    Parameters
    ----------
    matrix : pair of pair of float
        Rows x and y of `Astigmatism` in µm, columns the change of either axis by one unit of the instrument.
    error : float
        Relative standard deviation.
    working_distance : float or None
        Where it was measured, mm: elsewhere the axes are turned. None where that is not known.
    """

    matrix: Matrix
    error: float = 0.0
    working_distance: float | None = None


class Stigmator:
    """Sets a stigmator, always from below, and learns what that does.

    Parameters
    ----------
    microscope : Microscope
        With a stigmator; read, not moved, by the constructor.
    settings : AutofocusSettings
        With its limits.
    effect : StigmatorEffect, optional
        What the stigmator does, as calibrated; what the instrument reports by default. Without either the run measures
        it by its first moves.

    Raises
    ------
    AutofocusError
        When it stands outside its limits; or when neither its effect nor its limits are known.
    """

    def __init__(
        self, microscope: Microscope, settings: AutofocusSettings, effect: StigmatorEffect | None = None
    ) -> None:
        if not has_member(microscope, "stigmator"):
            raise AutofocusError("this microscope has no stigmator that can be set")
        self._microscope = microscope
        capabilities = microscope.capabilities
        if effect is None and capabilities.stigmator_matrix is not None:
            effect = StigmatorEffect(capabilities.stigmator_matrix)
        self.start = stigmator_of(microscope)
        self.setting = self.start
        self._limits = [self._limits_of(value, capabilities.stigmator, settings) for value in self.start]
        self.given = effect is not None
        self._settled = self._away = False
        self._trying, self._trials = 0, [0, 0]
        if effect is None:
            self._prior = np.zeros((2, 2))
            self._unknowns = [np.zeros((2, 2)) for _ in range(4)]
            if not all(math.isfinite(each.maximum - each.minimum) for each in self._limits):
                raise AutofocusError(
                    "this instrument reports neither what its stigmator does nor its limits: pass stigmator_bounds, in "
                    "its units"
                )
        else:
            self._prior = np.array(effect.matrix, float) * 1e-3
            if self._prior.shape != (2, 2) or not np.linalg.cond(self._prior) < 100:
                raise AutofocusError(
                    f"the matrix of the stigmator {effect.matrix!r} has no inverse; calibrate it again"
                )
            error, turn = max(effect.error, _ERROR), _USUAL_TURN
            if effect.working_distance is not None:
                turn = abs(read_number(microscope, "working_distance", "mm") - effect.working_distance) * _TURN
            turn = math.hypot(error, min(turn, _MOST_TURN))
            self._unknowns = [error * self._prior, turn * _QUARTER @ self._prior]
        self._mean, self._covariance = np.zeros(len(self._unknowns)), np.eye(len(self._unknowns))
        self._steps = [_FIRST * (each.maximum - each.minimum) if effect is None else 0.0 for each in self._limits]

    @staticmethod
    def _limits_of(start: float, limits: Range | None, settings: AutofocusSettings) -> Range:
        limits = Range(-np.inf, np.inf) if limits is None else limits
        if settings.stigmator_bounds is not None:
            limits = limits.intersect(*settings.stigmator_bounds)
        if settings.max_stigmator_travel is not None:
            limits = limits.intersect(start - settings.max_stigmator_travel, start + settings.max_stigmator_travel)
        if not limits.minimum <= start <= limits.maximum:
            raise AutofocusError(
                f"the stigmator stands at {start:g}, outside {limits.minimum:g} to {limits.maximum:g}; set it within, "
                "or widen stigmator_bounds"
            )
        return limits

    def added(self, setting: tuple[float, float]) -> tuple[complex, ...]:
        """Return the astigmatism that a setting adds to that of the start, as `Sighting.added` has it."""
        step = np.subtract(setting, self.start)
        return tuple(complex(*(part @ step)) for part in (self._prior, *self._unknowns))

    def learn(self, mean: Array, covariance: Array) -> None:
        """Take over what the frames say of the unknowns, in standard deviations of each before the run."""
        self._mean, self._covariance = mean, covariance

    @property
    def _matrix(self) -> NDArray[np.float64]:
        """What it does, as known by now, mm."""
        return self._prior + np.tensordot(self._mean, np.array(self._unknowns), 1)

    def added_by(self, before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
        """Return the astigmatism (x, y) that a move adds, as known by now, mm."""
        x, y = (self._matrix @ np.subtract(after, before)).tolist()
        return x, y

    @property
    def matrix(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What the stigmator does, as known by now, µm."""
        (a, b), (c, d) = (self._matrix * 1e3).tolist()
        return (a, b), (c, d)

    @property
    def known(self) -> bool:
        """Whether it is known well enough to correct by."""
        return not self._unknown()

    def _unknown(self) -> list[int]:
        norms = np.hypot(*self._matrix)
        return [axis for axis in (0, 1) if not self._tried(axis) or not self._errors()[axis] <= _KNOWN * norms[axis]]

    def _errors(self) -> NDArray[np.float64]:
        """Return the standard deviation of either component of the effect of both axes, mm a unit."""
        unknowns = np.array(self._unknowns)
        variance = np.einsum("iab,ij,jab->b", unknowns, self._covariance, unknowns)
        return np.asarray(np.sqrt(0.5 * variance))

    @property
    def error(self) -> float:
        """Relative standard deviation of the effect of the axis that is known less."""
        norms = np.hypot(*self._matrix)
        return float((self._errors() / np.maximum(norms, 1e-30)).max()) if norms.all() else math.inf

    def _tried(self, axis: int) -> bool:
        return any(part[:, axis].any() for part in (self._prior, *self._unknowns))

    def lost(self) -> None:
        """Note that nothing was left to see after the last move of an axis to see what it does: it was too far."""
        axis = self._trying
        self._steps[axis] /= _GROWTH
        if self._trials[axis] == 1:
            for part in self._unknowns:
                part[:, axis] *= _GROWTH

    def towards(self, x: float, y: float, *, as_given: bool = False) -> tuple[float, float]:
        """Return the setting that takes off astigmatism (mm), as far as the limits allow; what it does is known.

        With `as_given` by what was known before the run: a sample of one direction does not show how axes are turned.
        """
        matrix = self._prior if as_given else self._matrix
        return self._reached(np.add(self.setting, np.linalg.solve(matrix, (-x, -y))))

    def trial(self, x: float, y: float, unit: float) -> tuple[float, float]:
        """Return a setting that shows what an axis does, where that is not known.

        Of the other axis, what is known is used to take off astigmatism (x, y), mm; `unit` is a depth of field, mm.
        """
        matrix, unknown = self._matrix, self._unknown()
        left = np.array([x, y])
        axis, other = unknown[0], 1 - unknown[0]
        norms = np.hypot(*matrix)
        step = np.zeros(2)
        if other not in unknown:
            step[other] = -(matrix[:, other] @ left) / norms[other] ** 2
            left = left + matrix[:, other] * step[other]
        side = 1.0
        if self._tried(axis):
            most = (norms[axis] + self._errors()[axis]) * self._steps[axis]
            self._steps[axis] *= min(max(2 * _AIM * unit / most, _LEAST_GROWTH), _GROWTH)
            side = math.copysign(1.0, -(matrix[:, axis] @ left))
        else:
            if other not in unknown:
                self._steps[axis] = _AIM * unit / float(norms[other])
            for row in (0, 1):
                self._unknowns[2 * axis + row][row, axis] = _WIDTH * unit / self._steps[axis]
        self._trying = axis
        self._trials[axis] += 1
        limits = self._limits[axis]
        room = limits.maximum - self.setting[axis], self.setting[axis] - limits.minimum
        here, there = room if side > 0 else room[::-1]
        step[axis] = side * (self._steps[axis] if here >= min(self._steps[axis], there) else -self._steps[axis])
        return self._reached(np.add(self.setting, step))

    def move(self, setting: tuple[float, float]) -> tuple[float, float]:
        """Set the stigmator as near to a setting as its limits allow, from below; returns it as read back."""
        target = self._reached(np.array(setting))
        below = tuple(
            limits.clip(value - _TAKE_UP * (limits.maximum - limits.minimum))
            if (value < now or not self._settled) and math.isfinite(limits.maximum - limits.minimum)
            else now
            for value, now, limits in zip(target, self.setting, self._limits, strict=True)
        )
        self._away = True
        if below != self.setting:
            self._microscope.stigmator = below  # type: ignore[attr-defined]
        self._microscope.stigmator = target  # type: ignore[attr-defined]
        self._settled = True
        self.setting = stigmator_of(self._microscope)
        return self.setting

    def restore(self) -> None:
        """Set the stigmator to its start, where it was moved, or may have been before a fault."""
        if self._away and (self.setting != self.start or stigmator_of(self._microscope) != self.start):
            self.move(self.start)
        self._away = False

    def _reached(self, wanted: NDArray[np.float64]) -> tuple[float, float]:
        x, y = (
            limits.clip(round(round(value / limits.step) * limits.step if limits.step > 0 else value, 9))
            for value, limits in zip(wanted.tolist(), self._limits, strict=True)
        )
        return x, y
