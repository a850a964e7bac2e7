"""What is asked of a table or a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdrivers.errors import OutOfRangeError
from semfocus_plugin.lab.parallel import Workers

__all__ = ["HELD_OUT_SEED", "TRAINING_SEED", "Request", "Stage"]

HELD_OUT_SEED = 101
"""Nothing was trained or tuned on it."""

TRAINING_SEED = 11
"""Of the focal series that Table S1 trains on where it is given none."""

Stage = Callable[[str, int], Callable[[Any], object]]
"""Called with what begins and the number of its steps; gives what to call after every step."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Parameters
    ----------
    runs : int or None
        How much to measure of each specimen: fields, focal series or autofocus runs; None for what takes some minutes.
    seed : int
        Random seed; fixes everything that is drawn.
    preset : str
        Preset of the emulator.
    method : str or None
        Autofocus method; the default one where None.
    max_frames : int or None
        Most frames of a run; the method's own limit where None.
    workers : int, str or None
        Processes, as many as there are cores where None; or the address of a Dask scheduler.
    series : Path or None
        Dataset of focal series to train on (Table S1); made where it is not there.
    epochs : int or None
        Epochs of that training; the recipe's where None.
    history : tuple of Path
        Folders of training runs (Fig. 3).
    pictures : Path or None
        Folder of real micrographs with ``MANIFEST.csv``.
    """

    runs: int | None = None
    seed: int = HELD_OUT_SEED
    preset: str = "typical"
    method: str | None = None
    max_frames: int | None = None
    workers: Workers = None
    series: Path | None = None
    epochs: int | None = None
    history: tuple[Path, ...] = ()
    pictures: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("runs", 1), ("epochs", 1), ("workers", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, str | None) and value < least:
                raise OutOfRangeError(f"{name} must be at least {least}, not {value}")

    def count(self, usual: int) -> int:
        """Return `runs`, or `usual` where it was not given."""
        return usual if self.runs is None else self.runs
