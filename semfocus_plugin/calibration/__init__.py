"""Calibration to an instrument: the aperture measured by one focal series, and the file that keeps it."""

from semfocus_plugin.calibration._aperture_fit import RADII, blur, fit_aperture
from semfocus_plugin.calibration._file import (
    CALIBRATION_VARIABLE,
    Calibration,
    aperture_for,
    calibration_for,
    check_place,
    kept_files,
    load,
    place_for,
    save,
)
from semfocus_plugin.calibration._learned import LEARNING_VARIABLE, FileApertures, apertures_in_use
from semfocus_plugin.calibration._measure import CalibrationCancelled, calibrate
from semfocus_plugin.calibration._stigmator import (
    StigmatorCalibration,
    calibrate_stigmator,
    keep_stigmator,
    learn_stigmator,
    stigmator_for,
)
from semfocus_plugin.calibration._travel import TRAVEL, default_travel

__all__ = [
    "CALIBRATION_VARIABLE", "LEARNING_VARIABLE", "RADII", "TRAVEL", "Calibration", "CalibrationCancelled",
    "FileApertures", "StigmatorCalibration", "aperture_for", "apertures_in_use", "blur", "calibrate",
    "calibrate_stigmator", "calibration_for", "check_place", "default_travel", "fit_aperture", "keep_stigmator",
    "kept_files", "learn_stigmator", "load", "place_for", "save", "stigmator_for",
]  # fmt: skip
