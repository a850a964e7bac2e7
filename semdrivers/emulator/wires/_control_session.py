"""A client as the instrument knows it, and who may watch what clients and instrument say to each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from firmware_protocol.control import Damaged, Envelope


class Witness(Protocol):
    """Hears and sees everything that goes over the control channel."""

    def received(self, client: str, message: Envelope | Damaged) -> None:
        """Take note of what a client sent."""

    def sent(self, client: str, message: Envelope) -> None:
        """Take note of what a client was sent."""

    def answered(self, request: Envelope, reply: Envelope) -> None:
        """Take note of the answer to a new request of the owner."""


@dataclass(slots=True, eq=False)
class Session:
    """One client, as the instrument knows it."""

    send: Callable[[Envelope], None]
    heard: float
    client: str = ""
    token: int | None = None
    owner: bool = False
    subscribed: bool = False
    replies: OrderedDict[int, tuple[Envelope, Envelope | None]] = field(default_factory=OrderedDict)
