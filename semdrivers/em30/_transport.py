"""Byte pipes to an instrument: TCP and serial lines. They know bytes and deadlines, nothing of messages.

Every call ends by its deadline, whatever the other side does. One thread may receive while another sends;
`close` may come from any thread and ends both.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import sys
import threading
import time
from ssl import SSLContext, SSLError
from typing import Any, Protocol

from semdrivers.errors import InvalidParameterError, NotConnectedError, TransportError
from semdrivers.links import TlsSocket

CHUNK = 65536
_SERIAL_CHUNK = 256
_SERIAL_READ = 0.05
_SERIAL_WRITE = 0.5


class Transport(Protocol):
    """What the control link needs of a byte pipe."""

    @property
    def name(self) -> str:
        """For messages, such as ``"TCP 192.168.1.30:5030"``."""
        ...

    def send(self, data: bytes, timeout: float) -> None:
        """Send all of `data` within `timeout` seconds.

        Raises
        ------
        TransportError
            When that is impossible, or the pipe is closed.
        """
        ...

    def receive(self, timeout: float) -> bytes:
        """Return what has come, at most `timeout` seconds from now; empty when nothing came.

        Raises
        ------
        TransportError
            When the other side has closed the pipe, or it is broken.
        """
        ...

    def shutdown(self) -> None:
        """Make sends and receives in other threads end at once."""
        ...

    def close(self) -> None:
        """Close the pipe; a second call does nothing."""
        ...


def open_tcp(host: str, port: int, timeout: float = 5.0, tls: SSLContext | None = None) -> TcpTransport:
    """Connect to a TCP port.

    Parameters
    ----------
    host : str
        Name or address.
    port : int
        1 to 65535.
    timeout : float
        Seconds for all addresses of the host together.
    tls : SSLContext, optional
        How the other side is spoken to over TLS.

    Raises
    ------
    InvalidParameterError
        When the port is no port.
    NotConnectedError
        When no address answers; it lists each with its reason.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise InvalidParameterError(f"a TCP port is a number from 1 to 65535, not {port!r}")
    deadline = time.monotonic() + timeout
    failures: dict[str, str | Exception] = {}
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotConnectedError(
            f"no control connection to {host}:{port}", {"look-up": f"{host!r} is unknown ({error})"}
        ) from error
    for family, kind, protocol, _, address in addresses:
        numbers = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        where = f"TCP {numbers[0]}:{numbers[1]}"
        left = deadline - time.monotonic()
        if left <= 0:
            failures[where] = "not tried, the time was over"
            continue
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(left)
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if tls is not None:
                connection = tls.wrap_socket(connection, server_hostname=host)
                return TcpTransport(TlsSocket(connection), f"{where} (TLS)")
        except OSError as error:
            connection.close()
            failures[where] = _why(error, left)
        else:
            return TcpTransport(connection, where)
    raise NotConnectedError(f"no control connection to {host}:{port}", failures)


def _why(error: OSError, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:.3g} s; is the instrument on, and on this network?"
    if isinstance(error, ConnectionRefusedError):
        return "refused; is the instrument's control server running on this port?"
    if isinstance(error, SSLError):
        return f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
    return error.strerror or str(error)


def _wait(connection: socket.socket | TlsSocket, timeout: float, *, to_write: bool = False) -> bool:
    """Return whether the socket is ready within `timeout` seconds.

    By what needs no descriptor of its own and is made for one call: a connection costs a process one descriptor, and a
    call in a signal handler does not meet the call that it interrupts.
    """
    if sys.platform == "win32":
        sockets = [connection]
        readable, writable, _ = select.select(*(([], sockets) if to_write else (sockets, [])), [], max(0.0, timeout))
        return bool(readable or writable)
    poll = select.poll()
    poll.register(connection, select.POLLOUT if to_write else select.POLLIN)
    return bool(poll.poll(max(0, math.ceil(timeout * 1000))))


class TcpTransport:
    """A connected socket. Made by `open_tcp`.

    Parameters
    ----------
    connection : socket or TlsSocket
        Connected; belongs to the transport from here on.
    name : str
        For messages.
    """

    def __init__(self, connection: socket.socket | TlsSocket, name: str) -> None:
        connection.setblocking(False)
        self.name = name
        self._socket = connection
        self._closed = False

    def send(self, data: bytes, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        view = memoryview(data)
        while view:
            if self._closed:
                raise TransportError(f"{self.name} is closed")
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, InterruptedError):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TransportError(
                        f"{self.name} took {len(data) - len(view)} of {len(data)} bytes in {timeout:g} s"
                    ) from None
                try:
                    _wait(self._socket, left, to_write=True)
                except (OSError, ValueError) as error:
                    raise TransportError(f"{self.name} was closed while sending") from error
            except OSError as error:
                raise TransportError(f"{self.name} broke while sending: {error.strerror or error}") from error

    def receive(self, timeout: float) -> bytes:
        try:
            try:
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                if not _wait(self._socket, timeout):
                    return b""
                data = self._socket.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return b""
        except (OSError, ValueError) as error:
            raise TransportError(f"{self.name} broke while receiving: {error}") from error
        if not data:
            raise TransportError(f"{self.name} was closed by the other side")
        return data

    def shutdown(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shutdown()
        self._socket.close()


def open_serial(device: str, baudrate: int = 115200) -> SerialTransport:
    """Open a serial line, 8 data bits, no parity, 1 stop bit.

    Parameters
    ----------
    device : str
        ``/dev/ttyUSB0``, ``COM3``, …
    baudrate : int
        Bits a second.

    Raises
    ------
    InvalidParameterError
        When the baud rate is none.
    NotConnectedError
        When the device cannot be opened; it says why and which devices there are.
    """
    import serial

    if isinstance(baudrate, bool) or not isinstance(baudrate, int) or baudrate <= 0:
        raise InvalidParameterError(f"a baud rate is a positive whole number, not {baudrate!r}")
    try:
        line = serial.Serial(device, baudrate, timeout=_SERIAL_READ, write_timeout=_SERIAL_WRITE)
    except ValueError as error:
        raise InvalidParameterError(f"serial line {device!r} at {baudrate} baud: {error}") from error
    except OSError as error:
        from serial.tools import list_ports

        present = ", ".join(port.device for port in list_ports.comports()) or "none"
        raise NotConnectedError(
            f"no control connection over the serial line {device}",
            {device: str(error), "serial lines of this computer": present},
        ) from error
    return SerialTransport(line, f"serial line {device}")


class SerialTransport:
    """A serial line by way of pyserial, used as a byte pipe only. Made by `open_serial`.

    pyserial's own time-outs are per byte and its `read_until` may return half a line, so only short reads of
    what is there and short writes are used, with fixed time-outs: changing one would reconfigure the line.

    Parameters
    ----------
    line : serial.Serial
        Open; belongs to the transport from here on.
    name : str
        For messages.
    """

    def __init__(self, line: Any, name: str) -> None:
        self.name = name
        self._line = line
        self._closed = threading.Event()
        self._reading = threading.RLock()  # a signal handler may ask in the middle of a call
        self._writing = threading.RLock()
        self._reads = 0

    def send(self, data: bytes, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with self._writing:
            for start in range(0, len(data), _SERIAL_CHUNK):
                if self._closed.is_set():
                    raise TransportError(f"{self.name} is closed")
                if time.monotonic() > deadline:
                    raise TransportError(f"{self.name} took {start} of {len(data)} bytes in {timeout:g} s")
                try:
                    self._line.write(data[start : start + _SERIAL_CHUNK])
                except (OSError, TypeError) as error:
                    raise TransportError(f"{self.name} broke while sending: {error}") from error

    def receive(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        with self._reading:
            while not self._closed.is_set():
                self._reads = mine = self._reads + 1
                try:
                    data: bytes = self._line.read(max(1, min(self._line.in_waiting, CHUNK)))
                except (OSError, TypeError) as error:
                    if self._reads != mine:
                        return b""  # a signal handler has read what was there; pyserial takes that for a lost device
                    raise TransportError(f"{self.name} broke while receiving: {error}") from error
                if data or time.monotonic() >= deadline:
                    return data
        raise TransportError(f"{self.name} is closed")

    def shutdown(self) -> None:
        self._closed.set()
        with contextlib.suppress(Exception):
            self._line.cancel_read()
        with contextlib.suppress(Exception):
            self._line.cancel_write()

    def close(self) -> None:
        self.shutdown()
        with self._reading, self._writing:
            self._line.close()
