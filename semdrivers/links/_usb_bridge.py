"""The client's end of a USB pipe over a socket: the device is in another process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLContext

from firmware_protocol.authentication import BRIDGE_SESSION, CHALLENGE_SIZE, proof_of
from firmware_protocol.bridge import (
    GREETING,
    NO_TIMEOUT,
    RESPONSE_SIZE,
    Attachment,
    BridgeError,
    BridgeRequest,
    BridgeResponse,
    Operation,
    TransferError,
    TransferStatus,
)
from firmware_protocol.usb import SetupPacket
from semdrivers.connection import TOKEN_VARIABLE

_CONNECT_TIMEOUT = 3.0
_GRACE = 5.0  # Seconds beyond a transfer's own timeout until the other side counts as gone


class BridgedPipe:
    """A `semdrivers.links.UsbPipe` over a TCP connection. Thread safe: one transfer at a time.

    It connects when first used, and again when devices are enumerated after the connection was lost.

    Parameters
    ----------
    host : str
        Name or address.
    port : int
        TCP port.
    token : str, optional
        For a bridge that asks for it.
    tls : SSLContext, optional
        How it is spoken to over TLS.
    """

    def __init__(self, host: str, port: int, token: str | None = None, tls: SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self._token = token
        self._tls = tls
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def attached(self) -> tuple[Attachment, ...]:
        """Return the devices at the other end, which is connected to if need be."""
        with self._lock, self._whole():
            if self._socket is None:
                self._connect()
            listed = self._exchange(BridgeRequest(Operation.DEVICES))
            try:
                return Attachment.decode_all(listed)
            except BridgeError as error:
                raise self._lost(error) from error

    def control(self, address: int, setup: SetupPacket, data: bytes, timeout: float | None) -> bytes:
        """Carry out a control transfer; returns what came back."""
        request = BridgeRequest(
            Operation.CONTROL, address, length=setup.length, timeout=_milliseconds(timeout), setup=setup
        )
        with self._lock, self._whole():
            return self._exchange(request, data)

    def bulk_in(self, address: int, endpoint: int, buffer: memoryview, timeout: float | None) -> int:
        """Read into `buffer`, straight from the socket; returns the number of bytes."""
        request = BridgeRequest(Operation.BULK_IN, address, endpoint, len(buffer), timeout=_milliseconds(timeout))
        with self._lock, self._whole():
            length = self._ask(request, b"")
            if length > len(buffer):
                raise self._lost(f"it sent {length} bytes where {len(buffer)} were asked for")
            self._receive(buffer[:length])
            return length

    def reset(self, address: int) -> None:
        """Reset the device's port."""
        with self._lock, self._whole():
            self._exchange(BridgeRequest(Operation.RESET, address))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Hang up where an exchange is broken off by Ctrl-C: the rest of it would pass for another."""
        try:
            yield
        except TransferError:
            raise
        except BaseException:
            self._hang_up()
            raise

    def close(self) -> None:
        """Hang up. A second call does nothing."""
        with self._lock:
            self._hang_up()

    def _connect(self) -> None:
        try:
            connection = socket.create_connection((self.host, self.port), _CONNECT_TIMEOUT)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_hostname=self.host)
        except OSError as error:
            raise TransferError(
                TransferStatus.NO_DEVICE, f"no USB bridge at {self.host}:{self.port}: {error}"
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._send(GREETING)
        answer = self._received(len(GREETING) + 1)
        if answer[:-1] != GREETING:
            raise self._lost("it is no USB bridge of this version")
        status = answer[-1]
        if status == TransferStatus.CHALLENGE:
            if self._token is None:
                raise self._lost(f"it asks for a token: pass token=, or set {TOKEN_VARIABLE}")
            self._send(proof_of(self._token, self._received(CHALLENGE_SIZE), BRIDGE_SESSION))
            status = self._received(1)[0]
        if status == TransferStatus.ACCESS:
            raise self._lost("it refuses the token")
        if status != TransferStatus.OK:
            self._hang_up()
            raise TransferError(TransferStatus.BUSY, f"the USB bridge at {self.host}:{self.port} serves another client")

    def _exchange(self, request: BridgeRequest, data: bytes = b"") -> bytes:
        return self._received(self._ask(request, data))

    def _ask(self, request: BridgeRequest, data: bytes) -> int:
        """Send a request; returns how many bytes follow the head of an OK response."""
        connection = self._connection()
        limit = None if request.timeout == NO_TIMEOUT and request.operation is Operation.BULK_IN else _GRACE
        connection.settimeout(None if limit is None else limit + request.timeout / 1000)
        self._send(request.encode() + data)
        try:
            response = BridgeResponse.decode(self._received(RESPONSE_SIZE))
        except BridgeError as error:
            raise self._lost(error) from error
        if response.operation is not request.operation:
            raise self._lost(f"it answered {response.operation.name} to {request.operation.name}")
        if response.status is not TransferStatus.OK:
            raise TransferError(response.status, self._received(response.length).decode("utf-8", "replace"))
        return response.length

    def _connection(self) -> socket.socket:
        if self._socket is None:
            raise TransferError(TransferStatus.NO_DEVICE, f"the USB bridge at {self.host}:{self.port} is not connected")
        return self._socket

    def _send(self, data: bytes) -> None:
        try:
            self._connection().sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def _receive(self, view: memoryview) -> None:
        connection = self._connection()
        while view:
            try:
                count = connection.recv_into(view)
            except OSError as error:
                raise self._lost(error) from error
            if not count:
                raise self._lost("it hung up")
            view = view[count:]

    def _received(self, length: int) -> bytes:
        data = bytearray(length)
        self._receive(memoryview(data))
        return bytes(data)

    def _lost(self, why: object) -> TransferError:
        self._hang_up()
        return TransferError(TransferStatus.NO_DEVICE, f"lost the USB bridge at {self.host}:{self.port}: {why}")

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _milliseconds(timeout: float | None) -> int:
    return NO_TIMEOUT if timeout is None else max(1, round(timeout * 1000))
