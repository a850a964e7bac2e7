"""The stigmator of a run: what it is known to do, where it may go, and how it gets there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import AutofocusError
from semdrivers.focus import AutofocusSettings
from semdrivers.microscope import Microscope, Range, has_member, stigmator_of
from semfocus_plugin.optics import Change

Matrix = Sequence[Sequence[float]]
"""Rows x and y of `Astigmatism` in µm, columns the change of either axis by one unit of the instrument."""

_ERROR = 0.05
"""Relative error of a matrix that the instrument reports or somebody calibrated: the axes turn with the lens."""
_LEAST_ERROR = 0.04
"""Depths of field; error of a change that was seen, at least."""
_TAKE_UP = 0.01
"""Share of its range by which an axis is set too low before it is set: its iron remembers where it came from."""
_FIRST = 0.01
"""Share of its range by which an axis is moved first where nothing is known of it."""
_AIM, _WIDTH = 4.0, 6.0
"""Depths of field that such a move should add, and those that it may."""
_GROWTH = 5.0
"""Factor by which such a move grows at most where it shows too little, and shrinks where the frame shows nothing."""
_KNOWN = 0.3
"""Relative error from which the effect of an axis counts as known."""


class Stigmator:
    """Sets a stigmator, always from below, and learns what that does.

    Parameters
    ----------
    microscope : Microscope
        With a stigmator; read, not moved, by the constructor.
    settings : AutofocusSettings
        With its limits.
    matrix : pair of pair of float, optional
        What the stigmator does, as calibrated; what the instrument reports by default. Without either the run measures
        it by its first moves.

    Raises
    ------
    AutofocusError
        When it stands outside its limits; or when neither its effect nor its limits are known.
    """

    def __init__(self, microscope: Microscope, settings: AutofocusSettings, matrix: Matrix | None = None) -> None:
        if not has_member(microscope, "stigmator"):
            raise AutofocusError("this microscope has no stigmator that can be set")
        self._microscope = microscope
        capabilities = microscope.capabilities
        matrix = capabilities.stigmator_matrix if matrix is None else matrix
        self.start = stigmator_of(microscope)
        self.setting = self.start
        self._limits = [self._limits_of(value, capabilities.stigmator, settings) for value in self.start]
        self._moves: dict[tuple[tuple[float, float], tuple[float, float]], Change] = {}
        self.given = matrix is not None
        self._settled = False
        if matrix is None:
            self._matrix = np.zeros((2, 2))
            self._error = np.full(2, math.inf)
            if not all(math.isfinite(each.maximum - each.minimum) for each in self._limits):
                raise AutofocusError(
                    "this instrument reports neither what its stigmator does nor its limits: pass stigmator_bounds, in "
                    "its units"
                )
        else:
            self._matrix = np.array(matrix, float) * 1e-3
            if self._matrix.shape != (2, 2) or not np.linalg.cond(self._matrix) < 100:
                raise AutofocusError(f"the matrix of the stigmator {matrix!r} has no inverse; calibrate it again")
            self._error = _ERROR * np.hypot(*self._matrix)
        self._prior = self._matrix.copy()
        self._unit = 0.0
        self._steps = [_FIRST * (each.maximum - each.minimum) if matrix is None else 0.0 for each in self._limits]

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

    def added(self, setting: tuple[float, float]) -> tuple[float, float]:
        """Return the astigmatism that a setting adds to that of the start, mm, as far as it is known."""
        x, y = self._matrix @ np.subtract(setting, self.start)
        return float(x), float(y)

    @property
    def gain_error(self) -> float:
        """Relative error of that."""
        return _ERROR if self.given else min(max(self.error, _ERROR), _KNOWN)

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
        return [axis for axis in (0, 1) if not self._errors()[axis] <= _KNOWN * norms[axis]]

    @property
    def error(self) -> float:
        """Relative standard deviation of the effect of the axis that is known less."""
        norms = np.hypot(*self._matrix)
        return float((self._errors() / np.maximum(norms, 1e-30)).max()) if norms.all() else math.inf

    def expected(self, before: tuple[float, float], after: tuple[float, float]) -> Change:
        """Return what a move adds, with what is not known of it."""
        step = np.subtract(after, before)
        x, y = self._matrix @ step
        return Change(float(x), float(y), math.sqrt(float(step @ self._covariance() @ step)))

    def learn(self, before: tuple[float, float], after: tuple[float, float], change: Change, unit: float) -> None:
        """Remember what a move was seen to do; `unit` is a depth of field, mm."""
        if before == after:
            return
        self._unit = unit
        sigma = math.hypot(change.sigma, _LEAST_ERROR * unit)
        self._moves[before, after] = Change(change.x, change.y, sigma)
        total = np.diag(self._prior_weights()) @ self._prior.T
        for (one, other), seen in self._moves.items():
            total = total + np.outer(np.subtract(other, one), (seen.x, seen.y)) / seen.sigma**2
        self._matrix = (self._covariance() @ total).T

    def lost(self) -> None:
        """Note that nothing was left to see after the first move of an axis: it was too far."""
        self._steps = [
            step / _GROWTH if error == math.inf and not self._tried(axis) else step
            for axis, (error, step) in enumerate(zip(self._error.tolist(), self._steps, strict=True))
        ]

    def _tried(self, axis: int) -> bool:
        return any(one[axis] != two[axis] for one, two in self._moves)

    def towards(self, x: float, y: float, unit: float, gain: complex = 1.0) -> tuple[tuple[float, float], bool]:
        """Return the setting that takes off astigmatism (mm), and whether enough is known for that.

        Where it is not, the setting is one that shows what an axis does: of the other, what is known is used. What the
        stigmator adds is `gain` times what it is said to.
        """
        self._unit = unit
        norms = np.hypot(*self._matrix)
        unknown = self._unknown()
        wanted = np.array([x, y])
        if not unknown:
            wanted = np.array([(complex(x, y) / gain).real, (complex(x, y) / gain).imag])
            step = np.linalg.solve(self._matrix, -wanted)
            return self._reached(np.add(self.setting, step)), True
        axis, other = unknown[0], 1 - unknown[0]
        step = np.zeros(2)
        if other not in unknown:
            step[other] = -(self._matrix[:, other] @ wanted) / norms[other] ** 2
            self._steps[axis] = self._steps[axis] or _AIM * unit / float(norms[other])
        if self._tried(axis):
            shown = float(norms[axis]) * self._steps[axis]
            self._steps[axis] *= min(_AIM * unit / max(shown, 1e-30), _GROWTH)
        elif other not in unknown:
            self._steps[axis] = _AIM * unit / float(norms[other])
        limits = self._limits[axis]
        room = limits.maximum - self.setting[axis], self.setting[axis] - limits.minimum
        step[axis] = self._steps[axis] if room[0] >= min(self._steps[axis], room[1]) else -self._steps[axis]
        return self._reached(np.add(self.setting, step)), False

    def move(self, setting: tuple[float, float]) -> tuple[float, float]:
        """Set the stigmator as near to a setting as its limits allow, from below; returns it as read back."""
        target = self._reached(np.array(setting))
        below = tuple(
            limits.clip(value - _TAKE_UP * (limits.maximum - limits.minimum))
            if (value < now or not self._settled) and math.isfinite(limits.maximum - limits.minimum)
            else now
            for value, now, limits in zip(target, self.setting, self._limits, strict=True)
        )
        if below != self.setting:
            self._microscope.stigmator = below  # type: ignore[attr-defined]
        self._microscope.stigmator = target  # type: ignore[attr-defined]
        self._settled = True
        self.setting = stigmator_of(self._microscope)
        return self.setting

    def restore(self) -> None:
        """Set the stigmator to its start."""
        if self.setting != self.start:
            self.move(self.start)

    def _reached(self, wanted: NDArray[np.float64]) -> tuple[float, float]:
        x, y = (
            limits.clip(round(round(value / limits.step) * limits.step if limits.step > 0 else value, 9))
            for value, limits in zip(wanted.tolist(), self._limits, strict=True)
        )
        return x, y

    def _prior_weights(self) -> NDArray[np.float64]:
        """Return the weight of either axis of the prior matrix; that of an unknown one follows from its first move."""
        widths = [
            _WIDTH * self._unit / max(step, 1e-30) if math.isinf(error) else error
            for error, step in zip(self._error.tolist(), self._steps, strict=True)
        ]
        return np.array([1 / width**2 if width > 0 else 1e30 for width in widths])

    def _covariance(self) -> NDArray[np.float64]:
        weight = np.diag(self._prior_weights())
        for (one, other), seen in self._moves.items():
            step = np.subtract(other, one)
            weight = weight + np.outer(step, step) / seen.sigma**2
        return np.asarray(np.linalg.inv(weight))

    def _errors(self) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(np.diag(self._covariance())))
