"""From records to the figures that are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semfocus_plugin.lab.benchmark.runs import RunRecord

FALSE_FOCUS = 2.0
"""Depths of field beyond which a run that reports focus is wrong."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of the table. Shares are of all runs, errors in depths of field over the runs that focused.

    Parameters
    ----------
    specimen : str
        Name.
    runs : int
        All of them.
    within_two, within_one : float
        Share that reported focus and is within 2, within 1 depth of field.
    median_error, p90_error : float or None
        None when no run focused.
    median_frames, p90_frames : float
        Every frame.
    median_control_frames : float
        The paper's count: without the initial search.
    median_instrument_seconds : float
        What a run takes on an instrument.
    mean_score : float or None
        AENet's score at the end, over the runs that focused.
    refused, false_focus, errors : int
        Runs that refused; that reported focus beyond 2 depths of field; that raised.
    restored : int
        Runs that did not focus and left the working distance as it was.
    """

    specimen: str
    runs: int
    within_two: float
    within_one: float
    median_error: float | None
    p90_error: float | None
    median_frames: float
    p90_frames: float
    median_control_frames: float
    median_instrument_seconds: float
    mean_score: float | None
    refused: int
    false_focus: int
    errors: int
    restored: int


def summarise(records: Sequence[RunRecord]) -> tuple[Summary, ...]:
    """Return one summary a specimen, in order of appearance."""
    names = list(dict.fromkeys(record.specimen for record in records))
    return tuple(_summary(name, [r for r in records if r.specimen == name]) for name in names)


def _summary(name: str, records: list[RunRecord]) -> Summary:
    focused = [record for record in records if record.status == "focused"]
    errors = np.array([record.error for record in focused])
    frames = np.array([record.frames for record in records])
    control = np.array([record.frames - record.search_frames for record in records])
    return Summary(
        specimen=name,
        runs=len(records),
        within_two=float((errors <= FALSE_FOCUS).sum()) / len(records),
        within_one=float((errors <= 1.0).sum()) / len(records),
        median_error=float(np.median(errors)) if focused else None,
        p90_error=float(np.quantile(errors, 0.9)) if focused else None,
        median_frames=float(np.median(frames)),
        p90_frames=float(np.quantile(frames, 0.9)),
        median_control_frames=float(np.median(control)),
        median_instrument_seconds=float(np.median([record.instrument_seconds for record in records])),
        mean_score=float(np.mean([record.score for record in focused])) if focused else None,
        refused=sum(record.status == "refused" for record in records),
        false_focus=int((errors > FALSE_FOCUS).sum()),
        errors=sum(record.status == "error" for record in records),
        restored=sum(record.restored and record.status != "focused" for record in records),
    )


COLUMNS = (
    "specimen",
    "runs",
    "≤ 2 DoF",
    "≤ 1 DoF",
    "error median / p90",
    "frames median / p90",
    "without search",
    "instrument s",
    "score",
    "refused",
    "false focus",
    "errors",
)
"""Headings of `cells`."""


def cells(summary: Summary) -> tuple[str, ...]:
    """Return one line of the table as text."""
    return (
        summary.specimen,
        str(summary.runs),
        f"{summary.within_two:.0%}",
        f"{summary.within_one:.0%}",
        f"{_number(summary.median_error)} / {_number(summary.p90_error)}",
        f"{summary.median_frames:.0f} / {summary.p90_frames:.0f}",
        f"{summary.median_control_frames:.0f}",
        f"{summary.median_instrument_seconds:.1f}",
        _number(summary.mean_score),
        str(summary.refused),
        str(summary.false_focus),
        str(summary.errors),
    )


def markdown(summaries: Sequence[Summary]) -> str:
    """Return the table as Markdown."""
    lines = [row_of(COLUMNS), row_of(["---"] * len(COLUMNS))]
    return "\n".join([*lines, *(row_of(cells(summary)) for summary in summaries)])


def row_of(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
