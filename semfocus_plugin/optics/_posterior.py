"""Where the focus lies, given the blur of every frame so far: a Bayesian filter over working distance.

A frame at working distance w shows a disc of radius r = α |w − w*| / pixel, and AENet tells ln(1 + r) with
its uncertainty. One frame leaves two places; two frames at different w leave one. Two frames also compare: the ratio of
their power spectra tells both blurs, whatever the sample (`semfocus_plugin.optics`). Three things are not known
and are carried along: the place w*, the aperture (α = aperture radius / working distance), and a floor under
the blur (probe core, residual astigmatism, a sample that is soft by nature).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.optics._nominal import NOMINAL_APERTURE, TUNGSTEN, depth_of_field
from semfocus_plugin.optics._spectra import Pair, Spectrum

Array = NDArray[Any]


WIDEST = 150.0
"""Blur radius in pixels beyond which all frames look alike."""

_SCALES = np.array([-1.2, -0.8, -0.5, -0.28, -0.12, 0.0, 0.12, 0.28, 0.5, 0.8, 1.2])
"""ln(aperture / expected)."""
_LEAST_SCALE = -0.2
_NOMINAL_SHARE, _CALIBRATED_SHARE = 0.35, 0.9
"""Of the prior: at the aperture expected, by the design or by calibration; the rest is spread over a factor of two."""
_FLOORS = np.array([0.0, 0.7, 1.4, 2.1, 3.0], np.float32)
_FLOOR_PRIOR = np.array([0.4, 0.25, 0.15, 0.1, 0.1])
_SIGMA_FACTOR = 0.9
_SIGMA_FLOOR = 0.06
_OUTLIER = 0.02
_NOISE_RADIUS, _NOISE_WIDTH = 45.0, 0.4
_NEAR_PRIOR = 60.0
"""The prior falls as 1/distance from the first frame, faster beyond the distance that blurs it by this many pixels."""
_USUAL, _USUAL_WIDTH = math.log(12.0), 0.6
"""Working distances that microscopists work at, as a log-normal prior: ln mm. It only tells sides far apart."""
_TAIL_QUANTILE = 0.35
_COARSE, _FINE = 2500, 400
_RADII = np.geomspace(0.005, WIDEST, 4096, dtype=np.float32)
"""Blur radii of the table of a frame's likelihood, pixels."""
_LOG_LEAST, _PER_LOG = math.log(_RADII[0]), (len(_RADII) - 1) / math.log(_RADII[-1] / _RADII[0])


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one frame tells of the focus.

    Parameters
    ----------
    working_distance : float
        mm.
    pixel : float
        mm.
    log_blur, log_sigma : float
        ln(1 + blur radius in pixels), and ln of its standard deviation.
    structure : bool
        False when the frame holds nothing but noise, which only says that the focus is far away.
    spectrum : Spectrum, optional
        Of the frame, to compare with other frames of the same field and magnification.
    """

    working_distance: float
    pixel: float
    log_blur: float
    log_sigma: float
    structure: bool = True
    spectrum: Spectrum | None = None


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
    aperture : float, optional
        Aperture radius in mm, where it has been calibrated; even so it is only likely.
    core : float
        Diameter of the focused probe, mm; sets the depth of field.
    """

    def __init__(
        self,
        sightings: list[Sighting],
        low: float,
        high: float,
        pixel: float,
        aperture: float | None = None,
        core: float = TUNGSTEN,
    ) -> None:
        self.pixel = pixel
        self.core = core
        self.aperture = NOMINAL_APERTURE if aperture is None else aperture
        self._scale_prior = _scale_prior(_NOMINAL_SHARE if aperture is None else _CALIBRATED_SHARE)
        self._scale = 0.0
        self._evaluate(sightings, low, high, _COARSE)
        cumulative = np.cumsum(self.probability)
        first, last = np.searchsorted(cumulative, [5e-4, 1 - 5e-4])
        margin = 2 * (self.places[1] - self.places[0])
        fine_low, fine_high = self.places[first] - margin, self.places[min(last, _COARSE - 1)] + margin
        if fine_high - fine_low < 0.5 * (high - low):
            self._evaluate(sightings, max(low, fine_low), min(high, fine_high), _FINE)

    def _evaluate(self, sightings: list[Sighting], low: float, high: float, count: int) -> None:
        self.places = np.linspace(low, high, count)
        first = sightings[0]
        reach = _NEAR_PRIOR * first.pixel * first.working_distance / self.aperture
        away = np.abs(self.places - first.working_distance) / reach
        prior = -np.log(0.03 + away) - 0.5 * np.log1p(away**2)
        prior -= 0.5 * ((np.log(self.places) - _USUAL) / _USUAL_WIDTH) ** 2
        compared = (np.log(self._scale_prior)[:, None] + prior).astype(np.float32)
        for one, other in _comparisons(sightings):
            compared += self._log_comparison(one, other)
        log = compared[:, :, None] + np.log(_FLOOR_PRIOR).astype(np.float32)
        for sighting in sightings:
            log += self._log_likelihood(sighting)
        weight = np.exp(log - log.max())
        by_place = weight.sum(axis=0).sum(axis=1)
        by_scale = weight.sum(axis=(1, 2))
        self.probability = by_place / by_place.sum()
        self._scale = float(by_scale @ _SCALES / by_scale.sum())

    def _radius(self, s: Sighting) -> Array:
        """Return the disc of every scale and place, pixels."""
        alpha = self.aperture / s.working_distance
        distance = (np.abs(self.places - s.working_distance) * (alpha / s.pixel)).astype(np.float32)
        return np.exp(_SCALES).astype(np.float32)[:, None] * distance

    def _log_comparison(self, one: Sighting, other: Sighting) -> Array:
        assert one.spectrum is not None
        assert other.spectrum is not None
        return _pair(one.spectrum, other.spectrum)(self._radius(one), self._radius(other))

    def _log_likelihood(self, s: Sighting) -> Array:
        """Return it for every scale, place and floor, shape (11, N, 5); or (11, N, 1) where the floor tells nothing."""
        radius = np.maximum(self._radius(s), np.float32(_RADII[0]))
        nearest = (np.log(radius) * np.float32(_PER_LOG) + np.float32(0.5 - _LOG_LEAST * _PER_LOG)).astype(np.int32)
        return _likelihood_table(s.log_blur, s.log_sigma, s.structure).take(nearest, axis=0, mode="clip")

    def unit(self, working_distance: float) -> float:
        """Depth of field in mm at a working distance, with the aperture as estimated.

        An aperture that seems much smaller than expected is not believed here: it would make every claim coarser.
        """
        alpha = self.aperture * math.exp(max(self._scale, _LEAST_SCALE)) / max(working_distance, 0.1)
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
        return Estimate(mean, mass, half_width, self.unit(mean))

    def mass_between(self, low: float, high: float) -> float:
        """Return the probability of an interval (mm)."""
        return float(self.probability[(self.places >= low) & (self.places <= high)].sum())

    def likeliest_gap(self, taken: list[float], low: float, high: float) -> float:
        """Return a place in the likeliest gap, from `low` to `high`, between places (mm) where frames have been taken.

        Within a gap it is the median. Beyond the outermost frame it is a little nearer than that: the posterior has a
        long tail there, and a step too far costs more than one too short.
        """
        within = (self.places >= low) & (self.places <= high)
        if not within.any():
            return low if self.places[0] > high else high
        inside = self.places[within]
        edges = np.searchsorted(inside, sorted(taken))
        gaps = np.split(self.probability[within], edges)
        places = np.split(inside, edges)
        masses = [float(gap.sum()) for gap in gaps]
        k = int(np.argmax(masses))
        share = {0: 1 - _TAIL_QUANTILE, len(gaps) - 1: _TAIL_QUANTILE}.get(k, 0.5) if len(gaps) > 1 else 0.5
        index = int(np.searchsorted(np.cumsum(gaps[k]), share * masses[k]))
        return float(places[k][min(index, len(places[k]) - 1)])

    def narrowest(self, mass: float) -> Estimate:
        """Return the narrowest likeliest piece that has `mass`; half-widths grow by 1.5 from one depth of field."""
        half_width = self.unit(float(self.probability @ self.places))
        while True:
            piece = self.best(half_width)
            if piece.mass >= mass or half_width > self.places[-1] - self.places[0]:
                return piece
            half_width *= 1.5


def _scale_prior(share: float) -> Array:
    """Return the prior over `_SCALES` with `share` of it at the aperture expected."""
    narrow = np.exp(-0.5 * (_SCALES / 0.1) ** 2) / 0.1
    wide = np.exp(-0.5 * (_SCALES / 0.6) ** 2) / 0.6
    return np.asarray(np.gradient(_SCALES) * (share * narrow + (1 - share) * wide))


@lru_cache(maxsize=64)
def _likelihood_table(log_blur: float, log_sigma: float, structure: bool) -> Array:
    """Return the log-likelihood of what a frame told, for every radius of `_RADII` and every floor under the blur."""
    if not structure:
        beyond = (np.log(_RADII) - math.log(_NOISE_RADIUS)) / _NOISE_WIDTH
        return np.log(0.02 + 0.98 / (1 + np.exp(-beyond)))[:, None]
    radius = np.minimum(np.sqrt(_RADII[:, None] ** 2 + _FLOORS**2), np.float32(WIDEST))
    sigma = math.hypot(_SIGMA_FACTOR * math.exp(log_sigma), _SIGMA_FLOOR)
    residual = (np.log1p(radius) - log_blur) / sigma
    likelihood = np.exp(-0.5 * residual**2) / (sigma * math.sqrt(2 * math.pi))
    return np.log((1 - _OUTLIER) * likelihood + np.float32(_OUTLIER / 5))


_pair = lru_cache(maxsize=64)(Pair)
"""A comparison is made once in a run, however often the posterior is evaluated."""


def _comparisons(sightings: list[Sighting]) -> Iterator[tuple[Sighting, Sighting]]:
    """Yield every frame with the sharpest one before it of the same magnification."""
    for k, sighting in enumerate(sightings):
        before = [s for s in sightings[:k] if _comparable(s) and math.isclose(s.pixel, sighting.pixel, rel_tol=0.01)]
        if before and _comparable(sighting):
            yield min(before, key=lambda s: s.log_blur), sighting


def _comparable(sighting: Sighting) -> bool:
    return sighting.spectrum is not None and sighting.structure
