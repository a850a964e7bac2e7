"""Peers that correct the stigmator too: MAPFoSt in full, and a simplex on sharpness. Each gets what the stigmator does.

MAPFoSt is that of `mapfost_pair`, whose package estimates both components of the astigmatism beside the defocus. The
simplex is that of Nelder and Mead (1965), as SciPy has it, over working distance and both components, on Tenengrad.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench
from semfocus_plugin.lab.benchmark.peers.mapfost_pair import aberrations
from semfocus_plugin.lab.benchmark.peers.sharpness import tenengrad

__all__ = ["PEERS", "mapfost", "simplex"]

_PASSES = 6  # Most corrections of a run
_SETTLED = 0.5  # Depths of field below which all corrections end the run
_SIDE = 4.0  # Edges of the first simplex, depths of field
_TOLERANCE, _MOST_FRAMES = 0.3, 100  # Size of the last one, depths of field, and frames of a run


def _add(bench: Bench, matrix: NDArray[np.float64], start: NDArray[np.float64], change: NDArray[np.float64]) -> None:
    """Set the stigmator so that it adds a change (depths of field) to the astigmatism that it had at the start."""
    unit = bench.scale * bench.start
    x, y = start + np.linalg.solve(matrix, change * unit)
    microscope: Any = bench.microscope
    microscope.stigmator = float(x), float(y)


def mapfost(bench: Bench, matrix: NDArray[np.float64]) -> Answer:
    """Correct all three pass by pass until every correction is small; `matrix` is mm of astigmatism a unit."""
    microscope: Any = bench.microscope
    start, added, here = np.array(microscope.stigmator, float), np.zeros(2), 0.0
    for _ in range(_PASSES):
        found = aberrations(bench, here)
        if found is None:
            return Answer(bench.place(here), False, "the package gave no estimate")
        way, x, y = found
        here += way
        added = added - (x, y)
        _add(bench, matrix, start, added)
        if max(abs(way), abs(x), abs(y)) < _SETTLED:
            return Answer(bench.place(here), True, "the last corrections were small")
    return Answer(bench.place(here), False, f"no small correction within {_PASSES} passes")


def simplex(bench: Bench, matrix: NDArray[np.float64]) -> Answer:
    """Search the sharpest frame over all three; `matrix` as in `mapfost`."""
    from scipy.optimize import minimize

    microscope: Any = bench.microscope
    start = np.array(microscope.stigmator, float)

    def blurred(point: NDArray[np.float64]) -> float:
        _add(bench, matrix, start, point[1:])
        return -tenengrad(bench.look(bench.place(float(point[0]))))

    corners = np.vstack([np.zeros(3), _SIDE * np.eye(3)])
    options = {"initial_simplex": corners, "xatol": _TOLERANCE, "fatol": np.inf, "maxfev": _MOST_FRAMES}
    result = minimize(blurred, np.zeros(3), method="Nelder-Mead", options=options)
    _add(bench, matrix, start, result.x[1:])
    return Answer(bench.place(float(result.x[0])), bool(result.success), str(result.message))


PEERS = {"mapfost": mapfost, "simplex": simplex}
"""By name."""
