"""Methods side by side: the same trials for each, on the emulator, through the shipped driver, against its truth."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers.autofocus import AutofocusSettings
from semdrivers.emulator import Emulator
from semdrivers.emulator.optics import probe_core_of
from semdrivers.emulator.scan import Truth
from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import HasStage, HasStigmator, Microscope, Range
from semfocus_plugin import methods
from semfocus_plugin.evaluation import peers
from semfocus_plugin.evaluation.counted import CountedMicroscope
from semfocus_plugin.evaluation.instruments import Station, station, visits
from semfocus_plugin.evaluation.peers import Answer, Bench, Optics, Peer, pair_bound, zoom_ladder
from semfocus_plugin.evaluation.peers.bench import approach
from semfocus_plugin.evaluation.pictures import Picture, read_folder
from semfocus_plugin.evaluation.tracks import ANYWHERE, SPARE, Trial
from semfocus_plugin.learning import LEARNING_VARIABLE
from semfocus_plugin.parallel import run_all

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
    astigmatism : tuple of float
        True, as (a cos 2θ, a sin 2θ) in depths of field.
    reported_astigmatism : tuple of float or None
        The same as the method reports it.
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
    astigmatism: tuple[float, float] = (0.0, 0.0)
    reported_astigmatism: tuple[float, float] | None = None

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
    astigmatism: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What a method is tried on: the instrument, and its truth.

    Lengths are mm, `astigmatism` in depths of field; `defocus` returns the distance of the beam's focus from the truth
    in depths of field, `clock` the seconds that the instrument has taken.
    """

    microscope: Microscope
    focus: float
    depth_of_field: float
    optics: Optics
    defocus: Callable[[], float]
    clock: Callable[[], float]
    astigmatism: tuple[float, float] = (0.0, 0.0)
    bounds: tuple[float, float] | None = None


def run_trial(trial: Trial, method: str) -> Record:
    """Let one method focus once, on an instrument of its own."""
    if trial.track.instrument:
        return _on_another_instrument(trial, method)
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
        off = trial.track.stigmator[trial.number % len(trial.track.stigmator)]
        turn = 2 * math.pi * np.random.default_rng([trial.seed, 3]).random()
        astigmatism = off * math.cos(turn), off * math.sin(turn)
        if off:
            assert isinstance(microscope, HasStigmator)
            per_unit = truth.depth_of_field * 1e3
            microscope.stigmator = astigmatism[0] * per_unit, astigmatism[1] * per_unit
        microscope.working_distance = _start(trial, truth, microscope.capabilities.working_distance)
        if method == pair_bound.NAME:
            return _bound(trial, (microscope.working_distance - truth.working_distance) / truth.depth_of_field)
        scene = _Scene(
            microscope,
            truth.working_distance,
            truth.depth_of_field,
            told_optics(),
            lambda: (_in_focus(emulator) - truth.working_distance) / truth.depth_of_field,
            emulator.instrument.clock.now,
            astigmatism,
        )
        return _carried_out(trial, method, scene)


def _on_another_instrument(trial: Trial, method: str) -> Record:
    pictures = read_folder(Path(trial.folder)) if trial.folder else ()
    series = Path(trial.folder) / "series" if trial.folder else None
    if trial.track.earlier:
        return _after_earlier_runs(trial, method, pictures)
    drawn = station(trial.track.instrument, trial.number, trial.base_seed, pictures, series)
    return _at(drawn, trial, method)


def _after_earlier_runs(trial: Trial, method: str, pictures: Sequence[Picture]) -> Record:
    """Let the method focus on several samples of one instrument; the last counts."""
    *earlier, last = visits(trial.number, trial.base_seed, pictures, trial.track.earlier + 1)
    if method not in OURS:
        return _at(last, trial, method)
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get(LEARNING_VARIABLE)
        os.environ[LEARNING_VARIABLE] = folder
        try:
            for drawn in earlier:
                _at(drawn, trial, method)
            return _at(last, trial, method)
        finally:
            if before is None:
                del os.environ[LEARNING_VARIABLE]
            else:
                os.environ[LEARNING_VARIABLE] = before


def _at(drawn: Station, trial: Trial, method: str) -> Record:
    trial = dataclasses.replace(trial, specimen=drawn.specimen, magnification=drawn.microscope.magnification)
    if method == pair_bound.NAME:
        return _bound(trial, drawn.defocus())
    scene = _Scene(
        drawn.microscope,
        drawn.focus,
        drawn.depth_of_field,
        Optics(drawn.aperture, drawn.core),
        drawn.defocus,
        lambda: 0.0,
        drawn.astigmatism,
        drawn.bounds,
    )
    return _carried_out(trial, method, scene)


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


def _carried_out(trial: Trial, method: str, scene: _Scene) -> Record:
    start = scene.microscope.working_distance
    counted = CountedMicroscope(scene.microscope)
    instrument_began, began = scene.clock(), time.thread_time()
    try:
        outcome = _ours(method, trial, counted, scene) if method in OURS else _peers(method, trial, counted, scene)
    except Exception as error:  # a peer's package may raise anything; the comparison goes on
        outcome = _Outcome("error", f"{type(error).__name__}: {error}")
    computed = time.thread_time() - began

    def defocus(working_distance: float) -> float:
        return (working_distance - scene.focus) / scene.depth_of_field

    return Record(
        track=trial.track.name,
        method=method,
        specimen=trial.specimen,
        magnification=trial.magnification,
        seed=trial.seed,
        status=outcome.status,
        reason=outcome.reason,
        start_error=defocus(start),
        error=abs(scene.defocus()),
        confidence=outcome.confidence,
        frames=counted.frames,
        dose=sum((magnification / trial.magnification) ** 2 for _, magnification in counted.visits),
        instrument_seconds=scene.clock() - instrument_began,
        compute_ms=1e3 * (computed - counted.seconds_inside) / max(counted.frames, 1),
        places=tuple((round(defocus(place), 2), magnification) for place, magnification in counted.visits),
        astigmatism=scene.astigmatism,
        reported_astigmatism=_reported(outcome, scene),
    )


def _reported(outcome: _Outcome, scene: _Scene) -> tuple[float, float] | None:
    """Return what the method says of the astigmatism, in depths of field."""
    if outcome.astigmatism is None:
        return None
    per_unit = scene.depth_of_field * 1e3
    return outcome.astigmatism[0] / per_unit, outcome.astigmatism[1] / per_unit


def _in_focus(emulator: Emulator) -> float:
    """Return the working distance at which the beam is really focused: the reading, and what the lens lags behind."""
    conditions = emulator.instrument.conditions()
    return conditions.working_distance + conditions.focus_offset


def _ours(method: str, trial: Trial, microscope: CountedMicroscope, scene: _Scene) -> _Outcome:
    settings = AutofocusSettings(method=method, may_change_magnification=trial.track.blind, bounds=scene.bounds)
    result = semdrivers.autofocus(microscope, settings=settings)
    found = getattr(result, "astigmatism", None)
    return _Outcome(result.status, result.reason, result.confidence, None if found is None else (found.x, found.y))


def _peers(method: str, trial: Trial, microscope: CountedMicroscope, scene: _Scene) -> _Outcome:
    peer = next(peer for peer in peers.PEERS if peer.name == method)
    answer = _asked(peer, trial, microscope, scene)
    limits = microscope.capabilities.working_distance
    approach(microscope, limits if scene.bounds is None else limits.intersect(*scene.bounds), answer.working_distance)
    return _Outcome("focused" if answer.claimed else "refused", answer.reason)


def _asked(peer: Peer, trial: Trial, microscope: CountedMicroscope, scene: _Scene) -> Answer:
    """Give the peer what it is told: the nominal beam, and a window in which the focus lies."""
    if trial.track.reach is None:
        return zoom_ladder.climb(peer.find, microscope, scene.optics, ANYWHERE)
    start = microscope.working_distance
    reach = SPARE * trial.track.reach * scene.depth_of_field
    window = max(start - reach, ANYWHERE[0]), min(start + reach, ANYWHERE[1])
    if trial.track.instrument:
        window = start - reach, start + reach
    if scene.bounds is not None:
        window = scene.bounds
    return peer.find(Bench(microscope, scene.optics, window, start))


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
