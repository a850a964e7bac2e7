"""``semfocus+http://HOST:PORT``: a microscope that another computer shares with ``semfocus serve``.

Only the standard library is needed here; the server needs the extra ``view``. Every request opens a connection of its
own, so that `HasStop.stop` reaches the instrument while a frame is scanned, from any thread.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from semdrivers.autofocus import checked_settings
from semdrivers.base import MicroscopeBase, answered, ends_with_fork
from semdrivers.connection import (
    LEAST_TOKEN,
    TOKEN_VARIABLE,
    checked_token,
    host_and_port,
    number_option,
    read_token,
    split_url,
)
from semdrivers.errors import (
    InvalidParameterError,
    NotConnectedError,
    ProtocolError,
    SemDriversError,
    TransportError,
    error_named,
)
from semdrivers.files import parse_json, plain
from semdrivers.focus import AutofocusResult, FocusStep, Progress
from semdrivers.image import Image, ScanMode, read_image
from semdrivers.microscope import Capabilities, number

__all__ = [
    "CLIENT_HEADER", "LEASE_HEADER", "LEAST_TOKEN", "PORT", "TOKEN_VARIABLE", "RemoteMicroscope", "checked_token",
    "open_remote", "read_token",
]  # fmt: skip

PORT = 8765
"""TCP port of ``semfocus serve`` by default."""
LEASE_HEADER, CLIENT_HEADER = "X-Semfocus-Lease", "X-Semfocus-Client"
"""Headers with the lease of the client in control, and the name of a client."""

_OPTIONS = ("token", "client", "timeout")
_TIMEOUT = 300.0
"""Seconds that an answer may take, from the first byte to the last: the slowest frame, or pumping."""
_LARGEST = {"frame": 1 << 30, "other": 1 << 26}
"""Bytes of an answer at most."""
_PART = 1 << 20
_CONNECT_TIMEOUT = 10.0
_POLL = 0.25, 10.0
"""Seconds to wait for a frame of a run: with an event that may cancel it, and without."""
_STATE = {"steps": list, "ended": bool, "error": dict | None, "result": dict | None}
"""What the server says of a run."""
_NO_CONTROL = 423
"""HTTP status of a request that needs the lease."""


def open_remote(url: str, options: Mapping[str, Any]) -> RemoteMicroscope:
    """Connect to ``semfocus+http://HOST[:PORT][?client=NAME&timeout=SECONDS]``.

    Raises
    ------
    InvalidParameterError
        When the address is malformed, or an option is unknown.
    NotConnectedError
        When no server answers there, it refuses the token, or its instrument is lost.
    """
    parts, given = split_url(url, options, _OPTIONS, "a shared microscope")
    write = f"semfocus+http://HOST:PORT, such as semfocus+http://127.0.0.1:{PORT}"
    host, port = host_and_port(url, parts, write, PORT)
    timeout = number_option(url, "timeout", given.get("timeout", _TIMEOUT), unit="s")
    if timeout <= 0:
        raise InvalidParameterError(f"{url}: timeout must be above 0 s, not {timeout:g} s")
    token = given.get("token") or read_token(None)
    client = given.get("client") or f"{socket.gethostname()}, process {os.getpid()}"
    for name, value in (("token", token), ("client", client)):
        if value is not None and not (isinstance(value, str) and value.isprintable()):
            raise InvalidParameterError(f"{url}: {name} must be a printable text")
    return RemoteMicroscope(_Wire(host, port, token, client, float(timeout)))


class _Wire:
    """Requests to one server, by one client."""

    def __init__(self, host: str, port: int, token: str | None, client: str, timeout: float) -> None:
        self.name = f"{host}:{port}"
        self._host, self._port, self._timeout = host, port, timeout
        # Headers are Latin-1; another character of a name is not worth a failure.
        self._headers = {CLIENT_HEADER: client.encode("ascii", "replace").decode("ascii")}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._lease = ""
        self._lock = threading.Lock()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        control: bool = False,
        parts: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return what the server answers, from JSON: an object that holds `parts`, types by name, where they are given.

        With `control`, take the lease first where it is needed.
        """
        answer = self.raw(method, path, body, control=control)
        try:
            value = parse_json(answer or b"null")
            if not all(isinstance(value[name], kind) for name, kind in (parts or {}).items()):
                raise ValueError("a part has another type")
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(
                f"{self.name} answers {path} with {answer[:40]!r}, which is no JSON"
                + (f" that holds {', '.join(parts)}" if parts else "")
                + "; check the address, and that both computers have one version of semfocus"
            ) from error
        return value

    def raw(self, method: str, path: str, body: object = None, *, control: bool = False) -> bytes:
        """Return what the server answers; raise what it reports."""
        lease = self._lease
        status, answer = self._send(method, path, body, lease)
        if control and status == _NO_CONTROL:
            with self._lock:
                if self._lease == lease:  # no other thread has taken it meanwhile
                    self._lease = ""
                    self._lease = str(self.ask("POST", "lease", {}, parts={"lease": str})["lease"])
            status, answer = self._send(method, path, body, self._lease)
        return self._checked(status, answer, path)

    def release(self) -> None:
        """Let others take control."""
        if self._lease:
            self.raw("DELETE", "lease")
            self._lease = ""

    def _send(self, method: str, path: str, body: object, lease: str) -> tuple[int, bytes]:
        headers = {**self._headers, LEASE_HEADER: lease}
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body, allow_nan=False), "application/json"
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_TIMEOUT)
        try:
            connection.connect()
            connection.sock = _Bounded(connection.sock, self._timeout)
            connection.request(method, f"/api/{path}", content, headers)
            response = connection.getresponse()
            return response.status, self._received(response, path)
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(
                f"{self.name}: {method} /api/{path} failed: {error or type(error).__name__}"
            ) from error
        finally:
            connection.close()

    def _received(self, response: http.client.HTTPResponse, path: str) -> bytes:
        """Return the body of an answer, whole and of bounded size."""
        most = _LARGEST["frame" if path.startswith("frames/") else "other"]
        answer = bytearray()
        while part := response.read(_PART):
            answer += part
            if len(answer) > most:
                raise ProtocolError(f"{self.name} answers {path} with more than {most >> 20} MB; check the address")
        if response.length:
            raise http.client.IncompleteRead(bytes(answer[:80]), response.length)
        return bytes(answer)

    def _checked(self, status: int, answer: bytes, path: str) -> bytes:
        if status < 300:
            return answer
        try:
            problem = parse_json(answer)
            name, message = str(problem["error"]), str(problem["message"])
        except (ValueError, KeyError, TypeError):
            raise ProtocolError(
                f"{self.name} answers {path} with HTTP status {status}, and is no server of semfocus; check the address"
            ) from None
        raise _reported_error(name, f"{self.name}: {message}")


class _Bounded(socket.socket):
    """A connected socket whose time-out holds for all that is received together.

    Parameters
    ----------
    connected : socket
        Belongs to this one from here on.
    timeout : float
        Seconds from now.
    """

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        super().__init__(fileno=connected.detach())
        self.settimeout(timeout)
        self._end = time.monotonic() + timeout

    def recv_into(self, *arguments: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
        return super().recv_into(*arguments)


def _reported_error(name: str, message: str) -> SemDriversError:
    """Return an error that the server reports; one that is none of this package is the server's own affair."""
    error = error_named(name, message)
    return error if isinstance(error, SemDriversError) else SemDriversError(f"{name}: {message}")


class RemoteMicroscope(MicroscopeBase):
    """A microscope that another computer shares.

    Reading is free for all. The first call that changes something, or scans, takes control, and raises `BusyError`
    while another client has it. The optional protocols are those of the instrument.

    Parameters
    ----------
    wire : object
        As `open_remote` makes it.

    Raises
    ------
    NotConnectedError
        When the server does not answer, or refuses the token.
    """

    def __new__(cls, wire: _Wire) -> Self:
        """Make a class that has the members that the instrument has."""
        try:
            offers = wire.ask("GET", "status", parts={"offers": list})["offers"]
        except SemDriversError as error:
            raise NotConnectedError(f"no microscope at semfocus+http://{wire.name}", {"server": error}) from error
        return super().__new__(cls._offering(set(map(str, offers))))

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._closed = False
        ends_with_fork(self)

    @property
    def capabilities(self) -> Capabilities:
        """Limits and modes, as the instrument reports them."""
        self._check_open()
        return Capabilities.from_dict(self._wire.ask("GET", "capabilities"))

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame.

        Raises
        ------
        InvalidParameterError
            When `mode` is no scan mode, or none of this instrument.
        SemDriversError
            Whatever the instrument's driver raises.
        """
        self._check_open()
        if not isinstance(mode, ScanMode):
            raise InvalidParameterError(f"mode must be a semdrivers.ScanMode, not {mode!r}")
        frame = self._wire.ask("POST", "frames", {"mode": str(mode)}, control=True, parts={"number": int})
        content = self._wire.raw("GET", f"frames/{frame['number']}.tif")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frame.ome.tif"
            path.write_bytes(content)
            image = read_image(path)
        return self._delivered(image)

    def autofocus(
        self, *, progress: Progress | None = None, cancel: threading.Event | None = None, **settings: Any
    ) -> AutofocusResult:
        """Focus, on the server: should the link break in the middle, the run ends there by itself, and in order.

        Parameters and errors are those of `semdrivers.autofocus`, which called with this microscope runs here, and
        asks the server for every frame.
        """
        self._check_open()
        cancelled = cancel is not None and cancel.is_set()  # then nothing is scanned
        if cancelled or settings.get("map") is not None:  # a map is here, and so is its run
            return super().autofocus(progress=progress, cancel=cancel, **settings)
        settings.pop("map", None)
        checked = checked_settings(settings.pop("settings", None), settings)
        body = {**plain(checked), "scan_mode": None if checked.scan_mode is None else str(checked.scan_mode)}
        run = self._wire.ask("POST", "autofocus", body, control=True, parts={"number": int})["number"]
        seen = 0
        try:
            while True:
                wait = _POLL[0 if cancel is not None else 1]
                state = self._wire.ask("GET", f"autofocus/{run}?after={seen}&wait={wait}", parts=_STATE)
                for values in state["steps"]:
                    seen += 1
                    if progress is not None:
                        progress(FocusStep.from_dict(values))
                if state["ended"]:
                    break
                if cancel is not None and cancel.is_set():
                    self._wire.ask("DELETE", f"autofocus/{run}", control=True)
        except BaseException as error:
            try:
                self._wire.ask("DELETE", f"autofocus/{run}", control=True)
            except SemDriversError as other:
                error.add_note(f"the run was not cancelled: {other}")
            raise
        if state["error"] is not None:
            raise _reported_error(str(state["error"].get("error")), str(state["error"].get("message")))
        return AutofocusResult.from_dict(state["result"])

    def close(self) -> None:
        """Give up control. The server keeps its link to the instrument. A second call does nothing.

        A server that is not there any more needs nothing given up.
        """
        if not self._closed:
            self._closed = True
            with suppress(TransportError):
                self._wire.release()

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnectedError(f"the microscope at semfocus+http://{self._wire.name} is closed; connect again")

    def _read(self, name: str) -> Any:
        self._check_open()
        return answered(name, self._wire.ask("GET", name, parts={"value": object})["value"])

    def _write(self, name: str, value: Any) -> None:
        self._check_open()
        if name in ("working_distance", "magnification"):
            value = number(f"{self!r}: {name}", value, "mm" if name == "working_distance" else "")
        value = plain(value)
        if isinstance(value, list) and any(item is None for item in value):
            raise InvalidParameterError(f"{self!r}: {name} must be finite numbers")
        self._wire.ask("PUT", name, {"value": value}, control=True)

    def _call(self, name: str, *arguments: Any) -> Any:
        self._check_open()
        values = [number(f"{self!r}: {name}", argument) for argument in arguments]
        body = {"arguments": values}
        return answered(name, self._wire.ask("POST", name, body, control=True, parts={"value": object})["value"])

    def _stop(self, keep_beam: bool) -> None:
        self._check_open()
        self._wire.ask("POST", "stop", {"keep_beam": bool(keep_beam)})

    def __repr__(self) -> str:
        return f"<RemoteMicroscope semfocus+http://{self._wire.name}>"
