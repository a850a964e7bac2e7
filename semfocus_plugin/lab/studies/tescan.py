"""How well the default autofocus does on a TESCAN microscope: its driver over SharkSEM, against the emulated server.

Each run has a specimen, a magnification and a start of its own, 5 to 30 depths of field from the focus. The instrument
reports its half-angle, and the autofocus is given nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import semdrivers
from semdrivers.emulator import TescanEmulator
from semfocus_plugin.lab.parallel import run_all

__all__ = ["FALSE", "SPECIMENS", "Run", "run_once", "tables"]

SPECIMENS = {
    "tin-balls": (500, 20_000),
    "gold-nanoparticles": (8_000, 30_000),
    "tem-grid": (500, 10_000),
    "butterfly-wing": (500, 10_000),
}
"""Magnifications that each is seen at."""
FALSE = 2.0
"""Depths of field from the truth beyond which a focus is a false one."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Parameters
    ----------
    specimen, magnification
        What was focused.
    half_angle : float
        At 15 mm, mrad.
    status, reason : str
        Status and reason of the result.
    frames : int
        Acquired.
    error : float
        Distance from the truth, depths of field.
    """

    specimen: str
    magnification: float
    half_angle: float
    status: str
    reason: str
    frames: int
    error: float


def run_once(number: int, seed: int, half_angle: float) -> Run:
    """Focus once."""
    random = np.random.default_rng([seed, number])
    specimen = tuple(SPECIMENS)[number % len(SPECIMENS)]
    magnification = float(np.exp(random.uniform(*np.log(SPECIMENS[specimen]))))
    sample = int(random.integers(1 << 30))
    with (
        TescanEmulator(specimen, magnification=magnification, seed=sample, half_angle=half_angle) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        result = microscope.autofocus()
        truth = emulator.truth
        error = abs(result.working_distance - truth.working_distance) / truth.depth_of_field
    return Run(specimen, magnification, half_angle, result.status, result.reason, result.frames, error)


def tables(
    runs: int, seed: int, half_angles: Sequence[float], workers: int | None = None
) -> dict[str, list[tuple[str, ...]]]:
    """Return a table of all runs, and a table of success, frames and errors for each half-angle."""
    outcomes = run_all(
        run_once, [(number, seed, angle) for angle in half_angles for number in range(runs)], workers=workers
    )
    each: list[tuple[str, ...]] = [("specimen", "magnification", "half-angle, mrad", "status", "frames", "error, DoF")]
    each += [
        (
            run.specimen,
            f"{run.magnification:.0f}",
            f"{run.half_angle:g}",
            run.status,
            str(run.frames),
            f"{run.error:.2f}",
        )
        for run in outcomes
    ]
    summary: list[tuple[str, ...]] = [
        ("half-angle, mrad", "runs", "within 1 DoF", "false", "refused", "frames", "median error, DoF")
    ]
    for angle in half_angles:
        here = [run for run in outcomes if run.half_angle == angle]
        focused = [run for run in here if run.status == "focused"]
        summary.append(
            (
                f"{angle:g}",
                str(len(here)),
                f"{sum(run.error <= 1 for run in focused) / len(here):.0%}",
                f"{sum(run.error > FALSE for run in focused) / len(here):.1%}",
                f"{sum(run.status == 'refused' for run in here) / len(here):.0%}",
                f"{statistics.mean(run.frames for run in here):.1f}",
                f"{statistics.median(run.error for run in here):.2f}",
            )
        )
    return {f"Runs, seed {seed}": each, "Summary": summary}
