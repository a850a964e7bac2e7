"""Pairs of frames on either side of a working distance, rendered for the pair network of the comparison."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import OutOfRangeError
from semdrivers.microscope import whole_number
from semfocus_plugin.lab.training.pair.pair_input import TEST_DEFOCUS
from semfocus_plugin.lab.training.sampling import Field, Sample, draw_field
from semfocus_plugin.optics import trained_depth_of_field

__all__ = ["LIKE_NOMINAL", "REACH", "PairsConfig", "draw_pairs"]

REACH = 20.0
"""Furthest centre of a pair from the focus, in nominal depths of field."""

LIKE_NOMINAL = 1.7
"""Largest factor between the column's own depth of field and the nominal one.

Whether the focus lies between two frames or beyond one of them follows from two blurs and the aperture alone. Such a
network is trained for its instrument, and the other peers receive the half-angle; the factor covers the working
distances of best focus that an instrument has, and an aperture 20 % off.
"""

_PAIRS_PER_FIELD = 4
_OFF_TARGET = 0.01
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class PairsConfig:
    """What a set of pairs holds, for `semfocus_plugin.lab.training.datasets.build`. Same configuration, same bytes.

    Parameters
    ----------
    count : int
        Pairs.
    seed : int
        Random seed; fixes everything.
    shard_size : int
        Pairs a file.
    step : float
        Distance of the two frames from their centre, in nominal depths of field.
    """

    count: int = 8192
    seed: int = 1
    shard_size: int = 256
    step: float = TEST_DEFOCUS

    def __post_init__(self) -> None:
        for name in ("count", "shard_size"):
            whole_number(name, getattr(self, name), 1)
        if not 0 < self.step <= REACH:
            raise OutOfRangeError(f"step must be above 0 and at most {REACH:g} depths of field, not {self.step:g}")

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.count // self.shard_size)

    def described(self) -> dict[str, Any]:
        """Return what ``config.json`` says of the dataset."""
        return {"kind": "pairs", "mixture": "broad"} | dataclasses.asdict(self)

    def arrays(self, index: int) -> dict[str, NDArray[Any]]:
        """Return what a file holds, by its number."""
        count = min(self.shard_size, self.count - index * self.shard_size)
        arrays = draw_pairs(np.random.default_rng([self.seed, index]), count, self.step)
        return arrays | {"field": arrays["field"] + index * self.shard_size}


def draw_pairs(random: np.random.Generator, count: int, step: float = TEST_DEFOCUS) -> dict[str, NDArray[Any]]:
    """Draw pairs of the broad mixture under columns like the nominal, a few a field, nearer centres more often.

    Returns
    -------
    dict
        ``pixels`` (N, 2, 240, 320) uint8, first the frame at the shorter working distance; ``magnification`` (N,);
        ``defocus`` (N,), of the centre, in nominal depths of field; ``field`` (N,), a number of the field.
    """
    pairs: list[tuple[Sample, Sample]] = []
    centres: list[float] = []
    fields: list[int] = []
    number = 0
    while len(pairs) < count:
        field = draw_field(random, "broad")
        own = _nominal_in_own(field)
        if not 1 / LIKE_NOMINAL <= own <= LIKE_NOMINAL:
            continue
        for _ in range(min(_PAIRS_PER_FIELD, count - len(pairs))):
            drawn = _draw_pair(random, field, own, step, 2 * len(pairs))
            if drawn is not None:
                centres.append(drawn[0])
                pairs.append(drawn[1])
                fields.append(number)
        number += 1
    return {
        "pixels": np.stack([[sample.pixels for sample in pair] for pair in pairs]),
        "magnification": np.array([pair[0].magnification for pair in pairs], np.float32),
        "defocus": np.array(centres, np.float32),
        "field": np.array(fields, np.int64),
    }


def _nominal_in_own(field: Field) -> float:
    """Return the nominal depth of field in units of the column's own."""
    truth = field.column.truth(field.conditions, field.conditions.width)
    return trained_depth_of_field(field.conditions.magnification) / truth.depth_of_field


def _draw_pair(
    random: np.random.Generator, field: Field, own: float, step: float, frame_id: int
) -> tuple[float, tuple[Sample, Sample]] | None:
    """Return a centre and its two frames, or None where the lens cannot reach both."""
    for _ in range(_ATTEMPTS):
        centre = REACH * random.random() ** 2 * (1 if random.random() < 0.5 else -1)
        wanted = [(centre + offset) * own for offset in (-step, step)]
        first, second = (field.frame(defocus, frame_id + k) for k, defocus in enumerate(wanted))
        # `Field.frame` stops at the ends of the lens and at the widest blur that it draws.
        if max(abs(first.defocus - wanted[0]), abs(second.defocus - wanted[1])) <= _OFF_TARGET:
            return centre, (first, second)
    return None
