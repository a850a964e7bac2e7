"""Training a control network by reinforcement, in the environment ``SemFocus-v0``; needs stable-baselines3.

Soft actor-critic (Haarnoja et al., ICML 2018) of stable-baselines3 learns on the curves of focal series, where a
thousand frames cost what one of the emulator does. The policy's mean is a network of ACNet's form, state in and step
out, and goes where ACNet goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import whole_number
from semfocus_plugin.lab.training.curves import Curves, measure_folders
from semfocus_plugin.lab.training.environment import IDENTIFIER
from semfocus_plugin.lab.training.export import write_control
from semfocus_plugin.networks import LAWS, Evaluator

__all__ = ["CHECKPOINT", "ReinforcedConfig", "learn", "train"]

CHECKPOINT = "reinforced.zip"
"""Name of the file of a checkpoint."""

_WARM_UP = 5_000


@dataclass(frozen=True, slots=True)
class ReinforcedConfig:
    """A training run.

    Parameters
    ----------
    data : tuple of str
        Folders of finished datasets of kind ``"series"``.
    action_law : str
        Law of A_max: ``"depth-of-field"`` or ``"paper"``.
    frames : int
        Frames to learn from, of all episodes together.
    episodes : int
        Side by side.
    updates : int
        Steps of the optimizer for every frame that each of the episodes takes.
    hidden : int
        Units of each of the two hidden layers.
    batch : int
        Frames of a step of the optimizer.
    learning_rate : float
        Of Adam.
    discount : float
        What a reward counts a frame later.
    seed : int
        Random seed.
    """

    data: tuple[str, ...]
    action_law: str = "depth-of-field"
    frames: int = 400_000
    episodes: int = 64
    updates: int = 8
    hidden: int = 128
    batch: int = 256
    learning_rate: float = 1e-3
    discount: float = 0.97
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidParameterError("data must name at least one dataset folder; see: semfocus dataset --help")
        if self.action_law not in LAWS:
            raise InvalidParameterError(f"action_law must be one of {', '.join(LAWS)}, not {self.action_law!r}")
        for name in ("frames", "episodes", "updates", "hidden", "batch"):
            whole_number(name, getattr(self, name), 1)


def train(
    config: ReinforcedConfig,
    folder: str | Path,
    evaluator: Evaluator,
    *,
    resume: bool = False,
    progress: Callable[[dict[str, float]], object] | None = None,
) -> Path:
    """Train and export; a checkpoint is kept on the way.

    Parameters
    ----------
    config : ReinforcedConfig
        The recipe.
    folder : path
        For the checkpoint and ``acnet.onnx`` with its entry in the manifest.
    evaluator : Evaluator
        Scores the focal series.
    resume : bool
        Go on from the folder's checkpoint, with a fresh memory, up to `config.frames`.
    progress : callable, optional
        Called now and then with figures.

    Returns
    -------
    Path
        The ONNX file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    curves = measure_folders(config.data, evaluator)
    model, figures = learn(config, curves, folder, resume=resume, progress=progress)
    actor = nn.Sequential(model.actor.latent_pi, model.actor.mu, nn.Tanh()).eval()
    return write_control(actor, folder / "acnet.onnx", {"config": dataclasses.asdict(config), "figures": figures})


def learn(
    config: ReinforcedConfig,
    curves: Curves,
    folder: Path,
    *,
    resume: bool = False,
    progress: Callable[[dict[str, float]], object] | None = None,
) -> tuple[SAC, dict[str, float]]:
    """Learn on curves; returns the model, and the figures of its last episodes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with layers this small, threads on a busy machine wait more than they work
    try:
        episodes = _Episodes(
            gymnasium.make_vec(IDENTIFIER, config.episodes, "vector_entry_point", curves=curves, **_law(config)),
            config.seed,
        )
        checkpoint = folder / CHECKPOINT
        if resume:
            model = SAC.load(checkpoint, episodes, device="cpu")
            model.learning_starts = model.num_timesteps + _WARM_UP
        else:
            model = SAC(
                "MlpPolicy",
                episodes,
                learning_rate=config.learning_rate,
                buffer_size=200_000,
                learning_starts=_WARM_UP,
                batch_size=config.batch,
                gamma=config.discount,
                train_freq=1,
                gradient_steps=config.updates,
                policy_kwargs={"net_arch": [config.hidden] * 2},
                seed=config.seed,
                device="cpu",
            )
        keeper = _Keeper(checkpoint, episodes, progress)
        left = config.frames - model.num_timesteps
        if left > 0:
            model.learn(left, callback=keeper, reset_num_timesteps=False)
        keeper.keep(model)
        return model, episodes.figures() | {"epoch": model.num_timesteps}
    finally:
        torch.set_num_threads(threads)


def _law(config: ReinforcedConfig) -> dict[str, Any]:
    return {"action_law": config.action_law}


class _Keeper(BaseCallback):
    """Writes a checkpoint, in one piece, and reports, every 10 000 frames."""

    def __init__(
        self,
        path: Path,
        episodes: _Episodes,
        progress: Callable[[dict[str, float]], object] | None,
    ) -> None:
        super().__init__()
        self._path, self._episodes, self._progress, self._last = path, episodes, progress, 0

    def _on_training_start(self) -> None:
        self._last = self.num_timesteps

    def _on_step(self) -> bool:
        if self.num_timesteps - self._last >= 10_000:
            self._last = self.num_timesteps
            self.keep(self.model)
            if self._progress:
                self._progress({"epoch": self.num_timesteps, **self._episodes.figures()})
        return True

    def keep(self, model: Any) -> None:
        """Write the checkpoint."""
        partial = self._path.with_name("partial.zip")
        model.save(partial)
        partial.replace(self._path)


class _Episodes(VecEnv):
    """A vector environment of Gymnasium in the form of stable-baselines3."""

    def __init__(self, episodes: gymnasium.vector.VectorEnv[Any, Any, Any], seed: int) -> None:
        self.render_mode = None
        super().__init__(episodes.num_envs, episodes.single_observation_space, episodes.single_action_space)
        self._vector, self._first_seed = episodes, seed
        self._lengths, self._returns = np.zeros(self.num_envs), np.zeros(self.num_envs)
        self._ended: list[tuple[float, float]] = []

    def figures(self) -> dict[str, float]:
        """Return mean frames and reward of the last thousand episodes."""
        frames, rewards = np.mean(self._ended[-1000:], axis=0) if self._ended else (np.nan, np.nan)
        return {"frames": float(frames), "reward": float(rewards)}

    def reset(self) -> NDArray[Any]:
        states: NDArray[Any] = self._vector.reset(seed=self._first_seed)[0]
        return states

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        states, rewards, terminated, truncated, infos = self._vector.step(self._actions)
        ended = terminated | truncated
        self._lengths += 1
        self._returns += rewards
        details: list[dict[str, Any]] = [{} for _ in ended]
        for k in np.flatnonzero(ended):
            details[k] = {"terminal_observation": infos["final_obs"][k], "TimeLimit.truncated": bool(truncated[k])}
            self._ended.append((float(self._lengths[k]), float(self._returns[k])))
            self._lengths[k] = self._returns[k] = 0
        del self._ended[:-1000]
        return states, rewards.astype(np.float32), ended, details

    def close(self) -> None:
        self._vector.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self._vector, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError("the episodes are one object")

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        raise NotImplementedError("the episodes are one object")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
