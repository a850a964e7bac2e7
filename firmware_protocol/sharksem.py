"""SharkSEM, TESCAN's remote control, as bytes: messages of the control and of the data connection.

Written from the public description. A message is a head of 32 bytes and a body, little-endian, both ways. In the body
the results come first, then the arguments, left to right: whole numbers of four bytes; texts and arrays as a count of
bytes, the bytes, and zeros up to a multiple of four; numbers with a fraction as decimal text that ends in NUL. The
count includes the padding or not: both are read, and it is written without. Nothing in here does any I/O.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "CONTROL_PORT", "HEAD_SIZE", "LARGEST_BODY", "Flags", "Message", "Pixels", "Reader", "Value", "decode_head",
    "decode_pixels", "encode", "encode_pixels", "entries", "parse_map", "write_map",
]  # fmt: skip

CONTROL_PORT = 8300
"""TCP port of the control connection; the data connection has the next one."""

LARGEST_BODY = 1 << 26
"""Bytes of the largest body that is believed; a larger one is no message of this protocol."""

_HEAD = struct.Struct("<16sIIHHI")
_WORD = struct.Struct("<I")
_SIGNED = struct.Struct("<i")
_PIXELS = struct.Struct("<IiIi")
HEAD_SIZE = _HEAD.size
"""Bytes of the head of a message."""

Value = int | float | str | bytes
"""An argument or a result: a whole number, a number with a fraction, a text, an array of bytes."""


class Flags(enum.IntFlag):
    """What a message asks for: an answer in any case, and what the server waits for before it obeys."""

    NONE = 0
    ANSWER = 1 << 0
    JUMP_QUEUE = 1 << 1
    WAIT_SCAN = 1 << 8
    WAIT_STAGE = 1 << 9
    WAIT_OPTICS = 1 << 10
    WAIT_PROCEDURE = 1 << 11


@dataclass(frozen=True, slots=True)
class Message:
    """A message without its body.

    Parameters
    ----------
    name : str
        Name of the command, at most 15 characters.
    size : int
        Bytes of the body.
    number : int
        The answer has the number of its command.
    flags : Flags
        See there.
    """

    name: str
    size: int
    number: int
    flags: Flags = Flags.NONE


@dataclass(frozen=True, slots=True)
class Pixels:
    """A piece of a frame, as the message ``ScData`` brings it.

    Parameters
    ----------
    frame : int
        The number that the scan was started with.
    channel : int
        Channel of the detectors.
    first : int
        Index of the first pixel in the part of the window that is scanned, line by line.
    bits : int
        8 or 16.
    pixels : bytes
        Grey levels, little-endian.
    """

    frame: int
    channel: int
    first: int
    bits: int
    pixels: bytes


def encode(name: str, values: Sequence[Value] = (), *, number: int = 0, flags: Flags = Flags.NONE) -> bytes:
    """Return the bytes of a message.

    Raises
    ------
    ValueError
        When the name is longer than 15 characters or not ASCII.
    """
    raw = name.encode("ascii")
    if not 0 < len(raw) < 16:
        raise ValueError(f"the name of a command must have 1 to 15 characters, not {name!r}")
    body = b"".join(map(_encoded, values))
    return _HEAD.pack(raw, len(body), number, int(flags), 0, 0) + body


def decode_head(head: bytes) -> Message:
    """Return what the first `HEAD_SIZE` bytes of a message say.

    Raises
    ------
    ValueError
        When they are no head.
    """
    if len(head) != HEAD_SIZE:
        raise ValueError(f"a head has {HEAD_SIZE} bytes, not {len(head)}")
    raw, size, number, flags, _, _ = _HEAD.unpack(head)
    name, _, rest = raw.partition(b"\0")
    if not name or not name.isascii() or not name.decode("ascii").isprintable() or rest.strip(b"\0"):
        raise ValueError(f"{raw!r} is no name of a command")
    if size > LARGEST_BODY:
        raise ValueError(f"a body of {size} bytes is larger than any of this protocol")
    return Message(name.decode("ascii"), size, number, Flags(flags))


class Reader:
    """Reads the values of a body, one after another.

    Parameters
    ----------
    body : bytes
        Body of a message.
    """

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return max(len(self._body) - self._at, 0)

    def unsigned(self) -> int:
        """Return a whole number from 0. Raises ValueError when the body ends before; so do the others."""
        return int(_WORD.unpack(self._take(4))[0])

    def integer(self) -> int:
        """Return a whole number, negative ones included."""
        return int(_SIGNED.unpack(self._take(4))[0])

    def array(self) -> bytes:
        """Return an array of bytes; its padding is skipped, where it is not part of it."""
        count = self.unsigned()
        data = self._take(count)
        self._at += -count % 4
        return data

    def text(self) -> str:
        """Return a text, without the NUL at its end."""
        return self.array().partition(b"\0")[0].decode("utf-8", "replace")

    def number(self) -> float:
        """Return a finite number with a fraction, sent as decimal text."""
        text = self.text()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is no number")
        return value

    def _take(self, count: int) -> bytes:
        if count > self.left:
            raise ValueError(f"the body ends after {len(self._body)} bytes, within a value of {count}")
        data = self._body[self._at : self._at + count]
        self._at += count
        return data


def parse_map(text: str) -> dict[str, str]:
    """Return the entries of a map, which is sent as lines ``key=value``; other lines are skipped."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def write_map(values: dict[str, object]) -> str:
    """Return a map as the text in which it is sent."""
    return "".join(f"{key}={value}\n" for key, value in values.items())


def entries(values: dict[str, str], prefix: str) -> list[dict[str, str]]:
    """Return what a map lists under a prefix: ``det.0.name=SE`` and ``det.0.detector=1`` are one entry of ``det``.

    Each entry has its number in the list under ``""``, too.
    """
    groups: dict[int, dict[str, str]] = {}
    for key, value in values.items():
        parts = key.split(".", 2)
        if len(parts) == 3 and parts[0] == prefix and parts[1].isdecimal():
            groups.setdefault(int(parts[1]), {"": parts[1]})[parts[2]] = value
    return [groups[number] for number in sorted(groups)]


def encode_pixels(piece: Pixels) -> bytes:
    """Return the bytes of the message ``ScData`` for a piece of a frame."""
    head = _PIXELS.pack(piece.frame, piece.channel, piece.first, piece.bits)
    body = head + _array(piece.pixels)
    return _HEAD.pack(b"ScData", len(body), 0, 0, 0, 0) + body


def decode_pixels(body: bytes) -> Pixels:
    """Return the piece of a frame that a body of ``ScData`` holds.

    Raises
    ------
    ValueError
        When it ends too early, or the depth is neither 8 nor 16 bit.
    """
    reader = Reader(body)
    frame, channel, first, bits = reader.unsigned(), reader.integer(), reader.unsigned(), reader.integer()
    if bits not in (8, 16):
        raise ValueError(f"pixels of {bits} bit; there are 8 and 16")
    return Pixels(frame, channel, first, bits, reader.array())


def _encoded(value: Value) -> bytes:
    match value:
        case bool():
            return _WORD.pack(int(value))
        case int():
            return _SIGNED.pack(value) if value < 0 else _WORD.pack(value)
        case float():
            return _array(f"{value:.9g}".encode("ascii") + b"\0")
        case str():
            return _array(value.encode("utf-8") + b"\0")
    return _array(value)


def _array(data: bytes) -> bytes:
    return _WORD.pack(len(data)) + data + bytes(-len(data) % 4)
