"""The demonstration: an emulated microscope far out of focus, focused, and what remains of it on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import semdrivers
from semdrivers.files import plot_before_after
from semdrivers.focus import AutofocusResult, AutofocusSettings, Progress
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import HasStage
from semfocus_plugin.lab.benchmark.cases import OFFSET, draw_cases
from semfocus_plugin.networks import paper_factor


@dataclass(frozen=True, slots=True)
class Demonstration:
    """How the demonstration went.

    Parameters
    ----------
    result : AutofocusResult
        Of the autofocus.
    specimen : str
        Name.
    magnification : float
        Plain number.
    seed : int
        Of everything random.
    true_working_distance : float
        mm; the emulator's truth.
    depth_of_field : float
        mm.
    error_depths_of_field, start_error_depths_of_field : float
        Distance from the truth at the end and at the start.
    files : tuple of Path
        What was written.
    """

    result: AutofocusResult
    specimen: str
    magnification: float
    seed: int
    true_working_distance: float
    depth_of_field: float
    error_depths_of_field: float
    start_error_depths_of_field: float
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, object]:
        """Return all of it as one flat record, without the trace."""
        record: dict[str, object] = {key: value for key, value in self.result.to_dict().items() if key != "trace"}
        record |= {
            "true_working_distance": self.true_working_distance,
            "error_depths_of_field": self.error_depths_of_field,
            "start_error_depths_of_field": self.start_error_depths_of_field,
            "depth_of_field": self.depth_of_field,
            "specimen": self.specimen,
            "magnification": self.magnification,
            "seed": self.seed,
            "files": [str(path) for path in self.files],
        }
        return record


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
    announce: Callable[[str], object] = lambda line: None,
) -> Demonstration:
    """Focus an emulated microscope from far away, and write pictures of before and after.

    Parameters
    ----------
    specimen, seed, preset
        Of the emulator.
    folder : Path
        For the files; made if it is not there.
    settings : AutofocusSettings
        How to focus.
    magnification : float, optional
        Drawn from the specimen's range by default.
    progress, cancel
        As in `semdrivers.autofocus`.
    announce : callable, optional
        Told one line before the focusing begins.
    """
    from semdrivers.emulator import Emulator

    (case,) = draw_cases([specimen], 1, seed)
    factor = case.magnification if magnification is None else magnification
    folder.mkdir(parents=True, exist_ok=True)
    with (
        Emulator(specimen=specimen, magnification=factor, seed=seed, preset=preset) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        if isinstance(microscope, HasStage):
            microscope.move_stage(*case.stage)
        microscope.magnification = factor
        truth = emulator.truth
        microscope.working_distance = _far_start(
            truth.working_distance, factor, seed, microscope.capabilities.working_distance.clip
        )
        before = microscope.acquire(ScanMode.STANDARD)
        start_error = abs(microscope.working_distance - truth.working_distance) / truth.depth_of_field
        announce(
            f"{specimen} at {factor:g}×, seed {seed}: the lens stands {start_error:.0f} depths of field out of focus"
        )
        result = semdrivers.autofocus(microscope, settings=settings, progress=progress, cancel=cancel)
        truth = emulator.truth
        files = [result.save(folder / "result.json"), result.plot(folder / "score.png")]
        if result.status != "cancelled":
            after = microscope.acquire(ScanMode.STANDARD)
            titles = _title("before", before), _title("after", after)
            path = folder / "before-after.png"
            files.append(plot_before_after(before.pixels, after.pixels, titles, after.pixel_size, path))
        if result.focused:
            files.append(microscope.acquire(ScanMode.SLOW).save(folder / "sharp.ome.tif"))
    return Demonstration(
        result=result,
        specimen=specimen,
        magnification=factor,
        seed=seed,
        true_working_distance=truth.working_distance,
        depth_of_field=truth.depth_of_field,
        error_depths_of_field=abs(result.working_distance - truth.working_distance) / truth.depth_of_field,
        start_error_depths_of_field=start_error,
        files=tuple(files),
    )


def _far_start(best: float, magnification: float, seed: int, clip: Callable[[float], float]) -> float:
    """Return a working distance in the outer half of the range that the method is made for."""
    random = np.random.default_rng([seed, 7])
    distance = float(random.uniform(0.5, 1.0)) * OFFSET * paper_factor(magnification)
    return clip(best + distance * (1 if random.random() < 0.5 else -1))


def _title(name: str, image: Image) -> str:
    return f"{name}: working distance {image.working_distance:.3f} mm, {image.magnification:,.0f}×"
