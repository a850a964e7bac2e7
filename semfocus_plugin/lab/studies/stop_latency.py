"""How long a stop takes: from the call to the scan aborted and the beam blanked in the instrument, in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

import semdrivers
from firmware_protocol.messages import BeamChanged, ScanEnded
from firmware_protocol.profile import EM30
from semdrivers.emulator import Emulator
from semdrivers.errors import SemDriversError
from semdrivers.microscope import HasBeam, HasStop

__all__ = ["HEADINGS", "latencies", "table"]

HEADINGS = (
    "scan mode (frame)",
    "stop(): scan aborted and beam blanked",
    "stop(): the frame raises",
    "second client: scan aborted and beam blanked",
    "reading a value in the frame",
    "close() in the frame",
)
"""Headings of the table."""
_INTO_THE_FRAME = 0.15
_QUICK_BEAM = replace(EM30, beam_on_time=0.0)


def table(repeats: int) -> Iterator[tuple[str, ...]]:
    """Yield ms for every scan mode, the median and in brackets the longest of `repeats`; headings first."""
    yield HEADINGS
    for mode in (semdrivers.ScanMode.FAST, semdrivers.ScanMode.STANDARD, semdrivers.ScanMode.SLOW):
        frame_time, columns = latencies(mode, repeats)
        cells = (f"{median(each) * 1e3:.0f} ({max(each) * 1e3:.0f})" for each in columns)
        yield f"{mode.name} ({frame_time:.1f} s)", *cells


def latencies(mode: semdrivers.ScanMode, repeats: int) -> tuple[float, list[list[float]]]:
    """Return the seconds of a frame, and the seconds of each column of `HEADINGS` but the first.

    Parameters
    ----------
    mode : ScanMode
        Scanned when it is stopped.
    repeats : int
        Measurements of each column.
    """
    pixels = np.random.default_rng(1).integers(0, 256, (300, 400), np.uint8)
    columns: list[list[float]] = [[] for _ in HEADINGS[1:]]
    with Emulator(pixels, pixel_size=50.0, realtime=True, usb_port=0, profile=_QUICK_BEAM) as emulator:
        ended: dict[type, float] = {}
        emulator.instrument.listen(lambda event: ended.__setitem__(type(event), time.monotonic()))
        profile = emulator.instrument.profile.scan_mode(mode.width, mode.height)
        assert profile is not None

        def measured(act: Callable[[Any], object]) -> tuple[float, float, float]:
            """Return seconds to the stop in the instrument, to the end of the frame, and of the call."""
            emulator.instrument.set_beam(True)
            with semdrivers.connect(emulator.remote_url) as microscope:
                assert isinstance(microscope, HasBeam)
                assert isinstance(microscope, HasStop)
                microscope.beam_on = True  # returns once it is stable
                over: list[float] = []

                def scan() -> None:
                    with suppress(SemDriversError):
                        microscope.acquire(mode)
                    over.append(time.monotonic())

                thread = threading.Thread(target=scan)
                thread.start()
                while not emulator.instrument.status().scanning:
                    time.sleep(0.001)
                time.sleep(min(_INTO_THE_FRAME, profile.frame_time / 3))
                ended.clear()
                began = time.monotonic()
                act(microscope)
                called = time.monotonic() - began
                if ended.get(ScanEnded) is None:
                    microscope.stop()
                thread.join()
                halted = max(ended.get(ScanEnded, began), ended.get(BeamChanged, began)) - began
                return halted, over[0] - began, called

        for _ in range(repeats):
            halted, raised, _called = measured(lambda microscope: microscope.stop())
            columns[0].append(halted)
            columns[1].append(raised)
            columns[2].append(measured(lambda _: semdrivers.stop(emulator.remote_url))[0])
            columns[3].append(measured(lambda microscope: microscope.working_distance)[2])
            columns[4].append(measured(lambda microscope: microscope.close())[2])
        return profile.frame_time, columns
