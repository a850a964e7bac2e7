"""From records of a comparison to figures, tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from semfocus_plugin.evaluation.comparison import OURS, Record
from semfocus_plugin.evaluation.peers import pair_bound
from semfocus_plugin.evaluation.tables import FALSE_FOCUS
from semfocus_plugin.evaluation.tracks import TRACKS

_NORMAL_95 = 1.959964


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share by Wilson (1927): for few runs, and near 0 and 1."""
    if runs == 0:
        return 0.0, 1.0
    share, z2 = successes / runs, _NORMAL_95**2
    centre = (share + z2 / (2 * runs)) / (1 + z2 / runs)
    half = _NORMAL_95 * math.sqrt(share * (1 - share) / runs + z2 / (4 * runs**2)) / (1 + z2 / runs)
    return max(centre - half, 0.0), min(centre + half, 1.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one track.

    Parameters
    ----------
    track, method : str
        Names.
    runs, successes : int
        All runs; those that report focus within 1 depth of field (on a blank sample: those that refuse).
    interval : tuple of float
        95 % confidence interval of the share of successes.
    median_error, p90_error : float or None
        In depths of field, over the runs that report focus; None where none does.
    median_frames, p90_frames, most_frames : float
        Every frame of every run.
    median_dose : float
        In FAST frames at the final magnification.
    median_instrument_seconds, median_compute_ms : float or None
        None for the oracle.
    false_focus, refused, errors : int
        Runs that report focus beyond 2 depths of field (on a blank sample: that report focus); that refuse; that raise.
    named : tuple of int
        Runs in focus whose astigmatism, of 1 DoF at least, is reported within 30 % and 15°; and all such runs.
    """

    track: str
    method: str
    runs: int
    successes: int
    interval: tuple[float, float]
    median_error: float | None
    p90_error: float | None
    median_frames: float
    p90_frames: float
    most_frames: float
    median_dose: float
    median_instrument_seconds: float | None
    median_compute_ms: float | None
    false_focus: int
    refused: int
    errors: int
    named: tuple[int, int] = (0, 0)

    @property
    def share(self) -> float:
        """Share of successes, 0 to 1."""
        return self.successes / self.runs


def rows(records: Sequence[Record]) -> tuple[Row, ...]:
    """Return a row for each track and method, in order of appearance."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.track, record.method), []).append(record)
    return tuple(_row(track, method, found) for (track, method), found in groups.items())


def _row(track: str, method: str, records: list[Record]) -> Row:
    blank = TRACKS[track].refuses
    claimed = [record for record in records if record.claimed]
    errors = [record.error for record in claimed]
    refused = sum(record.status == "refused" for record in records)
    successes = refused if blank else sum(error <= 1.0 for error in errors)
    frames = [record.frames for record in records]
    return Row(
        track=track,
        method=method,
        runs=len(records),
        successes=successes,
        interval=wilson(successes, len(records)),
        median_error=None if blank else _quantile(errors, 0.5),
        p90_error=None if blank else _quantile(errors, 0.9),
        median_frames=float(np.median(frames)),
        p90_frames=float(np.quantile(frames, 0.9)),
        most_frames=float(max(frames)),
        median_dose=float(np.median([record.dose for record in records])),
        median_instrument_seconds=_quantile([r.instrument_seconds for r in records], 0.5),
        median_compute_ms=_quantile([r.compute_ms for r in records], 0.5),
        false_focus=len(claimed) if blank else sum(error > FALSE_FOCUS for error in errors),
        refused=refused,
        errors=sum(record.status == "error" for record in records),
        named=_named(claimed),
    )


def _named(claimed: Sequence[Record]) -> tuple[int, int]:
    """Return how many of the runs in focus name their astigmatism within 30 % and 15°, and of how many."""
    astigmatic = [record for record in claimed if record.error <= 1.0 and math.hypot(*record.astigmatism) > 0.9]
    right = 0
    for record in astigmatic:
        if record.reported_astigmatism is None:
            continue
        true, reported = complex(*record.astigmatism), complex(*record.reported_astigmatism)
        turn = abs(np.angle(reported / true, deg=True)) / 2 if reported else 90.0
        right += abs(abs(reported) - abs(true)) <= 0.3 * abs(true) and turn <= 15.0
    return right, len(astigmatic)


def _quantile(values: Sequence[float | None], share: float) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.quantile(known, share)) if known else None


COLUMNS = (
    "method",
    "runs",
    "success",
    "95 % interval",
    "error median / p90",
    "frames median / p90 / max",
    "dose",
    "instrument s",
    "compute ms",
    "false",
    "refused",
    "errors",
    "astigmatism",
)
"""Headings of `cells`."""


def cells(row: Row) -> tuple[str, ...]:
    """Return one row as text."""
    low, high = row.interval
    return (
        row.method,
        str(row.runs),
        f"{row.share:.0%}",
        f"{low:.0%} to {high:.0%}",
        f"{_number(row.median_error, 2)} / {_number(row.p90_error, 2)}",
        f"{_count(row.median_frames)} / {_count(row.p90_frames)} / {_count(row.most_frames)}",
        f"{row.median_dose:.1f}",
        _number(row.median_instrument_seconds, 1),
        _number(row.median_compute_ms, 1),
        str(row.false_focus),
        str(row.refused),
        str(row.errors),
        "–" if not row.named[1] else f"{row.named[0] / row.named[1]:.0%}",
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _count(frames: float) -> str:
    return f"{round(frames, 1):g}"


def verdict(found: Sequence[Row]) -> str:
    """Return how our default method compares with the peers of the same track, in words; empty without both.

    A peer wins where it succeeds at least as often in fewer frames, or more often than the confidence interval of
    ours allows.
    """
    ours = next((row for row in found if row.method == OURS[0]), None)
    peers = [row for row in found if row.method not in (*OURS, pair_bound.NAME)]
    if ours is None or not peers:
        return ""
    equal = [row for row in peers if row.share >= ours.share]
    if not equal:
        if not any(row.successes for row in peers):
            return f"No peer succeeds at all; {ours.method} does in {ours.share:.0%}."
        best = max(peers, key=lambda row: (row.share, -row.median_frames))
        return (
            f"No peer succeeds as often as {ours.method} ({ours.share:.0%} in {_count(ours.median_frames)} "
            f"frames); the best, {best.method}, reaches {best.share:.0%} in {_count(best.median_frames)}."
        )
    fastest = min(equal, key=lambda row: row.median_frames)
    if fastest.median_frames <= ours.median_frames:
        lead = f"**{fastest.method} wins**"
    elif fastest.share > ours.interval[1]:
        lead = f"**{fastest.method} succeeds more often**"
    else:
        lead = f"{ours.method} needs the fewest frames"
    ratio = fastest.median_frames / max(ours.median_frames, 1.0)
    return (
        f"{lead}: {ours.method} {ours.share:.0%} in {_count(ours.median_frames)} frames, {fastest.method} "
        f"{fastest.share:.0%} in {_count(fastest.median_frames)} ({ratio:.1f} times as many). It is the fastest of the "
        f"peers that succeed at least as often."
    )


def markdown(
    found: Sequence[Row], conditions: Mapping[str, str], skipped: Mapping[str, str], pictures: str = ""
) -> str:
    """Return the report: conditions, what was left out, a table and a sentence for each track.

    Parameters
    ----------
    found : sequence of Row
        Of all tracks.
    conditions, skipped : mapping of str to str
        Printed as lists.
    pictures : str
        Markdown that shows figures, placed above the tables.
    """
    lines = ["# Benchmark: autofocus methods side by side", ""]
    lines += [f"- {name}: {value}" for name, value in conditions.items()]
    lines += [f"- left out: {name}, {reason}" for name, reason in skipped.items()]
    lines += [
        "",
        "Success: focus reported within 1 depth of field (DoF) of the truth. False: focus reported beyond 2 DoF. "
        "Errors in DoF over the runs that report focus; frames of all runs, every frame counted; dose in frames at the "
        "final magnification; instrument seconds by the emulator's clock; compute per frame. How this is measured, and "
        "what each peer is told: [explanation](explanation/benchmark.md).",
    ]
    if pictures:
        lines += ["", pictures]
    for name in dict.fromkeys(row.track for row in found):
        group = [row for row in found if row.track == name]
        lines += ["", f"## {name}", "", f"{TRACKS[name].description[0].upper()}{TRACKS[name].description[1:]}."]
        said = verdict(group)
        lines += ["", said] if said else []
        lines += ["", _line(COLUMNS), _line(["---", *["---:"] * (len(COLUMNS) - 1)])]
        lines += [_line(cells(row)) for row in group]
    return "\n".join(lines) + "\n"


def _line(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


@dataclass(frozen=True, slots=True)
class Bin:
    """Runs of similar confidence.

    Parameters
    ----------
    confidence : float
        Mean of the runs.
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


def reliability(records: Sequence[Record], method: str, bins: int = 8) -> tuple[Bin, ...]:
    """Return how often a method is right, by the confidence that it gives with a reported focus.

    The bins hold the same number of runs each, so that none rests on a handful. Focus reported on a blank sample
    counts as wrong.

    Parameters
    ----------
    records : sequence of Record
        Of any tracks and methods.
    method : str
        Whose.
    bins : int
        Most bins; fewer when there are fewer than ten runs for each.
    """
    given = sorted(
        (r.confidence, r.error if not TRACKS[r.track].refuses else math.inf)
        for r in records
        if r.method == method and r.claimed and r.confidence is not None
    )
    if not given:
        return ()
    pieces = np.array_split(np.array(given), max(min(bins, len(given) // 10), 1))
    return tuple(_bin(piece[:, 0], piece[:, 1]) for piece in pieces)


def _bin(
    confidence: np.ndarray[tuple[int], np.dtype[np.float64]], error: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> Bin:
    one, two = int((error <= 1.0).sum()), int((error <= 2.0).sum())
    runs = len(error)
    return Bin(float(confidence.mean()), runs, one / runs, two / runs, wilson(one, runs), wilson(two, runs))


def expected_calibration_error(found: Sequence[Bin]) -> float:
    """Return the mean distance of confidence from the share within 2 depths of field, weighted by runs; 0 to 1."""
    total = sum(piece.runs for piece in found)
    return sum(piece.runs * abs(piece.confidence - piece.within_two) for piece in found) / total if total else 0.0
