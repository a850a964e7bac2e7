"""A ZepTools desktop SEM behind the protocols of `semdrivers.microscope`.

The instrument acknowledges values that it does not take, so every value is read back and compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from firmware_protocol.zem import PORT, SIZES
from semdrivers.base import ConnectedMicroscope
from semdrivers.connection import host_and_port, limits_option, number_option, split_url
from semdrivers.errors import (
    BusyError,
    DeviceError,
    InterlockError,
    NotConnectedError,
    ProtocolError,
    SemDriversError,
)
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities, Range, check_read_back, number, offered_mode, switch, two_of
from semdrivers.zem._link import Link

_MODES = tuple(ScanMode(f"{width}x{height}", width, height) for width, height in SIZES if 512 <= width == height)
_WORKING_DISTANCE = Range(3.0, 50.0, 0.001)
_MAGNIFICATION = Range(500.0, 150000.0, 1.0)
_AVERAGE = 2
"""Points averaged in a pixel; the maker advises 2 for fast pictures, of 1 to 7."""
_PICTURE_TIME, _STAGE_TIME, _BEAM_TIME = 60.0, 60.0, 60.0
_STAGE_ERROR = 0.005
_U16 = 7
_OPTIONS = ("working_distance", "settle", "timeout", "average")
_Value = TypeVar("_Value")


class Zem(ConnectedMicroscope):
    """A ZepTools desktop SEM. Thread safe: one operation at a time.

    `semdrivers.connect` makes one. It implements `Microscope`, `RecordsFocus`, `HasStage` and `HasBeam` (the high
    voltage), and `HasStigmator` where the instrument reports a stigmator. The magnification is the instrument's own;
    the pixel size follows from the field that it reports.

    Parameters
    ----------
    link : Link
        Open; belongs to the microscope from here on.
    name : str
        For messages.
    working_distance : Range
        Limits, mm.
    settle : float
        Seconds that the lens is given after it was set.
    average : int
        Points averaged in a pixel, 1 to 7.
    """

    def __init__(self, link: Link, name: str, working_distance: Range, settle: float, average: int) -> None:
        self._link, self._name, self._settle, self._average = link, name, settle, average
        self._took_video = False
        self._frames = 0
        limits = working_distance.including(self._number("GetWD"))
        magnifications = _MAGNIFICATION.including(self._number("GetMag"))
        model = "ZEM"
        with suppress(DeviceError):
            model = ",".join(link.ask("GetModel")) or model
        self._capabilities = Capabilities(limits, magnifications, _MODES, model=model)

    @property
    def capabilities(self) -> Capabilities:
        """Limits as the URL gives them, wider where the instrument stands outside."""
        return self._capabilities

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame of a size that the instrument has, and return it.

        Raises
        ------
        InvalidParameterError
            When `mode` is none that it has.
        InterlockError
            When the high voltage is off.
        BusyError
            When it is busy.
        TransportError
            When the picture does not come whole.
        """
        mode = offered_mode(self._capabilities, mode)
        with self._lock:
            if not self._read("beam_on"):
                raise InterlockError(f"{self._name}: the high voltage is off; switch it on with beam_on = True")
            state = ",".join(self._ask("StatusCheck"))
            if state != "Idle":
                raise BusyError(f"{self._name}: it is busy ({state}); wait for it to end")
            place, magnification = self._read("working_distance"), self._read("magnification")
            width = self._number("GetScanInfo") * 1e3
            began = time.time()
            self._took_video = True
            sizes = f"0,{self._average},0,{SIZES[mode.width, mode.height]}"
            where = self._ask("Snap", sizes, deadline=_PICTURE_TIME)
            pixels = self._picture(mode, where)
            self._frames += 1
        metadata = {"model": self._capabilities.model, **self._frame_metadata(place, mode)}
        return self._delivered(
            Image(pixels, place, magnification, width / mode.width, self._frames, began, mode, metadata)
        )

    def close(self) -> None:
        """Let the live picture go on where frames ended it, and close. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            with suppress(SemDriversError):
                if self._took_video:
                    self._ask("VideoPlay")
            self._closed = True
            self._link.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} ({'closed' if self._closed else 'open'})>"

    def _read(self, name: str) -> Any:
        with self._lock:
            if name == "stage_position":
                x, y = self._values("GetStagePos", float, 2)
                return x * 1e-3, y * 1e-3
            if name == "stigmator":
                return self._number("GetStigX"), self._number("GetStigY")
            if name == "beam_on":
                return self._number("GetHvStatus") == 1
            return self._number("GetWD" if name == "working_distance" else "GetMag")

    def _write(self, name: str, value: Any) -> None:
        with self._open():
            if name == "stigmator":
                self._set_stigmator(value)
            elif name == "beam_on":
                self._set_beam(value)
            elif name == "working_distance":
                limits = self._capabilities.working_distance
                value = limits.check(f"{self._name}: working_distance", value, "mm")
                self._ask("SetWD", f"{value:.6f}")
                time.sleep(self._settle)
                check_read_back(f"{self._name}: {name}", value, self._read(name), limits.step, "mm")
            else:
                value = round(self._capabilities.magnification.check(f"{self._name}: magnification", value))
                self._ask("SetMag", f"{value}")
                check_read_back(f"{self._name}: {name}", value, self._read(name), 0.5)

    def _call(self, name: str, *arguments: Any) -> Any:
        x, y = (number(f"{self._name}: stage {axis}", each, "mm") for axis, each in zip("xy", arguments, strict=True))
        with self._lock:
            self._ask("SetStagePos", f"{x * 1e3:.6f},{y * 1e3:.6f}")
            self._await("the stage moves", _STAGE_TIME, lambda: self._number("GetStgStatus") == 1)
            reached = self._read("stage_position")
            for axis, value, read in zip("xy", (x, y), reached, strict=True):
                check_read_back(f"{self._name}: stage {axis}", value, read, _STAGE_ERROR, "mm")
            return reached

    def _set_stigmator(self, value: Any) -> None:
        for axis, each in zip("XY", two_of(f"{self._name}: stigmator", value), strict=True):
            target = number(f"{self._name}: stigmator {axis.lower()}", each)
            self._ask(f"SetStig{axis}", f"{target:.6f}")
            check_read_back(f"{self._name}: stigmator {axis.lower()}", target, self._number(f"GetStig{axis}"), 0.01)

    def _set_beam(self, value: Any) -> None:
        on = switch(f"{self._name}: beam_on", value)
        if self._read("beam_on") != on:
            self._ask("SetHV_ON" if on else "SetHV_OFF")
        what = f"the high voltage does not go {'on' if on else 'off'}"
        self._await(what, _BEAM_TIME, lambda: self._read("beam_on") == on)

    def _await(self, what: str, seconds: float, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                raise DeviceError(f"{self._name}: {what}, after {seconds:g} s")
            time.sleep(0.05)

    def _picture(self, mode: ScanMode, where: tuple[str, ...]) -> Any:
        """Fetch the picture that a Snap announces: SERVER:IP:PORT, depth, width, height."""
        try:
            port, depth, width, height = int(where[0].rpartition(":")[2]), *map(int, where[1:4])
        except (ValueError, IndexError) as error:
            raise ProtocolError(f"{self._name}: Snap is answered by {','.join(where)!r}") from error
        if not 0 < port < 65536 or (width, height) != (mode.width, mode.height) or depth not in (0, _U16):
            raise ProtocolError(
                f"{self._name}: Snap of {mode} is answered by {width}×{height} of depth {depth} at port {port}"
            )
        kind = "<u2" if depth == _U16 else "u1"
        raw = self._link.picture(port, width * height * np.dtype(kind).itemsize)
        return np.frombuffer(raw, kind).reshape(height, width).astype(np.uint16 if depth == _U16 else np.uint8)

    def _number(self, command: str) -> float:
        return self._values(command, float, 1)[0]

    def _values(self, command: str, kind: Callable[[str], _Value], least: int) -> list[_Value]:
        answer = self._ask(command)
        try:
            values = [kind(value) for value in answer[:least]]
        except ValueError:
            values = []
        if len(values) < least or not all(math.isfinite(float(str(value))) for value in values):
            raise ProtocolError(f"{self._name}: {command} is answered by {','.join(answer)!r}")
        return values

    def _ask(self, command: str, arguments: str = "", deadline: float | None = None) -> tuple[str, ...]:
        with self._open():
            return self._link.ask(command, arguments, deadline)


def connect(url: str, options: Mapping[str, Any]) -> Zem:
    """Open the ZEM at a URL.

    Parameters
    ----------
    url : str
        ``zem://HOST[:PORT]``, with options ``working_distance=LOW:HIGH`` (mm), ``settle=`` (s), ``average=`` (1 to 7)
        and ``timeout=`` (s).
    options : mapping
        The same, above their namesakes in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When the URL or an option is malformed, before any I/O.
    NotConnectedError
        When no instrument answers.
    """
    parts, given = split_url(url, options, _OPTIONS, "a ZEM")
    host, port = host_and_port(url, parts, "zem://HOST or zem://HOST:PORT", PORT)
    values = {"settle": 0.5, "timeout": 3.0, "average": float(_AVERAGE)}
    for name, least, most in (("settle", 0.0, 60.0), ("timeout", 0.05, 60.0), ("average", 1.0, 7.0)):
        if name in given:
            values[name] = number_option(url, name, given[name], least, most)
    limits = _WORKING_DISTANCE
    if "working_distance" in given:
        allowed = limits_option(url, "working_distance", given["working_distance"], least=0)
        limits = Range(allowed.minimum, allowed.maximum, limits.step)
    name = f"ZEM at {host}:{port}"
    link = Link(host, port, values["timeout"], name)
    try:
        try:
            link.ask("StatusCheck")
        except SemDriversError as error:
            raise NotConnectedError(f"{name}: no ZEM answers there: {error}") from error
        offers = {"stage_position", "move_stage", "beam_on"}
        with suppress(DeviceError, ValueError, IndexError):
            float(link.ask("GetStigX")[0])
            offers.add("stigmator")
        return Zem._offering(offers)(link, name, limits, values["settle"], int(values["average"]))
    except BaseException:
        link.close()
        raise
