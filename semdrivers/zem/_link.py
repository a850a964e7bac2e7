"""The link to a ZEM: requests and answers in datagrams, pictures over TCP."""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque

from firmware_protocol import zem
from semdrivers.errors import DeviceError, NotConnectedError, TransportError

_TRIES = 3
"""Datagrams may be lost. Every request here may come twice: a value is set to what it is to be, not changed by it."""

_PICTURE_SHARE = 10.0
"""How often the longest silence a picture may take, however steadily it trickles."""

_KEPT = 8
"""Sockets that stay open, so that a late answer ends in silence and in no error at the instrument."""


class Link:
    """One instrument. Not thread safe.

    Parameters
    ----------
    host, port : str, int
        Address of the instrument.
    timeout : float
        Longest silence, s.
    name : str
        For messages.

    Raises
    ------
    NotConnectedError
        When there is no such host.
    """

    def __init__(self, host: str, port: int, timeout: float, name: str) -> None:
        self._timeout, self._name, self._host = timeout, name, host
        self._owed = False
        try:
            self._address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
            self._sockets = deque([self._opened()], maxlen=_KEPT)
        except OSError as error:
            raise NotConnectedError(f"{name}: {error}") from error

    def ask(self, command: str, arguments: str = "", deadline: float | None = None) -> tuple[str, ...]:
        """Send a request and return the values of its answer.

        Raises
        ------
        DeviceError
            When the instrument does not carry it out.
        TransportError
            When no answer comes, after three tries.
        """
        if self._owed:
            if len(self._sockets) == _KEPT:
                self._sockets[0].close()
            try:
                self._sockets.append(self._opened())
            except OSError as error:
                raise TransportError(f"{self._name}: {command} {arguments}: {error}") from error
        datagram = zem.encode(command, arguments, *self._socket.getsockname()[:2])
        problem = "no answer"
        for attempt in range(1 if deadline is not None else _TRIES):
            self._owed = True
            try:
                self._drain()
                self._socket.send(datagram)
                answer, problem = self._receive(command, deadline or self._timeout / _TRIES, problem)
            except OSError as error:
                problem = str(error)
                continue
            if answer is None:
                continue
            self._owed = attempt > 0
            if answer.error:
                raise DeviceError(f"{self._name}: {command} {arguments}: {answer.error}")
            return answer.values
        raise TransportError(f"{self._name}: {command} {arguments}: {problem}")

    @property
    def _socket(self) -> socket.socket:
        return self._sockets[-1]

    def _opened(self) -> socket.socket:
        """Return a socket of its own port, where no answer to an earlier request can come: answers have no number."""
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.connect(self._address)
        return one

    def _drain(self) -> None:
        """Drop a second copy of an answer."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(65536)

    def _receive(self, command: str, seconds: float, problem: str) -> tuple[zem.Answer | None, str]:
        """Return the answer to a command, those to earlier ones passed over; None and a problem where none comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                answer = zem.decode(self._socket.recv(65536))
            except TimeoutError:
                break
            except ValueError as error:
                problem = str(error)
                continue
            if answer.command == command:
                return answer, ""
        return None, problem

    def picture(self, port: int, count: int) -> bytes:
        """Return the bytes of a picture from the instrument's TCP port.

        Raises
        ------
        TransportError
            When some are missing in the end.
        """
        data = bytearray()
        with contextlib.suppress(TimeoutError):
            try:
                with socket.create_connection((self._host, port), self._timeout) as stream:
                    end = time.monotonic() + _PICTURE_SHARE * self._timeout
                    while len(data) < count and (left := end - time.monotonic()) > 0:
                        stream.settimeout(min(left, self._timeout))
                        if not (part := stream.recv(min(1 << 20, count - len(data)))):
                            break
                        data += part
            except TimeoutError:
                raise
            except OSError as error:
                raise TransportError(f"{self._name}: the picture did not come: {error}") from error
        if len(data) < count:
            raise TransportError(f"{self._name}: {count - len(data)} of {count} bytes of a picture are missing")
        return bytes(data)

    def close(self) -> None:
        """Close the sockets."""
        for one in self._sockets:
            one.close()
