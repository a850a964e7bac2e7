"""The control envelope: encode, and decode incrementally with resynchronisation.

::

     0 2 magic E3 30   2 1 version   3 1 kind   4 2 sequence   6 2 opcode   8 2 flags   10 2 status
    12 2 payload length   14 2 CRC-16 of bytes 0..13   16 n payload   16+n 4 CRC-32 of bytes 0..16+n-1

The header has a checksum of its own, so a corrupted length field never makes the decoder wait for bytes that
do not come.
"""

from __future__ import annotations

import binascii
import enum
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from firmware_protocol import messages
from firmware_protocol.messages import Event, Kind, Pending, Refusal, Request, Status, Unknown, Wait
from firmware_protocol.payload import PayloadError, decode_payload, encode_payload

__all__ = [
    "HEADER_SIZE", "MAGIC", "MAX_PAYLOAD", "TRAILER_SIZE", "VERSION", "Damaged", "Decoder", "Envelope", "Problem",
    "encode",
]  # fmt: skip

MAGIC = b"\xe3\x30"
"""Bytes that begin every message."""
VERSION = 1
"""Version of the control protocol."""
HEADER_SIZE = 16
"""Bytes of the header of a message."""
TRAILER_SIZE = 4
"""Bytes of the checksum that ends a message."""
MAX_PAYLOAD = 4096
"""Bytes of the longest payload."""

_HEADER = struct.Struct("<2sBBHHHHH")
_CRC16 = struct.Struct("<H")
_WHOLE_HEADER = struct.Struct(_HEADER.format + "H")
_CRC32 = struct.Struct("<I")
_KINDS = {int(each): each for each in Kind}
_STATES = {int(each): each for each in Status}
_WAITS = {int(each): each for each in (Wait.NOTHING, Wait.ALL)}


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message with its addressing.

    Parameters
    ----------
    kind : Kind
        Request, reply, pending or event.
    sequence : int
        Number of the request, 1 to 65535, repeated in its replies; 0 in events.
    opcode : int
        An `Opcode`, or a number that this version does not know.
    message : object
        An instance of a class of `firmware_protocol.messages`.
    flags : Wait
        What a request waits for.
    status : Status
        How a request ended; OK in everything but replies.
    """

    kind: Kind
    sequence: int
    opcode: int
    message: Any
    flags: Wait = Wait.NOTHING
    status: Status = Status.OK

    @classmethod
    def request(cls, sequence: int, message: Request[object], flags: Wait = Wait.NOTHING) -> Envelope:
        """Wrap a request."""
        return cls(Kind.REQUEST, sequence, message.opcode, message, flags)

    @classmethod
    def event(cls, message: Event) -> Envelope:
        """Wrap an event."""
        return cls(Kind.EVENT, 0, message.opcode, message)

    def reply(self, message: object) -> Envelope:
        """Wrap the OK reply to this request."""
        return Envelope(Kind.REPLY, self.sequence, self.opcode, message)

    def refuse(self, status: Status, refusal: Refusal) -> Envelope:
        """Wrap a refusal of this request."""
        return Envelope(Kind.REPLY, self.sequence, self.opcode, refusal, status=status)

    def pending(self, seconds: float) -> Envelope:
        """Wrap the news that this request takes about `seconds` more."""
        return Envelope(Kind.PENDING, self.sequence, self.opcode, Pending(seconds))


class Problem(enum.Enum):
    """What is wrong with a message whose header is intact."""

    CHECKSUM = "its payload is damaged (CRC-32)"
    LAYOUT = "its payload does not fit its layout"
    VERSION = "it is of another protocol version"
    KIND = "it is of an unknown kind"
    OVERSIZE = f"its payload is longer than {MAX_PAYLOAD} bytes"


@dataclass(frozen=True, slots=True)
class Damaged:
    """A message that cannot be used, though its header is intact and says what it would have been."""

    problem: Problem
    version: int
    kind: int
    sequence: int
    opcode: int
    detail: str = ""


def encode(envelope: Envelope) -> bytes:
    """Return the bytes of one message; raises `PayloadError` when a value, or the whole payload, does not fit."""
    message = envelope.message
    payload = message.payload if isinstance(message, Unknown) else encode_payload(message)
    if len(payload) > MAX_PAYLOAD:
        raise PayloadError(f"{type(message).__name__} takes {len(payload)} bytes, the limit is {MAX_PAYLOAD}")
    try:
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            envelope.kind,
            envelope.sequence,
            envelope.opcode,
            envelope.flags,
            envelope.status,
            len(payload),
        )
    except struct.error as error:
        raise PayloadError(f"the header cannot carry {envelope!r}: {error}") from error
    body = header + _CRC16.pack(binascii.crc_hqx(header, 0xFFFF)) + payload
    return body + _CRC32.pack(zlib.crc32(body))


class Decoder:
    """Turns bytes, in whatever pieces they come, into messages.

    Bytes that belong to no message are dropped one by one until a header with a good checksum is found. The
    work is linear in the bytes fed.

    Attributes
    ----------
    discarded : int
        Bytes dropped so far.
    """

    def __init__(self) -> None:
        self.discarded = 0
        self._buffer = b""

    @property
    def waiting(self) -> int:
        """Bytes held of a message that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Envelope | Damaged]:
        """Take bytes; return the messages that they complete."""
        self._buffer = self._buffer + data if self._buffer else bytes(data)
        return self._scan(final=False)

    def abandon(self) -> list[Envelope | Damaged]:
        """Give up on the incomplete message at the head, after a silence, and return what follows it.

        A byte lost on a serial line would otherwise make the next message be taken for the rest of this one.
        """
        return self._scan(final=True)

    def _scan(self, final: bool) -> list[Envelope | Damaged]:
        items: list[Envelope | Damaged] = []
        buffer, position = self._buffer, 0
        while position < len(buffer):
            start = buffer.find(MAGIC, position)
            if start < 0:
                keep = not final and buffer[-1] == MAGIC[0]
                start = len(buffer) - keep
                self.discarded += start - position
                position = start
                break
            self.discarded += start - position
            position = start
            size, item = _take(buffer, start)
            if size == 0 and not final:
                break
            if item is not None:
                items.append(item)
            if size <= 0:
                self.discarded += 1
                size = 1
            position += size
        self._buffer = buffer[position:]
        return items


def _take(buffer: bytes, start: int) -> tuple[int, Envelope | Damaged | None]:
    """Return the size of the message at `start` (0: incomplete, -1: none there) and the message."""
    payload = start + HEADER_SIZE
    if len(buffer) < payload:
        return 0, None
    _, version, kind, sequence, opcode, flags, status, length, checksum = _WHOLE_HEADER.unpack_from(buffer, start)
    if binascii.crc_hqx(buffer[start : payload - _CRC16.size], 0xFFFF) != checksum:
        return -1, None
    if length > MAX_PAYLOAD:
        return -1, Damaged(Problem.OVERSIZE, version, kind, sequence, opcode, f"{length} bytes")
    end = payload + length
    if len(buffer) < end + TRAILER_SIZE:
        return 0, None
    if zlib.crc32(buffer[start:end]) != _CRC32.unpack_from(buffer, end)[0]:
        # Not skipped as a whole: where bytes were lost, the next message begins inside these.
        return -1, Damaged(Problem.CHECKSUM, version, kind, sequence, opcode)
    message = _open(version, kind, sequence, opcode, flags, status, buffer[payload:end])
    return length + HEADER_SIZE + TRAILER_SIZE, message


def _open(
    version: int, kind: int, sequence: int, opcode: int, flags: int, status: int, payload: bytes
) -> Envelope | Damaged:
    if version != VERSION:
        return Damaged(Problem.VERSION, version, kind, sequence, opcode, f"version {version}, not {VERSION}")
    known = _KINDS.get(kind)
    if known is None:
        return Damaged(Problem.KIND, version, kind, sequence, opcode, f"kind {kind}")
    try:
        state = _STATES.get(status)
        if state is None:
            state = Status(status)
        message_type = _message_type(known, opcode, state)
        message = Unknown(payload) if message_type is None else decode_payload(message_type, payload)
    except ValueError as error:
        return Damaged(Problem.LAYOUT, version, kind, sequence, opcode, str(error))
    return Envelope(known, sequence, opcode, message, _WAITS[flags] if flags in _WAITS else Wait(flags), state)


def _message_type(kind: Kind, opcode: int, status: Status) -> type | None:
    if kind is Kind.REQUEST:
        return messages.REQUESTS.get(opcode)
    if kind is Kind.PENDING:
        return Pending
    if kind is Kind.EVENT:
        return messages.EVENTS.get(opcode)
    return messages.REPLIES.get(opcode) if status is Status.OK else Refusal
