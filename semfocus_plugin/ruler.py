"""The ruler of scores: what score a blur deserves, by pixel and probe core (docs/decisions/0010)."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from semfocus_plugin.preprocessing import told_magnification
from semfocus_plugin.state import NOMINAL_PIXEL

if TYPE_CHECKING:
    from semfocus_plugin.networks import Evaluation

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


def for_core(
    evaluation: Evaluation, core: float, *, magnification: float, width: int, pixel: float | None = None
) -> Evaluation:
    """Return what AENet said of a frame with the score that a known probe core makes of the blur.

    Parameters
    ----------
    evaluation : Evaluation
        As AENet gave it. One that tells no blur is returned as it is.
    core : float
        Diameter of the focused probe, mm.
    magnification : float
        What AENet was told.
    width : int
        Of the frame, pixels.
    pixel : float, optional
        Of the frame, mm; the one that goes with the magnification by default.
    """
    if evaluation.log_blur is None:
        return evaluation
    supposed = NOMINAL_PIXEL / told_magnification(magnification, width)
    correction = evaluation.score - ideal_score(evaluation.log_blur, half_blur(supposed, TUNGSTEN))
    score = ideal_score(evaluation.log_blur, half_blur(pixel or supposed, core)) + correction
    return dataclasses.replace(evaluation, score=min(max(score, 0.0), 9.0))
