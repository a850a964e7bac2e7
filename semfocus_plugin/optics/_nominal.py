"""The ruler of scores: what score a blur deserves, by pixel and probe core (docs/decisions/0010)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from semdrivers.microscope import within

HALF_SCORE = 4.5
"""Depths of field from focus at which the ideal score is half of 9."""

TUNGSTEN = 36e-6
"""Diameter of the focused probe that AENet's score supposes, mm: tungsten, 15 kV, 20 pA, 3 mrad."""

UNKNOWN = 10e-6
"""Diameter that the depth of field is computed with where it is not known, mm: a wide guess makes false foci."""


def half_blur(pixel: float, core: float) -> float:
    """Return the blur radius in pixels at which the ideal score is half of 9; pixel and probe core in mm."""
    return HALF_SCORE * math.hypot(1.0, core / pixel)


def ideal_score(log_blur: float, half: float) -> float:
    """Return the score of a blur, ln(1 + radius in pixels), that is half of 9 at the radius `half`."""
    return 9.0 / (1.0 + (math.expm1(log_blur) / half) ** 2)


NOMINAL_PIXEL = 0.4
"""Pixel of the FAST frame at magnification 1, in mm."""


NOMINAL_APERTURE = 0.045
"""Radius of the aperture, mm: 3 mrad at 15 mm."""

TRAINED_CORE, TRAINED_HALF_ANGLE = 50e-6, 0.003
"""Probe (mm) and half-angle (rad) of the scale of defocus that the step networks were trained in, and keep."""


def depth_of_field(pixel: float, core: float, half_angle: float) -> float:
    """Return the depth of field in mm, the defocus whose blur has the radius of a pixel and a probe: √(p² + d²) / α.

    Parameters
    ----------
    pixel, core : float
        Pixel, and diameter of the focused probe; mm.
    half_angle : float
        Half-angle α of the beam, rad.
    """
    return math.hypot(pixel, core) / half_angle


def trained_depth_of_field(magnification: float) -> float:
    """Return the unit of defocus that ACNet and the pair network were trained in, mm, whatever the instrument."""
    return depth_of_field(NOMINAL_PIXEL / magnification, TRAINED_CORE, TRAINED_HALF_ANGLE)


@dataclass(frozen=True, slots=True)
class Beam:
    """Half-angle of the beam, as far as it is known.

    Parameters
    ----------
    half_angle : float
        rad.
    at : float or None
        Working distance of that angle, mm: the angle falls as 1/WD behind an aperture in a fixed place. None where it
        is the same at every working distance: a lens of a numerical aperture, a stage that moves the sample.
    sigma : float or None
        Standard deviation of its logarithm; None for a nominal value.
    """

    half_angle: float = NOMINAL_APERTURE / 15.0
    at: float | None = 15.0
    sigma: float | None = None

    @classmethod
    def of_aperture(cls, radius: float, sigma: float = 0.1) -> Beam:
        """Return the beam behind an aperture of a known radius (mm)."""
        return cls(radius / 15.0, 15.0, sigma)

    def angle(self, working_distance: Any) -> Any:
        """Return the half-angle in rad at working distances in mm."""
        return self.half_angle if self.at is None else self.half_angle * self.at / np.maximum(working_distance, 0.1)


_PROBES = (0.1, 1000.0)
"""Diameters of the focused probe in nm that scanning electron microscopes have."""


def check_probe_diameter(diameter: object) -> float:
    """Return the diameter of a focused probe, nm.

    Raises
    ------
    OutOfRangeError
        When no scanning electron microscope has such a probe.
    """
    return within("probe_diameter", diameter, *_PROBES, "nm")
