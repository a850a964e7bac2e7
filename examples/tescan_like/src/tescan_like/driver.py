"""The driver: the five members of a microscope, and a stage, over the two sockets.

What differs from the EM-30, and stays in here: a set is answered at once and the lens is then busy for a while; the
field is given by its width, not by a magnification; a picture is asked for by number and size; errors are codes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

import semdrivers
from semdrivers.focus import record_of_frame
from tescan_like import wire

DISPLAY = 128.0
"""Width in mm of the picture that magnification refers to: 1000× is a field of 0.128 mm."""

_ERRORS: dict[str, type[semdrivers.SemDriversError]] = {
    "RANGE": semdrivers.OutOfRangeError,
    "BUSY": semdrivers.BusyError,
    "INTERLOCK": semdrivers.InterlockError,
    "FAULT": semdrivers.HardwareFault,
}


class TescanLike:
    """A microscope at the end of a control socket and a data socket.

    Parameters
    ----------
    host : str
        Name or number.
    port : int
        Of the control socket; the data socket has the next one.
    timeout : float
        Longest wait for an answer, for the lens to settle and for a picture, s.

    Raises
    ------
    NotConnectedError
        When a socket cannot be opened.
    """

    def __init__(self, host: str, port: int = 8300, timeout: float = 10.0) -> None:
        self._name, self._timeout = f"TESCAN-like at {host}:{port}", timeout
        self._lock, self._number, self._scan, self._closed = threading.RLock(), 0, 0, False
        self.focus_record: Mapping[str, Any] | None = None
        opened: list[socket.socket] = []
        try:
            for channel in (port, port + 1):
                opened.append(socket.create_connection((host, channel), timeout))
                opened[-1].settimeout(timeout)
            self._control, self._data = opened
            self._lines = self._control.makefile("r", encoding="ascii", newline="\n")
            self._data.sendall(self._ask("Token")[0].encode("ascii") + b"\n")
            if self._read(3) != b"OK\n":
                raise ConnectionError("the data socket did not take the token")
        except OSError as error:
            for one in opened:
                one.close()
            raise semdrivers.NotConnectedError(f"could not open {self._name}", {"sockets": error}) from error
        model, serial, firmware = self._ask("Hello")
        low, high, step, narrow, wide = map(float, self._ask("Limits"))
        self._capabilities = semdrivers.Capabilities(
            semdrivers.Range(low, high, step),
            semdrivers.Range(DISPLAY / wide, DISPLAY / narrow),
            tuple(semdrivers.ScanMode),
            model=model,
            serial=serial,
            firmware=firmware,
        )

    @property
    def capabilities(self) -> semdrivers.Capabilities:
        """Limits and modes, as the instrument reported them."""
        return self._capabilities

    @property
    def working_distance(self) -> float:
        """Working distance, mm."""
        return float(self._ask("GetWD")[0])

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        value = self._capabilities.working_distance.check("working distance", value, "mm")
        with self._lock:
            self._ask("SetWD", value)
            self._settle()

    @property
    def magnification(self) -> float:
        """Of a picture 128 mm wide."""
        return DISPLAY / float(self._ask("GetViewField")[0])

    @magnification.setter
    def magnification(self, value: float) -> None:
        value = self._capabilities.magnification.check("magnification", value)
        with self._lock:
            self._ask("SetViewField", DISPLAY / value)
            self._settle()

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y), mm."""
        x, y = self._ask("GetStage")
        return float(x), float(y)

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y), mm; returns where it arrived."""
        with self._lock:
            self._ask("MoveStage", float(x), float(y))
            self._settle()
            return self.stage_position

    def acquire(self, mode: semdrivers.ScanMode = semdrivers.ScanMode.FAST) -> semdrivers.Image:
        """Scan one frame and return it; raises `TransportError` when it does not come whole and sound."""
        if not isinstance(mode, semdrivers.ScanMode):
            raise semdrivers.InvalidParameterError(f"{self._name}: mode must be a semdrivers.ScanMode, not {mode!r}")
        with self._lock:
            self._scan += 1
            began = time.time()
            self._ask("Scan", self._scan, mode.width, mode.height)
            pixels = np.zeros((mode.height, mode.width), np.uint8)
            missing = np.ones(mode.height, bool)
            while missing.any():
                block = self._block()
                if block.scan != self._scan or (block.height, block.width) != pixels.shape:
                    continue
                rows = slice(block.first, block.first + block.lines)
                pixels[rows] = np.frombuffer(block.pixels, np.uint8).reshape(block.lines, block.width)
                missing[rows] = False
        metadata: dict[str, Any] = {"model": self._capabilities.model, "serial": self._capabilities.serial}
        if self.focus_record is not None:
            metadata["autofocus"] = record_of_frame(self.focus_record, block.working_distance)
        return semdrivers.Image(
            pixels,
            block.working_distance,
            DISPLAY / block.view_field,
            block.view_field * 1e6 / mode.width,
            self._scan,
            began,
            mode,
            metadata,
        )

    def autofocus(self, **settings: Any) -> semdrivers.AutofocusResult:
        """Focus; the same as ``semdrivers.autofocus(microscope, **settings)``."""
        return semdrivers.autofocus(self, **settings)

    def close(self) -> None:
        """Close both sockets. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._lines.close()
                self._control.close()
                self._data.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, command: str, *values: float) -> list[str]:
        """Send a request and return the values of its answer."""
        with self._lock:
            if self._closed:
                raise semdrivers.NotConnectedError(f"the connection to {self._name} is closed; connect again")
            self._number += 1
            words = " ".join([str(self._number), command, *(repr(value) for value in values)])
            try:
                self._control.sendall(words.encode("ascii") + b"\n")
                answer = self._lines.readline().split()
            except OSError as error:
                raise semdrivers.TransportError(f"{self._name}: no answer to {command}: {error}") from error
        if not answer:
            raise semdrivers.TransportError(f"{self._name} closed the control socket before it answered {command}")
        if answer[0] != str(self._number) or len(answer) < 2 or answer[1] not in ("OK", "ERR"):
            raise semdrivers.ProtocolError(f"{self._name} answered {command} with {' '.join(answer)!r}")
        if answer[1] == "ERR":
            kind = _ERRORS.get(answer[2] if len(answer) > 2 else "", semdrivers.DeviceError)
            raise kind(f"{self._name}: {command} {' '.join(map(str, values))}: {' '.join(answer[3:])}")
        return answer[2:]

    def _settle(self) -> None:
        """Return when nothing is busy."""
        deadline = time.monotonic() + self._timeout
        while self._ask("IsBusy")[0] != "0":
            if time.monotonic() > deadline:
                raise semdrivers.TransportError(f"{self._name} is still busy after {self._timeout:g} s")
            time.sleep(0.005)

    def _block(self) -> wire.Block:
        try:
            head = self._read(wire.HEADER.size)
            return wire.decode(head, self._read(wire.block_size(head)))
        except ValueError as error:
            raise semdrivers.TransportError(f"{self._name}: {error}; connect again") from error
        except OSError as error:
            raise semdrivers.TransportError(f"{self._name}: the picture did not come: {error}") from error

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._data.recv(size - len(parts))
            if not part:
                raise ConnectionError("the data socket was closed")
            parts += part
        return bytes(parts)
