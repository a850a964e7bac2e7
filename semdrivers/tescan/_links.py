"""The two connections to a TESCAN microscope. One command at a time; every wait has an end."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from firmware_protocol import sharksem
from firmware_protocol.sharksem import Flags, Message, Pixels, Reader, Value
from semdrivers.errors import BusyError, NotConnectedError, ProtocolError, TransportError

_Result = TypeVar("_Result")


class Silence(TransportError):
    """No answer came in time."""


class Links:
    """Control and data connection, opened by the constructor.

    Parameters
    ----------
    host, port : str, int
        Host and port of the control connection.
    timeout : float
        Longest silence, s.
    name : str
        For messages.

    Raises
    ------
    NotConnectedError
        When a connection cannot be opened, or the server does not accept the data connection.
    BusyError
        When the server has no room for another client.
    """

    def __init__(self, host: str, port: int, timeout: float, name: str) -> None:
        self._name, self._timeout = name, timeout
        self._number = 0
        self._sockets: dict[socket.socket, bytearray] = {}  # and what came of a message that is not whole yet
        self.broken = False
        step = "control connection"
        try:
            self._control = self._opened(socket.create_connection((host, port), timeout))
            family, here = self._control.family, self._control.getsockname()[0]
            step = "data connection"
            self._data = self._opened(socket.socket(family, socket.SOCK_STREAM))
            self._data.bind((here, 0))
            answer = self.call("TcpRegDataPort", Reader.integer, self._data.getsockname()[1])
            if answer != 0:
                raise BusyError(
                    f"{name} registers no data connection (answer {answer}): another client has it; close that one"
                )
            self._data.connect((host, port + 1))
        except (OSError, ProtocolError) as error:
            self.close()
            raise NotConnectedError(f"could not connect to the {name}", {step: error}) from error
        except BaseException:
            self.close()
            raise

    def _opened(self, one: socket.socket) -> socket.socket:
        one.settimeout(self._timeout)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a set has no answer, and a read follows at once
        self._sockets[one] = bytearray()
        return one

    def close(self) -> None:
        """Close both connections."""
        self.broken = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.close()

    def send(self, command: str, *values: Value, flags: Flags = Flags.NONE) -> None:
        """Send a command that has no result; the server does not answer it.

        Raises
        ------
        TransportError
            When the connection is lost.
        """
        self._number = self._number % 0x7FFFFFFF + 1
        try:
            self._control.settimeout(self._timeout)
            self._control.sendall(sharksem.encode(command, values, number=self._number, flags=flags))
        except OSError as error:
            raise self._lost(f"{command} could not be sent: {error}") from error
        except BaseException:
            self.close()  # an interrupt: half of it may be sent
            raise

    def call(
        self,
        command: str,
        read: Callable[[Reader], _Result],
        *values: Value,
        flags: Flags = Flags.NONE,
        deadline: float | None = None,
    ) -> _Result:
        """Send a command and return its result. Answers to earlier commands, come too late, are dropped.

        Raises
        ------
        Silence
            When no answer comes; the connection stays open.
        TransportError
            When the connection is lost.
        ProtocolError
            When the answer makes no sense; what is no message of this protocol ends the connections too.
        """
        self.send(command, *values, flags=flags | Flags.ANSWER)
        end = time.monotonic() + (self._timeout if deadline is None else deadline)
        what = f"answer to {command}"
        while True:
            head, body = self._message(self._control, end, what)
            if head.number == self._number and head.name == command:
                try:
                    return read(Reader(body))
                except ValueError as error:
                    raise ProtocolError(f"{self._name}: the {what} makes no sense: {error}") from error

    def pixels(self, end: float) -> Pixels:
        """Return the next piece of a frame.

        Parameters
        ----------
        end : float
            Until when to wait, by `time.monotonic`.

        Raises
        ------
        Silence
            When nothing comes.
        TransportError
            When the connection is lost.
        ProtocolError
            When what comes is none of this protocol.
        """
        while True:
            head, body = self._message(self._data, end, "picture data")
            if head.name == "ScData":
                try:
                    return sharksem.decode_pixels(body)
                except ValueError as error:
                    raise ProtocolError(f"{self._name}: the picture data make no sense: {error}") from error

    def _message(self, one: socket.socket, end: float, what: str) -> tuple[Message, bytes]:
        """Receive a whole message. One that breaks off ends the connections: what follows it has no beginning."""
        partial = self._sockets[one]
        try:
            self._fill(one, sharksem.HEAD_SIZE, end, what)
            head = sharksem.decode_head(bytes(partial[: sharksem.HEAD_SIZE]))
            whole = sharksem.HEAD_SIZE + head.size
            self._fill(one, whole, max(end, time.monotonic() + self._timeout), what)
        except Silence:
            if partial:
                raise self._lost(f"the {what} broke off") from None
            raise
        except ValueError as error:
            self.close()
            raise ProtocolError(f"{self._name}: the {what} is no message of SharkSEM: {error}") from error
        body = bytes(partial[sharksem.HEAD_SIZE : whole])
        del partial[:whole]
        return head, body

    def _fill(self, one: socket.socket, count: int, end: float, what: str) -> None:
        partial = self._sockets[one]
        while len(partial) < count:
            partial += self._receive(one, count - len(partial), end, what)

    def _receive(self, one: socket.socket, count: int, end: float, what: str) -> bytes:
        try:
            left = end - time.monotonic()
            if left < -self._timeout:
                raise TimeoutError  # something else keeps coming
            one.settimeout(max(left, 0.001))  # what is there already is read
            data = one.recv(min(count, 1 << 20))
        except TimeoutError:
            raise Silence(f"{self._name}: no {what} came in time") from None
        except OSError as error:
            raise self._lost(f"no {what}: {error}") from error
        except BaseException:
            self.close()  # an interrupt: what had just come is lost with it
            raise
        if not data:
            raise self._lost(f"it closed the connection before the {what} had come")
        return data

    def _lost(self, why: str) -> TransportError:
        self.close()
        return TransportError(f"{self._name}: the connection is lost: {why}; the next call connects again")
