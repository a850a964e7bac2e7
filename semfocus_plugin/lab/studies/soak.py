"""A day at the instrument on its own clock, with faults all along: what grows, and whether the focus holds."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import semdrivers
from firmware_protocol.messages import Parameter
from semdrivers.emulator import Emulator
from semdrivers.errors import SemDriversError
from semdrivers.microscope import HasBeam
from semfocus_plugin.lab.benchmark.figures import COLOURS, INK, new_figure, plain, write

__all__ = ["FAULTS", "HEADINGS", "Cycle", "cycles", "draw", "growth", "rows"]

FAULTS = (
    "beam-blanked", "charging-streaks", "control-corrupt", "control-duplicate", "control-glue", "control-late",
    "control-lose", "control-reset", "control-split", "refuse-busy", "usb-drop", "usb-duplicate", "usb-flip",
    "usb-reorder", "usb-replug", "usb-stale", "usb-stall", "usb-timeout", "usb-truncate", "usb-zero",
)  # fmt: skip
"""What goes wrong, each with a probability of 1 %, after which an instrument can go on by itself."""
HEADINGS = ("hours", "runs", "focused", "errors", "largest error, DoF", "memory, MB", "descriptors", "threads")
"""Headings of the table."""
_DRIFT = 1.0
"""nm/s by which the sample's height drifts: some depths of field in a day."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One focus and picture."""

    hours: float
    """On the instrument's clock."""
    status: str
    """Status of the result, or name of the error."""
    error: float | None
    """Distance of a focus from the true one, depths of field."""
    memory: float
    """Resident memory of this process, MB, once what is free has been given back."""
    descriptors: int
    threads: int


def cycles(hours: float, every: float, seed: int, progress: Callable[[Cycle], object]) -> list[Cycle]:
    """Focus, take a picture and wait, until the instrument's clock has run so long; the clock runs ahead of ours.

    Parameters
    ----------
    hours : float
        Of the instrument.
    every : float
        Minutes of the instrument between two runs.
    seed : int
        Random seed; fixes specimen, faults and noise.
    progress : callable
        Called with every `Cycle`.
    """
    faults = ",".join(f"{name}:0.01" for name in FAULTS)
    done: list[Cycle] = []
    with Emulator(
        "tin-balls", magnification=5000, seed=seed, usb_port=0, faults=faults, height_drift=_DRIFT
    ) as emulator:
        clock = emulator.instrument.clock
        while clock.now() < hours * 3600:
            status, error = _focused(emulator)
            done.append(Cycle(clock.now() / 3600, status, error, *_resources()))
            progress(done[-1])
            clock.wait_until(clock.now() + every * 60)
    return done


def _focused(emulator: Emulator) -> tuple[str, float | None]:
    """Connect anew, as a script of an unattended night does, focus and take a picture."""
    try:
        with semdrivers.connect(emulator.remote_url) as microscope:
            if isinstance(microscope, HasBeam) and not microscope.beam_on:
                microscope.beam_on = True
            result = semdrivers.autofocus(microscope, max_travel=1.0, learn_aperture=False)
            truth = emulator.truth
            now = emulator.instrument.value(Parameter.WORKING_DISTANCE)
            error = abs(now - truth.working_distance) / truth.depth_of_field if result.focused else None
            microscope.acquire()
            return result.status, error
    except SemDriversError as error:
        return type(error).__name__, None


def _resources() -> tuple[float, int, int]:
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what glibc keeps for the next call is no leak
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return memory, len(os.listdir("/proc/self/fd")), threading.active_count()
    return 0.0, 0, threading.active_count()


def rows(done: Sequence[Cycle], parts: int = 8) -> Iterator[tuple[str, ...]]:
    """Yield the table of a soak, a row for each part of the time, headings first."""
    yield HEADINGS
    last = done[-1].hours
    for part in range(parts):
        some = [each for each in done if part <= each.hours / last * parts < part + 1 + (part == parts - 1)]
        if some:
            errors = [each.error for each in some if each.error is not None]
            focused = sum(each.status == "focused" for each in some)
            failed = sum(each.status not in ("focused", "refused") for each in some)
            figures = (
                f"{some[-1].hours:.1f}",
                *map(str, (len(some), focused, failed)),
                f"{max(errors):.2f}" if errors else "",
                f"{max(each.memory for each in some):.0f}",
                f"{max(each.descriptors for each in some)}",
                f"{max(each.threads for each in some)}",
            )
            yield figures


def growth(done: Sequence[Cycle]) -> list[str]:
    """Return what is larger in the last quarter than in the third: memory by 1.5 MB, descriptors or threads at all.

    In the first half the caches of emulator and networks fill, which are bounded.
    """
    quarter = len(done) // 4
    if not quarter:
        return []
    third, last = done[-2 * quarter : -quarter], done[-quarter:]
    return [
        name
        for name, allowed in (("memory", 1.5), ("descriptors", 0), ("threads", 0))
        if median(getattr(each, name) for each in last) > median(getattr(each, name) for each in third) + allowed
    ]


def draw(done: Sequence[Cycle], path: Path) -> Path:
    """Draw memory, descriptors with threads, and the errors of the foci against the instrument's hours, as PNG."""
    figure, (memory, handles, focus) = new_figure(3, 1, 6.0, 6.0)
    hours = [each.hours for each in done]
    memory.plot(hours, [each.memory for each in done], color=COLOURS[0], linewidth=1)
    memory.set_ylabel("memory, MB", color=INK)
    memory.set_ylim(bottom=0)
    handles.plot(hours, [each.descriptors for each in done], color=COLOURS[0], linewidth=1, label="descriptors")
    handles.plot(hours, [each.threads for each in done], color=COLOURS[3], linewidth=1, label="threads")
    handles.set_ylim(bottom=0)
    handles.legend(frameon=False, fontsize=8)
    focused = [(each.hours, each.error) for each in done if each.error is not None]
    focus.plot([hour for hour, _ in focused], [error for _, error in focused], "o", color=COLOURS[0], markersize=2)
    focus.axhline(2.0, color=INK, linewidth=0.8)
    focus.set_ylabel("error, DoF", color=INK)
    focus.set_xlabel("hours of the instrument", color=INK)
    for each in (memory, handles, focus):
        plain(each)
    return write(figure, path)
