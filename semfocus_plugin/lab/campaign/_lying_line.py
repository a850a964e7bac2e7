"""A line between a client and an instrument on which some of the instrument's answers are replaced by others.

Checksums are right: only the contents, the addressing or the moment of an answer is wrong.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np

from firmware_protocol.control import Decoder, Envelope, encode
from firmware_protocol.messages import Done, Kind, Opcode, Pending, Refusal, Status
from firmware_protocol.payload import PayloadError

__all__ = ["LyingLine"]

_SHARE = 0.08
"""Share of the answers that are lies."""
_CHUNK = 65536


class LyingLine:
    """Listens on a loopback port, and passes everything on to another; for as long as the `with` statement.

    Parameters
    ----------
    target : int
        Loopback port of the honest instrument.
    run : tuple of int
        Number of the run and seed of the campaign; they fix which answers are replaced, and by what.
    """

    def __init__(self, target: int, run: tuple[int, int]) -> None:
        self._target = target
        self._random = np.random.default_rng([run[0], 3, run[1]])
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.lies: list[str] = []
        """What was done, in order."""

    def __enter__(self) -> LyingLine:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, body: Any, *arguments: object) -> None:
        thread = threading.Thread(target=body, args=arguments, name="lying line", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += client, server
                self._start(self._pass_on, client, server)
                self._start(self._answer, server, client)

    @staticmethod
    def _pass_on(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _answer(self, source: socket.socket, sink: socket.socket) -> None:
        decoder = Decoder()
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                for item in decoder.feed(data):
                    if isinstance(item, Envelope):
                        sink.sendall(self._passed(item))
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _passed(self, honest: Envelope) -> bytes:
        """Return the bytes that are passed on instead of a message."""
        if honest.kind is not Kind.REPLY or self._random.random() >= _SHARE:
            return encode(honest)
        kind = str(self._random.choice(["value", "value", "value", "opcode", "sequence", "status", "pending", "late",
                                        "lost", "twice", "payload"]))  # fmt: skip
        self.lies.append(f"{kind} of {honest.message}")
        try:
            return self._lie(kind, honest)
        except PayloadError:
            return b""

    def _lie(self, kind: str, honest: Envelope) -> bytes:
        random = self._random
        match kind:
            case "value":
                return encode(dataclasses.replace(honest, message=_other_value(honest.message, random)))
            case "opcode":
                opcode = int(random.choice([each for each in Opcode if each & 0xFF < 0x80 and each != honest.opcode]))
                message = honest.message if honest.opcode == opcode else Done(1.0)
                return encode(dataclasses.replace(honest, opcode=opcode, message=message))
            case "sequence":
                return encode(dataclasses.replace(honest, sequence=int(random.integers(1, 0x10000))))
            case "status":
                status = Status(int(random.integers(1, len(Status))))
                return encode(dataclasses.replace(honest, status=status, message=Refusal(text="a lie")))
            case "pending":
                seconds = float(random.choice([0.0, 3.0, 1e9, math.inf, math.nan, -1.0]))
                return encode(Envelope(Kind.PENDING, honest.sequence, honest.opcode, Pending(seconds)))
            case "late":
                time.sleep(float(random.uniform(0.1, 1.5)))
                return encode(honest)
            case "twice":
                return encode(honest) * 2
            case "payload":
                message = Refusal(text="x" * int(random.integers(0, 300)))
                return encode(dataclasses.replace(honest, message=message))
        return b""


def _other_value(message: Any, random: np.random.Generator) -> Any:
    """Return a message with another value of one field, in records that it holds too."""
    name = str(random.choice([field.name for field in dataclasses.fields(message)]))
    return dataclasses.replace(message, **{name: _other(getattr(message, name), random)})


def _other(value: Any, random: np.random.Generator) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return float(
            random.choice([math.nan, math.inf, -math.inf, 0.0, -value, value * 1000, value / 1000, value + 0.3])
        )
    if isinstance(value, str):
        return str(random.choice(["", "another", value * 3]))
    if isinstance(value, tuple):
        if not value:
            return value
        place = int(random.integers(len(value)))
        lie = () if random.random() < 0.3 else (_other_value(value[place], random),)
        return (*value[:place], *lie, *value[place + 1 :])
    if isinstance(value, enum.Enum):
        others = list(type(value))
        return others[int(random.integers(len(others)))]
    return int(random.choice([0, 1, value + 1, value ^ 2]))
