"""Tables as spreadsheets save them: commas, semicolons or tabs, UTF-8, UTF-16 or Windows' code page, decimal commas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from semdrivers.errors import InvalidParameterError
from semdrivers.files._text import decimal, decoded

_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of a table.

    Parameters
    ----------
    where : str
        File and line, for messages.
    cells : dict of str to str
        By name of column; the text between the delimiters without spaces around it.
    """

    where: str
    cells: dict[str, str]

    def text(self, name: str) -> str:
        """Return a cell; an empty text where the table has no such column."""
        return self.cells.get(name, "")

    def number(self, name: str) -> float | None:
        """Return a cell as a number, decimal comma or point; None where it is empty.

        Raises
        ------
        InvalidParameterError
            When it is no finite number.
        """
        word = self.text(name)
        if not word:
            return None
        value = decimal(word)
        if value is None:
            raise InvalidParameterError(f"{self.where}: {name} must be a number, not {word!r}")
        return value


def table_columns(path: str | Path) -> tuple[str, ...]:
    """Return the names of a table's columns; empty for an empty file.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    return next(_lines(Path(path)), (0, ()))[1]


def read_table(path: str | Path, needed: Iterable[str] = ()) -> list[TableRow]:
    """Read a table whose first line names its columns.

    Parameters
    ----------
    path : str or Path
        Text, fields separated by commas, semicolons or tabs.
    needed : iterable of str
        Columns that must be there.

    Returns
    -------
    list of TableRow
        Empty lines are passed over.

    Raises
    ------
    InvalidParameterError
        When a column is missing.
    OSError
        When the file cannot be read.
    """
    path = Path(path)
    lines = _lines(path)
    columns = next(lines, (0, ()))[1]
    for name in needed:
        if name not in columns:
            raise InvalidParameterError(
                f"{path}: lacks the column {name!r}; its first line must name the columns {', '.join(needed)}, "
                "separated by commas, semicolons or tabs"
            )
    return [
        TableRow(f"{path}, line {number}", dict(zip(columns, cells, strict=False)))
        for number, cells in lines
        if any(cells)
    ]


def _cells(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise InvalidParameterError(f"{path} is no table that can be read: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield line numbers and cells; the line ``sep=;`` that Excel understands is passed over."""
    text = decoded(path.read_bytes())
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    declared = first.strip().strip('"').lower()
    if declared.startswith("sep=") and len(declared) == 5:
        delimiter = declared[4]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for cells in _cells(reader, path):
        stripped = tuple(cell.strip() for cell in cells)
        if stripped and not (len(stripped) <= 2 and stripped[0].lower().startswith("sep=")):
            yield reader.line_num, stripped
