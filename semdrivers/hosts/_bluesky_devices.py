"""A `Microscope` as Bluesky devices, by Bluesky's protocols alone; `semdrivers.hosts.bluesky` has the plans.

Units are the microscope's: working distance and stage mm, pixel size nm.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from semdrivers.errors import InvalidParameterError
from semdrivers.focus import AutofocusResult, NotFocusedError
from semdrivers.hosts._cadence import FocusKeeper
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Microscope, Range, missing_members

Reading = dict[str, dict[str, Any]]
"""What ``read`` and ``describe`` return: an entry for each field."""

_UNITS = {"working_distance": "mm", "start_working_distance": "mm", "pixel_size": "nm", "elapsed": "s"}


class ThreadStatus:
    """The end of work on a thread of its own, as Bluesky's ``Status``.

    Parameters
    ----------
    work : callable
        Begun at once; what it raises fails the status.
    name : str
        Of the thread.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Any], None]] = []
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
        with self._lock:
            self._ended.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback(self)

    def add_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback` at the end, at once if it has come."""
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append(callback)
                return
        callback(self)

    def exception(self, timeout: float | None = 0.0) -> BaseException | None:
        """Wait for the end, and return what the work raised, or None; raises TimeoutError."""
        if not self._ended.wait(timeout):
            raise TimeoutError("the work has not ended")
        return self._error

    @property
    def done(self) -> bool:
        """Whether the work has ended."""
        return self._ended.is_set()

    @property
    def success(self) -> bool:
        """Whether the work has ended without an exception."""
        return self.done and self._error is None


class _Device:
    parent = None

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def hints(self) -> dict[str, Any]:
        """Nothing to plot by itself."""
        return {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Setting(_Device):
    """One number of the instrument: readable, movable, stoppable. A set ends once it has taken effect."""

    def __init__(self, name: str, unit: str, limits: Range | None, read: Callable[[], float], write: Any) -> None:
        super().__init__(name)
        self._unit, self._limits, self._read, self._write = unit, limits, read, write
        self._status: ThreadStatus | None = None

    @property
    def hints(self) -> dict[str, Any]:
        """Its own field."""
        return {"fields": [self.name]}

    def set(self, value: float) -> ThreadStatus:
        """Set the number; one beyond the limits raises `OutOfRangeError` before anything moves."""
        if self._limits is not None:
            value = self._limits.check(self.name, value, self._unit)
        self._status = ThreadStatus(lambda: self._write(value), self.name)
        return self._status

    def stop(self, *, success: bool = True) -> None:
        """Return once a set under way has taken effect: it is one command of the instrument, and cannot be halved."""
        if self._status is not None:
            self._status.thread.join()

    def locate(self) -> dict[str, float]:
        """Return where it is."""
        value = float(self._read())
        return {"setpoint": value, "readback": value}

    def read(self) -> Reading:
        """Return the number as read back."""
        return {self.name: {"value": float(self._read()), "timestamp": time.time()}}

    def describe(self) -> Reading:
        """Describe the number."""
        return {self.name: _key(f"semdrivers:{self.name}", 0.0, self._unit)}


class Autofocus(_Device):
    """Autofocus: movable, stoppable, readable. To set it, to whatever value, is to focus.

    Attributes
    ----------
    keeper : FocusKeeper
        The policy in force, and the last result.
    error : BaseException or None
        Why the last set failed.
    """

    def __init__(self, name: str, keeper: FocusKeeper) -> None:
        super().__init__(name)
        self.keeper = keeper
        self.error: BaseException | None = None
        self._status: ThreadStatus | None = None

    @property
    def result(self) -> AutofocusResult | None:
        """The last result."""
        return self.keeper.result

    def set(self, value: object = None) -> ThreadStatus:
        """Focus. The status fails with `NotFocusedError` or `FrameSkippedError`, as the policy has it."""
        self.error = None
        keeper, cancel = self.keeper, threading.Event()
        keeper.cancel = cancel

        def work() -> None:
            try:
                keeper.focus()
            except BaseException as error:
                if isinstance(error, NotFocusedError) and cancel.is_set():
                    return
                self.error = error
                raise

        self._status = ThreadStatus(work, self.name)
        return self._status

    def stop(self, *, success: bool = True) -> None:
        """End a focusing before its next frame; returns when the lens is back at its start."""
        status = self._status
        if status is not None and not status.done:
            self.keeper.cancel.set()
            status.thread.join()

    def read(self) -> Reading:
        """Return the last result, field by field, without its trace."""
        return _reading({f"{self.name}_{field}": value for field, value in _record(self.result).items()})

    def describe(self) -> Reading:
        """Describe the fields of a result."""
        return {
            f"{self.name}_{field}": _key("semdrivers:autofocus", v, _UNITS.get(field, "")) for field, v in _NONE.items()
        }


class Detector(_Device):
    """Frames: triggerable and readable. Each reading holds the frame, its conditions and its focus record."""

    def __init__(self, name: str, microscope: Microscope, autofocus: Autofocus, mode: ScanMode) -> None:
        super().__init__(name)
        self._microscope, self._autofocus, self.mode = microscope, autofocus, mode
        self.image: Image | None = None

    @property
    def hints(self) -> dict[str, Any]:
        """The mean grey level."""
        return {"fields": [f"{self.name}_mean"]}

    def trigger(self) -> ThreadStatus:
        """Scan one frame."""

        def work() -> None:
            self.image = self._autofocus.keeper.after_frame(self._microscope.acquire(self.mode))

        return ThreadStatus(work, self.name)

    def read(self) -> Reading:
        """Return the last frame."""
        return _reading(self._fields())

    def describe(self) -> Reading:
        """Describe a frame."""
        return {
            field: _key("semdrivers:frame", value, _UNITS.get(field.removeprefix(f"{self.name}_"), ""))
            for field, value in self._fields().items()
        }

    def _fields(self) -> dict[str, Any]:
        image = self.image
        if image is None:
            raise InvalidParameterError(f"{self.name} has taken no frame yet; trigger it first")
        record = {**_NONE, **(image.metadata.get("autofocus") or {})}
        focus = {f"autofocus_{field}": record[field] for field in ("status", "working_distance", "score", "confidence")}
        fields = {
            "image": image.pixels,
            "mean": float(image.pixels.mean()),
            "working_distance": float(image.working_distance),
            "magnification": float(image.magnification),
            "pixel_size": float(image.pixel_size),
            **focus,
            "autofocus_frames_since": int(record.get("frames_since", -1)),
        }
        return {f"{self.name}_{field}": value for field, value in fields.items()}


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one microscope; `stage_x` and `stage_y` are None where there is no stage."""

    microscope: Microscope
    detector: Detector
    working_distance: Setting
    magnification: Setting
    autofocus: Autofocus
    stage_x: Setting | None = None
    stage_y: Setting | None = None


def devices(microscope: Microscope, name: str = "sem", mode: ScanMode = ScanMode.FAST) -> Devices:
    """Return the Bluesky devices of a microscope.

    Parameters
    ----------
    microscope : Microscope
        Any.
    name : str
        Of the detector, and before the others' names.
    mode : ScanMode
        Of the detector's frames; ``sem.detector.mode`` changes it.

    Raises
    ------
    InvalidParameterError
        When it lacks a member of the protocol.
    """
    missing = missing_members(microscope)
    if missing:
        raise InvalidParameterError(f"{type(microscope).__name__} is no Microscope: it lacks {', '.join(missing)}")
    limits = microscope.capabilities

    def setting(field: str, unit: str, limit: Range) -> Setting:
        return Setting(
            f"{name}_{field}",
            unit,
            limit,
            lambda: getattr(microscope, field),
            lambda value: setattr(microscope, field, value),
        )

    autofocus = Autofocus(f"{name}_autofocus", FocusKeeper(microscope))
    axes = _stage(microscope, name) if hasattr(type(microscope), "move_stage") else (None, None)
    return Devices(
        microscope,
        Detector(name, microscope, autofocus, mode),
        setting("working_distance", "mm", limits.working_distance),
        setting("magnification", "", limits.magnification),
        autofocus,
        *axes,
    )


def _stage(microscope: Any, name: str) -> tuple[Setting, Setting]:
    """Return the axes of a stage; two moves at once follow each other, and neither undoes the other."""
    lock = threading.Lock()

    def move(axis: int, value: float) -> None:
        with lock:
            place = list(microscope.stage_position)
            place[axis] = value
            microscope.move_stage(*place)

    def axis(index: int) -> Setting:
        return Setting(
            f"{name}_stage_{'xy'[index]}",
            "mm",
            None,
            lambda: microscope.stage_position[index],
            lambda value: move(index, value),
        )

    return axis(0), axis(1)


_NONE: dict[str, Any] = {
    "status": "",
    "reason": "",
    "working_distance": float("nan"),
    "start_working_distance": float("nan"),
    "score": float("nan"),
    "confidence": float("nan"),
    "frames": 0,
    "elapsed": float("nan"),
    "method": "",
}
"""A focus record before the first focusing."""


def _record(result: AutofocusResult | None) -> dict[str, Any]:
    return dict(_NONE) if result is None else {field: getattr(result, field) for field in _NONE}


def _reading(fields: dict[str, Any]) -> Reading:
    now = time.time()
    return {field: {"value": value, "timestamp": now} for field, value in fields.items()}


def _key(source: str, value: Any, unit: str) -> dict[str, Any]:
    """Describe a value to Bluesky."""
    key: dict[str, Any] = {"source": source, "dtype": "number", "shape": []}
    if isinstance(value, str):
        key["dtype"] = "string"
    elif isinstance(value, int):
        key["dtype"] = "integer"
    elif not isinstance(value, float):
        key.update(dtype="array", shape=list(value.shape), dtype_numpy=value.dtype.str)
    return {**key, "units": unit} if unit else key
