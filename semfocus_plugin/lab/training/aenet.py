"""Training AENet: the paper's recipe, or the one that made the shipped weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin import networks
from semfocus_plugin.lab.training import checkpoint, datasets
from semfocus_plugin.lab.training.architecture import CompactAENet, PaperAENet, implied_score, nominal_half_blur
from semfocus_plugin.lab.training.descent import descend
from semfocus_plugin.lab.training.shipped import read_compact
from semfocus_plugin.networks import MAGNIFICATION_SCALE, median3, told_magnification
from semfocus_plugin.optics import HALF_SCORE

__all__ = ["AENetConfig", "Frames", "evaluate", "hash_field", "loss", "read_frames", "score_error", "split", "train"]

_HEIGHT, _WIDTH = 240, 320
_WIDEST_BLUR = 150.0
"""Pixels; half a frame. Beyond, one cannot tell wide from wider."""


@dataclass(frozen=True, slots=True)
class AENetConfig:
    """A training run. The defaults are the recipe of the shipped weights; `paper()` is the paper's.

    Parameters
    ----------
    data : tuple of str
        Folders of finished datasets of kind ``"frames"``; split 85/15 by field into training and validation.
    width : float or None
        Width of the paper's architecture; None for the compact one.
    epochs, batch : int
        Passes over the data, and frames a step.
    learning_rate, weight_decay : float
        Of Adam (paper) or AdamW (cosine).
    schedule : str
        ``"cosine"`` with a short warm-up, or ``"plateau"``: ×0.1 after 10 epochs without improvement.
    seed : int
        Of initial weights, order and augmentation.
    start : str
        Folder of a finished run, or of models such as the shipped ones, whose weights to go on from with a schedule of
        its own; empty for random weights.
    """

    data: tuple[str, ...]
    width: float | None = None
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    seed: int = 1
    start: str = ""

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidParameterError("data must name at least one dataset folder; see: semfocus dataset --help")
        if self.width is not None and not 0 < self.width <= 4:
            raise OutOfRangeError(f"width must be above 0 and at most 4, not {self.width:g}")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise OutOfRangeError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.schedule not in ("cosine", "plateau"):
            raise InvalidParameterError(f"schedule must be 'cosine' or 'plateau', not {self.schedule!r}")

    @classmethod
    def paper(cls, data: tuple[str, ...], **changes: Any) -> AENetConfig:
        """Return the paper's recipe: Adam, 0.01, plateau, batch 90, 200 epochs, MSE, weight decay 5e-4."""
        recipe = cls(data, 1.0, 200, 90, 0.01, 5e-4, "plateau")
        return dataclasses.replace(recipe, **changes)

    def network(self) -> nn.Module:
        """Return the untrained network."""
        return CompactAENet() if self.width is None else PaperAENet(self.width)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A dataset in memory, median-filtered once.

    Parameters
    ----------
    pixels : ndarray of shape (N, H, W), uint8
        The frames.
    told : Tensor of shape (N,)
        Values of the mag-image.
    score, log_blur : Tensor of shape (N,)
        Labels: score, and ln(1 + blur radius in pixels).
    half_blur : Tensor of shape (N,)
        Blur radius in pixels at which the frame's ideal score would be half of 9.
    specimen, field : ndarray of shape (N,)
        Name; number of the field, to split by.
    """

    pixels: NDArray[np.uint8]
    told: Tensor
    score: Tensor
    log_blur: Tensor
    half_blur: Tensor
    specimen: NDArray[Any]
    field: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.score)

    def batch(self, index: NDArray[np.int64], random: np.random.Generator | None, device: torch.device) -> Tensor:
        """Return network input (N, 2, 240, 320); cropped and flipped at random when `random` is given."""
        height, width = self.pixels.shape[1:]
        crops = []
        for k in index:
            top, left = (height - _HEIGHT) // 2, (width - _WIDTH) // 2
            if random is not None:
                top, left = random.integers(height - _HEIGHT + 1), random.integers(width - _WIDTH + 1)
            crops.append(self.pixels[k, top : top + _HEIGHT, left : left + _WIDTH])
        images = torch.from_numpy(np.stack(crops)).to(device).float()
        if random is not None:
            for axis in (1, 2):
                flip = torch.from_numpy(random.random(len(index)) < 0.5).to(device)
                images = torch.where(flip[:, None, None], images.flip(axis), images)
        images = images - images.mean((1, 2), keepdim=True)
        images = images / images.std((1, 2), correction=0, keepdim=True).clamp_min(1e-6 * 255)
        told = self.told[index].to(device)[:, None, None].expand_as(images)
        return torch.stack([images, told], 1).contiguous(memory_format=torch.channels_last)


def read_frames(folders: tuple[str, ...]) -> Frames:
    """Read datasets into memory.

    Raises
    ------
    InvalidParameterError
        When a folder holds no finished dataset of frames, or the frames differ in size.
    """
    shards = []
    for number, folder in enumerate(folders):
        for arrays in datasets.load(folder):
            if "blur" not in arrays:
                raise InvalidParameterError(f"{folder} holds focal series, not labelled frames")
            arrays["pixels"] = median3(arrays["pixels"])
            arrays["field"] = arrays["field"].astype(np.int64) + (number << 32)
            shards.append(arrays)
    if len({shard["pixels"].shape[1:] for shard in shards}) != 1:
        raise InvalidParameterError("the datasets hold frames of different sizes; train on one size")
    joined = {key: _joined([shard.pop(key) for shard in shards]) for key in list(shards[0])}
    width = joined["pixels"].shape[2]
    told = joined["magnification"] * np.float32(told_magnification(1.0, width) / MAGNIFICATION_SCALE)
    return Frames(
        joined["pixels"],
        torch.from_numpy(told),
        torch.from_numpy(joined["score"]),
        torch.from_numpy(np.log1p(np.minimum(joined["blur"], _WIDEST_BLUR))),
        _half_blur(torch.from_numpy(joined["blur"]), torch.from_numpy(joined["defocus"]), torch.from_numpy(told)),
        joined["specimen"],
        joined["field"],
    )


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the parts in one array, letting go of each when it is copied: a dataset fills half the memory."""
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.result_type(*parts))
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole


def _half_blur(blur: Tensor, defocus: Tensor, told: Tensor) -> Tensor:
    """Return the blur of half the score from the blur at a defocus; in focus, where it does not matter, the nominal."""
    away = defocus.abs() > 0.1
    return torch.where(away, HALF_SCORE * blur / defocus.abs().clamp_min(0.1), nominal_half_blur(told))


def split(frames: Frames) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices for training and validation, 85/15 by field."""
    held_out = np.array([hash_field(int(f)) % 100 < 15 for f in frames.field])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def hash_field(field: int) -> int:
    """Scatter field numbers, so that a split does not depend on their order."""
    return (field * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 40


def loss(outputs: tuple[Tensor, ...], score: Tensor, log_blur: Tensor, half_blur: Tensor, paper: bool) -> Tensor:
    """Mean square error of the score; for the compact network also the likelihood of the blur it saw.

    The compact network's score is judged with the probe core that the frame was taken with (`half_blur`).
    """
    if paper:
        return functional.mse_loss(outputs[0].flatten(), score)
    correction, mean, log_sigma = (output.flatten() for output in outputs)
    error = score_error(correction, mean, half_blur, score)
    # The factor σ^½ keeps hard frames from being explained away by a large σ (Seitzer et al., ICLR 2022).
    weight = torch.exp(log_sigma.detach())
    likelihood = weight * (log_sigma + 0.5 * ((log_blur - mean) * torch.exp(-log_sigma)) ** 2)
    return error + likelihood.mean()


def score_error(correction: Tensor, log_blur: Tensor, half_blur: Tensor, score: Tensor) -> Tensor:
    """Return the smooth L1 error of the score that a blur implies, corrected; all of shape (N,)."""
    return functional.smooth_l1_loss(implied_score(log_blur, half_blur) + correction, score, beta=0.5)


def train(
    config: AENetConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Callable[[dict[str, float]], object] | None = None,
) -> Path:
    """Train, with a checkpoint after every epoch.

    Parameters
    ----------
    config : AENetConfig
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
        The checkpoint of the last epoch; `semfocus_plugin.lab.training.export` makes ONNX of it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint.CHECKPOINT
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    network = config.network().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    first_epoch, frozen = 0, False
    if config.start and checkpoint.there(Path(config.start)):
        network.load_state_dict(checkpoint.load(Path(config.start), device)["network"])
    elif config.start:
        network.load_state_dict(_shipped(config).state_dict())
        frozen = True
    decoupled = torch.optim.AdamW if config.schedule == "cosine" else torch.optim.Adam
    optimizer = decoupled(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
    if resume:
        saved = checkpoint.load(folder, device)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        plateau.load_state_dict(saved["plateau"])
        first_epoch = saved["epoch"] + 1
    frames = read_frames(config.data)
    training, validation = split(frames)
    steps = math.ceil(len(training) / config.batch)
    narrow = _bfloat16_pays(device)
    for epoch in range(first_epoch, config.epochs):
        random = np.random.default_rng([config.seed, epoch])
        order = random.permutation(training)
        network.train()
        if frozen:
            _freeze_norms(network)
        started, total = time.monotonic(), 0.0
        for step in range(steps):
            if config.schedule == "cosine":
                rate = _cosine(epoch * steps + step, config.epochs * steps) * config.learning_rate
                optimizer.param_groups[0]["lr"] = rate
            index = np.sort(order[step * config.batch : (step + 1) * config.batch])
            inputs = frames.batch(index, random, device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=narrow):
                outputs = network(inputs)
            outputs = tuple(o.float() for o in outputs)
            value = loss(
                outputs,
                frames.score[index].to(device),
                frames.log_blur[index].to(device),
                frames.half_blur[index].to(device),
                config.width is not None,
            )
            total += descend(optimizer, value)
            if progress and step % 20 == 19:
                progress({"epoch": epoch, "step": step + 1, "steps": steps, "loss": total / (step + 1)})
        figures = evaluate(network, frames, validation, device)
        plateau.step(figures["mse"])
        figures |= {"epoch": epoch, "loss": total / steps, "seconds": round(time.monotonic() - started, 1)}
        path = checkpoint.save(folder, config, network, optimizer, figures, plateau=plateau.state_dict())
        if progress:
            progress(figures)
    return path


def _shipped(config: AENetConfig) -> nn.Module:
    """Return the network of a folder of models."""
    card = next((card for card in networks.read_manifest(Path(config.start)) if card.role == "aenet"), None)
    if card is None or config.width is not None:
        raise InvalidParameterError(f"start: {config.start} holds neither a checkpoint nor a compact AENet")
    return read_compact(card)[0]


def _freeze_norms(network: nn.Module) -> None:
    """Keep the batch norms of a network read from ONNX as the identities they are there."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _bfloat16_pays(device: torch.device) -> bool:
    """Tell whether the device computes in bfloat16 itself; other CPUs emulate it, at a fraction of the speed."""
    told: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cuda" or bool(told.get("avx512_bf16") or told.get("amx_bf16"))


def evaluate(network: nn.Module, frames: Frames, index: NDArray[np.int64], device: torch.device) -> dict[str, float]:
    """Return the paper's figures (MSE, accuracy within ±1, precision, correlation) and those of the blur."""
    network.eval()
    scores, blurs = [], []
    with torch.no_grad():
        for start in range(0, len(index), 128):
            outputs = network(frames.batch(index[start : start + 128], None, device))
            scores.append(outputs[0].flatten().cpu())
            if len(outputs) > 1:
                blurs.append(outputs[1].flatten().cpu())
    error = torch.cat(scores) - frames.score[index]
    figures = {
        "mse": float(error.square().mean()),
        "accuracy": float((error.abs() <= 1).float().mean()),
        "precision": float((1 - error.abs() / 10).mean()),
        "correlation": float(np.corrcoef(torch.cat(scores), frames.score[index])[0, 1]),
    }
    if blurs:
        residual = torch.cat(blurs) - frames.log_blur[index]
        figures["log_blur_median_error"] = float(residual.abs().median())
        figures["log_blur_rms_error"] = float(residual.square().mean().sqrt())
    return figures


def _cosine(step: int, steps: int) -> float:
    warm = max(1, min(300, steps // 20))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) + 1e-3
