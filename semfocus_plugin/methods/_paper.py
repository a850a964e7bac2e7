"""The published loop, to the letter, for comparison (Lee et al. 2021, Methods, "Training strategy").

The paper leaves open in which pattern the initial search moves: alternately outward on both sides is assumed.
It also gives no limit to the search; here the frame budget of the run is the limit.
"""

from __future__ import annotations

from functools import partial

from semdrivers.files import counted
from semfocus_plugin.methods._control import RECOGNISED, control
from semfocus_plugin.methods._search import zigzag
from semfocus_plugin.networks import Controller, Networks, paper_factor
from semfocus_plugin.run import FocusRun, Measurement, Method, Outcome, best_of

PERFECT = 9.0
MAX_ITERATIONS = 20
PATIENCE = 5
"""Iterations without a better score after which the control ends."""

STRIDE = 0.4
"""Stride of the initial search at low magnification, mm; times the factor of equation 5 (12 µm at high)."""


def focus(run: FocusRun, accept: float, *, controller: Controller) -> Outcome:
    """Search until the sample is recognised, let ACNet step, take the best working distance seen."""
    recognised = search(run)
    if recognised is None:
        best = best_of(run.measurements)
        reason = f"the initial search met no score above {RECOGNISED:g} (best {best.score:.1f})"
        return Outcome(False, reason, best.working_distance, best.score)
    best = control(run, recognised, controller, steps=MAX_ITERATIONS, patience=PATIENCE, perfect=PERFECT)
    if best.score < accept:
        reason = f"the best score of {best.score:.1f} is below {accept:g}"
        return Outcome(False, reason, best.working_distance, best.score, retry=True)
    reason = f"the best of {counted(run.frames, 'frame')} scores {best.score:.1f}"
    return Outcome(True, reason, best.working_distance, best.score, confidence=best.score / 9.0)


def search(run: FocusRun) -> Measurement | None:
    """Return the first frame that scores above 2, or None when the limits hold none."""
    start = run.working_distance
    measurement = run.measure(start, "search")
    stride = STRIDE * paper_factor(run.magnification)
    places = zigzag(start, stride, run.limits)
    while measurement.score <= RECOGNISED:
        place = next(places, None)
        if place is None:
            return None
        measurement = run.measure(place, "search")
    return measurement


def _bind(networks: Networks) -> partial[Outcome]:
    return partial(focus, controller=networks.controller("paper"))


METHOD = Method(
    name="paper",
    description="the published loop: search to score > 2, ACNet, best of 20 frames; no verification",
    bind=_bind,
    max_frames=300,
)
