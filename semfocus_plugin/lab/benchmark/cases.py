"""What to evaluate on: specimen, place, magnification and start of every run, drawn from one seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.benchmark.pictures import Picture
from semfocus_plugin.networks import paper_factor
from semfocus_plugin.optics import NOMINAL_PIXEL

TRAINED = ("tin-balls", "tem-grid", "gold-nanoparticles")
UNSEEN = ("butterfly-wing", "fabric")
FEATURELESS = "featureless"

MAGNIFICATIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "tin-balls": (500.0, 10_000.0),
        "tem-grid": (500.0, 10_000.0),
        "gold-nanoparticles": (8_000.0, 30_000.0),
        "butterfly-wing": (500.0, 10_000.0),
        "fabric": (500.0, 10_000.0),
        "featureless": (500.0, 10_000.0),
    }
)
"""Ranges of the paper ("Datasets"); butterfly wing and fabric as tin balls and TEM grid ("Online test")."""

OFFSET = 3.0
"""Furthest start from the focus in mm, times the factor of equation 5."""

STAGE = 5.0
"""Furthest lateral position from the centre of a procedural specimen, mm."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run to make.

    Parameters
    ----------
    specimen : str
        Name of a procedural specimen, or of a picture.
    picture : Picture or None
        The picture, where the specimen is one.
    magnification : float
        Plain number.
    stage : tuple of float
        Lateral position (x, y) in mm.
    offset : float
        Start minus focus, in mm, before the limits of the lens.
    seed : int
        Of the emulator.
    """

    specimen: str
    picture: Picture | None
    magnification: float
    stage: tuple[float, float]
    offset: float
    seed: int


def draw_cases(specimens: Sequence[str | Picture], runs: int, seed: int) -> tuple[Case, ...]:
    """Return `runs` cases of each specimen; the same seed gives the same cases, whatever else is evaluated.

    Raises
    ------
    InvalidParameterError
        For an unknown name of a specimen.
    OutOfRangeError
        When `runs` is below 1 or `seed` below 0.
    """
    if runs < 1:
        raise OutOfRangeError(f"runs must be at least 1, not {runs}")
    if seed < 0:
        raise OutOfRangeError(f"seed must be at least 0, not {seed}")
    return tuple(case for specimen in specimens for case in _cases_of(specimen, runs, seed))


def _cases_of(specimen: str | Picture, runs: int, seed: int) -> list[Case]:
    picture = specimen if isinstance(specimen, Picture) else None
    name = picture.name if picture else str(specimen)
    if picture is None and name not in MAGNIFICATIONS:
        raise InvalidParameterError(
            f"unknown specimen {name!r}; known: {', '.join(MAGNIFICATIONS)}, or the path of a picture"
        )
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    random = np.random.default_rng([seed, key])
    cases = []
    for _ in range(runs):
        magnification = draw_magnification(random, name, picture)
        reach = OFFSET * paper_factor(magnification)
        cases.append(
            Case(
                specimen=name,
                picture=picture,
                magnification=magnification,
                stage=draw_stage(random, magnification, picture),
                offset=float(random.uniform(-reach, reach)),
                seed=int(random.integers(1, 2**31)),
            )
        )
    return cases


def draw_magnification(random: np.random.Generator, name: str, picture: Picture | None) -> float:
    """Log-uniform in the specimen's range; for a picture such that a FAST pixel is 1 to 1.5 of its own."""
    if picture is not None:
        low = NOMINAL_PIXEL * 1e6 / (1.5 * picture.pixel_size)
        high = NOMINAL_PIXEL * 1e6 / picture.pixel_size
    else:
        low, high = MAGNIFICATIONS[name]
    return float(round(math.exp(random.uniform(math.log(low), math.log(high)))))


def draw_stage(random: np.random.Generator, magnification: float, picture: Picture | None) -> tuple[float, float]:
    """Anywhere on a procedural specimen; on a picture such that the field stays inside, where it fits."""
    if picture is None:
        return float(random.uniform(-STAGE, STAGE)), float(random.uniform(-STAGE, STAGE))
    height, width = picture.pixels.shape
    field = np.array([320.0, 240.0]) * NOMINAL_PIXEL / magnification
    spare = np.maximum(np.array([width, height]) * picture.pixel_size * 1e-6 - field, 0.0) / 2
    x, y = random.uniform(-spare, spare)
    return float(x), float(y)
