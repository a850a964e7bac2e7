"""A tiny emulator of the instrument: two listening sockets, a lens that takes time, a picture that defocuses."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tescan_like import wire

LIMITS = (2.0, 60.0, 0.0005, 0.002, 5.0)
"""Lowest, highest and step of the working distance, narrowest and widest view field; mm."""

_APERTURE = 0.0035


class TescanLikeEmulator:
    """The instrument on loopback.

    Parameters
    ----------
    best_focus : float
        Working distance at which the sample is sharp at the stage's centre, mm.
    seed : int
        Of the sample and the noise.
    slope : float
        Of the sample, mm of height to mm of stage.
    settling : float
        What the lens takes after each set, s.
    """

    def __init__(self, best_focus: float = 14.0, seed: int = 0, slope: float = 0.02, settling: float = 0.002) -> None:
        self.best_focus, self.slope, self.settling = best_focus, slope, settling
        self.working_distance, self.view_field, self.stage = best_focus + 0.6, 0.05, (0.0, 0.0)
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self._busy_until = 0.0
        self._random = np.random.default_rng(seed)
        self._scene = self._draw()
        self._data: dict[str, socket.socket] = {}
        self._listening: list[socket.socket] = []
        self._open: list[socket.socket] = []
        self.port = 0

    def __enter__(self) -> Self:
        for _ in range(50):
            control = socket.create_server(("127.0.0.1", 0))
            try:
                data = socket.create_server(("127.0.0.1", control.getsockname()[1] + 1))
            except (OSError, OverflowError):
                control.close()
                continue
            self.port, self._listening = control.getsockname()[1], [control, data]
            for listener, serve in ((control, self._serve_control), (data, self._serve_data)):
                threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()
            return self
        raise OSError("no two neighbouring ports are free")

    def __exit__(self, *_: object) -> None:
        for one in [*self._listening, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    @property
    def url(self) -> str:
        """Address for `semdrivers.connect`."""
        return f"tescan-like://127.0.0.1:{self.port}"

    @property
    def truth(self) -> float:
        """Working distance of best focus at the present stage position, mm."""
        return self.best_focus + self.slope * self.stage[0]

    @property
    def depth_of_field(self) -> float:
        """How far the lens may be off before the blur is a pixel of a 320-pixel frame, mm."""
        return self.view_field / 320 / _APERTURE

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    def _serve_data(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._data[client.makefile("r", encoding="ascii").readline().strip()] = client
            client.sendall(b"OK\n")

    def _serve_control(self, client: socket.socket) -> None:
        token = secrets.token_hex(8)
        with contextlib.suppress(OSError):
            for line in client.makefile("r", encoding="ascii"):
                number, command, *values = line.split()
                try:
                    answer = "OK " + self._answer(command, [float(value) for value in values], token)
                except ValueError as error:
                    answer = f"ERR RANGE {error}"
                client.sendall(f"{number} {answer}\n".encode("ascii"))

    def _answer(self, command: str, values: list[float], token: str) -> str:
        low, high, step, narrow, wide = LIMITS
        match command, values:
            case "Token", []:
                return token
            case "Hello", []:
                return "TESCAN-like-1 T1-0042 3.2"
            case "Limits", []:
                return " ".join(map(repr, LIMITS))
            case "GetWD", []:
                return repr(self.working_distance)
            case "SetWD", [value]:
                _check("working distance", value, low, high)
                self.working_distance = round(round(value / step) * step, 6)
                self._busy()
            case "GetViewField", []:
                return repr(self.view_field)
            case "SetViewField", [value]:
                _check("view field", value, narrow * 0.999999, wide * 1.000001)
                self.view_field = value
                self._busy()
            case "GetStage", []:
                return f"{self.stage[0]!r} {self.stage[1]!r}"
            case "MoveStage", [x, y]:
                _check("stage x", x, -30, 30)
                _check("stage y", y, -30, 30)
                self.stage = x, y
                self._busy()
            case "IsBusy", []:
                return "1" if time.monotonic() < self._busy_until else "0"
            case "Scan", [scan, width, height]:
                threading.Thread(target=self._send, args=(token, int(scan), int(width), int(height))).start()
            case _:
                raise ValueError(f"no command {command} with {len(values)} values")
        return ""

    def _busy(self) -> None:
        self._busy_until = time.monotonic() + self.settling

    def _send(self, token: str, scan: int, width: int, height: int) -> None:
        """Send a picture in blocks of 60 lines, the odd blocks first."""
        pixels = self._look(width, height)
        firsts = list(itertools.chain(range(60, height, 120), range(0, height, 120)))
        with contextlib.suppress(OSError):
            for first in firsts:
                lines = min(60, height - first)
                block = wire.Block(
                    scan,
                    first,
                    lines,
                    width,
                    height,
                    self.working_distance,
                    self.view_field,
                    pixels[first : first + lines].tobytes(),
                )
                self._data[token].sendall(self.damage(wire.encode(block)))

    def _look(self, width: int, height: int) -> NDArray[Any]:
        """The sample through the lens, 320×240 at heart: blurred by the defocus, with the noise of a detector."""
        blur = max(_APERTURE * abs(self.working_distance - self.truth) * 320 / self.view_field, 0.5)
        rows, columns = np.fft.fftfreq(self._scene.shape[0])[:, None], np.fft.rfftfreq(self._scene.shape[1])[None, :]
        transfer = np.exp(-((2 * np.pi * np.hypot(rows, columns) * blur) ** 2) / 8)
        signal = np.fft.irfft2(np.fft.rfft2(self._scene) * transfer, s=self._scene.shape)[128:368, 128:448]
        enlarged = signal.repeat(height // 240, axis=0).repeat(width // 320, axis=1)
        counts = self._random.poisson(np.clip(enlarged, 0, None) * 200) / 200
        grey = np.asarray(np.clip(40 + 200 * counts, 0, 255))
        return grey.astype(np.uint8)

    def _draw(self) -> NDArray[Any]:
        """Discs of metal with a grain, on carbon."""
        rows, columns = np.mgrid[:496, :576].astype(np.float32)
        scene = np.full(rows.shape, 0.35, np.float32)
        for _ in range(80):
            radius, centre = self._random.uniform(4, 36), self._random.uniform((0, 0), rows.shape)
            distance = np.hypot(rows - centre[0], columns - centre[1]) / radius
            inside = distance < 1
            scene[inside] = self._random.uniform(0.4, 0.8) + 0.3 * distance[inside] ** 6
        grained: NDArray[Any] = scene + 0.1 * np.asarray(self._random.normal(size=scene.shape), np.float32)
        return grained


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} {value:g} mm is outside {low:g} to {high:g} mm")
