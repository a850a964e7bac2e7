"""Episodes on the curves of focal series: where ACNet learns, and where it is tested offline.

Fresh noise every time (Methods, "Data for ACNet"; Fig. S1c); the same terminal conditions as online: score 9, five
frames without a better one, or 20 frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin import networks as states
from semfocus_plugin.lab.training.curves import Array, Curves

__all__ = ["STEPS", "Episodes", "Playground", "Policy", "offline_test"]

Policy = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From states (E, 80) to steps (E,) as shares of A_max."""

STEPS = 20
"""Steps of an episode."""
_PERFECT = 9.0
_PATIENCE = 5
_ACCURATE = 0.005
"""mm; a step that misses its target by no more counts as right ("Training strategy": ±5)."""


class Playground:
    """Many episodes side by side, on curves, in units of the instrument's depth of field.

    Parameters
    ----------
    curves : Curves
        To play on.
    random : numpy.random.Generator
        Draws series, starts and noise.
    episodes : int
        Side by side.
    maximum : callable
        A_max in mm as a function of magnification.
    score_noise : float
        Standard deviation of the noise on the score is up to this.
    blanked : sequence of str
        Keys of `semfocus_plugin.networks.ELEMENTS` that the state holds as zeros.
    """

    def __init__(
        self,
        curves: Curves,
        random: np.random.Generator,
        *,
        episodes: int,
        maximum: states.MaximumAction,
        score_noise: float,
        blanked: Sequence[str] = (),
    ) -> None:
        self._curves, self._random, self._blanked = curves, random, tuple(blanked)
        self._law, self._score_noise = maximum, score_noise
        self.series = random.integers(len(curves.best), size=episodes)
        self.magnification = curves.magnification[self.series]
        # The aperture is not known to the network: the true depth of field differs from the nominal one.
        depth = curves.depth_of_field[self.series] * np.exp(random.normal(0, 0.3, episodes))
        self.maximum = np.array([maximum(m) for m in self.magnification])
        self._unit = self.maximum / depth
        self.position = random.uniform(-9, 9, episodes) + curves.best[self.series]
        self._noise = score_noise * random.random(episodes)
        self._history = np.repeat(self._frame()[:, :, None], states.HISTORY, axis=2)

    def _curves_here(self) -> Array:
        """Return (E, 3): score, variance and entropy at the present positions, without noise."""
        grid = self._curves.defocus
        place = np.clip((self.position - grid[0]) / (grid[1] - grid[0]), 0, len(grid) - 1.001)
        low = place.astype(np.int64)
        near, far = (self._curves.values[self.series, :, low + k] for k in (0, 1))
        return np.asarray(near + (place - low)[:, None] * (far - near))

    def _frame(self) -> Array:
        """Return (E, 4): position in mm, and score, variance, entropy with noise."""
        seen = self._curves_here()
        shared = self._random.standard_normal((len(seen), 1))
        seen += shared * np.stack([self._noise, 0.01 * self._noise, 0.02 * self._noise], axis=1)
        seen[:, 0] = np.clip(seen[:, 0], 0, 9)
        millimetres = self.position / self._unit * self.maximum
        return np.concatenate([millimetres[:, None], seen], axis=1)

    @property
    def score(self) -> Array:
        """Score of the present frames."""
        return np.asarray(self._history[:, 1, 0])

    @property
    def true_score(self) -> Array:
        """Score at the present positions without noise."""
        return self._curves_here()[:, 0]

    @property
    def score_gap(self) -> Array:
        """Best score of the series minus the score at the present positions, without noise."""
        return np.asarray(self._curves.values[self.series, 0].max(axis=1) - self.true_score)

    @property
    def distance(self) -> Array:
        """Distance to the best place, in depths of field."""
        return np.asarray(np.abs(self.position - self._curves.best[self.series]))

    def states(self) -> NDArray[np.float32]:
        """Return the states, (E, 80)."""
        h = self._history
        state = states.encode(h[:, 0], h[:, 1], h[:, 2], h[:, 3], self.magnification, self.maximum)
        for name in self._blanked:
            state[:, states.ELEMENTS[name]] = 0.0
        return state

    def targets(self) -> NDArray[np.float32]:
        """Return the steps to the best place as shares of A_max, clipped, (E,)."""
        step = (self._curves.best[self.series] - self.position) / self._unit
        return np.clip(step, -1, 1).astype(np.float32)

    def renew(self, which: NDArray[np.bool_]) -> None:
        """Begin the episodes of a mask anew."""
        fresh = Playground(
            self._curves,
            self._random,
            episodes=int(which.sum()),
            maximum=self._law,
            score_noise=self._score_noise,
            blanked=self._blanked,
        )
        for name in ("series", "magnification", "maximum", "position", "_unit", "_noise", "_history"):
            getattr(self, name)[which] = getattr(fresh, name)

    def move(self, action: NDArray[Any]) -> None:
        """Take a step of `action` times A_max each."""
        self.position = np.clip(self.position + action * self._unit, -25, 25)
        self._history = np.concatenate([self._frame()[:, :, None], self._history[:, :, :-1]], axis=2)


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """How a policy did, a number for every episode.

    Parameters
    ----------
    series : ndarray of shape (E,), int
        Number of the series that was played on.
    selected_score, score_gap : ndarray of shape (E,)
        At the place of the best frame, without noise; and below the best score of the series.
    iterations : ndarray of shape (E,)
        Steps until a terminal condition held, 20 at most.
    distance : ndarray of shape (E,)
        From the place of the best frame to the best place, in depths of field.
    squared_error : ndarray of shape (E,)
        Mean over the steps of (step − target)², in shares of A_max.
    accuracy : ndarray of shape (E,)
        Share of the steps within 5 µm of their target.
    """

    series: NDArray[Any]
    selected_score: Array
    score_gap: Array
    iterations: Array
    distance: Array
    squared_error: Array
    accuracy: Array


def offline_test(policy: Policy, playground: Playground) -> Episodes:
    """Play the offline test: all episodes of a fresh playground to their end."""
    best_score, best_distance = playground.score, playground.distance
    selected, gap = playground.true_score, playground.score_gap
    count = len(selected)
    running = np.ones(count, bool)
    iterations, idle = np.full(count, float(STEPS)), np.zeros(count)
    squared, accurate, steps = np.zeros(count), np.zeros(count), np.zeros(count)
    for step in range(STEPS):
        action, target = policy(playground.states()), playground.targets()
        miss = action - target
        squared += running * miss**2
        accurate += running * (np.abs(miss) * playground.maximum <= _ACCURATE)
        steps += running
        if step == 0:
            action = np.where(np.abs(action) < 0.1, 0.3, action)
        playground.move(action)
        better = (playground.score > best_score) & running
        best_score = np.where(better, playground.score, best_score)
        best_distance = np.where(better, playground.distance, best_distance)
        selected = np.where(better, playground.true_score, selected)
        gap = np.where(better, playground.score_gap, gap)
        idle = np.where(better, 0, idle + 1)
        ended = ((best_score >= _PERFECT) | (idle >= _PATIENCE)) & running
        iterations = np.where(ended, step + 1, iterations)
        running &= ~ended
    return Episodes(playground.series, selected, gap, iterations, best_distance, squared / steps, accurate / steps)
