"""What a user's labels do: fine-tuning on a sample that AENet was never trained on, before and after.

Takes FAST frames of the specimen with the emulator, a focal series of six at every place, and does what a user does:
``semfocus label``, labels, ``semfocus train finetune``. The labels are the emulator's ideal scores with the noise of a
person (standard deviation 0.5, then whole numbers); a share below 1 stands for a user whose labels keep below ours in
proportion. Reported are the pictures and emulated frames that fine-tuning held out, and 30 further places of the
specimen and of tin balls, TEM grid and gold nanoparticles.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import semdrivers
from semdrivers.emulator import Emulator
from semfocus_plugin import labelling, networks
from semfocus_plugin.lab.benchmark.reproduction.fields import score_field
from semfocus_plugin.lab.benchmark.trials import MAGNIFICATIONS, TRAINED
from semfocus_plugin.lab.parallel import run_all

__all__ = ["elsewhere", "held_out", "label", "prepare"]

_SERIES = 6  # Frames of a focal series that the emulated user takes
_FIELDS = 30  # Fields that the network is tested on
_PERSON = 0.5  # Standard deviation of a person's label


def _take_pictures(folder: Path, specimen: str, pictures: int, seed: int) -> dict[str, float]:
    """Save the pictures; returns the ideal score of each."""
    truth = {}
    random = np.random.default_rng(seed)
    low, high = np.log(MAGNIFICATIONS[specimen])
    for number in range(0, pictures, _SERIES):
        sample, magnification = int(random.integers(1 << 30)), float(np.exp(random.uniform(low, high)))
        with (
            Emulator(specimen, seed=sample, magnification=magnification) as emulator,
            semdrivers.connect(emulator.url) as microscope,
        ):
            best, unit = emulator.truth.working_distance, emulator.truth.depth_of_field
            for plane in range(min(_SERIES, pictures - number)):
                microscope.working_distance = best + float(random.choice((-1, 1)) * random.uniform(0, 14)) * unit
                path = folder / f"{number + plane:03d}.ome.tif"
                microscope.acquire().save(path)
                truth[path.name] = emulator.truth.score
    return truth


def label(sheet: Path, truth: dict[str, float], share: float, seed: int) -> None:
    """Fill in the sheet as a person would."""
    random = np.random.default_rng([seed, 1])
    rows = []
    for row in labelling.read_sheet(sheet):
        noisy = np.rint(share * truth[row.file] + random.normal(0, _PERSON))
        rows.append(dataclasses.replace(row, label=float(np.clip(noisy, 0, 9))))
    labelling.write_sheet(sheet, rows)


def _on_fields(specimen: str, seed: int, share: float, models: Path) -> tuple[float, float, float]:
    """Return accuracy within ±1, RMS error and correlation of the scores on places that nothing has seen."""
    tasks = [(specimen, seed + 1, number, "typical", models) for number in range(_FIELDS)]
    fields = run_all(score_field, tasks)
    label = share * np.concatenate([field.label for field in fields])
    error = np.concatenate([field.score for field in fields]) - label
    correlation = float(np.corrcoef(label, label + error)[0, 1])
    return float(np.mean(np.abs(error) <= 1)), float(np.sqrt(np.mean(error**2))), correlation


def prepare(
    folder: Path, specimen: str, pictures: int, seed: int, share: float, semfocus: Callable[[list[str]], object]
) -> None:
    """Take pictures, label them, and fine-tune; what is in the folder already is left as it is.

    Parameters
    ----------
    folder : Path
        Everything stays in it.
    specimen, pictures, seed, share
        What to take pictures of, how many, random seed, and the share of the label that the user gives.
    semfocus : callable
        Runs the command line with these arguments; what it returns is true where the command ended with an error.
    """
    taken, tuned = folder / "pictures", folder / "tuned"
    if not taken.exists():
        taken.mkdir(parents=True)
        truth = _take_pictures(taken, specimen, pictures, seed)
        semfocus(["label", str(taken)])
        label(taken / "labels.csv", truth, share, seed)
    if not (tuned / "manifest.json").exists():
        command = ["train", "finetune", "--data", str(taken / "labels.csv"), "-o", str(tuned), "--seed", str(seed)]
        if (tuned / "checkpoint.pt").exists() or semfocus(command):
            # What it forgot is shown in the tables: exported all the same.
            semfocus([*command, "--resume", "--force"])


def held_out(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield the rows of what fine-tuning held out, headings first."""
    report = json.loads((folder / "tuned" / "report.json").read_text(encoding="utf-8"))
    yield "held out of fine-tuning", "accuracy ±1", "RMS error"
    for name, key in (("the user's pictures", "pictures"), ("emulated frames", "kept")):
        before, after = report[f"{key}_before"], report[f"{key}_after"]
        accuracy = f"{before['accuracy']:.3f} → {after['accuracy']:.3f}"
        yield name, accuracy, f"{before['rmse']:.2f} → {after['rmse']:.2f}"


def elsewhere(folder: Path, specimen: str, seed: int, share: float) -> Iterator[tuple[str, ...]]:
    """Yield the rows of other places, headings first."""
    yield f"{_FIELDS} other places", "accuracy ±1", "RMS error", "correlation"
    for name in (specimen, *TRAINED):
        kept = share if name == specimen else 1.0
        both = (networks.models_directory(), folder / "tuned")
        pairs = zip(*(_on_fields(name, seed, kept, models) for models in both), strict=True)
        yield name, *(f"{before:.3f} → {after:.3f}" for before, after in pairs)
