"""How well AENet scores frames that it never saw: the named specimens, real micrographs, a real focal series.

    python scripts/score_figures.py [--json figures.json]

Named specimens are drawn at held-out seeds over the paper's magnifications; butterfly wing and fabric were never
trained on. Real micrographs are blurred by an implementation of their own (a sampled disc, convolved by SciPy, with
noise added) and compared with the score that the blur implies. Micrographs come from ``SEMFOCUS_DATA``.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal, stats

from semdrivers.emulator.column import ElectronColumn
from semdrivers.emulator.scan import ScanConditions
from semdrivers.emulator.specimens import make_specimen
from semdrivers.pictures import read_pixels
from semfocus_plugin import networks
from semfocus_plugin.training.sampling import TRAINED, Field, draw_defocus

HELD_OUT = 99
PAPER = {"tin-balls": (0.920, 0.974), "tem-grid": (0.880, 0.978), "gold-nanoparticles": (0.731, 0.975)}
NOT_SHARP = ("csbdeep", "icegrid", "hole16")
RADII = (0, 0.7, 1.5, 2.5, 4, 6, 9, 13, 18, 24, 32)


def named(evaluate: networks.Evaluator, name: str, fields: int = 25, frames: int = 8) -> dict[str, float]:
    """Accuracy within ±1, correlation and precision on one named specimen, FAST frames."""
    random = np.random.default_rng([HELD_OUT, len(name)])
    low, high = TRAINED.get(name, (500.0, 10_000.0))
    scores, ideal = [], []
    for _ in range(fields):
        seed = int(random.integers(1 << 30))
        conditions = ScanConditions(
            working_distance=15.0,
            magnification=math.exp(random.uniform(math.log(low), math.log(high))),
            width=320,
            height=240,
            stage_x=random.uniform(-9, 9),
            stage_y=random.uniform(-9, 9),
            brightness=random.uniform(0.45, 0.53),
            contrast=random.uniform(0.4, 0.6),
        )
        field = Field(ElectronColumn(make_specimen(name, seed), seed=seed), conditions, conditions.magnification, name)
        for k in range(frames):
            sample = field.frame(draw_defocus(random, "paper"), k)
            scores.append(evaluate(sample.pixels, sample.magnification).score)
            ideal.append(sample.score)
    error = np.abs(np.array(scores) - ideal)
    return {
        "accuracy": float((error <= 1).mean()),
        "precision": float((1 - error / 10).mean()),
        "correlation": float(np.corrcoef(scores, ideal)[0, 1]),
        "frames": len(scores),
    }


def disc(radius: float, fine: int = 8) -> NDArray[np.float64]:
    """A disc of `radius` pixels, each pixel the mean of `fine`² samples."""
    half = math.ceil(radius) + 1
    place = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
    inside = (np.hypot(place[:, None], place[None, :]) <= radius).astype(float)
    kernel = inside.reshape(2 * half + 1, fine, 2 * half + 1, fine).mean(axis=(1, 3))
    return np.asarray(kernel / kernel.sum())


def micrograph(evaluate: networks.Evaluator, path: Path, bar_rows: int) -> dict[str, float]:
    """Accuracy within ±1 and rank correlation over a series of blurs of a real picture, halved in size if large."""
    picture = read_pixels(path).astype(float)
    picture *= 255.0 / (65535.0 if picture.max() > 255 else 255.0)
    picture = picture[: picture.shape[0] - bar_rows]
    if picture.shape[1] >= 1000:
        even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        picture = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))
    top, left = (picture.shape[0] - 240) // 2, (picture.shape[1] - 320) // 2
    random = np.random.default_rng(0)
    scores = []
    for radius in RADII:
        blurred = picture
        if radius:
            padded = np.pad(picture, 40, mode="reflect")
            blurred = signal.fftconvolve(padded, disc(radius), mode="same")[40:-40, 40:-40]
        window = blurred[top : top + 240, left : left + 320]
        window = window + random.normal(0, 0.08 * max(window.mean(), 30), window.shape)
        scores.append(evaluate(np.clip(window, 0, 255).astype(np.uint8), 3000.0).score)
    implied = [9 / (1 + (radius / 4.5) ** 2) for radius in RADII]
    return {
        "accuracy": float((np.abs(np.array(scores) - implied) <= 1).mean()),
        "rank_correlation": float(-stats.spearmanr(RADII, scores)[0]),
    }


def triplet(evaluate: networks.Evaluator, folder: Path) -> list[float]:
    """Scores of the real focal series, nearest to focus first (8.3, 13.3 and 18.3 µm of defocus)."""
    names = ("pert5000", "base", "pert-5000")
    files = [next(path for path in folder.glob("series_0_*.png") if path.stem.endswith(f"_{name}")) for name in names]
    return [round(evaluate(read_pixels(path), 20_000.0).score, 2) for path in files]


def main() -> None:
    """Print the tables, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    evaluate = networks.load().evaluator
    figures: dict[str, object] = {}
    print("| specimen | accuracy ±1 | paper | correlation | paper | precision |\n| --- | --- | --- | --- | --- | --- |")
    for name in (*TRAINED, "butterfly-wing", "fabric"):
        row = figures[name] = named(evaluate, name)
        accuracy, correlation = (f"{x:.3f}" for x in PAPER[name]) if name in PAPER else ("", "")
        print(
            f"| {name} | {row['accuracy']:.3f} | {accuracy} | {row['correlation']:.3f} | {correlation} "
            f"| {row['precision']:.3f} |"
        )
    data = Path(os.environ.get("SEMFOCUS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (data / "MANIFEST.csv").exists():
        print(f"no micrographs in {data}; set SEMFOCUS_DATA")
        return
    rows = [
        (Path(row["file"]).name, int(row["bar_rows"] or 0))
        for row in csv.DictReader((data / "MANIFEST.csv").open(encoding="utf-8"))
        if row["suggested_split"] == "dev" and not any(word in row["file"] for word in NOT_SHARP)
    ]
    series = {name: micrograph(evaluate, data / "micrographs" / name, bar) for name, bar in rows}
    ranks = np.array([row["rank_correlation"] for row in series.values()])
    accuracies = np.array([row["accuracy"] for row in series.values()])
    figures["micrographs"] = series
    figures["focal series, nearest first"] = triplet(evaluate, data / "series")
    print(
        f"\n{len(series)} real micrographs: accuracy ±1 {accuracies.mean():.3f} (worst {accuracies.min():.2f}), "
        f"rank correlation median {np.median(ranks):.3f}, worst {ranks.min():.3f}, "
        f"≥ 0.9 on {np.mean(ranks >= 0.9):.0%}"
    )
    print(f"real focal series, nearest to focus first: scores {figures['focal series, nearest first']}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
