"""The image stream: leader, payload and trailer of a frame, as bytes.

Layouts are in the chapter *Image stream* of the specification, little endian. ``frame_assembly`` puts the
parts together again.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

__all__ = [
    "LEADER_MAGIC", "LEADER_SIZE", "MAX_PAYLOAD", "TRAILER_MAGIC", "TRAILER_SIZE", "VERSION", "Buffer", "FrameStatus",
    "Leader", "PixelFormat", "StreamError", "Trailer", "crc32", "encode_frame", "encode_parts",
]  # fmt: skip

VERSION = 1
"""Version of the image stream."""
LEADER_SIZE = 64
"""Bytes of a leader."""
TRAILER_SIZE = 32
"""Bytes of a trailer."""
MAX_PAYLOAD = 64 * 1024 * 1024
"""Bytes. A leader that announces more is a corrupted one, and is not waited for."""

LEADER_MAGIC = b"EM3L"
"""Bytes that begin a leader."""
TRAILER_MAGIC = b"EM3T"
"""Bytes that begin a trailer."""

_LEADER = struct.Struct("<4sBB2xQIHHddddI")
_TRAILER = struct.Struct("<4sBxHQdI")
_CRC = struct.Struct("<I")

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes, or a view of bytes."""


class StreamError(ValueError):
    """Bytes that are no leader or trailer, or values that fit into none."""


class PixelFormat(enum.IntEnum):
    """How a payload codes grey levels; the numbers are those of GenICam's naming convention (PFNC)."""

    MONO8 = 0x01080001
    MONO16 = 0x01100007

    @property
    def bytes_per_pixel(self) -> int:
        """1 or 2; two bytes are little endian."""
        return (self >> 16 & 0xFF) // 8


class FrameStatus(enum.IntEnum):
    """How a frame ended, as the trailer reports."""

    OK = 0
    ABORTED = 1
    OVERRUN = 2


def crc32(data: Buffer) -> int:
    """Return the CRC-32 (IEEE 802.3, as in zlib) of `data`."""
    return zlib.crc32(data)


@dataclass(frozen=True, slots=True)
class Leader:
    """What is known of a frame before its pixels.

    Parameters
    ----------
    frame_id : int
        The instrument's count of frames, as in the control channel's ``first_frame``.
    start_time : float
        Start of the scan, seconds on the instrument's clock.
    width, height : int
        Pixels.
    pixel_format : PixelFormat
        Coding of the payload.
    bits : int
        Significant bits of a pixel.
    working_distance : float
        mm, in force during the scan.
    magnification : float
        Plain number, in force during the scan.
    pixel_size : float
        nm.
    """

    frame_id: int
    start_time: float
    width: int
    height: int
    pixel_format: PixelFormat
    bits: int
    working_distance: float
    magnification: float
    pixel_size: float

    MAGIC: ClassVar[bytes] = LEADER_MAGIC

    @property
    def payload_length(self) -> int:
        """Bytes of the payload that follows."""
        return self.width * self.height * self.pixel_format.bytes_per_pixel

    def encode(self) -> bytes:
        """Return the 64 bytes; raises `StreamError` when a value does not fit into its field."""
        self._check(self.payload_length)
        try:
            shape = self.bits, self.frame_id, self.pixel_format, self.width, self.height
            conditions = self.start_time, self.working_distance, self.magnification, self.pixel_size
            body = _LEADER.pack(LEADER_MAGIC, VERSION, *shape, *conditions, self.payload_length)
        except struct.error as error:
            raise StreamError(f"leader of frame {self.frame_id}: {error}") from error
        return body + _CRC.pack(crc32(body))

    @classmethod
    def decode(cls, data: Buffer) -> Leader:
        """Return the leader that `data` holds; raises `StreamError` for wrong length, magic, CRC, version or value."""
        body = _checked(data, LEADER_SIZE, LEADER_MAGIC, "leader")
        _, _, bits, frame_id, code, width, height, start, distance, magnification, pixel, length = _LEADER.unpack(body)
        try:
            pixel_format = PixelFormat(code)
        except ValueError:
            raise StreamError(f"leader of frame {frame_id}: unknown pixel format 0x{code:08X}") from None
        leader = cls(frame_id, start, width, height, pixel_format, bits, distance, magnification, pixel)
        leader._check(length)
        return leader

    def _check(self, length: int) -> None:
        if not 1 <= self.bits <= 8 * self.pixel_format.bytes_per_pixel:
            raise StreamError(f"leader of frame {self.frame_id}: {self.bits} bits in {self.pixel_format.name} pixels")
        if length != self.payload_length or not 0 < length <= MAX_PAYLOAD:
            raise StreamError(
                f"leader of frame {self.frame_id}: payload of {length} bytes for "
                f"{self.width}×{self.height} pixels {self.pixel_format.name}"
            )


@dataclass(frozen=True, slots=True)
class Trailer:
    """What is known of a frame after its pixels.

    Parameters
    ----------
    frame_id : int
        As in the leader.
    status : FrameStatus
        How the frame ended.
    end_time : float
        End of the scan, seconds on the instrument's clock.
    payload_crc : int
        CRC-32 of the payload.
    """

    frame_id: int
    status: FrameStatus
    end_time: float
    payload_crc: int

    MAGIC: ClassVar[bytes] = TRAILER_MAGIC

    def encode(self) -> bytes:
        """Return the 32 bytes; raises `StreamError` when a value does not fit into its field."""
        try:
            body = _TRAILER.pack(TRAILER_MAGIC, VERSION, self.status, self.frame_id, self.end_time, self.payload_crc)
        except struct.error as error:
            raise StreamError(f"trailer of frame {self.frame_id}: {error}") from error
        return body + _CRC.pack(crc32(body))

    @classmethod
    def decode(cls, data: Buffer) -> Trailer:
        """Return the trailer that `data` holds; raises `StreamError` as `Leader.decode` does."""
        body = _checked(data, TRAILER_SIZE, TRAILER_MAGIC, "trailer")
        _, _, code, frame_id, end, payload_crc = _TRAILER.unpack(body)
        try:
            status = FrameStatus(code)
        except ValueError:
            raise StreamError(f"trailer of frame {frame_id}: unknown status {code}") from None
        return cls(frame_id, status, end, payload_crc)


def _checked(data: Buffer, size: int, magic: bytes, what: str) -> memoryview:
    view = memoryview(data)
    if len(view) != size:
        raise StreamError(f"a {what} has {size} bytes, not {len(view)}")
    if view[:4] != magic:
        raise StreamError(f"no {what}: it begins with {bytes(view[:4])!r}, not {magic!r}")
    body = view[: size - _CRC.size]
    if _CRC.unpack(view[size - _CRC.size :])[0] != crc32(body):
        raise StreamError(f"{what} with a wrong CRC-32")
    if view[4] != VERSION:
        raise StreamError(f"{what} of version {view[4]}; this side speaks version {VERSION}")
    return body


def encode_frame(
    leader: Leader, payload: Buffer, end_time: float, status: FrameStatus = FrameStatus.OK
) -> tuple[bytes, Buffer, bytes]:
    """Return the three transfers of a frame; the payload is passed through uncopied.

    Raises `StreamError` when it is not as long as the leader announces.
    """
    head, pixels, tail = encode_parts(leader, payload, end_time, status)
    return bytes(head), pixels, bytes(tail)


def encode_parts(
    leader: Leader, payload: Buffer, end_time: float, status: FrameStatus = FrameStatus.OK
) -> Iterator[Buffer]:
    """Yield the transfers of a frame one by one: the CRC of the payload is computed once that is under way.

    Raises as `encode_frame` does.
    """
    if len(payload) != leader.payload_length:
        raise StreamError(f"payload of {len(payload)} bytes for a leader that announces {leader.payload_length}")
    yield leader.encode()
    yield payload
    yield Trailer(leader.frame_id, status, end_time, crc32(payload)).encode()
