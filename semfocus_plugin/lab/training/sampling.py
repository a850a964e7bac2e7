"""What to train on: fields, conditions and defocus, drawn at random, with the labels that the emulator knows.

Three mixtures. ``"paper"`` is the paper's experiment: tin balls, TEM grid and gold nanoparticles under one column;
``"paper-fast"`` is the same in the FAST frames that autofocus takes.
``"broad"`` adds procedural textures and draws the column too: aperture, current, noise, artefacts, detector settings.
Butterfly wing, fabric and users' micrographs are in none.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.profile import EM30
from semdrivers.emulator.physics import ColumnPreset, ElectronColumn, ScanConditions, electrons_per_pixel, pixel_size
from semdrivers.emulator.specimens import Picture, make_specimen
from semfocus_plugin.lab.training.textures import log_uniform, texture

__all__ = ["TRAINED", "Field", "Sample", "draw_defocus", "draw_field"]

TRAINED = {
    "tin-balls": (500.0, 10_000.0),
    "tem-grid": (500.0, 10_000.0),
    "gold-nanoparticles": (8_000.0, 30_000.0),
}
"""Named specimens to train on, with the magnifications of the paper (Methods, "Datasets")."""

_NAMED = 0.35
_SHARES = (0.25, 0.25, 0.5)
"""In the broad mixture: named specimens among all, and each of them; gold, the noisiest, is the hardest to score."""

_WORKING_DISTANCES = (2.0, 45.0)
_WIDEST_BLUR = 130.0


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One labelled frame.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), uint8
        The frame.
    magnification : float
        Of the whole frame.
    score : float
        Ideal, 0 to 9, without label noise.
    blur : float
        Radius of the defocus disc, pixels.
    defocus : float
        Signed, in depths of field.
    specimen : str
        Name, or ``"texture"``.
    """

    pixels: NDArray[np.uint8]
    magnification: float
    score: float
    blur: float
    defocus: float
    specimen: str


@dataclass(frozen=True, slots=True)
class Field:
    """A place on a specimen under a column, with everything but the working distance settled."""

    column: ElectronColumn
    conditions: ScanConditions
    specimen: str

    def frame(self, defocus: float, frame_id: int) -> Sample:
        """Scan at `defocus` depths of field from best focus, or as near to that as the lens and the grid allow."""
        truth = self.column.truth(self.conditions, self.conditions.width)
        best = truth.working_distance
        pixel = pixel_size(self.conditions.magnification, self.conditions.width) * 1e-6
        alpha = self.column.profile.aperture_radius * 1e-3 / best
        travel = min(abs(defocus) * truth.depth_of_field, _WIDEST_BLUR * pixel / alpha)
        distance = best + math.copysign(travel, defocus)
        distance = min(max(distance, _WORKING_DISTANCES[0]), _WORKING_DISTANCES[1])
        conditions = dataclasses.replace(self.conditions, working_distance=distance, frame_id=frame_id)
        truth = self.column.truth(conditions, conditions.width)
        pixels: NDArray[Any] = self.column.render(conditions)
        signed = (distance - best) / truth.depth_of_field
        return Sample(pixels, conditions.magnification, truth.score, truth.blur_radius, signed, self.specimen)


def draw_field(random: np.random.Generator, mixture: str) -> Field:
    """Draw a field of the mixture ``"paper"``, ``"paper-fast"`` or ``"broad"``."""
    return _broad_field(random) if mixture == "broad" else _paper_field(random, fast=mixture == "paper-fast")


def draw_defocus(random: np.random.Generator, mixture: str) -> float:
    """Draw a signed defocus in depths of field.

    For the paper's experiment scores come out uniform; the broad mixture looks further out.
    """
    sign = 1 if random.random() < 0.5 else -1
    if mixture != "broad":
        return sign * 4.5 * math.sqrt(9 / max(9 * random.random(), 0.05) - 1)
    kind = random.random()
    if kind < 0.3:
        return sign * 4 * random.random()
    if kind < 0.8:
        return sign * log_uniform(random, 1, 40)
    return sign * log_uniform(random, 20, 150)


def _paper_field(random: np.random.Generator, fast: bool) -> Field:
    name = str(random.choice(list(TRAINED)))
    magnification = log_uniform(random, *TRAINED[name])
    seed = int(random.integers(1 << 30))
    column = ElectronColumn(make_specimen(name, seed), seed=seed, preset="typical")
    conditions = ScanConditions(
        working_distance=15.0,
        magnification=magnification,
        width=320,
        height=240,
        stage_x=random.uniform(-10, 10),
        stage_y=random.uniform(-10, 10),
        brightness=random.uniform(0.45, 0.53),
        contrast=random.uniform(0.4, 0.6),
    )
    if not fast:
        conditions = dataclasses.replace(conditions, width=640, height=480, dwell_time=3.3e-6)
    return Field(column, conditions, name)


def _broad_field(random: np.random.Generator) -> Field:
    seed = int(random.integers(1 << 30))
    profile = dataclasses.replace(EM30, aperture_radius=EM30.aperture_radius * log_uniform(random, 0.5, 2.0))
    if random.random() < _NAMED:
        name = str(random.choice(list(TRAINED), p=_SHARES))
        magnification = log_uniform(random, *TRAINED[name])
        specimen = make_specimen(name, seed)
    else:
        name = "texture"
        magnification = log_uniform(random, 200, 40_000)
        grain = log_uniform(random, 0.5, 1.3)
        specimen = Picture(texture(random, 560, 420), pixel_size(magnification, 320) * grain)
    awkward = random.random() ** 2
    preset = ColumnPreset(
        astigmatism=6.0 * awkward,
        line_jitter=0.8 * awkward * random.random(),
        hum=10.0 * awkward * random.random(),
        drift=10.0 * awkward,
        detector_lag=0.9 * awkward * random.random(),
        row_gain=0.05 * awkward * random.random(),
        charging=0.2 * awkward * random.random(),
    )
    current = log_uniform(random, 8, 80)
    noise = log_uniform(random, 0.02, 0.35)
    electrons = (1 + profile.secondary_yield) / (profile.secondary_yield * noise**2)
    column = ElectronColumn(
        specimen, seed=seed, preset=preset, profile=profile, best_working_distance=random.uniform(5, 25)
    )
    conditions = ScanConditions(
        working_distance=15.0,
        magnification=magnification,
        width=320,
        height=240,
        dwell_time=electrons / electrons_per_pixel(current, 1.0),
        stage_x=random.uniform(-10, 10),
        stage_y=random.uniform(-10, 10),
        brightness=random.uniform(0.42, 0.56),
        contrast=random.uniform(0.3, 0.7),
        beam_current=current,
    )
    return Field(column, conditions, name)
