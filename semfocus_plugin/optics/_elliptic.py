"""The focus of a column with astigmatism: working distance and both components together, by importance sampling.

Along the axis θ the disc of a frame has the radius α |z + a|, across it α |z − a|: in the direction φ
r² = α² (z² + a² + 2 z a cos 2(φ − θ)). Of two frames of one field the ratio of their power spectra, direction by
direction, holds both ellipses and nothing of the sample, so two frames determine z, a cos 2θ and a sin 2θ together
(Binding, Mikula & Denk, Microscopy and Microanalysis 19, 2013). The posterior has up to a mode for every gap between
frames; it is sampled by a mixture of Student's t that is fitted to it in a few rounds (adaptive importance sampling,
Cappé et al., Statistics and Computing 18, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.optics._sighting import Sighting
from semfocus_plugin.optics._spectra import SectorPair, Spectrum, sector_directions, sector_position

Array = NDArray[Any]

PRIOR = 0.15
"""Probability, before any frame, of astigmatism that shows."""

LENGTH = 2.0
"""Depths of field; the prior of such astigmatism falls as exp(−|a| / length) in each direction of the plane."""

_LENGTH_TO_CORRECT = 5.0
"""The same of the astigmatism at the start of a run that corrects the stigmator: it is asked to where there is some."""

SPIKE = 0.35
"""Depths of field; standard deviation of both components where the astigmatism does not show."""

_CANDIDATES, _DRAWS, _ROUNDS, _FINAL, _CHECKS = 2600, 280, 14, 600, 160
_LEAST_SCALE = 3.0
"""Sectors and rings are not independent: a sum of squares counts only a part of them."""
_REPEATS, _LEAST_EFFECTIVE = 4, 40.0
"""Samples that must count at least; where they do not, after so many tries, their weights are evened out."""
_FEW = 14.0
"""Samples that must count for the next mixture."""
_FEW_UNKNOWNS, _MANY_DRAWS, _MANY_FEW = 2, 700, 40.0
"""Unknowns of the stigmator up to which those numbers do, and the numbers of draws, and of such that count, beyond."""
_LEAST_UNKNOWN = 0.01
"""Least standard deviation of an unknown in a component of the mixture, as a share of that of its prior."""
_BLOCK = 650
"""Points that are compared with the frames at a time: what that takes fits into the processor's cache."""
_COMPONENTS = 4
_OUTLIER = 1e-6
_FREEDOM = 4.0
_LEAST_WIDTH = np.array([0.05, 0.03, 0.05, 0.05])
"""Least standard deviation of a component of the mixture: pixels of blur, ln scale, pixels, pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Weighted samples of the posterior with astigmatism that shows.

    Parameters
    ----------
    place : ndarray of shape (N,)
        Working distance of the circle of least confusion, mm.
    scale : ndarray of shape (N,)
        ln of the aperture over the one expected.
    x, y : ndarray of shape (N,)
        a cos 2θ and a sin 2θ in mm, `a` being half the distance between the line foci.
    weight : ndarray of shape (N,)
        They sum to 1.
    probability : float
        That there is such astigmatism.
    directions : int
        Sectors, of eight, in which frames show the sample; 0 where none are compared.
    axis : tuple of complex
        Means of exp(2iφ) and exp(4iφ) over the power of the sample in all directions φ. The first is of length 1 for
        a pattern along one direction, the second for one along two at right angles, too.
    at_start : ndarray of shape (N,)
        The same x + iy with the stigmator where it stood at the start of the run.
    unknowns : ndarray of shape (N, J)
        Of the stigmator; see `Sighting.added`.
    seen : tuple of bool
        Which of them the frames tell of.
    """

    place: Array
    scale: Array
    x: Array
    y: Array
    weight: Array
    probability: float
    directions: int
    axis: tuple[complex, ...]
    at_start: Array
    unknowns: Array
    seen: tuple[bool, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The posterior without astigmatism, on a grid, where the sampling starts.

    Parameters
    ----------
    low, high : float
        Interval that the focus may lie in, mm: with astigmatism it may lie where nothing is left without.
    places, probability : ndarray of shape (N,)
        mm, and the share of every node.
    scales, by_scale : ndarray of shape (S,)
        ln scale, and the posterior of each.
    log_prior : callable
        Log of the prior density over places, from mm (any shape).
    log_scale_prior : callable
        Log of the prior density over ln scale.
    """

    low: float
    high: float
    places: Array
    probability: Array
    scales: Array
    by_scale: Array
    log_prior: Callable[[Array], Array]
    log_scale_prior: Callable[[Array], Array]


_pair = lru_cache(maxsize=32)(SectorPair)
"""A comparison is made once in a run."""


def sample(
    sightings: Sequence[Sighting],
    pairs: Mapping[tuple[int, int], float],
    start: Round,
    half_angles: Sequence[float],
    pixel: float,
    half_angle: float,
    unit: float,
    trust: Sequence[tuple[float, float]],
    corrects: bool = False,
    previous: Samples | None = None,
) -> Samples | None:
    """Return samples of the posterior with astigmatism, or None where the sampling fails.

    The astigmatism is that of the last frame; frames before it may have been taken with another stigmator.

    Parameters
    ----------
    sightings : sequence of Sighting
        All frames.
    pairs : mapping of tuple of int to float
        Frames to compare, by number, and how much each comparison counts.
    start : Round
        The posterior without astigmatism.
    half_angles : sequence of float
        Expected half-angle of every frame, rad.
    pixel : float
        Of the magnification to focus for, mm; components of the astigmatism are reckoned in it.
    half_angle : float
        Expected at the focus, rad.
    unit : float
        Blur radius of a depth of field of defocus, pixels of that magnification.
    trust : sequence of tuple of float
        For every frame: probability that its blur is misread, and least standard deviation of ln(1 + radius) if not.
    corrects : bool
        Whether the run corrects the stigmator.
    previous : Samples, optional
        Of the posterior before the last frame, where the sampling starts.
    """
    random = np.random.default_rng(7)
    per_mm = half_angle / pixel
    target = _Target(sightings, pairs, half_angles, pixel, per_mm, unit, start, trust, corrects)
    more = len(target.unknown)
    checks = _candidates(start, per_mm, unit, random, _CHECKS, spike=True)
    spike = target.seen(np.hstack([checks, np.zeros((_CHECKS, more))]))
    candidates = _candidates(start, per_mm, unit, random, _CANDIDATES, spike=False)
    candidates = np.hstack([candidates, random.normal(size=(_CANDIDATES, more))])
    width = np.append(_LEAST_WIDTH * np.array([1 / per_mm, 1, 1, 1]), [_LEAST_UNKNOWN] * more)
    led = len(sightings[-1].added) == 1  # A run that moves the stigmator gains nothing by it
    if previous is not None and more:
        candidates = np.vstack([candidates, _continued(previous, sightings[-1], target.unknown, per_mm, width, random)])
    draws, few = (_DRAWS, _FEW) if more <= _FEW_UNKNOWNS else (_MANY_DRAWS, _MANY_FEW)
    seen = target.seen(candidates)
    log, guide = target.both(seen)
    weight = _towards(log, guide if led else log, 40.0)
    mixture = _Mixture(seen.points, weight, target.gaps, width, random)
    for _ in range(_ROUNDS):
        points = mixture.draw(draws, random)
        log, guide = target.both(target.seen(points)) - mixture.log_density(points)
        mixture = _Mixture(points, _towards(log, guide if led else log, few), target.gaps, width, random)
        if 1 / float(np.square(_normalised(log)).sum()) > 0.25 * draws:
            break
    for _ in range(_REPEATS):
        points = mixture.draw(max(_FINAL, 2 * draws), random)
        seen = target.seen(points)
        log = target(seen) - mixture.log_density(points)
        weight = tempered(log, _LEAST_EFFECTIVE)
        if 1 / float(np.square(_normalised(log)).sum()) >= _LEAST_EFFECTIVE:
            break
        mixture = _Mixture(points, tempered(log, few), target.gaps, width, random)
    round_evidence = _spike_evidence(target, spike)
    evidence = float(np.log(np.mean(np.exp(log - log.max()))) + log.max())
    if not math.isfinite(evidence):
        return None
    odds = math.log(PRIOR / (1 - PRIOR)) + evidence - round_evidence
    scale = points[:, 1]
    to_mm = 1 / (per_mm * np.exp(scale))
    x, y = points[:, 2] * to_mm, points[:, 3] * to_mm
    unknowns = np.zeros((len(points), len(sightings[-1].added) - 1))
    unknowns[:, target.unknown] = points[:, 4:]
    return Samples(
        points[:, 0],
        scale,
        x,
        y,
        weight,
        1 / (1 + math.exp(min(-odds, 700.0))),
        target.directions,
        target.axis,
        x + 1j * y - _added(sightings[-1].added, unknowns),
        unknowns,
        tuple(j in target.unknown for j in range(unknowns.shape[1])),
    )


def _added(added: Sequence[complex] | Array, unknowns: Array) -> Array:
    """Return what the stigmator added, shape (N,), for unknowns of shape (N, J)."""
    return np.asarray(added[0] + unknowns @ np.array(added[1:], complex))


def _continued(
    previous: Samples, last: Sighting, unknown: Sequence[int], per_mm: float, width: Array, random: np.random.Generator
) -> Array:
    """Return points that continue the posterior before a frame; what that did not tell of is drawn from the prior."""
    share = np.cumsum(previous.weight)
    index = np.searchsorted(share[:-1] / share[-1], random.random(_CANDIDATES))
    unknowns = random.normal(size=(_CANDIDATES, len(last.added) - 1))
    known = [j for j, seen in enumerate(previous.seen) if seen]
    unknowns[:, known] = previous.unknowns[index][:, known] + _LEAST_UNKNOWN * unknowns[:, known]
    scale = previous.scale[index]
    both = (previous.at_start[index] + _added(last.added, unknowns)) * per_mm * np.exp(scale)
    points = np.stack([previous.place[index], scale, both.real, both.imag], axis=1)
    return np.hstack([points + width[:4] * random.normal(size=points.shape), unknowns[:, unknown]])


def _normalised(log: Array) -> Array:
    weight = np.exp(log - log.max())
    return np.asarray(weight / weight.sum())


def tempered(log: Array, least: float) -> Array:
    """Return weights exp(β log), normalised, with the largest β up to 1 of which `least` samples count."""
    beta = 1.0
    for _ in range(24):
        weight = _normalised(beta * log)
        if 1 / float(np.square(weight).sum()) >= least:
            break
        beta *= 0.7
    return weight


def _towards(log: Array, guide: Array, least: float) -> Array:
    """Return weights for the next mixture: half by the posterior, half by what leads to where it is not negligible."""
    return 0.5 * (tempered(log, least) + tempered(guide, least))


def _candidates(
    start: Round, per_mm: float, unit: float, random: np.random.Generator, count: int, *, spike: bool
) -> Array:
    """Return points (place, ln scale, both components in pixels), shape (count, 4), to start from.

    With `spike` places and scales follow the round posterior, and the astigmatism does not show. Else places are drawn
    wider, and displaced by the astigmatism to either side, since without it the focus is seen at a line focus.
    """
    share = start.probability if spike else start.probability**0.3
    cumulative = np.cumsum(share)
    where = (np.arange(count) + random.random(count)) / count
    index = np.minimum(np.searchsorted(cumulative / cumulative[-1], where), len(start.places) - 1)
    gaps = np.gradient(start.places)
    place = start.places[index] + (random.random(count) - 0.5) * gaps[index]
    by_scale = start.by_scale if spike else start.by_scale**0.5
    scale_index = random.choice(len(start.scales), count, p=by_scale / by_scale.sum())
    scale = start.scales[scale_index] + (random.random(count) - 0.5) * np.gradient(start.scales)[scale_index]
    if spike:
        x, y = random.normal(0.0, SPIKE * unit, (2, count))
    else:
        amount, turn = random.gamma(1.5, LENGTH * unit, count), random.uniform(0, 2 * math.pi, count)
        x, y = amount * np.cos(turn), amount * np.sin(turn)
        place = place + random.integers(-1, 2, count) * amount / (per_mm * np.exp(scale))
    order = random.permutation(count)
    return np.stack([np.clip(place, start.low, start.high)[order], scale[order], x, y], axis=1)


def _spike_evidence(target: _Target, seen: _Seen) -> float:
    """Return the log evidence of no astigmatism, from draws of the round posterior, whose density is known."""
    points, log = seen.points, target.log_likelihood(seen)
    start = target.start
    density = np.interp(points[:, 0], start.places, np.log(start.probability / np.gradient(start.places) + 1e-300))
    step = np.gradient(start.scales)
    nearest = np.abs(points[:, 1, None] - start.scales).argmin(axis=1)
    density = density + np.log(start.by_scale[nearest] / start.by_scale.sum() / step[nearest] + 1e-300)
    log = log + start.log_prior(points[:, 0]) + start.log_scale_prior(points[:, 1]) - density
    return float(np.log(np.mean(np.exp(log - log.max()))) + log.max())


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Points, and how far every pair of frames disagrees with them.

    Parameters
    ----------
    points : ndarray of shape (N, n)
        Place, ln scale, both components in pixels, and unknowns.
    signed, parts : list of ndarray
        Of every frame defocus, shape (N,), and both components of astigmatism, shape (N, 2), in pixels of blur.
    squares : list of ndarray of shape (N,)
        Of every pair, the sum of squares.
    """

    points: Array
    signed: list[Array]
    parts: list[Array]
    squares: list[Array]


class _Target:
    """Log of prior times likelihood at points (place, ln scale, x, y in pixels), shape (N, 4)."""

    def __init__(
        self,
        sightings: Sequence[Sighting],
        pairs: Mapping[tuple[int, int], float],
        half_angles: Sequence[float],
        pixel: float,
        per_mm: float,
        unit: float,
        start: Round,
        trust: Sequence[tuple[float, float]],
        corrects: bool,
    ) -> None:
        self.start, self._trust, self._corrects = start, trust, corrects
        self._length = (_LENGTH_TO_CORRECT if corrects else LENGTH) * unit
        added = per_mm * np.array([np.subtract(s.added, sightings[-1].added) for s in sightings])
        self.unknown = np.flatnonzero(added[:, 1:].any(axis=0)).tolist()
        self._added = added[:, [0, *(1 + j for j in self.unknown)]]
        self._sightings, self._pairs = sightings, pairs
        self._at_end = per_mm * np.array(sightings[-1].added)[[0, *(1 + j for j in self.unknown)]]
        self._compared = sorted({k for pair in pairs for k in pair})
        self._per_mm = [angle / s.pixel for angle, s in zip(half_angles, sightings, strict=True)]
        self._growth = [pixel / s.pixel for s in sightings]
        spectra = {k: _spectrum(sightings[k]) for k in self._compared}
        self._tables = [_pair(spectra[i], spectra[j]) for i, j in pairs]
        along = sector_directions(list(spectra.values()))
        self._cos, self._sin = (part.astype(np.float32)[:, None] for part in (along.real, along.imag))
        shown = max(self._tables, key=lambda table: table.directions)
        self.directions = shown.directions
        self.axis = complex(shown.shares @ along), complex(shown.shares @ along**2)
        self._least = [math.inf] * len(pairs)
        self.gaps = np.unique([s.working_distance for s in sightings])

    def seen(self, points: Array) -> _Seen:
        """Return points with the disagreement of every pair; the least one met is what the pair can reach."""
        signed, parts = self._ellipses(points)
        blocks = [slice(k, k + _BLOCK) for k in range(0, len(points), _BLOCK)]
        found = [self._disagreements([z[block] for z in signed], [part[block] for part in parts]) for block in blocks]
        squares = [np.concatenate(each) for each in zip(*found, strict=True)]
        self._least = [min(least, float(each.min())) for least, each in zip(self._least, squares, strict=True)]
        return _Seen(points, signed, parts, squares)

    def __call__(self, seen: _Seen) -> Array:
        return np.asarray(self.both(seen)[0])

    def both(self, seen: _Seen) -> Array:
        """Return the log posterior, and the same without outliers, shape (2, N).

        Where pairs are sharp, nearly every point is an outlier to them, and how far it is from the focus cannot be
        seen in the first; the second falls all the way.
        """
        frames = self._log_frames(seen) + self._log_prior(seen.points)
        return np.stack([frames + self._log_pairs(seen, outlier) for outlier in (_OUTLIER, 0.0)])

    def _log_prior(self, points: Array) -> Array:
        amount = np.hypot(points[:, 2], points[:, 3])
        if self._corrects:  # What was taken off says nothing of what remains: the prior is that of the start.
            added = np.exp(points[:, 1]) * _added(self._at_end, points[:, 4:])
            amount = np.abs(points[:, 2] + 1j * points[:, 3] - added)
        log = -amount / self._length - math.log(2 * math.pi * self._length**2)
        log = log - 0.5 * np.square(points[:, 4:]).sum(axis=1)
        inside = (points[:, 0] >= self.start.low) & (points[:, 0] <= self.start.high)
        log = log + self.start.log_prior(points[:, 0]) + self.start.log_scale_prior(points[:, 1])
        return np.where(inside, log, -1e6)

    def log_likelihood(self, seen: _Seen) -> Array:
        """Return the log-likelihood of all frames and pairs, shape (N,)."""
        return self._log_pairs(seen, _OUTLIER) + self._log_frames(seen)

    def _log_pairs(self, seen: _Seen, outlier: float) -> Array:
        log = np.zeros(len(seen.points))
        shares = self._pairs.values()
        for share, least, table, squares in zip(shares, self._least, self._tables, seen.squares, strict=True):
            log += share * log_agreement(squares, least, table.terms, outlier)
        return log

    def _log_frames(self, seen: _Seen) -> Array:
        return log_frames(self._sightings, seen.signed, seen.parts, self._growth, self._trust)

    def _ellipses(self, points: Array) -> tuple[list[Array], list[Array]]:
        """Return of every frame z in pixels of blur, with its sign, and both components of astigmatism in pixels."""
        stretch = np.exp(points[:, 1])
        signed = [
            (s.working_distance - points[:, 0]) * stretch * per_mm
            for s, per_mm in zip(self._sightings, self._per_mm, strict=True)
        ]
        last = points[:, 2:4]
        parts = []
        for added in self._added:
            both = stretch * _added(added, points[:, 4:]) if added.any() else None
            parts.append(last if both is None else last + np.stack([both.real, both.imag], axis=1))
        return signed, parts

    def _disagreements(self, signed: list[Array], parts: list[Array]) -> list[Array]:
        """Return the sum of squares of every pair, each of shape (N,)."""
        placed = {}
        for k in self._compared:
            z, growth = signed[k].astype(np.float32), np.float32(self._growth[k])
            x, y = growth * parts[k].astype(np.float32).T
            squared = (2 * z * x) * self._cos
            squared += z * z + x * x + y * y
            squared += (2 * z * y) * self._sin
            np.maximum(squared, 0.0, out=squared)
            placed[k] = sector_position(np.sqrt(squared, out=squared))
        return [table(placed[i], placed[j]) for table, (i, j) in zip(self._tables, self._pairs, strict=True)]


def _spectrum(sighting: Sighting) -> Spectrum:
    assert sighting.spectrum is not None
    return sighting.spectrum


def log_agreement(squares: Array, least: float, terms: float, outlier: float = _OUTLIER) -> Array:
    """Return the log-likelihood of a pair from its sums of squares; the least one met is what the pair can reach."""
    scale = max(_LEAST_SCALE, 2 * least / max(terms, 1.0))
    log = -0.5 * np.maximum(squares - least, 0.0) / scale
    return np.asarray(np.log((1 - outlier) * np.exp(log) + outlier) if outlier else log)


UNREAD = 0.1
"""Probability of a sample of which a network misreads all frames, where one of them contradicts what is read off it."""

LOG_ANY_BLUR = math.log(1 / 5)
"""ln of the density of ln(1 + blur radius) that is read off a frame at random."""

_FLOORS = np.array([0.0, 1.0, 2.5], np.float32)[:, None]
_LOG_FLOOR_PRIOR = np.log(np.array([0.5, 0.32, 0.18], np.float32))[:, None]
_SIGMA_FACTOR = 0.9
_WIDEST = 150.0
_NOISE_RADIUS, _NOISE_WIDTH = 16.0, 0.5
"""Blur at which half of the samples have nothing left to show: fine patterns vanish early."""
_MISLED = 0.45
"""A network that reports one radius may report any between those of an ellipse: σ, as a share of their distance."""


def log_frames(
    sightings: Sequence[Sighting],
    signed: Sequence[Array],
    parts: Sequence[Array],
    growth: Sequence[float],
    trust: Sequence[tuple[float, float]],
) -> Array:
    """Return the log-likelihood of what AENet reports of every frame, shape (N,), whatever the floor under the blur.

    Parameters
    ----------
    sightings : sequence of Sighting
        All frames.
    signed : sequence of ndarray of shape (N,)
        Defocus of every frame, in pixels of blur radius, with its sign.
    parts : sequence of ndarray of shape (N, 2)
        Both components of the astigmatism of every frame, in pixels of the magnification to focus for.
    growth : sequence of float
        Pixels of every frame that such a pixel is.
    trust : sequence of tuple of float
        As in `sample`.
    """
    total = np.broadcast_to(_LOG_FLOOR_PRIOR, (len(_FLOORS), len(signed[0])))
    unread: Array | float = log_unread(sightings)
    amounts = {key: np.hypot(part[:, 0], part[:, 1]) for key, part in {id(part): part for part in parts}.items()}
    for sighting, z, part, scale, (outlier, least) in zip(sightings, signed, parts, growth, trust, strict=True):
        distance = np.abs(z).astype(np.float32)
        share = (scale * amounts[id(part)]).astype(np.float32)
        larger, smaller = distance + share, np.abs(distance - share)
        if not sighting.structure:
            noise = log_noise(larger)
            total, unread = total + noise, unread + noise
            continue
        unread = unread + LOG_ANY_BLUR
        log_larger, log_smaller = (
            np.log(1 + np.minimum(np.sqrt(radius * radius + _FLOORS**2), np.float32(_WIDEST)))
            for radius in (larger, smaller)
        )
        likelihood = _one_radius(sighting, log_larger, log_smaller, least)
        total = total + np.log((1 - outlier) * likelihood + outlier * math.exp(LOG_ANY_BLUR))
    peak = total.max(axis=0)
    read = peak + np.log(np.exp(total - peak).sum(axis=0))
    return np.asarray(np.logaddexp(read, unread) if np.any(unread > -math.inf) else read, float)


def log_unread(sightings: Sequence[Sighting]) -> float:
    """Return the log of the prior probability of a sample of which a network misreads all frames."""
    return math.log(UNREAD) if any(s.misread for s in sightings) else -math.inf


def log_noise(radius: Array) -> Array:
    """Return the log-likelihood of a frame that shows nothing but noise, for blur radii in pixels."""
    beyond = (np.log(np.maximum(radius, 1e-3)) - math.log(_NOISE_RADIUS)) / _NOISE_WIDTH
    return np.asarray(np.log(0.02 + 0.98 / (1 + np.exp(-beyond))))


def _one_radius(sighting: Sighting, larger: Array, smaller: Array, least: float) -> Array:
    sigma = math.hypot(_SIGMA_FACTOR * math.exp(sighting.log_sigma), least)
    spread = np.sqrt(sigma**2 + np.square(_MISLED * (larger - smaller)))
    residual = (0.5 * (larger + smaller) - sighting.log_blur) / spread
    return np.asarray(np.exp(-0.5 * residual**2) / (spread * math.sqrt(2 * math.pi)))


def moments(points: Array, weight: Array) -> tuple[Array, Array]:
    """Return mean and covariance of weighted points, shapes (n,) and (n, n)."""
    share = weight / weight.sum()
    mean = share @ points
    away = points - mean
    return mean, (away * share[:, None]).T @ away


class _Mixture:
    """Student's t distributions: a few for every gap between frames that holds weight."""

    def __init__(self, points: Array, weight: Array, gaps: Array, least: Array, random: np.random.Generator) -> None:
        group = np.searchsorted(gaps, points[:, 0])
        mass = np.bincount(group, weight, len(gaps) + 1)
        components: list[tuple[float, Array, Array]] = []
        for k in np.flatnonzero(mass >= 0.01):
            member = group == k
            components += _components(
                points[member], weight[member], least, random, max(round(_COMPONENTS * float(mass[k])), 1)
            )
        shares, means, covariances = zip(*components, strict=True)
        self._shares = 0.1 / len(shares) + 0.9 * np.array(shares) / sum(shares)
        self._means = np.array(means)
        self._roots = np.linalg.cholesky(np.array(covariances))
        self._inverse = np.linalg.inv(self._roots)

    def draw(self, count: int, random: np.random.Generator) -> Array:
        """Return points, shape (count, n)."""
        which = np.searchsorted(np.cumsum(self._shares)[:-1], (np.arange(count) + random.random(count)) / count)
        tail = np.sqrt(_FREEDOM / random.chisquare(_FREEDOM, count))
        normal = random.normal(size=(count, self._means.shape[1])) * tail[:, None]
        return np.asarray(self._means[which] + (self._roots[which] @ normal[..., None])[..., 0])

    def log_density(self, points: Array) -> Array:
        """Return the log of the density at points, shape (N,)."""
        size = points.shape[1]
        constant = math.lgamma(0.5 * (_FREEDOM + size)) - math.lgamma(0.5 * _FREEDOM)
        constant -= 0.5 * size * math.log(math.pi * _FREEDOM)
        away = (points - self._means[:, None]) @ self._inverse.swapaxes(1, 2)
        log = constant + np.log(np.diagonal(self._inverse, axis1=1, axis2=2)).sum(axis=1)
        tails = np.log1p((away * away).sum(axis=2) / _FREEDOM)
        densities = self._shares[:, None] * np.exp(log[:, None] - 0.5 * (_FREEDOM + size) * tails)
        return np.log(np.maximum(densities.sum(axis=0), 1e-300))


def _components(
    points: Array, weight: Array, least: Array, random: np.random.Generator, count: int
) -> list[tuple[float, Array, Array]]:
    """Return share, mean and covariance of a few components: points go to the nearest of those drawn by weight."""
    mass = float(weight.sum())
    mean, whole = moments(points, weight)
    whole += np.diag(least**2)
    if count == 1:
        return [(mass, mean, 1.25 * whole)]
    centres = points[random.choice(len(points), count, p=weight / mass)]
    inverse = np.linalg.inv(np.linalg.cholesky(whole)).T
    flat, middle = points @ inverse, centres @ inverse
    nearest = ((middle * middle).sum(axis=1) - 2 * flat @ middle.T).argmin(axis=1)
    found = []
    for k in range(count):
        member = nearest == k
        share = float(weight[member].sum())
        if share > 0.02 * mass:
            mean, covariance = moments(points[member], weight[member])
            found.append((share, mean, 1.2 * covariance + 0.05 * whole))
    return found
