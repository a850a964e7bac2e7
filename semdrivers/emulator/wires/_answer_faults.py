"""Faults of the control channel: answers lost, late, doubled, cut, glued together, damaged; a connection reset."""

from __future__ import annotations

from typing import NamedTuple

from firmware_protocol.control import Envelope, encode
from firmware_protocol.messages import Kind, Opcode
from semdrivers.emulator.wires._faults import Faults, Occasion

LATE = 1.5
"""Seconds by which a late answer is late: longer than a client waits before it repeats its request."""
PAUSE = 0.05
"""Seconds between the two pieces of an answer."""


class Delivery(NamedTuple):
    """How the bytes of a message leave."""

    now: bytes
    """At once."""
    rest: bytes = b""
    """After a pause, before anything else."""
    late: bytes = b""
    """Much later; other messages overtake it."""
    reset: bool = False
    """Whether the connection is reset."""


class FaultyLine:
    """Turns the messages of one connection into bytes.

    Parameters
    ----------
    faults : Faults
        Says which fault happens to which answer.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._kept = b""

    def deliver(self, envelope: Envelope) -> Delivery:
        """Return how a message leaves."""
        now, rest, late, reset = encode(envelope), b"", b"", False
        names: tuple[str, ...] = ()
        if envelope.kind is Kind.REPLY and envelope.opcode != Opcode.KEEP_ALIVE:
            names = self._faults.at(Occasion.ANSWER)
        for name in names:
            match name:
                case "control-lose":
                    now = b""
                case "control-late":
                    now, late = b"", now
                case "control-duplicate":
                    now += now
                case "control-split":
                    cut = 1 + self._faults.place(max(1, len(now) - 1))
                    now, rest = now[:cut], now[cut:]
                case "control-glue":
                    self._kept += now
                    return Delivery(b"")
                case "control-corrupt":
                    now = self._flipped(now)
                case "control-reset":
                    now, reset = b"", True
        if now:
            now, self._kept = self._kept + now, b""
        return Delivery(now, rest, late, reset)

    def _flipped(self, data: bytes) -> bytes:
        place = self._faults.place(8 * len(data) or 1)
        damaged = bytearray(data)
        if damaged:
            damaged[place // 8] ^= 1 << place % 8
        return bytes(damaged)
