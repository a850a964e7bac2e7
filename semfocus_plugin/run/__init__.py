"""One run: access to the microscope within limits, frames and what they show, and the loop around a method."""

from semfocus_plugin.run._dose import dose_of_frame
from semfocus_plugin.run._focus_run import MOST_RETAKES, TAKE_UP, BudgetSpent, Cancelled, FocusRun
from semfocus_plugin.run._frame_checks import FrameMismatchError
from semfocus_plugin.run._loop import HOPELESS, Method, Outcome, best_of, run, verify
from semfocus_plugin.run._measurement import NOISE, Measurement, pixel_of, shows_nothing
from semfocus_plugin.run._spoiled import spoiled

__all__ = [
    "HOPELESS",
    "MOST_RETAKES",
    "NOISE",
    "TAKE_UP",
    "BudgetSpent",
    "Cancelled",
    "FocusRun",
    "FrameMismatchError",
    "Measurement",
    "Method",
    "Outcome",
    "best_of",
    "dose_of_frame",
    "pixel_of",
    "run",
    "shows_nothing",
    "spoiled",
    "verify",
]
