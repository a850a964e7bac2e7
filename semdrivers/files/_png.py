"""Strips of a large PNG file, one after another, since Pillow would hold all of it beside what is made of it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel for each colour type."""

_PIECE = 2**16
"""Bytes of compressed data that are taken at a time."""


def png_strips(path: Path, lines: int) -> Iterator[Any] | None:
    """Return the strips of a PNG file as Pillow's pictures, from the top; None for a kind that is not read so.

    A line refers to the one above it. So each strip becomes a PNG file that begins with the last line of the strip
    above, as it is, and Pillow undoes the filters.

    Parameters
    ----------
    path : Path
        File. A picture of less than 8 bits, of 16 bits with colours or of interlaced lines is not read so.
    lines : int
        Lines of a strip.
    """
    with path.open("rb") as file:
        start = file.read(len(_SIGNATURE) + 8 + 13)
    if len(start) < len(_SIGNATURE) + 8 + 13 or not start.startswith(_SIGNATURE):
        return None
    size, (depth, colour, _, _, interlaced) = start[-13:-5], start[-5:]
    if interlaced or colour not in _CHANNELS or (depth != 8 and (depth, colour) != (16, 0)):
        return None
    return _strips(path, _whole(size[:4]), _whole(size[4:]), depth, colour, lines)


def _strips(path: Path, width: int, height: int, depth: int, colour: int, lines: int) -> Iterator[Any]:
    from PIL import Image as Pillow

    line = 1 + width * _CHANNELS[colour] * depth // 8
    palette, packed, data = b"", zlib.decompressobj(), bytearray()
    above, top = b"", 0
    with path.open("rb") as file:
        for kind, body in _pieces(file):
            if kind in (b"PLTE", b"tRNS"):
                palette += _chunk(kind, body)
            if kind != b"IDAT":
                continue
            data += packed.decompress(body)
            while top < height and len(data) >= (count := min(lines, height - top)) * line:
                size = _four(width) + _four(count + bool(above)) + bytes((depth, colour, 0, 0, 0))
                filtered = zlib.compress(above + data[: count * line], 0)
                made = _SIGNATURE + _chunk(b"IHDR", size) + palette + _chunk(b"IDAT", filtered) + _chunk(b"IEND", b"")
                with Pillow.open(io.BytesIO(made)) as picture:
                    strip = picture.crop((0, bool(above), width, picture.height))
                del data[: count * line]
                last = strip.crop((0, count - 1, width, count))
                above, top = b"\0" + last.tobytes("raw", "I;16B" if depth == 16 else last.mode), top + count
                yield strip
    if top < height or not packed.eof:
        raise ValueError(f"the data end before line {top + len(data) // line} of {height}")


def _pieces(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a file with their kind; those of pixels, which may be as large as the file, in pieces."""
    file.seek(len(_SIGNATURE))
    while len(head := file.read(8)) == 8:
        left, kind, check = _whole(head[:4]), head[4:], zlib.crc32(head[4:])
        while left:
            piece = file.read(min(left, _PIECE if kind == b"IDAT" else left))
            if not piece:
                return
            left, check = left - len(piece), zlib.crc32(piece, check)
            yield kind, piece
        if file.read(4) != _four(check):
            raise ValueError(f"a chunk {kind!r} is damaged")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return _four(len(body)) + kind + body + _four(zlib.crc32(kind + body))


def _whole(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _four(number: int) -> bytes:
    return number.to_bytes(4, "big")
