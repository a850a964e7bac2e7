"""What a stigmator does: the matrix from its own units to astigmatism in µm, measured at one field, kept in a file.

Three frames about the focus determine both components of the astigmatism (see `semfocus_plugin.optics`). They are taken
at three settings: where the stigmator stands, and with either axis moved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from semdrivers.errors import AutofocusError, InvalidParameterError, OutOfRangeError
from semdrivers.files import counted, read_json, replacing
from semdrivers.focus import AutofocusSettings, Progress
from semdrivers.microscope import Microscope, Range, has_member, number, restoring, stigmator_of
from semfocus_plugin import networks as network_files
from semfocus_plugin.calibration._file import Identified, check_place, place_for
from semfocus_plugin.calibration._measure import CalibrationCancelled, focused_first
from semfocus_plugin.networks import Networks
from semfocus_plugin.optics import Beam
from semfocus_plugin.run import BudgetSpent, Cancelled, FocusRun, StigmatorEffect, posterior_of, sighting_of

_PLACES = -5.0, 0.5, 5.0
"""Depths of field from the focus of the frames at every setting."""
_FIRST, _GROWTH = 1e-2, 6.0
"""Share of an axis's range that it is moved by at first, and the factor by which a move grows that does not show."""
_LEAST, _GOAL, _MOST = 3.0, 5.0, 8.0
"""Depths of field of astigmatism that a move must add at least, should, and may at most."""
_TRIES = 5
_FRAMES = len(_PLACES) * (1 + 2 * _TRIES)


@dataclass(frozen=True, slots=True)
class StigmatorCalibration:
    """What a stigmator does.

    Parameters
    ----------
    model, serial : str
        The instrument, as it names itself.
    date : str
        When, ISO 8601 with the offset from UTC.
    matrix : pair of pair of float
        Rows x and y of `semdrivers.Astigmatism` in µm, columns the change of either axis by one of its units.
    sigma : float
        Standard deviation of the astigmatism that a move was seen to add, as a share of it; the larger of both axes.
    frames : int
        That it rests on; those of the autofocus before it not counted.
    working_distance : float or None
        Where it was measured, mm: elsewhere the axes are turned. None where that was not noted.
    """

    model: str
    serial: str
    date: str
    matrix: tuple[tuple[float, float], tuple[float, float]]
    sigma: float
    frames: int
    working_distance: float | None = None

    def __post_init__(self) -> None:
        try:
            rows = np.array(self.matrix, float)
        except (TypeError, ValueError, OverflowError):
            rows = np.empty(0)
        if rows.shape != (2, 2) or not np.isfinite(rows).all() or not np.linalg.cond(rows) < 100:
            raise InvalidParameterError(f"matrix must be two rows of two numbers with an inverse, not {self.matrix!r}")
        object.__setattr__(self, "matrix", tuple(tuple(float(value) for value in row) for row in rows))
        if number("sigma", self.sigma) < 0:
            raise OutOfRangeError(f"sigma must be at least 0, not {self.sigma}")
        if self.working_distance is not None:
            number("working_distance", self.working_distance, "mm")

    @property
    def effect(self) -> StigmatorEffect:
        """For a run."""
        return StigmatorEffect(self.matrix, self.sigma, self.working_distance)


def calibrate_stigmator(
    microscope: Microscope,
    *,
    settings: AutofocusSettings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    networks: Networks | None = None,
    beam: Beam | None = None,
) -> StigmatorCalibration:
    """Measure what the stigmator does: autofocus, then three frames at each of three settings.

    Working distance, magnification and stigmator are put back at the end, whatever happens.

    Parameters
    ----------
    microscope : Microscope
        A `semdrivers.microscope.HasStigmator` whose capabilities have the limits of its stigmator, on a field with
        detail in all directions.
    settings : AutofocusSettings, optional
        Method and limits of the autofocus; those of the stigmator hold for its moves.
    progress, cancel
        As in `semdrivers.autofocus`.
    networks : Networks, optional
        The shipped ones by default.
    beam : Beam, optional
        Of the instrument as calibrated: the matrix is as right as this is.

    Raises
    ------
    InvalidParameterError
        Before the instrument is touched, when it has no stigmator or does not report its limits.
    AutofocusError
        When no focus is found, or the field or the limits do not let the astigmatism be measured.
        `CalibrationCancelled` after a cancel.
    SemDriversError
        Whatever the microscope raises.
    """
    settings = dataclasses.replace(settings or AutofocusSettings(), stigmate=False, stigmator_bounds=None)
    settings = dataclasses.replace(settings, max_stigmator_travel=None)
    networks = network_files.load() if networks is None else networks
    capabilities = microscope.capabilities
    if not has_member(microscope, "stigmator") or capabilities.stigmator is None:
        raise InvalidParameterError("this instrument has no stigmator whose limits it reports: nothing can be measured")
    with restoring(microscope, "magnification", "stigmator", "working_distance"):
        result = focused_first(microscope, settings, progress, cancel)
        run = FocusRun(microscope, settings, networks.evaluator, _FRAMES, progress, cancel, beam=beam)
        try:
            columns, sigmas = _columns(run, microscope, capabilities.stigmator)
        except Cancelled:
            raise CalibrationCancelled(f"calibration cancelled after {counted(run.frames, 'frame')}") from None
        except BudgetSpent:
            raise AutofocusError("the astigmatism could not be measured within the frames of a calibration") from None
    (a, b), (c, d) = columns
    return StigmatorCalibration(
        model=capabilities.model,
        serial=capabilities.serial,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        matrix=((a, c), (b, d)),
        sigma=max(sigmas),
        frames=run.frames,
        working_distance=result.working_distance,
    )


def _columns(run: FocusRun, microscope: Any, limits: Range) -> tuple[list[tuple[float, float]], list[float]]:
    """Return for either axis the astigmatism in µm that a unit adds, and its relative standard deviation."""
    focus, start = run.working_distance, stigmator_of(microscope)
    before = _seen(run, focus)
    if before is None:
        raise AutofocusError("this field shows too few directions to measure astigmatism by; move the stage")
    x0, y0, sigma0, unit = before
    columns, sigmas = [], []
    move = _FIRST * (limits.maximum - limits.minimum)
    for axis in (0, 1):
        up, down = limits.maximum - start[axis], start[axis] - limits.minimum
        side, room = (1, up) if up >= down else (-1, down)
        for _ in range(_TRIES):
            move = min(move, room)
            setting = list(start)
            setting[axis] = start[axis] + side * move
            microscope.stigmator = tuple(setting)
            moved = stigmator_of(microscope)[axis] - start[axis]
            after = _seen(run, focus)
            if after is None:
                shown, added, spread = False, math.inf, 0.0
                move /= _GROWTH / 2
                continue
            x, y, sigma, _ = after
            added, spread = math.hypot(x - x0, y - y0), math.hypot(sigma, sigma0)
            shown = moved != 0 and added > 4 * spread
            if (shown and _LEAST * unit <= added <= _MOST * unit) or move >= room:
                break
            # A move that shows says how far to go; one that does not was too small.
            move *= min(_GOAL * unit / added, _GROWTH) if added > 2 * spread else _GROWTH / 2
        microscope.stigmator = start
        if not shown:
            raise AutofocusError(
                f"axis {'xy'[axis]} of the stigmator does not show in the frames (it added {added * 1e3:.2g} ± "
                f"{spread * 1e3:.2g} µm); go to a field with detail in all directions, or a higher magnification"
            )
        columns.append(((x - x0) * 1e3 / moved, (y - y0) * 1e3 / moved))
        sigmas.append(spread / added)
    return columns, sigmas


def _seen(run: FocusRun, focus: float) -> tuple[float, float, float, float] | None:
    """Return both components of the astigmatism, their standard deviation, and the depth of field, mm; None unseen."""
    unit = run.depth_of_field
    frames = [run.measure(run.limits.clip(focus + place * unit), "stigmator") for place in _PLACES]
    posterior = posterior_of(run, [sighting_of(frame) for frame in frames], frames[0].pixel, stigmates=True)
    found = posterior.astigmatism()
    return None if found is None else (*found, posterior.unit(focus))


def keep_stigmator(
    calibration: StigmatorCalibration, path: str | Path | None = None, *, overwrite: bool = False
) -> Path:
    """Write what a stigmator does, in one piece; by default in the user's settings, for later runs.

    Raises
    ------
    InvalidParameterError
        When `path` does not end in ``.json``; or, without it, when the instrument reports neither model nor serial.
    ExistingFileError
        When there is a file of the name `path`, unless `overwrite`.
    """
    target = Path(path) if path is not None else _beside(check_place(calibration))
    if target.suffix.lower() != ".json":
        raise InvalidParameterError(f"{target}: the name of a calibration must end in .json")
    if path is None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target, overwrite or path is None) as partial:
        text = json.dumps(dataclasses.asdict(calibration), indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
    return target


def learn_stigmator(info: Identified, effect: StigmatorEffect, frames: int) -> None:
    """Keep what a run has measured on its way, for an instrument that reports who it is; no fault ends the run."""
    if place_for(info) is not None:
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        with contextlib.suppress(OSError, InvalidParameterError):
            known = effect.matrix, effect.error, frames, effect.working_distance
            keep_stigmator(StigmatorCalibration(info.model, info.serial, date, *known))


def stigmator_for(info: Identified) -> StigmatorCalibration | None:
    """Return what is kept of an instrument's stigmator, or None; what is kept of another is never returned."""
    path = place_for(info)
    try:
        values = {} if path is None else read_json(_beside(path))
        found = StigmatorCalibration(**values)
    except (OSError, ValueError, TypeError, InvalidParameterError):
        return None
    return found if (found.model, found.serial) == (info.model, info.serial) else None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.stigmator.json")
