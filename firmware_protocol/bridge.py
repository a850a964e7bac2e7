"""A USB pipe over a byte stream: the transfers of a USB host, for a device in another process.

One request, one response, in order. The client sends `GREETING`; the server answers with the same five bytes
and a status byte, and hangs up unless that is OK, or CHALLENGE, behind which the client proves that it knows the token.
Little endian; layouts are in the chapter *USB bridge* of the specification.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from firmware_protocol.usb import SetupPacket, UsbError

__all__ = [
    "GREETING", "MAX_TRANSFER", "NO_SETUP", "NO_TIMEOUT", "REQUEST_SIZE", "RESPONSE_SIZE", "Attachment",
    "BridgeError", "BridgeRequest", "BridgeResponse", "Operation", "TransferError", "TransferStatus",
]  # fmt: skip

GREETING = b"EM3B\x01"
"""Magic and version."""

MAX_TRANSFER = 128 * 1024 * 1024
"""Bytes of the longest transfer."""

NO_TIMEOUT = 0
"""Milliseconds; stands for a transfer without a time limit, as in libusb."""

NO_SETUP = SetupPacket(0, 0)
"""Stands in all requests but CONTROL."""

_REQUEST = struct.Struct("<BBHII8s")
_RESPONSE = struct.Struct("<BBHI")
_ATTACHMENT = struct.Struct("<HHBB")

REQUEST_SIZE = _REQUEST.size
"""Bytes of the head of a request."""
RESPONSE_SIZE = _RESPONSE.size
"""Bytes of the head of a response."""


class BridgeError(ValueError):
    """Bytes that are no message of the bridge."""


class TransferStatus(enum.IntEnum):
    """How a transfer ended; the numbers are libusb's error codes without their sign.

    ACCESS and CHALLENGE answer greetings: the proof was wrong; a challenge follows.
    """

    OK = 0
    IO = 1
    ACCESS = 3
    NO_DEVICE = 4
    NOT_FOUND = 5
    BUSY = 6
    TIMEOUT = 7
    OVERFLOW = 8
    STALL = 9
    CHALLENGE = 64


class TransferError(Exception):
    """A USB transfer that ended otherwise than OK."""

    def __init__(self, status: TransferStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Operation(enum.IntEnum):
    """What a request asks for."""

    DEVICES = 1
    CONTROL = 2
    BULK_IN = 3
    RESET = 4


@dataclass(frozen=True, slots=True)
class Attachment:
    """A device on the bus, as a host sees it before it has asked for a descriptor.

    Parameters
    ----------
    bus, address : int
        The address changes whenever the device is plugged in.
    port : int
        Where it is plugged in.
    speed : int
        libusb's code: 3 for high speed, 4 for super speed.
    """

    bus: int
    address: int
    port: int = 1
    speed: int = 3

    def encode(self) -> bytes:
        """Return the six bytes."""
        return _ATTACHMENT.pack(self.bus, self.address, self.port, self.speed)

    @classmethod
    def decode_all(cls, data: bytes) -> tuple[Attachment, ...]:
        """Return the devices in the answer to DEVICES; raises `BridgeError` for a piece of one."""
        if len(data) % _ATTACHMENT.size:
            raise BridgeError(f"list of devices with {len(data)} bytes")
        return tuple(cls(*fields) for fields in _ATTACHMENT.iter_unpack(data))


@dataclass(frozen=True, slots=True)
class BridgeRequest:
    """Head of a request; the data of a control transfer to the device follow it.

    Parameters
    ----------
    operation : Operation
        What is asked for.
    address : int
        Address of the device; 0 with DEVICES.
    endpoint : int
        With BULK_IN.
    length : int
        Bytes to read, or bytes that follow the head.
    timeout : int
        Milliseconds, or `NO_TIMEOUT`.
    setup : SetupPacket
        With CONTROL.
    """

    operation: Operation
    address: int = 0
    endpoint: int = 0
    length: int = 0
    timeout: int = NO_TIMEOUT
    setup: SetupPacket = NO_SETUP

    @property
    def following(self) -> int:
        """Bytes that follow the head."""
        outgoing = self.operation is Operation.CONTROL and not self.setup.is_in
        return self.length if outgoing else 0

    def encode(self) -> bytes:
        """Return the head; raises `BridgeError` when a value does not fit."""
        try:
            return _REQUEST.pack(
                self.operation, self.endpoint, self.address, self.length, self.timeout, self.setup.encode()
            )
        except (struct.error, UsbError) as error:
            raise BridgeError(str(error)) from error

    @classmethod
    def decode(cls, data: bytes) -> BridgeRequest:
        """Return the request in a head; raises `BridgeError` when it is none."""
        if len(data) != REQUEST_SIZE:
            raise BridgeError(f"a request's head has {REQUEST_SIZE} bytes, not {len(data)}")
        code, endpoint, address, length, timeout, setup = _REQUEST.unpack(data)
        if length > MAX_TRANSFER:
            raise BridgeError(f"a transfer of {length} bytes; the longest has {MAX_TRANSFER}")
        try:
            operation = Operation(code)
        except ValueError:
            raise BridgeError(f"unknown operation {code}") from None
        return cls(operation, address, endpoint, length, timeout, SetupPacket.decode(setup))


@dataclass(frozen=True, slots=True)
class BridgeResponse:
    """Head of a response; `length` bytes follow: data, or a message in UTF-8 when the status is not OK."""

    operation: Operation
    status: TransferStatus
    length: int = 0

    def encode(self) -> bytes:
        """Return the head."""
        return _RESPONSE.pack(self.operation, self.status, 0, self.length)

    @classmethod
    def decode(cls, data: bytes) -> BridgeResponse:
        """Return the response in a head; raises `BridgeError` when it is none."""
        if len(data) != RESPONSE_SIZE:
            raise BridgeError(f"a response's head has {RESPONSE_SIZE} bytes, not {len(data)}")
        code, status, _, length = _RESPONSE.unpack(data)
        if length > MAX_TRANSFER:
            raise BridgeError(f"a transfer of {length} bytes; the longest has {MAX_TRANSFER}")
        try:
            return cls(Operation(code), TransferStatus(status), length)
        except ValueError as error:
            raise BridgeError(str(error)) from None
