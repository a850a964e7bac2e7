"""Datasets from the emulator: sharded on disk, resumable, made by all cores.

Dataset 1 (labelled frames, for AENet) and Dataset 2 (focal series, for ACNet) of the paper's Methods.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.parallel import run_all
from semfocus_plugin.lab.training.sampling import Field, draw_field, draw_sample

__all__ = ["FRAMES_PER_FIELD", "DatasetConfig", "Recipe", "build", "focal_series", "load", "recipe", "shard_path"]

FRAMES_PER_FIELD = 32
"""Frames that are taken of a field: drawing it costs more than a frame."""

_MIXTURES = ("paper", "paper-fast", "broad")


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """What a dataset holds. Same configuration, same bytes.

    Parameters
    ----------
    kind : str
        ``"frames"`` (Dataset 1) or ``"series"`` (Dataset 2).
    mixture : str
        ``"paper"``, ``"paper-fast"`` or ``"broad"``; see `semfocus_plugin.lab.training.sampling`.
    count : int
        Frames, or focal series.
    seed : int
        Random seed; fixes everything.
    shard_size : int
        Frames a file; a focal series is a file of its own.
    series_frames : int
        Frames of a focal series.
    label_noise : float
        Standard deviation of human-like label noise, after which scores are rounded; 0 switches both off.
    """

    kind: str = "frames"
    mixture: str = "broad"
    count: int = 30_000
    seed: int = 1
    shard_size: int = 512
    series_frames: int = 250
    label_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("frames", "series"):
            raise InvalidParameterError(f"kind must be 'frames' or 'series', not {self.kind!r}")
        if self.mixture not in _MIXTURES:
            raise InvalidParameterError(f"mixture must be one of {', '.join(_MIXTURES)}, not {self.mixture!r}")
        for name in ("count", "shard_size", "series_frames"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise OutOfRangeError(f"{name} must be a whole number of at least 1, not {getattr(self, name)!r}")
        if self.label_noise < 0:
            raise OutOfRangeError(f"label_noise must be at least 0, not {self.label_noise:g}")

    @property
    def shards(self) -> int:
        """Number of files."""
        return self.count if self.kind == "series" else -(-self.count // self.shard_size)

    def described(self) -> dict[str, Any]:
        """Return what ``config.json`` says of the dataset."""
        return dataclasses.asdict(self)

    def arrays(self, index: int) -> dict[str, NDArray[Any]]:
        """Return what a file holds, by its number."""
        random = np.random.default_rng([self.seed, index])
        if self.kind == "series":
            fast = "broad" if self.mixture == "broad" else "paper-fast"
            return focal_series(draw_field(random, fast), random, self.series_frames)
        return _frames(self, random, index)


class Recipe(Protocol):
    """What `build` makes a dataset from."""

    @property
    def shards(self) -> int:
        """Number of files."""
        ...

    def described(self) -> dict[str, Any]:
        """Return what ``config.json`` says of the dataset."""
        ...

    def arrays(self, index: int) -> Mapping[str, NDArray[Any]]:
        """Return what a file holds, by its number; called in other processes."""
        ...


def build(
    config: Recipe,
    folder: str | Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Make the dataset, or what is missing of it.

    Parameters
    ----------
    config : DatasetConfig, PairsConfig
        What to make.
    folder : path
        Where; one folder holds one dataset.
    workers : int, optional
        Processes; all cores by default.
    progress : callable, optional
        Called with (files there, files in all).

    Returns
    -------
    Path
        The manifest, written last: seeds, configuration, and a SHA-256 of every file.

    Raises
    ------
    InvalidParameterError
        When the folder holds another dataset.
    """
    folder, shards, described = Path(folder), config.shards, config.described()
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "config.json"
    wanted = json.dumps(described, indent=2)
    if marker.exists() and marker.read_text(encoding="utf-8") != wanted:
        raise InvalidParameterError(f"{folder} holds another dataset; name an empty folder, or delete it")
    marker.write_text(wanted, encoding="utf-8")
    missing = [k for k in range(shards) if not shard_path(folder, k).exists()]
    done = itertools.count(shards - len(missing) + 1)
    run_all(
        _write_shard,
        [(config, folder, k) for k in missing],
        workers=workers or os.cpu_count() or 1,
        progress=lambda _: progress(next(done), shards) if progress else None,
    )
    manifest = {
        "config": described,
        "files": {path.name: _sha256(path) for path in sorted(folder.glob("shard-*.npz"))},
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return path


def shard_path(folder: Path, index: int) -> Path:
    """Return the file of a shard."""
    return folder / f"shard-{index:05d}.npz"


def load(folder: str | Path) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the arrays of every shard.

    Raises
    ------
    InvalidParameterError
        When the folder holds no finished dataset.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise InvalidParameterError(f"{folder} holds no finished dataset; make one with: semfocus dataset {folder}")
    for path in sorted(folder.glob("shard-*.npz")):
        with np.load(path) as arrays:
            yield dict(arrays)


def recipe(folder: str | Path) -> dict[str, Any]:
    """Return the configuration of a dataset, empty where the folder is gone."""
    path = Path(folder) / "config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _write_shard(config: Recipe, folder: Path, index: int) -> None:
    """Write a file in one piece."""
    path = shard_path(folder, index)
    partly = path.with_suffix(".partial")
    with partly.open("wb") as file:
        np.savez(file, **config.arrays(index))  # type: ignore[arg-type]
    os.replace(partly, path)


def _frames(config: DatasetConfig, random: np.random.Generator, index: int) -> dict[str, NDArray[Any]]:
    """Labelled frames, a few of each field. `field` numbers the fields, so that splits go by field."""
    count = min(config.shard_size, config.count - index * config.shard_size)
    samples, fields = [], []
    field: Field | None = None
    for k in range(count):
        if field is None or k % FRAMES_PER_FIELD == 0:
            field = draw_field(random, config.mixture)
        samples.append(draw_sample(random, field, config.mixture, k))
        fields.append(index * config.shard_size + k // FRAMES_PER_FIELD)
    score = np.array([s.score for s in samples])
    if config.label_noise:
        score = np.clip(np.rint(score + config.label_noise * random.standard_normal(count)), 0, 9)
    labels = ("magnification", "larger", "smaller", "cos2", "sin2", "half_blur", "defocus")
    return {
        "pixels": np.stack([s.pixels for s in samples]),
        "score": score.astype(np.float32),
        **{label: np.array([getattr(s, label) for s in samples], np.float32) for label in labels},
        "plain": np.array([s.plain for s in samples]),
        "specimen": np.array([s.specimen for s in samples]),
        "field": np.array(fields, np.int32),
    }


def focal_series(field: Field, random: np.random.Generator, frames: int) -> dict[str, NDArray[Any]]:
    """Return a focal series of FAST frames, evenly spaced in working distance over ±20 depths of field.

    Keys: pixels (N, 240, 320), defocus and score (N,), depth_of_field (mm), magnification, specimen.
    """
    field = dataclasses.replace(field, conditions=dataclasses.replace(field.conditions, width=320, height=240))
    shift = random.uniform(-3, 3)
    positions = np.linspace(-20, 20, frames) + shift
    samples = [field.frame(float(u), k) for k, u in enumerate(positions)]
    truth = field.column.truth(field.conditions)
    return {
        "pixels": np.stack([s.pixels for s in samples]),
        "defocus": np.array([s.defocus for s in samples], np.float32),
        "score": np.array([s.score for s in samples], np.float32),
        "depth_of_field": np.array(truth.depth_of_field),
        "magnification": np.array(field.conditions.magnification),
        "specimen": np.array(field.specimen),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
