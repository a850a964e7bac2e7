"""What a move of the stigmator did, read off the frames after it.

What the frames before the move say is kept as weighted samples, and the change is sampled beside: each frame after the
move is compared with its fellows and with the sharpest frames before, whose blurs every sample knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semfocus_plugin.optics._elliptic as elliptic
from semfocus_plugin.optics._sighting import Sighting
from semfocus_plugin.optics._spectra import SECTOR_ANGLES, SectorPair, sector_position

Array = NDArray[Any]

_CANDIDATES, _DRAWS, _ROUNDS, _FINAL = 3000, 700, 3, 1200
_FREEDOM = 3.0
_FEW, _LEAST_EFFECTIVE = 25.0, 60.0
_BROAD = 0.15
"""Share of the draws that stays as wide as the prior of the change."""
_REFERENCES = 2
"""Frames before the move, or beside it, that a frame is compared with."""
_COS, _SIN = np.cos(2 * SECTOR_ANGLES), np.sin(2 * SECTOR_ANGLES)
_pair = lru_cache(maxsize=64)(SectorPair)


@dataclass(frozen=True, slots=True)
class Change:
    """What a move of the stigmator adds to the astigmatism.

    Parameters
    ----------
    x, y : float
        mm.
    sigma : float
        Standard deviation of each, mm.
    """

    x: float
    y: float
    sigma: float


def added_by(
    samples: elliptic.Samples,
    before: Sequence[tuple[Sighting, complex]],
    frames: Sequence[Sighting],
    expected: Change,
    per_mm: Callable[[Sighting], float],
    trust: Callable[[Sighting], tuple[float, float]],
    unit: float,
) -> Change:
    """Return what a move added to the astigmatism.

    Parameters
    ----------
    samples : Samples
        Of the posterior before it.
    before : sequence of tuple
        The frames before it, each with what its astigmatism is more than that of the samples, mm.
    frames : sequence of Sighting
        Those after it.
    expected : Change
        What is known of the change before.
    per_mm : callable
        Pixels of blur radius in a frame for a mm of defocus, with the aperture that is expected.
    trust : callable
        Probability that the blur of a frame is misread, and least standard deviation of ln(1 + radius) if not.
    unit : float
        Depth of field, mm.
    """
    random = np.random.default_rng(7)
    target = _Target(samples, before, frames, per_mm, trust)
    centre, spread = np.array([expected.x, expected.y]), max(expected.sigma, 0.02 * unit)
    prior = _Student(centre, spread**2 * np.eye(2))
    points = prior.draw(_CANDIDATES, random)
    log = target(_chosen(samples.weight, _CANDIDATES, random), points)
    for count in (*(_DRAWS,) * _ROUNDS, _FINAL):
        weight = elliptic.tempered(log, _FEW)
        mean = weight @ points
        away = points - mean
        narrow = _Student(mean, 1.3 * (away * weight[:, None]).T @ away + (0.02 * unit) ** 2 * np.eye(2))
        broad = random.random(count) < _BROAD
        points = np.where(broad[:, None], prior.draw(count, random), narrow.draw(count, random))
        of_prior = prior.log_density(points)
        mixed = np.logaddexp(math.log(_BROAD) + of_prior, math.log(1 - _BROAD) + narrow.log_density(points))
        log = target(_chosen(samples.weight, count, random), points) + of_prior - mixed
    weight = elliptic.tempered(log, _LEAST_EFFECTIVE)
    x, y = weight @ points
    sigma = math.sqrt(0.5 * float(weight @ np.square(points - (x, y)).sum(axis=1)))
    return Change(float(x), float(y), sigma)


def _chosen(weight: Array, count: int, random: np.random.Generator) -> Array:
    """Return indices drawn by weight."""
    where = (np.arange(count) + random.random()) / count
    index = np.searchsorted(np.cumsum(weight)[:-1], where)
    return np.asarray(random.permutation(index))


class _Student:
    """Student's t in the plane."""

    def __init__(self, mean: Array, covariance: Array) -> None:
        self._mean = mean
        self._root = np.linalg.cholesky(covariance)
        self._inverse = np.linalg.inv(self._root)

    def draw(self, count: int, random: np.random.Generator) -> Array:
        tail = np.sqrt(_FREEDOM / random.chisquare(_FREEDOM, count))
        return np.asarray(self._mean + (random.normal(size=(count, 2)) * tail[:, None]) @ self._root.T)

    def log_density(self, points: Array) -> Array:
        away = (points - self._mean) @ self._inverse.T
        log = float(np.log(np.diag(self._inverse)).sum()) - math.log(2 * math.pi)
        return np.asarray(log - 0.5 * (_FREEDOM + 2) * np.log1p((away * away).sum(axis=1) / _FREEDOM))


class _Target:
    """Log-likelihood of the frames after a move, for samples by index and changes (mm), shape (N, 2)."""

    def __init__(
        self,
        samples: elliptic.Samples,
        before: Sequence[tuple[Sighting, complex]],
        frames: Sequence[Sighting],
        per_mm: Callable[[Sighting], float],
        trust: Callable[[Sighting], tuple[float, float]],
    ) -> None:
        self._samples, self._before, self._frames = samples, before, frames
        everything = [*(sighting for sighting, _ in before), *frames]
        self._per_mm = [per_mm(each) for each in everything]
        self._trust = [trust(each) for each in frames]
        self._pairs: list[tuple[int, int, SectorPair]] = []
        first = len(before)
        for k in range(first, len(everything)):
            for j in _references(everything, k):
                if (j, k) not in [(a, b) for a, b, _ in self._pairs]:
                    one, other = everything[j].spectrum, everything[k].spectrum
                    assert one is not None
                    assert other is not None
                    self._pairs.append((j, k, _pair(one, other)))
        self._least = [math.inf] * len(self._pairs)

    def __call__(self, index: Array, change: Array) -> Array:
        stretch = np.exp(self._samples.scale[index])
        place, x, y = (values[index] for values in (self._samples.place, self._samples.x, self._samples.y))
        ellipses: dict[int, tuple[Array, Array, Array]] = {}

        def ellipse(k: int) -> tuple[Array, Array, Array]:
            """Return z and both components of a frame, pixels of blur."""
            if k not in ellipses:
                first, pixels = len(self._before), stretch * self._per_mm[k]
                if k >= first:
                    sighting, a, b = self._frames[k - first], x + change[:, 0], y + change[:, 1]
                else:
                    sighting, more = self._before[k]
                    a, b = x + more.real, y + more.imag
                ellipses[k] = (sighting.working_distance - place) * pixels, a * pixels, b * pixels
            return ellipses[k]

        log = np.zeros(len(index))
        for number, (j, k, table) in enumerate(self._pairs):
            squares = table(*(sector_position(_radii(*ellipse(each))) for each in (j, k)))
            least = self._least[number] = min(self._least[number], float(squares.min()))
            log += elliptic.log_agreement(squares, least, table.terms)
        seen = [ellipse(len(self._before) + n) for n in range(len(self._frames))]
        parts = [np.stack([a, b], axis=1) for _, a, b in seen]
        return log + elliptic.log_frames(self._frames, [z for z, _, _ in seen], parts, [1.0] * len(seen), self._trust)


def _radii(z: Array, x: Array, y: Array) -> Array:
    z, x, y = (part.astype(np.float32)[:, None] for part in (z, x, y))
    squared = z * z + x * x + y * y + 2 * z * (x * _COS.astype(np.float32) + y * _SIN.astype(np.float32))
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def _references(frames: Sequence[Sighting], k: int) -> list[int]:
    """Return the frames of the same magnification that show most, as numbers below or above `k`."""
    if frames[k].spectrum is None:
        return []
    alike = [
        j
        for j, other in enumerate(frames)
        if j != k
        and other.spectrum is not None
        and other.structure
        and math.isclose(other.pixel, frames[k].pixel, rel_tol=1e-2)
    ]
    return sorted(alike, key=lambda j: frames[j].detail, reverse=True)[:_REFERENCES]
