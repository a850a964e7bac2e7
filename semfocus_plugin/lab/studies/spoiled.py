"""How often autofocus takes a sound frame for spoiled, and a spoiled one for sound.

Sound are FAST frames of every specimen under every preset, four a field at up to 40 depths of field from focus, and
windows of the real micrographs of a folder with MANIFEST.csv, full size and halved, as they are and blurred. Spoiled
are the same emulated frames while the sample discharges (the fault ``charging-streaks``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semdrivers
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import PRESETS, ElectronColumn, ScanConditions, discharged
from semdrivers.emulator.specimens import SPECIMENS, make_specimen
from semdrivers.focus import AutofocusSettings
from semfocus_plugin.lab.benchmark.pictures import read_folder
from semfocus_plugin.lab.benchmark.runs import focus
from semfocus_plugin.lab.parallel import required
from semfocus_plugin.run import spoiled

__all__ = ["focusing", "frames", "table", "windows"]

_WIDTH, _HEIGHT = 320, 240  # size of a frame, pixels
# Least and greatest magnification of a specimen that differs from the others
_MAGNIFICATIONS = {"gold-nanoparticles": (8_000, 30_000)}
_DEFAULT_MAGNIFICATIONS = (300, 12_000)  # Least and greatest magnification of every other specimen
_DEFOCI = (0, 0, 1, -2, 5, -9, 20, 40)  # Depths of field from focus, of which four are drawn for a field


def frames(name: str, preset: str, fields: int, seed: int) -> Iterator[NDArray[Any]]:
    """Yield sound frames of a specimen, four for each of `fields` places, each on a sample of its own."""
    random = np.random.default_rng([seed, *name.encode(), *preset.encode()])
    for _ in range(fields):
        sample = int(random.integers(1, 10**6))
        column = ElectronColumn(make_specimen(name, sample), seed=sample, preset=preset)
        at = ScanConditions(
            15.0,
            _magnification_of(name, random),
            _WIDTH,
            _HEIGHT,
            stage_x=float(random.uniform(-3, 3)),
            stage_y=float(random.uniform(-3, 3)),
        )
        truth = column.truth(at)
        for number, defocus in enumerate(random.choice(_DEFOCI, 4), 1):
            place = truth.working_distance + float(defocus) * truth.depth_of_field
            yield column.render(dataclasses.replace(at, working_distance=place, frame_id=number))


def _magnification_of(name: str, random: np.random.Generator) -> float:
    """Draw a magnification of the specimen's range."""
    low, high = _MAGNIFICATIONS.get(name, _DEFAULT_MAGNIFICATIONS)
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def windows(folder: Path) -> Iterator[NDArray[Any]]:
    """Yield windows of a FAST frame's size of every sharp micrograph: full size and halved, sharp and blurred."""
    ndimage = required("scipy.ndimage", "blurring micrographs", "benchmark")
    for picture in read_folder(folder):
        grey = picture.pixels.astype(np.float32) * (255 / np.iinfo(picture.pixels.dtype).max)
        for step in (1, 2):
            rows, columns = (size // step for size in grey.shape)
            small = grey[: rows * step, : columns * step].reshape(rows, step, columns, step).mean(axis=(1, 3))
            for seen in (small, ndimage.gaussian_filter(small, 2.0)):
                pixels = seen.astype(np.uint8)
                for top in range(0, rows - _HEIGHT + 1, _HEIGHT // 4):
                    for left in range(0, columns - _WIDTH + 1, _WIDTH // 4):
                        yield pixels[top : top + _HEIGHT, left : left + _WIDTH]


def focusing(runs: int, seed: int, retakes: int) -> str:
    """Focus every specimen `runs` times with one frame in four spoiled, and return a line about it.

    Parameters
    ----------
    runs, seed : int
        Runs of each specimen, and their random seed.
    retakes : int
        Most spoiled frames of one place that are taken again.
    """
    good, false, count = 0, 0, []
    for name in (name for name in SPECIMENS if name != "featureless"):
        random = np.random.default_rng([seed, *name.encode()])
        for number in range(runs):
            magnification = _magnification_of(name, random)
            with (
                Emulator(
                    name, faults="charging-streaks:0.25", magnification=magnification, seed=10_000 * seed + number
                ) as emulator,
                semdrivers.connect(emulator.url) as microscope,
            ):
                result = focus(microscope, AutofocusSettings(), retakes=retakes)
                truth = emulator.truth
            error = abs(result.working_distance - truth.working_distance) / truth.depth_of_field
            good += result.focused and error <= 1
            false += result.focused and error > 2
            count.append(result.frames)
    return (
        f"at most {retakes} taken again: {good} of {len(count)} within 1 depth of field, {false} false beyond 2, "
        f"{np.mean(count):.1f} frames"
    )


def table(fields: int, seed: int, folder: Path | None) -> Iterator[tuple[str, ...]]:
    """Yield the rates, headings first; those of real micrographs where there is a folder of them."""
    yield "frames", "sound", "taken for spoiled", "of those, spoiled", "detected"
    for preset in PRESETS:
        random = np.random.default_rng([seed, 2])
        sound = [frame for name in SPECIMENS for frame in frames(name, preset, fields, seed)]
        alarms = sum(bool(spoiled(frame)) for frame in sound)
        detected = sum(bool(spoiled(discharged(frame, random))) for frame in sound)
        count = str(len(sound))
        yield f"emulated, {preset}", count, str(alarms), count, f"{detected / len(sound):.1%}"
    if folder is not None:
        alarms_real = [bool(spoiled(window)) for window in windows(folder)]
        yield "real micrographs", str(len(alarms_real)), str(sum(alarms_real)), "", ""
