"""The 80-element state of ACNet, and the largest step it may ask for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semfocus_plugin.networks._preprocessing import MAGNIFICATION_SCALE
from semfocus_plugin.optics import trained_depth_of_field

HISTORY = 20
"""Frames that the state remembers, the present one included."""

STATE_SIZE = 80
"""Numbers in an encoded state."""

ELEMENTS: Mapping[str, slice] = MappingProxyType(
    {
        "working-distance": slice(0, 19),
        "score": slice(19, 39),
        "variance": slice(39, 59),
        "entropy": slice(59, 79),
        "magnification": slice(79, 80),
    }
)
"""Where the state holds what."""

SCORE_SCALE = 10.0
ENTROPY_SCALE = 100.0


MaximumAction = Callable[[float], float]
"""From magnification to the largest step, in mm."""


def maximum_action_paper(magnification: float) -> float:
    """Return A_max in mm by equation 5: 1.2 mm at low magnification, 36 µm above some 12 000×."""
    return 1.2 * paper_factor(magnification)


def paper_factor(magnification: float) -> float:
    """Return the factor of equation 5, from 1 at low magnification to 0.03 at high."""
    return -0.485 * math.tanh((magnification - 9000.0) / 1000.0) + 0.515


def maximum_action(magnification: float) -> float:
    """Return nine nominal depths of field in mm.

    Nine is the full width at half maximum of the score curve, which is what equation 5 was fitted to. The law
    meets equation 5 at 1 000× (1.2 mm) and 10 000× (0.19 mm), follows 1/M between them, where the step of the
    tanh would jump over the peak, and ends at the probe core (0.15 mm).
    """
    return 9.0 * trained_depth_of_field(magnification)


def encode(
    working_distance: ArrayLike,
    score: ArrayLike,
    variance: ArrayLike,
    entropy: ArrayLike,
    magnification: ArrayLike,
    maximum: ArrayLike,
) -> NDArray[np.float32]:
    """Return states from histories, for one run or many at once.

    Parameters
    ----------
    working_distance, score, variance, entropy : array_like of shape (..., 20)
        Newest first. Working distance in mm, score 0 to 9, entropy in bits.
    magnification, maximum : array_like of shape (...)
        Present magnification, and A_max there in mm.

    Returns
    -------
    ndarray of shape (..., 80), float32
        Elements 0..18 hold WD now − WD k frames ago, k = 1..19, over A_max; 19 the score, 20..38 its
        differences in the same manner, over 10; 39 and 40..58 the variance; 59 and 60..78 the entropy over
        100; 79 the magnification over 100 000. The absolute working distance is not in it (Methods, "Training
        strategy").
    """
    distance = np.asarray(working_distance, dtype=np.float64)
    parts = [(distance[..., :1] - distance[..., 1:]) / np.asarray(maximum, dtype=np.float64)[..., None]]
    for values, scale in ((score, SCORE_SCALE), (variance, 1.0), (entropy, ENTROPY_SCALE)):
        history = np.asarray(values, dtype=np.float64) / scale
        parts += [history[..., :1], history[..., :1] - history[..., 1:]]
    parts.append(np.asarray(magnification, dtype=np.float64)[..., None] / MAGNIFICATION_SCALE)
    return np.concatenate(parts, axis=-1).astype(np.float32)


class State:
    """The last 20 frames of a run, as ACNet sees them.

    Parameters
    ----------
    maximum : callable, optional
        A_max in mm as a function of magnification: `maximum_action` (the default) or `maximum_action_paper`.
    """

    def __init__(self, maximum: MaximumAction = maximum_action) -> None:
        self._maximum = maximum
        self._history: NDArray[np.float64] | None = None

    def reset(self) -> None:
        """Forget all frames; the next update fills the history with its own values."""
        self._history = None

    def update(
        self, working_distance: float, score: float, variance: float, entropy: float, magnification: float
    ) -> NDArray[np.float32]:
        """Add a frame and return the state, shape (80,), float32; arguments as in `encode`."""
        newest = np.array([working_distance, score, variance, entropy])
        if self._history is None:
            self._history = np.repeat(newest[:, None], HISTORY, axis=1)
        else:
            self._history = np.concatenate([newest[:, None], self._history[:, :-1]], axis=1)
        distances, scores, variances, entropies = self._history
        return encode(distances, scores, variances, entropies, magnification, self._maximum(magnification))
