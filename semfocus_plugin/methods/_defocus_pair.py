"""Focus in the fewest frames: read the defocus off blur and spectra, step onto the focus, verify.

The first frame tells how far away the focus is, not on which side; the second is taken where the focus would be, and
is its own verification when the side was right; the third is there when it was not. All frames together, each by its
blur and each pair by the ratio of its spectra, make a posterior over working distance (`semfocus_plugin.optics`),
which chooses every step and decides when to stop.
"""

from __future__ import annotations

import math
from functools import partial

from semdrivers.errors import ModelError
from semfocus_plugin.networks import Networks
from semfocus_plugin.optics import NOMINAL_APERTURE, Estimate, Posterior, Sighting, spectrum
from semfocus_plugin.run import HOPELESS, NOISE, FocusRun, Measurement, Method, Outcome, best_of, shows_nothing

MAX_FRAMES = 20

SURE = 0.9
"""Probability of ±1 depth of field, or of ±2 with frames on both sides, that ends the search."""

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

WORSE = 1.0
"""A frame on a flank scores at least this much less than the best."""

SHOWN = 2.25
"""A difference of scores that shows, without flanks, that they depend on the working distance."""

CONTRAST = 1.5
"""Least amount by which the focus must outscore a frame that is out of focus."""

PATIENCE = 6
"""Frames after which a run that has not seen that much ends; …"""

PATIENCE_ZOOMED = 9
"""… and one that may change the magnification, and whose frames hold more than noise."""

BEYOND = 60.0
"""Pixels of blur that the interval of possible places extends beyond the limits."""

LOWEST_LOOK = 500.0
"""Lowest magnification worth a look, and that of the first where it may be chosen: it sees 20 mm of defocus."""

COMFORT = 40.0
"""Depths of field of uncertainty that a magnification should have, when it may be chosen."""


def focus(run: FocusRun, accept: float) -> Outcome:
    """See the module's description."""
    target = run.magnification
    sightings: list[Sighting] = []
    place, phase = run.working_distance, "search"
    if run.may_change_magnification:
        _look(run, _lowest(run, target))
    while True:
        sightings.append(_sighting(run.measure(place, phase)))
        seen = run.measurements
        posterior = _posterior(run, sightings, seen[0].pixel * seen[0].magnification / target)
        near = _found(posterior, run)
        at_target = [m for m in seen if _same(m.magnification, target)]
        if near.mass >= SURE and _within(run, near):
            close = [m for m in at_target if abs(m.working_distance - near.working_distance) <= NEAR * near.unit]
            if not close:
                _look(run, target)
                place, phase = near.working_distance, "verify"
                continue
            best, blurred = best_of(tuple(close)), min(m.score for m in seen)
            flank = _open_flank(run, near, at_target)
            pinned = near.half_width < 1.5 * near.unit and best.score - blurred >= SHOWN
            if flank is None or pinned:
                return _judge(best, blurred, near, accept)
            place, phase = flank, "verify"
            continue
        refusal = _hopeless(run, posterior, seen)
        if refusal:
            best = best_of(seen)
            return Outcome(False, refusal, best.working_distance, best.score)
        if run.may_change_magnification:
            _look(run, _comfortable(run, posterior, target))
        here = [m for m in seen if _same(m.magnification, run.magnification)]
        place, phase = _next(run, posterior, here), "search"


def _found(posterior: Posterior, run: FocusRun) -> Estimate:
    """Return the likeliest ±1 depth of field where that is sure, else the likeliest ±2."""
    unit = posterior.unit(run.working_distance)
    narrow = posterior.best(unit)
    return narrow if narrow.mass >= SURE else posterior.best(2 * unit)


def _posterior(run: FocusRun, sightings: list[Sighting], pixel: float) -> Posterior:
    """Return the posterior over the limits and a little beyond: the focus need not lie within."""
    beyond = BEYOND * pixel / NOMINAL_APERTURE * run.limits.maximum
    low = max(0.2, run.limits.minimum - beyond)
    return Posterior(sightings, low, run.limits.maximum + beyond, pixel, run.aperture, run.core)


def _sighting(m: Measurement) -> Sighting:
    blur, sigma = m.evaluation.log_blur, m.evaluation.log_sigma
    assert blur is not None
    structure = m.correlation > NOISE and not shows_nothing(m)
    return Sighting(
        m.working_distance,
        m.pixel,
        blur,
        sigma if sigma is not None else -1.5,
        structure,
        spectrum(m.image.pixels) if structure else None,
    )


def _next(run: FocusRun, posterior: Posterior, here: list[Measurement]) -> float:
    """Return where to look next.

    Far from the focus: the middle of the likeliest gap between the frames taken, at whatever magnification: between the
    two places that one frame leaves there is nothing to see. Near it: the likeliest place, then
    where the blur changes fastest with working distance, on the side that has no such frame yet; two flanks pin the
    focus between them, whatever floor the blur has.
    """
    taken = [m.working_distance for m in here]
    about = posterior.best(ABOUT * posterior.unit(run.working_distance))
    if about.mass >= ABOUT_SURE:
        if all(abs(other - about.working_distance) > LEAST_STEP * about.unit for other in taken):
            return run.limits.clip(about.working_distance)
        flank = _open_flank(run, about, here)
        if flank is not None:
            return flank
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
    if any(abs(other - place) < 0.7 * least for other in taken):
        # No room is left between the frames about here: only the flanks can tell more.
        return _open_flank(run, about, here) or place
    return place


def _open_flank(run: FocusRun, about: Estimate, here: list[Measurement]) -> float | None:
    """Return a place on a side of the estimate that lacks a frame clearly worse than the best; None when none does.

    Where a frame is there already and is not worse, the place is further out; a side without room is left alone.
    """
    top = max((m.score for m in here), default=9.0)
    offsets = [((m.working_distance - about.working_distance) / about.unit, m.score) for m in here]
    nearest = min(offsets, key=lambda offset: abs(offset[0]), default=(0.0, 0.0))[0]
    for side in (1, -1) if nearest <= 0 else (-1, 1):
        if any(0.5 * FLANK <= side * offset <= 2.2 * FLANK and score <= top - WORSE for offset, score in offsets):
            continue
        beyond = sum(0.7 * FLANK < side * offset <= 2.2 * FLANK for offset, _ in offsets)
        place = about.working_distance + side * FLANK * (1 + beyond) * about.unit
        if run.limits.minimum <= place <= run.limits.maximum:
            return place
    return None


def _within(run: FocusRun, near: Estimate) -> bool:
    return run.limits.minimum - near.unit <= near.working_distance <= run.limits.maximum + near.unit


def _hopeless(run: FocusRun, posterior: Posterior, seen: tuple[Measurement, ...]) -> str:
    """Return why to give up, or an empty text."""
    nothing = [shows_nothing(m) for m in seen]
    if len(seen) >= 2 and all(nothing):
        return nothing[-1]
    best = max(m.score for m in seen)
    noise = sum(m.correlation <= NOISE for m in seen)
    patience = PATIENCE_ZOOMED if run.may_change_magnification and 2 * noise <= len(seen) else PATIENCE
    if len(seen) >= patience and best < HOPELESS:
        return (
            f"{len(seen)} frames show nothing to focus on (best score {best:.1f}); move the stage, or start "
            "nearer to the focus"
        )
    outside = 1 - posterior.mass_between(run.limits.minimum, run.limits.maximum)
    edges = (run.limits.minimum, run.limits.maximum)
    if outside > SURE and any(abs(m.working_distance - edge) < 1e-6 for m in seen for edge in edges):
        return "the focus lies beyond the limits of this run; widen bounds or max_travel, or move the stage"
    return ""


def _judge(best: Measurement, blurred: float, near: Estimate, accept: float) -> Outcome:
    """Return the outcome at the estimated focus, given the score of a frame out of focus."""
    contrast = best.score - blurred
    if best.score < accept:
        reason = f"the best place found scores {best.score:.1f}, below {accept:g}"
        return Outcome(False, reason, best.working_distance, best.score, retry=False)
    if contrast < CONTRAST:
        reason = (
            f"the score hardly depends on the working distance ({best.score:.1f} here, {blurred:.1f} out of focus); "
            "the sample shows nothing to focus on here: move the stage"
        )
        return Outcome(False, reason, best.working_distance, best.score)
    confidence = near.mass * min(1.0, contrast / (2 * CONTRAST))
    reason = f"score {best.score:.1f}, {contrast:.1f} above out of focus"
    return Outcome(True, reason, near.working_distance, best.score, confidence)


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
        raise ModelError("method 'defocus-pair' needs an AENet that tells blur; use method 'dual-network'")
    return partial(focus)


METHOD = Method(
    name="defocus-pair",
    description="defocus read off the blur of two or three frames, fused over all frames, verified by AENet",
    bind=_bind,
    max_frames=MAX_FRAMES,
    attempts=1,
)
