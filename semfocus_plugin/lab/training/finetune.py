"""Teaching the AENet in use with a user's own labels, without forgetting what it knew.

A person's label holds the score alone, so the correction of the score is what learns; the blur that the network sees,
which autofocus steps by, stays as it was. Every step sees crops of the user's pictures beside frames from the emulator,
whose scores are to stay right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semdrivers import read_image
from semdrivers.console import problem_of
from semdrivers.data_bar import bar_rows_of, without_bar
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import named_file
from semdrivers.grey_levels import full_scale, in_unit, native
from semdrivers.microscope import whole_number
from semfocus_plugin import networks
from semfocus_plugin.lab.training import aenet, checkpoint, datasets
from semfocus_plugin.lab.training.architecture import CompactAENet, nominal_half_blur
from semfocus_plugin.lab.training.descent import Progress, Step, cosine, learn
from semfocus_plugin.lab.training.shipped import read_compact
from semfocus_plugin.labelling import read_sheet
from semfocus_plugin.networks import (
    MAGNIFICATION_SCALE,
    check_pixels,
    in_mirror_images,
    mag_image_value,
    median3,
    normalise,
    to_unit,
)

__all__ = ["KEPT", "LEAST_PICTURES", "FinetuneConfig", "Pictures", "Report", "read_pictures", "train"]

KEPT = datasets.DatasetConfig(count=4096, seed=90_001, shard_size=256)
"""Emulated frames that are made where none are given; none of them was trained on."""

LEAST_PICTURES = 10
"""Fewest labelled pictures that a training takes."""
_HELD_OUT = 0.2
_KEPT_WEIGHT = 3.0
"""Of the emulated frames' error against that of the pictures: with 1, an odd sample is learned by forgetting others."""
_HEIGHT, _WIDTH = networks.SMALLEST


@dataclass(frozen=True, slots=True)
class FinetuneConfig:
    """A run of fine-tuning.

    Parameters
    ----------
    sheets : tuple of str
        Sheets of labels (see `semfocus_plugin.labelling`); a fifth of the pictures is held out.
    data : tuple of str
        Folders of datasets of kind ``"frames"``: what is not to be forgotten, 15 % of its fields held out.
    epochs, batch : int
        Passes over the emulated frames; frames a step, half of them the user's.
    learning_rate : float
        At the start; falls to 0 as a cosine.
    seed : int
        Random seed; fixes the split, the order and the crops.
    """

    sheets: tuple[str, ...]
    data: tuple[str, ...]
    epochs: int = 8
    batch: int = 64
    learning_rate: float = 2e-3
    seed: int = 1
    width: None = None

    def __post_init__(self) -> None:
        if not self.sheets:
            raise InvalidParameterError("fine-tuning needs a sheet of labels; make one with: semfocus label FOLDER")
        for name, least in (("epochs", 1), ("batch", 2)):
            whole_number(name, getattr(self, name), least)
        if not 0 < self.learning_rate < 1:
            raise OutOfRangeError(f"learning_rate must be above 0 and below 1, not {self.learning_rate:g}")


@dataclass(frozen=True, slots=True)
class Report:
    """Figures before and after, on pictures and frames that were held out.

    Parameters
    ----------
    pictures_before, pictures_after : dict
        Figures of the user's pictures: ``rmse`` of the score, ``accuracy`` (within ±1), ``pictures``.
    kept_before, kept_after : dict
        Figures of the emulated frames: ``rmse`` and ``accuracy`` of the score, ``frames``.
    """

    pictures_before: dict[str, float]
    pictures_after: dict[str, float]
    kept_before: dict[str, float]
    kept_after: dict[str, float]

    def forgotten(self, tolerance: float) -> list[str]:
        """Return what got worse on the emulated frames by more than `tolerance` (a share of the error before)."""
        if self.kept_after["rmse"] <= (1 + tolerance) * self.kept_before["rmse"]:
            return []
        return [f"rmse {self.kept_before['rmse']:.3f} → {self.kept_after['rmse']:.3f}"]


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """A user's labelled pictures, median-filtered once, of any size from 320×240."""

    pixels: list[NDArray[Any]]
    mag_image: NDArray[np.float32]
    label: NDArray[np.float32]

    def crops(self, index: NDArray[np.int64], random: np.random.Generator) -> Tensor:
        """Return network input (N, 2, 240, 320) of random crops, flipped at random."""
        frames = np.empty((len(index), 2, _HEIGHT, _WIDTH), np.float32)
        for k, which in enumerate(index):
            height, width = self.pixels[which].shape
            top, left = random.integers(height - _HEIGHT + 1), random.integers(width - _WIDTH + 1)
            crop = to_unit(self.pixels[which][top : top + _HEIGHT, left : left + _WIDTH])
            frames[k, 0] = normalise(crop)[:: random.choice((1, -1)), :: random.choice((1, -1))]
            frames[k, 1] = self.mag_image[which]
        return torch.from_numpy(frames)

    def whole(self, which: int) -> Tensor:
        """Return network input (1, 2, H, W) of a whole picture, as `semfocus score` sees it."""
        unit = to_unit(self.pixels[which])
        mag_image = np.full_like(unit, self.mag_image[which])
        return torch.from_numpy(np.stack([normalise(unit), mag_image])[None])


def read_pictures(sheets: tuple[str, ...], problems: list[str] | None = None) -> Pictures:
    """Read the labelled pictures of sheets into memory.

    Parameters
    ----------
    sheets : tuple of str
        As `semfocus label` writes them.
    problems : list of str, optional
        Takes a line for every labelled picture that cannot be read or has no magnification; the others are used.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When a sheet cannot be read, or fewer than `LEAST_PICTURES` pictures can be used.
    """
    problems = [] if problems is None else problems
    pixels, mag_image, labels = [], [], []
    for sheet in map(Path, sheets):
        for row in read_sheet(sheet):
            if row.label is None:
                continue
            path = named_file(sheet.parent, row.file)
            try:
                if row.magnification is None:
                    raise InvalidParameterError(f"{sheet}: {row.file} has a label and no magnification; fill it in")
                image = read_image(path)
                rows = bar_rows_of(image.pixels, image.metadata, row.bar_rows)
                picture = native(without_bar(image.pixels, rows, str(path)))
                check_pixels(picture, str(path))
                picture = in_unit(picture, full_scale(picture, image.bit_depth))
            except Exception as error:
                problems.append(problem_of(path, error))
                continue
            pixels.append(median3(picture))
            mag_image.append(mag_image_value(row.magnification, picture.shape[1]) / MAGNIFICATION_SCALE)
            labels.append(row.label)
    if len(labels) < LEAST_PICTURES:
        raise InvalidParameterError(
            f"{', '.join(sheets)}: {len(labels)} pictures have a label, and it takes {LEAST_PICTURES} at least; "
            "fill in the column label" + "".join(f"\n  {problem}" for problem in problems)
        )
    return Pictures(pixels, np.array(mag_image, np.float32), np.array(labels, np.float32))


def train(
    config: FinetuneConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, Report]:
    """Go on from the AENet in use, with a checkpoint after every epoch.

    Parameters
    ----------
    config : FinetuneConfig
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
        The checkpoint; `semfocus_plugin.lab.training.export` makes ONNX of it.
    Report
        Figures before and after.

    Raises
    ------
    InvalidParameterError
        When the pictures or datasets cannot be read, or the checkpoint began from another AENet.
    ModelError
        When the AENet in use is none that training can go on from.
    """
    folder = Path(folder)
    pictures, kept = read_pictures(config.sheets), aenet.read_frames(config.data)
    card = next(card for card in networks.read_manifest() if card.role == "aenet")
    before, shape = read_compact(card)
    network, _ = read_compact(card)
    network.requires_grad_(False).correction.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.correction.parameters(), config.learning_rate, weight_decay=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    first_epoch = 0
    if resume:
        saved = checkpoint.load(folder)
        if saved.get("source") != card.sha256:
            raise InvalidParameterError(f"{folder} began from another AENet than {card.path}; name another folder")
        first_epoch = checkpoint.restore(saved, network, optimizer)
    order = np.random.default_rng(config.seed).permutation(len(pictures.pixels))
    held_out = max(1, round(_HELD_OUT * len(order)))
    shown, hidden = order[held_out:], order[:held_out]
    kept_shown, kept_hidden = aenet.split(kept)
    if not len(kept_shown) or not len(kept_hidden):
        raise InvalidParameterError(f"{', '.join(config.data)}: too few frames to hold some fields out")
    half = config.batch // 2
    steps = math.ceil(len(kept_shown) / half)

    def begin(epoch: int) -> tuple[int, Step]:
        random = np.random.default_rng([config.seed, epoch])
        turn = random.permutation(kept_shown)

        def step_loss(step: int) -> Tensor:
            old = np.sort(turn[step * half : (step + 1) * half])
            new = random.choice(shown, half)
            frames, _ = kept.drawn(old, random, torch.device("cpu"))
            value = _KEPT_WEIGHT * _error(network, frames, kept.half_blur[old], kept.score[old])
            crops = pictures.crops(new, random)
            nominal = nominal_half_blur(crops[:, 1, 0, 0])
            return value + _error(network, crops, nominal, torch.from_numpy(pictures.label[new]))

        return steps, step_loss

    def end(_: int, figures: dict[str, float]) -> None:
        figures = figures | _flat(network, pictures, hidden, kept, kept_hidden)
        checkpoint.save(folder, config, network, optimizer, figures, source=card.sha256, shape=shape)
        if progress:
            progress(figures)

    def rate(epoch: int, step: int, steps: int) -> float:
        return cosine((epoch * steps + step) / (config.epochs * steps)) * config.learning_rate

    learn(optimizer, range(first_epoch, config.epochs), begin, end, rate=rate, progress=progress, every=10)
    report = Report(
        _on_pictures(before, pictures, hidden),
        _on_pictures(network, pictures, hidden),
        _on_kept(before, kept, kept_hidden),
        _on_kept(network, kept, kept_hidden),
    )
    return folder / checkpoint.CHECKPOINT, report


def _error(network: CompactAENet, frames: Tensor, half_blur: Tensor, score: Tensor) -> Tensor:
    correction, *blur = network.read(frames)
    return aenet.score_error(correction.flatten(), network.larger(blur).flatten(), half_blur, score)


def _on_pictures(network: CompactAENet, pictures: Pictures, index: NDArray[np.int64]) -> dict[str, float]:
    def look(frames: NDArray[np.float32]) -> dict[str, float]:
        with torch.no_grad():
            maps = network(torch.from_numpy(frames))
        return {name: float(np.median(each.numpy())) for name, each in zip(network.outputs, maps, strict=True)}

    network.eval()
    scores = [in_mirror_images(look, pictures.whole(int(k)).numpy())["score"] for k in index]
    error = np.array(scores) - pictures.label[index]
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "accuracy": float(np.mean(np.abs(error) <= 1)),
        "pictures": len(index),
    }


def _on_kept(network: nn.Module, kept: aenet.Frames, index: NDArray[np.int64]) -> dict[str, float]:
    figures = aenet.evaluate(network, kept, index, torch.device("cpu"))
    return {
        "rmse": math.sqrt(figures["mse"]),
        "accuracy": figures["accuracy"],
        "frames": len(index),
    }


def _flat(
    network: CompactAENet,
    pictures: Pictures,
    hidden: NDArray[np.int64],
    kept: aenet.Frames,
    kept_hidden: NDArray[np.int64],
) -> dict[str, float]:
    mine, old = _on_pictures(network, pictures, hidden), _on_kept(network, kept, kept_hidden)
    return {f"pictures_{key}": value for key, value in mine.items()} | {f"kept_{key}": v for key, v in old.items()}
