"""The ruler of scores: what score a blur deserves, by pixel and probe core (docs/decisions/0010)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semdrivers.microscope import within

HALF_SCORE = 4.5
"""Depths of field from focus at which the ideal score is half of 9."""

TUNGSTEN = 36e-6
"""Diameter of the focused probe that AENet's score supposes, mm: tungsten, 15 kV, 20 pA, 3 mrad."""

UNKNOWN = 10e-6
"""Diameter that the depth of field is reckoned with where nobody tells it, mm: a wide guess makes false foci."""


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
    """What is known of the beam of an instrument; None where it is not.

    Parameters
    ----------
    aperture : float, optional
        Radius of the aperture, mm. The half-angle of the beam is this over the working distance.
    core : float, optional
        Diameter of the focused probe, mm.
    """

    aperture: float | None = None
    core: float | None = None


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
