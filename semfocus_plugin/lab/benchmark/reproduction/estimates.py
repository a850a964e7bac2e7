"""A mean, or any figure, with its 95 % confidence interval by bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["RESAMPLES", "Estimate", "estimate", "mean", "median"]

RESAMPLES = 1000
"""Resamples of a bootstrap interval."""
_SEED = 1
_Statistic = Callable[[NDArray[Any]], float]  # Computes a number from resampled values


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure.

    Parameters
    ----------
    value : float
        Figure of all data.
    low, high : float
        95 % confidence interval (percentiles of the bootstrap); NaN where there is nothing to draw from.
    spread : float or None
        Standard deviation of the single values, for a mean.
    count : int
        Single values.
    """

    value: float
    low: float
    high: float
    spread: float | None
    count: int


def mean(values: ArrayLike, groups: ArrayLike | None = None) -> Estimate | None:
    """Return the mean of values, with their standard deviation; see `estimate`."""
    lines = np.asarray(values, dtype=np.float64)
    estimated = estimate(lines, _mean, groups)
    return None if estimated is None else replace(estimated, spread=float(lines.std()))


def median(values: ArrayLike, groups: ArrayLike | None = None) -> Estimate | None:
    """Return the median of values; see `estimate`."""
    return estimate(values, _median, groups)


def estimate(values: ArrayLike, statistic: _Statistic, groups: ArrayLike | None = None) -> Estimate | None:
    """Return a figure of values with its interval.

    Parameters
    ----------
    values : array_like of shape (N,) or (N, K)
        One line for each thing measured.
    statistic : callable
        From lines to the figure.
    groups : array_like of shape (N,), optional
        Lines of one group (frames of a field, episodes of a series) are not independent: whole groups are drawn.

    Returns
    -------
    Estimate or None
        None of no values. One group alone gives no interval: NaN.
    """
    lines = np.asarray(values, dtype=np.float64)
    if len(lines) == 0:
        return None
    names = np.arange(len(lines)) if groups is None else np.asarray(groups)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(members) == 1:
        return Estimate(statistic(lines), math.nan, math.nan, None, len(lines))
    random = np.random.default_rng(_SEED)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = random.integers(len(members), size=len(members))
        drawn.append(statistic(lines[np.concatenate([members[index] for index in chosen])]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Estimate(statistic(lines), float(low), float(high), None, len(lines))


def _mean(lines: NDArray[Any]) -> float:
    return float(lines.mean())


def _median(lines: NDArray[Any]) -> float:
    return float(np.median(lines))
