"""Conventional image quality metrics that accompany AENet's score in the state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 256


def variance(unit: NDArray[np.float32]) -> float:
    """Return σ/μ (equation 3) of a median-filtered picture in 0..1; 0 for a black one."""
    mean = float(unit.mean(dtype=np.float64))
    return float(unit.std(dtype=np.float64)) / mean if mean > 0 else 0.0


def entropy(unit: NDArray[np.float32]) -> float:
    """Return −Σ p log₂ p (equation 4) over 256 grey levels of a median-filtered picture in 0..1, in bits."""
    levels = np.minimum(unit * np.float32(BINS), np.float32(BINS - 1)).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=BINS)
    share = counts[counts > 0] / levels.size
    return float(-(share * np.log2(share)).sum()) + 0.0
