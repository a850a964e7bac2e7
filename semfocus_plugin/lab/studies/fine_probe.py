"""What it is worth to configure the diameter of a fine probe.

The emulator gets a field-emission gun, whose focused probe is a few nanometres wide. Gold nanoparticles and tin balls
are focused from 4 to 25 depths of field at 15 000 to 60 000 times by an autofocus that takes the probe for that of a
tungsten gun, by one that knows nothing of it, and by one that knows it. The same three focus with a tungsten gun.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

import semdrivers
from firmware_protocol.profile import EM30, InstrumentProfile
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import probe_core_of
from semdrivers.focus import AutofocusSettings
from semfocus_plugin.lab.benchmark.runs import Reporting, focus
from semfocus_plugin.lab.parallel import run_all

__all__ = ["table"]

# The profile of an instrument with a field-emission gun
_FIELD_EMISSION = dataclasses.replace(
    EM30, gun_brightness=1e8, energy_spread=0.7, spherical_aberration=2.0, chromatic_aberration=2.0
)
_GUNS = {"field emission": _FIELD_EMISSION, "tungsten": EM30}  # Profiles by the name of the gun
_SPECIMENS = ("gold-nanoparticles", "tin-balls")  # Specimens of the study


def _core(profile: InstrumentProfile) -> float:
    """Return the diameter of the focused probe at 15 mm, nm."""
    alpha = profile.half_angle(15.0) * 1e-3
    return probe_core_of(profile, alpha, profile.accelerating_voltage, profile.beam_current)


def _run_once(number: int, seed: int, gun: str, diameter: float | None) -> tuple[str, float, int, float]:
    """Run once; returns status, error in depths of field, frames, and how far the score is from the ideal one."""
    random = np.random.default_rng([seed, number])
    magnification = float(np.exp(random.uniform(np.log(15_000), np.log(60_000))))
    sample = int(random.integers(1 << 30))
    with (
        Emulator(_SPECIMENS[number % 2], magnification=magnification, seed=sample, profile=_GUNS[gun]) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        best, unit = emulator.truth.working_distance, emulator.truth.depth_of_field
        microscope.working_distance = best + random.choice((-1, 1)) * random.uniform(4, 25) * unit
        result = focus(Reporting(microscope, probe_diameter=diameter), AutofocusSettings())
        ideal = emulator.truth.score
    error = abs(result.working_distance - best) / unit
    return result.status, error, result.frames, abs(result.score - ideal)


def table(runs: int, seed: int, workers: int | None) -> Iterator[tuple[str, ...]]:
    """Yield the rows, headings first."""
    yield (
        "gun, probe",
        "configured",
        "within 1 DoF",
        "error, DoF, median / p90",
        "false beyond 2",
        "frames, mean",
        "score off",
    )
    for gun, profile in _GUNS.items():
        for diameter in (36.0, None, round(_core(profile), 1)):
            tasks = [(number, seed, gun, diameter) for number in range(runs)]
            ended = run_all(_run_once, tasks, workers=workers)
            focused = [run for run in ended if run[0] == "focused"]
            errors = np.array([run[1] for run in focused] or [np.nan])
            yield (
                f"{gun}, {_core(profile):.1f} nm",
                "nothing" if diameter is None else f"{diameter:g} nm",
                f"{np.sum(errors <= 1) / runs:.0%}",
                f"{np.median(errors):.2f} / {np.quantile(errors, 0.9):.2f}",
                str(np.sum(errors > 2)),
                f"{np.mean([run[2] for run in ended]):.1f}",
                f"{np.mean([run[3] for run in focused]) if focused else np.nan:.2f}",
            )
