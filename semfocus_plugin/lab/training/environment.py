"""Autofocus as a task of reinforcement learning: the Gymnasium environment ``SemFocus-v0``.

    import gymnasium
    import semfocus_plugin.lab.training.environment  # registers it

    environment = gymnasium.make("SemFocus-v0")                           # frames of the emulator, one by one
    many = gymnasium.make_vec("SemFocus-v0", 8, vectorization_mode="async")  # the same in eight processes
    fast = gymnasium.make_vec("SemFocus-v0", 64, "vector_entry_point", curves=curves)  # curves of focal series

An episode begins within nine depths of field of the focus. An action is a step of the working distance as a share of
A_max. A frame costs something, a blurred one more, and the blur that is left at the end costs most. An episode ends as
the control of a run does: at a step too short to matter, after five frames without a better score, or after twenty.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError
from semfocus_plugin import networks
from semfocus_plugin.lab.training.curves import Curves
from semfocus_plugin.lab.training.playground import STEPS, Playground
from semfocus_plugin.lab.training.sampling import Field, draw_field
from semfocus_plugin.networks import LAWS, STATE_SIZE, Evaluation, Evaluator, State

__all__ = [
    "BLUR_COST", "FRAME_COST", "IDENTIFIER", "LEFT_COST", "SHORTEST", "CurvesEnvironment", "FocusEnvironment", "Ledger",
]  # fmt: skip

IDENTIFIER = "SemFocus-v0"
"""Name under which Gymnasium makes the environment."""

FRAME_COST = 0.1
"""Of every frame, in the unit of rewards."""

BLUR_COST = 0.02
"""Of every frame, times its distance from the focus in depths of field."""

LEFT_COST = 0.5
"""At the end, times the distance of the best frame from the focus in depths of field."""

SHORTEST = 0.3 / 9
"""Share of A_max, 0.3 nominal depths of field, below which a step ends the episode, as in the method `dual-network`."""

_FURTHEST = 10.0
"""Depths of field beyond which distance costs no more."""

_PATIENCE = 5
_START = 9.0
_SCORE_NOISE = 0.5
_ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)
_STATES = spaces.Box(-100.0, 100.0, (STATE_SIZE,), np.float32)


_Array = NDArray[Any]


class Ledger:
    """What episodes side by side have cost, and which of them have ended.

    Parameters
    ----------
    count : int
        Episodes.
    """

    def __init__(self, count: int) -> None:
        self.best_score, self.best_distance = np.zeros(count), np.zeros(count)
        self.idle, self.frames = np.zeros(count, int), np.zeros(count, int)

    def begin(self, which: _Array, score: _Array, distance: _Array) -> None:
        """Begin the episodes of a mask, each with the score and distance of its first frame."""
        self.best_score[which], self.best_distance[which] = score[which], distance[which]
        self.idle[which] = self.frames[which] = 0

    def add(self, action: _Array, score: _Array, distance: _Array) -> tuple[_Array, _Array, _Array]:
        """Add a frame to every episode.

        Parameters
        ----------
        action, score, distance : ndarray of shape (N,)
            Step as a share of A_max; score of the frame after it; its distance from the focus in depths of field.

        Returns
        -------
        reward, terminated, truncated : ndarray of shape (N,)
        """
        self.frames += 1
        better = score > self.best_score
        self.best_score = np.where(better, score, self.best_score)
        self.best_distance = np.where(better, distance, self.best_distance)
        self.idle = np.where(better, 0, self.idle + 1)
        terminated = (np.abs(action) < SHORTEST) | (self.idle >= _PATIENCE)
        truncated = (self.frames >= STEPS) & ~terminated
        reward = -FRAME_COST - BLUR_COST * np.minimum(distance, _FURTHEST)
        left = LEFT_COST * np.minimum(self.best_distance, _FURTHEST)
        return reward - left * (terminated | truncated), terminated, truncated


class FocusEnvironment(gymnasium.Env[Any, Any]):
    """One autofocus after another on the emulator: a new field in every episode, its frames scored by AENet.

    Parameters
    ----------
    observation : str
        ``"state"``, the 80 numbers of ACNet, or ``"frame"``, the picture of shape (240, 320, 1), uint8.
    mixture : str
        ``"paper-fast"`` or ``"broad"``; see `semfocus_plugin.lab.training.sampling`.
    action_law : str
        Law of A_max: ``"depth-of-field"`` or ``"paper"``.
    evaluator : Evaluator, optional
        Scores frames; the AENet in use by default.

    Raises
    ------
    InvalidParameterError
        For an observation that there is not.
    """

    def __init__(
        self,
        observation: str = "state",
        mixture: str = "paper-fast",
        action_law: str = "depth-of-field",
        evaluator: Evaluator | None = None,
    ) -> None:
        if observation not in ("state", "frame"):
            raise InvalidParameterError(f"observation must be 'state' or 'frame', not {observation!r}")
        self._shown, self._mixture, self._law = observation, mixture, LAWS[action_law]
        self._evaluator = networks.load().evaluator if evaluator is None else evaluator
        self.action_space = _ACTIONS
        frames = spaces.Box(0, 255, (240, 320, 1), np.uint8)
        self.observation_space = _STATES if observation == "state" else frames
        self._state, self._ledger = State(self._law), Ledger(1)
        self._field: Field | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin on a new field; returns the observation and what is known of the frame."""
        super().reset(seed=seed)
        self._field = field = draw_field(self.np_random, self._mixture)
        truth = field.column.truth(field.conditions, field.conditions.width)
        self._depth, self._magnification = truth.depth_of_field, field.conditions.magnification
        self._position = self.np_random.uniform(-_START, _START) * self._depth
        self._number = 0
        self._state.reset()
        observation, seen, distance = self._frame()
        self._ledger.begin(np.array([True]), np.array([seen.score]), np.array([distance]))
        return observation, {"score": seen.score, "distance": distance}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move by `action` × A_max and take a frame; ``info`` has score, and distance in depths of field."""
        share = float(np.clip(np.asarray(action).ravel()[0], -1, 1))
        limit = 25 * self._depth
        self._position = float(np.clip(self._position + share * self._law(self._magnification), -limit, limit))
        observation, seen, distance = self._frame()
        judged = self._ledger.add(np.array([share]), np.array([seen.score]), np.array([distance]))
        reward, terminated, truncated = (each[0].item() for each in judged)
        return observation, reward, terminated, truncated, {"score": seen.score, "distance": distance}

    def _frame(self) -> tuple[Any, Evaluation, float]:
        assert self._field is not None
        sample = self._field.frame(self._position / self._depth, self._number)
        self._number += 1
        seen = self._evaluator(sample.pixels, self._magnification)
        state = self._state.update(self._position, seen.score, seen.variance, seen.entropy, self._magnification)
        return state if self._shown == "state" else sample.pixels[:, :, None], seen, abs(sample.defocus)


class CurvesEnvironment(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Many episodes side by side, on the scores of focal series: thousands of frames a second; shows states alone.

    Parameters
    ----------
    num_envs : int
        Episodes side by side.
    curves : Curves
        Focal series, measured; see `semfocus_plugin.lab.training.curves`.
    action_law : str
        Law of A_max.
    """

    def __init__(self, num_envs: int, curves: Curves, action_law: str = "depth-of-field") -> None:
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        self.num_envs, self._curves, self._law = num_envs, curves, LAWS[action_law]
        self.single_observation_space, self.single_action_space = _STATES, _ACTIONS
        self.observation_space = gymnasium.vector.utils.batch_space(_STATES, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(_ACTIONS, num_envs)
        self._ledger = Ledger(num_envs)
        self._playground: Playground | None = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes anew."""
        if seed is not None or self._playground is None:
            self._random = np.random.default_rng(seed)  # type: ignore[arg-type]
        self._playground = Playground(
            self._curves, self._random, episodes=self.num_envs, maximum=self._law, score_noise=_SCORE_NOISE
        )
        self._ledger.begin(np.ones(self.num_envs, bool), self._playground.score, self._playground.distance)
        return self._playground.states(), {}

    def step(self, actions: Any) -> tuple[Any, _Array, _Array, _Array, dict[str, Any]]:
        """Take a step in every episode; one that ends begins anew, its last state being in ``final_obs``."""
        assert self._playground is not None
        share = np.clip(np.asarray(actions)[:, 0], -1, 1)
        self._playground.move(share)
        seen = self._playground.states()
        reward, terminated, truncated = self._ledger.add(share, self._playground.score, self._playground.distance)
        ended, infos = terminated | truncated, dict[str, Any]()
        if ended.any():
            infos = {"final_obs": seen.copy(), "_final_obs": ended}
            self._playground.renew(ended)
            self._ledger.begin(ended, self._playground.score, self._playground.distance)
            seen = self._playground.states()
        return seen, reward, terminated, truncated, infos


if IDENTIFIER not in gymnasium.registry:
    gymnasium.register(IDENTIFIER, f"{__name__}:FocusEnvironment", vector_entry_point=f"{__name__}:CurvesEnvironment")
