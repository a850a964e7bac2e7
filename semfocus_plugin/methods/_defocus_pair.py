"""Focus in the fewest frames: read the defocus off blur and spectra, step onto the focus, verify.

The first frame shows how far away the focus is, not on which side; the second is taken where the focus would be, and
is its own verification when the side was right; the third is there when it was not. All frames together, each by its
blur and each pair by the ratio of its spectra, make a posterior over working distance (`semfocus_plugin.optics`),
which chooses every step and decides when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np

from semdrivers.errors import ModelError
from semdrivers.focus import Astigmatism
from semfocus_plugin.methods._stigmation import Stigmation
from semfocus_plugin.networks import Networks
from semfocus_plugin.optics import (
    HALF_SCORE,
    PLAIN,
    UNKNOWN,
    Beam,
    Estimate,
    Posterior,
    Sighting,
    depth_of_field,
    half_blur,
    ideal_score,
    period_of,
    spectrum,
)
from semfocus_plugin.run import (
    DETAIL,
    HOPELESS,
    NOISE,
    FocusRun,
    Measurement,
    Method,
    Outcome,
    best_of,
    beyond_line_foci,
    share_of_contrast,
    shows_nothing,
    sighting_of,
)

MAX_FRAMES = 20

SURE = 0.9
"""Probability of ±1 depth of field, or of ±2 with frames on both sides, that ends the search."""

LIKELY = 0.5
"""Probability that a place at a limit is the focus, below which it is refused where the focus is known."""

ABOUT = 3.0
"""Depths of field of uncertainty within which flanks are the next frames."""

ABOUT_SURE = 0.75
"""Probability of that much that makes it so."""

FLANK = 4.5
"""Depths of field from the focus to a flank: the steepest part of the score curve."""

LEAST_STEP = 1.5
"""Depths of field between two frames, at least."""

NEAR = 1.0
"""Depths of field from the estimate within which a frame verifies it."""

WORSE = 1.5
"""A frame on a flank scores at least this much less than the best."""

SHOWN = 2.25
"""A difference of scores that shows, without flanks, that they depend on the working distance."""

CONTRAST = 1.5
"""Least amount by which the focus must outscore a frame that is out of focus."""

CLEAR = 0.99
"""Probability of astigmatism from which line foci on either side give the circle of least confusion."""

CHANGES = 1.1
"""Least ratio of the fine structure at the focus to the least seen: a picture that defocus leaves as it is has none."""

TURNS = 1.5
"""Least ratio of what two frames show along some direction, as a share of all, where astigmatism alone changes them."""

LEAST_SHARE = 0.12
"""Of the best score; where astigmatism leaves less, a focus does not differ from its surroundings."""

SHARP_BLUR = 2.0
"""Largest blur radius, pixels, of a frame that may be in focus where nothing out of focus can be seen."""

PATIENCE = 6
"""Frames after which a run ends that has not seen that much."""

PATIENCE_ZOOMED = 9
"""The same for a run that may change the magnification, where the frames hold more than noise."""

PATIENCE_PERIODIC = 14
"""The same for a periodic sample, whose score says little, and for frames that hold more than noise, if not plainly."""

LOST = 4
"""Frames of a periodic sample after which, where none is plain, every other place is one not looked at so far."""

SHOWS = 0.4
"""Periods of blur radius within which a periodic sample is plain."""

LOBE = 0.82
"""Periods of blur radius at which a periodic sample comes back with reversed contrast."""

ALIKE = 0.99
"""Share of the most fine structure from which a frame shows as much."""

BLIND = 0.0
"""ln of the standard deviation of ln(1 + blur radius) from which a network reads no blur off a frame."""

OUTSHINES = 2.0
"""Least ratio of the fine structure in focus to that of a frame out of focus, for a periodic sample."""

UNREAD = 0.8
"""Probability of a sample that the network misreads in every frame, from which fine structure alone counts."""

MOST_UNREAD = 0.8
"""Most confidence in a focus on such a sample: lines along one direction are sharp at a line focus, too."""

ELONGATED = 0.5
"""Least ln ratio of 1 + the larger radius to 1 + the round blur that a frame of a line focus shows; foci have 0.45."""

LINE = 4.5
"""Score below which its larger radius is beyond a depth of field."""

LOWEST_LOOK = 500.0
"""Lowest magnification worth a look, and that of the first where it may be chosen: it sees 20 mm of defocus."""

COMFORT = 40.0
"""Depths of field of uncertainty that a magnification should have, when it may be chosen."""


def focus(run: FocusRun, accept: float) -> Outcome:
    """See the module's description."""
    target = run.magnification
    if run.may_change_magnification:
        _look(run, _lowest(run, target))
    run.measure(run.working_distance, "search")
    return settle(run, accept, target)


def settle(run: FocusRun, accept: float, target: float) -> Outcome:
    """Return the outcome for a magnification by all frames that the run has, and as many more as that takes."""
    sightings: list[Sighting] = []
    stigmation = Stigmation(run)
    place: float | None = None
    phase = "search"
    while True:
        if place is not None:
            run.measure(place, phase)
        sightings += map(sighting_of, run.measurements[len(sightings) :])
        seen = run.measurements
        posterior = stigmation.posterior(sightings, seen[0].pixel * seen[0].magnification / target)
        run.posterior = posterior.quantiles()
        near = _found(posterior, run)
        at_target = [m for m in seen if _same(m.magnification, target)]
        place = stigmation.next(posterior, near, at_target) if _within(run, near) else None
        if place is not None:
            _look(run, target)
            phase = "stigmate"
            continue
        if near.mass >= SURE and _within(run, near):
            stigmated = [m for m in at_target if m.setting == stigmation.setting]
            close = [m for m in stigmated if abs(m.working_distance - near.working_distance) <= _reach(run, near)]
            if not close:
                _look(run, target)
                place, phase = near.working_distance, "verify"
                continue
            unread = _unread(posterior, sightings)
            best = max(close, key=_sharpness if posterior.period is None and not unread else _structure)
            blurred = min(map(_sharpness, seen))
            period = posterior.period
            if period is None and best.detail < PLAIN:
                period = period_of(best.image.pixels)
            flank = None if period is None else _unseen_lobe(run, period, near, at_target)
            if flank is not None:
                place, phase = flank, "verify"
                continue
            least = LEAST_STEP * near.unit
            open_flanks = _open_flanks(run, near, at_target, unread)
            flank = next((place for place in open_flanks if not _taken(run, place, at_target, least)), None)
            share = _share_of_peak(posterior, near)
            narrow = near.half_width < 1.5 * run.fineness * near.unit
            if flank is None and not narrow and not _taken(run, near.working_distance, stigmated, 0.5 * near.unit):
                flank = near.working_distance  # a focus that is known to two depths of field gets a frame of its own
            pinned = narrow and _sharpness(best) - blurred >= SHOWN * share
            pinned = pinned and (run.beam.sigma is not None or _sides_known(seen, best))
            pinned = pinned and (share < 1 or _sharp(best)) and _changes(best, seen) and not unread
            stepped = None if _shows_astigmatism(posterior) else _sharpest_step(run, near, stigmated)
            beside = None if stepped is None else _open_step(run, stepped, at_target)
            if (flank is None or pinned) and beside is not None:
                flank, pinned = beside, False
            if flank is None or pinned:
                if unread:
                    outcome = _judge_unread(run, best, at_target, near, accept)
                else:
                    outcome = _judge(run, best, blurred, near, accept, posterior)
                if outcome.focused and stepped is not None:
                    outcome = replace(outcome, working_distance=stepped.working_distance)
                if period is None and best.detail >= PLAIN:
                    period = period_of(best.image.pixels)
                if period is not None:
                    beyond = _line_foci(posterior, near)
                    others = [m for m in at_target if abs(m.working_distance - near.working_distance) > beyond]
                    outcome = _judge_periodic(period, best, others, near, outcome, posterior.period is not None)
                return _ended(run, outcome, stigmation, posterior, near)
            place, phase = flank, "verify"
            continue
        refusal = _hopeless(run, posterior, sightings, seen)
        if refusal:
            best = best_of(seen)
            return Outcome(False, refusal, best.working_distance, best.score)
        if _beyond(run, posterior, near, at_target):
            outcome = _sharpest(run, posterior, at_target, near, accept)
            return _ended(run, outcome, stigmation, posterior, near)
        if run.may_change_magnification:
            _look(run, _comfortable(run, posterior, target))
        here = [m for m in seen if _same(m.magnification, run.magnification)]
        place, phase = _past_the_lobes(run, posterior, sightings, here), "search"
        if not run.may_change_magnification and not any(s.structure for s in sightings):
            dark = posterior.in_the_dark(sightings, run.limits.minimum, run.limits.maximum)
            place = None if dark is None or _taken(run, dark, here, 0.0) else dark
        place = _next(run, posterior, here) if place is None else place  # 0 mm is a place, too
        if place is None:
            outcome = _sharpest(run, posterior, at_target, near, accept)
            return _ended(run, outcome, stigmation, posterior, near)


def _periodic(posterior: Posterior, sightings: list[Sighting]) -> bool:
    return posterior.period is not None or any(s.period is not None for s in sightings)


def _unread(posterior: Posterior, sightings: list[Sighting]) -> bool:
    """Return whether the network misreads the sample, so that fine structure alone counts."""
    if _periodic(posterior, sightings) or _shows_astigmatism(posterior):
        return False
    return posterior.unread >= UNREAD or any(s.misread for s in sightings)


def _unseen_lobe(run: FocusRun, period: float, near: Estimate, here: list[Measurement]) -> float | None:
    """Return a place where a periodic sample would show more if the estimate were a false focus, or None.

    Where the blur radius is 0.82 periods, and again every half period further out, contrast comes back reversed; a
    lobe nearer to the focus is always the stronger one.
    """
    away = LOBE * period * here[0].pixel / math.hypot(here[0].pixel, run.core) * near.unit
    for side in (1, -1):
        offsets = [side * (m.working_distance - near.working_distance) / away for m in here]
        place = near.working_distance + side * away
        if run.limits.minimum <= place <= run.limits.maximum and not any(0.7 <= u <= 1.6 for u in offsets):
            return place
    return None


def _past_the_lobes(
    run: FocusRun, posterior: Posterior, sightings: list[Sighting], here: list[Measurement]
) -> float | None:
    """Return the nearest place to the frame that shows most where a periodic sample would be plain in focus, or None.

    Lobes all look like a focus nearby, and on them the frames say little of which way it lies; nearer ones show more.
    """
    periods = [s.period for s in sightings if s.period is not None]
    if len(here) < LOST or len(here) % 2 or not periods or any(m.detail >= PLAIN for m in here):
        return None
    pixel = here[0].pixel
    reach = SHOWS * min(periods) * pixel / math.hypot(pixel, run.core) * run.depth_of_field
    low, high = run.limits.minimum, run.limits.maximum
    taken = sorted(m.working_distance for m in here)
    places = [
        max(low, taken[0] - 2 * reach),
        *(0.5 * (a + b) for a, b in pairwise(taken)),
        min(high, taken[-1] + 2 * reach),
    ]
    new = [place for place in places if min(abs(place - other) for other in taken) >= reach]
    most = max(sightings, key=lambda s: s.power).working_distance
    return min(new, key=lambda place: abs(place - most), default=None)


def _judge_periodic(
    period: float, best: Measurement, others: list[Measurement], near: Estimate, outcome: Outcome, misled: bool
) -> Outcome:
    """Return the outcome on a periodic sample: its fine structure decides, and not what a `misled` network sees.

    Where frames show little but noise, what repeats itself in them may be the noise.
    """
    most = max((m.structure for m in others), default=0.0)
    least = min((m.structure for m in others), default=best.structure)
    place = f"the sample repeats itself every {period:.0f} pixels"
    if best.structure < most:
        reason = f"{place}, and another working distance shows more of it than the best one found: move the stage"
        return replace(outcome, focused=False, reason=reason, confidence=0.0)
    if outcome.focused or best.detail < DETAIL or best.structure < OUTSHINES * max(least, 1e-12):
        return outcome
    blind = best.evaluation.log_sigma is not None and best.evaluation.log_sigma > BLIND
    low = best.score < METHOD.accept_score and not blind
    if low or not misled:
        # A network may read a large blur off the sharpest frame; the contrast of so plain a one is never reversed.
        sides = {m.working_distance > near.working_distance for m in others if OUTSHINES * m.structure < best.structure}
        if best.detail < PLAIN or len(sides) < 2:
            return outcome
    reason = f"score {best.score:.1f}; {place}, and shows most here"
    return replace(outcome, focused=True, reason=reason, working_distance=near.working_distance, confidence=near.mass)


def _judge_unread(run: FocusRun, best: Measurement, here: list[Measurement], near: Estimate, accept: float) -> Outcome:
    """Return the outcome on a sample that the network misreads: its fine structure falls to half on either side."""
    sides = {m.working_distance > near.working_distance for m in here if OUTSHINES * m.structure <= best.structure}
    others = [m.structure for m in here if abs(m.working_distance - best.working_distance) > near.unit]
    reason = ""
    if best.detail < DETAIL:
        reason = "the sharpest frame shows little but noise; move the stage, or scan more slowly"
    elif best.score < accept > METHOD.accept_score:
        reason = f"the best place found scores {best.score:.1f}, below {accept:g}"
    elif len(sides) < 2 or max(others) > best.structure / ALIKE:
        reason = (
            "the network misreads this sample, and its fine structure does not fall on either side of the best place "
            "found: move the stage, or widen the limits"
        )
    if reason:
        return Outcome(False, reason, best.working_distance, best.score)
    reason = f"score {best.score:.1f}; the network misreads this sample, and its fine structure shows most here"
    confidence = min(near.mass, MOST_UNREAD)
    return Outcome(True, reason, run.limits.clip(near.working_distance), best.score, confidence)


def _structure(m: Measurement) -> float:
    return m.structure


def _sharpest_step(run: FocusRun, near: Estimate, here: list[Measurement]) -> Measurement | None:
    """Return the frame about the estimate that shows most, for a lens whose steps are coarse; else None.

    Where the parts of a sample lie at several distances, that may be two depths of field away.
    """
    step = run.limits.step
    reach = max(1.5 * step, 2 * near.unit)
    nearby = [m for m in here if abs(m.working_distance - near.working_distance) <= reach]
    if step <= 0.5 * run.fineness * near.unit or not nearby:
        return None
    most = max(m.structure for m in nearby)
    alike = [m for m in nearby if m.structure >= ALIKE * most]
    return min(alike, key=lambda m: abs(m.working_distance - near.working_distance))


def _open_step(run: FocusRun, about: Measurement, here: list[Measurement]) -> float | None:
    """Return the step beside a frame at which there is none yet, or None."""
    step = run.limits.step
    places = (about.working_distance + step, about.working_distance - step)
    within = (place for place in places if run.limits.minimum <= place <= run.limits.maximum)
    return next((place for place in within if not _taken(run, place, here, 0.4 * step)), None)


def _sides_known(seen: Sequence[Measurement], best: Measurement) -> bool:
    """Return whether the frames show where the focus is without a known aperture.

    Two frames leave both sides of the sharper one open, and the first frame alone is no evidence that the lens moves.
    """
    return len(seen) > 2 and any(_sharpness(best) - _sharpness(m) >= WORSE for m in seen[1:])


def _shows_astigmatism(posterior: Posterior) -> bool:
    """Return whether the frames show an astigmatism that alone distinguishes the focus from its surroundings."""
    found = posterior.astigmatism()
    return found is not None and posterior.astigmatic >= CLEAR and math.hypot(found[0], found[1]) >= 4 * found[2]


def _line_foci(posterior: Posterior, near: Estimate) -> float:
    """Return how far from the focus, mm, a sample of one direction may show more of it than at the focus."""
    found = posterior.astigmatism()
    amount = 0.0 if found is None or posterior.astigmatic < SURE else math.hypot(found[0], found[1])
    return beyond_line_foci(near.unit, amount)


def _share_of_peak(posterior: Posterior, near: Estimate) -> float:
    """Return what the astigmatism leaves of the best score at the circle of least confusion, 1 where there is none."""
    found = posterior.astigmatism()
    if found is None or posterior.astigmatic < SURE:
        return 1.0
    amount = math.hypot(found[0], found[1]) / near.unit
    share = 1 / (1 + (amount / HALF_SCORE) ** 2)
    return share if share >= LEAST_SHARE else 1.0


def _sharpness(m: Measurement) -> float:
    """Return the score of a frame by its blur in pixels alone, 0 to 9: a wide probe does not forgive any."""
    if m.evaluation.log_blur is None:
        return m.score
    return ideal_score(m.evaluation.log_blur, half_blur(m.pixel, min(UNKNOWN, m.pixel)))


def _reach(run: FocusRun, near: Estimate) -> float:
    """Return how far from the estimate a frame verifies it, mm: the lens may have coarser steps."""
    return max(NEAR * run.fineness * near.unit, 0.5 * run.limits.step)


def _found(posterior: Posterior, run: FocusRun) -> Estimate:
    """Return the likeliest ±1 depth of field where that is sure, else the likeliest ±2."""
    unit = run.fineness * posterior.unit(run.working_distance)
    narrow = posterior.best(unit)
    return narrow if narrow.mass >= SURE else posterior.best(2 * unit)


def _next(run: FocusRun, posterior: Posterior, here: list[Measurement]) -> float | None:
    """Return where to look next, or None when no place is left that could show more.

    Far from the focus: the middle of the likeliest gap between the frames taken, at whatever magnification: between the
    two places that one frame leaves there is nothing to see. Near it: the likeliest place, then
    where the blur changes fastest with working distance, on the side that has no such frame yet; two flanks pin the
    focus between them, whatever floor the blur has. Last, the limits of the run.
    """
    unit = posterior.unit(run.working_distance)
    about = posterior.best(ABOUT * unit)
    for place in _places(run, posterior, about, here):
        if not _taken(run, place, here, 0.4 * unit):
            return place
    return None


def _places(run: FocusRun, posterior: Posterior, about: Estimate, here: list[Measurement]) -> Iterator[float]:
    """Yield places worth a look, the best first."""
    taken = [m.working_distance for m in here]
    if about.mass >= ABOUT_SURE:
        if all(abs(other - about.working_distance) > LEAST_STEP * about.unit for other in taken):
            yield run.limits.clip(about.working_distance)
        yield from _open_flanks(run, about, here)
    everywhere = [m.working_distance for m in run.measurements]
    place = posterior.likeliest_gap(everywhere, run.limits.minimum, run.limits.maximum)
    least = LEAST_STEP * posterior.unit(place)
    below = [other for other in taken if other <= place]
    above = [other for other in taken if other > place]
    if below and place - max(below) < least:
        place = max(below) + least
    elif above and min(above) - place < least:
        place = min(above) - least
    place = run.limits.clip(place)
    if all(abs(other - place) >= 0.7 * least for other in taken):
        yield place
    # No room is left between the frames about here: only the flanks can show more.
    yield from _open_flanks(run, about, here)
    yield place
    yield run.limits.clip(about.working_distance)
    middle = run.working_distance
    reach = FLANK * posterior.unit(middle)
    yield from (run.limits.clip(middle + step) for step in (reach, -reach))


def _taken(run: FocusRun, place: float, here: list[Measurement], tolerance: float) -> bool:
    """Return whether there is a frame at a place, or so near that the lens cannot distinguish them."""
    nearest = min((abs(m.working_distance - run.snap(place)) for m in here), default=math.inf)
    return nearest <= max(min(tolerance, 0.2 * (run.limits.maximum - run.limits.minimum)), 0.51 * run.limits.step)


def _open_flanks(run: FocusRun, about: Estimate, here: list[Measurement], unread: bool = False) -> Iterator[float]:
    """Yield a place on each side of the estimate that lacks a frame clearly worse than the best.

    On an `unread` sample that is one of half the fine structure.

    Where a frame is there already and is not worse, the place is further out; on a side without room it is
    the limit, if that is a depth of field away from the estimate and from every frame.
    """
    top = max(map(_structure if unread else _sharpness, here), default=9.0)
    most = top / OUTSHINES if unread else top - WORSE
    offsets = [
        ((m.working_distance - about.working_distance) / about.unit, m.structure if unread else _sharpness(m))
        for m in here
    ]
    nearest = min(offsets, key=lambda offset: abs(offset[0]), default=(0.0, 0.0))[0]
    for side in (1, -1) if nearest <= 0 else (-1, 1):
        if any(0.5 * FLANK <= side * offset <= 2.2 * FLANK and shown <= most for offset, shown in offsets):
            continue
        beyond = sum(0.7 * FLANK < side * offset <= 2.2 * FLANK for offset, _ in offsets)
        place = about.working_distance + side * FLANK * (1 + beyond) * about.unit
        if run.limits.minimum <= place <= run.limits.maximum:
            yield place
            continue
        edge = run.limits.clip(place)
        apart = min((abs(m.working_distance - edge) for m in here), default=math.inf)
        if side * (edge - about.working_distance) >= about.unit and apart >= max(about.unit, 0.51 * run.limits.step):
            yield edge


def _within(run: FocusRun, near: Estimate) -> bool:
    return run.limits.minimum - near.unit <= near.working_distance <= run.limits.maximum + near.unit


def _hopeless(run: FocusRun, posterior: Posterior, sightings: list[Sighting], seen: tuple[Measurement, ...]) -> str:
    """Return why to give up, or an empty text."""
    nothing = [shows_nothing(m) for m in seen]
    if len(seen) >= 2 and all(nothing):
        return nothing[-1]
    best = max(m.score for m in seen)
    shown = max((m.score for m, s in zip(seen, sightings, strict=True) if s.structure), default=0.0)
    noise = sum(m.correlation <= NOISE for m in seen)
    patience = PATIENCE_ZOOMED if run.may_change_magnification and 2 * noise <= len(seen) else PATIENCE
    if _periodic(posterior, sightings) or _unread(posterior, sightings) or best >= HOPELESS or any(map(_plain, seen)):
        patience = PATIENCE_PERIODIC
    if len(seen) >= patience and shown < HOPELESS:
        if best >= HOPELESS:
            return (
                f"{len(seen)} frames show little but noise (best score {best:.1f}); move the stage, scan more slowly, "
                "or start nearer to the focus"
            )
        return (
            f"{len(seen)} frames show nothing to focus on (best score {best:.1f}); move the stage, or start "
            "nearer to the focus"
        )
    return ""


def _ended(run: FocusRun, outcome: Outcome, stigmation: Stigmation, posterior: Posterior, near: Estimate) -> Outcome:
    """Return the outcome with the beam as measured, what became of the stigmator, and what remains of astigmatism.

    A focus without the stigmator is none that was asked for. What remains is reported where the frames show it to half
    a depth of field, or to a third of it.
    """
    if outcome.focused:
        outcome = stigmation.ended(outcome, posterior, near)
    outcome = replace(outcome, beam=posterior.measured_beam())
    found = stigmation.residual(posterior)
    if found is None or not outcome.focused or (run.stigmator is None and posterior.astigmatism() is None):
        return outcome
    if found.sigma > max(0.5 * near.unit, found.amount / 3):
        return outcome
    x, y, sigma = (1e3 * value for value in (found.x, found.y, found.sigma))
    return replace(outcome, astigmatism=Astigmatism(x, y, sigma, found.unseen))


def _sharp(m: Measurement) -> bool:
    """Return whether a frame is as sharp as any frame of a sample with fine structure gets."""
    least = ideal_score(math.log1p(SHARP_BLUR), half_blur(m.pixel, min(UNKNOWN, m.pixel)))
    return _sharpness(m) >= least and m.detail >= DETAIL


def _at_limit(run: FocusRun, near: Estimate) -> float | None:
    """Return the limit (mm) at or beyond which the focus seems to lie, or None."""
    low, high = run.limits.minimum, run.limits.maximum
    if near.working_distance > high - 0.5 * near.unit:
        return high
    return low if near.working_distance < low + 0.5 * near.unit else None


def _judge(
    run: FocusRun, best: Measurement, blurred: float, near: Estimate, accept: float, posterior: Posterior
) -> Outcome:
    """Return the outcome at the estimated focus, given the sharpness of a frame out of focus.

    Astigmatism leaves a share of the best score, and of what the score falls by out of focus; where it shows clearly,
    the score may be no less at the line foci.
    """
    share, astigmatic = _share_of_peak(posterior, near), _shows_astigmatism(posterior)
    contrast = (_sharpness(best) - blurred) / share
    if _elongated(best):
        reason = (
            f"the sharpest frame is blurred along one direction (score {best.score:.1f}): a line focus of astigmatism, "
            "or a sample of lines; correct the stigmator, or move the stage to detail in all directions"
        )
        return Outcome(False, reason, best.working_distance, best.score)
    if best.score < (accept * share if accept <= METHOD.accept_score else accept):
        reason = f"the best place found scores {best.score:.1f}, below {accept:g}"
        return Outcome(False, reason, best.working_distance, best.score, retry=False)
    if best.detail < DETAIL:
        reason = (
            f"the sharpest frame shows little but noise (score {best.score:.1f}); move the stage, or scan more slowly"
        )
        return Outcome(False, reason, best.working_distance, best.score)
    edge = _at_limit(run, near)
    note = "" if edge is None else f"; the sharpest place is at the limit of {edge:.3f} mm, the focus may lie beyond it"
    place = run.limits.clip(near.working_distance)
    mass = _mass_about(posterior, near, place)
    changes = _changes(best, run.measurements)
    if contrast >= CONTRAST and changes:
        confidence = mass * min(1.0, contrast / (2 * CONTRAST))
        reason = f"score {best.score:.1f}, {contrast:.1f} above out of focus{note}"
        return Outcome(True, reason, place, best.score, confidence, at_limit=edge is not None)
    if astigmatic and (changes or _turns(run.measurements)):
        reason = f"score {best.score:.1f}, halfway between the line foci of the astigmatism{note}"
        return Outcome(True, reason, place, best.score, mass, at_limit=edge is not None)
    if _sharp(best) and not _room(run, near, posterior.measured_beam()):
        reason = f"score {best.score:.1f}, as sharp as a frame of this sample gets within these limits{note}"
        return Outcome(True, reason, place, best.score, mass, at_limit=edge is not None)
    what = (
        "the score hardly depends on the working distance"
        if contrast < CONTRAST
        else ("the picture hardly depends on the working distance, though its score does")
    )
    reason = (
        f"{what} ({_sharpness(best):.1f} here, {blurred:.1f} out of focus); "
        "the sample shows nothing to focus on here: move the stage"
    )
    return Outcome(False, reason, best.working_distance, best.score)


def _elongated(m: Measurement) -> bool:
    """Return whether a frame shows a line, as at a line focus, where the round blur most like it seems sharp."""
    larger, blur = m.evaluation.log_larger, m.evaluation.log_blur
    if larger is None or blur is None:
        return False
    return larger - blur >= ELONGATED and m.score < LINE


def _changes(best: Measurement, seen: Sequence[Measurement]) -> bool:
    """Return whether defocus changes the picture: its fine structure, or the share of that in the whole contrast.

    Where the instrument adjusts the contrast of every frame, only the share counts.
    """
    least = min(m.structure for m in seen)
    return best.structure > CHANGES * least or share_of_contrast(best) > CHANGES * min(map(share_of_contrast, seen))


def _turns(seen: Sequence[Measurement]) -> bool:
    """Return whether frames differ in the directions that they show: halfway between line foci they may show less."""
    shown = np.array([np.maximum(spectrum(m.image.pixels).sectors, 0.0).sum(axis=1) for m in seen]) + 1e-30
    shown /= shown.sum(axis=1, keepdims=True)
    return bool((shown.max(axis=0) > TURNS * shown.min(axis=0)).any())


def _plain(m: Measurement) -> bool:
    return m.detail >= PLAIN


def _room(run: FocusRun, near: Estimate, beam: Beam) -> bool:
    """Return whether the limits leave room for a frame out of focus, by the aperture that the frames say."""
    away = max(near.working_distance - run.limits.minimum, run.limits.maximum - near.working_distance)
    unit = run.fineness * depth_of_field(run.pixel, run.core, float(beam.angle(near.working_distance)))
    return away >= FLANK * max(near.unit, unit)


def _sharpest(run: FocusRun, posterior: Posterior, seen: list[Measurement], near: Estimate, accept: float) -> Outcome:
    """Return the outcome where no place is left to look at: the sharpest frame, if it is sharp, else a refusal."""
    best = max(seen or run.measurements, key=_sharpness)
    blurred = min(map(_sharpness, seen), default=0.0)
    place = run.limits.clip(near.working_distance)
    away = abs(place - near.working_distance)
    if near.mass >= SURE and away <= near.unit:
        return _judge(run, best, blurred, near, accept, posterior)
    edge = min(run.limits.minimum, run.limits.maximum, key=lambda limit: abs(limit - best.working_distance))
    beyond = abs(best.working_distance - edge) <= max(0.5 * near.unit, 0.51 * run.limits.step)
    lies = f"the focus may lie beyond the limit of {edge:.3f} mm"
    if near.mass >= SURE and posterior.mass_between(place - near.unit, place + near.unit) < LIKELY:
        lies = f"the focus lies about {away:.3f} mm beyond the limit of {place:.3f} mm"
    elif _sharp(best) and best.score >= accept:
        reason = f"score {best.score:.1f}, the sharpest place within these limits"
        reason += f", as sharp as a frame of this sample gets; {lies}" if beyond else ""
        confidence = _mass_about(posterior, near, best.working_distance)
        return Outcome(True, reason, best.working_distance, best.score, confidence, at_limit=beyond)
    reason = f"the sharpest place within these limits scores {best.score:.1f}, at {best.working_distance:.3f} mm"
    reason += (
        f"; {lies}: widen bounds or max_travel, or move the stage where the sample itself is not sharp"
        if beyond
        else ", and no other frame would say more: move the stage"
    )
    return Outcome(False, reason, best.working_distance, best.score, at_limit=beyond)


def _beyond(run: FocusRun, posterior: Posterior, near: Estimate, here: list[Measurement]) -> bool:
    """Return whether the focus lies beyond a limit at which there is a frame already: none within shows more.

    A sample that is not sharp itself looks like that, too, so a sharp frame contradicts it unless a place is known; two
    frames leave both sides of the sharper one open.
    """
    edges = (run.limits.minimum, run.limits.maximum)
    if not any(abs(m.working_distance - edge) <= max(0.51 * run.limits.step, 1e-6) for m in here for edge in edges):
        return False
    outside = 1 - posterior.mass_between(*edges)
    known = len(here) > 2 and near.mass >= SURE and not _within(run, near)
    return known or (outside > SURE and not _sharp(max(here, key=_sharpness)))


def _mass_about(posterior: Posterior, near: Estimate, place: float) -> float:
    """Return the probability that the focus is within the half-width of an estimate of a place near it."""
    if place == near.working_distance:
        return near.mass
    return posterior.mass_between(place - near.half_width, place + near.half_width)


def _comfortable(run: FocusRun, posterior: Posterior, target: float) -> float:
    """Return the highest magnification, up to the target, whose depth of field the present uncertainty suits."""
    piece = posterior.narrowest(0.9)
    ratio = piece.half_width / (COMFORT * piece.unit)
    return max(target / max(1.0, ratio), _lowest(run, target))


def _lowest(run: FocusRun, target: float) -> float:
    return min(target, max(LOWEST_LOOK, run.magnification_range.minimum))


def _look(run: FocusRun, magnification: float) -> None:
    if run.may_change_magnification and not _same(magnification, run.magnification):
        run.set_magnification(magnification)


def _same(magnification: float, other: float) -> bool:
    return math.isclose(magnification, other, rel_tol=1e-2)


def _bind(networks: Networks) -> partial[Outcome]:
    if networks.evaluator.blur_range is None:
        raise ModelError("method 'defocus-pair' needs an AENet that reports blur; use method 'dual-network'")
    return partial(focus)


METHOD = Method(
    name="defocus-pair",
    description="defocus read off the blur of two or three frames, fused over all frames, verified by AENet",
    bind=_bind,
    max_frames=MAX_FRAMES,
    attempts=1,
    stigmates=True,
)
