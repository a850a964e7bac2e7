"""Where the apertures that runs measured are kept: one small file for each instrument."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from dataclasses import asdict
from pathlib import Path

from semdrivers.files import read_json, replacing
from semdrivers.instruments import settings_folder
from semfocus_plugin.optics import LearnedAperture

LEARNING_VARIABLE = "SEMFOCUS_LEARNING"
"""Environment variable: ``off`` switches learning off; anything else is a folder to keep apertures in."""


class FileApertures:
    """Apertures in small files, one for each instrument. A file that cannot be read or written is passed over.

    Parameters
    ----------
    folder : Path
        Made when the first aperture is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, instrument: str) -> LearnedAperture | None:
        """Return what is known of an instrument, or None."""
        try:
            values = read_json(self._path(instrument))
            learned = LearnedAperture(
                float(values["half_angle"]),
                None if values["at"] is None else float(values["at"]),
                float(values["sigma"]),
                int(values["runs"]),
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        somewhere = learned.at is None or 0 < learned.at < math.inf
        return learned if somewhere and 1e-5 < learned.half_angle < 1.6 and 0 < learned.sigma < 2 else None

    def put(self, instrument: str, aperture: LearnedAperture) -> None:
        """Keep what is known of an instrument."""
        path = self._path(instrument)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, overwrite=True) as partial:
                partial.write_text(json.dumps(asdict(aperture)) + "\n", encoding="utf-8")

    def _path(self, instrument: str) -> Path:
        return self.folder / (re.sub(r"[^\w.-]+", "-", instrument) + ".json")


def apertures_in_use() -> FileApertures | None:
    """Return the user's store, or None where learning is switched off."""
    named = os.environ.get(LEARNING_VARIABLE, "")
    if named.lower() == "off":
        return None
    return FileApertures(Path(named) if named else settings_folder() / "learned")
