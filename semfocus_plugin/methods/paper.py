"""The published loop, to the letter, for comparison (Lee et al. 2021, Methods, "Training strategy").

The paper leaves open in which pattern the initial search moves: alternately outward on both sides is assumed.
It also gives no limit to the search; here the frame budget of the run is the limit.
"""

from __future__ import annotations

from functools import partial

from semfocus_plugin.loop import Method, Outcome, best_of
from semfocus_plugin.methods.search import zigzag
from semfocus_plugin.networks import Controller, Networks
from semfocus_plugin.probe import Measurement, Probe
from semfocus_plugin.state import State, paper_factor

RECOGNISED = 2.0
"""The initial search ends above this score."""

PERFECT = 9.0
MAX_ITERATIONS = 20
PATIENCE = 5
"""Iterations without a better score after which the control ends."""

STRIDE = 0.4
"""Stride of the initial search at low magnification, mm; times the factor of equation 5 (12 µm at high)."""


def focus(probe: Probe, accept: float, *, controller: Controller) -> Outcome:
    """Search until the sample is recognised, let ACNet step, take the best working distance seen."""
    found = search(probe)
    if found is None:
        best = best_of(probe.measurements)
        reason = f"the initial search met no score above {RECOGNISED:g} (best {best.score:.1f})"
        return Outcome(False, reason, best.working_distance, best.score)
    best = control(probe, found, controller)
    if best.score < accept:
        reason = f"the best score of {best.score:.1f} is below {accept:g}"
        return Outcome(False, reason, best.working_distance, best.score, retry=True)
    reason = f"the best of {probe.frames} frames scores {best.score:.1f}"
    return Outcome(True, reason, best.working_distance, best.score, confidence=best.score / 9.0)


def search(probe: Probe) -> Measurement | None:
    """Return the first frame that scores above 2, or None when the limits hold none."""
    start = probe.working_distance
    measurement = probe.measure(start, "search")
    stride = STRIDE * paper_factor(probe.magnification)
    places = zigzag(start, stride, probe.limits)
    while measurement.score <= RECOGNISED:
        place = next(places, None)
        if place is None:
            return None
        measurement = probe.measure(place, "search")
    return measurement


def control(probe: Probe, start: Measurement, controller: Controller) -> Measurement:
    """Return the best frame of up to 20 ACNet steps; ends at score 9 or after five without a better one."""
    state = State(controller.maximum)
    present = best = start
    idle = 0
    for _ in range(MAX_ITERATIONS):
        if present.score >= PERFECT or idle >= PATIENCE or probe.remaining == 0:
            break
        evaluation = present.evaluation
        vector = state.update(
            present.working_distance,
            evaluation.score,
            evaluation.variance,
            evaluation.entropy,
            probe.magnification,
        )
        action = controller(vector) * controller.maximum(probe.magnification)
        present = probe.measure(present.working_distance + action, "control")
        if present.score > best.score:
            best, idle = present, 0
        else:
            idle += 1
    return best


def _bind(networks: Networks) -> partial[Outcome]:
    return partial(focus, controller=networks.controller("paper"))


METHOD = Method(
    name="paper",
    description="the published loop: search to score > 2, ACNet, best of 20 frames; no verification",
    bind=_bind,
    max_frames=300,
)
