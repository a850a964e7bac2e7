"""Carry out cases: emulator, driver, autofocus, ground truth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import semdrivers
from semdrivers.errors import SemDriversError
from semdrivers.focus import AutofocusSettings
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import HasStage, Microscope
from semfocus_plugin import networks as scoring
from semfocus_plugin.lab.benchmark.cases import Case
from semfocus_plugin.lab.benchmark.peers.bench import approach
from semfocus_plugin.lab.parallel import run_all


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What became of a case.

    Parameters
    ----------
    specimen : str
        Name.
    magnification : float
        Plain number.
    seed : int
        Of the emulator.
    status : str
        ``"focused"``, ``"refused"``, ``"cancelled"`` or ``"error"``.
    reason : str
        The method's sentence, or the error's message.
    start_error, error : float
        Distance from the true focus at the start and at the end, in depths of field.
    score, true_score : float
        AENet's final score, and the ideal one there.
    confidence : float
        0 to 1, by the method.
    frames : int
        Every frame.
    search_frames : int
        Those of the initial search, which the paper does not count.
    elapsed : float
        Seconds of this computer's clock.
    instrument_seconds : float
        What the same run would have taken on an instrument, by the emulator's clock.
    restored : bool
        Whether a run that did not focus left the working distance where it was.
    final_score, best_score : float
        AENet's, of fresh FAST frames where the run ended and at the emulator's true best working distance. `score` is
        what the method saw, which is the best of several noisy frames with some methods.
    """

    specimen: str
    magnification: float
    seed: int
    status: str
    reason: str
    start_error: float
    error: float
    score: float
    true_score: float
    confidence: float
    frames: int
    search_frames: int
    elapsed: float
    instrument_seconds: float
    restored: bool
    final_score: float = math.nan
    best_score: float = math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Photographs:
    """A case in pictures.

    Parameters
    ----------
    record : RunRecord
        What became of it.
    start, final, best : Image
        STANDARD frames at the start, at the end, and at the emulator's true best working distance.
    start_score : float
        AENet's, of a FAST frame at the start.
    """

    record: RunRecord
    start: Image
    final: Image
    best: Image
    start_score: float


def run_case(case: Case, settings: AutofocusSettings, preset: str) -> RunRecord:
    """Focus once, from the start that the case names."""
    with _prepared(case, preset) as (emulator, microscope):
        record = _focused(case, settings, emulator, microscope)
        return _compared(record, emulator, microscope)


def photograph(case: Case, settings: AutofocusSettings, preset: str) -> Photographs:
    """Focus once, and take pictures before, after and at the true best."""
    with _prepared(case, preset) as (emulator, microscope):
        start_score = _score(microscope)
        start = microscope.acquire(ScanMode.STANDARD)
        record = _focused(case, settings, emulator, microscope)
        final = microscope.acquire(ScanMode.STANDARD)
        record = _compared(record, emulator, microscope)
        return Photographs(record, start, final, microscope.acquire(ScanMode.STANDARD), start_score)


@contextmanager
def _prepared(case: Case, preset: str) -> Iterator[tuple[Any, Microscope]]:
    """Give an emulator and a microscope that stands at the start."""
    from semdrivers.emulator import Emulator

    options: dict[str, Any] = {"specimen": case.specimen}
    if case.picture is not None:
        options = {"specimen": case.picture.pixels, "pixel_size": case.picture.pixel_size}
    with (
        Emulator(magnification=case.magnification, seed=case.seed, preset=preset, **options) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        if isinstance(microscope, HasStage):
            microscope.move_stage(*case.stage)
        microscope.magnification = case.magnification
        limits = microscope.capabilities.working_distance
        microscope.working_distance = limits.clip(emulator.truth.working_distance + case.offset)
        yield emulator, microscope


def _focused(case: Case, settings: AutofocusSettings, emulator: Any, microscope: Microscope) -> RunRecord:
    """Focus, and leave the lens where that ends."""
    start = microscope.working_distance
    start_error = _error(emulator, start)
    began = emulator.instrument.clock.now()
    try:
        result = semdrivers.autofocus(microscope, settings=settings)
    except SemDriversError as error:
        reason = f"{type(error).__name__}: {error}"
        result = semdrivers.AutofocusResult(
            "error", reason, microscope.working_distance, start, 0.0, 0.0, 0, 0.0, settings.method or ""
        )
    step = max(microscope.capabilities.working_distance.step, 1e-6)
    return RunRecord(
        specimen=case.specimen,
        magnification=case.magnification,
        seed=case.seed,
        status=result.status,
        reason=result.reason,
        start_error=start_error,
        error=_error(emulator, result.working_distance),
        score=result.score,
        true_score=emulator.truth.score,
        confidence=result.confidence,
        frames=result.frames,
        search_frames=sum(frame.phase == "search" for frame in result.trace),
        elapsed=result.elapsed,
        instrument_seconds=emulator.instrument.clock.now() - began,
        restored=result.focused or abs(microscope.working_distance - start) <= step,
    )


def _compared(record: RunRecord, emulator: Any, microscope: Microscope) -> RunRecord:
    """Score fresh frames, one where the lens stands and one at the true best, where the lens stays."""
    final = _score(microscope)
    approach(microscope, microscope.capabilities.working_distance, emulator.truth.working_distance)
    return dataclasses.replace(record, final_score=final, best_score=_score(microscope))


def _score(microscope: Microscope) -> float:
    return scoring.score(microscope.acquire(ScanMode.FAST))


def run_cases(
    cases: Sequence[Case],
    settings: AutofocusSettings,
    *,
    preset: str = "typical",
    workers: int = 1,
    progress: Callable[[RunRecord], object] | None = None,
) -> tuple[RunRecord, ...]:
    """Carry out all cases, in processes side by side.

    Parameters
    ----------
    cases : sequence of Case
        What to run.
    settings : AutofocusSettings
        For every run.
    preset : str
        Of the emulator: ``"ideal"``, ``"typical"``, ``"hostile"``.
    workers : int
        Processes; 1 stays in this one.
    progress : callable, optional
        Called with every record as it comes.

    Returns
    -------
    tuple of RunRecord
        In the order of the cases, which does not depend on `workers`.
    """
    tasks = [(case, settings, preset) for case in cases]
    return run_all(run_case, tasks, workers=workers, progress=progress)


def _error(emulator: Any, working_distance: float) -> float:
    """Return the distance from the true focus in depths of field."""
    truth = emulator.truth
    return float(abs(working_distance - truth.working_distance) / truth.depth_of_field)
