"""Tables as spreadsheets save them: commas, semicolons or tabs, UTF-8, UTF-16 or Windows' code page, decimal commas."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from semdrivers.errors import InvalidParameterError
from semdrivers.files._text import decimal, decoded

_DELIMITERS = (",", ";", "\t")
_TRIED = 64
"""Lines that must have as many fields as the first one names, for a delimiter to be the right one."""

_NUMBER = re.compile(r"[-+]?\d*([.,]\d{3})*([.,])\d+")
_GROUPED = re.compile(r"[-+]?[1-9]\d{0,2}([.,])\d{3}")
"""A number that is a thousand times larger where its mark separates thousands."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of a table.

    Parameters
    ----------
    where : str
        File and line, for messages.
    cells : dict of str to str
        By name of column; the text between the delimiters without spaces around it.
    unclear : str
        Marks, of ``.`` and ``,``, that in this table may be decimal or separate thousands.
    """

    where: str
    cells: dict[str, str]
    unclear: str = ""

    def text(self, name: str) -> str:
        """Return a cell; an empty text where the table has no such column."""
        return self.cells.get(name, "")

    def number(self, name: str) -> float | None:
        """Return a cell as a number, decimal comma or point; None where it is empty.

        Raises
        ------
        InvalidParameterError
            When it is no finite number, or such as 5.000 in a table with decimal commas: that may be 5 or 5000.
        """
        word = self.text(name)
        if not word:
            return None
        grouped = _GROUPED.fullmatch(word)
        if grouped is not None and grouped[1] in self.unclear:
            whole, part = word.split(grouped[1])
            raise InvalidParameterError(
                f"{self.where}: {name} {word!r} may be {whole}{part} or {whole}; write it without {grouped[1]!r}"
            )
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
    columns: tuple[str, ...] = ()
    lines: list[tuple[int, tuple[str, ...]]] = []
    for number, cells in _lines(path):
        if not columns:
            columns = cells
        elif any(cells):
            lines.append((number, cells))
    for name in needed:
        if name not in columns:
            raise InvalidParameterError(
                f"{path}: lacks the column {name!r}; its first line must name the columns {', '.join(needed)}, "
                "separated by commas, semicolons or tabs"
            )
    unclear = _unclear_marks((cell for _, cells in lines for cell in cells), _delimiter(decoded(path.read_bytes())))
    return [
        TableRow(f"{path}, line {number}", dict(zip(columns, cells, strict=False)), unclear) for number, cells in lines
    ]


def named_file(folder: Path, name: str) -> Path:
    """Return the file that a table in a folder names, with either slash, accents composed or not; it need not exist."""
    for path in (folder / name, folder / name.replace("\\", "/")):
        if path.is_file():
            return path
    path = folder
    for part in Path(name.replace("\\", "/")).parts:
        entries = path.iterdir() if path.is_dir() and not (path / part).exists() else ()
        alike = (entry for entry in entries if composed(entry.name) == composed(part))
        path = next(alike, path / part)
    return path


def composed(name: str) -> str:
    """Return a name in Unicode's composed form: files of a Mac have the other one."""
    return unicodedata.normalize("NFC", name)


def _unclear_marks(cells: Iterable[str], delimiter: str) -> str:
    """Return the marks that no number of the table shows to be decimal, though another may be, or delimits fields."""
    numbers = (_NUMBER.fullmatch(cell) for cell in cells)
    decimal_marks = {number[2] for number in numbers if number is not None and not _GROUPED.fullmatch(number[0])}
    unclear = ""
    if decimal_marks == {","}:
        unclear += "."
    if decimal_marks == {"."} or (not decimal_marks and delimiter == ","):
        unclear += ","
    return unclear


def _cells(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise InvalidParameterError(f"{path} is no table that can be read: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield line numbers and cells; the line ``sep=;`` that Excel understands is passed over."""
    text = decoded(path.read_bytes())
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for cells in _cells(reader, path):
        stripped = tuple(cell.strip() for cell in cells)
        if stripped and not (len(stripped) <= 2 and stripped[0].lower().startswith("sep=")):
            yield reader.line_num, stripped


def _delimiter(text: str) -> str:
    """Return what separates the fields: as declared, or what gives most lines as many fields as the first has names."""
    lines = [line for line in text.splitlines() if line.strip()][:_TRIED]
    declared = lines[0].strip().strip('"').lower() if lines else ""
    if declared.startswith("sep=") and len(declared) == 5:
        return declared[4]

    def fit(delimiter: str) -> tuple[bool, float, int]:
        try:
            counts = [len(cells) for cells in csv.reader(lines, delimiter=delimiter)]
        except csv.Error:
            return False, 0.0, 0
        names = counts[0] if counts else 0
        return names > 1, sum(count == names for count in counts[1:]) / max(len(counts) - 1, 1), names

    return max(_DELIMITERS, key=fit)
