"""Tiles, taken one after another, so that a run that is killed at any moment goes on where it was.

A tile is done when its file is there, and files appear whole or not at all. The map is written before the picture for
which it was measured. So nothing else need be remembered, and what is lost is the tile under way.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdrivers.autofocus import BY_MAP, autofocus
from semdrivers.base import described
from semdrivers.errors import InvalidParameterError, OutOfRangeError, SemDriversError, StoppedError
from semdrivers.focus import AutofocusResult, AutofocusSettings, Drift, NotFocusedError
from semdrivers.image import Image, ScanMode, read_image
from semdrivers.maps import FocusMap
from semdrivers.microscope import WHOLE_FRAME, HasBeamShift, approach, offered_mode, put_back, read_pair
from semdrivers.notify import Listener, notify
from semdrivers.tracking import FocusTracker, limits_from
from semfocus_plugin.networks import score
from semfocus_plugin.run import electrons_on_pixel
from semfocus_plugin.tiles._plan import Plan, Tile
from semfocus_plugin.tiles._sides import AstigmaticTracker

MAP = "map.json"
"""File of the focus map in a folder of tiles."""
PLAN = "plan.json"
"""File of the plan in a folder of tiles."""
PICTURES = "tiles"
OUTPUTS = ("mosaic.ome.tif", "map.png", "report.html")

_SPEED, _CHANGE = 20.0, 0.2  # nm/s before a drift is measured; nm/s by which it changes in a second, by √s
_BLURRED = 1.5  # Below the median of the scores: worth a second look
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TileRecord:
    """What is known of a tile that was taken.

    Parameters
    ----------
    tile : Tile
        Which.
    path : Path
        Its file.
    x, y : float
        Where it lies, mm: the stage position as read back, less the drift that the stage follows.
    working_distance : float
        mm.
    pixel_size : float
        nm.
    focus : str
        How it was focused: ``"run"``, ``"map"``, or ``"none"`` where no focus can be stood by.
    reason : str
        What the focus rests on, for a person.
    score : float
        Of the picture, 0 to 9; NaN where it is too small to score.
    frames : int
        Taken for focusing since the tile before.
    dose : float
        Electrons per µm² on the middle of the tile, focusing included unless it is done beside the target; NaN where
        the instrument does not report it.
    seconds : float
        Since the tile before.
    """

    tile: Tile
    path: Path
    x: float
    y: float
    working_distance: float
    pixel_size: float
    focus: str
    reason: str
    score: float
    frames: int
    dose: float
    seconds: float


def open_folder(folder: Path, plan: Callable[[], Plan], *, resume: bool, overwrite: bool) -> Plan:
    """Return the plan of a folder, which is made for it.

    Parameters
    ----------
    folder : Path
        New or empty, or with a plan of which no tile was taken, unless `resume` or `overwrite`.
    plan : callable
        Makes the plan of a new run.
    resume : bool
        Whether to go on with what the folder holds; what a killed run left half-written is removed.
    overwrite : bool
        Whether the tiles in it are removed.

    Raises
    ------
    InvalidParameterError
        When the folder holds something else, or a plan that differs from the present options.
    """
    pictures = folder / PICTURES
    if folder.exists() and not folder.is_dir():
        raise InvalidParameterError(f"{folder} is no folder")
    if resume and (folder / PLAN).exists():
        kept = Plan.load(folder / PLAN)
        for path in [*folder.glob(".*.tmp"), *pictures.glob(".*.tmp")]:
            path.unlink(missing_ok=True)
        return kept
    left = [path for path in folder.iterdir() if path.suffix != ".tmp"] if folder.exists() else []
    none_taken = not any(pictures.glob("[!.]*"))
    if (overwrite or none_taken) and left and (folder / PLAN).exists():
        for path in [*pictures.glob("tile_r*_c*.ome.tif"), *(folder / name for name in (*OUTPUTS, MAP, PLAN))]:
            path.unlink(missing_ok=True)
    elif [path for path in left if path != pictures or not none_taken]:
        raise InvalidParameterError(
            f"{folder} is in use: --resume goes on with the tiles in it, --overwrite replaces them"
            if (folder / PLAN).exists()
            else f"{folder} is in use by something else: tiles need a new or empty folder"
        )
    made = plan()
    pictures.mkdir(parents=True, exist_ok=True)
    made.save(folder / PLAN)
    return made


def read_tiles(
    folder: Path, plan: Plan, known: Mapping[int, TileRecord] | None = None, damaged: list[str] | None = None
) -> dict[int, TileRecord]:
    """Return the tiles that were taken, by index.

    Parameters
    ----------
    folder : Path
        From `open_folder`.
    plan : Plan
        Which tiles there may be.
    known : mapping, optional
        Tiles whose files are not read again.
    damaged : list of str, optional
        Takes one line for each file that cannot be read, as one that is being copied; by default the first one raises.

    Raises
    ------
    InvalidParameterError
        When a file is none of these tiles.
    """
    records = dict(known or {})
    for tile in plan.tiles:
        path = folder / PICTURES / tile.name
        if tile.index not in records and path.exists():
            try:
                records[tile.index] = _record(tile, path, read_image(path))
            except (SemDriversError, OSError) as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
    return records


def second_look(records: dict[int, TileRecord]) -> dict[int, str]:
    """Return which tiles a person should look at, with the reason."""
    scores = sorted(record.score for record in records.values() if math.isfinite(record.score))
    usual = scores[len(scores) // 2] if scores else math.nan
    reasons = {}
    for index, record in records.items():
        if record.focus == "none":
            reasons[index] = f"not focused: {record.reason}"
        elif record.score < usual - _BLURRED:
            reasons[index] = f"score {record.score:.1f}, {usual - record.score:.1f} below the usual one"
    return reasons


def take_tiles(
    microscope: Any,
    folder: Path,
    plan: Plan,
    *,
    settings: AutofocusSettings | None = None,
    progress: Callable[[TileRecord, int], object] | None = None,
    cancel: threading.Event | None = None,
    clock: Callable[[], float] = time.time,
    on_event: Listener | None = None,
) -> FocusMap:
    """Take all tiles of a plan that are not there yet.

    Parameters
    ----------
    microscope : Microscope
        With a stage.
    folder : Path
        From `open_folder`.
    plan : Plan
        What to take.
    settings : AutofocusSettings, optional
        How to focus. With ``correct_drift`` the tiles follow the drift of the sample: as fast as the runs that focus
        measure it, by the stage that moves from tile to tile anyway.
    progress : callable, optional
        Called with the record of every tile and the number of tiles that are done.
    cancel : threading.Event, optional
        Obeyed before the next frame; what is done stays.
    clock : callable
        Of the focus map, s.
    on_event : callable, optional
        Called with a `semdrivers.notify.Event` for every tile without a focus that can be stood by (``"not-focused"``)
        and at the end (``"ended"``, with the numbers of ``tiles`` and ``planned``), whatever ends the run.

    Returns
    -------
    FocusMap
        As measured.

    Raises
    ------
    NotFocusedError
        When the first places of the map show no focus: nothing is known then.
    SemDriversError
        Whatever the microscope raises; the tiles that are there stay.
    """
    taking = _Taking(microscope, folder, plan, settings, progress, cancel, clock, on_event)
    ended = "the run of tiles has ended"
    try:
        return taking.run()
    except BaseException as error:
        ended = f"the run of tiles was ended by {type(error).__name__}: {error}"
        raise
    finally:
        notify(on_event, "ended", ended, tiles=taking.done, planned=len(plan.tiles), folder=str(folder))


class _Taking:
    def __init__(
        self,
        microscope: Any,
        folder: Path,
        plan: Plan,
        settings: AutofocusSettings | None,
        progress: Callable[[TileRecord, int], object] | None,
        cancel: threading.Event | None,
        clock: Callable[[], float],
        on_event: Listener | None,
    ) -> None:
        self.microscope, self.folder, self.plan = microscope, folder, plan
        self.settings = AutofocusSettings() if settings is None else settings
        self.drift = _Drifting(microscope, clock) if self.settings.correct_drift else None
        self.progress, self.cancel = progress, threading.Event() if cancel is None else cancel
        path = folder / MAP
        self.map = FocusMap.load(path, clock=clock) if path.exists() else FocusMap(clock=clock)
        mode = ScanMode.parse(plan.mode)
        assert mode is not None
        self.mode = mode
        self.on_event, self.done = on_event, 0
        self.frames = 0
        self.since = time.perf_counter()
        self.tracker: FocusTracker | AstigmaticTracker | None = None
        if plan.track:
            self.tracker = FocusTracker(microscope, self.map)
        elif plan.astigmatism:
            self.tracker = AstigmaticTracker(microscope, self.map, plan.astigmatism)

    def run(self) -> FocusMap:
        microscope = self.microscope
        if microscope.magnification != self.plan.magnification:
            microscope.magnification = self.plan.magnification
        self.done = sum((self.folder / PICTURES / tile.name).exists() for tile in self.plan.tiles)
        if self.drift is not None:
            self.drift.gone = _drift_of_last(self.folder, self.plan)
        if self.done < len(self.plan.tiles):
            self._measure_first()
        for tile in self._missing():
            try:
                record = self._take(tile)
            except StoppedError:
                if not self.cancel.is_set():
                    raise
                record = None
            if record is None:
                break
            self.done += 1
            if record.focus == "none":
                failure = f"{record.path.name} is not in focus: {record.reason}"
                notify(self.on_event, "not-focused", failure, tile=record.path.name, stage=[record.x, record.y])
            if self.progress is not None:
                self.progress(record, self.done)
        return self.map

    def _missing(self) -> Iterator[Tile]:
        """Yield the tiles that are not there; one that is there breaks the chain of neighbours."""
        for tile in self.plan.tiles:
            path = self.folder / PICTURES / tile.name
            if not path.exists():
                yield tile
            elif self.tracker is not None:
                self.tracker.restart()

    def _measure_first(self) -> None:
        """Measure where the map is least certain, before the first tile."""
        x0, y0, x1, y1 = self.plan.region
        result = self._focus((x0 + x1) / 2, (y0 + y1) / 2)
        tried = 1
        for x, y in self.map.plan(self.plan.region):
            if self.cancel.is_set():
                return
            result = self._focus(x, y)
            tried += 1
        if not self.map.points and not self.cancel.is_set():
            raise NotFocusedError(f"none of {tried} places shows a focus to start from: {result.reason}", result)

    def _focus(self, x: float, y: float) -> AutofocusResult:
        if self.drift is not None:
            gone = self.drift.followed_by_stage()
            x, y = x + gone[0] * 1e-6, y + gone[1] * 1e-6
        self.microscope.move_stage(x, y)
        points = len(self.map.points)
        result = autofocus(self.microscope, settings=self.settings, cancel=self.cancel, map=self.map)
        self.frames += result.frames
        if self.drift is not None and result.drift is not None:
            self.drift.measured(result.drift)
        if len(self.map.points) > points:
            self.map.save(self.folder / MAP, overwrite=True)
        return result

    def _take(self, tile: Tile) -> TileRecord | None:
        """Focus and take one tile; None when cancelled."""
        if self.cancel.is_set():
            return None
        result = self._focus(tile.x, tile.y)
        if result.status == "cancelled" or self.cancel.is_set():
            return None
        x, y = read_pair(self.microscope, "stage_position", "mm")
        focus = "map" if result.method == BY_MAP else "run" if result.focused else "none"
        aim, sigma = self.map.predict(x, y)
        if result.focused and isinstance(self.tracker, FocusTracker):
            self.tracker.step_aside(result, self.settings)
        elif not result.focused and math.isfinite(sigma):
            self._go(aim)
        sides = self.tracker if result.focused and isinstance(self.tracker, AstigmaticTracker) else None
        with nullcontext() if sides is None else sides.aside():
            image = described(self.microscope.acquire(self.mode), self.microscope, result.to_record())
        picture = self._judged(image)
        dose = self._dose(image, self.mode)
        if self.settings.focus_offset is None:
            dose += self.frames * self._dose(image, self._focusing_mode())
        now = time.perf_counter()
        about = {
            "stage": [x, y],
            "drift": [0.0, 0.0] if self.drift is None else list(self.drift.apart_from_beam()),
            "row": tile.row,
            "column": tile.column,
            "focus": focus,
            "reason": result.reason,
            "uncertainty": sigma if math.isfinite(sigma) else None,
            "score": picture if math.isfinite(picture) else None,
            "focusing_frames": self.frames,
            "dose": dose if math.isfinite(dose) else None,
            "seconds": now - self.since,
        }
        image = dataclasses.replace(image, metadata={**image.metadata, "tile": about})
        path = self.folder / PICTURES / tile.name
        if self.tracker is not None and self.tracker.add(image):
            self.map.save(self.folder / MAP, overwrite=True)
        image.save(path)
        self.frames, self.since = 0, now
        return _record(tile, path, image)

    def _go(self, working_distance: float) -> None:
        """Move the lens, where that is within all limits of a focusing from here."""
        limits = limits_from(self.microscope, self.settings, self.microscope.working_distance)
        if working_distance in limits:
            approach(self.microscope, working_distance, limits)

    def _focusing_mode(self) -> ScanMode:
        return offered_mode(self.microscope.capabilities, self.settings.scan_mode, self.settings.region or WHOLE_FRAME)

    def _dose(self, image: Image, mode: ScanMode) -> float:
        """Return the electrons per µm² of a frame of the field of `image` in a mode; NaN where they are not known."""
        electrons = electrons_on_pixel(self.microscope.capabilities, mode)
        pixel = image.pixel_size * 1e-3 * image.pixels.shape[1] / mode.width
        return math.nan if electrons is None else electrons / pixel**2

    def _judged(self, image: Image) -> float:
        try:
            return score(image)
        except (InvalidParameterError, OutOfRangeError) as error:
            _log.debug("no score: %s", error)
            return math.nan


class _Drifting:
    """How far a sample has drifted under the beam, as the runs that focus have measured its speed.

    Parameters
    ----------
    microscope : Microscope
        With a stage. Its beam shift, where it has one, follows within a run alone.
    clock : callable
        s.
    """

    def __init__(self, microscope: Any, clock: Callable[[], float]) -> None:
        self._microscope, self._clock, self._time = microscope, clock, clock()
        self._zero = read_pair(microscope, "beam_shift", "mm") if isinstance(microscope, HasBeamShift) else None
        self._speed, self._variance = (0.0, 0.0), _SPEED**2
        self.gone = (0.0, 0.0)
        """nm, to the right and downwards."""

    def followed_by_stage(self) -> tuple[float, float]:
        """Set the beam shift to its zero; return how far the stage has to follow by now, nm."""
        if self._zero is not None:
            for failure in put_back(self._microscope, {"beam_shift": self._zero}).values():
                raise failure
        return self._now()

    def apart_from_beam(self) -> tuple[float, float]:
        """Return how far it has drifted by now, less what the beam shift makes up for, nm."""
        x, y = self._now()
        if self._zero is None:
            return x, y
        shift = read_pair(self._microscope, "beam_shift", "mm")
        return x - (shift[0] - self._zero[0]) * 1e6, y - (shift[1] - self._zero[1]) * 1e6

    def _now(self) -> tuple[float, float]:
        time = self._clock()
        seconds, self._time = max(time - self._time, 0.0), time
        self.gone = self.gone[0] + self._speed[0] * seconds, self.gone[1] + self._speed[1] * seconds
        self._variance = min(self._variance + _CHANGE**2 * seconds, _SPEED**2)
        return self.gone

    def measured(self, drift: Drift) -> None:
        """Take a measured speed into account."""
        share = self._variance / (self._variance + drift.sigma**2)
        self._speed = tuple(  # type: ignore[assignment]
            old + share * (new - old) for old, new in zip(self._speed, (drift.x, drift.y), strict=True)
        )
        self._variance *= 1 - share


def _drift_of_last(folder: Path, plan: Plan) -> tuple[float, float]:
    """Return how far the sample had drifted at the last tile that is there, nm; what came after it is not known."""
    for tile in reversed(plan.tiles):
        path = folder / PICTURES / tile.name
        if path.exists():
            x, y = read_image(path).metadata["tile"].get("drift", (0.0, 0.0))
            return float(x), float(y)
    return 0.0, 0.0


def _record(tile: Tile, path: Path, image: Image) -> TileRecord:
    about = image.metadata.get("tile")
    if not isinstance(about, dict):
        raise InvalidParameterError(f"{path} is none of these tiles: its file says nothing of a tile")
    try:
        gone = about.get("drift", (0.0, 0.0))
        numbers = {
            name: math.nan if about[name] is None else float(about[name]) for name in ("score", "dose", "seconds")
        }
        return TileRecord(
            tile=tile,
            path=path,
            x=float(about["stage"][0]) - gone[0] * 1e-6,
            y=float(about["stage"][1]) - gone[1] * 1e-6,
            working_distance=image.working_distance,
            pixel_size=image.pixel_size,
            focus=str(about["focus"]),
            reason=str(about["reason"]),
            frames=int(about["focusing_frames"]),
            **numbers,
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InvalidParameterError(f"{path} is none of these tiles: {type(error).__name__}: {error}") from error
