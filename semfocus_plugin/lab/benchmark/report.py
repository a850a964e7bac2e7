"""From records to figures, tables and sentences. A column of a run's table is added in `COLUMNS`, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.lab.benchmark.peers import pair_bound
from semfocus_plugin.lab.benchmark.runs import OURS, Record
from semfocus_plugin.lab.benchmark.trials import TRACKS
from semfocus_plugin.lab.parallel import required

__all__ = [
    "BENCHMARK", "COLUMNS", "EVALUATE", "FALSE_FOCUS", "LEGEND", "Bin", "Column", "Group", "Row",
    "expected_calibration_error", "headings", "markdown_table", "page", "reliability", "rows", "side_by_side",
    "verdict", "wilson",
]  # fmt: skip

FALSE_FOCUS = 2.0
"""Depths of field beyond which a run that reports focus is wrong."""

BENCHMARK, EVALUATE = "benchmark", "evaluate"
"""Tables: a row a track and method, or a row a preset and specimen."""


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share by Wilson (1927): for few runs, and near 0 and 1."""
    if runs == 0:
        return 0.0, 1.0
    stats = required("scipy.stats", "the confidence interval of a share", "benchmark")
    interval = stats.binomtest(successes, runs).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


class Group:
    """Records of one row, at least one, and what several columns need of them."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        first = records[0]
        self.blank = first.track in TRACKS and TRACKS[first.track].refuses
        self.runs = len(records)
        self.errors = [record.error for record in records if record.focused]
        self.restored = sum(record.restored and not record.focused for record in records)
        self.successes = self.count("refused") if self.blank else self.within(1.0)

    def count(self, status: str) -> int:
        """Return how many runs ended with a status."""
        return sum(record.status == status for record in self.records)

    def within(self, limit: float) -> int:
        """Return how many runs report focus within a limit, in depths of field."""
        return sum(error <= limit for error in self.errors)

    def quantile(self, share: float, measure: Callable[[Record], float | None]) -> float | None:
        """Return a quantile of a measure over the runs that have one; None where none has."""
        known = [value for value in map(measure, self.records) if value is not None]
        return float(np.quantile(known, share)) if known else None

    def error(self, share: float) -> float | None:
        """Return a quantile of the error over the runs that report focus; None on a blank sample, or for none."""
        return float(np.quantile(self.errors, share)) if self.errors and not self.blank else None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a run's table.

    Parameters
    ----------
    heading : str
        Heading of the column.
    values : mapping of str to callable
        Its figures, by the name that they have in a JSON report; each computed from a `Group`.
    pattern : str
        Text of a cell, in the syntax of `str.format`; a figure that is None becomes a dash.
    tables : tuple of str
        Tables that have it.
    """

    heading: str
    values: Mapping[str, Callable[[Group], Any]]
    pattern: str
    tables: tuple[str, ...] = (BENCHMARK, EVALUATE)


def _quantile(share: float, name: str) -> Callable[[Group], float | None]:
    return lambda group: group.quantile(share, attrgetter(name))


def _named(group: Group) -> float | None:
    """Return the share of runs in focus, on 0.9 DoF of astigmatism at least, that report it within 30 % and 15°."""
    sharp = [r for r in group.records if r.focused and r.error <= 1.0 and math.hypot(*r.astigmatism) > 0.9]
    right = 0
    for record in sharp:
        if record.reported_astigmatism is not None:
            true, reported = complex(*record.astigmatism), complex(*record.reported_astigmatism)
            turn = abs(np.angle(reported / true, deg=True)) / 2 if reported else 90.0
            right += abs(abs(reported) - abs(true)) <= 0.3 * abs(true) and turn <= 15.0
    return right / len(sharp) if sharp else None


_FRAMES = {"median_frames": 0.5, "p90_frames": 0.9, "most_frames": 1.0}

COLUMNS: tuple[Column, ...] = (
    Column("runs", {"runs": lambda g: g.runs}, "{runs}"),
    Column(
        "success",
        {"successes": lambda g: g.successes, "share": lambda g: g.successes / g.runs},
        "{share:.0%}",
        (BENCHMARK,),
    ),
    Column(
        "95 % interval",
        {"interval": lambda g: wilson(g.successes, g.runs)},
        "{interval[0]:.0%} to {interval[1]:.0%}",
        (BENCHMARK,),
    ),
    Column("≤ 2 DoF", {"within_two": lambda g: g.within(FALSE_FOCUS) / g.runs}, "{within_two:.0%}", (EVALUATE,)),
    Column("≤ 1 DoF", {"within_one": lambda g: g.within(1.0) / g.runs}, "{within_one:.0%}", (EVALUATE,)),
    Column(
        "error median / p90",
        {"median_error": lambda g: g.error(0.5), "p90_error": lambda g: g.error(0.9)},
        "{median_error:.2f} / {p90_error:.2f}",
    ),
    Column(
        "frames median / p90 / max",
        {name: _quantile(share, "frames") for name, share in _FRAMES.items()},
        "{median_frames:.3g} / {p90_frames:.3g} / {most_frames:.3g}",
    ),
    Column(
        "without search",
        {"median_control_frames": lambda g: g.quantile(0.5, lambda r: r.frames - r.search_frames)},
        "{median_control_frames:.3g}",
        (EVALUATE,),
    ),
    Column("dose", {"median_dose": _quantile(0.5, "dose")}, "{median_dose:.1f}", (BENCHMARK,)),
    Column(
        "instrument s",
        {"median_instrument_seconds": _quantile(0.5, "instrument_seconds")},
        "{median_instrument_seconds:.1f}",
    ),
    Column("compute ms", {"median_compute_ms": _quantile(0.5, "compute_ms")}, "{median_compute_ms:.1f}", (BENCHMARK,)),
    Column(
        "score",
        {"mean_score": lambda g: float(np.mean([r.score for r in g.records if r.focused])) if g.errors else None},
        "{mean_score:.2f}",
        (EVALUATE,),
    ),
    Column(
        "false",
        {"false_focus": lambda g: len(g.errors) if g.blank else len(g.errors) - g.within(FALSE_FOCUS)},
        "{false_focus}",
    ),
    Column("astigmatism named", {"named": _named}, "{named:.0%}", (BENCHMARK,)),
    Column("refused", {"refused": lambda g: g.count("refused")}, "{refused}"),
    Column("errors", {"errors": lambda g: g.count("error")}, "{errors}"),
    Column("restored", {"restored": lambda g: g.restored}, "{restored}", (EVALUATE,)),
)
"""Shares are of all runs; errors in depths of field over the runs that report focus; frames and times of all runs."""

# Format of a cell where presets stand side by side
_SIDE_BY_SIDE = "{within_two:.0%} / {within_one:.0%}, {median_frames:g} / {p90_frames:.0f}, {refused}, {false_focus}"
LEGEND = "within 2 / 1 DoF, frames median / p90, refused, false focus"
"""What a cell of a table of presets says, in this order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Parameters
    ----------
    table : str
        `BENCHMARK` or `EVALUATE`.
    group, name : str
        Track and method; or preset and specimen.
    values : mapping of str to object
        The figures of `COLUMNS`.
    """

    table: str
    group: str
    name: str
    values: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return a figure by its name."""
        return self.values[name]

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, under `headings`."""
        shown = {name: _DASH if value is None else value for name, value in self.values.items()}
        return self.name, *(column.pattern.format_map(shown) for column in _columns(self.table))

    def record(self) -> dict[str, Any]:
        """Return the row as one flat object."""
        group, name = _KEYS[self.table]
        return {group: self.group, name: self.name, **self.values}


class _Dash:
    def __format__(self, _: str) -> str:
        return "–"


_DASH = _Dash()
_KEYS = {BENCHMARK: ("track", "method"), EVALUATE: ("preset", "specimen")}


def _columns(table: str) -> list[Column]:
    return [column for column in COLUMNS if table in column.tables]


def headings(table: str) -> tuple[str, ...]:
    """Return the headings of a table."""
    return _KEYS[table][1], *(column.heading for column in _columns(table))


def rows(records: Sequence[Record], table: str) -> tuple[Row, ...]:
    """Return the rows of a table, in order of appearance."""
    groups: dict[tuple[str, str], list[Record]] = {}
    group, name = _KEYS[table]
    for record in records:
        groups.setdefault((getattr(record, group), getattr(record, name)), []).append(record)
    figures = {key: figure for column in _columns(table) for key, figure in column.values.items()}
    return tuple(
        Row(table, *key, {name: figure(members) for name, figure in figures.items()})
        for key, members in ((key, Group(own)) for key, own in groups.items())
    )


def side_by_side(lines: Sequence[Row]) -> tuple[tuple[str, ...], ...]:
    """Return rows of several presets as text: headings first, then one line a specimen, a cell a preset."""
    presets = list(dict.fromkeys(row.group for row in lines))
    cells: dict[str, list[str]] = {}
    for row in lines:
        errors = f", {row['errors']} errors" if row["errors"] else ""
        cells.setdefault(row.name, []).append(_SIDE_BY_SIDE.format_map(row.values) + errors)
    return ("specimen", *presets), *((name, *texts) for name, texts in cells.items())


def markdown_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown; every column but the first is aligned to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *lines))


def verdict(lines: Sequence[Row]) -> str:
    """Return how our default method compares with the peers of the same track, in words; empty without both.

    A peer wins where it succeeds at least as often in fewer frames, or more often than the confidence interval of
    ours allows.
    """
    ours = next((row for name in OURS for row in lines if row.name == name), None)
    others = [row for row in lines if row.name not in (*OURS, pair_bound.NAME)]
    if ours is None or not others:
        return ""
    equal = [row for row in others if row["share"] >= ours["share"]]
    if not equal:
        if not any(row["successes"] for row in others):
            return f"No peer succeeds at all; {ours.name} does in {ours['share']:.0%}."
        best = max(others, key=lambda row: (row["share"], -row["median_frames"]))
        return (
            f"No peer succeeds as often as {_said(ours)}; the best, {best.name}, reaches {best['share']:.0%} in "
            f"{best['median_frames']:.3g}."
        )
    fastest = min(equal, key=lambda row: float(row["median_frames"]))
    if fastest["median_frames"] <= ours["median_frames"]:
        lead = f"**{fastest.name} wins**"
    elif fastest["share"] > ours["interval"][1]:
        lead = f"**{fastest.name} succeeds more often**"
    else:
        lead = f"{ours.name} needs the fewest frames"
    ratio = fastest["median_frames"] / max(ours["median_frames"], 1.0)
    return (
        f"{lead}: {_said(ours)}, {_said(fastest)} ({ratio:.1f} times as many). It is the fastest of the peers that "
        "succeed at least as often."
    )


def _said(row: Row) -> str:
    return f"{row.name} ({row['share']:.0%} in {row['median_frames']:.3g} frames)"


def page(lines: Sequence[Row], conditions: Mapping[str, str], skipped: Mapping[str, str], pictures: str = "") -> str:
    """Return the report of a benchmark: conditions, what was left out, a table and a sentence for each track.

    Parameters
    ----------
    lines : sequence of Row
        Rows of all tracks.
    conditions, skipped : mapping of str to str
        Printed as lists.
    pictures : str
        Markdown that shows figures, placed above the tables.
    """
    parts = [
        "# Benchmark: autofocus methods side by side",
        "\n".join(
            [f"- {name}: {value}" for name, value in conditions.items()]
            + [f"- left out: {name}, {reason}" for name, reason in skipped.items()]
        ),
        "Success: focus reported within 1 depth of field (DoF) of the truth. False: focus reported beyond 2 DoF. "
        "Errors in DoF over the runs that report focus; frames of all runs, every frame counted; dose in frames at the "
        "final magnification; instrument seconds by the emulator's clock; compute per frame. How this is measured, and "
        "what each peer is given: [explanation](explanation/benchmark.md).",
        pictures,
    ]
    for name in dict.fromkeys(row.group for row in lines):
        group = [row for row in lines if row.group == name]
        description = TRACKS[name].description
        parts += [f"## {name}", f"{description[0].upper()}{description[1:]}.", verdict(group)]
        parts.append(markdown_table(headings(BENCHMARK), [row.cells() for row in group]))
    return "\n\n".join(filter(None, parts)) + "\n"


@dataclass(frozen=True, slots=True)
class Bin:
    """Runs of similar confidence.

    Parameters
    ----------
    confidence : float
        Mean over the runs.
    runs : int
        How many.
    within_one, within_two : float
        Share of them within 1 and 2 depths of field.
    interval_one, interval_two : tuple of float
        95 % confidence intervals of the shares.
    """

    confidence: float
    runs: int
    within_one: float
    within_two: float
    interval_one: tuple[float, float]
    interval_two: tuple[float, float]


def reliability(records: Sequence[Record], method: str) -> tuple[Bin, ...]:
    """Return how often a method is right, by the confidence that it gives with a reported focus.

    Eight bins, or fewer of ten runs each, hold the same number of runs, so that none rests on a handful. Focus reported
    on a blank sample counts as wrong.

    Parameters
    ----------
    records : sequence of Record
        Runs on any tracks, by any methods.
    method : str
        Method to look at.
    """
    given = sorted(
        (r.confidence, r.error if not TRACKS[r.track].refuses else math.inf)
        for r in records
        if r.method == method and r.focused and r.confidence is not None
    )
    if not given:
        return ()
    pieces = np.array_split(np.array(given), max(min(8, len(given) // 10), 1))
    return tuple(map(_bin, pieces))


def _bin(piece: NDArray[np.float64]) -> Bin:
    """Count the runs of one bin; a line is (confidence, error)."""
    one, two, runs = int((piece[:, 1] <= 1.0).sum()), int((piece[:, 1] <= FALSE_FOCUS).sum()), len(piece)
    return Bin(float(piece[:, 0].mean()), runs, one / runs, two / runs, wilson(one, runs), wilson(two, runs))


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean distance of confidence from the share within 2 depths of field, weighted by runs; 0 to 1."""
    total = sum(piece.runs for piece in bins)
    return sum(piece.runs * abs(piece.confidence - piece.within_two) for piece in bins) / total if total else 0.0
