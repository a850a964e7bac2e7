"""The demonstration: an emulated microscope far out of focus, focused, and what remains of it on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import semdrivers
from semdrivers.errors import ExistingFileError
from semdrivers.files import plot_before_after
from semdrivers.focus import AutofocusResult, AutofocusSettings, Progress
from semdrivers.image import Image, ScanMode
from semfocus_plugin.lab.benchmark.runs import prepared
from semfocus_plugin.lab.benchmark.trials import OFFSET, draw_online
from semfocus_plugin.networks import paper_factor

__all__ = ["Demonstration", "demonstrate"]

_RESULT, _SCORE, _PICTURES, _SHARP = _FILES = "result.json", "score.png", "before-after.png", "sharp.ome.tif"
"""Names of the files that a demonstration writes."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """How the demonstration went."""

    result: AutofocusResult
    true_working_distance: float  # the emulator's, mm
    depth_of_field: float  # mm
    error_depths_of_field: float  # distance from the truth at the end
    start_error_depths_of_field: float  # and at the start
    specimen: str
    magnification: float
    seed: int  # fixes specimen, place, start and noise
    files: tuple[Path, ...]  # what was written

    def to_dict(self) -> dict[str, object]:
        """Return all of it as one flat record, without the trace."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "result"}
        record = {key: value for key, value in self.result.to_dict().items() if key != "trace"}
        return record | own | {"files": [str(path) for path in self.files]}


def demonstrate(
    specimen: str,
    seed: int,
    folder: Path,
    settings: AutofocusSettings,
    *,
    magnification: float | None = None,
    preset: str = "typical",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    overwrite: bool = False,
    announce: Callable[[str], object] = lambda line: None,
) -> Demonstration:
    """Focus an emulated microscope from far away, and write pictures of before and after.

    Parameters
    ----------
    specimen, seed, preset
        As for `semdrivers.emulator.Emulator`.
    folder : Path
        Folder for the files; made if it is not there.
    settings : AutofocusSettings
        How to focus.
    magnification : float, optional
        Drawn from the specimen's range by default.
    progress, cancel
        As in `semdrivers.autofocus`.
    overwrite : bool
        Whether the files of an earlier demonstration may be replaced; all of them are, so that none stays beside a new
        result.
    announce : callable, optional
        Called with one line before the specimen is drawn, before the focusing begins, and before the pictures.

    Raises
    ------
    ExistingFileError
        When `folder` holds files of an earlier demonstration, unless `overwrite`; before anything starts.
    """
    earlier = [path for path in (folder / name for name in _FILES) if path.exists()]
    if earlier and not overwrite:
        raise ExistingFileError(earlier[0])
    announce(f"an emulated EM-30 starts, with {specimen} under the beam")
    for path in earlier:
        path.unlink()
    (trial,) = draw_online([specimen], 1, seed, preset)
    factor = trial.magnification if magnification is None else magnification
    trial = replace(trial, magnification=factor, start=_far_start(factor, seed), seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    with prepared(trial) as (emulator, microscope):
        truth = emulator.truth
        before = microscope.acquire(ScanMode.STANDARD)
        start_error = abs(microscope.working_distance - truth.working_distance) / truth.depth_of_field
        announce(
            f"{specimen} at {factor:g}×, seed {seed}: the lens stands {start_error:.0f} depths of field out of focus"
        )
        result = semdrivers.autofocus(microscope, settings=settings, progress=progress, cancel=cancel)
        truth = emulator.truth
        announce("the pictures are taken, and the figures drawn")
        files = [result.save(folder / _RESULT), result.plot(folder / _SCORE)]
        if result.status != "cancelled":
            after = microscope.acquire(ScanMode.STANDARD)
            titles = _title("before", before), _title("after", after)
            path = folder / _PICTURES
            files.append(plot_before_after(before.pixels, after.pixels, titles, after.pixel_size, path))
        if result.focused:
            files.append(microscope.acquire(ScanMode.SLOW).save(folder / _SHARP))
    return Demonstration(
        result=result,
        true_working_distance=truth.working_distance,
        depth_of_field=truth.depth_of_field,
        error_depths_of_field=abs(result.working_distance - truth.working_distance) / truth.depth_of_field,
        start_error_depths_of_field=start_error,
        specimen=specimen,
        magnification=factor,
        seed=seed,
        files=tuple(files),
    )


def _far_start(magnification: float, seed: int) -> float:
    """Return a start (mm from focus) in the outer half of the range that the method is made for."""
    random = np.random.default_rng([seed, 7])
    distance = float(random.uniform(0.5, 1.0)) * OFFSET * paper_factor(magnification)
    return distance * (1 if random.random() < 0.5 else -1)


def _title(name: str, image: Image) -> str:
    return f"{name}: working distance {image.working_distance:.3f} mm, {image.magnification:,.0f}×"
