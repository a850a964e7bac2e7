"""Bases of microscopes: `MicroscopeBase` for drivers, `KeepsFocusRecord` for those with a focus record,
`ConnectedMicroscope` for those that a closed connection ends too, and `WrappedMicroscope`, which passes everything on
to another microscope.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import inspect
import logging
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from semdrivers.autofocus import autofocus
from semdrivers.errors import NotConnectedError, ProtocolError, SemDriversError
from semdrivers.focus import AutofocusResult, FocusRecord, RecordsFocus, record_of_frame
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import (
    Capabilities,
    HasBeam,
    HasBeamShift,
    HasDetector,
    HasStage,
    HasStageOrientation,
    HasStigmator,
    HasStop,
    HasVacuum,
    HasVoltage,
    blank_after,
    check_microscope,
    has_member,
    has_part,
    reported,
)

_log = logging.getLogger(__name__)

PARTS: Mapping[type, str] = {
    HasStage: "stage",
    HasStageOrientation: "stage tilt and rotation",
    HasStigmator: "stigmator",
    HasBeamShift: "beam shift",
    HasDetector: "detector",
    HasBeam: "beam",
    HasVacuum: "vacuum",
    HasStop: "stop within a frame",
    HasVoltage: "high voltage",
}
"""Protocols of the optional parts of an instrument, each with its name for a person."""

_OPTIONAL = (*PARTS, RecordsFocus)
_MEMBERS = {name: member for protocol in _OPTIONAL for name, member in vars(protocol).items() if name[0] != "_"}

PROPERTIES = tuple(name for name, member in _MEMBERS.items() if isinstance(member, property))
"""Members of the optional protocols that are read, and set where they can be."""
METHODS = tuple(name for name in _MEMBERS if name not in PROPERTIES)
"""Members of the optional protocols that are called."""

_KINDS = {name: getattr(member, "fget", member).__annotations__["return"] for name, member in _MEMBERS.items()}
"""What each of them returns."""

_SETTINGS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (HasStage, "stage_position", ("stage_x", "stage_y")),
    (HasStageOrientation, "stage_orientation", ("stage_tilt", "stage_rotation")),
    (HasStigmator, "stigmator", ("stigmator_x", "stigmator_y")),
    (HasBeamShift, "beam_shift", ("beam_shift_x", "beam_shift_y")),
    (HasDetector, "brightness", ("brightness",)),
    (HasDetector, "contrast", ("contrast",)),
    (HasVoltage, "voltage", ("voltage",)),
)
"""Protocol, property, and the names that its values have in the metadata of a frame."""

__all__ = [
    "METHODS", "PARTS", "PROPERTIES", "ConnectedMicroscope", "KeepsFocusRecord", "MicroscopeBase", "WrappedMicroscope",
    "answered", "described", "ends_with_fork", "settings_of",
]  # fmt: skip


_of_this_process: weakref.WeakSet[Any] = weakref.WeakSet()


def ends_with_fork(microscope: Any) -> None:
    """Have a microscope be closed, and nothing more, in a forked child: its links are those of the parent.

    Parameters
    ----------
    microscope : MicroscopeBase
        One whose ``_closed`` says that it is closed.
    """
    _of_this_process.add(microscope)


def _close_in_child() -> None:
    for microscope in list(_of_this_process):
        microscope._closed = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_in_child)


def answered(name: str, value: Any) -> Any:
    """Return what another program, or a file, reports of a member of an optional protocol, in the type of the member.

    Parameters
    ----------
    name : str
        One of `PROPERTIES` or `METHODS`; any other passes.
    value : object
        From JSON.

    Raises
    ------
    ProtocolError
        When it is of another type, or a number that is not finite.
    """
    kind = _KINDS.get(name, "")
    if value is None and (name in METHODS or "None" in kind):
        return None
    if kind == "float":
        return reported(name, value)
    if kind == "tuple[float, float]" and isinstance(value, list | tuple) and len(value) == 2:
        return reported(f"{name} x", value[0]), reported(f"{name} y", value[1])
    expected = {"bool": bool, "str": str, "FocusRecord | None": dict}.get(kind, () if kind else object)
    if not isinstance(value, expected):
        raise ProtocolError(f"{name} reads {str(value)[:40]!r}, which is no {kind}; check the instrument")
    return value


def settings_of(microscope: Any, mode: ScanMode | None = None) -> dict[str, float]:
    """Return the settings that a microscope reports beside lens and magnification, for the metadata of a frame.

    Parameters
    ----------
    microscope : Microscope
        It is asked for what its optional protocols offer, and for nothing else.
    mode : ScanMode, optional
        Of the frame, for its ``dwell_time``.

    Returns
    -------
    dict
        ``stage_x``, ``stage_y`` (mm), ``stage_tilt``, ``stage_rotation`` (degrees), ``stigmator_x``, ``stigmator_y``
        (units of the instrument), ``beam_shift_x``, ``beam_shift_y`` (mm), ``brightness``, ``contrast`` (0 to 1),
        ``voltage`` (kV), ``dwell_time`` (s). What is not offered or no number is left out, and so is all that follows
        an error: no picture is lost for want of them.
    """
    settings: dict[str, float] = {}
    try:
        for protocol, name, keys in _SETTINGS:
            if has_part(microscope, protocol):
                values = getattr(microscope, name)
                settings |= zip(keys, map(float, values if len(keys) > 1 else (values,)), strict=True)
        if mode is not None:
            about = microscope.capabilities
            settings["dwell_time"] = mode.dwell or dict(zip(about.scan_modes, about.dwell_times, strict=False))[mode]
    except KeyError:
        pass  # the instrument does not report it
    except (SemDriversError, TypeError, ValueError) as error:
        _log.info("a setting could not be read for the record of a frame: %s", error)
    return {name: value for name, value in settings.items() if math.isfinite(value)}


def described(image: Image, microscope: Any, record: Mapping[str, Any] | None = None) -> Image:
    """Return a frame that says how it was taken, whatever its driver wrote: `settings_of`, and the last autofocus.

    Parameters
    ----------
    image : Image
        The frame; what its metadata hold already stays.
    microscope : Microscope
        That took it.
    record : mapping, optional
        Record of the autofocus run before it, such as ``result.to_record()``.
    """
    known = any(key in image.metadata for _, _, keys in _SETTINGS for key in keys)
    settings: dict[str, Any] = {} if known else dict(settings_of(microscope, image.scan_mode))
    if record is not None:
        settings["autofocus"] = record_of_frame(record, image.working_distance)
    return dataclasses.replace(image, metadata={**settings, **image.metadata}) if settings else image


class MicroscopeBase(abc.ABC):
    """A microscope in terms of three methods: a subclass implements `_read`, `_write` and, for stages, `_call`.

    Subclasses add `capabilities`, `acquire` and `close`, and get `autofocus` and the ``with`` statement. Setting an
    attribute that the class does not have raises AttributeError, so that no misspelt setting is lost; a subclass
    declares public attributes of its own in the class (``folder: Path``), and names with an underscore are free.
    """

    offers: ClassVar[tuple[str, ...]] = ()
    """Members of the optional protocols, where they were given to a subclass for one instrument."""

    @property
    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """Limits and modes, as the instrument reports them."""

    @abc.abstractmethod
    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame, wholly after the last set took effect, and return it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give the instrument back. A second call does nothing."""

    def _read(self, name: str) -> Any:
        """Return the value of a member."""
        raise NotImplementedError

    def _write(self, name: str, value: Any) -> None:
        """Set a member."""
        raise NotImplementedError

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a method of an optional protocol."""
        raise NotImplementedError

    def _stop(self, keep_beam: bool) -> None:
        """Stop: never through `_call`, which may wait for another call."""
        raise NotImplementedError

    def _check_open(self) -> None:  # noqa: B027 - a microscope need not know whether it is open
        """Raise `NotConnectedError` once the microscope is closed."""

    @property
    def working_distance(self) -> float:
        """Working distance in mm, as read back; setting it returns once the lens has settled.

        Raises
        ------
        OutOfRangeError
            When set outside ``capabilities.working_distance``; nothing has moved.
        InvalidParameterError
            When set to what is no number.
        ProtocolError
            When the instrument reports what is no finite number.
        """
        return reported("working_distance", self._read("working_distance"), "mm")

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._write("working_distance", value)

    @property
    def magnification(self) -> float:
        """Magnification, a plain number, as read back. Raises as `working_distance` does."""
        return reported("magnification", self._read("magnification"))

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._write("magnification", value)

    def _delivered(self, image: Image) -> Image:
        """Return a frame that plugins have watched (the hook ``semdrivers_frame``)."""
        from semdrivers.plugins import get_plugin_manager  # loads pluggy

        get_plugin_manager().notify_frame(self, image)
        return image

    def autofocus(self, **settings: Any) -> AutofocusResult:
        """Focus; the same as ``semdrivers.autofocus(microscope, **settings)``."""
        self._check_open()
        return autofocus(self, **settings)

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name.startswith("_") or hasattr(type(self), name) or _declared(type(self), name)):
            known = {known for known in dir(type(self)) if not known.startswith("_") and hasattr(type(self), known)}
            nearest = difflib.get_close_matches(name, [*known, *_MEMBERS], 1)
            which = nearest[0] if nearest else ""
            hint = f": this instrument does not offer {which}" if which and which not in known else ""
            hint = f"; did you mean {which!r}?" if which in known else hint
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to set{hint}", name=name, obj=self)
        super().__setattr__(name, value)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close; after an exception, blank the beam first where that can be done: it stays on for nobody."""
        try:
            if error is not None:
                blank_after(error, self)
        finally:
            self.close()

    @classmethod
    def _lacking(cls, names: set[str]) -> type[Self]:
        """Return a subclass of the same name without those of its members that are in `names`."""
        return type(cls.__name__, (cls,), {name: _Absent() for name in names}) if names else cls

    @classmethod
    def _offering(cls, names: set[str]) -> type[Self]:
        """Return a subclass of the same name that has those of `PROPERTIES` and `METHODS` that are in `names`."""
        members: dict[str, Any] = {name: _property(name) for name in PROPERTIES if name in names}
        members |= {name: _method(name) for name in METHODS if name in names}
        if "stop" in members:
            members["stop"] = _stop
        return type(cls.__name__, (cls,), {**members, "offers": tuple(members)})


class KeepsFocusRecord(MicroscopeBase):
    """A driver that keeps the record of the last autofocus run for the frames that follow (`RecordsFocus`)."""

    _focus_record: FocusRecord | None = None

    @property
    def focus_record(self) -> FocusRecord | None:
        """Result of the last autofocus run; it travels in ``metadata["autofocus"]`` of the frames that follow."""
        self._check_open()
        return self._focus_record

    @focus_record.setter
    def focus_record(self, value: FocusRecord | None) -> None:
        self._check_open()
        self._focus_record = value

    def _records_settings(self, mode: ScanMode) -> bool:
        """Return whether settings are read for a frame: those of the fastest of several modes are there to be looked
        at, many in a row.
        """
        modes = self.capabilities.scan_modes
        return len(modes) == 1 or mode != modes[0]

    def _frame_metadata(
        self, working_distance: float, mode: ScanMode, settings: dict[str, float] | None = None
    ) -> dict[str, Any]:
        """Return what the metadata of a frame scanned at a working distance (mm) hold: settings, and the last run.

        Settings that the driver does not hand in are read where `_records_settings` says so.
        """
        if settings is None:
            settings = settings_of(self, mode) if self._records_settings(mode) else {}
        record = self._focus_record
        return settings if record is None else {**settings, "autofocus": record_of_frame(record, working_distance)}


class ConnectedMicroscope(KeepsFocusRecord):
    """A driver of an instrument with a connection: one call at a time, and none once `close` has set `_closed`, nor in
    a forked child.

    A subclass sets `_name`, the instrument's for messages, before its first call.
    """

    _lock: threading.RLock
    _name: str
    _closed = False

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make the lock that a call holds."""
        made = super().__new__(cls)
        made._lock = threading.RLock()
        ends_with_fork(made)
        return made

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnectedError(f"the connection to {self._name} is closed; connect again")

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the lock of a microscope that is open."""
        with self._lock:
            self._check_open()
            yield


class WrappedMicroscope(MicroscopeBase):
    """A microscope that passes everything on to another.

    It has the members of the optional protocols that the other has, and no more, so that ``isinstance`` gives the same
    answers. A subclass changes what it must: single members, or `_read`, `_write` and `_call` for all of them.

    Parameters
    ----------
    microscope : Microscope
        Open; `close` closes it too.

    Raises
    ------
    InvalidParameterError
        When `microscope` is none. The instrument is asked nothing.
    """

    _semdrivers_wraps: ClassVar[str] = "_microscope"
    """Attribute that holds it, for `semdrivers.claims`; a subclass may hold other microscopes beside it."""

    def __new__(cls, microscope: Any, *_: Any, **__: Any) -> Self:
        """Make a class that has the members that the microscope has."""
        return super().__new__(cls._offering({name for name in _MEMBERS if has_member(microscope, name)}))

    def __init__(self, microscope: Any) -> None:
        check_microscope(microscope)
        self._microscope = microscope

    @property
    def capabilities(self) -> Capabilities:
        """Those of the microscope."""
        capabilities: Capabilities = self._read("capabilities")
        return capabilities

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame."""
        image: Image = self._call("acquire", mode)
        return image

    def close(self) -> None:
        """Close the microscope."""
        self._call("close")

    def _read(self, name: str) -> Any:
        return getattr(self._microscope, name)

    def _write(self, name: str, value: Any) -> None:
        setattr(self._microscope, name, value)

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._microscope, name)(*arguments)

    def _stop(self, keep_beam: bool) -> None:
        self._microscope.stop(keep_beam)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._microscope!r}>"


class _Absent:
    """In place of a member that the class has and the instrument has not."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError(f"this {owner.__name__} does not offer {self._name}", name=self._name, obj=instance)

    def __set__(self, instance: object, value: object) -> None:
        self.__get__(instance, type(instance))


def _stop(self: MicroscopeBase, keep_beam: bool = False) -> None:
    self._stop(keep_beam)


def _declared(kind: type, name: str) -> bool:
    """Whether a class, or one of its bases, declares an attribute of instances."""
    return any(name in vars(base).get("__annotations__", {}) for base in kind.__mro__)


def _property(name: str) -> property:
    return property(lambda self: self._read(name), lambda self, value: self._write(name, value))


def _method(name: str) -> Callable[..., Any]:
    signature = inspect.signature(_MEMBERS[name])

    def call(self: MicroscopeBase, *arguments: Any, **named: Any) -> Any:
        return self._call(name, *signature.bind(self, *arguments, **named).args[1:])

    call.__name__ = name
    return call
