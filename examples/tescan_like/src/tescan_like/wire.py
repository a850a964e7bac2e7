"""What travels on the two sockets.

Control, text: a request is ``NUMBER COMMAND ARGUMENT…`` and a line feed; the answer begins with the same number,
then ``OK VALUE…`` or ``ERR CODE TEXT``. Data, binary: a picture comes as blocks of lines, in any order, each with a
header, its pixels and a CRC-32 of both. A data socket introduces itself with the token that the control socket was
given, and is answered ``OK``.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

MAGIC = b"LINE"
HEADER = struct.Struct("<4sIHHHHdd")
CHECK = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines of a picture: which scan, which lines, and the lens and field in force while they were scanned."""

    scan: int
    first: int
    lines: int
    width: int
    height: int
    working_distance: float
    view_field: float
    pixels: bytes


def encode(block: Block) -> bytes:
    """Return the bytes of a block."""
    head = HEADER.pack(
        MAGIC,
        block.scan,
        block.first,
        block.lines,
        block.width,
        block.height,
        block.working_distance,
        block.view_field,
    )
    body = head + block.pixels
    return body + CHECK.pack(zlib.crc32(body))


def block_size(head: bytes) -> int:
    """Return how many bytes follow a header; raises ValueError when it is none."""
    magic, _, first, lines, width, height, *_ = HEADER.unpack(head)
    if magic != MAGIC or not 0 < lines <= height or first + lines > height or not 0 < width <= 8192 or height > 8192:
        raise ValueError("no header of picture lines")
    return int(lines) * int(width) + CHECK.size


def decode(head: bytes, rest: bytes) -> Block:
    """Return the block; raises ValueError when its CRC-32 does not fit."""
    body = head + rest[: -CHECK.size]
    if CHECK.unpack(rest[-CHECK.size :])[0] != zlib.crc32(body):
        raise ValueError("picture lines were damaged on the way")
    _, scan, first, lines, width, height, working_distance, view_field = HEADER.unpack(head)
    return Block(scan, first, lines, width, height, working_distance, view_field, rest[: -CHECK.size])
