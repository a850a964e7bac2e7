"""`TescanEmulator`: a TESCAN microscope on loopback, over the same optics as the EM-30's, with a TESCAN's habits.

It limits values without a word, ignores commands that it does not know, sends some data twice, its field changes a
little with the working distance, and it drops a client that does not read. Written from the public description.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

from numpy.typing import NDArray

from firmware_protocol.profile import EM30, InstrumentProfile
from firmware_protocol.sharksem import (
    HEAD_SIZE,
    Flags,
    Pixels,
    Reader,
    Value,
    decode_head,
    encode,
    encode_pixels,
    write_map,
)
from semdrivers.emulator._emulator import specimen_of, start_of
from semdrivers.emulator.physics import ElectronColumn, ScanConditions, Truth, probe_core_of
from semdrivers.emulator.physics import half_angle as half_angle_of
from semdrivers.errors import InvalidParameterError, NotConnectedError
from semdrivers.microscope import Range, whole_number

_FIELD = EM30.field_width_at_unity
_WORKING_DISTANCES = Range(1.0, 60.0)
_FIELDS = Range(0.0005, 8.0)
_NOMINAL = 15.0
_FIELD_CHANGE = 0.0005
"""Relative change of the field a mm of working distance."""
_STAGE = {"x": 40.0, "y": 40.0, "z": 30.0, "rotation": 180.0, "tilt": 60.0}
_MICROMETRES_PER_PERCENT = 40.0
"""Half-difference of the foci that a percent of the stigmator makes."""
_PERCENT = Range(-100.0, 100.0)
_FIXED: Mapping[str, tuple[Value, ...]] = {
    "VacGetStatus": (0,),
    "StgIsCalibrated": (1,),
    "DtGetChannels": (1,),
    "DtGetSelected": (0,),
    "DtGetEnabled": (1, 8),
    "ScEnumSpeeds": ("speed.1.dwell=1.0\n",),
    "ScGetSpeed": (1,),
}
"""Answers that never change here; a client of the maker's waits for an answer without an end."""
_CHUNK = 16384
_JOIN = 5.0
"""Seconds that a data connection is waited for whose port was registered."""

_UNREAD = 10.0
"""Seconds after which a client that does not read its data is dropped."""

FAULTS: Mapping[str, str] = {
    "data-lost": "a piece of the frame is not sent",
    "data-repeated": "every piece of the frame is sent twice",
    "client-dropped": "the data connection ends in the middle of the frame",
    "connection-lost": "both connections end in the middle of the frame",
    "scan-busy": "the scan is not started",
    "locked": "another client has exclusive control",
    "no-vacuum": "the beam does not come on",
    "stage-busy": "a move of the stage is ignored",
    "lens-ignored": "a working distance is ignored",
}
"""What can go wrong, by name; ``data-lost:2`` does it twice."""


class TescanEmulator:
    """A TESCAN microscope in this process, behind two loopback TCP sockets.

    Use it in a ``with`` statement, or call `start` and `close`.

    Parameters
    ----------
    specimen : str, Path, ndarray of shape (H, W), or Specimen
        As in `Emulator`.
    magnification, seed, preset, working_distance, pixel_size
        As in `Emulator`.
    port : int
        TCP port of the control connection, the data connection has the next one; 0 for any two that are free.
    faults : str
        Names of `FAULTS`, each with how often, once by default: ``"data-lost:2,scan-busy"``.
    firewall : bool
        Whether one client alone is served, whatever port its data connection comes from.
    version : str
        Version of the protocol; what came later than it is not known.
    half_angle : float, optional
        Half-angle of the beam at a working distance of 15 mm, mrad; 3 by default. The lens is as good
        as a wider beam needs.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For an unknown specimen, preset or fault, or a number that the instrument cannot take.
    """

    def __init__(
        self,
        specimen: Any = "tin-balls",
        *,
        magnification: float = 5000.0,
        seed: int = 0,
        preset: str = "typical",
        working_distance: float | None = None,
        pixel_size: float | None = None,
        port: int = 0,
        faults: str = "",
        firewall: bool = False,
        version: str = "2.0.25",
        half_angle: float | None = None,
    ) -> None:
        self.seed = whole_number("seed", seed, 0)
        fields = Range(_FIELD / _FIELDS.maximum, _FIELD / _FIELDS.minimum)
        magnification = fields.check("magnification", magnification)
        angle = (
            EM30.half_angle(_NOMINAL)
            if half_angle is None
            else Range(0.5, 50.0).check("half_angle", half_angle, "mrad")
        )
        self.profile = _column_for(angle)
        self.column = ElectronColumn(
            specimen_of(specimen, self.seed, pixel_size), seed=self.seed, preset=preset, profile=self.profile
        )
        if working_distance is None:
            working_distance = start_of(self.column, magnification, self.seed, self.profile)
        self.working_distance = _WORKING_DISTANCES.check("working_distance", working_distance, "mm")
        self._field = _FIELD / magnification
        self._field_set_at = self.working_distance
        self.faults = _faults(faults)
        self.stage = dict.fromkeys(_STAGE, 0.0)
        self.stigmator = 0.0, 0.0
        self.gain, self.black = 50.0, 50.0
        self.beam_on = True
        self.operator_scans = True
        self._firewall, self._version = firewall, tuple(map(int, version.split(".")))
        self._wanted_port, self.port = port, 0
        self._lock = threading.RLock()
        self._joined = threading.Condition(self._lock)
        self._settled = 0.0
        self._bits = 8
        self._scan = 0
        self._frames = 0
        self._holder: object = None
        self._sockets: list[socket.socket] = []
        self._expected: dict[int, _Client] = {}
        self._closed = False

    # Life

    def start(self) -> Self:
        """Open the sockets. Raises `NotConnectedError` when the ports are taken."""
        for _ in range(1 if self._wanted_port else 50):
            try:
                control = socket.create_server(("127.0.0.1", self._wanted_port))
            except OSError as error:
                raise NotConnectedError(f"the emulator could not listen: {error}") from error
            try:
                data = socket.create_server(("127.0.0.1", control.getsockname()[1] + 1))
            except (OSError, OverflowError):
                control.close()
                continue
            self.port = control.getsockname()[1]
            self._sockets += [control, data]
            for listener, serve in ((control, self._serve), (data, self._join)):
                threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()
            return self
        raise NotConnectedError("the emulator could not listen: no two neighbouring ports are free")

    def close(self) -> None:
        """Close the sockets. A second call does nothing."""
        self._closed = True
        for one in self._sockets:
            _shut(one)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """URL for `semdrivers.connect`."""
        return f"tescan://127.0.0.1:{self.port}"

    @property
    def truth(self) -> Truth:
        """The ideal at the present stage position, field and working distance."""
        with self._lock:
            return self.column.truth(self._conditions(320, 240, self.field / 320))

    @property
    def field(self) -> float:
        """Width of the field, mm; it changes a little with the working distance."""
        return self._field * (1 + _FIELD_CHANGE * (self.working_distance - self._field_set_at))

    # Wires

    def _accept(self, listener: socket.socket, serve: Any) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):  # it may have hung up already
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(client)
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    def _join(self, data: socket.socket) -> None:
        """Give a data connection to the client that registered its port; behind a firewall, to the one there is."""
        try:
            port = data.getpeername()[1]
        except OSError:
            return  # it has hung up already
        with self._lock:
            if self._firewall and self._expected:
                port = next(iter(self._expected))
            if port in self._expected:
                self._expected.pop(port).data = data
                self._joined.notify_all()
                return
        _shut(data)

    def _serve(self, control: socket.socket) -> None:
        client = _Client(control)
        with contextlib.suppress(OSError, ValueError):
            while True:
                head = decode_head(client.receive(HEAD_SIZE))
                body = client.receive(head.size)
                self._wait(head.flags)
                with self._lock:
                    answer = self._obey(head.name, Reader(body), client)
                if answer is not None and (answer or head.flags & Flags.ANSWER):
                    control.sendall(encode(head.name, answer, number=head.number))
        self._leave(client)

    def _leave(self, client: _Client) -> None:
        with self._lock:
            if self._holder is client:
                self._holder = None
            self._scan = 0
        client.shut()

    def _wait(self, flags: Flags) -> None:
        if flags & Flags.WAIT_OPTICS:
            time.sleep(max(self._settled - time.monotonic(), 0))

    def _obey(self, name: str, given: Reader, client: _Client) -> list[Value] | None:
        """Carry out a command and return its results; None for one that is not known: it is ignored."""
        match name:
            case "TcpRegDataPort":
                if self._firewall and self._expected:
                    return [-1]
                self._expected[given.unsigned()] = client
                return [0]
            case "TcpGetVersion":
                return [".".join(map(str, self._version))]
            case "TcpGetDevice" if self._version >= (2, 0, 3):
                return [f"VEGA emulator {self.seed:06d}"]
            case "TcpGetSWVersion" if self._version >= (2, 0, 9):
                return ["4.2.30"]
            case "ExclusiveLock":
                if self._due("locked") or self._holder not in (None, client):
                    return [-1]
                self._holder = client
                return [0]
            case "ExclusiveFree":
                self._holder = None if self._holder is client else self._holder
                return []
            case "GetWD":
                return [float(f"{self.working_distance:.7g}")]
            case "SetWD":
                wanted = given.number()
                if not self._due("lens-ignored"):
                    self.working_distance = _WORKING_DISTANCES.clip(wanted)
                    self._settled = time.monotonic() + 0.002
                return []
            case "GetViewField":
                return [float(f"{self.field:.7g}")]
            case "SetViewField":
                self._field, self._field_set_at = _FIELDS.clip(given.number()), self.working_distance
                return []
            case "GetSpotSize":
                return [self._probe()]
            case "GetOptParams":
                angle = math.degrees(half_angle_of(self.working_distance, self.profile.aperture_radius))
                return [write_map({"half_angle": f"{angle:.6g}", "spot_size": f"{self._probe():.4g}"})]
            case "GetBeamCurrent":
                return [self.profile.beam_current]
            case "EnumCenterings":
                names = ("Gun Shift", "Objective Centering", "Stigmator")
                return [write_map({f"cen.{index}.name": each for index, each in enumerate(names)})]
            case "GetCentering":
                return list(self.stigmator) if given.integer() == 2 else [0.0, 0.0]
            case "SetCentering":
                if given.integer() == 2:
                    self.stigmator = (
                        Range(-100.0, 100.0).clip(given.number()),
                        Range(-100.0, 100.0).clip(given.number()),
                    )
                return []
            case "HVGetBeam":
                return [1 if self.beam_on else 0]
            case "HVBeamOn":
                self.beam_on = self.beam_on or not self._due("no-vacuum")
                return []
            case "HVBeamOff":
                self.beam_on = False
                return []
            case "HVGetVoltage":
                return [self.profile.accelerating_voltage * 1e3]
        return list(_FIXED[name]) if name in _FIXED else self._obey_scan(name, given, client)

    def _obey_scan(self, name: str, given: Reader, client: _Client) -> list[Value] | None:
        match name:
            case "DtEnumDetectors":
                return [write_map({"det.0.name": "SE", "det.0.detector": 0, "det.1.name": "BSE", "det.1.detector": 1})]
            case "DtSelect":
                return []
            case "DtEnable":
                given.integer(), given.integer()
                self._bits = given.integer() if given.left else 8
                return []
            case "DtGetGainBlack":
                return [self.gain, self.black]
            case "DtSetGainBlack":
                given.integer()
                self.gain, self.black = Range(0.0, 100.0).clip(given.number()), Range(0.0, 100.0).clip(given.number())
                return []
            case "StgGetPosition":
                return list(self.stage.values())
            case "StgGetLimits" if self._version >= (2, 0, 22):
                return [limit for most in _STAGE.values() for limit in (-most, most)]
            case "StgMoveTo":
                moves = not self._due("stage-busy")
                for axis, most in _STAGE.items():
                    if given.left and moves:
                        self.stage[axis] = Range(-most, most).clip(given.number())
                return []
            case "StgIsBusy" | "IsBusy":
                return [0]
            case "GUISetScanning":
                self.operator_scans = bool(given.integer())
                return []
            case "GUIGetScanning":
                return [int(self.operator_scans)]
            case "ScStopScan":
                self._scan = 0
                return []
            case "ScScanXY":
                return [self._start(given, client)]
        return None

    def _start(self, given: Reader, client: _Client) -> int:
        frame, width, height, left, top, right, bottom = (given.unsigned() for _ in range(7))
        # The client is connected once the system has its data connection, which is before it is accepted here.
        self._joined.wait_for(lambda: client not in self._expected.values(), _JOIN)
        inside = left <= right < width and top <= bottom < height
        if self._due("scan-busy") or self._scan or self.operator_scans or not inside or client.data is None:
            return -1
        given.integer()
        dwell = given.unsigned() * 1e-9 if given.left else 1e-6
        self._scan = 1
        self._frames += 1
        pixel = self.field / width
        columns, rows = right - left + 1, bottom - top + 1
        conditions = self._conditions(columns, rows, pixel, dwell, pixel * ((left + right + 1) / 2 - width / 2))
        threading.Thread(target=self._send, args=(client, frame, self._render(conditions)), daemon=True).start()
        return 0

    def _send(self, client: _Client, frame: int, pixels: NDArray[Any]) -> None:
        """Send a frame in pieces; the first is sent again at the end, as it happens."""
        raw, size = pixels.tobytes(), pixels.itemsize
        pieces = [
            Pixels(frame, 0, begin // size, 8 * size, raw[begin : begin + _CHUNK])
            for begin in range(0, len(raw), _CHUNK)
        ]
        pieces.append(pieces[0])
        with self._lock:
            if self._due("data-lost"):
                del pieces[len(pieces) // 2]
            if self._due("data-repeated"):
                pieces = [piece for each in pieces for piece in (each, each)]
            ends = self._due("client-dropped"), self._due("connection-lost")
        if any(ends):
            del pieces[len(pieces) // 2 :]
        assert client.data is not None
        try:
            client.data.settimeout(_UNREAD)
            for piece in pieces:
                client.data.sendall(encode_pixels(piece))
        except OSError:
            client.shut()
        if ends[0]:
            _shut(client.data)
        if ends[1]:
            client.shut()

    def _render(self, conditions: ScanConditions) -> NDArray[Any]:
        pixels = self.column.render(conditions)
        return pixels.astype("<u2") if conditions.bits == 16 else pixels

    def _conditions(
        self, columns: int, rows: int, pixel: float, dwell: float = 1.3e-6, aside: float = 0.0
    ) -> ScanConditions:
        """Return what a frame of `columns` by `rows` pixels of `pixel` mm is scanned under."""
        return ScanConditions(
            working_distance=self.working_distance,
            magnification=_FIELD / (pixel * columns),
            width=columns,
            height=rows,
            bits=self._bits,
            dwell_time=dwell,
            stage_x=self.stage["x"] + aside,
            stage_y=self.stage["y"],
            frame_id=self._frames,
            start_time=self._frames * 0.5,
            brightness=self.black / 100,
            contrast=self.gain / 100,
            beam_on=self.beam_on,
            accelerating_voltage=self.profile.accelerating_voltage,
            beam_current=self.profile.beam_current,
            stigmator_x=self.stigmator[0] * _MICROMETRES_PER_PERCENT,
            stigmator_y=self.stigmator[1] * _MICROMETRES_PER_PERCENT,
        )

    def _probe(self) -> float:
        alpha = half_angle_of(self.working_distance, self.profile.aperture_radius)
        return probe_core_of(self.profile, alpha, self.profile.accelerating_voltage, self.profile.beam_current)

    def _due(self, fault: str) -> bool:
        left = self.faults.get(fault, 0)
        self.faults[fault] = max(left - 1, 0)
        return left > 0


class _Client:
    """The two connections of one client."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.data: socket.socket | None = None

    def receive(self, count: int) -> bytes:
        """Return the next bytes of the control connection. Raises OSError at its end."""
        data = bytearray()
        while len(data) < count:
            part = self.control.recv(count - len(data))
            if not part:
                raise ConnectionError("the client has left")
            data += part
        return bytes(data)

    def shut(self) -> None:
        """Close both."""
        _shut(self.control)
        if self.data is not None:
            _shut(self.data)


def _column_for(angle: float) -> InstrumentProfile:
    """Return the column of the EM-30 with another half-angle at 15 mm, mrad.

    A column that is built for a wide beam has a lens to match: its aberrations add no more to the probe than those of
    the EM-30 do at its own angle. With the EM-30's lens a beam of 20 mrad would be 230 nm wide in focus.
    """
    wider = max(angle / EM30.half_angle(_NOMINAL), 1.0)
    return dataclasses.replace(
        EM30,
        aperture_radius=angle * _NOMINAL,
        spherical_aberration=EM30.spherical_aberration / wider**3,
        chromatic_aberration=EM30.chromatic_aberration / wider,
    )


def _faults(text: str) -> dict[str, int]:
    counted: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, times = part.strip().partition(":")
        if name not in FAULTS or not (times.isdecimal() or not times):
            raise InvalidParameterError(f"there is no fault {part!r}; write NAME or NAME:TIMES, of {', '.join(FAULTS)}")
        counted[name] = int(times or 1)
    return counted


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
