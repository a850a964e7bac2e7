"""A TESCAN microscope behind the protocols of `semdrivers.microscope`.

The server limits and ignores values without a word, so every value that is set is read back once the optics or the
stage are at rest, and compared. Frames are scanned in a square window, of which only the lines of the frame are
scanned: so a pixel is the field divided by the width, whatever the shape of the frame.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.sharksem import Flags, Pixels, Reader, entries, parse_map
from semdrivers.base import ConnectedMicroscope
from semdrivers.errors import (
    BusyError,
    DeviceError,
    InterlockError,
    InvalidParameterError,
    OutOfRangeError,
    ProtocolError,
    SemDriversError,
)
from semdrivers.image import SCAN_MODES, Image, ScanMode
from semdrivers.microscope import SIX_DIGITS, Capabilities, Range, check_read_back, number, switch, two_of
from semdrivers.tescan._address import Address, parse_address
from semdrivers.tescan._links import Links, Silence

FIELD_AT_UNITY = 128.0
"""mm; magnification is that of a picture so wide."""

_DWELL = dict(zip(SCAN_MODES, (1.3e-6, 3.2e-6, 8e-6), strict=True))
_LARGEST = 8192
_CHANNEL = 0
_TRIES = 2
"""Scans of one frame: a piece of it may be lost on the way, or a hand move the lens meanwhile."""

_STAGE = ("x", "y", "z", "rotation", "tilt")
_ORIENTATION = ("stage_orientation", "orient_stage")
_BEAM_CHANGES = 1000
_BEAM_TIME = 120.0
_STAGE_TIME = 180.0
_SCAN_SHARE, _LONGEST_SCAN = 10.0, 3600.0
"""How often the time of its scan and the longest silence a frame may take, and seconds where the operator chose it."""
_WAITING_TIME = 60.0
"""Seconds that a scan may wait for the optics, the stage and a procedure to come to rest."""
_WORKING_DISTANCE_ERROR = 0.001
"""mm between what is set and what is read back; the quantum of the lens is not reported."""
_FIELD_ERROR = 0.01
_FIELD_CHANGE = 1e-3
"""Relative change of the field that is none: the last digit of the text."""
_ANGLES = (0.05, 200.0)
"""mrad within which a half-angle is one."""


class Tescan(ConnectedMicroscope):
    """A TESCAN microscope. Thread safe: one operation at a time.

    `semdrivers.connect` makes one. It implements `Microscope`, `RecordsFocus`, `HasStage`, `HasDetector` and `HasBeam`,
    `HasStigmator` where a centering is one, and `HasStageOrientation` where the server reports limits of the stage. A
    connection that was lost is opened again by the next call.

    Parameters
    ----------
    links : Links
        Open; belong to the microscope from here on.
    address : Address
        Says how to open them again, and what the protocol does not report.
    name : str
        For messages.
    facts : _Facts
        What the instrument says of itself.
    on_close : callable, optional
        Called at the end of `close`.
    """

    def __init__(
        self, links: Links, address: Address, name: str, facts: _Facts, on_close: Callable[[], object] | None = None
    ) -> None:
        self._links, self._address, self._name, self._facts, self._on_close = links, address, name, facts, on_close
        self._owns_scan = self._locked = False
        self._frame = 0
        self._as_set: dict[str, tuple[float, float]] = {}
        self._angle: tuple[float, float | None, float | None, float | None] | None = None
        here = self._get("working_distance")
        fields = address.view_field.including(FIELD_AT_UNITY / self._get("magnification"))
        self._capabilities = Capabilities(
            address.working_distance.including(here),
            Range(FIELD_AT_UNITY / fields.maximum, FIELD_AT_UNITY / fields.minimum),
            SCAN_MODES,
            model=facts.model,
            serial=facts.serial,
            firmware=facts.firmware,
            bit_depth=address.bits,
            dwell_times=tuple(self._dwell(mode) for mode in SCAN_MODES),
        )

    @property
    def capabilities(self) -> Capabilities:
        """Limits as the URL gives them, wider where the instrument stands outside; the beam as reported."""
        with self._open():
            angle, probe, current = self._optics()
            return dataclasses.replace(self._capabilities, half_angle=angle, probe_diameter=probe, beam_current=current)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame, wholly after the last set took effect, and return it. A frame may have any size.

        Raises
        ------
        InvalidParameterError, OutOfRangeError
            When `mode` is no `ScanMode`, or larger than 8192 pixels.
        InterlockError
            When the beam is off, or goes off during the scan.
        BusyError
            When the server does not start the scan.
        DeviceError
            When the lens moves during the scan, and again during the next.
        TransportError
            When no whole frame came.
        """
        if not isinstance(mode, ScanMode):
            raise InvalidParameterError(f"{self._name}: mode must be a semdrivers.ScanMode, not {mode!r}")
        if max(mode.width, mode.height) > _LARGEST:
            raise OutOfRangeError(f"{self._name}: a frame may have {_LARGEST} pixels each way, not {mode}")
        with self._open(), self._handing_back():
            self._check_beam("is off; switch it on with beam_on = True")
            self._take_scan()
            for left in reversed(range(_TRIES)):
                place, magnification = self._get("working_distance"), self._get("magnification")
                self._frame = self._frame % 0x7FFFFFFF + 1
                began = time.time()
                try:
                    pixels = self._scan(mode)
                except Silence:
                    if not left:
                        raise
                    continue
                # The picture data carry no conditions
                self._check_beam("went off during the scan; the frame is thrown away")
                after = self._get("working_distance"), self._get("magnification")
                stood = abs(after[0] - place) <= _WORKING_DISTANCE_ERROR
                if stood and math.isclose(after[1], magnification, rel_tol=_FIELD_CHANGE):
                    break
                if not left:
                    raise DeviceError(
                        f"{self._name}: the lens moves during the scan: {place:g} mm and {magnification:g}× before the "
                        f"frame, {after[0]:g} mm and {after[1]:g}× after it; somebody else is operating it, or an "
                        "automatic procedure is running: end it first"
                    )
            identity = {"model": self._facts.model, "serial": self._facts.serial}
            metadata = {**identity, **self._frame_metadata(place, mode)}
            side = max(mode.width, mode.height)
            pixel = FIELD_AT_UNITY * 1e6 / magnification / side
            image = Image(pixels, place, magnification, pixel, self._frame, began, mode, metadata)
        return self._delivered(image)

    def close(self) -> None:
        """Give the scan and the exclusive lock back to the operator, and close. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with ExitStack() as last_comes_first:
                if self._on_close is not None:
                    last_comes_first.callback(self._on_close)
                last_comes_first.callback(lambda: self._links.close())
                self._hand_back()
                if not self._links.broken:
                    with suppress(SemDriversError):
                        if self._address.unlock and self._locked:
                            self._links.send(self._address.unlock)
                        self._links.call("GetWD", Reader.number)  # what was sent before has arrived

    # Stage, detector, beam

    @property
    def stage_axes(self) -> dict[str, float]:
        """Position on all axes: x, y, z in mm, rotation and tilt in degrees."""
        with self._open():
            return dict(zip(_STAGE, self._links.call("StgGetPosition", _five, flags=Flags.WAIT_STAGE), strict=True))

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y) in mm."""
        axes = self.stage_axes
        return axes["x"], axes["y"]

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y) in mm; returns the position reached, once the stage is idle.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            Before anything moves.
        DeviceError
            When the stage does not go there: the server ignores a move while the stage is busy or uncalibrated.
        """
        with self._open():
            self._move(x=x, y=y)
            return self.stage_position

    @property
    def beam_on(self) -> bool:
        """Whether electrons reach the sample; switching it on returns once the beam is stable.

        Raises
        ------
        InterlockError
            When the beam does not come on: the server ignores the command until the vacuum is ready.
        """
        with self._open():
            return self._links.call("HVGetBeam", Reader.integer) == 1

    @beam_on.setter
    def beam_on(self, value: bool) -> None:
        on = switch(f"{self._name}: beam_on", value)
        with self._open():
            self._take_lock()
            self._links.send("HVBeamOn" if on else "HVBeamOff")
            self._await_beam(on)

    def _await_beam(self, on: bool) -> None:
        """Return when the beam is as it should be. A server that obeys begins soon, and reports that it changes."""
        end = time.monotonic() + _BEAM_TIME
        begun_by = time.monotonic() + min(2.0, self._address.timeout)
        while (state := self._links.call("HVGetBeam", Reader.integer)) not in ((1,) if on else (0, -1)):
            if state == _BEAM_CHANGES and time.monotonic() > end:
                raise DeviceError(f"{self._name}: the beam is still changing after {_BEAM_TIME:g} s")
            if state != _BEAM_CHANGES and time.monotonic() > begun_by:
                if on:
                    raise InterlockError(
                        f"{self._name}: the beam stays off; pump the chamber until the vacuum is ready"
                    )
                raise DeviceError(f"{self._name}: the beam stays on; switch it off at the instrument")
            time.sleep(0.05)

    @property
    def brightness(self) -> float:
        """Black level of the detector, 0 to 1."""
        return self._gain_black()[1] / 100

    @brightness.setter
    def brightness(self, value: float) -> None:
        self._set_gain_black(black=Range(0, 1).check(f"{self._name}: brightness", value) * 100)

    @property
    def contrast(self) -> float:
        """Gain of the detector, 0 to 1."""
        return self._gain_black()[0] / 100

    @contrast.setter
    def contrast(self, value: float) -> None:
        self._set_gain_black(gain=Range(0, 1).check(f"{self._name}: contrast", value) * 100)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} ({self._facts.serial}, {'closed' if self._closed else 'open'})>"

    # Members of this instrument alone

    def _read(self, name: str) -> Any:
        with self._open():
            if name == "stigmator":
                return self._links.call("GetCentering", _pair, self._facts.stigmator or 0, flags=Flags.WAIT_OPTICS)
            if name == "stage_orientation":
                axes = self.stage_axes
                return axes["tilt"], axes["rotation"]
            return self._get(name)

    def _write(self, name: str, value: Any) -> None:
        with self._open():
            if name == "stigmator":
                self._set_stigmator(value)
                return
            limits: Range = getattr(self._capabilities, name)
            unit = "mm" if name == "working_distance" else ""
            value = limits.check(f"{self._name}: {name}", value, unit)
            self._take_lock()
            if name == "working_distance":
                self._links.send("SetWD", value)
                tolerance = _WORKING_DISTANCE_ERROR
            else:
                self._links.send("SetViewField", FIELD_AT_UNITY / value)
                tolerance = _FIELD_ERROR * value
            self._as_set.pop(name, None)
            self._angle = None
            read = self._get(name)
            check_read_back(f"{self._name}: {name}", value, read, tolerance, unit)
            if math.isclose(read, value, rel_tol=SIX_DIGITS):
                self._as_set[name] = read, value

    def _call(self, name: str, *arguments: Any) -> Any:
        tilt, rotation = arguments
        with self._open():
            self._move(tilt=tilt, rotation=rotation)
            return self._read("stage_orientation")

    # How it is done

    def _get(self, name: str) -> float:
        """Read working distance or magnification; what was set, where the text on the wire is its rounding."""
        command = "GetWD" if name == "working_distance" else "GetViewField"
        read = self._links.call(command, Reader.number, flags=Flags.WAIT_OPTICS)
        if not 0 < read < math.inf:
            raise ProtocolError(f"{self._name}: {command} reads {read}")
        value = read if name == "working_distance" else FIELD_AT_UNITY / read
        known = self._as_set.get(name)
        return known[1] if known is not None and known[0] == value else value

    def _optics(self) -> tuple[float | None, float | None, float | None]:
        """Half-angle in mrad, probe in nm, current in pA at the present working distance; None where not reported."""
        here = self._get("working_distance")
        if self._angle is None or self._angle[0] != here:
            reported = self._optional("GetOptParams", Reader.text)
            values = {key.lower(): value for key, value in parse_map(reported or "").items()}
            angles = sorted((key for key in values if "angle" in key), key=lambda key: "half" not in key)
            angle = _finite(values[angles[0]]) if angles else None
            spots = [values[key] for key in values if "spot" in key]
            probe = _finite(spots[0]) if spots else self._optional("GetSpotSize", Reader.number)
            current = self._optional("GetBeamCurrent", Reader.number)
            mrad = None if angle is None else math.radians(angle) * 1e3
            self._angle = (
                here,
                mrad if mrad is not None and _ANGLES[0] <= mrad <= _ANGLES[1] else None,
                probe if probe is not None and 0.1 <= probe <= 1000 else None,
                current if current is not None and 0 < current < math.inf else None,
            )
        return self._angle[1:]

    def _optional(self, command: str, read: Callable[[Reader], Any]) -> Any:
        return self._facts.ask(self._links, command, read)

    def _gain_black(self) -> tuple[float, float]:
        with self._open():
            return self._links.call("DtGetGainBlack", _pair, self._facts.detector)

    def _set_gain_black(self, gain: float | None = None, black: float | None = None) -> None:
        with self._open():
            self._take_lock()
            now = self._gain_black()
            wanted = now[0] if gain is None else gain, now[1] if black is None else black
            self._links.send("DtSetGainBlack", self._facts.detector, *map(float, wanted))
            for name, value, read in zip(("contrast", "brightness"), wanted, self._gain_black(), strict=True):
                check_read_back(f"{self._name}: {name}", value / 100, read / 100, 0.005)

    def _set_stigmator(self, value: Any) -> None:
        name = f"{self._name}: stigmator"
        x, y = (number(name, each) for each in two_of(name, value, "the units of the instrument"))
        self._take_lock()
        self._links.send("SetCentering", self._facts.stigmator or 0, x, y)
        for axis, target, read in zip("xy", (x, y), self._read("stigmator"), strict=True):
            check_read_back(f"{self._name}: stigmator {axis}", target, read, 0.01)

    def _move(self, **targets: float) -> None:
        """Move axes of the stage, the others stay; to every axis of the list before the last that moves."""
        for axis, value in targets.items():
            limits = self._facts.stage.get(axis)
            unit = "mm" if axis in "xyz" else "°"
            name = f"{self._name}: stage {axis}"
            targets[axis] = number(name, value, unit) if limits is None else limits.check(name, value, unit)
        self._take_lock()
        axes = {**self.stage_axes, **targets}
        count = 1 + max(_STAGE.index(axis) for axis in targets)
        places = (float(axes[axis]) for axis in _STAGE[:count])
        self._links.send("StgMoveTo", *places, flags=Flags.WAIT_STAGE)
        reached = dict(
            zip(
                _STAGE,
                self._links.call("StgGetPosition", _five, flags=Flags.WAIT_STAGE, deadline=_STAGE_TIME),
                strict=True,
            )
        )
        for axis, value in targets.items():
            tolerance, unit = (0.005, "mm") if axis in "xyz" else (0.1, "°")
            check_read_back(f"{self._name}: stage {axis}", value, reached[axis], tolerance, unit)

    # Scan

    def _check_beam(self, problem: str) -> None:
        state = self._links.call("HVGetBeam", Reader.integer)
        if state == _BEAM_CHANGES:
            problem = "is being switched or changed; wait until it is stable"
        if state != 1:
            raise InterlockError(f"{self._name}: the beam {problem}")

    def _take_lock(self) -> None:
        """Take exclusive control, where the URL names the call for it."""
        if self._address.lock and not self._locked:
            answer = self._links.call(self._address.lock, Reader.integer)
            if answer != 0:
                raise BusyError(
                    f"{self._name}: another client has exclusive control (answer {answer} to {self._address.lock}); "
                    "end its session first"
                )
            self._locked = True

    def _take_scan(self) -> None:
        """Take the scan from the operator and choose the detector; once, until it is handed back."""
        self._take_lock()
        if not self._owns_scan:
            self._owns_scan = True
            self._links.send("GUISetScanning", 0)
            self._links.send("ScStopScan")
            self._links.send("DtSelect", _CHANNEL, self._facts.detector)
            self._links.send("DtEnable", _CHANNEL, 1, self._address.bits)

    def _dwell(self, mode: ScanMode) -> float:
        """Return the seconds on a pixel; 0 leaves the choice to the operator."""
        return self._address.dwell if self._address.dwell is not None else mode.dwell or _DWELL.get(mode, 1e-6)

    def _scan(self, mode: ScanMode) -> NDArray[Any]:
        side = max(mode.width, mode.height)
        left, top = (side - mode.width) // 2, (side - mode.height) // 2
        window = side, side, left, top, left + mode.width - 1, top + mode.height - 1
        dwell = self._dwell(mode)
        speed = (round(dwell * 1e9),) if dwell else ()
        waits = Flags.WAIT_SCAN | Flags.WAIT_STAGE | Flags.WAIT_OPTICS | Flags.WAIT_PROCEDURE
        answer = self._links.call(
            "ScScanXY",
            Reader.integer,
            self._frame,
            *window,
            1,
            *speed,
            flags=waits,
            deadline=self._address.timeout + _WAITING_TIME,
        )
        if answer < 0:
            raise BusyError(
                f"{self._name}: the server does not start the scan (answer {answer}): it is busy with another scan or "
                "procedure, or the vacuum is not ready; wait for it to end"
            )
        try:
            return self._collect(mode)
        finally:
            if not self._links.broken:
                self._links.send("ScStopScan")  # needed even after a single frame

    def _collect(self, mode: ScanMode) -> NDArray[Any]:
        """Put the frame together from its pieces, which may come in any order, and again."""
        depth = self._address.bits
        pixels = np.zeros(mode.height * mode.width, "<u2" if depth == 16 else "u1")
        missing = np.ones(pixels.size, bool)
        left = pixels.size
        end = time.monotonic() + self._address.timeout
        scan = self._dwell(mode) * pixels.size
        last = end + (_SCAN_SHARE * (scan + self._address.timeout) if scan else _LONGEST_SCAN)
        while left:
            try:
                piece = self._links.pixels(min(end, last))
            except Silence:
                raise Silence(
                    f"{self._name}: frame {self._frame} lacks {left} of {pixels.size} pixels, and the server sends no "
                    "more of it; check the network"
                ) from None
            if piece.frame != self._frame or piece.channel != _CHANNEL:
                continue
            where = self._place(piece, depth, pixels.size)
            pixels[where] = np.frombuffer(piece.pixels, pixels.dtype)
            if new := int(np.count_nonzero(missing[where])):
                left -= new
                missing[where] = False
                end = time.monotonic() + self._address.timeout
        return pixels.reshape(mode.height, mode.width).astype(np.uint16 if depth == 16 else np.uint8, copy=False)

    def _place(self, piece: Pixels, depth: int, size: int) -> slice:
        count, rest = divmod(len(piece.pixels), depth // 8)
        if piece.bits != depth or rest or piece.first + count > size:
            raise ProtocolError(
                f"{self._name}: pixels {piece.first} to {piece.first + count} of {piece.bits} bit do not fit a frame "
                f"of {size} pixels of {depth} bit"
            )
        return slice(piece.first, piece.first + count)

    @contextmanager
    def _handing_back(self) -> Iterator[None]:
        """After an error, give the scan back to the operator."""
        try:
            yield
        except BaseException:
            self._hand_back()
            raise

    def _hand_back(self) -> None:
        """Give the scan back to the operator, over a new connection where this one is lost; else when there is one."""
        if self._owns_scan:
            with suppress(SemDriversError):
                self._reconnect()
                self._links.send("ScStopScan")
                self._links.send("GUISetScanning", 1)
                self._owns_scan = False

    def _reconnect(self) -> None:
        """Connect again where the connection is lost."""
        if self._links.broken:
            self._links = Links(self._address.host, self._address.port, self._address.timeout, self._name)
            self._locked = False

    # Life

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the lock of a microscope that is open and connected; connect again where the connection was lost."""
        with super()._open():
            if self._links.broken:
                self._reconnect()
                self._hand_back()
            yield


@dataclasses.dataclass
class _Facts:
    """What an instrument says of itself, asked once; and what this version of its server does not answer.

    Parameters
    ----------
    patience : float
        Longest wait for an answer that may not exist, s.
    """

    patience: float
    model: str = "TESCAN"
    serial: str = ""
    firmware: str = ""
    detector: int = 0
    stigmator: int | None = None
    stage: dict[str, Range] = dataclasses.field(default_factory=dict)
    unknown: set[str] = dataclasses.field(default_factory=set)

    def ask(self, links: Links, command: str, read: Callable[[Reader], Any], *values: int) -> Any:
        """Return the answer to a call that not every version has, or None where it comes not or in another form."""
        if command in self.unknown:
            return None
        try:
            return links.call(command, read, *values, deadline=self.patience)
        except Silence:
            self.unknown.add(command)
        except ProtocolError:
            if links.broken:
                raise
        return None

    @classmethod
    def of(cls, links: Links, address: Address, name: str) -> _Facts:
        """Ask the instrument.

        Raises
        ------
        InvalidParameterError
            When it has no such detector.
        ProtocolError
            When its list of detectors makes no sense.
        """
        facts = cls(patience=min(1.0, address.timeout))
        version = facts.ask(links, "TcpGetVersion", Reader.text) or ""
        facts.model = f"TESCAN, SharkSEM {version}".removesuffix(", SharkSEM ")
        facts.serial = facts.ask(links, "TcpGetDevice", Reader.text) or ""
        facts.firmware = facts.ask(links, "TcpGetSWVersion", Reader.text) or version
        facts.detector = _detector(name, address.detector, facts.ask(links, "DtEnumDetectors", Reader.text) or "")
        centerings = entries(parse_map(facts.ask(links, "EnumCenterings", Reader.text) or ""), "cen")
        named = [int(one[""]) for one in centerings if "stig" in one.get("name", "").lower()]
        facts.stigmator = address.stigmator if address.stigmator is not None else named[0] if named else None
        limits = facts.ask(links, "StgGetLimits", _numbers, 0) or []
        pairs = zip(limits[0::2], limits[1::2], strict=False)
        facts.stage = {axis: Range(low, high) for axis, (low, high) in zip(_STAGE, pairs, strict=False) if low < high}
        return facts

    @property
    def offers(self) -> set[str]:
        """Members of the optional protocols that not every instrument has."""
        turns = set(_ORIENTATION) if {"rotation", "tilt"} <= self.stage.keys() else set()
        return turns | ({"stigmator"} if self.stigmator is not None else set())


def _detector(name: str, wanted: str, text: str) -> int:
    """Return the number of the detector that is wanted: by name or number, SE or the first where none is."""
    known = {}
    for one in entries(parse_map(text), "det"):
        index = one.get("detector", one[""])
        if not index.isdecimal():
            raise ProtocolError(f"{name}: the number of a detector must be a whole number, not {index!r}")
        known[one.get("name", "")] = int(index)
    if not wanted:
        return known.get("SE", next(iter(known.values()), 0))
    if wanted in known:
        return known[wanted]
    if wanted.isdecimal() and (not known or int(wanted) in known.values()):
        return int(wanted)
    offer = ", ".join(f"{each} ({index})" for each, index in known.items()) or "none that it reports"
    raise InvalidParameterError(f"{name} has no detector {wanted!r}; it has {offer}")


def _finite(text: str) -> float | None:
    try:
        value = float(text.split()[0])
    except (ValueError, IndexError):
        return None
    return value if math.isfinite(value) else None


def _numbers(reader: Reader) -> list[float]:
    values = []
    while reader.left:
        values.append(reader.number())
    return values


def _pair(reader: Reader) -> tuple[float, float]:
    return reader.number(), reader.number()


def _five(reader: Reader) -> tuple[float, ...]:
    """Return the axes of the stage; newer servers report a sixth, which is left out."""
    return tuple(reader.number() for _ in _STAGE)


def connect(url: str, options: Mapping[str, Any]) -> Tescan:
    """Open the TESCAN microscope at a URL.

    Parameters
    ----------
    url : str
        ``tescan://HOST[:PORT]``, with options such as ``?working_distance=4:40&view_field=0.001:5&detector=SE&bits=8``.
    options : mapping
        The same, above their namesakes in the URL; ``on_close``, a callable for the end of `Tescan.close`.

    Raises
    ------
    InvalidParameterError
        When the URL or an option is malformed, before any I/O; when the instrument has no such detector.
    NotConnectedError
        When a connection could not be opened.
    BusyError
        When another client has the data connection.
    ProtocolError
        When what answers does not speak this protocol.
    """
    address = parse_address(url, options)
    on_close = options.get("on_close")
    if on_close is not None and not callable(on_close):
        raise InvalidParameterError(f"{url}: on_close must be callable, not {on_close!r}")
    name = f"TESCAN at {address.host}:{address.port}"
    links = Links(address.host, address.port, address.timeout, name)
    try:
        facts = _Facts.of(links, address, name)
        return Tescan._offering(facts.offers)(links, address, name, facts, on_close)
    except BaseException:
        links.close()
        raise
