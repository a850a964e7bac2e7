"""Methods side by side: the same trials for each, on the emulator, through the shipped driver, against its truth."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import Truth, probe_core_of
from semdrivers.errors import InvalidParameterError
from semdrivers.focus import AutofocusSettings
from semdrivers.microscope import HasStage, Microscope, Range
from semfocus_plugin import methods
from semfocus_plugin.lab.benchmark import peers
from semfocus_plugin.lab.benchmark.counted import CountedMicroscope
from semfocus_plugin.lab.benchmark.peers import Answer, Bench, Optics, Peer, pair_bound, zoom_ladder
from semfocus_plugin.lab.benchmark.peers.bench import approach
from semfocus_plugin.lab.benchmark.tracks import ANYWHERE, SPARE, Trial
from semfocus_plugin.lab.parallel import run_all

OURS = tuple(method.name for method in methods.METHODS)
"""Methods of this plugin; everything else is a peer."""

NOMINAL_WORKING_DISTANCE = 15.0
"""mm; where instruments stand before they go to the start, and the probe core that peers are told is computed."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a method made of a trial.

    Parameters
    ----------
    track, method, specimen : str
        Names.
    magnification : float
        Plain number.
    seed : int
        Of the emulator.
    status : str
        ``"focused"`` (the method reports focus), ``"refused"``, or ``"error"`` (it raised).
    reason : str
        The method's sentence, or the error's message.
    start_error : float
        Start minus focus, in depths of field.
    error : float
        Distance of the end from the focus, in depths of field.
    confidence : float or None
        0 to 1; None for methods that give none.
    frames : int
        Every frame.
    dose : float
        Electrons on the final field, in units of one FAST frame there: a frame at half the magnification counts ¼.
    instrument_seconds : float or None
        By the emulator's clock; None for the oracle.
    compute_ms : float or None
        Processor time of the method's own thread a frame, ms, the instrument's calls left out; None for the oracle.
    places : tuple of tuple of float
        Of every frame: distance from the focus in depths of field (both of the final magnification), and
        magnification.
    """

    track: str
    method: str
    specimen: str
    magnification: float
    seed: int
    status: str
    reason: str
    start_error: float
    error: float
    confidence: float | None
    frames: int
    dose: float
    instrument_seconds: float | None
    compute_ms: float | None
    places: tuple[tuple[float, float], ...] = ()

    @property
    def claimed(self) -> bool:
        """Whether the method reports focus."""
        return self.status == "focused"


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, ours first, the oracle last."""
    return (*OURS, *(peer.name for peer in peers.PEERS), pair_bound.NAME)


def descriptions() -> dict[str, str]:
    """Return a line for each method."""
    ours = {method.name: method.description for method in methods.METHODS}
    return ours | {peer.name: peer.description for peer in peers.PEERS} | {pair_bound.NAME: pair_bound.DESCRIPTION}


def choose_methods(names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the methods to run, and those left out with the reason.

    Raises
    ------
    InvalidParameterError
        For an unknown name; the message lists the known ones.
    """
    known = method_names()
    for name in names:
        if name not in known:
            raise InvalidParameterError(f"no method {name!r}; there are {', '.join(known)}")
    chosen = [name for name in known if not names or name in names]
    skipped = {}
    for peer in peers.PEERS:
        missing = peers.missing_packages(peer)
        if peer.name in chosen and missing:
            chosen.remove(peer.name)
            skipped[peer.name] = f"not installed: {', '.join(missing)} (pip install '.[benchmark]')"
    return tuple(chosen), skipped


def applies(method: str, trial: Trial) -> bool:
    """Return whether a method can be asked: the oracle has no answer to a blank sample, nor from beyond its capture."""
    return method != pair_bound.NAME or not (trial.track.refuses or trial.track.blind)


@dataclass(frozen=True, slots=True)
class _Outcome:
    status: str
    reason: str
    confidence: float | None = None


def run_trial(trial: Trial, method: str) -> Record:
    """Let one method focus once, on an emulator of its own."""
    options: dict[str, Any] = {"specimen": trial.specimen, "working_distance": NOMINAL_WORKING_DISTANCE}
    if trial.picture is not None:
        options |= {"specimen": trial.picture.pixels, "pixel_size": trial.picture.pixel_size}
    profile = dataclasses.replace(EM30, aperture_radius=EM30.aperture_radius * trial.aperture_factor)
    with (
        Emulator(seed=trial.seed, preset=trial.track.preset, profile=profile, **options) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        if isinstance(microscope, HasStage):
            microscope.move_stage(*trial.stage)
        microscope.magnification = trial.magnification
        truth = emulator.truth
        microscope.working_distance = _start(trial, truth, microscope.capabilities.working_distance)
        if method == pair_bound.NAME:
            return _bound(trial, (microscope.working_distance - truth.working_distance) / truth.depth_of_field)
        return _carried_out(trial, method, emulator, microscope)


def _start(trial: Trial, truth: Truth, limits: Range) -> float:
    """Return the working distance to start from; on the other side of the focus where the lens does not reach."""
    if trial.track.blind:
        return limits.clip(trial.start)
    offset = trial.start * truth.depth_of_field
    start = truth.working_distance + offset
    return limits.clip(start if start in limits else truth.working_distance - offset)


def _bound(trial: Trial, start_error: float) -> Record:
    """Return what the oracle would do: nothing is run."""
    return Record(
        track=trial.track.name,
        method=pair_bound.NAME,
        specimen=trial.specimen,
        magnification=trial.magnification,
        seed=trial.seed,
        status="focused",
        reason="the bound of a pair of frames",
        start_error=start_error,
        error=pair_bound.residual(start_error, trial.seed),
        confidence=None,
        frames=pair_bound.FRAMES,
        dose=float(pair_bound.FRAMES),
        instrument_seconds=None,
        compute_ms=None,
    )


def _carried_out(trial: Trial, method: str, emulator: Emulator, microscope: Microscope) -> Record:
    truth, start = emulator.truth, microscope.working_distance
    counted = CountedMicroscope(microscope)
    instrument_began, began = emulator.instrument.clock.now(), time.thread_time()
    try:
        outcome = _ours(method, trial, counted) if method in OURS else _peers(method, trial, counted, truth)
    except Exception as error:  # a peer's package may raise anything; the comparison goes on
        outcome = _Outcome("error", f"{type(error).__name__}: {error}")
    computed = time.thread_time() - began

    def defocus(working_distance: float) -> float:
        return (working_distance - truth.working_distance) / truth.depth_of_field

    return Record(
        track=trial.track.name,
        method=method,
        specimen=trial.specimen,
        magnification=trial.magnification,
        seed=trial.seed,
        status=outcome.status,
        reason=outcome.reason,
        start_error=defocus(start),
        error=abs(defocus(_in_focus(emulator))),
        confidence=outcome.confidence,
        frames=counted.frames,
        dose=sum((magnification / trial.magnification) ** 2 for _, magnification in counted.visits),
        instrument_seconds=emulator.instrument.clock.now() - instrument_began,
        compute_ms=1e3 * (computed - counted.seconds_inside) / max(counted.frames, 1),
        places=tuple((round(defocus(place), 2), magnification) for place, magnification in counted.visits),
    )


def _in_focus(emulator: Emulator) -> float:
    """Return the working distance at which the beam is really focused: the reading, and what the lens lags behind."""
    conditions = emulator.instrument.conditions()
    return conditions.working_distance + conditions.focus_offset


def _ours(method: str, trial: Trial, microscope: CountedMicroscope) -> _Outcome:
    settings = AutofocusSettings(method=method, may_change_magnification=trial.track.blind)
    result = semdrivers.autofocus(microscope, settings=settings)
    return _Outcome(result.status, result.reason, result.confidence)


def _peers(method: str, trial: Trial, microscope: CountedMicroscope, truth: Truth) -> _Outcome:
    peer = next(peer for peer in peers.PEERS if peer.name == method)
    answer = _asked(peer, trial, microscope, truth)
    approach(microscope, microscope.capabilities.working_distance, answer.working_distance)
    return _Outcome("focused" if answer.claimed else "refused", answer.reason)


def _asked(peer: Peer, trial: Trial, microscope: CountedMicroscope, truth: Truth) -> Answer:
    """Give the peer what it is told: the nominal beam, and a window in which the focus lies."""
    optics = told_optics()
    if trial.track.reach is None:
        return zoom_ladder.climb(peer.find, microscope, optics, ANYWHERE)
    start = microscope.working_distance
    reach = SPARE * trial.track.reach * truth.depth_of_field
    window = max(start - reach, ANYWHERE[0]), min(start + reach, ANYWHERE[1])
    return peer.find(Bench(microscope, optics, window, start))


def told_optics() -> Optics:
    """Return the nominal beam of the instrument."""
    alpha = EM30.half_angle(NOMINAL_WORKING_DISTANCE) * 1e-3
    core = probe_core_of(EM30, alpha, EM30.accelerating_voltage, EM30.beam_current)
    return Optics(
        EM30.aperture_radius * 1e-3, core * 1e-6, math.radians(EM30.rotation_coupling), EM30.magnification_coupling
    )


def run_trials(
    trials: Sequence[Trial],
    names: Sequence[str],
    *,
    workers: int = 1,
    progress: Callable[[Record], object] | None = None,
) -> tuple[Record, ...]:
    """Let every method focus on every trial, in processes side by side.

    Parameters
    ----------
    trials : sequence of Trial
        What to focus.
    names : sequence of str
        Methods.
    workers : int
        Processes; 1 stays in this one.
    progress : callable, optional
        Called with every record as it comes.

    Returns
    -------
    tuple of Record
        By trial, then by method; the order does not depend on `workers`.
    """
    return run_all(run_trial, planned(trials, names), workers=workers, progress=progress)


def planned(trials: Sequence[Trial], names: Sequence[str]) -> list[tuple[Trial, str]]:
    """Return the runs to make: every trial by every method that can be asked."""
    return [(trial, name) for trial in trials for name in names if applies(name, trial)]
