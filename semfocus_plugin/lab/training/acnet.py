"""Training ACNet on focal series: the paper's recipe, or the one that made the shipped weights.

A focal series becomes three smooth curves (score, variance and entropy against working distance). Episodes are played
on them: a start, steps of the present policy with exploration, fresh noise every time. The states go to a replay
memory, with the step to the best working distance, clipped at A_max, as the target (Methods, "Training strategy").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import whole_number
from semfocus_plugin import networks as states
from semfocus_plugin.lab.training import checkpoint, descent
from semfocus_plugin.lab.training.architecture import ACNet
from semfocus_plugin.lab.training.curves import Curves, measure_folders
from semfocus_plugin.lab.training.playground import STEPS, Playground, Policy, offline_test
from semfocus_plugin.networks import LAWS, Evaluator

__all__ = ["ACNetConfig", "act", "evaluate", "learn", "play", "train", "train_policy"]


@dataclass(frozen=True, slots=True)
class ACNetConfig:
    """A training run. The defaults are the recipe of the shipped weights; `paper()` is the paper's.

    Parameters
    ----------
    data : tuple of str
        Folders of finished datasets of kind ``"series"``.
    action_law : str
        Law of A_max: ``"depth-of-field"`` or ``"paper"`` (equation 5).
    epochs, batch : int
        Rounds of play and learning, and states a step.
    episodes : int
        Episodes played a round.
    learning_rate : float
        Of Adam.
    hidden : int
        Units of a hidden layer.
    score_noise : float
        Standard deviation of the noise on the score is up to this.
    exploration : float
        Standard deviation of the noise on the step, as a share of A_max.
    memory : int
        States remembered.
    seed : int
        Random seed; fixes weights, episodes and noise.
    blanked : tuple of str
        Parts of the state that the network never sees (Table S1): keys of `semfocus_plugin.networks.ELEMENTS`.
    """

    data: tuple[str, ...]
    action_law: str = "depth-of-field"
    epochs: int = 600
    batch: int = 512
    episodes: int = 64
    learning_rate: float = 1e-3
    hidden: int = 256
    score_noise: float = 0.5
    exploration: float = 0.25
    memory: int = 60_000
    seed: int = 1
    blanked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidParameterError("data must name at least one dataset folder; see: semfocus dataset --help")
        if self.action_law not in LAWS:
            raise InvalidParameterError(f"action_law must be one of {', '.join(LAWS)}, not {self.action_law!r}")
        for name in ("epochs", "batch", "episodes", "hidden", "memory"):
            whole_number(name, getattr(self, name), 1)
        for part in self.blanked:
            if part not in states.ELEMENTS:
                raise InvalidParameterError(f"blanked must name parts of {', '.join(states.ELEMENTS)}, not {part!r}")

    @classmethod
    def paper(cls, data: tuple[str, ...], **changes: Any) -> ACNetConfig:
        """Return the paper's recipe: equation 5, 512 units, batch 90, Adam 0.01, 3000 epochs, score σ up to 0.2."""
        recipe = cls(data, "paper", 3000, 90, 8, 0.01, 512, 0.2, 0.25, 20_000)
        return dataclasses.replace(recipe, **changes)


def train(
    config: ACNetConfig,
    folder: str | Path,
    evaluator: Evaluator,
    *,
    resume: bool = False,
    progress: descent.Progress | None = None,
) -> Path:
    """Train, with a checkpoint every 50 epochs; see `semfocus_plugin.lab.training.aenet.train`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint.CHECKPOINT
    torch.manual_seed(config.seed)
    network = ACNet(hidden=config.hidden)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)
    first_epoch = 0
    if resume:
        first_epoch = checkpoint.restore(checkpoint.load(folder), network, optimizer)
    curves = measure_folders(config.data, evaluator)

    def keep(epoch: int, loss: float) -> None:
        if epoch % 50 == 49 or epoch + 1 == config.epochs:
            figures = evaluate(network, curves, config) | {"epoch": epoch, "loss": loss}
            checkpoint.save(folder, config, network, optimizer, figures)
            if progress:
                progress(figures)

    learn(config, curves, network, optimizer, first_epoch, keep)
    return path


def learn(
    config: ACNetConfig,
    curves: Curves,
    network: ACNet,
    optimizer: torch.optim.Optimizer,
    first_epoch: int = 0,
    after: Callable[[int, float], object] = lambda epoch, loss: None,
) -> None:
    """Train a network on curves; nothing is written.

    Parameters
    ----------
    config : ACNetConfig
        The recipe; its `data` is not read.
    curves : Curves
        To play on.
    network, optimizer
        Changed in place.
    first_epoch : int
        Where to begin.
    after : callable, optional
        Called with epoch and mean loss after every epoch.
    """
    remembered = np.zeros((0, states.STATE_SIZE), np.float32)
    wanted = np.zeros(0, np.float32)

    def begin(epoch: int) -> tuple[int, descent.Step]:
        nonlocal remembered, wanted
        random = np.random.default_rng([config.seed, epoch])
        new_states, new_targets = play(network, _playground(curves, config, random), random, config)
        remembered = np.concatenate([remembered, new_states])[-config.memory :]
        wanted = np.concatenate([wanted, new_targets])[-config.memory :]
        network.train()

        def step_loss(_: int) -> Tensor:
            index = random.integers(len(remembered), size=config.batch)
            step = network(torch.from_numpy(remembered[index])).flatten()
            return functional.mse_loss(step, torch.from_numpy(wanted[index]))

        return max(4, len(new_states) * 2 // config.batch), step_loss

    descent.learn(
        optimizer,
        range(first_epoch, config.epochs),
        begin,
        lambda epoch, figures: after(epoch, figures["loss"]),
        rate=lambda epoch, *_: config.learning_rate * (1 - epoch / config.epochs) + 1e-5,
        largest=math.inf,
    )


def train_policy(config: ACNetConfig, curves: Curves, after: Callable[[int], object] = lambda epoch: None) -> Policy:
    """Train on curves that are at hand, and return the network as a policy; nothing is written."""
    torch.manual_seed(config.seed)
    network = ACNet(hidden=config.hidden)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)
    with _one_thread():
        learn(config, curves, network, optimizer, after=lambda epoch, loss: after(epoch))

    def policy(state: NDArray[np.float32]) -> NDArray[np.float32]:
        with _one_thread():
            return act(network, state)

    return policy


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread: with layers this small, threads on a busy machine wait more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def play(
    network: ACNet, playground: Playground, random: np.random.Generator, config: ACNetConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Play episodes and return all states and targets.

    They go on at best focus, so that the network learns to stay there (the paper's 20 further iterations). The first
    step is at random: one frame does not show on which side the focus is.
    """
    seen, wanted = [], []
    for step in range(STEPS):
        state, target = playground.states(), playground.targets()
        seen.append(state)
        wanted.append(target)
        action: NDArray[Any] = act(network, state)
        if step == 0:
            action = random.uniform(0.1, 0.6, len(action)) * random.choice([-1, 1], len(action))
        else:
            action = action + config.exploration * random.random() * random.standard_normal(len(action))
        playground.move(np.clip(action, -1, 1))
    return np.concatenate(seen), np.concatenate(wanted)


def evaluate(network: ACNet, curves: Curves, config: ACNetConfig) -> dict[str, float]:
    """Return the paper's offline figures: selected score, its gap to the best, iterations, accuracy; and the error."""
    random = np.random.default_rng([config.seed, 1 << 20])
    reached = offline_test(partial(act, network), _playground(curves, config, random, episodes=512))
    return {
        "selected_score": float(reached.selected_score.mean()),
        "score_gap": float(reached.score_gap.mean()),
        "iterations": float(reached.iterations.mean()),
        "mse": float(reached.squared_error.mean()),
        "accuracy": float(reached.accuracy.mean()),
        "median_error_depths_of_field": float(np.median(reached.distance)),
        "within_2_depths_of_field": float((reached.distance <= 2).mean()),
        "p90_error_depths_of_field": float(np.percentile(reached.distance, 90)),
    }


def _playground(
    curves: Curves, config: ACNetConfig, random: np.random.Generator, episodes: int | None = None
) -> Playground:
    return Playground(
        curves,
        random,
        episodes=config.episodes if episodes is None else episodes,
        maximum=LAWS[config.action_law],
        score_noise=config.score_noise,
        blanked=config.blanked,
    )


def act(network: ACNet, state: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the steps (E,) that a network takes in states (E, 80)."""
    network.eval()
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(state)).flatten().numpy())
