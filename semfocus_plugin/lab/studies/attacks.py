"""How long the client in control waits for an answer while others attack the emulator's ports.

Emulator, attackers and owner are three processes, so that none waits for the lock of another's interpreter.
"""

from __future__ import annotations

import multiprocessing
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

import semdrivers
from firmware_protocol.bridge import GREETING
from firmware_protocol.control import VERSION, Envelope, encode
from firmware_protocol.messages import Authenticate, GetParameter, Hello, Parameter, Request, Subscribe
from semdrivers.emulator import Emulator

__all__ = ["ATTACKS", "HEADINGS", "latencies", "table"]

HEADINGS = ("attack", "round trips", "median", "99 of 100 within", "longest", "longest frame")
"""Headings of the table."""
_WARM = 0.5
"""Seconds that an attack has before anything is measured."""


def table(seconds: float) -> Iterator[tuple[str, ...]]:
    """Yield the owner's milliseconds under every attack, headings first."""
    yield HEADINGS
    for name in ATTACKS:
        trips, frames = latencies(name, seconds)
        median, most, longest = (1e3 * float(each) for each in (np.median(trips), np.quantile(trips, 0.99), max(trips)))
        figures = (f"{each:.1f}" for each in (median, most, longest, 1e3 * max(frames)))
        yield name, str(len(trips)), *figures


def latencies(name: str, seconds: float) -> tuple[list[float], list[float]]:
    """Return the seconds of every round trip on the control channel, and of every frame, under an attack.

    Parameters
    ----------
    name : str
        Key of `ATTACKS`.
    seconds : float
        About how long the owner is measured.
    """
    context = multiprocessing.get_context("spawn")
    trips: list[float] = []
    frames: list[float] = []
    with _process(context, _serve) as url, semdrivers.connect(url) as microscope:
        parts = urlsplit(url)
        bridge = urlsplit(parse_qs(parts.query)["usb"][0]).port
        with _process(context, _attack, name, parts.port, bridge):
            time.sleep(_WARM)
            end = time.monotonic() + seconds
            while time.monotonic() < end or not frames:
                began = time.perf_counter()
                microscope.working_distance  # noqa: B018 - a round trip
                trips.append(time.perf_counter() - began)
                if len(trips) % 50 == 0:
                    began = time.perf_counter()
                    microscope.acquire()
                    frames.append(time.perf_counter() - began)
    return trips, frames


@contextmanager
def _process(context: Any, body: Callable[..., object], *arguments: object) -> Iterator[Any]:
    """Run something in a process of its own for as long as the block, and yield what it says first."""
    ours, theirs = context.Pipe()
    process = context.Process(target=body, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()
        process.close()


def _serve(connection: Connection) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400), np.uint8)
    with Emulator(pixels, pixel_size=50.0, usb_port=0) as emulator:
        connection.send(emulator.remote_url)
        connection.recv()


def _attack(connection: Connection, name: str, port: int, bridge: int) -> None:
    import resource  # not on Windows

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    connection.send("begins")
    ATTACKS[name](port, bridge)


def _open(port: int) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", port), 2.0)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def _requests(messages: Iterator[Request[Any]]) -> bytes:
    return b"".join(encode(Envelope.request(number, each)) for number, each in enumerate(messages, 1))


def _hello(number: int = 1) -> Hello:
    return Hello(VERSION, VERSION, number, True, "attacker")


def _nothing(_port: int, _bridge: int) -> None:
    time.sleep(3600)


def _idle(port: int, bridge: int) -> None:
    """Hold 1 200 connections that say nothing, half of them at the bridge, and open those anew that were cut."""
    held: list[socket.socket] = []
    for number in count():
        with suppress(OSError):
            held.append(_open(bridge if number % 2 else port))
        if len(held) > 1200:
            held.pop(0).close()
            time.sleep(0.001)


def _again(port: int, data: bytes) -> None:
    """Send the same bytes over and over, with 16 clients, and connect anew when cut."""
    lines: list[socket.socket] = []
    while True:
        while len(lines) < 16:
            with suppress(OSError):
                lines.append(_open(port))
                lines[-1].setblocking(False)
        for one in list(lines):
            try:
                with suppress(BlockingIOError):
                    one.send(data)
                with suppress(BlockingIOError):
                    if not one.recv(1 << 20):
                        raise ConnectionResetError
            except OSError:
                one.close()
                lines.remove(one)


def _hellos(port: int, _bridge: int) -> None:
    _again(port, _requests(_hello(number) for number in range(1, 200)))


def _proofs(port: int, _bridge: int) -> None:
    _again(port, _requests(Authenticate(1, "00" * 32) for _ in range(100)))


def _queries(port: int, _bridge: int) -> None:
    asked = (GetParameter(Parameter.WORKING_DISTANCE) for _ in range(200))
    _again(port, encode(Envelope.request(1, _hello())) + _requests(asked))


def _garbage(port: int, _bridge: int) -> None:
    _again(port, random.Random(1).randbytes(1 << 16))


def _false_headers(port: int, _bridge: int) -> None:
    _again(port, encode(Envelope.request(1, _hello()))[:16] * 4096)


def _storm(port: int, bridge: int) -> None:
    """Connect and hang up, at both ports."""
    for number in count():
        with suppress(OSError):
            _open(bridge if number % 2 else port).close()


def _slow(port: int, bridge: int) -> None:
    """Ask for much and fetch nothing, with 60 clients, and greet the bridge with half a greeting."""
    asked = _requests(iter([_hello(), Subscribe(True), *[GetParameter(Parameter.MAGNIFICATION)] * 2000]))
    held: list[socket.socket] = []
    for number in count():
        with suppress(OSError):
            held.append(_open(bridge if number % 4 == 0 else port))
            held[-1].setblocking(False)
            held[-1].send(GREETING[:3] if number % 4 == 0 else asked)
        if len(held) > 60:
            held.pop(0).close()
            time.sleep(0.01)


ATTACKS: dict[str, Callable[[int, int], None]] = {
    "none": _nothing,
    "1 200 idle connections at both ports": _idle,
    "16 clients flood HELLO": _hellos,
    "16 clients flood wrong proofs of a token": _proofs,
    "16 observers flood queries": _queries,
    "16 clients flood random bytes": _garbage,
    "16 clients flood headers without payload": _false_headers,
    "connections opened and closed at both ports": _storm,
    "60 clients that fetch nothing": _slow,
}
"""What others do meanwhile."""
