"""Frames out of the bytes of the image stream, whatever has happened to them on the way.

Nothing here does I/O: the assembler is fed whatever arrived, in pieces of any size, and says what it makes of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from firmware_protocol import stream
from firmware_protocol.stream import Buffer, FrameStatus, Leader, StreamError, Trailer

__all__ = ["Defect", "Frame", "FrameAssembler"]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame that arrived whole: lengths, ids and every CRC agree, status OK.

    Parameters
    ----------
    leader : Leader
        What preceded it.
    payload : buffer
        Pixels, line by line; the very object that was fed when it was fed in one piece.
    trailer : Trailer
        What followed it.
    """

    leader: Leader
    payload: Buffer
    trailer: Trailer


@dataclass(frozen=True, slots=True)
class Defect:
    """Something on the stream that was no good frame.

    Parameters
    ----------
    reason : str
        For a person.
    frame_id : int or None
        The frame that arrived damaged; None when something else is wrong.
    lost : int
        How many frames are missing for certain.
    """

    reason: str
    frame_id: int | None = None
    lost: int = 0


class FrameAssembler:
    """Frames out of a byte stream that may be cut anywhere, damaged anywhere, and joined in the middle.

    After damage it searches the next leader, so that one bad frame costs one frame. A payload that is fed in
    one piece, just when it is due, is kept by reference: no byte of it is copied.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._leader: Leader | None = None
        self._payload: Buffer | None = None
        self._payload_crc = 0
        self._skipped = 0
        self._expected: int | None = None

    @property
    def due(self) -> int:
        """Bytes to the end of the part (leader, payload or trailer) that is due; never less than 1."""
        if self._leader is None:
            return max(1, stream.LEADER_SIZE - len(self._held))
        if self._payload is None:
            return self._leader.payload_length - len(self._held)
        return stream.TRAILER_SIZE - len(self._held)

    def clear(self) -> None:
        """Forget a frame begun and the frame count, as after a reset of the other side."""
        self.__init__()  # type: ignore[misc]

    def feed(self, data: Buffer) -> list[Frame | Defect]:
        """Take bytes as they came, and return what they complete, in order: frames, and reports of what is wrong.

        `data` must not be changed afterwards: a frame may refer to it.
        """
        whole = self._payload is None and not self._held
        if whole and self._leader is not None and len(data) == self._leader.payload_length:
            self._take_payload(data)
            return []
        self._held += data
        completed: list[Frame | Defect] = []
        while (outcome := self._advance()) is not None:
            completed += outcome
        return completed

    def _advance(self) -> list[Frame | Defect] | None:
        """Take one step; None when more bytes are needed."""
        if self._leader is None:
            return self._seek_leader()
        if self._payload is None:
            length = self._leader.payload_length
            if len(self._held) < length:
                return None
            self._take_payload(bytearray(memoryview(self._held)[:length]))
            del self._held[:length]
        if len(self._held) < stream.TRAILER_SIZE:
            return None
        assert self._payload is not None
        return self._finish(self._leader, self._payload)

    def _take_payload(self, payload: Buffer) -> None:
        """Keep the payload, and compute its CRC while the trailer is on its way."""
        self._payload, self._payload_crc = payload, stream.crc32(payload)

    def _seek_leader(self) -> list[Frame | Defect] | None:
        held = self._held
        at = held.find(stream.LEADER_MAGIC)
        if at < 0:
            at = max(0, len(held) - len(stream.LEADER_MAGIC) + 1)
            while not stream.LEADER_MAGIC.startswith(bytes(held[at:])):
                at += 1
        self._drop(at)
        if len(held) < stream.LEADER_SIZE:
            return None
        try:
            leader = Leader.decode(bytes(held[: stream.LEADER_SIZE]))
        except StreamError:
            self._drop(1)
            return []
        del held[: stream.LEADER_SIZE]
        defects: list[Frame | Defect] = []
        if self._skipped:
            defects.append(Defect(f"skipped {self._skipped} bytes in search of a leader"))
            self._skipped = 0
        if self._expected is not None and leader.frame_id != self._expected:
            defects.append(self._gap(self._expected, leader.frame_id))
        self._leader = leader
        self._expected = leader.frame_id + 1
        return defects

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._skipped += count

    @staticmethod
    def _gap(expected: int, arrived: int) -> Defect:
        if arrived > expected:
            lost = arrived - expected
            return Defect(f"{lost} frames lost before frame {arrived}", lost=lost)
        return Defect(f"frame {arrived} came where frame {expected} was due")

    def _finish(self, leader: Leader, payload: Buffer) -> list[Frame | Defect]:
        name = f"frame {leader.frame_id}"
        tail = bytes(self._held[: stream.TRAILER_SIZE])
        self._leader = self._payload = None
        try:
            trailer = Trailer.decode(tail)
        except StreamError as error:
            # Bytes are missing or too many: the next leader may lie inside what was taken for pixels.
            self._held[:0] = bytes(payload)
            return [Defect(f"{name}: {error}", leader.frame_id, 1)]
        del self._held[: stream.TRAILER_SIZE]
        if trailer.frame_id != leader.frame_id:
            reason = f"the trailer is that of frame {trailer.frame_id}"
        elif trailer.status is not FrameStatus.OK:
            reason = f"the instrument marks it {trailer.status.name}"
        elif trailer.payload_crc != self._payload_crc:
            reason = "payload with a wrong CRC-32"
        else:
            return [Frame(leader, payload, trailer)]
        return [Defect(f"{name}: {reason}", leader.frame_id, 1)]
