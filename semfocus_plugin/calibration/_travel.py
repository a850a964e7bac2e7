"""How far a run goes from its start unless configured otherwise."""

from __future__ import annotations

from semdrivers import Microscope
from semfocus_plugin.calibration._file import calibration_for
from semfocus_plugin.optics import NOMINAL_APERTURE, NOMINAL_PIXEL, UNKNOWN, depth_of_field

TRAVEL = 3.0, 60.0
"""Furthest that a run goes from the start by default: the larger of mm and depths of field."""

_NOMINAL_DISTANCE = 15.0
"""Working distance in mm that stands for a focus drive that is not counted from the pole piece, and may be below 0."""


def default_travel(microscope: Microscope) -> float:
    """Return how far from its start a run of the commands and of the server goes unless configured otherwise, mm.

    The depth of field is that of where the lens stands, by the calibration of the instrument where there is one.
    """
    kept = calibration_for(microscope.capabilities)
    aperture = NOMINAL_APERTURE if kept is None else kept.aperture
    place = microscope.working_distance
    half_angle = aperture / (place if place > 0 else _NOMINAL_DISTANCE)
    pixel = NOMINAL_PIXEL / microscope.magnification
    return max(TRAVEL[0], TRAVEL[1] * depth_of_field(pixel, UNKNOWN, half_angle))
