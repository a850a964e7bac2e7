"""A Zeiss microscope behind the protocols of `semdrivers.microscope`: the COM object ``CZ.EMApiCtrl.1`` of SmartSEM.

Its lengths are metres. Every value that is set is read back and compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from semdrivers.base import ConnectedMicroscope
from semdrivers.connection import limits_option, number_option, split_url
from semdrivers.errors import (
    DeviceError,
    InvalidParameterError,
    NotConnectedError,
    ProtocolError,
    TransportError,
    translated,
)
from semdrivers.files import read_pixels
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities, Range, check_read_back, offered_mode, reported, two_of

_CONTROL = "CZ.EMApiCtrl.1"
_MM, _NM = 1e3, 1e9
_MODE = ScanMode("GRAB", 1024, 768)
_WORKING_DISTANCE = Range(2.0, 30.0)
_MAGNIFICATION = Range(10.0, 500_000.0)
_LENS_ERROR, _MAGNIFICATION_ERROR, _STIGMATOR_ERROR = 0.001, 0.01, 0.01
_PERCENT = Range(-100.0, 100.0)
_FRAME_TIME = 120.0
_OPTIONS = ("working_distance", "settle", "frame_time")


class SmartSem(ConnectedMicroscope):
    """A Zeiss microscope. **Nobody has run this driver on an instrument**; it was tested on a stand-in for the object.

    It implements `Microscope`, `RecordsFocus` and `HasStigmator` (in per cent). Beam, detector and stage are left to
    the operator. A COM object belongs to the thread that made it: see `semdrivers.on_one_thread`.

    Parameters
    ----------
    api : object
        The COM object, or what stands in for it: ``Get``, ``Set``, ``Execute`` and ``Grab``.
    working_distance : Range
        Limits, mm: those of the instrument are not reported.
    settle : float
        Seconds that the lens is given after it was set.
    frame_time : float
        Longest time of a frame, s.
    on_close : callable, optional
        Function that is called at the end of `close`.
    """

    _name = "SmartSEM"

    def __init__(
        self,
        api: Any,
        *,
        working_distance: Range = _WORKING_DISTANCE,
        settle: float = 0.5,
        frame_time: float = _FRAME_TIME,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._api, self._settle, self._frame_time, self._on_close = api, settle, frame_time, on_close
        self._froze = False
        self._frames = 0
        self._capabilities = Capabilities(
            working_distance.including(self._number("AP_WD") * _MM),
            _MAGNIFICATION.including(self._number("AP_MAG")),
            (_MODE,),
            model="Zeiss, SmartSEM",
        )

    @property
    def capabilities(self) -> Capabilities:
        """Limits as they were given, wider where the instrument stands outside."""
        return self._capabilities

    @property
    def stigmator(self) -> tuple[float, float]:
        """Stigmator (x, y) in per cent; setting it raises as `working_distance` does."""
        return self._number("AP_STIG_X"), self._number("AP_STIG_Y")

    @stigmator.setter
    def stigmator(self, value: tuple[float, float]) -> None:
        pair = zip("xy", two_of("stigmator", value, "per cent"), strict=True)
        targets = [_PERCENT.check(f"stigmator {axis}", each, "%") for axis, each in pair]
        for axis, target in zip("XY", targets, strict=True):
            self._set(f"AP_STIG_{axis}", target, target, 1.0, _STIGMATOR_ERROR, "%")

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame at the speed that is set at the instrument, and return it.

        The scan is started anew, and frozen at the end of the frame.

        Raises
        ------
        InvalidParameterError
            When `mode` is no mode of it.
        TransportError
            When the frame does not end in time, or its file cannot be read.
        """
        mode = offered_mode(self._capabilities, mode)
        with self._open():
            place, magnification = self._read("working_distance"), self._read("magnification")
            began = time.time()
            self._froze = True
            self._call_api("Execute", "CMD_UNFREEZE_ALL")
            self._call_api("Execute", "CMD_FREEZE_ALL")
            end = time.monotonic() + self._frame_time
            while not self._number("DP_FROZEN"):
                if time.monotonic() > end:
                    raise TransportError(f"SmartSEM: the frame did not end within {self._frame_time:g} s")
                time.sleep(0.05)
            pixels = self._grab()
            pixel = self._number("AP_PIXEL_SIZE") * _NM
            self._frames += 1
        metadata = self._frame_metadata(place, mode)
        return self._delivered(Image(pixels, place, magnification, pixel, self._frames, began, mode, metadata))

    def close(self) -> None:
        """Let the live picture go on where frames froze it, and close. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self._froze:
                    with suppress(DeviceError):
                        self._call_api("Execute", "CMD_UNFREEZE_ALL")
            finally:
                if self._on_close is not None:
                    with translated("SmartSEM: closing"):
                        self._on_close()

    def _read(self, name: str) -> Any:
        return self._number("AP_WD") * _MM if name == "working_distance" else self._number("AP_MAG")

    def _write(self, name: str, value: Any) -> None:
        limits: Range = getattr(self._capabilities, name)
        value = limits.check(name, value, "mm" if name == "working_distance" else "")
        if name == "working_distance":
            self._set("AP_WD", value / _MM, value, _MM, _LENS_ERROR, "mm")
        else:
            self._set("AP_MAG", value, value, 1.0, _MAGNIFICATION_ERROR * value, "")

    def _set(self, parameter: str, value: float, target: float, unit: float, tolerance: float, name: str) -> None:
        with self._open():
            self._call_api("Set", parameter, value)
            time.sleep(self._settle)
            check_read_back(f"SmartSEM: {parameter}", target, self._number(parameter) * unit, tolerance, name)

    def _grab(self) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frame.tif"
            self._call_api("Grab", 0, 0, _MODE.width, _MODE.height, 0, str(path))
            try:
                pixels = read_pixels(path)
            except (InvalidParameterError, OSError) as error:
                raise TransportError(f"SmartSEM grabbed no picture: {error}") from error
        if pixels.shape != (_MODE.height, _MODE.width) or pixels.dtype not in (np.uint8, np.uint16):
            raise ProtocolError(f"SmartSEM grabbed a picture of {pixels.shape}, {pixels.dtype}")
        return pixels

    def _number(self, parameter: str) -> float:
        """Return a parameter; the texts No and Yes of a state are 0 and 1."""
        with self._open():
            value = self._call_api("Get", parameter, 0.0)
            if isinstance(value, str) and value.strip().lower() in ("yes", "no"):
                return float(value.strip().lower() == "yes")
            return reported(f"SmartSEM: {parameter}", float(value) if isinstance(value, bool) else value)

    def _call_api(self, method: str, *arguments: Any) -> Any:
        """Call the object. It returns a status, 0 where all is well, alone or before what was asked for."""
        with translated(f"SmartSEM: {method}{arguments}"):
            answer = getattr(self._api, method)(*arguments)
        status, *values = answer if isinstance(answer, tuple) else (answer,)
        if status != 0:
            raise DeviceError(f"SmartSEM: {method}{arguments} returns the status {status}")
        return values[0] if values else None


def connect(url: str, options: Mapping[str, Any]) -> SmartSem:
    """Open SmartSEM's remote control on this computer.

    Parameters
    ----------
    url : str
        ``smartsem://``, with options ``working_distance=LOW:HIGH`` (mm), ``settle=`` and ``frame_time=`` (s).
    options : mapping
        The same, above their namesakes in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When something is malformed.
    NotConnectedError
        When there is no such object: not on Windows, no pywin32, no SmartSEM with remote control.
    """
    parts, given = split_url(url, options, _OPTIONS, "SmartSEM")
    if parts.netloc not in ("", "localhost") or parts.path not in ("", "/"):
        raise InvalidParameterError(f"{url}: write smartsem://; the driver runs on the computer of SmartSEM")
    values: dict[str, Any] = {}
    for name, most in (("settle", 60.0), ("frame_time", 3600.0)):
        if name in given:
            values[name] = number_option(url, name, given[name], 0.0, most, "s")
    if "working_distance" in given:
        values["working_distance"] = limits_option(url, "working_distance", given["working_distance"], least=0)
    try:
        from win32com.client import Dispatch
    except ImportError as error:
        raise NotConnectedError(f"{url}: SmartSEM is reached on Windows alone, with pywin32 ({error})") from error
    with translated(f"{url}: there is no {_CONTROL}; install SmartSEM's remote control", NotConnectedError):
        api = Dispatch(_CONTROL)
        status = api.InitialiseRemoting()
    if status != 0:
        raise NotConnectedError(f"{url}: InitialiseRemoting returns the status {status}")
    try:
        return SmartSem(api, **values, on_close=api.ClosingControl)
    except BaseException:
        api.ClosingControl()
        raise
