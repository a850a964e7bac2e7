"""`FocusMap`: the working distance of best focus over the stage, with its uncertainty.

A Gaussian process over place and time: a plane, a smooth surface on it, and a drift of the whole sample. Each measured
focus is one point of it, with a long-tailed error, so that dust, an edge or a hole does not bend the map (Rasmussen &
Williams, *Gaussian Processes for Machine Learning*, 2006, ch. 2 and 5; weights of Student's t: Lange, Little & Taylor,
J. Am. Stat. Assoc. 84, 1989). Since time is part of it, the uncertainty grows while nothing is measured, and one
or two runs bring the map of yesterday up to date.
"""

from __future__ import annotations

import json
import math
import time as computer
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import cast

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import plain, plot_focus_map, read_json, replacing
from semdrivers.focus import AutofocusResult
from semdrivers.microscope import number, within

__all__ = ["FocusMap", "MapPoint", "checked_region"]

_DRIFT = 10.0  # nm/s
_SLOPE = 0.05  # mm/mm; standard deviation of the tilt: samples are mounted to a few degrees
_HEIGHT = 1.0  # mm; of the height of the whole
_ERROR = 0.2  # Depths of field by which a run errs at least
_MOST_SURE = 0.999  # Confidence that is believed at most where a run says nothing else of its error
_WANDER = 120.0  # s; what a drift does in that time it may do to either side at random
_RELIEF = (0.3, 1.0, 3.0, 10.0)  # Depths of field; amplitudes of the smooth surface that are tried
_LENGTHS = (0.3, 0.6, 1.2)  # Extents of the map; its correlation lengths that are tried
_LEAST_EXTENT = 0.05  # mm
_FREEDOM = 4.0  # Degrees of freedom of Student's t
_ROUNDS = 6
_MOST_POINTS = 120
_GRID = 9
_FORMAT = "semdrivers focus map 1"
_NUMBERS = "x", "y", "working_distance", "sigma", "time", "depth_of_field", "score"
_MOST = 1e12
"""Largest number of a map, in any of its units: squares of it are computed with."""

_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MapPoint:
    """A focus that was measured.

    Parameters
    ----------
    x, y : float
        Stage position, mm.
    working_distance : float
        mm.
    sigma : float
        Standard deviation of the working distance, mm.
    time : float
        s, by the clock of the map.
    depth_of_field : float
        Of the frames that measured it, mm.
    magnification : float
        Of the same.
    score : float
        0 to 9.
    source : str
        ``"run"`` for an autofocus run, otherwise what measured it.
    """

    x: float
    y: float
    working_distance: float
    sigma: float
    time: float
    depth_of_field: float
    magnification: float
    score: float
    source: str = "run"


class FocusMap:
    """Where the focus is, over the stage. ``microscope.autofocus(map=…)`` uses it and feeds it.

    Parameters
    ----------
    tolerance : float, optional
        Error of a prediction that is accepted, mm: it is trusted where twice its standard deviation is not larger. By
        default half a depth of field of the runs, at the present magnification.
    drift : float
        Drift of the focus that is expected, nm/s.
    clock : callable
        Seconds; the computer's clock by default, so that a map can be loaded on another day.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When a value is no number, or not above 0.
    """

    def __init__(
        self, *, tolerance: float | None = None, drift: float = _DRIFT, clock: Callable[[], float] = computer.time
    ) -> None:
        for name, value, unit in (("tolerance", tolerance, "mm"), ("drift", drift, "nm/s")):
            if value is not None:
                _positive(name, value, unit)
        self.tolerance = tolerance
        self.drift = float(drift)
        self.clock = clock
        self._points: list[MapPoint] = []
        self._model: _Mixture | None = None

    @property
    def points(self) -> tuple[MapPoint, ...]:
        """All points, in the order in which they were added."""
        return tuple(self._points)

    def add(
        self,
        x: float,
        y: float,
        focus: AutofocusResult | float,
        *,
        sigma: float | None = None,
        depth_of_field: float | None = None,
        magnification: float = math.nan,
        score: float | None = None,
        source: str = "run",
    ) -> bool:
        """Add a measured focus.

        Parameters
        ----------
        x, y : float
            Stage position, mm.
        focus : AutofocusResult or float
            A run, which counts when it is focused and not at a limit; or a working distance in mm.
        sigma : float, optional
            Standard deviation of the working distance, mm. By default a fifth of the depth of field, or that of the
            posterior of the run where it is larger, over the square root of the confidence of the run; for a run
            without a posterior, what its confidence says of a depth of field.
        depth_of_field : float, optional
            mm; that of the run by default.
        magnification : float
            At which it was measured: the depth of field at another one follows from it.
        score : float, optional
            0 to 9; that of the run by default, otherwise that of the point before.
        source : str
            What measured it.

        Returns
        -------
        bool
            Whether it counts, and so is a point of the map.

        Raises
        ------
        InvalidParameterError, OutOfRangeError
            When a value is no number, `sigma` or the depth of field is not above 0, or no depth of field is known.
        """
        if isinstance(focus, AutofocusResult):
            if not focus.focused or focus.at_limit or not focus.confidence > 0:
                return False
            depth_of_field = focus.depth_of_field if depth_of_field is None else depth_of_field
            score = focus.score if score is None else score
            if sigma is None and depth_of_field is not None:
                sigma = _sigma_of(focus, depth_of_field)
            if math.isnan(magnification) and focus.trace:
                magnification = focus.trace[-1].magnification
            focus = focus.working_distance
        if depth_of_field is None and self.tolerance is not None:
            depth_of_field = 2 * self.tolerance
        if depth_of_field is None:
            raise InvalidParameterError(
                "depth_of_field is not known: this method of autofocus does not report it; pass depth_of_field in mm, "
                "or make the map with a tolerance"
            )
        if score is None:
            score = self._points[-1].score if self._points else 0.0
        values = {"depth_of_field": depth_of_field, "sigma": _ERROR * depth_of_field if sigma is None else sigma}
        for name, value in values.items():
            _positive(name, value, "mm")
        point = MapPoint(
            number("x", x, "mm"),
            number("y", y, "mm"),
            number("working distance", focus, "mm"),
            float(values["sigma"]),
            float(self.clock()),
            float(depth_of_field),
            float(magnification),
            float(score),
            source,
        )
        self._points.append(point)
        self._model = None
        return True

    def depth_of_field(self, magnification: float = math.nan) -> float:
        """Return the depth of field in mm at a magnification, NaN for that of the points; NaN before the first point.

        It is taken to fall as the pixel does; a wide probe would leave more of it.
        """
        if not self._points:
            return math.nan
        known = [
            point.depth_of_field
            * (point.magnification / magnification if magnification > 0 and point.magnification > 0 else 1.0)
            for point in self._points
        ]
        return float(np.median(known))

    def predict(self, x: float, y: float) -> tuple[float, float]:
        """Return the working distance of best focus and its standard deviation at a stage position, now.

        Parameters
        ----------
        x, y : float
            mm.

        Returns
        -------
        tuple of float
            mm and mm; NaN and infinity before the first point.
        """
        if not self._points:
            return math.nan, math.inf
        mean, sigma = self._fitted().predict(np.array([[x, y, self.clock()]], dtype=np.float64))
        return float(mean[0]), float(sigma[0])

    def trusts(self, sigma: float, magnification: float = math.nan) -> bool:
        """Return whether a standard deviation (mm) is small enough to go without a run at a magnification."""
        return 2 * sigma <= (0.5 * self.depth_of_field(magnification) if self.tolerance is None else self.tolerance)

    def residuals(self) -> _Array:
        """Return by how much each point lies above what the other points say, in mm, shape (points,)."""
        if not self._points:
            return np.zeros(0)
        return np.array([p.working_distance for p in self._points]) - self._fitted().without_each(_places(self._points))

    def score_near(self, x: float, y: float) -> float:
        """Return the score of the point nearest to a stage position (mm); 0 before the first."""
        nearest = min(self._points, key=lambda p: math.hypot(p.x - x, p.y - y), default=None)
        return 0.0 if nearest is None else nearest.score

    def plan(self, region: Sequence[float], *, most: int = 9) -> list[tuple[float, float]]:
        """Return where to measure first, so that a region is known: each place is the least certain after the others.

        Parameters
        ----------
        region : sequence of four float
            x0, y0, x1, y1 of the stage, mm.
        most : int
            Places at most; fewer where the map is certain enough.

        Returns
        -------
        list of tuple of float
            (x, y) in mm.

        Raises
        ------
        InvalidParameterError, OutOfRangeError
            When the region is not four numbers, or x1 < x0 or y1 < y0.
        """
        x0, y0, x1, y1 = checked_region(region)
        x, y = (each.ravel() for each in np.meshgrid(np.linspace(x0, x1, _GRID), np.linspace(y0, y1, _GRID)))
        now = self.clock()
        candidates = np.column_stack([x, y, np.full(x.shape, now)])
        extent = max(math.hypot(x1 - x0, y1 - y0), _LEAST_EXTENT)
        depth = self.depth_of_field() if self._points else 2 * self.tolerance if self.tolerance else 0.01 * extent
        kernel = _Kernel(depth, 0.5 * extent, self.drift, candidates.mean(axis=0))
        known = _places(self._points)
        errors = [p.sigma for p in self._points]
        chosen: list[tuple[float, float]] = []
        while len(chosen) < most:
            sigma = _Process(kernel, known, np.zeros(len(known)), np.array(errors)).predict(candidates)[1]
            sigma[np.isclose(candidates[:, :2], np.array([x0 + x1, y0 + y1]) / 2).all(axis=1)] *= 1.0 + 1e-6
            worst = int(sigma.argmax())
            if chosen and 2 * sigma[worst] <= (0.5 * depth if self.tolerance is None else self.tolerance):
                break
            chosen.append((float(x[worst]), float(y[worst])))
            known = np.vstack([known, candidates[worst]])
            errors.append(_ERROR * depth)
        return chosen

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the map as JSON; the file appears whole or not at all.

        Raises
        ------
        ExistingFileError
            When there is such a file, unless `overwrite`.
        """
        path = Path(path)
        values = {"format": _FORMAT, "tolerance": self.tolerance, "drift": self.drift, "points": plain(self._points)}
        with replacing(path, overwrite) as partial:
            partial.write_text(json.dumps(plain(values), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path, *, clock: Callable[[], float] = computer.time) -> FocusMap:
        """Read a map that `save` wrote.

        Parameters
        ----------
        path : str or Path
            ``.json``.
        clock : callable
            As for the class; it must go on from the one that the map was made by.

        Raises
        ------
        InvalidParameterError
            When the file is no focus map, or cannot be read.
        """
        try:
            values = read_json(path)
            if values["format"] != _FORMAT:
                raise ValueError(f"its format is {values['format']!r}")
            loaded = cls(tolerance=values["tolerance"], drift=values["drift"], clock=clock)
            for entry in values["points"]:
                if entry["magnification"] is None:
                    entry["magnification"] = math.nan
                else:
                    number("magnification", entry["magnification"])
                entry |= {name: within(name, entry[name], -_MOST, _MOST) for name in _NUMBERS}
                for name in ("sigma", "depth_of_field"):
                    _positive(name, entry[name], "mm")
                loaded._points.append(MapPoint(**entry))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidParameterError(f"{path} is no focus map: {error}") from error
        return loaded

    def plot(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Draw the map as of its last point, and by how much each point differs from what the others say.

        Parameters
        ----------
        path : str or Path
            ``.png``, ``.pdf`` or ``.svg``.
        overwrite : bool
            Whether the file may take the place of another.

        Raises
        ------
        InvalidParameterError
            When the map has no point, or the name another ending.
        ExistingFileError
            When there is such a file, unless `overwrite`.
        """
        if not self._points:
            raise InvalidParameterError("the map has no point yet: focus somewhere first")
        places = _places(self._points)
        low, high = places[:, :2].min(axis=0), places[:, :2].max(axis=0)
        margin = np.maximum(0.05 * (high - low), 0.5 * _LEAST_EXTENT)
        x, y = (np.linspace(*ends, 40) for ends in zip(low - margin, high + margin, strict=True))
        grid = np.array([[column, row, self._points[-1].time] for row in y for column in x])
        mean, sigma = self._fitted().predict(grid)
        return plot_focus_map(
            x,
            y,
            mean.reshape(len(y), len(x)),
            sigma.reshape(len(y), len(x)),
            places[:, :2],
            self.residuals(),
            self.depth_of_field(),
            path,
            overwrite=overwrite,
        )

    def _fitted(self) -> _Mixture:
        if self._model is None:
            runs = [point for point in self._points if point.source == "run"][-_MOST_POINTS // 2 :]
            others = [point for point in self._points if point.source != "run"][len(runs) - _MOST_POINTS :]
            self._model = _Mixture(runs + others, self.depth_of_field(), self.drift)
        return self._model


def checked_region(region: Sequence[float]) -> tuple[float, float, float, float]:
    """Return a region of the stage as four floats: x0, y0, x1, y1, mm; raises as `FocusMap.plan` does."""
    try:
        x0, y0, x1, y1 = region
    except (TypeError, ValueError):
        raise InvalidParameterError(f"region must be x0, y0, x1, y1 in mm, not {region!r}") from None
    names = ("region x0", "region y0", "region x1", "region y1")
    a, b, c, d = (number(name, value, "mm") for name, value in zip(names, (x0, y0, x1, y1), strict=True))
    if c < a or d < b:
        raise OutOfRangeError(f"region must have x0 <= x1 and y0 <= y1, not ({a:g}, {b:g}, {c:g}, {d:g}) mm")
    return a, b, c, d


def _positive(name: str, value: float, unit: str) -> None:
    if not 0 < number(name, value, unit) <= _MOST:
        raise OutOfRangeError(f"{name} must be above 0 {unit}, and no more than {_MOST:g}, not {value:g} {unit}")


def _sigma_of(run: AutofocusResult, depth_of_field: float) -> float:
    """Return the standard deviation of the focus of a run, mm.

    A run of confidence c is taken to be right in a share c of cases and to say nothing in the others, so that it counts
    with c times the precision of one that is right; the long tail of a point deals with what is wrong.
    """
    if run.posterior:
        spread = _spread(run.posterior)
    else:
        spread = depth_of_field / NormalDist().inv_cdf(0.5 + 0.5 * min(run.confidence, _MOST_SURE))
    return max(spread, _ERROR * depth_of_field) / math.sqrt(run.confidence)


def _spread(posterior: Sequence[float]) -> float:
    """Return half of what holds the middle two thirds of a posterior, in the form of `FocusStep.posterior`."""
    low, high = np.quantile(np.asarray(posterior, dtype=np.float64), (1 / 6, 5 / 6))
    return float(high - low) / 2


def _places(points: Sequence[MapPoint]) -> _Array:
    """Return x, y and time of points, shape (points, 3)."""
    return np.array([(point.x, point.y, point.time) for point in points], dtype=np.float64).reshape(-1, 3)


class _Kernel:
    """Covariance of the focus at two places and times: plane, smooth surface, drift.

    Parameters
    ----------
    relief, length : float
        Amplitude and correlation length of the smooth surface, mm.
    drift : float
        nm/s.
    origin : ndarray of shape (3,)
        Place and time about which the plane and the drift are counted.
    """

    def __init__(self, relief: float, length: float, drift: float, origin: _Array) -> None:
        self._relief, self._length, self._origin = relief, length, origin
        self._rate = drift * 1e-6

    def __call__(self, first: _Array, second: _Array) -> _Array:
        """Return the covariances, shape (N, M), mm²."""
        a, b = first - self._origin, second - self._origin
        apart = np.square(a[:, None, :2] - b[None, :, :2]).sum(axis=-1)
        surface = self._relief**2 * np.exp(-0.5 * apart / self._length**2)
        plane = _HEIGHT**2 + _SLOPE**2 * (a[:, :2] @ b[:, :2].T)
        earlier, later = a[:, 2:], b[None, :, 2]
        common = 0.5 * (np.abs(earlier) + np.abs(later) - np.abs(earlier - later))
        drift = self._rate**2 * (earlier * later + _WANDER * common)
        return np.asarray(plane + surface + drift)

    def variance(self, places: _Array) -> _Array:
        """Return the variance at places before anything is measured, shape (N,), mm²."""
        a = places - self._origin
        own = _HEIGHT**2 + _SLOPE**2 * np.square(a[:, :2]).sum(axis=1) + self._relief**2
        return np.asarray(own + self._rate**2 * (np.square(a[:, 2]) + _WANDER * np.abs(a[:, 2])))


class _Process:
    """What a kernel makes of the points.

    Parameters
    ----------
    kernel : _Kernel
        Covariance.
    places : ndarray of shape (N, 3)
        x, y, time.
    values, errors : ndarray of shape (N,)
        Working distances about their mean, and their standard deviations; mm.
    """

    def __init__(self, kernel: _Kernel, places: _Array, values: _Array, errors: _Array) -> None:
        self._kernel, self._places, self._values = kernel, places, values
        self._lower = self._inverse = cast(_Array, np.zeros((0, 0)))
        self.without, self.log_evidence = cast(_Array, np.zeros(0)), 0.0
        if not len(places):
            return
        prior = kernel(places, places)
        weight = np.ones(len(places))
        for _ in range(_ROUNDS):
            self._lower = cast(_Array, np.linalg.cholesky(prior + np.diag(errors**2 / weight)))
            half = np.linalg.inv(self._lower)
            self._inverse = cast(_Array, half.T @ half)
            spread = 1 / np.diag(self._inverse)
            # Leave-one-out residuals of a Gaussian process (Rasmussen & Williams, equation 5.12)
            residual = (self._inverse @ values) * spread
            expected = np.maximum(spread - errors**2 / weight, 0.0) + errors**2
            weight = np.minimum((_FREEDOM + 1) / (_FREEDOM + residual**2 / expected), 1.0)
        self.without = values - residual
        # Marginal likelihood with the weights that the long tail gives (Gamma prior of the mixture of scales)
        self.log_evidence = float(
            -0.5 * values @ self._inverse @ values
            - np.log(np.diag(self._lower)).sum()
            + 0.5 * _FREEDOM * (np.log(weight) - weight + 1).sum()
        )

    def predict(self, places: _Array) -> tuple[_Array, _Array]:
        """Return mean and standard deviation at places and times, mm."""
        own = self._kernel.variance(places)
        if not len(self._places):
            return np.zeros(len(places)), np.sqrt(own)
        common = self._kernel(places, self._places)
        mean = common @ (self._inverse @ self._values)
        explained = np.square(np.linalg.solve(self._lower, common.T)).sum(axis=0)
        return mean, np.sqrt(np.maximum(own - explained, 0.0))


class _Mixture:
    """Processes of several reliefs and lengths, each with the weight that the points give it."""

    def __init__(self, points: Sequence[MapPoint], depth_of_field: float, drift: float) -> None:
        places = _places(points)
        values, errors = (np.array([getattr(p, name) for p in points]) for name in ("working_distance", "sigma"))
        self._middle = float(np.median(values))
        origin = places.mean(axis=0)
        extent = max(float(np.hypot(*np.ptp(places[:, :2], axis=0))), _LEAST_EXTENT)
        self._processes = [
            _Process(
                _Kernel(relief * depth_of_field, length * extent, drift, origin), places, values - self._middle, errors
            )
            for relief in _RELIEF
            for length in _LENGTHS
        ]
        evidence = np.array([process.log_evidence for process in self._processes])
        weight = np.exp(evidence - evidence.max())
        self._weight = weight / weight.sum()
        self._index = {tuple(place): k for k, place in enumerate(places)}

    def predict(self, places: _Array) -> tuple[_Array, _Array]:
        """Return mean and standard deviation at places and times, mm."""
        means, sigmas = (np.array(each) for each in zip(*(p.predict(places) for p in self._processes), strict=True))
        mean = self._weight @ means
        variance = self._weight @ (sigmas**2 + (means - mean) ** 2)
        return mean + self._middle, cast(_Array, np.sqrt(variance))

    def without_each(self, places: _Array) -> _Array:
        """Return what the other points say at each point; at one that is not among those fitted, what all say."""
        own = self._weight @ np.array([process.without for process in self._processes]) + self._middle
        result = self.predict(places)[0]
        for k, place in enumerate(places):
            index = self._index.get(tuple(place))
            if index is not None and len(own) > 1:
                result[k] = own[index]
        return result
