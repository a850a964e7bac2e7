"""What every table and figure comes to: lines of the paper's numbers beside ours, a drawing, the data behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semdrivers.files import plain
from semfocus_plugin.lab.benchmark.report import markdown_table
from semfocus_plugin.lab.benchmark.reproduction.estimates import Estimate
from semfocus_plugin.lab.benchmark.reproduction.published import CITATION, Published

__all__ = ["Exhibit", "Line", "titled"]

_TITLES: Mapping[str, str] = {"tem-grid": "TEM grid"}  # Of specimens; the others are their names with spaces


def titled(specimen: str) -> str:
    """Return a specimen's name for people."""
    return _TITLES.get(specimen, specimen.replace("-", " "))


@dataclass(frozen=True, slots=True)
class Line:
    """One measure.

    Parameters
    ----------
    group, measure : str
        Heading that it stands under, and its name.
    ours : mapping of str to Estimate or None
        By column; None where there was nothing to measure.
    published : mapping of str to Published
        By column; empty where the paper has no such number.
    digits : int
        Behind the point.
    """

    group: str
    measure: str
    ours: Mapping[str, Estimate | None]
    published: Mapping[str, Published] = field(default_factory=dict)
    digits: int = 3

    def cell(self, column: str, *, spread: bool = True) -> tuple[str, str]:
        """Return the paper's number and ours as text; `spread` adds standard deviations."""
        digits, ours, theirs = self.digits, self.ours.get(column), self.published.get(column)
        left = right = ""
        if theirs is not None:
            left = f"{theirs.value:.{digits}f}"
            left += "" if theirs.spread is None or not spread else f" ± {theirs.spread:.{digits}f}"
        if ours is not None:
            right = f"{ours.value:.{digits}f}"
            right += "" if ours.spread is None or not spread else f" ± {ours.spread:.{digits}f}"
            right += "" if math.isnan(ours.low) else f" [{ours.low:.{digits}f}, {ours.high:.{digits}f}]"
        elif column in self.ours:
            right = "–"
        return left, right


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A table or a figure of the paper, repeated.

    Parameters
    ----------
    name : str
        ``"Table 1"``.
    title : str
        What it shows.
    columns : tuple of str
        Specimens.
    lines : tuple of Line
        Measures, grouped.
    notes : tuple of str
        What a reader must know to compare.
    draw : callable
        Draws it to the PNG of that path.
    data : object
        Single results, for the JSON.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    draw: Callable[[Path], Path]
    data: Any = None

    def headings(self) -> tuple[str, ...]:
        """Return the headings of `rows`."""
        heads = [""]
        for column in self.columns:
            heads += [f"{titled(column)}: paper", "ours"] if self._compares(column) else [f"{titled(column)}: ours"]
        return tuple(heads)

    def rows(self, *, spread: bool = True) -> Iterator[tuple[str, ...]]:
        """Yield the lines as text, each group headed by its name alone; see `Line.cell`."""
        group = ""
        for line in self.lines:
            if line.group != group:
                group = line.group
                yield (group, *[""] * (len(self.headings()) - 1))
            row = [line.measure]
            for column in self.columns:
                theirs, ours = line.cell(column, spread=spread)
                row += [theirs, ours] if self._compares(column) else [ours]
            yield tuple(row)

    def _compares(self, column: str) -> bool:
        return any(column in line.published for line in self.lines)

    def markdown(self, conditions: Mapping[str, str], picture: str = "") -> str:
        """Return the exhibit as a Markdown page; `picture` is the address of the drawing."""
        parts = [f"# {self.name}: {self.title}"]
        parts += [f"![{self.name}]({picture})"] if picture else []
        if self.lines:
            lines = [row if any(row[1:]) else (f"**{row[0]}**", *row[1:]) for row in self.rows()]
            parts += [
                markdown_table(self.headings(), lines),
                f"Paper: {CITATION}, mean ± standard deviation. Ours: the same, with the 95 % confidence interval by "
                "bootstrap in brackets. DoF: depths of field.",
            ]
        parts += ["\n".join(f"- {note}" for note in self.notes)] if self.notes else []
        parts.append("\n".join(f"- {key}: {value}" for key, value in conditions.items()))
        return "\n\n".join(parts) + "\n"

    def record(self, conditions: Mapping[str, str]) -> dict[str, Any]:
        """Return everything in JSON's own types."""
        return {
            "name": self.name,
            "title": self.title,
            "conditions": dict(conditions),
            "paper": CITATION,
            "columns": list(self.columns),
            "lines": [plain(line) for line in self.lines],
            "notes": list(self.notes),
            "data": plain(self.data),
        }
