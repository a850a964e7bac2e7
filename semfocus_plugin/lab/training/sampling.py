"""What to train on: fields, conditions, defocus and astigmatism, drawn at random, with labels that the emulator knows.

Three mixtures. ``"paper"`` is the paper's experiment: tin balls, TEM grid and gold nanoparticles under one column;
``"paper-fast"`` is the same in the FAST frames that autofocus takes.
``"broad"`` adds procedural textures and draws the column too: aperture, probe, current, noise, stigmators, artefacts of
lines and detector. A field is drawn once and scanned many times: drawing it is what costs.
Butterfly wing and fabric are in none. Micrographs are in the broad one where a user names them: no field is of a named
specimen then, and many are drawn out in one direction, so that a sample of lines is not taken for a line focus.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.profile import EM30
from semdrivers.emulator.physics import (
    ColumnPreset,
    ElectronColumn,
    ScanConditions,
    electrons_per_pixel,
    ideal_score,
    pixel_size,
)
from semdrivers.emulator.specimens import Picture, Specimen, Window, make_specimen
from semfocus_plugin.lab.training.artefacts import digitised, with_line_artefacts
from semfocus_plugin.lab.training.drawn import Drawn
from semfocus_plugin.lab.training.textures import Generator, log_uniform, texture
from semfocus_plugin.optics import HALF_SCORE

__all__ = ["TRAINED", "Field", "Sample", "draw_astigmatism", "draw_defocus", "draw_field", "draw_sample"]

TRAINED = {
    "tin-balls": (500.0, 10_000.0),
    "tem-grid": (500.0, 10_000.0),
    "gold-nanoparticles": (8_000.0, 30_000.0),
}
"""Named specimens to train on, with the magnifications of the paper (Methods, "Datasets")."""

_NAMED = 0.35
_SHARES = (0.25, 0.25, 0.5)
"""In the broad mixture: named specimens among all, and each of them; gold, the noisiest, is the hardest to score."""

_MARGIN = 20
"""Pixels around a frame that a column draws too."""

_TEXTURE = 480
"""Most pixels of a texture, along and down; a field that needs more shows its mirror image."""

_MICROGRAPHS = 0.65
"""Share of micrographs among the fields, where there are any; the rest are textures."""
_DRAWN_OUT = (1, 1, 2, 3)
"""Factors by which a micrograph or a texture beside it is compressed along the lines, or across them."""

_WORKING_DISTANCES = (2.0, 45.0)
_WIDEST_BLUR = 130.0

_MOST_ASTIGMATISM = 12.0
"""Depths of field by which each of the two foci lies from the circle of least confusion, at most."""

_PLAIN = 0.4
"""Share of broad fields without artefacts along the lines: their frames may be transposed in training."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One labelled frame.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), uint8
        The frame.
    magnification : float
        Magnification of the whole frame.
    score : float
        Ideal, 0 to 9, without label noise: that of the larger radius.
    larger, smaller : float
        Semi-axes of the defocused probe, pixels.
    cos2, sin2 : float
        Cosine and sine of twice the angle from the lines (towards the next line) to the larger semi-axis.
    half_blur : float
        Radius in pixels at which the ideal score is half of 9.
    defocus : float
        Defocus of the circle of least confusion, signed, in depths of field.
    specimen : str
        Name, or ``"texture"``.
    plain : bool
        Whether nothing in the frame goes along the lines, so that its transpose is a frame too.
    """

    pixels: NDArray[np.uint8]
    magnification: float
    score: float
    larger: float
    smaller: float
    cos2: float
    sin2: float
    half_blur: float
    defocus: float
    specimen: str
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A place on a specimen under a column, with everything but the working distance settled."""

    column: ElectronColumn
    conditions: ScanConditions
    specimen: str
    plain: bool = False

    def frame(self, defocus: float, frame_id: int, astigmatism: tuple[float, float] | None = None) -> Sample:
        """Scan at `defocus` depths of field from best focus, or as near to that as the lens and the grid allow.

        Parameters
        ----------
        defocus : float
            Signed, in depths of field.
        frame_id : int
            Number of the frame; fixes the noise.
        astigmatism : tuple of float, optional
            Both components in depths of field; by default the stigmators stay as they are.
        """
        conditions = self._conditions(defocus, frame_id, astigmatism)
        return self._labelled(self.column.render(conditions), conditions)

    def _conditions(self, defocus: float, frame_id: int, astigmatism: tuple[float, float] | None) -> ScanConditions:
        truth = self.column.truth(self.conditions, self.conditions.width)
        best, depth = truth.working_distance, truth.depth_of_field
        pixel = pixel_size(self.conditions.magnification, self.conditions.width) * 1e-6
        alpha = self.column.profile.aperture_radius * 1e-3 / best
        travel = min(abs(defocus) * depth, _WIDEST_BLUR * pixel / alpha)
        distance = best + math.copysign(travel, defocus)
        distance = min(max(distance, _WORKING_DISTANCES[0]), _WORKING_DISTANCES[1])
        conditions = dataclasses.replace(self.conditions, working_distance=distance, frame_id=frame_id)
        if astigmatism is not None:
            x, y = (each * depth * 1e3 for each in astigmatism)
            conditions = dataclasses.replace(conditions, stigmator_x=x, stigmator_y=y)
        return conditions

    def _labelled(self, pixels: NDArray[Any], conditions: ScanConditions) -> Sample:
        truth = self.column.truth(conditions, conditions.width)
        away = conditions.working_distance - truth.working_distance
        pixel = pixel_size(conditions.magnification, conditions.width) * 1e-6
        per_mm = self.column.profile.aperture_radius * 1e-3 / conditions.working_distance / pixel
        x, y = truth.astigmatism
        amount, turn = math.hypot(x, y) * 1e-3, math.atan2(y, x) + (0.0 if away > 0 else math.pi)
        larger, half = per_mm * (abs(away) + amount), HALF_SCORE * per_mm * truth.depth_of_field
        return Sample(
            pixels,
            conditions.magnification,
            ideal_score((abs(away) + amount) / truth.depth_of_field),
            larger,
            per_mm * abs(abs(away) - amount),
            math.cos(turn),
            math.sin(turn),
            half,
            away / truth.depth_of_field,
            self.specimen,
            self.plain,
        )

    def varied(self, defocus: float, frame_id: int, astigmatism: tuple[float, float], random: Generator) -> Sample:
        """Scan as `frame` does, under noise, contrast and artefacts of lines and detector drawn anew."""
        conditions = self._conditions(defocus, frame_id, astigmatism)
        noise = log_uniform(random, 0.02, 0.35)
        secondaries = self.column.profile.secondary_yield
        electrons = (1 + secondaries) / (secondaries * noise**2)
        conditions = dataclasses.replace(
            conditions,
            dwell_time=electrons / electrons_per_pixel(conditions.beam_current, 1.0),
            brightness=random.uniform(0.42, 0.56),
            contrast=random.uniform(0.3, 0.7),
            bits=16,
        )
        grey = self.column.render(conditions).astype(np.float32) / np.float32(257)
        if not self.plain:
            grey = with_line_artefacts(grey, random)
        return self._labelled(digitised(grey, random), conditions)


def draw_field(random: Generator, mixture: str, micrographs: Sequence[NDArray[Any]] = ()) -> Field:
    """Draw a field of the mixture ``"paper"``, ``"paper-fast"`` or ``"broad"``, the last of micrographs where given."""
    if mixture == "broad":
        return _broad_field(random, micrographs)
    return _paper_field(random, fast=mixture == "paper-fast")


def draw_defocus(random: Generator, mixture: str) -> float:
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


def draw_astigmatism(random: Generator, defocus: float) -> tuple[float, float]:
    """Draw both components of the astigmatism in depths of field, any direction: little, much, or a line focus."""
    kind, turn = random.random(), 2 * math.pi * random.random()
    if kind < 0.3:
        amount = 0.4 * random.random()
    elif kind < 0.65:
        amount = log_uniform(random, 0.3, _MOST_ASTIGMATISM)
    else:
        amount = min(abs(defocus) * random.uniform(0.75, 1.3), _MOST_ASTIGMATISM)
    return amount * math.cos(turn), amount * math.sin(turn)


def draw_sample(random: Generator, field: Field, mixture: str, frame_id: int) -> Sample:
    """Draw a labelled frame of a field."""
    defocus = draw_defocus(random, mixture)
    if mixture != "broad":
        return field.frame(defocus, frame_id)
    return field.varied(defocus, frame_id, draw_astigmatism(random, defocus), random)


def _paper_field(random: Generator, fast: bool) -> Field:
    name = str(random.choice(list(TRAINED)))
    magnification = log_uniform(random, *TRAINED[name])
    seed = int(random.integers(1 << 30))
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
    return Field(ElectronColumn(_drawn(name, seed, conditions), seed=seed, preset="typical"), conditions, name)


def _drawn(name: str, seed: int, conditions: ScanConditions) -> Drawn:
    """Return the named specimen around the field."""
    pixel = pixel_size(conditions.magnification, conditions.width) * 1e-3
    columns, rows = conditions.width + 2 * _MARGIN, conditions.height + 2 * _MARGIN
    x, y = conditions.stage_x * 1e3 - (columns - 1) / 2 * pixel, conditions.stage_y * 1e3 - (rows - 1) / 2 * pixel
    return Drawn(make_specimen(name, seed), Window(x, y, pixel, columns, rows))


def _surface(random: Generator, width: int, height: int, micrographs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return a window of a micrograph or a texture, drawn out in one direction at random; at most (height, width)."""
    along, down = (1, int(random.choice(_DRAWN_OUT)))[:: 1 if random.random() < 0.5 else -1]
    if random.random() < _MICROGRAPHS:
        whole = micrographs[int(random.integers(len(micrographs)))]
        whole = whole.T if random.random() < 0.5 else whole
        columns, rows = (
            min(n, side) for n, side in zip((width * along, height * down), whole.shape[::-1], strict=True)
        )
        left, top = (int(random.integers(n + 1)) for n in (whole.shape[1] - columns, whole.shape[0] - rows))
        drawn = whole[top : top + rows, left : left + columns].astype(np.float32)
    else:
        drawn = texture(random, width * along, height * down)
    rows, columns = drawn.shape[0] // down, drawn.shape[1] // along
    return drawn[: rows * down, : columns * along].reshape(rows, down, columns, along).mean((1, 3))


def _broad_field(random: Generator, micrographs: Sequence[NDArray[Any]]) -> Field:
    seed = int(random.integers(1 << 30))
    fine = random.random() < 0.35
    profile = dataclasses.replace(
        EM30,
        aperture_radius=EM30.aperture_radius * log_uniform(random, 0.5, 3.0),
        gun_brightness=EM30.gun_brightness * (log_uniform(random, 1, 1000) if fine else 1.0),
        spherical_aberration=EM30.spherical_aberration * (log_uniform(random, 0.02, 1) if fine else 1.0),
        chromatic_aberration=EM30.chromatic_aberration * (log_uniform(random, 0.02, 1) if fine else 1.0),
    )
    tilt = 0.0
    if not micrographs and random.random() < _NAMED:
        name = str(random.choice(list(TRAINED), p=_SHARES))
        magnification = log_uniform(random, *TRAINED[name])
    else:
        name = "texture"
        magnification = log_uniform(random, 200, 100_000 if fine else 40_000)
        grain = log_uniform(random, 0.5, 1.3)
        width, height = (min(math.ceil((side + 2 * _MARGIN) / grain), _TEXTURE) for side in (320, 240))
        if micrographs:
            picture = _surface(random, width, height, micrographs)
        else:
            turned = random.random() < 0.5
            picture = texture(random, height, width).T if turned else texture(random, width, height)
        tilt = random.uniform(-50, 50) if random.random() < 0.05 else 0.0
    plain = random.random() < _PLAIN
    awkward = 0.0 if plain else random.random() ** 2
    preset = ColumnPreset(
        line_jitter=0.8 * awkward * random.random(),
        hum=10.0 * awkward * random.random(),
        drift=10.0 * awkward,
        detector_lag=0.9 * awkward * random.random(),
        row_gain=0.05 * awkward * random.random(),
        charging=0.2 * awkward * random.random(),
    )
    noise = log_uniform(random, 0.02, 0.35)
    electrons = (1 + profile.secondary_yield) / (profile.secondary_yield * noise**2)
    current = log_uniform(random, 8, 80)
    amount, turn = 6.0 * awkward * random.random(), 2 * math.pi * random.random()
    conditions = ScanConditions(
        working_distance=15.0,
        magnification=magnification,
        width=320,
        height=240,
        dwell_time=electrons / electrons_per_pixel(current, 1.0),
        stage_x=random.uniform(-10, 10),
        stage_y=random.uniform(-10, 10),
        stage_tilt=tilt,
        brightness=random.uniform(0.42, 0.56),
        contrast=random.uniform(0.3, 0.7),
        beam_current=current,
        stigmator_x=amount * math.cos(turn),
        stigmator_y=amount * math.sin(turn),
    )
    if name == "texture":
        conditions = dataclasses.replace(conditions, stage_x=0.0, stage_y=0.0)  # the middle of the picture
        specimen: Specimen = Picture(picture, pixel_size(magnification, 320) * grain)
    else:
        specimen = _drawn(name, seed, conditions)
    column = ElectronColumn(
        specimen, seed=seed, preset=preset, profile=profile, best_working_distance=random.uniform(5, 25)
    )
    return Field(column, conditions, name, plain)
