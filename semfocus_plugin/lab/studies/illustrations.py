"""The pictures of a run in README and tutorial: frames as they come, the figure of the run, before and after."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

import semdrivers
from semdrivers.base import WrappedMicroscope
from semdrivers.files import plot_before_after, replacing
from semdrivers.focus import AutofocusResult
from semdrivers.image import Image, ScanMode
from semfocus_plugin.lab.benchmark.figures import COLOURS, INK, new_figure, plain

__all__ = ["ANIMATION", "PAIR", "RUN", "illustrate"]

ANIMATION, PAIR, RUN = "focusing.gif", "before-after.png", "run.png"
"""Names of the files."""

_URL = "emulator://tin-balls?seed=1&magnification=2000"
_SECONDS = 1.1, 3.0  # of each frame, and of the last
_COLOURS = 48  # of the animation's palette


class _Watched(WrappedMicroscope):
    """A microscope whose frames are kept."""

    def __init__(self, microscope: semdrivers.Microscope) -> None:
        super().__init__(microscope)
        self._frames: list[Image] = []

    @property
    def frames(self) -> list[Image]:
        """Frames so far."""
        return self._frames

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        image = super().acquire(mode)
        self._frames.append(image)
        return image


def illustrate(folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Focus an emulated microscope and draw it: the tutorial's run, with its seed.

    Parameters
    ----------
    folder : Path
        Folder of the three files; made if it is not there.
    overwrite : bool
        Whether they may take the place of others.

    Raises
    ------
    ExistingFileError
        When there is such a file, unless `overwrite`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with semdrivers.connect(_URL) as microscope:
        before = microscope.acquire(ScanMode.STANDARD)
        watched = _Watched(microscope)
        result = semdrivers.autofocus(watched)
        after = microscope.acquire(ScanMode.STANDARD)
    titles = [f"{name}: {image.working_distance:.3f} mm" for name, image in (("before", before), ("after", after))]
    pair = plot_before_after(
        before.pixels, after.pixels, (titles[0], titles[1]), after.pixel_size, folder / PAIR, overwrite=overwrite
    )
    for path in (pair, drawn := result.plot(folder / RUN, overwrite=overwrite)):
        _fewer_colours(path)
    return [pair, drawn, _animate(watched.frames, result, after, folder / ANIMATION, overwrite)]


def _fewer_colours(path: Path) -> None:
    with Pillow.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)


def _animate(frames: list[Image], result: AutofocusResult, sharp: Image, path: Path, overwrite: bool) -> Path:
    """Write the frames of a run as they came, the scores beside them, and the picture at the end."""
    low, high = (float(level) for level in np.percentile(sharp.pixels, (0.5, 99.5)))
    steps = result.trace
    scenes = [(image, number) for number, image in enumerate(frames[: len(steps)], 1)] + [(sharp, len(steps))]
    places = [step.working_distance for step in steps]
    margin = 0.08 * (max(places) - min(places))
    pictures = []
    for index, (image, count) in enumerate(scenes):
        figure, (seen, curve) = new_figure(1, 2, 8.0, 3.1)
        seen.imshow(image.pixels, cmap="gray", vmin=low, vmax=high)
        seen.set_axis_off()
        last = index == len(steps)
        said = (
            f"{result.status}, {result.frames} frames" if last else f"frame {count}: score {steps[count - 1].score:.1f}"
        )
        seen.set_title(said, fontsize=11, color=INK, loc="left")
        if last:
            curve.axvline(result.working_distance, color=COLOURS[5], linestyle="--", linewidth=1.5)
        curve.scatter(places[:count], [step.score for step in steps[:count]], s=40, color=COLOURS[0])
        for step in steps[:count]:
            place = step.working_distance, step.score
            curve.annotate(str(step.frame), place, xytext=(5, 4), textcoords="offset points", fontsize=9)
        curve.set(xlim=(min(places) - margin, max(places) + margin), ylim=(-0.4, 9.9))
        curve.set(xlabel="working distance (mm)", ylabel="score (0 to 9)")
        plain(curve)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=90)
        pictures.append(Pillow.open(buffer).convert("RGB").quantize(_COLOURS, dither=Pillow.Dither.NONE))
    times = [round(1000 * _SECONDS[0])] * len(steps) + [round(1000 * _SECONDS[1])]
    with replacing(path, overwrite) as partial:
        pictures[0].save(
            partial, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True
        )
    return path
