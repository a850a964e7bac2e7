"""Figures of a comparison: success against frames, and the reliability of the confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.ticker import PercentFormatter, ScalarFormatter

from semfocus_plugin.lab.benchmark.canvas import COLOURS, INK, new_figure, plain, write
from semfocus_plugin.lab.benchmark.comparison import OURS
from semfocus_plugin.lab.benchmark.comparison_tables import Bin, Row, expected_calibration_error
from semfocus_plugin.lab.benchmark.peers import pair_bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osv^DP*Xhx"


def draw_comparison(rows: Sequence[Row], path: Path) -> Path:
    """Draw success (95 % interval) against frames (median, and a bar to p90), a panel for each track.

    Parameters
    ----------
    rows : sequence of Row
        Of all tracks.
    path : Path
        ``.png``.
    """
    tracks = list(dict.fromkeys(row.track for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    columns = min(len(tracks), 4)
    lines = math.ceil(len(tracks) / columns)
    figure, panels = new_figure(lines, columns, 3.1 * columns, 2.9 * lines + 0.7)
    for axes, track in zip(panels, tracks, strict=False):
        _panel(axes, [row for row in rows if row.track == track], methods)
        axes.set_title(track, fontsize=10, color=INK)
    for axes in panels[len(tracks) :]:
        axes.set_visible(False)
    for index, axes in enumerate(panels[: len(tracks)]):
        if index % columns == 0:
            axes.set_ylabel("success within 1 DoF")
        if index + columns >= len(tracks):
            axes.set_xlabel("frames: median, to p90")
    handles, labels = [], []
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False, fontsize=8)
    return write(figure, path)


def _panel(axes: Axes, rows: Sequence[Row], methods: Sequence[str]) -> None:
    for row in rows:
        index = methods.index(row.method) % len(COLOURS)
        low, high = row.interval
        oracle = row.method == pair_bound.NAME
        axes.errorbar(
            max(row.median_frames, 1.0),
            row.share,
            xerr=None if oracle else [[0.0], [max(row.p90_frames - row.median_frames, 0.0)]],
            yerr=None if oracle else [[max(row.share - low, 0.0)], [max(high - row.share, 0.0)]],
            fmt=_MARKERS[index % len(_MARKERS)],
            color=COLOURS[index],
            markersize=9 if row.method == OURS[0] else 6,
            elinewidth=1,
            label=row.method,
            zorder=3 if row.method == OURS[0] else 2,
        )
    axes.set_xscale("log")
    axes.set_xlim(1.5, 400)
    axes.set_xticks([2, 5, 10, 20, 50, 100, 300])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_ylim(-0.05, 1.05)
    plain(axes)


def draw_reliability(bins: Sequence[Bin], method: str, path: Path) -> Path:
    """Draw the share of runs within 1 and 2 depths of field against the confidence that the method gave.

    Parameters
    ----------
    bins : sequence of Bin
        Of `reliability`.
    method : str
        For the title.
    path : Path
        ``.png``.
    """
    figure, (axes, counts) = new_figure(2, 1, 4.6, 5.4, ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, label="as good as its word")
    place = [piece.confidence for piece in bins]
    least = min(min(piece.confidence, piece.interval_one[0], piece.interval_two[0]) for piece in bins)
    ends = math.floor(10 * least) / 10, 1.0 + 0.02 * (1.0 - math.floor(10 * least) / 10)
    for share, interval, colour, label in (
        ([b.within_one for b in bins], [b.interval_one for b in bins], COLOURS[0], "within 1 DoF"),
        ([b.within_two for b in bins], [b.interval_two for b in bins], COLOURS[5], "within 2 DoF"),
    ):
        below = [max(s - low, 0.0) for s, (low, _) in zip(share, interval, strict=True)]
        above = [max(high - s, 0.0) for s, (_, high) in zip(share, interval, strict=True)]
        axes.errorbar(place, share, yerr=[below, above], fmt="o-", color=colour, capsize=2, linewidth=1.2, label=label)
    error = expected_calibration_error(bins)
    runs = sum(piece.runs for piece in bins)
    axes.set_title(f"{method}: {runs} reported foci, mean gap to 2 DoF {error:.1%}", fontsize=10, color=INK)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel("share of runs")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    counts.bar(place, [piece.runs for piece in bins], width=0.015 * (ends[1] - ends[0]), color=INK)
    counts.set_xlim(*ends)
    counts.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    counts.set_xlabel("confidence given")
    counts.set_ylabel("runs")
    plain(axes)
    plain(counts)
    return write(figure, path)
