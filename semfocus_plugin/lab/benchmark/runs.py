"""Runs: a trial carried out on the emulator, through the shipped driver, and measured against the emulator's truth."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers.base import WrappedMicroscope
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import probe_core_of
from semdrivers.errors import InvalidParameterError, installation
from semdrivers.focus import AutofocusResult, AutofocusSettings
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities, HasStage, HasStigmator, Microscope
from semfocus_plugin import methods, networks
from semfocus_plugin import run as loop
from semfocus_plugin.lab.benchmark import peers
from semfocus_plugin.lab.benchmark.instruments import Station, station, visits
from semfocus_plugin.lab.benchmark.peers import Bench, Optics, Peer, pair_bound, zoom_ladder
from semfocus_plugin.lab.benchmark.peers.bench import approach
from semfocus_plugin.lab.benchmark.pictures import read_folder
from semfocus_plugin.lab.benchmark.trials import ANYWHERE, Trial
from semfocus_plugin.lab.parallel import Workers, run_all
from semfocus_plugin.optics import Apertures, LearnedAperture
from semfocus_plugin.run import MOST_RETAKES

__all__ = [
    "OURS", "CountedMicroscope", "Photographs", "Record", "Reporting", "choose_methods", "descriptions", "focus",
    "method_names", "photograph", "planned", "prepared", "run_trial", "run_trials",
]  # fmt: skip

OURS = tuple(method.name for method in methods.METHODS)
"""Methods of this plugin; everything else is a peer, or another plugin's."""

# mm; where instruments stand before they go to the start, and at which the nominal probe is computed
_NOMINAL_WORKING_DISTANCE = 15.0
_SPARE = 1.1  # Half-width of the window that a peer is given, over the furthest start


@dataclass(frozen=True, slots=True)
class Record:
    """What a method made of a trial. A column of a run's table is computed from records; see `report.COLUMNS`.

    Parameters
    ----------
    track, method, specimen, preset : str
        Names.
    magnification : float
        Plain number.
    seed : int
        Seed of the emulator.
    status : str
        ``"focused"`` (the method reports focus), ``"refused"``, ``"cancelled"``, or ``"error"`` (it raised).
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
        For every frame: distance from the focus in depths of field (both at the final magnification), and
        magnification.
    search_frames : int
        Frames of the initial search, which the paper does not count.
    score : float
        What the method saw as its final score, which is the best of several noisy frames with some methods.
    true_score : float
        Ideal score where the run ended.
    final_score, best_score : float
        AENet's, of fresh FAST frames where the run ended and at the true best working distance; NaN where not taken.
    restored : bool
        Whether a run that did not focus left the working distance where it was.
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
    preset: str = "typical"
    search_frames: int = 0
    score: float = math.nan
    true_score: float = math.nan
    final_score: float = math.nan
    best_score: float = math.nan
    restored: bool = True
    astigmatism: tuple[float, float] = (0.0, 0.0)
    reported_astigmatism: tuple[float, float] | None = None

    @property
    def focused(self) -> bool:
        """Whether the method reports focus."""
        return self.status == "focused"


@dataclass(frozen=True, slots=True, eq=False)
class Photographs:
    """A run in pictures.

    Parameters
    ----------
    record : Record
        What became of it.
    start, final, best : Image
        STANDARD frames at the start, at the end, and at the emulator's true best working distance.
    start_score : float
        AENet's, of a FAST frame at the start.
    """

    record: Record
    start: Image
    final: Image
    best: Image
    start_score: float


class CountedMicroscope(WrappedMicroscope):
    """A microscope whose frames and computing time are counted; every method works on one.

    Parameters
    ----------
    microscope : Microscope
        The instrument.

    Attributes
    ----------
    visits : list of tuple of float
        Working distance (mm, as read back) and magnification of every frame, oldest first.
    seconds_inside : float
        Seconds that this thread computed in the instrument's calls; the rest of a run is the method's own.
    """

    visits: list[tuple[float, float]]
    seconds_inside: float

    def __init__(self, microscope: Microscope) -> None:
        super().__init__(microscope)
        self.visits = []
        self.seconds_inside = 0.0

    @property
    def frames(self) -> int:
        """Frames acquired so far."""
        return len(self.visits)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Acquire a frame and count it."""
        image = super().acquire(mode)
        self.visits.append((image.working_distance, image.magnification))
        return image

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Count what is computed in the block as the instrument's."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.seconds_inside += time.thread_time() - began

    def _read(self, name: str) -> Any:
        with self._inside():
            return super()._read(name)

    def _write(self, name: str, value: Any) -> None:
        with self._inside():
            super()._write(name, value)

    def _call(self, name: str, *arguments: Any) -> Any:
        with self._inside():
            return super()._call(name, *arguments)


class Reporting(WrappedMicroscope):
    """A microscope that reports other capabilities than it has.

    Parameters
    ----------
    microscope : Microscope
        The instrument.
    **changes
        Fields of `Capabilities`.
    """

    def __init__(self, microscope: Microscope, **changes: Any) -> None:
        super().__init__(microscope)
        self._changes = changes

    @property
    def capabilities(self) -> Capabilities:
        """Those of the instrument, with the changes."""
        return dataclasses.replace(super().capabilities, **self._changes)


def method_names() -> tuple[str, ...]:
    """Return the names of all methods of the comparison, ours first, the oracle last."""
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
            skipped[peer.name] = f"not installed: {', '.join(missing)} ({installation('benchmark')})"
    return tuple(chosen), skipped


def planned(trials: Sequence[Trial], names: Sequence[str]) -> list[tuple[Trial, str]]:
    """Return every trial with every method: the oracle has no answer to a blank sample, nor from beyond its capture."""
    return [
        (trial, name)
        for trial in trials
        for name in names
        if name != pair_bound.NAME or not (trial.track.refuses or trial.track.blind)
    ]


def run_trials(
    trials: Sequence[Trial],
    names: Sequence[str],
    *,
    max_frames: int | None = None,
    scored: bool = False,
    workers: Workers = None,
    progress: Callable[[Record], object] | None = None,
) -> tuple[Record, ...]:
    """Let every method focus on every trial, in processes side by side.

    Parameters
    ----------
    trials : sequence of Trial
        What to focus.
    names : sequence of str
        Methods: ours, peers, or another plugin's.
    max_frames : int, optional
        Most frames of a run of ours or of another plugin's; the method's own limit by default.
    scored : bool
        Whether to take `Record.final_score` and `Record.best_score` after each run.
    workers : int or str, optional
        Processes, as many as there are cores by default, or the address of a Dask scheduler.
    progress : callable, optional
        Called with every record, in order.

    Returns
    -------
    tuple of Record
        By trial, then by method; the order does not depend on `workers`.
    """
    tasks = [(trial, name, max_frames, scored) for trial, name in planned(trials, names)]
    return run_all(run_trial, tasks, workers=workers, progress=progress)


def run_trial(trial: Trial, method: str, max_frames: int | None = None, scored: bool = False) -> Record:
    """Let one method focus once, on an emulator of its own; see `run_trials`."""
    if trial.track.instrument:
        return _on_another_instrument(trial, method, max_frames)
    with prepared(trial) as (emulator, microscope):
        record = _focused(trial, method, max_frames, _scene(trial, emulator, microscope))
        return _compared(record, emulator, microscope) if scored else record


def photograph(trial: Trial, method: str, max_frames: int | None = None) -> Photographs:
    """Focus once, and take pictures before, after and at the true best."""
    with prepared(trial) as (emulator, microscope):
        start_score = networks.score(microscope.acquire(ScanMode.FAST))
        start = microscope.acquire(ScanMode.STANDARD)
        record = _focused(trial, method, max_frames, _scene(trial, emulator, microscope))
        final = microscope.acquire(ScanMode.STANDARD)
        record = _compared(record, emulator, microscope)
        return Photographs(record, start, final, microscope.acquire(ScanMode.STANDARD), start_score)


@contextmanager
def prepared(trial: Trial) -> Iterator[tuple[Emulator, Microscope]]:
    """Give the emulator of a trial and a microscope that stands at the start."""
    options: dict[str, Any] = {"specimen": trial.specimen}
    # Where an instrument stands at first decides its clock, and so the noise of every frame of a seed.
    if trial.track.scaled:
        options["magnification"] = trial.magnification
    else:
        options["working_distance"] = _NOMINAL_WORKING_DISTANCE
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
        truth, limits = emulator.truth, microscope.capabilities.working_distance
        start, mirrored = trial.place(truth.working_distance, truth.depth_of_field)
        microscope.working_distance = limits.clip(start if start in limits else mirrored)
        off = trial.track.stigmator[trial.number % len(trial.track.stigmator)]
        if off:
            assert isinstance(microscope, HasStigmator)
            x, y = _turned(off, trial)
            microscope.stigmator = x * truth.depth_of_field * 1e3, y * truth.depth_of_field * 1e3
        yield emulator, microscope


def _turned(amount: float, trial: Trial) -> tuple[float, float]:
    turn = 2 * math.pi * np.random.default_rng([trial.seed, 3]).random()
    return amount * math.cos(turn), amount * math.sin(turn)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """What a method is tried on: an instrument, and its truth.

    Lengths are mm, `astigmatism` in depths of field. `defocus` returns the distance of the beam's focus from the
    truth in depths of field, `clock` the seconds that the instrument has taken, `score` the ideal score there.
    """

    microscope: Microscope
    focus: float
    depth_of_field: float
    optics: Optics
    defocus: Callable[[], float]
    clock: Callable[[], float]
    score: Callable[[], float] = lambda: math.nan
    astigmatism: tuple[float, float] = (0.0, 0.0)
    bounds: tuple[float, float] | None = None


def _scene(trial: Trial, emulator: Emulator, microscope: Microscope) -> _Scene:
    truth = emulator.truth

    def defocus() -> float:
        # Where the beam is really focused: the reading, and what the lens lags behind.
        conditions = emulator.instrument.conditions()
        return (conditions.working_distance + conditions.focus_offset - truth.working_distance) / truth.depth_of_field

    return _Scene(
        microscope,
        truth.working_distance,
        truth.depth_of_field,
        _nominal_optics(),
        defocus,
        emulator.instrument.clock.now,
        lambda: emulator.truth.score,
        _turned(trial.track.stigmator[trial.number % len(trial.track.stigmator)], trial),
    )


def _on_another_instrument(trial: Trial, method: str, max_frames: int | None) -> Record:
    """Let one method focus on an instrument that is not the emulator, after earlier runs where the track has them."""
    pictures = read_folder(Path(trial.folder)) if trial.folder else ()
    if not trial.track.earlier:
        series = Path(trial.folder) / "series" if trial.folder else None
        drawn = station(trial.track.instrument, trial.number, trial.base_seed, pictures, series)
        return _at(drawn, trial, method, max_frames, None)
    apertures = _Apertures()
    *earlier, last = visits(trial.number, trial.base_seed, pictures, trial.track.earlier + 1)
    for drawn in earlier if method in OURS else ():
        _at(drawn, trial, method, max_frames, apertures)
    return _at(last, trial, method, max_frames, apertures)


class _Apertures(dict[str, LearnedAperture]):
    """Apertures learned within one trial."""

    def put(self, instrument: str, aperture: LearnedAperture) -> None:
        """Keep what is known of an instrument."""
        self[instrument] = aperture


def _at(drawn: Station, trial: Trial, method: str, max_frames: int | None, apertures: _Apertures | None) -> Record:
    trial = dataclasses.replace(trial, specimen=drawn.specimen, magnification=drawn.microscope.magnification)
    scene = _Scene(
        drawn.microscope,
        drawn.focus,
        drawn.depth_of_field,
        Optics(drawn.aperture, drawn.core),
        drawn.defocus,
        lambda: 0.0,
        astigmatism=drawn.astigmatism,
        bounds=drawn.bounds,
    )
    return _focused(trial, method, max_frames, scene, apertures)


def focus(
    microscope: Microscope,
    settings: AutofocusSettings,
    *,
    retakes: int = MOST_RETAKES,
    apertures: Apertures | None = None,
) -> AutofocusResult:
    """Focus by a plugin's method; by ours as on an instrument that nobody has calibrated.

    What this user keeps of an emulator of the same serial number must not change a figure.
    """
    method = methods.find(settings.method)
    if method is None:
        return semdrivers.autofocus(microscope, settings=settings)
    return loop.run(method, microscope, settings, apertures=apertures, retakes=retakes)


def _focused(
    trial: Trial, method: str, max_frames: int | None, scene: _Scene, apertures: Apertures | None = None
) -> Record:
    """Focus, and leave the lens where that ends."""
    microscope, start = scene.microscope, scene.microscope.working_distance

    def defocus(working_distance: float) -> float:
        return (working_distance - scene.focus) / scene.depth_of_field

    record = Record(
        track=trial.track.name,
        method=method,
        specimen=trial.specimen,
        magnification=trial.magnification,
        seed=trial.seed,
        status="error",
        reason="",
        start_error=defocus(start),
        error=math.nan,
        confidence=None,
        frames=0,
        dose=0.0,
        instrument_seconds=None,
        compute_ms=None,
        preset=trial.track.preset,
        astigmatism=scene.astigmatism,
    )
    if method == pair_bound.NAME:
        return _bound(record)
    counted = CountedMicroscope(microscope)
    instrument_began, began = scene.clock(), time.thread_time()
    try:
        answer = _answer(trial, method, max_frames, counted, scene, apertures)
    except Exception as error:  # a peer's package may raise anything; the comparison goes on
        answer = {"status": "error", "reason": f"{type(error).__name__}: {error}"}
    computed = time.thread_time() - began
    step = max(microscope.capabilities.working_distance.step, 1e-6)
    return dataclasses.replace(
        record,
        **answer,
        error=abs(scene.defocus()),
        frames=counted.frames,
        dose=sum((magnification / trial.magnification) ** 2 for _, magnification in counted.visits),
        instrument_seconds=scene.clock() - instrument_began,
        compute_ms=1e3 * (computed - counted.seconds_inside) / max(counted.frames, 1),
        places=tuple((round(defocus(place), 2), magnification) for place, magnification in counted.visits),
        true_score=scene.score(),
        restored=answer["status"] == "focused" or abs(microscope.working_distance - start) <= step,
    )


def _bound(record: Record) -> Record:
    """Return what the oracle would do: nothing is run."""
    return dataclasses.replace(
        record,
        status="focused",
        reason="the bound of a pair of frames",
        error=pair_bound.residual(record.start_error, record.seed),
        frames=pair_bound.FRAMES,
        dose=float(pair_bound.FRAMES),
    )


def _answer(
    trial: Trial,
    method: str,
    max_frames: int | None,
    microscope: CountedMicroscope,
    scene: _Scene,
    apertures: Apertures | None,
) -> dict[str, Any]:
    """Focus, and return what the method says of it: fields of `Record`."""
    peer = next((peer for peer in peers.PEERS if peer.name == method), None)
    if peer is None:
        settings = AutofocusSettings(
            method=method, max_frames=max_frames, may_change_magnification=trial.track.blind, bounds=scene.bounds
        )
        result = focus(microscope, settings, apertures=apertures)
        left, unit = result.astigmatism, scene.depth_of_field * 1e3
        return {
            "status": result.status,
            "reason": result.reason,
            "confidence": result.confidence,
            "score": result.score,
            "reported_astigmatism": None if left is None else (left.x / unit, left.y / unit),
            "search_frames": sum(step.phase == "search" for step in result.trace),
        }
    answer = _peers_answer(peer, trial, microscope, scene)
    limits = microscope.capabilities.working_distance
    approach(microscope, limits if scene.bounds is None else limits.intersect(*scene.bounds), answer.working_distance)
    return {"status": "focused" if answer.claimed else "refused", "reason": answer.reason}


def _peers_answer(peer: Peer, trial: Trial, microscope: Microscope, scene: _Scene) -> peers.Answer:
    """Give the peer the nominal beam, and a window in which the focus lies."""
    if trial.track.reach is None:
        return zoom_ladder.climb(peer.find, microscope, scene.optics, ANYWHERE)
    start = microscope.working_distance
    reach = _SPARE * trial.track.reach * scene.depth_of_field
    window = max(start - reach, ANYWHERE[0]), min(start + reach, ANYWHERE[1])
    if trial.track.instrument:
        window = scene.bounds or (start - reach, start + reach)
    return peer.find(Bench(microscope, scene.optics, window, start))


def _nominal_optics() -> Optics:
    """Return the nominal beam of the instrument."""
    alpha = EM30.half_angle(_NOMINAL_WORKING_DISTANCE) * 1e-3
    core = probe_core_of(EM30, alpha, EM30.accelerating_voltage, EM30.beam_current)
    return Optics(
        EM30.aperture_radius * 1e-3, core * 1e-6, math.radians(EM30.rotation_coupling), EM30.magnification_coupling
    )


def _compared(record: Record, emulator: Emulator, microscope: Microscope) -> Record:
    """Score fresh frames, one where the lens stands and one at the true best, where the lens stays."""
    final = networks.score(microscope.acquire(ScanMode.FAST))
    approach(microscope, microscope.capabilities.working_distance, emulator.truth.working_distance)
    return dataclasses.replace(record, final_score=final, best_score=networks.score(microscope.acquire(ScanMode.FAST)))
