"""What every autofocus method shares: attempts, terminal conditions, verification, refusal, restoring.

A method is a function over a `FocusRun`. It looks for the focus from where the probe stands and says what it
found; the loop gives it a second attempt where that makes sense, leaves the instrument at the focus or back
at the start, and writes the result.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from semdrivers.errors import AutofocusError
from semdrivers.files import counted
from semdrivers.focus import Astigmatism, AutofocusResult, AutofocusSettings, Progress
from semdrivers.microscope import Microscope
from semfocus_plugin import networks as network_files
from semfocus_plugin.networks import Networks
from semfocus_plugin.optics import SURE, Apertures, Beam, View, beam_of, depth_of_field, finding, instrument_of, learned
from semfocus_plugin.run._brightness import Unusable
from semfocus_plugin.run._focus_run import MOST_RETAKES, BudgetSpent, Cancelled, FocusRun
from semfocus_plugin.run._frame_checks import (
    contradiction,
    drawn_into,
    drawn_pixels,
    in_order,
    outshone,
    side_to_look_at,
)
from semfocus_plugin.run._measurement import Measurement
from semfocus_plugin.run._mixtures import averaged, differ, mixture
from semfocus_plugin.run._stigmator import StigmatorEffect

HOPELESS = 1.5
"""A score above this shows that there is something to focus on."""

SHARP = 8.5
"""A score from which there is nothing to be said against the focus."""

_MOST_VIEWS = 4

_AT_BORDER = 0.75
"""Share of the fine structure at the border from which a frame shows nothing else; 0.2 is usual."""

_WORTH_KEEPING = 0.2
"""Relative error up to which what a run has measured of a stigmator is kept: later runs correct by it."""

_ASIDE = (4.5, 2.25)
"""Depths of field from a focus to the frames that show whether its surroundings show less."""

_REPEATS = 2
"""Further frames of one place where frames look like mixtures: a frame that is one late has come with the second."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a method found.

    Parameters
    ----------
    focused : bool
        Whether it stands by it.
    reason : str
        One sentence for a person.
    working_distance : float
        Best working distance, or the most promising one when not focused; mm.
    score : float
        Score there, 0 to 9.
    confidence : float
        0 to 1.
    retry : bool
        When not focused: whether a second attempt from `working_distance` is worthwhile.
    astigmatism : Astigmatism or None
        What remains there, where the method measures it.
    at_limit : bool
        Whether the place is at a limit of the run, so that the true focus may lie beyond it.
    beam : Beam or None
        Half-angle of the beam as the run measured it, where the method does.
    """

    focused: bool
    reason: str
    working_distance: float
    score: float
    confidence: float = 0.0
    retry: bool = False
    astigmatism: Astigmatism | None = None
    at_limit: bool = False
    beam: Beam | None = None


Focus = Callable[[FocusRun, float], Outcome]
"""A method at work: a probe and the least score that counts as focused, in; what it found, out."""


@dataclass(frozen=True, slots=True)
class Method:
    """An autofocus method as the plugin offers it.

    Parameters
    ----------
    name, description : str
        For the settings, and one line for people.
    bind : callable
        From the networks to the working method; called before the instrument is touched.
    max_frames : int
        Frames of a whole run unless the settings say otherwise.
    accept_score : float
        Least score that counts as focused unless the settings say otherwise.
    attempts : int
        How often the method may start.
    stigmates : bool
        Whether it corrects the stigmator where the settings ask for it.
    """

    name: str
    description: str
    bind: Callable[[Networks], Focus]
    max_frames: int
    accept_score: float = 3.0
    attempts: int = 2
    stigmates: bool = False


def run(
    method: Method,
    microscope: Microscope,
    settings: AutofocusSettings,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    *,
    networks: Networks | None = None,
    beam: Beam | None = None,
    core: float | None = None,
    apertures: Apertures | None = None,
    retakes: int = MOST_RETAKES,
    effect: StigmatorEffect | None = None,
    keep_effect: Callable[[StigmatorEffect, int], object] | None = None,
) -> AutofocusResult:
    """Focus `microscope` with `method`.

    Parameters
    ----------
    method : Method
        How to focus.
    microscope : Microscope
        The instrument.
    settings : AutofocusSettings
        Limits and budget.
    progress, cancel
        As in `semdrivers.autofocus`.
    networks : Networks, optional
        The shipped ones by default.
    beam : Beam, optional
        Beam of the instrument as calibrated.
    core : float, optional
        Diameter of the focused probe as calibrated, mm.
    apertures : Apertures, optional
        Where the apertures of instruments are kept; without it nothing is learned.
    retakes : int
        Most spoiled frames of the run that are taken again.
    effect : StigmatorEffect, optional
        What the stigmator does, as calibrated; what the instrument reports by default.
    keep_effect : callable, optional
        Called with what the stigmator does and the frames of the run, where that was not known and the run has measured
        it.

    Returns
    -------
    AutofocusResult
        Focused, with the instrument there; or refused or cancelled, with it back at the start (unless
        ``restore_on_failure`` is False). Magnification is put back in any case, brightness and contrast unless
        focused.

    Raises
    ------
    ModelError
        Before the instrument is touched, when a network cannot be loaded.
    OutOfRangeError
        When the instrument stands outside the bounds; nothing has moved.
    SemDriversError
        Whatever the microscope raises; all has been put back.
    """
    began = time.perf_counter()
    shipped = networks is None
    networks = network_files.load() if networks is None else networks
    focus = method.bind(networks)
    accept = method.accept_score if settings.accept_score is None else settings.accept_score
    if settings.stigmate and not method.stigmates:
        raise AutofocusError(f"method {method.name!r} does not correct the stigmator; leave method out, or stigmate")
    budget = method.max_frames if settings.max_frames is None else settings.max_frames
    capabilities = microscope.capabilities
    instrument = instrument_of(microscope, capabilities) if settings.learn_aperture and apertures is not None else None
    known = apertures.get(instrument) if apertures is not None and instrument is not None else None
    start = beam_of(capabilities, microscope.working_distance, beam, known)
    run = FocusRun(
        microscope,
        settings,
        networks.evaluator,
        budget,
        progress,
        cancel,
        beam=start,
        core=core,
        retakes=retakes,
        effect=effect,
    )
    try:
        status, outcome = _attempt(method, focus, run, accept)
        if outcome.focused:
            run.restore_magnification()
        else:
            run.restore(lens=settings.restore_on_failure)
    except BaseException as error:
        try:
            run.restore()
        except Exception as second:
            error.add_note(f"and the start, {run.start_working_distance:g} mm, could not be put back: {second}")
        raise
    sure = outcome.focused and outcome.confidence >= SURE
    if apertures is not None and instrument is not None and sure and outcome.beam is not None:
        apertures.put(instrument, learned(outcome.beam, known))
    measured = None if run.stigmator is None or run.stigmator.given or not run.stigmator.known else run.stigmator
    if keep_effect is not None and settings.learn_aperture and sure and measured and measured.error <= _WORTH_KEEPING:
        keep_effect(StigmatorEffect(measured.matrix, measured.error, run.working_distance), run.frames)
    cause = "" if status == "cancelled" else _finding(run, outcome)
    return AutofocusResult(
        status=status,
        reason="; ".join(filter(None, (outcome.reason, cause, run.incidents))),
        working_distance=run.working_distance,
        start_working_distance=run.start_working_distance,
        score=outcome.score,
        confidence=min(max(outcome.confidence, 0.0), 1.0) if outcome.focused else 0.0,
        frames=run.frames,
        elapsed=time.perf_counter() - began,
        method=method.name,
        trace=run.trace,
        astigmatism=outcome.astigmatism,
        at_limit=outcome.at_limit,
        stigmator=None if run.stigmator is None else run.stigmator.setting,
        start_stigmator=None if run.stigmator is None else run.stigmator.start,
        posterior=run.posterior,
        provenance={"models": {card.name: card.sha256 for card in network_files.read_manifest()}} if shipped else {},
        depth_of_field=_depth_of_field(run, outcome),
        drift=run.drift,
    )


def _depth_of_field(run: FocusRun, outcome: Outcome) -> float | None:
    """Return the depth of field of the instrument's own pixels where the run ends, mm."""
    if not run.measurements:
        return None
    return run.fineness * depth_of_field(run.pixel, run.core, _half_angle(run, outcome))


def _half_angle(run: FocusRun, outcome: Outcome) -> float:
    """Return the half-angle where the lens stands, rad: as the run measured it, where it did."""
    return run.half_angle if outcome.beam is None else float(outcome.beam.angle(run.working_distance))


def best_of(measurements: tuple[Measurement, ...]) -> Measurement:
    """Return the measurement of the highest score, the earliest of equals."""
    return max(measurements, key=lambda measurement: measurement.score)


def _attempt(method: Method, focus: Focus, run: FocusRun, accept: float) -> tuple[str, Outcome]:
    """Let the method look for the focus, once more from the most promising place where it asks for that."""
    try:
        for attempt in range(method.attempts):
            outcome = _confirmed(run, focus(run, accept))
            if outcome.focused:
                run.restore_magnification()
                run.move(outcome.working_distance)
                run.follow_drift()
                return "focused", outcome
            if not outcome.retry or attempt + 1 == method.attempts:
                break
            run.move(outcome.working_distance)
        return "refused", outcome
    except Cancelled as cancelled:
        why = str(cancelled) or "cancelled by the caller"
        return "cancelled", _unfinished(run, f"{why}, after {counted(run.frames, 'frame')}")
    except Unusable as unusable:
        return "refused", _unfinished(run, str(unusable))
    except BudgetSpent as spent:
        border = _at_border(best_of(run.measurements)) if run.measurements else ""
        return "refused", _unfinished(run, "; ".join(filter(None, (f"no focus could be confirmed {spent}", border))))


def _confirmed(run: FocusRun, outcome: Outcome) -> Outcome:
    """Refuse a focus that a frame contradicts: nobody knows which of them is true.

    A refusal names the border, and what is drawn into every frame.
    """
    nearest = min(run.measurements, key=lambda m: abs(m.working_distance - outcome.working_distance))
    border = _at_border(nearest)
    drawn = drawn_pixels(run.measurements)
    advice = drawn_into(drawn)
    if not outcome.focused:
        return dataclasses.replace(outcome, reason="; ".join(filter(None, (outcome.reason, border, advice))))
    beam = run.beam if outcome.beam is None else outcome.beam
    astigmatism = 0.0 if outcome.astigmatism is None else outcome.astigmatism.amount * 1e-3
    odd = contradiction(
        run.measurements,
        outcome.working_distance,
        float(beam.angle(outcome.working_distance)),
        run.blur_range,
        None if outcome.beam is None else outcome.beam.sigma,
        astigmatism,
    )
    unsound = border or outshone(run.measurements, drawn, outcome.working_distance, run.depth_of_field, astigmatism)
    if unsound:
        reason = "; ".join(filter(None, (unsound, advice)))
        return dataclasses.replace(outcome, focused=False, retry=False, reason=reason)
    place = None if odd is None else _missing_place(run, outcome.working_distance)
    if place is not None:
        run.measure(place, "verify")
        return _confirmed(run, outcome)
    repeated = _repeated(run, outcome)
    if odd is None or in_order(run.measurements, outcome.working_distance) or not repeated.focused:
        return repeated
    frame, seems = odd
    reason = (
        f"the frames contradict each other: with the focus at {outcome.working_distance:.3f} mm, the frame at "
        f"{frame.working_distance:.3f} mm cannot be as {seems} as it is; "
        + (advice or "check frame buffer and lens control, and what disturbs the beam")
    )
    return dataclasses.replace(outcome, focused=False, retry=False, reason=reason)


def _missing_place(run: FocusRun, focus: float) -> float | None:
    """Return where a frame may show that contradicting frames are in order all the same, or None."""
    side = side_to_look_at(run.measurements, focus)
    if side is None or not run.remaining:
        return None
    unit = run.depth_of_field
    places = (run.snap(focus + side * away * unit) for away in _ASIDE)
    taken = [m.working_distance for m in run.measurements]
    return next((place for place in places if min(abs(place - other) for other in taken) >= unit), None)


def _at_border(m: Measurement) -> str:
    """Return what to do about a frame that shows nothing but its border, or an empty text."""
    if network_files.border_share(m.image.pixels) <= _AT_BORDER:
        return ""
    return (
        "what the frames show lies at their border, and blur brings in what is beyond it: move the stage, or enlarge "
        "region"
    )


def _repeated(run: FocusRun, outcome: Outcome) -> Outcome:
    """Refuse a focus of frames that look like mixtures of places, where a second frame of one place confirms that."""
    last = run.measurements[-1]
    frames = [
        m
        for m in run.measurements
        if m.setting == last.setting and math.isclose(m.magnification, last.magnification, rel_tol=1e-2)
    ]
    odd = mixture(frames, outcome.working_distance, run.depth_of_field)
    if odd is None:
        return outcome
    sign, first = odd
    again = [run.measure(first.working_distance, "verify") for _ in range(_REPEATS)]
    if any(differ(one, other) for one, other in itertools.combinations((first, *again), 2)):
        shown = f"frames of {first.working_distance:.3f} mm are not equally sharp, and {sign}"
    elif averaged([*frames, *again]):
        shown = f"{sign}; frames further apart do not share it"
    else:
        return outcome
    reason = (
        f"{shown}: frames hold more than one place; switch off averaging from frame to frame, or have the driver wait "
        "until lens and frame have settled"
    )
    return dataclasses.replace(outcome, focused=False, retry=False, reason=reason)


def _finding(run: FocusRun, outcome: Outcome) -> str:
    """Return what keeps the best place from being sharp, as the frames nearest to it show, or an empty text."""
    if not HOPELESS < outcome.score < SHARP or outcome.working_distance <= 0:
        return ""
    place, last = outcome.working_distance, run.measurements[-1]
    if run.stigmator is not None and run.stigmator.setting != last.setting:
        return ""  # What the frames show has been taken off, or is back, since.
    alike = [
        m
        for m in run.measurements
        if math.isclose(m.pixel, last.pixel, rel_tol=1e-3)
        and m.image.pixels.shape == last.image.pixels.shape
        and m.setting == last.setting
    ]
    nearest = sorted(alike, key=lambda m: abs(m.working_distance - place))[:_MOST_VIEWS]
    if outcome.astigmatism is not None:
        beam = outcome.beam if outcome.beam is not None else run.beam
        unit = depth_of_field(last.pixel, run.core, float(beam.angle(place))) * 1e3
        sentence = _sentence(outcome.astigmatism, unit)
        if sentence:
            return sentence
    views = [View(m.working_distance, last.pixel, m.image.pixels) for m in nearest]
    diagnosis = finding(views, place, aperture=run.aperture, core=run.core)
    return "" if diagnosis is None else diagnosis.sentence


def _sentence(astigmatism: Astigmatism, unit: float) -> str:
    """Return what to do about astigmatism of a depth of field (µm) or more, or an empty text."""
    if astigmatism.amount < max(unit, 3 * astigmatism.sigma):
        return ""
    return (
        f"astigmatism of {astigmatism.amount / unit:.1f} ± {astigmatism.sigma / unit:.1f} depths of field "
        f"({astigmatism.amount:.3g} µm) at {astigmatism.angle:.0f}°: correct the stigmator, then focus again"
    )


def _unfinished(run: FocusRun, reason: str) -> Outcome:
    if not run.measurements:
        return Outcome(False, reason, run.working_distance, 0.0)
    best = best_of(run.measurements)
    return Outcome(
        False,
        f"{reason}; the best score seen was {best.score:.1f} at {best.working_distance:.3f} mm",
        best.working_distance,
        best.score,
    )
