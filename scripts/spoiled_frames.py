"""How often autofocus takes a sound frame for spoiled, and a spoiled one for sound.

    python scripts/spoiled_frames.py [--data FOLDER] [--fields 20] [--seed 1] [--runs 0]

Sound are FAST frames of every specimen under every preset, four a field at up to 40 depths of field from focus, and
windows of the real micrographs of a folder with MANIFEST.csv (``--data``, or ``SEMFOCUS_DATA``, or ``../shared/data``
beside the checkout), full size and halved, as they are and blurred. Spoiled are the same emulated frames while the
sample discharges (the fault ``charging-streaks``). With ``--runs``, every specimen is focused that often with one frame
in four spoiled, with and without taking frames again. `docs/explanation/safety.md` holds the outcome.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import semdrivers
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import PRESETS, ElectronColumn, ScanConditions, discharged
from semdrivers.emulator.specimens import SPECIMENS, make_specimen
from semfocus_plugin.lab.benchmark.pictures import read_folder
from semfocus_plugin.run import _focus_run as run
from semfocus_plugin.run import spoiled

WIDTH, HEIGHT = 320, 240
MAGNIFICATIONS = {"gold-nanoparticles": (8_000, 30_000)}
DEFAULT_MAGNIFICATIONS = (300, 12_000)
DEFOCI = (0, 0, 1, -2, 5, -9, 20, 40)
"""Depths of field from focus, of which four are drawn for a field."""


def frames(name: str, preset: str, fields: int, seed: int) -> Iterator[NDArray[Any]]:
    """Yield sound frames of a specimen, four for each of `fields` places, each on a sample of its own."""
    random = np.random.default_rng([seed, *name.encode(), *preset.encode()])
    for _ in range(fields):
        sample = int(random.integers(1, 10**6))
        column = ElectronColumn(make_specimen(name, sample), seed=sample, preset=preset)
        at = ScanConditions(
            15.0,
            magnification_of(name, random),
            WIDTH,
            HEIGHT,
            stage_x=float(random.uniform(-3, 3)),
            stage_y=float(random.uniform(-3, 3)),
        )
        truth = column.truth(at)
        for number, defocus in enumerate(random.choice(DEFOCI, 4), 1):
            place = truth.working_distance + float(defocus) * truth.depth_of_field
            yield column.render(dataclasses.replace(at, working_distance=place, frame_id=number))


def magnification_of(name: str, random: np.random.Generator) -> float:
    """Draw a magnification of the specimen's range."""
    low, high = MAGNIFICATIONS.get(name, DEFAULT_MAGNIFICATIONS)
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def windows(folder: Path) -> Iterator[NDArray[Any]]:
    """Yield windows of a FAST frame's size of every sharp micrograph: full size and halved, sharp and blurred."""
    for picture in read_folder(folder):
        grey = picture.pixels.astype(np.float32) * (255 / np.iinfo(picture.pixels.dtype).max)
        for step in (1, 2):
            rows, columns = (size // step for size in grey.shape)
            small = grey[: rows * step, : columns * step].reshape(rows, step, columns, step).mean(axis=(1, 3))
            for seen in (small, ndimage.gaussian_filter(small, 2.0)):
                pixels = seen.astype(np.uint8)
                for top in range(0, rows - HEIGHT + 1, HEIGHT // 4):
                    for left in range(0, columns - WIDTH + 1, WIDTH // 4):
                        yield pixels[top : top + HEIGHT, left : left + WIDTH]


def focusing(runs: int, seed: int) -> Iterator[str]:
    """Yield lines on runs with one frame in four spoiled, with and without taking frames again."""
    retakes = run.MOST_RETAKES
    for most in (retakes, 0):
        run.MOST_RETAKES = most
        good, false, count = 0, 0, []
        for name in (name for name in SPECIMENS if name != "featureless"):
            random = np.random.default_rng([seed, *name.encode()])
            for number in range(runs):
                options = {"magnification": magnification_of(name, random), "seed": 10_000 * seed + number}
                with (
                    Emulator(name, faults="charging-streaks:0.25", **options) as emulator,
                    semdrivers.connect(emulator.url) as microscope,
                ):
                    result = semdrivers.autofocus(microscope)
                    truth = emulator.truth
                error = abs(result.working_distance - truth.working_distance) / truth.depth_of_field
                good += result.focused and error <= 1
                false += result.focused and error > 2
                count.append(result.frames)
        yield (
            f"at most {most} taken again: {good} of {len(count)} within 1 depth of field, {false} false beyond 2, "
            f"{np.mean(count):.1f} frames"
        )
    run.MOST_RETAKES = retakes


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SEMFOCUS_DATA", beside)))
    parser.add_argument("--fields", type=int, default=20, help="of every specimen and preset; 0 for runs alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=0)
    options = parser.parse_args()
    print("| frames | sound | taken for spoiled | of those, spoiled | found |")
    print("| --- | --- | --- | --- | --- |")
    for preset in PRESETS if options.fields else ():
        random = np.random.default_rng([options.seed, 2])
        sound = [frame for name in SPECIMENS for frame in frames(name, preset, options.fields, options.seed)]
        alarms = sum(bool(spoiled(frame)) for frame in sound)
        found = sum(bool(spoiled(discharged(frame, random))) for frame in sound)
        share = 100 * found / len(sound)
        print(f"| emulated, {preset} | {len(sound)} | {alarms} | {len(sound)} | {share:.1f} % |", flush=True)
    if options.fields and options.data.is_dir():
        told = [bool(spoiled(window)) for window in windows(options.data)]
        print(f"| real micrographs | {len(told)} | {sum(told)} | | |")
    for line in focusing(options.runs, options.seed) if options.runs else ():
        print(line, flush=True)


if __name__ == "__main__":
    main()
