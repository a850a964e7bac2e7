"""ACNet's steps towards the focus, the same in every method that takes them."""

from __future__ import annotations

import math

from semfocus_plugin.networks import Controller, State
from semfocus_plugin.run import FocusRun, Measurement

RECOGNISED = 2.0
"""ACNet can work from a frame above this score, which the sample reaches within eight depths of field."""


def control(
    run: FocusRun,
    start: Measurement,
    controller: Controller,
    *,
    steps: int,
    patience: int,
    spare: int = 0,
    finest: float = 0.0,
    perfect: float = math.inf,
) -> Measurement:
    """Return the best frame of the steps that the controller takes from a frame that shows the sample.

    Parameters
    ----------
    run : FocusRun
        The run.
    start : Measurement
        The frame to step from.
    controller : Controller
        ACNet.
    steps : int
        Most steps.
    patience : int
        Steps without a better score after which the control ends.
    spare : int
        Frames of the budget that are left for what follows.
    finest : float
        mm; a smaller step ends the control.
    perfect : float
        A score that ends the control.
    """
    state = State(controller.maximum)
    present = best = start
    idle = 0
    for _ in range(steps):
        if present.score >= perfect or idle >= patience or run.remaining <= spare:
            break
        evaluation = present.evaluation
        vector = state.update(
            present.working_distance,
            evaluation.score,
            evaluation.variance,
            evaluation.entropy,
            run.magnification,
        )
        action = controller(vector) * controller.maximum(run.magnification)
        if abs(action) < finest:
            break
        present = run.measure(present.working_distance + action, "control")
        if present.score > best.score:
            best, idle = present, 0
        else:
            idle += 1
    return best
