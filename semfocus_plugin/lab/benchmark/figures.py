"""Figures of the laboratory, on canvases of their own: no display is needed, and pyplot is left alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from semfocus_plugin.lab.benchmark.peers import pair_bound
from semfocus_plugin.lab.benchmark.report import Bin, Row, expected_calibration_error
from semfocus_plugin.lab.benchmark.runs import OURS, method_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "INK", "draw_comparison", "draw_reliability", "new_figure", "plain", "write"]

COLOURS = ("#0072b2", "#56b4e9", "#999999", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#8c6d31", "#882255", "#333333")
"""Colours of the lines: each method has its own, whichever are compared."""
INK = "#333333"
"""Colour of text and axes."""
_MARKERS = "osv^DP*Xhx"


def new_figure(
    lines: int, columns: int, width: float, height: float, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `width` by `height` inches and its panels, line by line; `ratios` are heights of the lines."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(lines, columns, squeeze=False, height_ratios=ratios).flat)


def plain(axes: Axes) -> None:
    """Take the frame away and lay a faint grid under the data."""
    axes.grid(True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def write(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def draw_comparison(rows: Sequence[Row], path: Path) -> Path:
    """Draw success (95 % interval) against frames (median, and a bar to p90), a panel for each track.

    Parameters
    ----------
    rows : sequence of Row
        Rows of the benchmark, of all tracks.
    path : Path
        ``.png``.
    """
    tracks = list(dict.fromkeys(row.group for row in rows))
    methods = method_names()
    methods += tuple(row.name for row in rows if row.name not in methods)
    columns = min(len(tracks), 4)
    lines = math.ceil(len(tracks) / columns)
    figure, panels = new_figure(lines, columns, 3.1 * columns, 2.9 * lines + 0.7)
    for axes, track in zip(panels, tracks, strict=False):
        _panel(axes, [row for row in rows if row.group == track], methods)
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
        index = methods.index(row.name) % len(COLOURS)
        low, high = row["interval"]
        oracle = row.name == pair_bound.NAME
        axes.errorbar(
            max(row["median_frames"], 1.0),
            row["share"],
            xerr=None if oracle else [[0.0], [max(row["p90_frames"] - row["median_frames"], 0.0)]],
            yerr=None if oracle else [[max(row["share"] - low, 0.0)], [max(high - row["share"], 0.0)]],
            fmt=_MARKERS[index % len(_MARKERS)],
            color=COLOURS[index],
            markersize=9 if row.name == OURS[0] else 6,
            elinewidth=1,
            label=row.name,
            zorder=3 if row.name == OURS[0] else 2,
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
        Bins that `report.reliability` gives.
    method : str
        Method, for the title.
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
