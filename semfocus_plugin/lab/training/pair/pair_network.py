"""The pair network of the comparison: two frames at a fixed step give the signed defocus in between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import whole_number
from semfocus_plugin.lab.training import checkpoint, datasets
from semfocus_plugin.lab.training.descent import Progress, Step, cosine, learn
from semfocus_plugin.lab.training.export import write_model
from semfocus_plugin.lab.training.pair.pair_input import prepared
from semfocus_plugin.lab.training.sampling import TRAINED
from semfocus_plugin.networks import MAGNIFICATION_SCALE

__all__ = ["NAME", "PairConfig", "PairNetwork", "Pairs", "evaluate", "export", "read_pairs", "split", "train"]

NAME = "deepfocus-like"
"""Name of the network in its manifest."""

_CROP = (176, 224)
"""Height and width that a step of the training sees; the network averages over any size."""

_HELD_OUT = 8
"""Every so many fields, one is for validation."""

_MIDDLE_MAGNIFICATION = 3_000.0
_DARKEST = 1e-2
_CHANNELS, _HIDDEN = (16, 32, 48, 96), 96  # of the four strided stages; width of the head


@dataclass(frozen=True, slots=True)
class PairConfig:
    """A training run; the defaults are the recipe of the network beside the peer.

    Parameters
    ----------
    data : tuple of str
        Folders of pairs, made by `semfocus_plugin.lab.training.datasets.build` from a `PairsConfig`.
    epochs, batch : int
        Passes over the data, and pairs a step.
    learning_rate, weight_decay : float
        Of AdamW, with a warm-up and a cosine.
    seed : int
        Random seed; fixes initial weights, order and augmentation.
    """

    data: tuple[str, ...]
    epochs: int = 10
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidParameterError("data must name at least one folder of pairs")
        for name in ("epochs", "batch"):
            whole_number(name, getattr(self, name), 1)


class PairNetwork(nn.Module):
    """One strided encoder for both frames, its averages side by side, and a head that knows the magnification.

    Swapping the frames turns the sign of the answer, so two equal frames give zero.

    """

    outputs = ("asinh_defocus",)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in zip((1, *_CHANNELS), _CHANNELS, (5, 3, 3, 3), strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            ]
        last = _CHANNELS[-1]
        layers += [nn.Conv2d(last, last, 3, 1, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(2 * last + 1, _HIDDEN), nn.LeakyReLU(0.2), nn.Linear(_HIDDEN, _HIDDEN), nn.LeakyReLU(0.2)
        )
        self.last = nn.Linear(_HIDDEN, 1, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Return the inverse hyperbolic sine of the defocus in nominal depths of field, (N, 1), from (N, 3, H, W)."""
        log_magnification = torch.log(
            pairs[:, 2:, :1, :1].flatten(1) * (MAGNIFICATION_SCALE / _MIDDLE_MAGNIFICATION) + 1e-3
        )
        first, second = self._seen(pairs[:, :1]), self._seen(pairs[:, 1:2])
        forth = self.head(torch.cat([first, second, log_magnification], 1))
        back = self.head(torch.cat([second, first, log_magnification], 1))
        answer: Tensor = self.last(forth - back)
        return answer

    def _seen(self, frame: Tensor) -> Tensor:
        # A ratio of what two frames show, in a band of the spectrum, becomes a difference.
        return torch.log(self.encoder(frame).mean((2, 3)) + _DARKEST)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs in memory: pixels (N, 2, H, W) uint8, magnification, defocus in nominal depths of field, and field (N,)."""

    pixels: NDArray[np.uint8]
    magnification: NDArray[np.float32]
    defocus: NDArray[np.float32]
    field: NDArray[np.int64]

    def batch(self, index: NDArray[np.int64], random: np.random.Generator | None) -> Tensor:
        """Return network input; cropped and flipped at random where `random` is given."""
        pixels = self.pixels[index]
        if random is not None:
            height, width = _CROP
            top = int(random.integers(pixels.shape[2] - height + 1))
            left = int(random.integers(pixels.shape[3] - width + 1))
            down, across = random.choice((-1, 1), 2)
            pixels = pixels[:, :, top : top + height, left : left + width][:, :, ::down, ::across]
        return torch.from_numpy(prepared(pixels, self.magnification[index])).contiguous(
            memory_format=torch.channels_last
        )

    def target(self, index: NDArray[np.int64]) -> Tensor:
        """Return what the network should answer, (N, 1)."""
        return torch.from_numpy(np.arcsinh(self.defocus[index]))[:, None]


def read_pairs(folders: tuple[str, ...]) -> Pairs:
    """Read sets of pairs into memory.

    Raises
    ------
    InvalidParameterError
        When a folder holds no finished set of pairs.
    """
    shards = []
    for number, folder in enumerate(folders):
        for arrays in datasets.load(folder):
            if arrays["pixels"].ndim != 4:
                raise InvalidParameterError(f"{folder} holds no pairs; see semfocus_plugin.lab.training.pair.pairs")
            arrays["field"] = arrays["field"] + (number << 32)
            shards.append(arrays)
    return Pairs(
        *(np.concatenate([shard[key] for shard in shards]) for key in ("pixels", "magnification", "defocus", "field"))
    )


def split(pairs: Pairs) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices for training and validation; a field is in one of them."""
    held_out = pairs.field % _HELD_OUT == 0
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def train(
    config: PairConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train, with a checkpoint after every epoch.

    Parameters
    ----------
    config : PairConfig
        The recipe.
    folder : path
        For ``checkpoint.pt`` and ``history.jsonl``.
    resume : bool
        Go on from the folder's checkpoint.
    progress : callable, optional
        Called during and after every epoch with its figures.

    Returns
    -------
    Path
        The checkpoint of the last epoch; `export` makes ONNX of it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    network = PairNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    first_epoch = 0
    if resume:
        first_epoch = checkpoint.restore(checkpoint.load(folder), network, optimizer)
    pairs = read_pairs(config.data)
    training, validation = split(pairs)
    steps = math.ceil(len(training) / config.batch)

    def begin(epoch: int) -> tuple[int, Step]:
        random = np.random.default_rng([config.seed, epoch])
        order = random.permutation(training)
        network.train()

        def step_loss(step: int) -> Tensor:
            index = order[step * config.batch : (step + 1) * config.batch]
            return functional.smooth_l1_loss(network(pairs.batch(index, random)), pairs.target(index), beta=0.1)

        return steps, step_loss

    def end(_: int, figures: dict[str, float]) -> None:
        figures = evaluate(network, pairs, validation) | figures
        checkpoint.save(folder, config, network, optimizer, figures)
        if progress:
            progress(figures)

    def rate(epoch: int, step: int, steps: int) -> float:
        return config.learning_rate * _pace((epoch * steps + step) / (config.epochs * steps))

    learn(optimizer, range(first_epoch, config.epochs), begin, end, rate=rate, progress=progress)
    return folder / checkpoint.CHECKPOINT


def _pace(done: float) -> float:
    """Return the share of the learning rate: a warm-up over a twentieth of the run, then a cosine."""
    return min(done / 0.05 + 1e-2, cosine(done) + 1e-3)


def evaluate(network: PairNetwork, pairs: Pairs, index: NDArray[np.int64]) -> dict[str, float]:
    """Return errors in nominal depths of field: over all pairs, and over those within 9 and within 2 of the focus."""
    network.eval()
    with torch.no_grad():
        parts = [network(pairs.batch(index[k : k + 64], None)) for k in range(0, len(index), 64)]
    answer = np.sinh(torch.cat(parts).numpy()[:, 0])
    truth = pairs.defocus[index]
    error = np.abs(answer - truth)
    figures = {"median_error": float(np.median(error)), "right_sign": float(np.mean(answer * truth > 0))}
    for reach in (9, 2):
        near = error[np.abs(truth) <= reach]
        figures |= {f"median_error_within_{reach}": float(np.median(near)) if len(near) else math.nan}
        figures |= {f"p90_error_within_{reach}": float(np.quantile(near, 0.9)) if len(near) else math.nan}
    return figures


def export(saved_at: str | Path, folder: str | Path, name: str = NAME) -> Path:
    """Write ``<name>.onnx`` from a checkpoint and enter it, with its recipe, in the manifest beside it.

    Returns
    -------
    Path
        The ONNX file.

    Raises
    ------
    ModelError
        When onnxruntime answers otherwise than torch.
    """
    saved = torch.load(saved_at, map_location="cpu", weights_only=True)
    network = PairNetwork()
    network.load_state_dict(saved["network"])
    example = torch.randn(1, 3, 240, 320)
    example[:, 2] = 0.05
    axes = {"pairs": {0: "n", 2: "height", 3: "width"}} | {output: {0: "n"} for output in network.outputs}
    more = {"specimens": [*TRAINED, "textures"]}
    return write_model(network, example, Path(folder) / f"{name}.onnx", axes, "peer", saved, more)
