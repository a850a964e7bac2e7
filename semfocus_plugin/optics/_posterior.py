"""Where the focus lies, given the blur of every frame so far: a Bayesian filter over working distance.

A frame at working distance w shows a disc of radius r = α |w − w*| / pixel, and AENet reports ln(1 + r) with
its uncertainty. One frame leaves two places; two frames at different w leave one. Two frames also compare: the ratio of
their power spectra shows both blurs, whatever the sample (`semfocus_plugin.optics`). Three things are not known
and are carried along: the place w*, the aperture (α = aperture radius / working distance), and a floor under
the blur (probe core, a sample that is soft by nature).

Astigmatism that shows is a hypothesis of its own, with two more unknowns (`semfocus_plugin.optics`): the posterior is
the mixture of both, each weighted by how well the frames agree with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semfocus_plugin.optics._elliptic as elliptic
from semfocus_plugin.optics._nominal import TUNGSTEN, Beam, depth_of_field
from semfocus_plugin.optics._sighting import Sighting
from semfocus_plugin.optics._spectra import SECTOR_ANGLES, Pair

Array = NDArray[Any]

WIDEST = 150.0
"""Blur radius in pixels beyond which all frames look alike."""

_SCALES = np.array([-1.2, -0.8, -0.5, -0.28, -0.12, 0.0, 0.12, 0.28, 0.5, 0.8, 1.2, 1.6])
"""ln(aperture / expected)."""
_LEAST_SCALE = -0.2
_NOMINAL_SHARE, _KNOWN_SHARE = 0.35, 0.9
"""Of the prior: at the aperture expected, nominal or known; the rest is spread over a factor of two."""
_LEAST_SIGMA = 0.08
_ASTIGMATIC_SHARE = 1e-3
"""Probability of astigmatism below which its samples are left out."""
_FLOORS = np.array([0.0, 0.7, 1.4, 2.1, 3.0], np.float32)
_FLOOR_PRIOR = np.array([0.4, 0.25, 0.15, 0.1, 0.1])
_SIGMA_FACTOR = 0.9
_SIGMA_FLOOR = 0.06
_OUTLIER = 0.02
_JOINT = 1.6
"""What comparisons of many frames count besides: without it standard deviations are larger than errors by its root."""
_DIRECTED = 0.6
"""Length of the mean direction of what a sample shows, from which it shows along one: 1 for stripes."""
DIRECTIONS = 5
"""Sectors of eight in which the sample must show, to distinguish astigmatism from the sample's own direction."""

_ONE_WAY, _SEVERAL = 0.8, 0.5
"""Mean of exp(4iφ) from which a pattern lies along one direction φ, or across it too; of exp(2iφ) below which both."""

_LINES = 0.985
"""Mean of exp(2iφ) from which a sample is one of lines, though what its lines leak shows in more directions."""

MISLED_SIGMA, MISLED_SHARE = 0.9, 0.4
_NEAR_PRIOR = 60.0
"""The prior falls as 1/distance from the first frame, faster beyond the distance that blurs it by this many pixels."""
_USUAL, _USUAL_WIDTH = math.log(12.0), 0.6
"""Working distances that microscopists work at, as a log-normal prior: ln mm. It only separates sides far apart."""
_TAIL_QUANTILE = 0.35
_IN_SIGHT = np.geomspace(8.0, 40.0, 6)
"""Blur radii in pixels up to which samples show anything."""
_HINT, _FAR = 5.0, math.log(30.0)
"""By how much a blur that is read off noise makes its places likelier, and ln(1 + radius) up to which one does."""
_COARSE, _FINE, _MOST, _PER_UNIT = 1600, 320, 6400, 5
"""Nodes of a grid, and those to a depth of field."""
_BLOCK = 400
"""Nodes that are computed at a time: what that takes fits into the processor's cache."""
_RADII = np.geomspace(0.005, WIDEST, 4096, dtype=np.float32)
"""Blur radii of the table of a frame's likelihood, pixels."""
_LOG_LEAST, _PER_LOG = math.log(_RADII[0]), (len(_RADII) - 1) / math.log(_RADII[-1] / _RADII[0])


@dataclass(frozen=True, slots=True)
class Estimate:
    """A piece of the working-distance axis, and how likely the focus is in it.

    Parameters
    ----------
    working_distance : float
        Mean of the posterior within the piece, mm.
    mass : float
        Probability of the piece.
    half_width : float
        mm.
    unit : float
        Depth of field there, mm, with the aperture as estimated.
    """

    working_distance: float
    mass: float
    half_width: float
    unit: float


@dataclass(frozen=True, slots=True)
class Residual:
    """Astigmatism that the frames show, as far as they show it.

    Parameters
    ----------
    x, y : float
        a cos 2θ and a sin 2θ, mm, `a` being half the distance between the line foci.
    sigma : float
        Standard deviation of each, mm.
    mode : float
        The same where the sign is what the likelier half of the posterior says: a pattern along one direction shows the
        amount first, and its sign once the stigmator was moved.
    unseen : float or None
        Direction in degrees, 0 to 90, of the component that the sample does not show, where there is one: that along it
        and across it. `x` and `y` are without it, and the place of the focus is where the pattern is sharp.
    """

    x: float
    y: float
    sigma: float
    mode: float
    unseen: float | None = None

    @property
    def amount(self) -> float:
        """Mm."""
        return math.hypot(self.x, self.y)


class Posterior:
    """Probability of the focus over working distance, on a grid that follows where the mass is.

    Parameters
    ----------
    sightings : list of Sighting
        All frames.
    low, high : float
        Interval that the focus may lie in, mm.
    pixel : float
        Pixel, in mm, at the magnification to focus for; sets the depth of field.
    beam : Beam
        Its half-angle; even a known one is only likely.
    core : float
        Diameter of the focused probe, mm; sets the depth of field.
    stigmates : bool
        Whether the run corrects the stigmator: the place for a pattern along one direction is where that is sharp.
    previous : Posterior, optional
        Of the same run, where the sampling starts.

    Attributes
    ----------
    period : float or None
        Pixels after which the sample repeats itself; None where it does not.
    unread : float
        Probability that the network misreads the sample in every frame: only comparisons of frames say where the focus
        is then. Astigmatism that shows explains such frames otherwise.
    """

    def __init__(
        self,
        sightings: list[Sighting],
        low: float,
        high: float,
        pixel: float,
        beam: Beam | None = None,
        core: float = TUNGSTEN,
        stigmates: bool = False,
        previous: Posterior | None = None,
    ) -> None:
        self.pixel = pixel
        self.core = core
        self.beam = Beam() if beam is None else beam
        self._scale_prior = _scale_prior(self.beam.sigma)
        # Of samples that the network misreads, comparisons alone count, and those with the sharpest frame say most.
        misled, misread = (any(each) for each in zip(*((s.misled, s.misread) for s in sightings), strict=True))
        every = not misread and ((stigmates and not misled) or _directed(sightings))
        self._pairs = _every_pair(sightings) if every else dict.fromkeys(_comparisons(sightings), 1.0)
        self._stigmates = stigmates
        self._previous = None if previous is None else previous._samples
        self._unknowns = len(sightings[-1].added) - 1
        self._stigmated = any(s.added != sightings[-1].added for s in sightings)
        here = [s for s in sightings if s.added == sightings[-1].added]
        waves = [s.spectrum for s in sightings if s.spectrum is not None and s.wave]
        strongest = max(waves, key=lambda found: found.peak, default=None)
        self.period = None if strongest is None else strongest.period
        self._samples: elliptic.Samples | None = None
        self._evaluate(here, low, high, _COARSE)
        self._look_closer(here, low, high)
        if self._pairs:
            self._add_astigmatism(sightings, low, high)

    def _look_closer(self, sightings: list[Sighting], low: float, high: float) -> None:
        cumulative = np.cumsum(self.probability)
        first, last = np.searchsorted(cumulative, [5e-4, 1 - 5e-4])
        margin = 2 * (self.places[1] - self.places[0])
        fine_low, fine_high = self.places[first] - margin, self.places[min(last, _COARSE - 1)] + margin
        if fine_high - fine_low < 0.5 * (high - low):
            self._evaluate(sightings, max(low, fine_low), min(high, fine_high), _FINE)

    def _evaluate(self, sightings: list[Sighting], low: float, high: float, count: int) -> None:
        self.places = np.linspace(low, high, count)
        blocks = [self._log_joint(sightings, each) for each in np.array_split(self.places, -(-count // _BLOCK))]
        top = max(float(log.max()) for log in blocks)
        for log in blocks:
            log -= top
            np.exp(log, out=log)
        weight = np.concatenate([joint.sum(axis=0) for joint in blocks], axis=1)
        unread = np.concatenate([joint[-1] for joint in blocks], axis=1)
        by_place = weight.sum(axis=0)
        self._by_scale = weight.sum(axis=1)
        self.unread = float(unread.sum() / weight.sum())
        self.probability = by_place / by_place.sum()
        self._scale = float(self._by_scale @ _SCALES / self._by_scale.sum())

    def _log_prior(self, first: Sighting) -> Callable[[Array], Array]:
        """Return the log of the prior density, not normalised, as a function of places (mm)."""
        reach = _NEAR_PRIOR * first.pixel / float(self.beam.angle(first.working_distance))
        usual = self.beam.at is not None

        def log_prior(places: Array) -> Array:
            away = np.abs(places - first.working_distance) / reach
            log = -np.log(0.03 + away) - 0.5 * np.log1p(away**2)
            if usual:
                log = log - 0.5 * ((np.log(np.maximum(places, 1e-3)) - _USUAL) / _USUAL_WIDTH) ** 2
            return np.asarray(log)

        return log_prior

    def _log_joint(self, sightings: list[Sighting], places: Array) -> Array:
        """Return it for every floor, scale and place, and last for a sample that is misread: shape (6, 12, N)."""
        compared = (np.log(self._scale_prior)[:, None] + self._log_prior(sightings[0])(places)).astype(np.float32)
        radii = [self._radius(s, places) for s in sightings]
        for i, j in _comparisons(sightings):
            one, other = sightings[i].spectrum, sightings[j].spectrum
            assert one is not None
            assert other is not None
            compared += _pair(one, other)(radii[i], radii[j])
        log_floors = np.append(np.log(_FLOOR_PRIOR), elliptic.log_unread(sightings))
        log = compared + log_floors.astype(np.float32)[:, None, None]
        for sighting, radius in zip(sightings, radii, strict=True):
            likelihood = _log_likelihood(sighting, radius)
            log[:-1] += likelihood
            log[-1] += elliptic.LOG_ANY_BLUR if sighting.structure else likelihood[0]
        return log

    def _add_astigmatism(self, sightings: list[Sighting], low: float, high: float) -> None:
        """Mix in the posterior with astigmatism that shows; it is the whole where the stigmator was moved."""
        density = np.log(self._scale_prior / np.gradient(_SCALES))
        middle = float(self.probability @ self.places)
        start = elliptic.Round(
            low,
            high,
            self.places,
            self.probability,
            _SCALES,
            self._by_scale,
            self._log_prior(sightings[0]),
            lambda scale: np.interp(scale, _SCALES, density) - 200 * np.maximum(np.abs(scale) - 1.8, 0.0),
        )
        angles = [float(self.beam.angle(s.working_distance)) for s in sightings]
        trust = [_trust(s) for s in sightings]
        at_focus = float(self.beam.angle(middle))
        unit = math.hypot(self.pixel, self.core) / self.pixel
        found = elliptic.sample(
            *(sightings, self._pairs, start, angles, self.pixel, at_focus, unit, trust, self._stigmates, self._previous)
        )
        if found is not None and self._stigmated:
            found = replace(found, probability=1.0)
        self._samples = found
        if found is not None and found.probability >= _ASTIGMATIC_SHARE:
            self._mix_in(found)

    def _mix_in(self, found: elliptic.Samples) -> None:
        share = found.probability
        self.unread *= 1 - share
        middle = float(self.probability @ self.places)
        axis = _pattern(found) if self._stigmates else None
        along = 0.0 if axis is None or axis[1] else found.x * axis[0].real + found.y * axis[0].imag
        nodes = np.concatenate([self.places, found.place - along])
        weight = np.concatenate([(1 - share) * self.probability, share * found.weight])
        order = np.argsort(nodes)
        first, last = np.searchsorted(np.cumsum(weight[order]), [5e-4, 1 - 5e-4])
        low, high = (nodes[order[min(end, len(order) - 1)]] for end in (first, last))
        margin = 0.05 * (high - low) + self.unit(middle) / _PER_UNIT
        count = int(min(max((high - low + 2 * margin) / self.unit(middle) * _PER_UNIT, _FINE), _MOST))
        places = np.linspace(low - margin, high + margin, count)
        step = places[1] - places[0]
        edges = np.concatenate([places - 0.5 * step, [places[-1] + 0.5 * step]])
        mixed, _ = np.histogram(nodes, edges, weights=weight)
        self.places, self.probability = places, mixed / mixed.sum()
        self._scale = (1 - share) * self._scale + share * float(found.weight @ found.scale)

    def unknowns(self) -> tuple[Array, Array]:
        """Return mean and covariance of the unknowns of the stigmator, in standard deviations before the run."""
        mean, covariance = np.zeros(self._unknowns), np.eye(self._unknowns)
        samples = self._samples
        if samples is not None and any(samples.seen):
            seen = np.flatnonzero(samples.seen)
            mean[seen], covariance[np.ix_(seen, seen)] = elliptic.moments(samples.unknowns[:, seen], samples.weight)
        return mean, covariance

    def measured_beam(self) -> Beam:
        """Return the half-angle that the frames say, what was known of it included."""
        share = self._by_scale / self._by_scale.sum()
        mean = float(share @ _SCALES)
        variance = float(share @ (_SCALES - mean) ** 2)
        if self._samples is not None:
            s, p = self._samples, self._samples.probability
            other = float(s.weight @ s.scale)
            spread = float(s.weight @ (s.scale - other) ** 2)
            both = (1 - p) * mean + p * other
            variance = (1 - p) * (variance + (mean - both) ** 2) + p * (spread + (other - both) ** 2)
            mean = both
        return Beam(self.beam.half_angle * math.exp(mean), self.beam.at, math.sqrt(variance))

    @property
    def astigmatic(self) -> float:
        """Probability of astigmatism that shows."""
        return 0.0 if self._samples is None else self._samples.probability

    def astigmatism(self) -> tuple[float, float, float] | None:
        """Return a cos 2θ, a sin 2θ and the standard deviation of each, mm.

        None before frames are compared, and where the sample shows in too few directions.

        `a` is half the distance between the line foci, θ the axis whose disc is α |z + a|.
        """
        if self._samples is None or self._samples.directions < DIRECTIONS:
            return None
        s = self._samples
        x, y = float(s.weight @ s.x), float(s.weight @ s.y)
        spread = float(s.weight @ ((s.x - x) ** 2 + (s.y - y) ** 2))
        return x, y, math.sqrt(0.5 * spread)

    def residual(self) -> Residual | None:
        """Return the astigmatism, as far as the sample shows it: a pattern may lie along one direction or two."""
        s = self._samples
        axis = None if s is None else _pattern(s)
        if s is None or axis is None:
            found = self.astigmatism()
            return None if found is None else Residual(*found, mode=found[2])
        turn, both = axis
        plane = (s.x + 1j * s.y) * turn.conjugate()
        # Across the pattern's own axis a frame shows the amount alone: both signs are alike until the stigmator moves.
        positive = plane.imag > 0
        mass = float(s.weight @ positive)
        half = s.weight * (positive if mass >= 0.5 else ~positive)
        half = half / half.sum()
        mean = complex(half @ plane)
        spread, whole = (float(w @ np.square(plane.imag - mean.imag)) for w in (half, s.weight))
        if both:
            along = float(half @ np.square(plane.real - mean.real))
            spread, whole = 0.5 * (spread + along), 0.5 * (whole + along)
        mean = (mean if both else 1j * mean.imag) * turn
        unseen = None if both else round(math.degrees(0.5 * math.atan2(turn.imag, turn.real)), 1) % 90.0
        return Residual(mean.real, mean.imag, math.sqrt(whole), math.sqrt(spread), unseen)

    def _radius(self, s: Sighting, places: Array) -> Array:
        """Return the disc of every scale and place, pixels."""
        alpha = float(self.beam.angle(s.working_distance))
        distance = (np.abs(places - s.working_distance) * (alpha / s.pixel)).astype(np.float32)
        return np.exp(_SCALES).astype(np.float32)[:, None] * distance

    def unit(self, working_distance: float) -> float:
        """Depth of field in mm at a working distance, with the aperture as estimated.

        An aperture that seems much smaller than expected is not believed here: it would make every claim coarser.
        """
        alpha = float(self.beam.angle(working_distance)) * math.exp(max(self._scale, _LEAST_SCALE))
        return depth_of_field(self.pixel, self.core, alpha)

    def best(self, half_width: float) -> Estimate:
        """Return the likeliest piece of the given half-width (mm)."""
        step = self.places[1] - self.places[0]
        reach = max(1, round(2 * half_width / step))
        if reach >= len(self.places):
            first, last = 0, len(self.places)
        else:
            cumulative = np.concatenate([[0.0], np.cumsum(self.probability)])
            first = int(np.argmax(cumulative[reach:] - cumulative[:-reach]))
            last = first + reach
        piece = self.probability[first:last]
        mass = float(piece.sum())
        mean = float(piece @ self.places[first:last] / max(mass, 1e-12))
        mass *= min(1.0, 2 * half_width / step)  # a cell may be wider than the piece
        return Estimate(mean, mass, half_width, self.unit(mean))

    def quantiles(self, pieces: int = 32) -> tuple[float, ...]:
        """Return the ends of `pieces` intervals that are equally probable, mm, to 1 nm."""
        step = self.places[1] - self.places[0]
        cumulative = np.concatenate([[0.0], np.cumsum(self.probability)])
        edges = np.concatenate([self.places - 0.5 * step, [self.places[-1] + 0.5 * step]])
        shares = np.linspace(0, 1, pieces + 1)
        # The outermost ends leave out what cannot be seen: the grid goes on where there is no probability.
        shares[0], shares[-1] = 1e-3, 1 - 1e-3
        return tuple(np.round(np.interp(shares * cumulative[-1], cumulative, edges), 6).tolist())

    def mass_between(self, low: float, high: float) -> float:
        """Return the probability of an interval (mm)."""
        return float(self.probability[(self.places >= low) & (self.places <= high)].sum())

    def likeliest_gap(self, taken: list[float], low: float, high: float) -> float:
        """Return a place in the likeliest gap, from `low` to `high`, between places (mm) where frames have been taken.

        Within a gap it is the median. Beyond the outermost frame it is a little nearer than that: the posterior has a
        long tail there, and a step too far costs more than one too short.
        """
        within = (self.places >= low) & (self.places <= high)
        if not self.probability[within].any():
            return min(max(float(self.probability @ self.places), low), high)
        inside = self.places[within]
        edges = np.searchsorted(inside, sorted(taken))
        gaps = np.split(self.probability[within], edges)
        places = np.split(inside, edges)
        masses = [float(gap.sum()) for gap in gaps]
        k = int(np.argmax(masses))
        share = {0: 1 - _TAIL_QUANTILE, len(gaps) - 1: _TAIL_QUANTILE}.get(k, 0.5) if len(gaps) > 1 else 0.5
        index = int(np.searchsorted(np.cumsum(gaps[k]), share * masses[k]))
        return float(places[k][min(index, len(places[k]) - 1)])

    def in_the_dark(self, sightings: list[Sighting], low: float, high: float) -> float | None:
        """Return the place (mm) where a frame likeliest shows the sample, given frames that all show nothing.

        How far out of focus a sample shows anything is its own: blur radii of 8 to 40 pixels are equally likely. A
        network may see few particles in what is noise otherwise, so places of the blur that it reads are likelier. None
        where nothing within 300 pixels of the first frame is left.
        """
        first = sightings[0]
        per_pixel = first.pixel / float(self.beam.angle(first.working_distance))
        places = first.working_distance + np.arange(-300.0, 301.0, 2.0) * per_pixel
        places = places[(places >= low) & (places <= high)]
        taken = np.array([s.working_distance for s in sightings])
        dark = np.abs(places[:, None] - taken) * (self.beam.angle(taken) / first.pixel)
        share = np.exp(self._log_prior(first)(places))[:, None] * (dark.min(axis=1)[:, None] > _IN_SIGHT)
        for column, s in zip(dark.T, sightings, strict=True):
            read = np.exp(-0.5 * ((np.log1p(column) - s.log_blur) / math.exp(s.log_sigma)) ** 2)
            share *= (1 + _HINT * read * (s.log_blur < _FAR))[:, None]
        away = np.abs(places[:, None] - places) * (self.beam.angle(places) / first.pixel)
        seen = sum(share[:, k] @ (away <= radius) for k, radius in enumerate(_IN_SIGHT))
        return float(places[int(np.argmax(seen))]) if np.any(share) else None

    def narrowest(self, mass: float) -> Estimate:
        """Return the narrowest likeliest piece that has `mass`; half-widths grow by 1.5 from one depth of field."""
        half_width = self.unit(float(self.probability @ self.places))
        while True:
            piece = self.best(half_width)
            if piece.mass >= mass or half_width > self.places[-1] - self.places[0]:
                return piece
            half_width *= 1.5


def _trust(sighting: Sighting) -> tuple[float, float]:
    """Return how likely the blur of a frame is misread, and the least standard deviation of ln(1 + radius) if not."""
    return (MISLED_SHARE, MISLED_SIGMA) if sighting.misled else (_OUTLIER, _SIGMA_FLOOR)


def _pattern(samples: elliptic.Samples) -> tuple[complex, bool] | None:
    """Return exp(2iφ) of a pattern along φ, and whether it lies across φ too; None for a sample of more directions."""
    once, twice = samples.axis
    several = samples.directions >= DIRECTIONS and abs(once) < _LINES
    if several or not samples.directions or abs(twice) < _ONE_WAY:
        return None
    turn = complex(np.sqrt(twice / abs(twice)))
    return turn if (once * turn.conjugate()).real >= 0 else -turn, abs(once) < _SEVERAL


def _scale_prior(sigma: float | None) -> Array:
    """Return the prior over `_SCALES`, given the standard deviation of ln aperture where it is known."""
    share = _NOMINAL_SHARE if sigma is None else _KNOWN_SHARE
    width = 0.1 if sigma is None else max(sigma, _LEAST_SIGMA)
    narrow = np.exp(-0.5 * (_SCALES / width) ** 2) / width
    wide = np.exp(-0.5 * (_SCALES / 0.6) ** 2) / 0.6
    return np.asarray(np.gradient(_SCALES) * (share * narrow + (1 - share) * wide))


def _log_likelihood(s: Sighting, radius: Array) -> Array:
    """Return it for every floor, and radius in pixels; for one floor where the frame shows nothing but noise."""
    radius = np.maximum(radius, np.float32(_RADII[0]))
    nearest = (np.log(radius) * np.float32(_PER_LOG) + np.float32(0.5 - _LOG_LEAST * _PER_LOG)).astype(np.intp)
    return _likelihood_table(s.log_blur, s.log_sigma, s.structure, s.misled).take(nearest, axis=1, mode="clip")


@lru_cache(maxsize=1)
def _log_radii() -> Array:
    """Return ln(1 + `_RADII`) for every floor under the blur."""
    return np.log1p(np.minimum(np.sqrt(_RADII**2 + _FLOORS[:, None] ** 2), np.float32(WIDEST)))


@lru_cache(maxsize=64)
def _likelihood_table(log_blur: float, log_sigma: float, structure: bool, periodic: bool) -> Array:
    """Return the log-likelihood of a reported blur, for every floor under the blur and every radius of `_RADII`."""
    if not structure:
        return elliptic.log_noise(_RADII)[None]
    outlier, least = (MISLED_SHARE, MISLED_SIGMA) if periodic else (_OUTLIER, _SIGMA_FLOOR)
    sigma = math.hypot(_SIGMA_FACTOR * math.exp(log_sigma), least)
    residual = (_log_radii() - log_blur) / sigma
    likelihood = np.exp(-0.5 * residual**2) / (sigma * math.sqrt(2 * math.pi))
    return np.log((1 - outlier) * likelihood + np.float32(outlier / 5))


_pair = lru_cache(maxsize=64)(Pair)
"""A comparison is made once in a run, however often the posterior is evaluated."""


def _comparisons(sightings: list[Sighting]) -> Iterator[tuple[int, int]]:
    """Yield the numbers of frames to compare: each with the one of the same magnification that shows most."""
    groups: dict[int, list[int]] = {}
    for k, sighting in enumerate(sightings):
        if _comparable(sighting):
            groups.setdefault(round(100 * math.log(sighting.pixel)), []).append(k)
    for group in groups.values():
        best = max(group, key=lambda k: (sightings[k].structure, sightings[k].detail, -sightings[k].log_blur))
        if not sightings[best].structure:
            continue
        yield from ((min(best, k), max(best, k)) for k in group if k != best)


def _directed(sightings: list[Sighting]) -> bool:
    """Return whether the sample shows mostly along one direction.

    Across it, a frame at a line focus may show nothing, and so a comparison with the sharpest frame alone says nothing.
    """
    seen = [(s.structure, s.detail, s.spectrum.sectors) for s in sightings if s.spectrum is not None]
    if not seen:
        return False
    shown = np.maximum(max(seen, key=lambda each: each[:2])[2], 0.0).sum(axis=1)
    return bool(abs(shown @ np.exp(2j * SECTOR_ANGLES)) >= _DIRECTED * max(float(shown.sum()), 1e-30))


def _every_pair(sightings: list[Sighting]) -> dict[tuple[int, int], float]:
    """Return the numbers of frames to compare, each with every other, and how much each comparison counts.

    The sum of the squared differences of K numbers, over K, is that of their distances from their mean: comparisons
    of K frames say 2 / K of what as many independent ones do. Compared with one frame alone, its error is in all.
    """
    groups: dict[int, set[int]] = {}
    for i, j in _comparisons(sightings):
        groups.setdefault(round(100 * math.log(sightings[i].pixel)), set()).update((i, j))
    return {
        pair: min(1.0, _JOINT * 2 / len(group))
        for group in groups.values()
        for pair in itertools.combinations(sorted(group), 2)
    }


def _comparable(sighting: Sighting) -> bool:
    return sighting.spectrum is not None
