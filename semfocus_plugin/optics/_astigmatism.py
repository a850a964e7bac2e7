"""Astigmatism, read off the frames that an autofocus run took anyway.

With astigmatism the disc of radius α|z| is an ellipse of half-axes α|z + a| and α|z − a|: in the direction φ its radius
is α √(z² + a² + 2za cos 2(φ − θ)). Of two frames of one field the ratio of the power spectra holds that and nothing of
the sample, whose own direction is common to both: a second harmonic in φ of the ratio is astigmatism, and its sign goes
with the side of the focus. So the half-plane of frequencies is split into sectors and rings, and focus, aperture and
the two components of the astigmatism are fitted to all frames at once, the power of the sample in every bin left free.
A run without astigmatism fits as well with none; a sample that shows structure in few directions cannot decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from semfocus_plugin.optics._nominal import TUNGSTEN
from semfocus_plugin.optics._spectra import BEYOND_BINS, LEAST_DISAGREEMENT, power_of, transfer, variance
from semfocus_plugin.optics._views import Array, View, Views, prepare, visible

LEAST = 1.0
"""Depths of field of astigmatism that are worth a word."""

SURE = 14.0
"""How much worse the frames fit without astigmatism, in units of χ², before it is believed."""

_EDGES = np.geomspace(0.0125, 0.4, 15)
"""Limits of the rings, cycles a pixel."""
_RINGS, _SECTORS = len(_EDGES) - 1, 8
_LOWEST_COLUMN = 3
"""Gain of a line and streaks change from line to line: they lie in the columns of the lowest horizontal frequencies."""
_DIRECTIONS = 5
"""Sectors that show the sample, of eight; a pattern of stripes shows in one or two."""
_SHOWN = 2.4
"""Sum of the weights of the rings in a sector that shows it; noise alone comes to 1 by chance, to 2 seldom."""
_PRIOR = np.array([0.8, 0.2, 8.0, 8.0])
"""Standard deviations of what is fitted before any frame: see `_Fit`."""
_UNEXPLAINED = 0.1
"""Relative error of the amount beyond what the frames scatter: the probe core and the aperture are nominal."""
_CLEAR, _FINEST, _LEAST_RINGS = 0.1, 0.32, 4
"""Relative variance of the power in a ring that is used, cycles a pixel, and rings at least, for `oblique_slope`."""
_STARTS = (1.5, 4.0)
_STEPS, _DIFFERENCE = 9, 0.02


@dataclass(frozen=True, slots=True)
class Astigmatism:
    """What the frames show of the stigmator.

    Parameters
    ----------
    amount : float
        Half the distance between the two line foci, in depths of field.
    uncertainty : float
        Its standard error, in depths of field.
    angle : float
        Axis that is in focus at the shorter of the two working distances, in degrees from the lines of the picture,
        clockwise, 0 to 180.
    angle_uncertainty : float
        Its standard error, in degrees.
    """

    amount: float
    uncertainty: float
    angle: float
    angle_uncertainty: float

    @property
    def sentence(self) -> str:
        """What it is and what to do, for a person."""
        return (
            f"astigmatism of {self.amount:.1f} ± {self.uncertainty:.1f} depths of field at {self.angle:.0f}°: "
            "correct the stigmator, then focus again"
        )


def astigmatism(
    views: Sequence[View], focus: float, *, aperture: float | None = None, core: float = TUNGSTEN
) -> Astigmatism | None:
    """Return the axial astigmatism, or None when there is none to speak of or the frames cannot show it.

    Parameters
    ----------
    views : sequence of View
        Raw frames of one field at one magnification, at two or more working distances.
    focus : float
        Working distance of the focus found, mm; it may be off by a depth of field or two.
    aperture : float, optional
        Aperture radius in mm, where it has been calibrated.
    core : float
        Diameter of the focused probe, mm; it sets the depth of field.

    Returns
    -------
    Astigmatism or None
        Never less than `LEAST` depths of field.

    Raises
    ------
    InvalidParameterError
        For lengths that are not above 0, or frames of several shapes or pixel sizes.
    """
    ready = prepare(views, focus, aperture, core)
    if ready is None:
        return None
    fit = _Fit(ready)
    if not fit.decides:
        return None
    without = fit.least(np.array([[z, 0.0, 0.0, 0.0] for z in (-0.8, 0.0, 0.8)]), free=2)[1]
    turns = [(a * math.cos(t), a * math.sin(t)) for a in _STARTS for t in (0.0, 0.5 * math.pi, math.pi, 1.5 * math.pi)]
    best, least = fit.least(np.array([[0.0, 0.0, p, q] for p, q in [(0.0, 0.0), *turns]]), free=4)
    scale = fit.scale(best)
    amount = math.hypot(best[2], best[3])
    if amount < LEAST or (without - least) / scale < SURE:
        return None
    along, across = best[2:] / amount, np.array([-best[3], best[2]]) / amount
    spread = fit.covariance(best)[2:, 2:] * scale
    turned = math.sqrt(float(across @ spread @ across)) / amount
    return Astigmatism(
        amount=amount,
        uncertainty=math.hypot(math.sqrt(float(along @ spread @ along)), _UNEXPLAINED * amount),
        angle=math.degrees(0.5 * math.atan2(best[3], best[2])) % 180.0,
        angle_uncertainty=math.degrees(0.5 * turned),
    )


def oblique_slope(frame: Array) -> tuple[float, float] | None:
    """Return how a picture is blurred along 45° more than along 135°, and the standard deviation of that, px².

    Of a small disc the logarithm of the power falls by (π r k)², so that astigmatism `a` along 45° at a defocus z (both
    in pixels of blur) adds -2π² z a k² sin 2φ to it: the coefficient of k² sin 2φ is returned. What the sample has of a
    direction is common to all k, and is fitted besides.

    Parameters
    ----------
    frame : ndarray of shape (H, W)
        Raw frame.

    Returns
    -------
    tuple of float or None
        None where the frame shows too little.
    """
    pixels = frame.astype(np.float32)
    _, _, modes, wave, cosine, sine, _ = _geometry(*pixels.shape)
    power, error = _spectrum(pixels)
    modes, power, error, k, cosine, sine = (
        each.reshape(_RINGS, _SECTORS) for each in (modes, power, error, wave / (2 * math.pi), cosine, sine)
    )
    # Whole rings: of single bins those that noise has raised would be chosen
    relative = error.mean(axis=1) / np.maximum(power.mean(axis=1), 1e-12) ** 2
    clear = (relative < _CLEAR) & (power.min(axis=1) > 0) & (modes.min(axis=1) > 0) & (k.max(axis=1) < _FINEST)
    if clear.sum() < _LEAST_RINGS:
        return None
    terms = np.stack([sine * k**2, cosine * k**2, sine, cosine])[:, clear]
    terms = (terms - terms.mean(axis=2, keepdims=True)) / np.sqrt(relative[clear])[:, None]
    log = np.log(power[clear])
    log = (log - log.mean(axis=1, keepdims=True)) / np.sqrt(relative[clear])[:, None]
    rows, values = terms.reshape(4, -1), log.ravel()
    inverse = np.linalg.inv(rows @ rows.T)
    best = inverse @ (rows @ values)
    scatter = float(np.square(values - best @ rows).sum()) / (values.size - clear.sum() - 4)
    return float(best[0]), math.sqrt(inverse[0, 0] * max(scatter, LEAST_DISAGREEMENT))


class _Fit:
    """Least squares of (focus error, ln aperture, a cos 2θ, a sin 2θ), all but the second in depths of field."""

    def __init__(self, ready: Views) -> None:
        shape = ready.frames[0].shape
        _, _, modes, self._wave, self._cosine, self._sine, _ = _geometry(*shape)
        power, error = (np.array(each) for each in zip(*(_spectrum(frame) for frame in ready.frames), strict=True))
        weight = visible(power, error) * (modes > 0)
        seen = weight > 0
        sectors = weight.reshape(_RINGS, _SECTORS).sum(axis=0)
        self.decides = int((sectors >= _SHOWN).sum()) >= _DIRECTIONS
        self._terms = float(weight.sum()) * (len(power) - 1)
        self._root = np.sqrt(weight[seen] / error[:, seen])
        self._power = power[:, seen] * self._root
        self._wave, self._cosine, self._sine = self._wave[seen], self._cosine[seen], self._sine[seen]
        self._defocus = ready.defocus[:, None]
        self._blur = ready.blur[:, None]

    def least(self, starts: Array, free: int) -> tuple[Array, float]:
        """Return the best point and its sum of squares, by Levenberg and Marquardt's method from several starts.

        Only the first `free` of the four parameters move.
        """
        points, damping = starts.copy(), np.full(len(starts), 0.1)
        steps = _DIFFERENCE * np.eye(4)[:free]
        residuals = self._residuals(points)
        squares = (residuals**2).sum(axis=1)
        for _ in range(_STEPS):
            moved = self._residuals((points[:, None] + steps).reshape(-1, 4)).reshape(len(points), free, -1)
            slopes = (moved - residuals[:, None]) / _DIFFERENCE
            normal = slopes @ slopes.transpose(0, 2, 1)
            gradient = (slopes @ residuals[..., None])[..., 0]
            diagonal = np.arange(free)
            normal[:, diagonal, diagonal] *= 1 + damping[:, None]
            trial = points.copy()
            trial[:, :free] -= np.linalg.solve(normal, gradient[..., None])[..., 0]
            found = self._residuals(trial)
            sums = (found**2).sum(axis=1)
            better = sums < squares
            points[better], residuals[better], squares[better] = trial[better], found[better], sums[better]
            damping = np.where(better, 0.3 * damping, 5 * damping)
        first = int(squares.argmin())
        return points[first], float(squares[first])

    def scale(self, point: Array) -> float:
        """Return how much of the sum of squares at `point` counts as one."""
        misfit = float((self._residuals(point[None])[0, 4:] ** 2).sum())
        return max(LEAST_DISAGREEMENT, misfit / max(self._terms, 1.0))

    def covariance(self, point: Array) -> Array:
        """Return the inverse of the normal matrix at `point`, shape (4, 4)."""
        around = self._residuals(np.concatenate([point[None], point + _DIFFERENCE * np.eye(4)]))
        slopes = (around[1:] - around[0]) / _DIFFERENCE
        return np.asarray(np.linalg.inv(slopes @ slopes.T))

    def _residuals(self, points: Array) -> Array:
        """Return the residuals of points, shape (g, 4): priors first, then every frame in every bin seen."""
        focus, scale, p, q = (points[:, k, None, None] for k in range(4))
        z = self._defocus - focus
        squared = z**2 + p**2 + q**2 + 2 * z * (p * self._cosine + q * self._sine)
        radius = self._wave * np.sqrt(np.maximum(squared, 0.0)) * (self._blur * np.exp(np.clip(scale, -1.5, 1.5)))
        model = transfer(radius) * self._root
        sample = np.maximum((self._power * model).sum(axis=1), 0.0) / (model**2).sum(axis=1)
        misfit = (self._power - sample[:, None] * model).reshape(len(points), -1)
        prior = points * (math.sqrt(LEAST_DISAGREEMENT) / _PRIOR)
        return np.concatenate([prior, misfit], axis=1)


def _spectrum(frame: Array) -> tuple[Array, Array]:
    """Return the power of the sample by rings and sectors, and its variance, each of shape (14 · 8,)."""
    window, bins, modes, _, _, _, beyond = _geometry(*frame.shape)
    flat = frame - np.float32(float((frame * window).sum(dtype=np.float64)) / float(window.sum(dtype=np.float64)))
    power = power_of(flat * window) / np.float32(np.square(window).sum(dtype=np.float64))
    noise = np.broadcast_to(power[beyond].mean(axis=0), power.shape)
    count = np.maximum(modes, 1)
    total = np.bincount(bins, power.ravel(), len(modes) + 1)[:-1] / count
    floor = np.bincount(bins, noise.ravel(), len(modes) + 1)[:-1] / count
    return total - floor, variance(total - floor, floor, count)


@lru_cache(maxsize=4)
def _geometry(height: int, width: int) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Return window, bin of every mode, by bin the modes, 2π · frequency, cos 2φ and sin 2φ, and the lines of noise."""
    window = (np.hanning(height)[:, None] * np.hanning(width)).astype(np.float32)
    vertical, horizontal = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency, direction = np.hypot(vertical, horizontal), np.arctan2(vertical, horizontal)
    ring = np.digitize(frequency, _EDGES) - 1
    sector = np.floor((direction / math.pi + 0.5) * _SECTORS + 0.5).astype(np.int64) % _SECTORS
    used = (ring >= 0) & (ring < _RINGS) & (np.arange(horizontal.size) >= _LOWEST_COLUMN)
    count = _RINGS * _SECTORS
    bins = np.where(used, ring * _SECTORS + sector, count).ravel()
    modes = np.bincount(bins, minlength=count + 1)[:-1]

    def mean(values: Array) -> Array:
        return np.asarray(np.bincount(bins, values.ravel(), count + 1)[:-1] / np.maximum(modes, 1))

    wave = 2 * math.pi * np.exp(mean(np.log(np.maximum(frequency, 1e-9))))
    beyond = np.abs(vertical[:, 0]) > BEYOND_BINS
    return window, bins, modes, wave, mean(np.cos(2 * direction)), mean(np.sin(2 * direction)), beyond
