"""Datasets from the emulator: sharded on disk, resumable, made by all cores.

Dataset 1 (labelled frames, for AENet) and Dataset 2 (focal series, for ACNet) of the paper's Methods.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import AutofocusError, InvalidParameterError, OutOfRangeError, installation, translated
from semdrivers.files import replacing
from semdrivers.microscope import whole_number
from semfocus_plugin.lab.benchmark.pictures import read_folder
from semfocus_plugin.lab.parallel import Workers, run_all
from semfocus_plugin.lab.training.sampling import Field, draw_field, draw_sample

__all__ = [
    "FRAMES_PER_FIELD", "MIXTURES", "DatasetConfig", "Recipe", "Store", "build", "focal_series", "load", "mapped",
    "recipe", "shard_name",
]  # fmt: skip

FRAMES_PER_FIELD = 32
"""Frames that are taken of a field: drawing it costs more than a frame."""

_LEFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(?:partial|tmp)")
"""Name of what a killed writer leaves of a file."""

_WORTH_MAPPING = 1 << 16
"""Bytes; a process may hold some tens of thousands of maps, and a large dataset has as many files."""

MIXTURES = ("paper", "paper-fast", "broad")
"""Mixtures of fields; see `semfocus_plugin.lab.training.sampling`."""


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
    micrographs : str
        Folder of micrographs with ``MANIFEST.csv`` to lay under the beam of the broad mixture instead of the named
        specimens; empty for none.
    """

    kind: str = "frames"
    mixture: str = "broad"
    count: int = 30_000
    seed: int = 1
    shard_size: int = 512
    series_frames: int = 250
    label_noise: float = 0.0
    micrographs: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("frames", "series"):
            raise InvalidParameterError(f"kind must be 'frames' or 'series', not {self.kind!r}")
        if self.mixture not in MIXTURES:
            raise InvalidParameterError(f"mixture must be one of {', '.join(MIXTURES)}, not {self.mixture!r}")
        for name in ("count", "shard_size", "series_frames"):
            whole_number(name, getattr(self, name), 1)
        if self.label_noise < 0:
            raise OutOfRangeError(f"label_noise must be at least 0, not {self.label_noise:g}")
        if self.micrographs and (self.kind, self.mixture) != ("frames", "broad"):
            raise InvalidParameterError("micrographs go with kind 'frames' and mixture 'broad'")

    @property
    def shards(self) -> int:
        """Number of files."""
        return self.count if self.kind == "series" else -(-self.count // self.shard_size)

    def described(self) -> dict[str, Any]:
        """Return what ``config.json`` says of the dataset; of micrographs, the hash of what they show."""
        described = dataclasses.asdict(self)
        if described.pop("micrographs"):
            contents = b"".join(picture.tobytes() for picture in _micrographs(self.micrographs))
            described["micrographs"] = hashlib.sha256(contents).hexdigest()
        return described

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
    workers: Workers = None,
    progress: Callable[[int, int], object] | None = None,
) -> str:
    """Make the dataset, or what is missing of it.

    Parameters
    ----------
    config : DatasetConfig, PairsConfig
        What to make.
    folder : path or str
        Where; one folder holds one dataset. With workers on other computers it is a folder that all of them share, or
        an address that fsspec opens, such as ``"s3://bucket/frames"``.
    workers : int or str, optional
        Processes, all cores by default; or the address of a Dask scheduler.
    progress : callable, optional
        Called with (files there, files in all).

    Returns
    -------
    str
        The manifest, written last: seeds, configuration, and a SHA-256 of every file.

    Raises
    ------
    InvalidParameterError
        When the folder holds another dataset.
    AutofocusError
        When the workers wrote to another folder of the same name.
    """
    store, shards, described = Store(folder), config.shards, config.described()
    wanted = json.dumps(described, indent=2).encode()
    there = store.names()
    if "config.json" not in there:
        store.write("config.json", wanted)
    elif store.read("config.json") != wanted:
        raise InvalidParameterError(f"{folder} holds another dataset; name an empty folder, or delete it")
    names = [shard_name(k) for k in range(shards)]
    kept = [name for name in names if name in there]
    missing = [k for k, name in enumerate(names) if name not in there]
    done = itertools.count(shards - len(missing) + 1)
    written = run_all(
        _write_shard,
        [(config, str(folder), k) for k in missing],
        workers=workers or os.cpu_count() or 1,
        progress=lambda _: progress(next(done), shards) if progress else None,
    )
    hashes = dict(written) | dict(run_all(_hash, [(str(folder), name) for name in kept], workers=workers))
    absent = set(names) - store.names()
    if absent:
        raise AutofocusError(
            f"{folder}: the workers wrote {len(absent)} files elsewhere; name a folder that all computers share, or an "
            "address such as s3://bucket/frames"
        )
    manifest = {"config": described, "files": {name: hashes[name] for name in names}}
    store.write("manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())
    store.tidy()
    return f"{folder}/manifest.json"


class Store:
    """A folder of files that appear whole or not at all: on this computer, or wherever fsspec reaches.

    Parameters
    ----------
    folder : path or str
        Made with its first file.

    Raises
    ------
    AutofocusError
        When the address is unknown, its package is not installed, or the storage does not answer; the methods raise it
        too.
    """

    def __init__(self, folder: str | Path) -> None:
        import fsspec

        self._folder = str(folder)
        try:
            self._files, self._root = fsspec.core.url_to_fs(self._folder)
        except ImportError as error:
            raise AutofocusError(f"{folder}: {error}; for s3:// {installation('s3')}") from None
        except ValueError as error:
            raise InvalidParameterError(f"{folder}: {error}") from None
        self.local = Path(self._root) if "file" in self._files.protocol else None

    def names(self) -> set[str]:
        """Return the names of the files; none where there is no folder, as storage of objects has no empty ones."""
        with translated(self._folder, AutofocusError):
            self._files.invalidate_cache()
            try:
                listed = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return set()
        return {each.replace("\\", "/").rpartition("/")[2] for each in listed}

    def read(self, name: str) -> bytes:
        """Return what a file holds."""
        with translated(self._folder, AutofocusError):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file in one piece."""
        with translated(self._folder, AutofocusError):
            self._files.makedirs(self._root, exist_ok=True)
            if self.local is not None:
                with replacing(self.local / name, overwrite=True) as partial:
                    partial.write_bytes(content)
                return
            partial_name = f"{self._root}/.{name}.{secrets.token_hex(4)}.partial"
            self._files.pipe_file(partial_name, content)
            self._files.mv(partial_name, f"{self._root}/{name}")

    def tidy(self) -> None:
        """Remove what writers that were killed left of files that are there whole."""
        names = self.names()
        with translated(self._folder, AutofocusError):
            for name in names:
                left = _LEFT.fullmatch(name)
                if left and left[1] in names:
                    with suppress(FileNotFoundError):
                        self._files.rm_file(f"{self._root}/{name}")


def shard_name(index: int) -> str:
    """Return the name of the file of a shard."""
    return f"shard-{index:05d}.npz"


def load(folder: str | Path) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the arrays of every shard; those of a folder on this computer stay on disk until they are used.

    Raises
    ------
    InvalidParameterError
        When the folder holds no finished dataset.
    """
    store = Store(folder)
    names = store.names()
    if "manifest.json" not in names:
        raise InvalidParameterError(f"{folder} holds no finished dataset; make one with: semfocus dataset {folder}")
    for name in sorted(each for each in names if each.startswith("shard-")):
        if store.local is not None:
            yield mapped(store.local / name)
        else:
            with np.load(io.BytesIO(store.read(name))) as arrays:
                yield dict(arrays)


def mapped(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an uncompressed ``.npz`` file, the large ones mapped: the system reads what is used."""
    arrays: dict[str, NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            file.seek(entry.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            file.seek(entry.header_offset + 30 + name + extra)
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            if shape and not fortran and dtype.itemsize * math.prod(shape) >= _WORTH_MAPPING:
                arrays[entry.filename.removesuffix(".npy")] = np.memmap(path, dtype, "r", file.tell(), shape)
            else:
                with archive.open(entry) as member:
                    arrays[entry.filename.removesuffix(".npy")] = np.lib.format.read_array(member)
    return arrays


def recipe(folder: str | Path) -> dict[str, Any]:
    """Return the configuration of a dataset, empty where the folder is gone."""
    store = Store(folder)
    return dict(json.loads(store.read("config.json"))) if "config.json" in store.names() else {}


def _write_shard(config: Recipe, folder: str, index: int) -> tuple[str, str]:
    """Write a file in one piece; returns its name and hash."""
    content = io.BytesIO()
    np.savez(content, **config.arrays(index))  # type: ignore[arg-type]
    Store(folder).write(shard_name(index), content.getvalue())
    return shard_name(index), hashlib.sha256(content.getbuffer()).hexdigest()


def _hash(folder: str, name: str) -> tuple[str, str]:
    return name, hashlib.sha256(Store(folder).read(name)).hexdigest()


@functools.cache
def _micrographs(folder: str) -> tuple[NDArray[Any], ...]:
    if not folder:
        return ()
    pictures = tuple(picture.pixels for picture in read_folder(Path(folder)))
    if not pictures:
        raise InvalidParameterError(f"micrographs: {folder} lists no sharp picture")
    return pictures


def _frames(config: DatasetConfig, random: np.random.Generator, index: int) -> dict[str, NDArray[Any]]:
    """Labelled frames, a few of each field. `field` numbers the fields, so that splits go by field."""
    count = min(config.shard_size, config.count - index * config.shard_size)
    samples, fields = [], []
    field: Field | None = None
    for k in range(count):
        if field is None or k % FRAMES_PER_FIELD == 0:
            field = draw_field(random, config.mixture, _micrographs(config.micrographs))
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
