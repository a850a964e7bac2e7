"""The physical bound as an oracle: what a pair of frames can know of the focus, and a third frame to verify it.

Not a method: nobody reaches it. Two frames |z| apart give z to about 1 % of |z| (the Cramér-Rao bound of the ratio of
their spectra), as long as the spectra still overlap: up to some ±13 mm × 1000 / magnification.
"""

from __future__ import annotations

import numpy as np

__all__ = ["DESCRIPTION", "FRAMES", "NAME", "residual"]

NAME = "pair-bound"
"""Name of the bound in tables."""

DESCRIPTION = "oracle: the bound of a pair of frames, σ = 1 % of the starting defocus, and a frame to verify"
"""One line for tables."""

FRAMES = 3
"""Frames of a run."""

_RELATIVE_ERROR = 0.01  # Standard deviation of the estimate, as a share of the starting defocus


def residual(start_error: float, seed: int) -> float:
    """Return an error drawn from the bound, in the unit of `start_error`."""
    return float(abs(np.random.default_rng([seed, 4]).normal()) * _RELATIVE_ERROR * abs(start_error))
