"""What a user's labels do: fine-tuning on a sample that AENet was never trained on, before and after.

    python scripts/finetune_table.py FOLDER [--pictures 60] [--specimen butterfly-wing] [--seed 101] [--share 1.0]

Takes FAST frames of the specimen with the emulator, a focal series of six at every place, and does what a user does:
``semfocus label``, labels, ``semfocus train aenet --finetune``. The labels are the emulator's ideal scores with the
noise of a person (standard deviation 0.5, then whole numbers); `--share` below 1 stands for a user whose labels keep
below ours in proportion. Reported are the pictures and emulated frames that fine-tuning held out, and 30 further places
of the specimen and of tin balls, TEM grid and gold nanoparticles. Everything stays in FOLDER; `docs/model-card.md`
holds the outcome. Needs torch (``pip install 'semdrivers[train]'``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

import numpy as np

import semdrivers
from semdrivers.emulator import Emulator
from semfocus_plugin.lab.benchmark.cases import MAGNIFICATIONS, TRAINED
from semfocus_plugin.lab.benchmark.reproduction.fields import score_field
from semfocus_plugin.lab.cli import app
from semfocus_plugin.lab.parallel import run_all
from semfocus_plugin.labelling import _sheet as labelling
from semfocus_plugin.networks import _models as networks

SERIES = 6
FIELDS = 30
PERSON = 0.5


def take_pictures(folder: Path, specimen: str, pictures: int, seed: int) -> dict[str, float]:
    """Save the pictures; returns the ideal score of each."""
    truth = {}
    random = np.random.default_rng(seed)
    low, high = np.log(MAGNIFICATIONS[specimen])
    for number in range(0, pictures, SERIES):
        options = {"seed": int(random.integers(1 << 30)), "magnification": float(np.exp(random.uniform(low, high)))}
        with (
            Emulator(specimen, **options) as emulator,
            semdrivers.connect(emulator.url) as microscope,
        ):
            best, unit = emulator.truth.working_distance, emulator.truth.depth_of_field
            for plane in range(min(SERIES, pictures - number)):
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
        noisy = np.rint(share * truth[row.file] + random.normal(0, PERSON))
        rows.append(dataclasses.replace(row, label=float(np.clip(noisy, 0, 9))))
    labelling.write_sheet(sheet, rows)


def on_fields(specimen: str, seed: int, share: float, models: Path) -> tuple[float, float, float]:
    """Return accuracy within ±1, RMS error and correlation of the scores on places that nothing has seen."""
    os.environ[networks.MODELS_VARIABLE] = str(models)
    tasks = [(specimen, seed + 1, number) for number in range(FIELDS)]
    fields = run_all(score_field, tasks, workers=os.cpu_count() or 1)
    wanted = share * np.concatenate([field.label for field in fields])
    error = np.concatenate([field.score for field in fields]) - wanted
    correlation = float(np.corrcoef(wanted, wanted + error)[0, 1])
    return float(np.mean(np.abs(error) <= 1)), float(np.sqrt(np.mean(error**2))), correlation


def main() -> None:
    """Take, label, train, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--specimen", default="butterfly-wing")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--share", type=float, default=1.0)
    chosen = parser.parse_args()
    pictures, tuned = chosen.folder / "pictures", chosen.folder / "tuned"
    shipped = networks.models_directory()
    if not pictures.exists():
        pictures.mkdir(parents=True)
        truth = take_pictures(pictures, chosen.specimen, chosen.pictures, chosen.seed)
        app(["label", str(pictures)], standalone_mode=False)
        label(pictures / "labels.csv", truth, chosen.share, chosen.seed)
    if not (tuned / "manifest.json").exists():
        command = ["train", "aenet", "--finetune", "--data", str(pictures / "labels.csv"), "-o", str(tuned)]
        command += ["--seed", str(chosen.seed)]
        if (tuned / "checkpoint.pt").exists() or app(command, standalone_mode=False):
            print("what it forgot is shown below: exported all the same\n")
            app([*command, "--resume", "--force"], standalone_mode=False)
    report = json.loads((tuned / "report.json").read_text(encoding="utf-8"))
    print("| held out of fine-tuning | accuracy ±1 | RMS error |\n| --- | --- | --- |")
    for name, key in (("the user's pictures", "pictures"), ("emulated frames", "kept")):
        before, after = report[f"{key}_before"], report[f"{key}_after"]
        print(
            f"| {name} | {before['accuracy']:.3f} → {after['accuracy']:.3f} | "
            f"{before['rmse']:.2f} → {after['rmse']:.2f} |"
        )
    print(f"\n| {FIELDS} other places | accuracy ±1 | RMS error | correlation |\n| --- | --- | --- | --- |")
    for specimen in (chosen.specimen, *TRAINED):
        share = chosen.share if specimen == chosen.specimen else 1.0
        pairs = zip(*(on_fields(specimen, chosen.seed, share, models) for models in (shipped, tuned)), strict=True)
        print(f"| {specimen} | {' | '.join(f'{before:.3f} → {after:.3f}' for before, after in pairs)} |")


if __name__ == "__main__":
    main()
