"""Score and step by two networks, made sound: strides that cannot jump over the peak, and evidence for the result.

What differs from the published loop (`semfocus_plugin.methods`):

- strides follow the depth of field (1/M), and a blur that the network can measure shows the way;
- ACNet's steps end at the best frame that it reaches; from there all frames together, by the posterior of
  `defocus-pair`, locate the focus, ask for the frames that are missing, and decide what is reported.
"""

from __future__ import annotations

import math
from functools import partial

from semdrivers.files import counted
from semfocus_plugin.methods._control import RECOGNISED, control
from semfocus_plugin.methods._defocus_pair import settle
from semfocus_plugin.methods._search import zigzag
from semfocus_plugin.networks import Controller, Networks, paper_factor
from semfocus_plugin.run import NOISE, FocusRun, Measurement, Method, Outcome, best_of, shows_nothing

SCORE_STRIDE = 8.0
"""Stride of a search by score alone, in depths of field: within the window of any working distance."""

BLUR_SHARE = 0.8
"""Share of the network's range of blur that is trusted."""

BLUR_STRIDE = 1.25
"""Stride of a search by blur, in trusted ranges: neighbouring frames see past the middle between them."""

REACH = 3.5
"""Reach of the search on both sides in mm, before the factor of equation 5."""

LEAST_REACH = 110.0
"""Least reach of the search in depths of field."""

MOST_REACH = 6.0
"""Largest reach of the search in mm."""

MAX_HALVINGS = 8
"""Most frames spent on the gaps of a search that met nothing."""

MAX_STEPS = 12
PATIENCE = 3
FINE = 0.3
"""A step of fewer depths of field ends the control."""

SPARE = 4
"""Frames that the control leaves for what confirms its result."""

TRACE_OF_DETAIL = 0.01
"""Least detail of a frame whose score is believed."""


def focus(run: FocusRun, accept: float, *, controller: Controller) -> Outcome:
    """Search, control, settle; see the module's description."""
    start = run.measure(run.working_distance, "search")
    nothing = shows_nothing(start)
    if nothing and shows_nothing(run.measure(run.working_distance, "search")):
        return Outcome(False, nothing, run.working_distance, start.score)
    recognised = search(run, start)
    if recognised is None:
        best = best_of(run.measurements)
        reason = (
            f"no sample recognised within reach; the best of {counted(run.frames, 'frame')} scores {best.score:.1f}"
        )
        return Outcome(False, reason, best.working_distance, best.score)
    finest = FINE * run.depth_of_field
    control(run, recognised, controller, steps=MAX_STEPS, patience=PATIENCE, spare=SPARE, finest=finest)
    return settle(run, accept, run.magnification)


def search(run: FocusRun, start: Measurement) -> Measurement | None:
    """Return a frame that scores above 2, or None when none was met within reach."""
    reach = max(REACH * paper_factor(run.magnification), LEAST_REACH * run.depth_of_field)
    reach = min(reach, MOST_REACH)
    trusted = BLUR_SHARE * (run.blur_range or 0.0)
    stride = max(SCORE_STRIDE * run.depth_of_field, BLUR_STRIDE * trusted * run.distance_per_pixel)
    middle = 0.5 * (run.limits.minimum + run.limits.maximum)
    places = zigzag(
        start.working_distance,
        stride,
        run.limits,
        reach,
        first=1 if start.working_distance < middle else -1,
    )
    first = len(run.measurements) - 1
    measurement = start
    while not _recognised(measurement):
        if _shows_blur(measurement, trusted):
            recognised = follow(run, measurement)
            if recognised is not None:
                return recognised
        place = next(places, None)
        if place is None:
            return _narrow(run, first)
        measurement = run.measure(place, "search")
    return measurement


def _narrow(run: FocusRun, first: int) -> Measurement | None:
    """Return a recognised frame from the gaps beside the most promising frame of a vain search, or None.

    The gaps are halved, the one towards the better neighbour first, until they are too narrow to hide the sample.
    """
    for _ in range(MAX_HALVINGS):
        frames = sorted(run.measurements[first:], key=lambda frame: frame.working_distance)
        best = max(range(len(frames)), key=lambda index: _promise(frames[index]))
        if _promise(frames[best]) == -math.inf:
            return None
        gaps = [
            (_promise(frames[other]), 0.5 * (frames[best].working_distance + frames[other].working_distance))
            for other in (best - 1, best + 1)
            if 0 <= other < len(frames)
            and abs(frames[other].working_distance - frames[best].working_distance) > SCORE_STRIDE * run.depth_of_field
        ]
        if not gaps:
            return None
        measurement = run.measure(max(gaps)[1], "search")
        if _recognised(measurement):
            return measurement
    return None


def _promise(measurement: Measurement) -> float:
    """Return a number that grows towards the focus, for frames of one sample; −∞ for nothing but noise."""
    if measurement.correlation < NOISE:
        return -math.inf
    return measurement.score - (measurement.evaluation.log_blur or 0.0)


def follow(run: FocusRun, seen: Measurement, tries: int = 5) -> Measurement | None:
    """Return a frame that scores above 2, found by the blur of the frames; None when the blur misleads.

    One frame shows how far the focus is, not on which side. The second guess is on the other side of the
    first; from then on the fit of all frames decides.
    """
    first = len(run.measurements) - 1
    distance = _distance(run, seen)
    up = seen.working_distance + distance
    target = up if up <= run.limits.maximum else seen.working_distance - distance
    for _ in range(tries):
        measurement = run.measure(target, "search")
        if _recognised(measurement):
            return measurement
        target = _sides(run, run.measurements[first:])
    return None


def _recognised(measurement: Measurement) -> bool:
    return measurement.score > RECOGNISED and measurement.detail > TRACE_OF_DETAIL


def _shows_blur(measurement: Measurement, trusted: float) -> bool:
    """Return whether the frame shows a blur that the network can be believed about."""
    blur = measurement.evaluation.log_blur
    return blur is not None and math.expm1(blur) < trusted and measurement.correlation > NOISE


def _distance(run: FocusRun, measurement: Measurement) -> float:
    blur = measurement.evaluation.log_blur
    return 0.0 if blur is None else math.expm1(blur) * run.distance_per_pixel


def _sides(run: FocusRun, frames: tuple[Measurement, ...]) -> float:
    """Return where the blurs of several frames meet: r² is a parabola in z, with the focus at its foot."""
    candidates = []
    for frame in frames:
        distance = _distance(run, frame)
        candidates += [frame.working_distance - distance, frame.working_distance + distance]

    def misfit(place: float) -> float:
        total = 0.0
        for frame in frames:
            expected = math.log1p(abs(place - frame.working_distance) / run.distance_per_pixel)
            total += min((expected - (frame.evaluation.log_blur or 0.0)) ** 2, 1.0)
        closest = min(abs(place - frame.working_distance) for frame in frames)
        return total + (1.0 if closest < 2 * run.depth_of_field else 0.0)

    within = [place for place in candidates if place in run.limits] or [run.working_distance]
    return min(within, key=misfit)


def _bind(networks: Networks) -> partial[Outcome]:
    return partial(focus, controller=networks.controller("depth-of-field"))


METHOD = Method(
    name="dual-network",
    description="AENet scores, ACNet steps, all frames together locate the focus and confirm it",
    bind=_bind,
    max_frames=40,
    attempts=1,
    stigmates=True,
)
