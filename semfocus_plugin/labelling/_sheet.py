"""Semi-automatic labelling: AENet proposes, a person corrects, and what they disagree on most is looked at again.

The sheet is a CSV file with one picture a line. The network fills in all but ``label``; a label once given is kept,
whatever runs later.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from semdrivers import read_image
from semdrivers.console import problem_of
from semdrivers.data_bar import BarRows, bar_rows_of, bar_rows_text, checked_bar_rows, without_bar
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import TableRow, composed, counted, read_table, replacing, table_columns
from semfocus_plugin.networks import evaluate, magnification_of

COLUMNS = ("file", "magnification", "score", "log_blur", "log_blur_sigma", "bar_rows", "label")
"""Columns of a sheet: the picture relative to the sheet; what AENet says (score, ln(1 + blur radius in pixels) and its
standard deviation); rows of a data bar at the bottom, below 0 at the top, such as 20+60 at both, which are
not looked at (empty: to be detected); and the label, 0 to 9, empty where nobody has looked yet."""

_FORMULA = re.compile(r"^('*[=+\-@\t\r])")
"""How a cell begins that a spreadsheet would compute; an apostrophe before it makes it a text."""
_FORMULA_QUOTED = re.compile(r"^'('*[=+\-@\t\r])")

_PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True, slots=True)
class Row:
    """One picture of a sheet; see `COLUMNS`. What is not known is None."""

    file: str
    magnification: float | None = None
    score: float | None = None
    log_blur: float | None = None
    log_blur_sigma: float | None = None
    bar_rows: BarRows | None = None
    label: float | None = None

    @property
    def disagreement(self) -> float | None:
        """How far label and score are apart, or None where one is missing."""
        return None if self.label is None or self.score is None else abs(self.label - self.score)


def read_sheet(path: str | Path) -> list[Row]:
    """Read a sheet, as written here or as a spreadsheet saved it (semicolons and decimal commas too).

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When columns are missing, or a value is no number or beyond its range; the message names the line.
    OSError
        When the file cannot be read.
    """
    path = Path(path)
    missing = [name for name in ("file", "magnification", "label") if name not in table_columns(path)]
    if missing:
        raise InvalidParameterError(
            f"{path}: lacks the column {missing[0]!r}; a sheet begins with the line {','.join(COLUMNS)}"
        )
    rows = [_row(row) for row in read_table(path) if row.text("file")]
    twice = next((name for name, lines in Counter(row.file for row in rows).items() if lines > 1), None)
    if twice is not None:
        raise InvalidParameterError(f"{path}: the picture {twice!r} is there twice; delete one of the lines")
    return rows


def write_sheet(path: str | Path, rows: Iterable[Row], *, overwrite: bool = False) -> Path:
    """Write a sheet in one piece, so that labels are never lost half-way; it takes the place of an earlier sheet.

    Raises
    ------
    InvalidParameterError
        When the file that is there is no sheet, or holds a label of a picture that `rows` do not label, unless
        `overwrite`.
    """
    path, rows = Path(path), list(rows)
    if path.exists() and not overwrite:
        labelled = {composed(row.file) for row in rows if row.label is not None}
        lost = [row.file for row in read_sheet(path) if row.label is not None and composed(row.file) not in labelled]
        if lost:
            raise InvalidParameterError(
                f"{path}: {counted(len(lost), 'label')} in it would be lost, the first that of {lost[0]}; keep them, "
                "or use another name"
            )
    # The byte order mark makes Excel read the names of files as UTF-8.
    with replacing(path, overwrite=True) as partial, partial.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)
    return path


def find_pictures(folder: str | Path) -> list[Path]:
    """Return the pictures in a folder and below, in order of their names; hidden ones are passed over."""
    folder = Path(folder)
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES and path.is_file())
    return sorted(path for path in pictures if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def propose(
    folder: str | Path,
    earlier: Iterable[Row],
    base: str | Path,
    *,
    magnification: float | None = None,
    bar_rows: BarRows | None = None,
    seen: Callable[[Row, NDArray[Any], float], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[list[Row], list[str]]:
    """Score the pictures of a folder with the AENet in use.

    Parameters
    ----------
    folder : str or Path
        Searched with all that is below it.
    earlier : iterable of Row
        The sheet so far: its labels are kept, and what it states of magnification and data bar. Lines of pictures that
        are not in the folder stay as they are.
    base : str or Path
        Folder of the sheet, to which the names of files are relative.
    magnification : float, optional
        Magnification of pictures that do not state it themselves and have none in the sheet.
    bar_rows : int or (int, int), optional
        Rows of the data bar, of pictures that are not in the sheet yet; by default known from the file, or detected.
    seen : callable, optional
        Called with every line, the pixels scored, of shape (H, W), and the pixel size in nm (NaN where unknown).
    progress : callable, optional
        Called with (pictures done, pictures in all).

    Returns
    -------
    rows : list of Row
        By name of file.
    problems : list of str
        Pictures that could not be scored, and why; they keep a line of their own, so that the sheet can be completed.
    """
    rows, problems = {composed(row.file): row for row in earlier}, []
    paths = find_pictures(folder)
    for count, path in enumerate(paths, 1):
        name = Path(os.path.relpath(path, base)).as_posix()
        row = replace(rows.get(composed(name)) or Row(name), file=name)
        try:
            image = read_image(path)
            line = magnification_of(image)
            factor = row.magnification or (line if math.isfinite(line) else magnification)
            if row.bar_rows is None:
                row = replace(row, bar_rows=bar_rows_of(image.pixels, image.metadata, bar_rows))
            pixels = without_bar(image.pixels, row.bar_rows or 0, str(path))
            row = replace(row, magnification=factor, score=None, log_blur=None, log_blur_sigma=None)
            if factor is None:
                raise InvalidParameterError(
                    f"{path} does not state its magnification: write it into the sheet, or add --magnification"
                )
            evaluation = evaluate(image, magnification=factor, bar_rows=row.bar_rows)
            sigma = None if evaluation.log_sigma is None else math.exp(evaluation.log_sigma)
            row = replace(row, score=evaluation.score, log_blur=evaluation.log_blur, log_blur_sigma=sigma)
            if seen is not None:
                seen(row, pixels, image.pixel_size)
        except Exception as error:
            problems.append(problem_of(path, error))
        rows[composed(name)] = row
        if progress is not None:
            progress(count, len(paths))
    return sorted(rows.values(), key=lambda row: row.file), problems


def for_review(rows: Iterable[Row]) -> list[Row]:
    """Return the lines as a person should look at them.

    First those labelled, the greatest disagreement first: a wrong label, or a picture that the network has to learn.
    Then those without a label, the least certain first.
    """

    def key(row: Row) -> tuple[bool, float, str]:
        apart = row.disagreement
        return apart is None, -(apart if apart is not None else row.log_blur_sigma or 0.0), row.file

    return sorted(rows, key=key)


def _row(line: TableRow) -> Row:
    def value(name: str, low: float, high: float) -> float | None:
        result = line.number(name)
        if result is not None and not low <= result <= high:
            raise OutOfRangeError(f"{line.where}: {name} must be within {low:g} to {high:g}, not {line.text(name)}")
        return result

    rows: str | float | None = line.text("bar_rows")
    if "+" not in str(rows):
        rows = value("bar_rows", -1e6, 1e6)
    return Row(
        file=_FORMULA_QUOTED.sub(r"\1", line.text("file")).replace("\\", "/"),
        magnification=value("magnification", 1e-3, 1e9),
        score=value("score", 0, 9),
        log_blur=value("log_blur", 0, 20),
        log_blur_sigma=value("log_blur_sigma", 0, 100),
        bar_rows=None
        if rows is None
        else checked_bar_rows(f"{line.where}: bar_rows", rows if isinstance(rows, str) else int(rows)),
        label=value("label", 0, 9),
    )


def _cell(value: object) -> str:
    if value is None or isinstance(value, int | tuple):
        return "" if value is None else bar_rows_text(value)
    return f"{value:.6g}" if isinstance(value, float) else _FORMULA.sub(r"'\1", str(value))
