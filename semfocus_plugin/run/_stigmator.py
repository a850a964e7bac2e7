"""The stigmator of a run: from astigmatism to settings of the instrument, within limits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import AutofocusError
from semdrivers.focus import AutofocusSettings
from semdrivers.microscope import Microscope, Range, has_member, stigmator_of

Matrix = Sequence[Sequence[float]]
"""Rows x and y of `Astigmatism` in µm, columns the change of either axis by one unit of the instrument."""


class Stigmator:
    """Sets a stigmator by the astigmatism that it is to add.

    Parameters
    ----------
    microscope : Microscope
        With a stigmator; read, not moved, by the constructor.
    settings : AutofocusSettings
        With its limits.
    matrix : pair of pair of float, optional
        What the stigmator does, as calibrated; what the instrument reports by default.

    Raises
    ------
    AutofocusError
        When it is not known what the stigmator does.
    """

    def __init__(self, microscope: Microscope, settings: AutofocusSettings, matrix: Matrix | None = None) -> None:
        if not has_member(microscope, "stigmator"):
            raise AutofocusError("this microscope has no stigmator that can be set")
        capabilities = microscope.capabilities
        matrix = capabilities.stigmator_matrix if matrix is None else matrix
        if matrix is None:
            raise AutofocusError(
                "it is not known what the stigmator of this instrument does: measure it by semfocus calibrate URL "
                "--stigmator"
            )
        self._microscope = microscope
        self._matrix: NDArray[np.float64] = np.array(matrix, float) * 1e-3
        if self._matrix.shape != (2, 2) or not np.linalg.cond(self._matrix) < 100:
            raise AutofocusError(f"the matrix of the stigmator {matrix!r} has no inverse; calibrate it again")
        self.start = stigmator_of(microscope)
        self.setting = self.start
        self._limits = [self._limits_of(value, capabilities.stigmator, settings) for value in self.start]

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

    @property
    def added(self) -> tuple[float, float]:
        """Astigmatism that the present setting adds to that of the start, mm."""
        x, y = self._matrix @ np.subtract(self.setting, self.start)
        return float(x), float(y)

    def add(self, x: float, y: float) -> tuple[float, float]:
        """Set the stigmator so that it adds astigmatism (mm) to that of the start, as far as its limits allow.

        Returns
        -------
        tuple of float
            What it adds, by the setting as read back.
        """
        wanted = np.add(self.start, np.linalg.solve(self._matrix, (x, y)))
        values = []
        for value, limits in zip(wanted, self._limits, strict=True):
            rounded = round(float(value) / limits.step) * limits.step if limits.step > 0 else float(value)
            values.append(limits.clip(round(rounded, 9)))
        self._microscope.stigmator = values[0], values[1]  # type: ignore[attr-defined]
        self.setting = stigmator_of(self._microscope)
        return self.added

    def restore(self) -> None:
        """Set the stigmator to its start."""
        if self.setting != self.start:
            self._microscope.stigmator = self.start  # type: ignore[attr-defined]
            self.setting = stigmator_of(self._microscope)
