"""Tenengrad: the mean squared Sobel gradient (Tenenbaum 1970; Krotkov 1988), of a frame smoothed against noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["tenengrad", "vertex"]

# Binomial filters (1 2 1)² before the gradient; each adds 0.5 to the variance of the smoothing, in pixels²
_SMOOTHINGS = 2


def tenengrad(frame: NDArray[np.float64]) -> float:
    """Return the sharpness of a frame, shape (H, W), in squared grey levels."""
    for _ in range(_SMOOTHINGS):
        frame = _binomial(_binomial(frame).T).T
    smooth_rows, smooth_columns = _binomial(frame), _binomial(frame.T).T
    across = smooth_rows[:, 2:] - smooth_rows[:, :-2]
    down = smooth_columns[2:, :] - smooth_columns[:-2, :]
    return float(np.mean(across**2) + np.mean(down**2))


def _binomial(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth along the columns by (1 2 1)/4; two lines shorter."""
    result: NDArray[np.float64] = (frame[:-2] + 2 * frame[1:-1] + frame[2:]) / 4
    return result


def vertex(places: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the place of the highest value, refined by the parabola through it and its two neighbours."""
    top = int(np.argmax(values))
    if not 0 < top < len(places) - 1:
        return float(places[top])
    x, y = places[top - 1 : top + 2], values[top - 1 : top + 2]
    curvature, slope, _ = np.polyfit(x - x[1], y, 2)
    if curvature >= 0:
        return float(x[1])
    return float(np.clip(x[1] - slope / (2 * curvature), x[0], x[2]))
