"""One run: access to the microscope within limits, frames and what they show, and the loop around a method."""

from semfocus_plugin.run._dose import electrons_on_pixel
from semfocus_plugin.run._focus_run import MOST_RETAKES, BudgetSpent, Cancelled, FocusRun
from semfocus_plugin.run._frame_checks import FrameChecks, FrameMismatchError, beyond_line_foci
from semfocus_plugin.run._loop import HOPELESS, Method, Outcome, best_of, run
from semfocus_plugin.run._measurement import (
    DETAIL,
    NOISE,
    Measurement,
    pixel_of,
    share_of_contrast,
    shows_nothing,
)
from semfocus_plugin.run._sightings import posterior_of, sighting_of
from semfocus_plugin.run._spoiled import spoiled
from semfocus_plugin.run._stigmator import Matrix, Stigmator, StigmatorEffect

__all__ = [
    "DETAIL",
    "HOPELESS",
    "MOST_RETAKES",
    "NOISE",
    "BudgetSpent",
    "Cancelled",
    "FocusRun",
    "FrameChecks",
    "FrameMismatchError",
    "Matrix",
    "Measurement",
    "Method",
    "Outcome",
    "Stigmator",
    "StigmatorEffect",
    "best_of",
    "beyond_line_foci",
    "electrons_on_pixel",
    "pixel_of",
    "posterior_of",
    "run",
    "share_of_contrast",
    "shows_nothing",
    "sighting_of",
    "spoiled",
]
