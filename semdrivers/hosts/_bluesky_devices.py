"""A `Microscope` as Bluesky devices, by Bluesky's protocols alone; `semdrivers.hosts.bluesky` has the plans.

Units are the microscope's: working distance and stage mm, pixel size nm. Each data key begins with the name of its
device's kind, so that any devices can be read in one event; what is unknown is None, which is null in a document.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from semdrivers.connection import connect
from semdrivers.errors import InvalidParameterError
from semdrivers.focus import AutofocusResult, NotFocusedError
from semdrivers.hosts._cadence import FocusKeeper
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Microscope, Range, has_member, missing_members, number
from semdrivers.threads import on_one_thread

Reading = dict[str, dict[str, Any]]
"""What ``read`` and ``describe`` return: an entry for each field."""

_RESULT = {
    "status": ("string", ""),
    "reason": ("string", ""),
    "working_distance": ("number", "mm"),
    "start_working_distance": ("number", "mm"),
    "score": ("number", ""),
    "confidence": ("number", ""),
    "frames": ("integer", ""),
    "elapsed": ("number", "s"),
    "method": ("string", ""),
}
"""Fields of the autofocus device: type and unit of each."""
_NOTHING = {"status": "", "reason": "", "frames": 0, "method": ""}
"""Fields of a result before the first focusing; the others are None."""
_FOCUS = {
    "status": ("string", ""),
    "working_distance": ("number", "mm"),
    "score": ("number", ""),
    "confidence": ("number", ""),
    "lens_offset": ("number", "mm"),
    "frames_since": ("integer", ""),
}
"""Fields of a frame's focus record."""
_FRAME = {"working_distance": ("number", "mm"), "magnification": ("number", ""), "pixel_size": ("number", "nm")}
"""Conditions of a frame."""


class ThreadStatus:
    """The end of work on a thread of its own, as Bluesky's ``Status``.

    Parameters
    ----------
    work : callable
        Begun at once; what it raises fails the status.
    name : str
        Name of the thread.
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
        checked = self.check_value(value)
        self._status = ThreadStatus(lambda: self._write(checked), self.name)
        return self._status

    def check_value(self, value: float) -> float:
        """Return the number as it would be set; one that cannot be raises as `set` does. Nothing moves."""
        if self._limits is not None:
            return self._limits.check(self.name, value, self._unit)
        return number(self.name, value, self._unit)

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
        return {self.name: _key(f"semdrivers:{self.name}", "number", self._unit)}


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

    def check_value(self, value: object) -> None:
        """Accept anything: whatever is set, it focuses."""

    def read(self) -> Reading:
        """Return the last result, field by field, without its trace."""
        result = self.result
        record = _NOTHING if result is None else {field: getattr(result, field) for field in _RESULT}
        return _reading({f"{self.name}_{field}": record.get(field) for field in _RESULT})

    def describe(self) -> Reading:
        """Describe the fields of a result."""
        return {f"{self.name}_{field}": _key("semdrivers:autofocus", *kind) for field, kind in _RESULT.items()}


class Detector(_Device):
    """Frames: triggerable and readable. Each reading holds the frame, its conditions and its focus record."""

    def __init__(self, name: str, microscope: Microscope, autofocus: Autofocus, mode: ScanMode) -> None:
        super().__init__(name)
        self._microscope, self._autofocus, self._mode = microscope, autofocus, mode
        self.image: Image | None = None
        self._staged = False
        self._description: Reading = {}

    @property
    def mode(self) -> ScanMode:
        """Mode of the frames. Inside a run, change it with ``bps.configure(sem.detector, {"mode": "STANDARD"})``."""
        return self._mode

    @mode.setter
    def mode(self, value: ScanMode) -> None:
        if self._staged and value is not self._mode:
            raise InvalidParameterError(
                f"{self.name} is in a run, whose documents hold the size of a {self._mode.name} frame; change its mode "
                f"in the plan, with bps.configure(detector, {{'mode': '{getattr(value, 'name', value)}'}})"
            )
        self._mode = self._offered(value)

    @property
    def hints(self) -> dict[str, Any]:
        """The mean grey level."""
        return {"fields": [f"{self.name}_mean"]}

    def stage(self) -> list[Any]:
        """Begin a run: the mode changes by `configure` alone."""
        self._staged = True
        return [self]

    def unstage(self) -> list[Any]:
        """End a run."""
        self._staged = False
        return [self]

    def configure(self, values: dict[str, Any]) -> tuple[Reading, Reading]:
        """Set the scan mode, ``{"mode": "STANDARD"}``; return the configuration before and after.

        The RunEngine writes a new descriptor, with the new size of a frame.

        Raises
        ------
        InvalidParameterError
            For another key, and for a mode that the microscope does not offer.
        """
        before = self.read_configuration()
        unknown = set(values) - {"mode"}
        if unknown:
            raise InvalidParameterError(f"{self.name} has no setting {sorted(unknown)[0]!r}; it has 'mode'")
        if "mode" in values:
            self._mode = self._offered(values["mode"])
        self._description.update(self._described())  # the RunEngine keeps what `describe` returned
        return before, self.read_configuration()

    def read_configuration(self) -> Reading:
        """Return the scan mode."""
        return _reading({f"{self.name}_mode": self._mode.name})

    def describe_configuration(self) -> Reading:
        """Describe the scan mode."""
        return {f"{self.name}_mode": _key("semdrivers:scan_mode", "string", "")}

    def trigger(self) -> ThreadStatus:
        """Scan one frame."""

        def work() -> None:
            self.image = self._autofocus.keeper.after_frame(self._microscope.acquire(self._mode))

        return ThreadStatus(work, self.name)

    def read(self) -> Reading:
        """Return the last frame; raises `InvalidParameterError` before the first."""
        image = self.image
        if image is None:
            raise InvalidParameterError(f"{self.name} has taken no frame yet; trigger it first")
        record = {"status": "", "frames_since": -1, **(image.metadata.get("autofocus") or {})}
        return _reading(
            {
                f"{self.name}_image": image.pixels,
                f"{self.name}_mean": float(image.pixels.mean()),
                **{f"{self.name}_frame_{field}": getattr(image, field) for field in _FRAME},
                **{f"{self.name}_focus_{field}": record.get(field) for field in _FOCUS},
            }
        )

    def describe(self) -> Reading:
        """Describe a frame of the mode in force; before the first frame the type of its pixels is not known."""
        self._description = self._described()
        return self._description

    def _described(self) -> Reading:
        image = _key("semdrivers:frame", "array", "")
        image["shape"] = [self._mode.height, self._mode.width]
        if self.image is not None:
            image["dtype_numpy"] = self.image.pixels.dtype.str
        return {
            f"{self.name}_image": image,
            f"{self.name}_mean": _key("semdrivers:frame", "number", ""),
            **{f"{self.name}_frame_{field}": _key("semdrivers:frame", *kind) for field, kind in _FRAME.items()},
            **{f"{self.name}_focus_{field}": _key("semdrivers:frame", *kind) for field, kind in _FOCUS.items()},
        }

    def _offered(self, mode: Any) -> ScanMode:
        """Return a mode, given as such or by name, that the microscope offers."""
        offered = {offered.name: offered for offered in self._microscope.capabilities.scan_modes}
        name = getattr(mode, "name", mode)
        if name not in offered:
            raise InvalidParameterError(f"{self.name}: mode must be one of {', '.join(offered)}, not {mode!r}")
        return offered[name]


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one microscope; those of stage and stigmator are None where it has none."""

    microscope: Microscope
    detector: Detector
    working_distance: Setting
    magnification: Setting
    autofocus: Autofocus
    stage_x: Setting | None = None
    stage_y: Setting | None = None
    stigmator_x: Setting | None = None
    stigmator_y: Setting | None = None


def devices(microscope: Microscope | str, name: str = "sem", mode: ScanMode = ScanMode.FAST) -> Devices:
    """Return the Bluesky devices of a microscope.

    Parameters
    ----------
    microscope : Microscope or str
        Any; or an address for `semdrivers.connect`, opened on a thread of its own: close ``sem.microscope`` at the end.
    name : str
        Name of the detector, and prefix of the others' names.
    mode : ScanMode
        Scan mode of the detector's frames; ``sem.detector.mode`` changes it.

    Raises
    ------
    InvalidParameterError
        When it lacks a member of the protocol.
    """
    if isinstance(microscope, str):
        address = microscope
        return devices(on_one_thread(lambda: connect(address)), name, mode)
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
    own: Any = microscope
    stage: tuple[Setting, ...] | tuple[None, None] = (None, None)
    stigmator = stage
    if hasattr(type(microscope), "move_stage"):
        stage = _axes(f"{name}_stage", "mm", None, lambda: own.stage_position, lambda x, y: own.move_stage(x, y))
    if has_member(microscope, "stigmator"):
        stigmator = _axes(
            *(f"{name}_stigmator", "", limits.stigmator),
            *(lambda: own.stigmator, lambda x, y: setattr(own, "stigmator", (x, y))),
        )
    return Devices(
        microscope,
        Detector(name, microscope, autofocus, mode),
        setting("working_distance", "mm", limits.working_distance),
        setting("magnification", "", limits.magnification),
        autofocus,
        *stage,
        *stigmator,
    )


def _axes(
    name: str,
    unit: str,
    limits: Range | None,
    read: Callable[[], tuple[float, float]],
    write: Callable[[float, float], object],
) -> tuple[Setting, Setting]:
    """Return two axes that are set together; two sets at once follow each other, and neither undoes the other."""
    lock = threading.Lock()

    def move(axis: int, value: float) -> None:
        with lock:
            place = list(read())
            place[axis] = value
            write(*place)

    def axis(index: int) -> Setting:
        return Setting(f"{name}_{'xy'[index]}", unit, limits, lambda: read()[index], lambda value: move(index, value))

    return axis(0), axis(1)


def _reading(fields: dict[str, Any]) -> Reading:
    """Return values as a reading; a number that is not finite is None, for documents are JSON."""
    now = time.time()
    return {field: {"value": _finite(value), "timestamp": now} for field, value in fields.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _key(source: str, dtype: str, unit: str) -> dict[str, Any]:
    """Describe a value to Bluesky."""
    key: dict[str, Any] = {"source": source, "dtype": dtype, "shape": []}
    return {**key, "units": unit} if unit else key
