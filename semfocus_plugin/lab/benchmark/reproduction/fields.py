"""Held-out fields of the named specimens, drawn from the emulator: labelled frames and focal series, scored."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.physics import ElectronColumn, ScanConditions, ideal_score
from semdrivers.emulator.specimens import make_specimen
from semfocus_plugin import networks
from semfocus_plugin.lab.benchmark.trials import MAGNIFICATIONS
from semfocus_plugin.lab.training import curves
from semfocus_plugin.lab.training.datasets import focal_series
from semfocus_plugin.lab.training.sampling import Field, draw_defocus
from semfocus_plugin.optics import HALF_SCORE

__all__ = ["FRAMES", "SERIES_FRAMES", "ScoredField", "implied_defocus", "measure_series", "score_field"]

FRAMES = 8
"""Scored frames of a field."""

SERIES_FRAMES = 161
"""Frames of a focal series over ±20 depths of field."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredField:
    """Frames of a field, all at one place and magnification, at defoci such that the labels are spread evenly.

    Parameters
    ----------
    specimen : str
        Name.
    magnification : float
        Plain number.
    label, score : ndarray of shape (N,)
        Ideal score, which the defocus implies whatever the astigmatism, and AENet's.
    """

    specimen: str
    magnification: float
    label: NDArray[Any]
    score: NDArray[Any]


def score_field(
    specimen: str, seed: int, number: int, preset: str = "typical", models: Path | None = None
) -> ScoredField:
    """Draw field `number` of a specimen and score its frames with the AENet of a folder, or the one in use."""
    random = _random(specimen, seed, number, 0)
    field = _draw(random, specimen, preset)
    evaluator = networks.load(models).evaluator
    samples = [field.frame(draw_defocus(random, "paper"), k) for k in range(FRAMES)]
    scores = [evaluator(sample.pixels, sample.magnification).score for sample in samples]
    labels = [ideal_score(sample.defocus) for sample in samples]
    return ScoredField(specimen, field.conditions.magnification, np.array(labels), np.array(scores))


def measure_series(
    specimen: str, seed: int, number: int, frames: int = SERIES_FRAMES, preset: str = "typical"
) -> curves.MeasuredSeries:
    """Draw focal series `number` of a specimen and measure its frames with the AENet in use."""
    random = _random(specimen, seed, number, 1)
    arrays = focal_series(_draw(random, specimen, preset), random, frames)
    return curves.measure(arrays, networks.load().evaluator)


def implied_defocus(score: NDArray[Any]) -> NDArray[Any]:
    """Return the distance from focus, in depths of field, at which the ideal score is `score`."""
    return np.asarray(HALF_SCORE * np.sqrt(np.maximum(9.0 / np.maximum(score, 1e-3) - 1.0, 0.0)))


def _random(specimen: str, seed: int, number: int, stream: int) -> np.random.Generator:
    key = int.from_bytes(hashlib.sha256(specimen.encode()).digest()[:4], "big")
    return np.random.default_rng([seed, key, number, stream])


def _draw(random: np.random.Generator, specimen: str, preset: str) -> Field:
    seed = int(random.integers(1 << 30))
    low, high = MAGNIFICATIONS[specimen]
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
    column = ElectronColumn(make_specimen(specimen, seed), seed=seed, preset=preset)
    return Field(column, conditions, specimen)
