"""Training ACNet on focal series: the paper's recipe, or the one that made the shipped weights.

A focal series becomes three smooth curves (score, variance and entropy against working distance). Episodes are played
on them: a start, steps of the present policy with exploration, fresh noise every time. The states go to a replay
memory, with the step to the best working distance, clipped at A_max, as the target (Methods, "Training strategy").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin import state as states
from semfocus_plugin.networks import LAWS, AENet
from semfocus_plugin.training import checkpoint, datasets
from semfocus_plugin.training.architecture import ACNet

Array = NDArray[np.float64]

_STEPS = 20
_GRID = 401


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
        Of weights, episodes and noise.
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

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidParameterError("data must name at least one dataset folder; see: semfocus dataset --help")
        if self.action_law not in LAWS:
            raise InvalidParameterError(f"action_law must be one of {', '.join(LAWS)}, not {self.action_law!r}")
        for name in ("epochs", "batch", "episodes", "hidden", "memory"):
            if getattr(self, name) < 1:
                raise OutOfRangeError(f"{name} must be at least 1, not {getattr(self, name)}")

    @classmethod
    def paper(cls, data: tuple[str, ...], **changes: Any) -> ACNetConfig:
        """Return the paper's recipe: equation 5, 512 units, batch 90, Adam 0.01, 3000 epochs, score σ up to 0.2."""
        recipe = cls(data, "paper", 3000, 90, 8, 0.01, 512, 0.2, 0.25, 20_000)
        return dataclasses.replace(recipe, **changes)


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
        Of every series; mm.
    best : ndarray of shape (S,)
        Defocus of the highest score.
    """

    defocus: Array
    values: Array
    magnification: Array
    depth_of_field: Array
    best: Array


def measure_curves(folders: tuple[str, ...], evaluator: AENet) -> Curves:
    """Score every frame of the focal series and smooth the curves."""
    grid = np.linspace(-20, 20, _GRID)
    values, magnifications, depths = [], [], []
    for folder in folders:
        for series in datasets.load(folder):
            if "depth_of_field" not in series:
                raise InvalidParameterError(f"{folder} holds labelled frames, not focal series")
            magnification = float(series["magnification"])
            seen = [evaluator(frame, magnification) for frame in series["pixels"]]
            curves = np.array([[e.score, e.variance, e.entropy] for e in seen]).T
            order = np.argsort(series["defocus"])
            values.append([_smooth(series["defocus"][order], curve[order], grid) for curve in curves])
            magnifications.append(magnification)
            depths.append(float(series["depth_of_field"]))
    stacked = np.array(values)
    best = grid[np.argmax(stacked[:, 0], axis=1)]
    return Curves(grid, stacked, np.array(magnifications), np.array(depths), best)


def _smooth(x: NDArray[Any], y: NDArray[Any], grid: Array, width: float = 0.35) -> Array:
    """Gaussian-weighted local mean: interpolation that, like the paper's spline, leaves the noise behind."""
    weight = np.exp(-0.5 * ((grid[:, None] - x[None, :]) / width) ** 2) + 1e-12
    return np.asarray(weight @ y / weight.sum(axis=1))


class Playground:
    """Many episodes side by side, on curves, in units of the instrument's depth of field."""

    def __init__(self, curves: Curves, config: ACNetConfig, random: np.random.Generator) -> None:
        self._curves, self._config, self._random = curves, config, random
        law = LAWS[config.action_law]
        count = config.episodes
        self._series = random.integers(len(curves.best), size=count)
        self.magnification = curves.magnification[self._series]
        # The aperture is not known to the network: the true depth of field differs from the nominal one.
        depth = curves.depth_of_field[self._series] * np.exp(random.normal(0, 0.3, count))
        self.maximum = np.array([law(m) for m in self.magnification])
        self._unit = self.maximum / depth
        self.position = random.uniform(-9, 9, count) + curves.best[self._series]
        self._noise = config.score_noise * random.random(count)
        self._history = np.repeat(self._frame()[:, :, None], states.HISTORY, axis=2)

    def _curves_here(self) -> Array:
        """Return (E, 3): score, variance and entropy at the present positions, without noise."""
        grid = self._curves.defocus
        place = np.clip((self.position - grid[0]) / (grid[1] - grid[0]), 0, _GRID - 1.001)
        low = place.astype(np.int64)
        near, far = (self._curves.values[self._series, :, low + k] for k in (0, 1))
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
        return np.asarray(self._curves.values[self._series, 0].max(axis=1) - self.true_score)

    @property
    def distance(self) -> Array:
        """Distance to the best place, in depths of field."""
        return np.asarray(np.abs(self.position - self._curves.best[self._series]))

    def states(self) -> NDArray[np.float32]:
        """Return the states, (E, 80)."""
        h = self._history
        return states.encode(h[:, 0], h[:, 1], h[:, 2], h[:, 3], self.magnification, self.maximum)

    def targets(self) -> NDArray[np.float32]:
        """Return the steps to the best place as shares of A_max, clipped, (E,)."""
        step = (self._curves.best[self._series] - self.position) / self._unit
        return np.clip(step, -1, 1).astype(np.float32)

    def move(self, action: NDArray[Any]) -> None:
        """Take a step of `action` times A_max each."""
        self.position = np.clip(self.position + action * self._unit, -25, 25)
        self._history = np.concatenate([self._frame()[:, :, None], self._history[:, :, :-1]], axis=2)


def train(
    config: ACNetConfig,
    folder: str | Path,
    evaluator: AENet,
    *,
    resume: bool = False,
    progress: Callable[[dict[str, float]], object] | None = None,
) -> Path:
    """Train, with a checkpoint every 50 epochs; see `semfocus_plugin.training.aenet.train`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint.CHECKPOINT
    torch.manual_seed(config.seed)
    network = ACNet(hidden=config.hidden)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)
    first_epoch = 0
    if resume:
        saved = checkpoint.load(folder)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        first_epoch = saved["epoch"] + 1
    curves = measure_curves(config.data, evaluator)
    remembered = np.zeros((0, states.STATE_SIZE), np.float32)
    wanted = np.zeros(0, np.float32)
    for epoch in range(first_epoch, config.epochs):
        random = np.random.default_rng([config.seed, epoch])
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - epoch / config.epochs) + 1e-5
        new_states, new_targets = play(network, Playground(curves, config, random), random, config)
        remembered = np.concatenate([remembered, new_states])[-config.memory :]
        wanted = np.concatenate([wanted, new_targets])[-config.memory :]
        network.train()
        total, rounds = 0.0, max(4, len(new_states) * 2 // config.batch)
        for _ in range(rounds):
            index = random.integers(len(remembered), size=config.batch)
            step = network(torch.from_numpy(remembered[index])).flatten()
            value = functional.mse_loss(step, torch.from_numpy(wanted[index]))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            optimizer.step()
            total += float(value.detach())
        if epoch % 50 == 49 or epoch + 1 == config.epochs:
            figures = evaluate(network, curves, config) | {"epoch": epoch, "loss": total / rounds}
            path = checkpoint.save(folder, config, network, optimizer, figures)
            if progress:
                progress(figures)
    return path


def play(
    network: ACNet, playground: Playground, random: np.random.Generator, config: ACNetConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Play episodes and return all states and targets.

    They go on at best focus, so that the network learns to stay there (the paper's 20 further iterations). The first
    step is at random: one frame does not tell on which side the focus is.
    """
    seen, wanted = [], []
    for step in range(_STEPS):
        state, target = playground.states(), playground.targets()
        seen.append(state)
        wanted.append(target)
        action: NDArray[Any] = _act(network, state)
        if step == 0:
            action = random.uniform(0.1, 0.6, len(action)) * random.choice([-1, 1], len(action))
        else:
            action = action + config.exploration * random.random() * random.standard_normal(len(action))
        playground.move(np.clip(action, -1, 1))
    return np.concatenate(seen), np.concatenate(wanted)


def evaluate(network: ACNet, curves: Curves, config: ACNetConfig) -> dict[str, float]:
    """Return the paper's offline figures: selected score, its gap to the best, iterations; and the error."""
    random = np.random.default_rng([config.seed, 1 << 20])
    settings = dataclasses.replace(config, episodes=512)
    playground = Playground(curves, settings, random)
    best_score, best_distance = playground.score, playground.distance
    selected, gap = playground.true_score, playground.score_gap
    iterations = np.full(512, 20.0)
    idle = np.zeros(512)
    for step in range(20):
        action: NDArray[Any] = _act(network, playground.states())
        if step == 0:
            action = np.where(np.abs(action) < 0.1, 0.3, action)
        playground.move(action)
        better = (playground.score > best_score) & (iterations == 20)
        best_score = np.where(better, playground.score, best_score)
        best_distance = np.where(better, playground.distance, best_distance)
        selected = np.where(better, playground.true_score, selected)
        gap = np.where(better, playground.score_gap, gap)
        idle = np.where(better, 0, idle + 1)
        ended = ((best_score >= 9) | (idle >= 5)) & (iterations == 20)
        iterations = np.where(ended, step + 1, iterations)
    return {
        "selected_score": float(selected.mean()),
        "score_gap": float(gap.mean()),
        "iterations": float(iterations.mean()),
        "median_error_depths_of_field": float(np.median(best_distance)),
        "within_2_depths_of_field": float((best_distance <= 2).mean()),
        "p90_error_depths_of_field": float(np.percentile(best_distance, 90)),
    }


def _act(network: ACNet, state: NDArray[np.float32]) -> NDArray[np.float32]:
    network.eval()
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(state)).flatten().numpy())
