"""How long every part takes: networks, emulator, USB, control channel, whole runs."""

from __future__ import annotations

import dataclasses
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

import semdrivers
from firmware_protocol.messages import StartScan
from firmware_protocol.stream import crc32
from semdrivers.em30 import ControlLink, FrameOrder, ImageLink, open_tcp
from semdrivers.image import ScanMode
from semdrivers.links import parse_target
from semfocus_plugin import networks
from semfocus_plugin.networks import AENet, State, preprocess

__all__ = ["Figure", "measure"]

_SLICE, _FEWEST = 0.02, 5
"""Seconds that one of several calls is timed before the next has its turn, and how many turns each has at least."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure."""

    name: str  # What was measured
    unit: str  # ``"ms"``, ``"MB/s"``, or ``"×"`` for a ratio of two others
    # median, p90: Over the repetitions; p90 is the slow end
    median: float
    p90: float
    repetitions: int  # How often it was measured


def measure(seconds: float = 1.0, announce: Callable[[str], object] = lambda what: None) -> tuple[Figure, ...]:
    """Return all figures, each measured for about `seconds`."""
    figures: list[Figure] = []
    for part in (_compute, _control, _usb, _frames):
        announce(part.__name__.strip("_"))
        figures += part(seconds)
    return tuple(figures)


def _compute(seconds: float) -> Iterator[Figure]:
    """Time what autofocus computes for a frame of 320×240, step by step and as a whole."""
    shipped = networks.load()
    evaluator = shipped.evaluator
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (240, 320)).astype(np.uint8)
    prepared = preprocess(pixels, 5000.0)
    state = State()
    vector = state.update(15.0, 5.0, 0.3, 7.0, 5000.0)
    yield _time("preprocessing (median, normalisation)", lambda: preprocess(pixels, 5000.0), seconds)
    yield _time(
        "metrics (variance, entropy)",
        lambda: (networks.variance(prepared.unit), networks.entropy(prepared.unit)),
        seconds,
    )
    if isinstance(evaluator, AENet):
        yield _time("AENet", lambda: evaluator.maps(prepared.frames), seconds)
    yield _time("state", lambda: state.update(15.0, 5.0, 0.3, 7.0, 5000.0), seconds)
    controller = shipped.controller("depth-of-field")
    yield _time("ACNet", lambda: controller(vector), seconds)

    def whole() -> None:
        scored = evaluator(pixels, 5000.0)
        controller(state.update(15.0, scored.score, scored.variance, scored.entropy, 5000.0))

    yield _time("compute a frame (all of the above)", whole, seconds)


def _control(seconds: float) -> Iterator[Figure]:
    """Time a round trip on the control channel, and the same on a bare socket of this computer."""
    with _echo() as ping, _emulator() as (_, microscope):
        bare, whole = _alternately(seconds, ping, lambda: microscope.working_distance)
    yield _figure("bare socket ping", bare)
    yield _figure("control round trip (read working distance)", whole)
    yield _figure("control round trip, in bare pings beside it", _ratios(whole, bare), "×", 1.0)


def _frames(seconds: float) -> Iterator[Figure]:
    """Time frames: drawn by the emulator alone, and through instrument, USB and driver."""
    from semdrivers.emulator.physics import ElectronColumn, ScanConditions
    from semdrivers.emulator.specimens import make_specimen

    column = ElectronColumn(make_specimen("tin-balls", 1), seed=1, preset="typical")
    near = ScanConditions(15.0, 5000.0, 320, 240)
    truth = column.truth(near)
    for mode in (ScanMode.FAST, ScanMode.STANDARD):
        near = dataclasses.replace(near, width=mode.width, height=mode.height)
        count = iter(range(10**9))

        def draw(near: ScanConditions = near, count: Iterator[int] = count) -> None:
            number = next(count)
            place = truth.working_distance + (number % 9 - 4) * 2.0 * truth.depth_of_field
            column.render(dataclasses.replace(near, working_distance=place, frame_id=number))

        yield _time(f"emulator draws a {mode.name} frame", draw, seconds)
    with _emulator() as (_, microscope):
        places = itertools.cycle(microscope.working_distance + 0.02 * step for step in range(-4, 5))

        def move_and_acquire() -> None:
            microscope.working_distance = next(places)
            microscope.acquire()

        yield _time("move and acquire a FAST frame (emulator, USB, driver)", move_and_acquire, seconds)


def _usb(seconds: float) -> Iterator[Figure]:
    """Measure the image stream, with frames that cost nothing to draw, and a copy of as much with its CRC."""
    mode = ScanMode.SLOW
    ready = np.random.default_rng(1).integers(0, 256, (mode.height, mode.width)).astype(np.uint8)

    def beside_a_copy(name: str, acquire: Callable[[], object]) -> Iterator[Figure]:
        copied, took = _alternately(seconds, lambda: crc32(bytearray(ready.data)), acquire)
        for what, slices in (("a copy with its CRC-32, beside it", copied), (name, took)):
            figure = _figure(what, slices)
            fast, slow = (ready.size / 1e3 / each for each in (figure.median, figure.p90))
            yield Figure(what, "MB/s", fast, slow, figure.repetitions)
        slower = _figure("share of the rate of that copy", _ratios(took, copied), "×", 1.0)
        yield dataclasses.replace(slower, median=1 / slower.median, p90=1 / slower.p90)

    with _emulator() as (emulator, microscope):
        emulator.column.render = lambda conditions: ready
        yield from beside_a_copy(
            "SLOW frames through the driver, each a scan with all settings", lambda: microscope.acquire(mode)
        )
    with _emulator() as (emulator, microscope):
        emulator.column.render = lambda conditions: ready
        microscope.close()
        with _scanning(emulator.url, mode) as next_frame:
            yield from beside_a_copy("SLOW frames over the USB link alone, of one scan", next_frame)


@contextmanager
def _scanning(url: str, mode: ScanMode) -> Iterator[Callable[[], object]]:
    """Give a function that takes the next frame of a scan without end from the USB link."""
    address = urlsplit(url)
    transport = open_tcp(address.hostname or "", address.port or 0)
    with (
        ControlLink(transport, client_name="speed", name="EM-30") as control,
        closing(ImageLink(parse_target(parse_qs(address.query)["usb"][0]))) as images,
    ):
        control.request(StartScan(mode.width, mode.height, 8, 0))
        order = FrameOrder(0, 0.0, mode.width, mode.height, 0.0, mode.width * mode.height)
        yield lambda: images.acquire(lambda: order)


def _time(name: str, call: Callable[[], Any], seconds: float) -> Figure:
    (taken,) = _alternately(seconds, call)
    return _figure(name, taken)


def _alternately(seconds: float, *calls: Callable[[], Any]) -> list[list[list[float]]]:
    """Time calls side by side, each for about `seconds`; return the seconds of each, slice by slice.

    What else the computer does meets all of them then, so that their ratio says something on a busy one too.
    """
    slices: list[list[list[float]]] = [[] for _ in calls]
    for call in calls:
        call()
    until = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < until or len(slices[0]) < _FEWEST:
        for call, taken in zip(calls, slices, strict=True):
            taken.append([])
            end = time.perf_counter() + _SLICE
            while (began := time.perf_counter()) < end or not taken[-1]:
                call()
                taken[-1].append(time.perf_counter() - began)
    return slices


def _ratios(these: list[list[float]], those: list[list[float]]) -> NDArray[np.float64]:
    """Return the ratio of the medians in each slice."""
    return np.array([np.median(this) / np.median(that) for this, that in zip(these, those, strict=True)])


def _figure(name: str, taken: Sequence[Any] | NDArray[np.float64], unit: str = "ms", factor: float = 1e3) -> Figure:
    values = np.hstack([*taken]) * factor
    return Figure(name, unit, float(np.median(values)), float(np.quantile(values, 0.9)), values.size)


@contextmanager
def _emulator() -> Iterator[tuple[Any, Any]]:
    from semdrivers.emulator import Emulator

    with (
        Emulator(specimen="tin-balls", magnification=5000, seed=1, preset="typical") as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        yield emulator, microscope


@contextmanager
def _echo() -> Iterator[Callable[[], None]]:
    """Give a function that sends 16 bytes to an echo server of this computer and waits for them."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                while data := connection.recv(64):
                    connection.sendall(data)

        thread = threading.Thread(target=serve, name="echo", daemon=True)
        thread.start()
        with socket.create_connection(server.getsockname()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def ping() -> None:
                client.sendall(b"0123456789abcdef")
                client.recv(64)

            yield ping
        thread.join(timeout=1.0)
