"""The server's end of a USB pipe over a socket: lends the emulated device to a client in another process."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time

from firmware_protocol.authentication import BRIDGE_SESSION, PROOF_SIZE, is_proof, new_challenge
from firmware_protocol.bridge import (
    GREETING,
    REQUEST_SIZE,
    BridgeError,
    BridgeRequest,
    BridgeResponse,
    Operation,
    TransferError,
    TransferStatus,
)
from firmware_protocol.usb import UsbError
from semdrivers.emulator.wires._control_server import drop_when_half_open
from semdrivers.links import UsbPipe

_log = logging.getLogger(__name__)
_GREETING_TIMEOUT = 2.0
_HANDOVER = 1.0
"""Seconds that a client waits for one that is hanging up: a script that reconnects is faster than the news of it."""
_SMALL = 4096
_MOST_GREETINGS = 16
"""Connections that may wait for their greeting; a further one takes the place of the oldest."""
_REST = 0.05
"""Seconds without new clients when the process has no descriptor left for one."""


class UsbBridgeServer:
    """Serves a `UsbPipe` on a port, to one client at a time; others get the status BUSY.

    A client that vanishes without a word, or stops in the middle of a request or of its answer, is hung up on.

    Parameters
    ----------
    pipe : UsbPipe
        Carries the transfers.
    port : int
        0 for any that is free.
    patience : float
        Seconds in which the rest of a request must come, and in which a client must fetch some of its answer.
    host : str
        Address to listen at.
    secret : str, optional
        Token that clients must prove to know.
    tls : SSLContext, optional
        For connections over TLS.
    """

    def __init__(
        self,
        pipe: UsbPipe,
        port: int = 0,
        patience: float = 5.0,
        host: str = "127.0.0.1",
        secret: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._pipe = pipe
        self._where = host, port
        self._secret = secret
        self._tls = tls
        self._patience = patience
        self._listener: socket.socket | None = None
        self._lock = threading.Condition()
        self._client: socket.socket | None = None
        self._greetings: list[socket.socket] = []
        self._buffer = bytearray()
        self._closed = False

    def start(self) -> int:
        """Listen, and return the port.

        Raises
        ------
        OSError
            When the port is taken.
        """
        self._listener = socket.create_server(self._where)
        threading.Thread(target=self._accept, name="USB bridge", daemon=True).start()
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        """Hang up on everyone. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            sockets = [each for each in (self._listener, self._client, *self._greetings) if each is not None]
        for each in sockets:
            _hang_up(each)
            each.close()

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._closed:
                    _log.info("USB bridge: no new client: %s", error)
                    self._make_room(0)
                    time.sleep(_REST)
                continue
            self._make_room(_MOST_GREETINGS - 1)
            if self._tls is not None:
                try:
                    connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                except OSError:
                    connection.close()  # it has hung up already
                    continue
            with self._lock:
                self._greetings.append(connection)
            threading.Thread(target=self._serve, args=(connection,), name="USB bridge client", daemon=True).start()

    def _make_room(self, most: int) -> None:
        """Hang up on the connections that have waited longest for their greeting, so that `most` are left."""
        with self._lock:
            while len(self._greetings) > most:
                _hang_up(self._greetings.pop(0))

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                drop_when_half_open(connection)
                connection.settimeout(_GREETING_TIMEOUT)
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
                if _receive(connection, len(GREETING)) != GREETING:
                    return
                opening = GREETING
                if self._secret is not None:
                    opening = b""
                    challenge = new_challenge()
                    connection.sendall(GREETING + bytes((TransferStatus.CHALLENGE,)) + challenge)
                    if not is_proof(_receive(connection, PROOF_SIZE), self._secret, challenge, BRIDGE_SESSION):
                        _log.warning("USB bridge: a client does not know the token")
                        connection.sendall(bytes((TransferStatus.ACCESS,)))
                        return
                with self._lock:
                    self._lock.wait_for(lambda: self._client is None or self._closed, _HANDOVER)
                    free = self._client is None and not self._closed and connection in self._greetings
                    if free:
                        self._client = connection
                connection.sendall(opening + bytes((TransferStatus.OK if free else TransferStatus.BUSY,)))
                if free:
                    self._greeted(connection)
                    self._answer_all(connection)
            except (OSError, EOFError) as error:
                _log.debug("USB bridge: %s", error or "the client hung up")
            except (BridgeError, UsbError) as error:
                _log.warning("USB bridge: hung up on a client: %s", error)
            finally:
                self._greeted(connection)
                with self._lock:
                    if self._client is connection:
                        self._client = None
                        self._lock.notify()

    def _greeted(self, connection: socket.socket) -> None:
        with self._lock:
            if connection in self._greetings:
                self._greetings.remove(connection)

    def _answer_all(self, connection: socket.socket) -> None:
        while not self._closed:
            connection.settimeout(None)
            first = _receive(connection, 1)
            connection.settimeout(self._patience)
            request = BridgeRequest.decode(first + _receive(connection, REQUEST_SIZE - 1))
            data = _receive(connection, request.following)
            try:
                answer = self._carry_out(request, data)
                status = TransferStatus.OK
            except TransferError as error:
                answer = memoryview(str(error).encode())
                status = error.status
            head = BridgeResponse(request.operation, status, len(answer)).encode()
            if len(answer) <= _SMALL:
                connection.sendall(head + answer)
            else:
                connection.sendall(head)
                connection.sendall(answer)

    def _carry_out(self, request: BridgeRequest, data: bytes) -> memoryview:
        timeout = request.timeout / 1000 if request.timeout else None
        match request.operation:
            case Operation.DEVICES:
                return memoryview(b"".join(attachment.encode() for attachment in self._pipe.attached()))
            case Operation.CONTROL:
                return memoryview(self._pipe.control(request.address, request.setup, data, timeout))
            case Operation.BULK_IN:
                if request.length > len(self._buffer):
                    self._buffer = bytearray(request.length)
                buffer = memoryview(self._buffer)[: request.length]
                return buffer[: self._pipe.bulk_in(request.address, request.endpoint, buffer, timeout)]
            case Operation.RESET:
                self._pipe.reset(request.address)
                return memoryview(b"")


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _receive(connection: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(data)
