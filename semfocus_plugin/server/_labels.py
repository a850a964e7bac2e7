"""A sheet of labels that the label page of a server fills, one label at a time."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

from semdrivers.errors import InvalidParameterError
from semfocus_plugin.labelling import Preview, Row, for_review, preview_of, read_sheet, rows_of, write_sheet


class LabelSheet:
    """A sheet as `semfocus label` writes it. It is read again for every label, so that nobody's labels are lost.

    Parameters
    ----------
    path : Path
        ``.csv``.

    Raises
    ------
    InvalidParameterError, OutOfRangeError, OSError
        As `semfocus_plugin.labelling.read_sheet`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = threading.Lock()
        read_sheet(self.path)

    def state(self) -> dict[str, Any]:
        """Return path, columns and rows, in the order in which a person should look at them."""
        return {"sheet": str(self.path), **rows_of(for_review(read_sheet(self.path)))}

    def preview(self, file: str) -> Preview:
        """Return the picture of a row; raises KeyError when the sheet has no such row."""
        return preview_of(self._row(read_sheet(self.path), file), self.path.parent)

    def label(self, file: str, label: float | None) -> Row:
        """Write the label of one picture, or none, into the sheet; raises KeyError when the sheet has no such row."""
        with self._lock:
            rows = read_sheet(self.path)
            row = dataclasses.replace(self._row(rows, file), label=label)
            changed = [row if each.file == file else each for each in rows]
            try:
                write_sheet(self.path, changed, overwrite=label is None)
            except OSError as error:
                raise InvalidParameterError(f"{self.path}: the sheet cannot be written ({error})") from error
        return row

    def _row(self, rows: list[Row], file: str) -> Row:
        return {row.file: row for row in rows}[file]
