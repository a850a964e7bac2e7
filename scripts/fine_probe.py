"""What it is worth to tell autofocus the diameter of a fine probe.

    python scripts/fine_probe.py [--runs 60] [--seed 101]

The emulator gets a field-emission gun, whose focused probe is a few nanometres wide. Gold nanoparticles and tin balls
are focused from 4 to 25 depths of field at 15 000 to 60 000 times by an autofocus that takes the probe for that of a
tungsten gun, by one that knows nothing of it, and by one that is told. The same three focus with a tungsten gun.
`docs/how-to/calibrate.md` holds the outcome.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Any

import numpy as np

import semdrivers
from firmware_protocol.profile import EM30, InstrumentProfile
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import probe_core_of
from semfocus_plugin.lab.parallel import run_all

FIELD_EMISSION = dataclasses.replace(
    EM30, gun_brightness=1e8, energy_spread=0.7, spherical_aberration=2.0, chromatic_aberration=2.0
)
GUNS = {"field emission": FIELD_EMISSION, "tungsten": EM30}
SPECIMENS = ("gold-nanoparticles", "tin-balls")


class Foreign:
    """The five members of a microscope, with a diameter of the probe of our choice."""

    def __init__(self, microscope: Any, diameter: float | None) -> None:
        self._microscope = microscope
        self.capabilities = dataclasses.replace(microscope.capabilities, probe_diameter=diameter)

    @property
    def working_distance(self) -> float:
        """In mm."""
        return float(self._microscope.working_distance)

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._microscope.working_distance = value

    @property
    def magnification(self) -> float:
        """Plain number."""
        return float(self._microscope.magnification)

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._microscope.magnification = value

    def acquire(self, mode: semdrivers.ScanMode = semdrivers.ScanMode.FAST) -> semdrivers.Image:
        """Take a frame."""
        image: semdrivers.Image = self._microscope.acquire(mode)
        return image

    def close(self) -> None:
        """Close the microscope within."""
        self._microscope.close()


def core(profile: InstrumentProfile) -> float:
    """Return the diameter of the focused probe at 15 mm, nm."""
    alpha = profile.half_angle(15.0) * 1e-3
    return probe_core_of(profile, alpha, profile.accelerating_voltage, profile.beam_current)


def focus(number: int, seed: int, gun: str, diameter: float | None) -> tuple[str, float, int, float]:
    """Run once; returns status, error in depths of field, frames, and how far the score is from the ideal one."""
    random = np.random.default_rng([seed, number])
    magnification = float(np.exp(random.uniform(np.log(15_000), np.log(60_000))))
    options = {"magnification": magnification, "seed": int(random.integers(1 << 30)), "profile": GUNS[gun]}
    with (
        Emulator(SPECIMENS[number % 2], **options) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        best, unit = emulator.truth.working_distance, emulator.truth.depth_of_field
        microscope.working_distance = best + random.choice((-1, 1)) * random.uniform(4, 25) * unit
        result = semdrivers.autofocus(Foreign(microscope, diameter))
        ideal = emulator.truth.score
    error = abs(result.working_distance - best) / unit
    return result.status, error, result.frames, abs(result.score - ideal)


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=101)
    chosen = parser.parse_args()
    print(f"{chosen.runs} runs each, seed {chosen.seed}\n")
    print("| gun, probe | told | within 1 DoF | error, DoF, median / p90 | false beyond 2 | frames, mean | score off |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for gun, profile in GUNS.items():
        for diameter in (36.0, None, round(core(profile), 1)):
            tasks = [(number, chosen.seed, gun, diameter) for number in range(chosen.runs)]
            runs = run_all(focus, tasks, workers=os.cpu_count() or 1)
            focused = [run for run in runs if run[0] == "focused"]
            errors = np.array([run[1] for run in focused])
            print(
                f"| {gun}, {core(profile):.1f} nm | {'nothing' if diameter is None else f'{diameter:g} nm'} | "
                f"{np.sum(errors <= 1) / len(runs):.0%} | {np.median(errors):.2f} / {np.quantile(errors, 0.9):.2f} | "
                f"{np.sum(errors > 2)} | {np.mean([run[2] for run in runs]):.1f} | "
                f"{np.mean([run[3] for run in focused]):.2f} |"
            )


if __name__ == "__main__":
    main()
