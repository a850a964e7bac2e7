"""The same cases under several presets of the emulator, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semdrivers.emulator.physics import preset_named
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.lab.benchmark.tables import Summary, row_of

LEGEND = "within 2 / 1 DoF, frames median / p90, refused, false focus"
"""What a cell of the table says, in this order."""


def checked(presets: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the presets.

    Raises
    ------
    InvalidParameterError
        For an unknown name, or one that is there twice.
    """
    for preset in presets:
        preset_named(preset)
        if presets.count(preset) > 1:
            raise InvalidParameterError(f"preset {preset} is named more than once; name each of them once")
    return tuple(presets)


def side_by_side(summaries: Mapping[str, Sequence[Summary]]) -> tuple[tuple[str, ...], ...]:
    """Return the lines of the table as text: headings first, then one line a specimen.

    Parameters
    ----------
    summaries : mapping from str to sequence of Summary
        By preset; the same specimens in the same order in each.
    """
    lines = [("specimen", *summaries)]
    for of_one in zip(*summaries.values(), strict=True):
        lines.append((of_one[0].specimen, *map(_cell, of_one)))
    return tuple(lines)


def markdown_side_by_side(summaries: Mapping[str, Sequence[Summary]]) -> str:
    """Return the table as Markdown, with its legend."""
    headings, *lines = side_by_side(summaries)
    table = "\n".join(map(row_of, (headings, ["---"] * len(headings), *lines)))
    return f"Each cell: {LEGEND}.\n\n{table}"


def _cell(summary: Summary) -> str:
    errors = f", {summary.errors} errors" if summary.errors else ""
    return (
        f"{summary.within_two:.0%} / {summary.within_one:.0%}, {summary.median_frames:g} / {summary.p90_frames:.0f}, "
        f"{summary.refused}, {summary.false_focus}{errors}"
    )
