"""Users' own micrographs as specimens: single files, or a folder with a manifest."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from semdrivers import read_image
from semdrivers.console import problem_of
from semdrivers.data_bar import BarRows, bar_rows_of, checked_bar_rows, without_bar
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import read_table
from semdrivers.microscope import number
from semfocus_plugin.networks import SMALLEST

__all__ = ["NOMINAL_PIXEL_SIZE", "Picture", "folder_in_use", "read_folder", "read_picture"]

NOMINAL_PIXEL_SIZE = 100.0
"""Pixel size assumed of a picture that does not state its own, nm: it is then shown at 2 700× to 4 000×."""

_PIXEL_SIZE = re.compile(r"([\d.]+)\s*nm/px")


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A micrograph to focus on.

    Parameters
    ----------
    name : str
        File name.
    pixels : ndarray of shape (H, W), uint8 or uint16
        Without the data bar.
    pixel_size : float
        nm.
    assumed : bool
        Whether the pixel size is `NOMINAL_PIXEL_SIZE` for lack of a better one.
    """

    name: str
    pixels: NDArray[Any]
    pixel_size: float
    assumed: bool = False


def read_picture(path: Path, pixel_size: float | None = None, bar_rows: BarRows | None = None) -> Picture:
    """Return a picture file as a specimen.

    Parameters
    ----------
    path : Path
        TIFF, PNG or JPEG.
    pixel_size : float, optional
        nm; by default that of the file, and `NOMINAL_PIXEL_SIZE` where it names none.
    bar_rows : int or (int, int), optional
        Rows of a data bar at the bottom, below 0 at the top, or at both, cut off; by default known from the file, or
        detected.

    Raises
    ------
    InvalidParameterError
        When the file is no picture.
    OutOfRangeError
        When the pixel size is not above 0, or less than 320×240 pixels remain.
    """
    if pixel_size is not None and number("pixel_size", pixel_size, "nm") <= 0:
        raise OutOfRangeError(f"pixel_size must be above 0 nm, not {pixel_size:g} nm")
    image = read_image(path)
    pixels = without_bar(image.pixels, bar_rows_of(image.pixels, image.metadata, bar_rows), str(path))
    if pixel_size is None and 0 < image.pixel_size < math.inf:
        pixel_size = image.pixel_size
    height, width = pixels.shape
    if height < SMALLEST[0] or width < SMALLEST[1]:
        raise OutOfRangeError(f"{path}: {width}×{height} pixels are left; a specimen needs at least 320×240")
    return Picture(path.name, pixels, pixel_size or NOMINAL_PIXEL_SIZE, pixel_size is None)


def folder_in_use(named: Path | None) -> Path | None:
    """Return the folder of micrographs that was named, or ``../shared/data`` where that is one, or None."""
    if named is not None:
        return named
    usual = Path("../shared/data")
    return usual if (usual / "MANIFEST.csv").is_file() else None


def read_folder(
    folder: Path, pixel_size: float | None = None, problems: list[str] | None = None
) -> tuple[Picture, ...]:
    """Return the pictures that ``MANIFEST.csv`` in a folder lists.

    The manifest has a column ``file``; ``bar_rows`` and a pixel size written as ``12.3 nm/px`` in any column
    are taken into account. Rows whose notes say "not sharp", and rows of a focal series (column
    ``suggested_split`` ``series``), are left out: they are no ground truth for focus.

    Raises
    ------
    InvalidParameterError
        When there is no manifest, no column ``file``, or a listed file is missing or no picture, unless `problems` is
        a list, to which that is then added.
    """
    manifest = folder / "MANIFEST.csv"
    if not manifest.is_file():
        raise InvalidParameterError(f"{folder} holds no MANIFEST.csv; name picture files instead")
    rows = [row.cells for row in read_table(manifest)]
    if not rows or "file" not in rows[0]:
        raise InvalidParameterError(f"{manifest} lists no pictures (a column 'file' is needed)")
    pictures = []
    for row in rows:
        if row.get("suggested_split") == "series" or not _is_sharp(row):
            continue
        try:
            pictures.append(_of_row(folder, row, pixel_size))
        except Exception as error:
            if problems is None:
                raise
            problems.append(problem_of(row["file"], error))
    return tuple(pictures)


def _of_row(folder: Path, row: dict[str, str], pixel_size: float | None) -> Picture:
    written = _PIXEL_SIZE.search(" ".join(row.values()))
    known = float(written.group(1)) if written else pixel_size
    rows = row.get("bar_rows") or None
    bar_rows = None if rows is None else checked_bar_rows("bar_rows", rows)
    return read_picture(_locate(folder, row["file"]), known, bar_rows)


def _is_sharp(row: dict[str, str]) -> bool:
    """Return whether a row of a manifest is a picture in focus, by what its notes say."""
    notes = row.get("notes", "").lower()
    return not any(phrase in notes for phrase in ("not sharp", "edge case only", "very noisy"))


def _locate(folder: Path, name: str) -> Path:
    """Return the file, which may lie in another subfolder than the manifest says."""
    candidates = [folder / name] if (folder / name).is_file() else sorted(folder.rglob(Path(name).name))
    if not candidates:
        raise InvalidParameterError(f"{folder / 'MANIFEST.csv'} lists {name}, which is not in the folder")
    return candidates[0]
