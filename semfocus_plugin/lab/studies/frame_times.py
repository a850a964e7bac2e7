"""Time a frame of the emulator: every specimen, FAST and STANDARD, preset typical, in focus and out of it.

Processor time of all threads together is measured, so a busy computer is no excuse and a second core no help.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from firmware_protocol.profile import EM30
from semdrivers.emulator.physics import ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import SPECIMENS, make_specimen

__all__ = ["AIMS", "frame_times", "processor", "tables"]

AIMS = {"FAST": 8.0, "STANDARD": 25.0}
"""Milliseconds a frame may take."""

# Depths of field from best focus; from the third on the blur is drawn on coarser grids
_DEFOCI = (0.0, 4.0, 12.0, 40.0)


def frame_times(name: str, mode: str, frames: int = 15) -> tuple[float, float]:
    """Return milliseconds of a frame (median, at the slowest of the defoci), and of the first frame of a new field."""
    scan = next(each for each in EM30.scan_modes if each.name == mode)
    column = ElectronColumn(make_specimen(name, 1), seed=1, preset="typical")
    magnification = 12_000.0 if name == "gold-nanoparticles" else 3000.0
    at = ScanConditions(15.0, magnification, scan.width, scan.height, dwell_time=scan.dwell_time)
    began = time.process_time()
    truth = column.truth(at)
    column.render(dataclasses.replace(at, working_distance=truth.working_distance))
    first = time.process_time() - began

    def typical(defocus: float) -> float:
        here = dataclasses.replace(at, working_distance=truth.working_distance + defocus * truth.depth_of_field)
        column.render(here)
        times = []
        for k in range(frames):
            began = time.process_time()
            column.render(dataclasses.replace(here, frame_id=k))
            times.append(time.process_time() - began)
        return median(times)

    return max(map(typical, _DEFOCI)) * 1e3, first * 1e3


def processor() -> str:
    """Return what this computer calls its processor."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def tables() -> Iterator[tuple[str, ...]]:
    """Yield ms of a frame at the slowest of `_DEFOCI`, in brackets of the first of a new field; headings first."""
    yield "specimen", *(f"{mode}, aim {aim:g}" for mode, aim in AIMS.items())
    for name in SPECIMENS:
        yield name, *(f"{each:.1f} ({first:.0f})" for each, first in (frame_times(name, mode) for mode in AIMS))
