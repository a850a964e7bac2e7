"""Focal series as smooth curves over defocus: what ACNet plays on (Methods, "Data for ACNet"; Fig. S1a, b)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semfocus_plugin.lab.training.datasets as datasets
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.networks import Evaluator

__all__ = ["Array", "Curves", "MeasuredSeries", "measure", "measure_folders", "smooth"]

Array = NDArray[np.float64]
"""Numbers of a curve."""

_REACH = 20.0
_GRID = 401
_WIDTH = 0.35  # of the local mean, depths of field


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredSeries:
    """What the networks see of a focal series.

    Parameters
    ----------
    specimen : str
        Name.
    magnification : float
        Plain number.
    depth_of_field : float
        mm.
    defocus : ndarray of shape (N,)
        Defocus of every frame, signed, in depths of field; ascending.
    values : ndarray of shape (3, N)
        Score, variance and entropy of every frame.
    """

    specimen: str
    magnification: float
    depth_of_field: float
    defocus: Array
    values: Array


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Focal series as smooth curves over defocus.

    Parameters
    ----------
    defocus : ndarray of shape (G,)
        Common grid, in depths of field of the instrument.
    values : ndarray of shape (S, 3, G)
        Score, variance and entropy.
    magnification, depth_of_field : ndarray of shape (S,)
        Magnification, and depth of field in mm, of every series.
    best : ndarray of shape (S,)
        Defocus of the highest score.
    specimen : tuple of str
        Name for every series.
    """

    defocus: Array
    values: Array
    magnification: Array
    depth_of_field: Array
    best: Array
    specimen: tuple[str, ...] = ()

    def of(self, specimen: str) -> Curves:
        """Return the curves of one specimen."""
        chosen = np.array([name == specimen for name in self.specimen])
        return dataclasses.replace(
            self,
            values=self.values[chosen],
            magnification=self.magnification[chosen],
            depth_of_field=self.depth_of_field[chosen],
            best=self.best[chosen],
            specimen=tuple(name for name in self.specimen if name == specimen),
        )


def measure(arrays: dict[str, NDArray[Any]], evaluator: Evaluator) -> MeasuredSeries:
    """Score every frame of a focal series as `semfocus_plugin.lab.training.datasets` holds it."""
    magnification = float(arrays["magnification"])
    order = np.argsort(arrays["defocus"])
    seen = [evaluator(arrays["pixels"][index], magnification) for index in order]
    return MeasuredSeries(
        specimen=str(arrays["specimen"]),
        magnification=magnification,
        depth_of_field=float(arrays["depth_of_field"]),
        defocus=arrays["defocus"][order].astype(np.float64),
        values=np.array([[e.score, e.variance, e.entropy] for e in seen]).T,
    )


def measure_folders(
    folders: Sequence[str], evaluator: Evaluator, progress: Callable[[int], object] = lambda done: None
) -> Curves:
    """Score the focal series of dataset folders and smooth the curves.

    Parameters
    ----------
    folders : sequence of str
        Finished datasets of kind ``"series"``.
    evaluator : Evaluator
        Scores frames.
    progress : callable, optional
        Called with the number of series done.

    Raises
    ------
    InvalidParameterError
        When a folder holds no finished dataset of focal series.
    """
    measured = []
    for folder in folders:
        for arrays in datasets.load(folder):
            if "depth_of_field" not in arrays:
                raise InvalidParameterError(f"{folder} holds labelled frames, not focal series")
            measured.append(measure(arrays, evaluator))
            progress(len(measured))
    return smooth(measured)


def smooth(measured: Sequence[MeasuredSeries]) -> Curves:
    """Return smooth curves on a common grid of ±20 depths of field."""
    grid = np.linspace(-_REACH, _REACH, _GRID)
    values = np.array([[_smooth(one.defocus, curve, grid) for curve in one.values] for one in measured])
    return Curves(
        grid,
        values,
        np.array([one.magnification for one in measured]),
        np.array([one.depth_of_field for one in measured]),
        grid[np.argmax(values[:, 0], axis=1)],
        tuple(one.specimen for one in measured),
    )


def _smooth(x: Array, y: Array, grid: Array) -> Array:
    """Gaussian-weighted local mean: interpolation that, like the paper's spline, leaves the noise behind."""
    weight = np.exp(-0.5 * ((grid[:, None] - x[None, :]) / _WIDTH) ** 2) + 1e-12
    return np.asarray(weight @ y / weight.sum(axis=1))
