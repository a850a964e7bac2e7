"""Drawings of the tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm

from semdrivers.files import draw_scale_bar
from semdrivers.image import Image
from semfocus_plugin.lab.benchmark.figures import COLOURS, INK, new_figure, plain, write
from semfocus_plugin.lab.benchmark.reproduction.exhibit import Exhibit, Line, titled
from semfocus_plugin.lab.benchmark.reproduction.published import AENET_TRAINING_ACCURACY
from semfocus_plugin.lab.benchmark.runs import Photographs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from semfocus_plugin.lab.benchmark.reproduction.fields import ScoredField
    from semfocus_plugin.lab.training.curves import MeasuredSeries

__all__ = ["draw_evaluation", "draw_histories", "draw_lines", "draw_photographs", "table"]

_OURS, _THEIRS = COLOURS[0], COLOURS[6]
_MEASURES = ("b  AENet score", "c  variance", "d  entropy")


def draw_lines(title: str, columns: Sequence[str], lines: Sequence[Line], path: Path) -> Path:
    """Draw a table: a panel a measure; the paper's means and ours with their intervals, a place for each column."""
    across = min(len(lines), 4)
    down = math.ceil(len(lines) / across)
    figure, panels = new_figure(down, across, 3.2 * across, 2.5 * down + 0.5)
    figure.suptitle(title, fontsize=12, color=INK)
    for axes, line in zip(panels, lines, strict=False):
        _draw_line(axes, columns, line)
    for axes in panels[len(lines) :]:
        axes.set_visible(False)
    labels = [axes.get_legend_handles_labels() for axes in panels]
    entries = {label: handle for handles, names in labels for handle, label in zip(handles, names, strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return write(figure, path)


def table(
    name: str, title: str, columns: Sequence[str], lines: Sequence[Line], notes: Sequence[str], data: Any = None
) -> Exhibit:
    """Return an exhibit that is drawn as `draw_lines` draws it."""
    draw = partial(draw_lines, name, columns, lines)
    return Exhibit(name, title, tuple(columns), tuple(lines), tuple(notes), draw, data)


def _draw_line(axes: Axes, columns: Sequence[str], line: Line) -> None:
    axes.set_title(f"{line.group}\n{line.measure}", fontsize=8, color=INK)
    for place, column in enumerate(columns):
        theirs, ours = line.published.get(column), line.ours.get(column)
        if theirs is not None:
            axes.plot(place - 0.12, theirs.value, "D", color=_THEIRS, markersize=5, fillstyle="none", label="paper")
        if ours is not None:
            known = not math.isnan(ours.low)
            bars = [[max(ours.value - ours.low, 0.0)], [max(ours.high - ours.value, 0.0)]] if known else None
            axes.errorbar(place + 0.12, ours.value, yerr=bars, fmt="o", color=_OURS, markersize=5, label="ours, 95 %")
    axes.set_xticks(range(len(columns)), [titled(name).replace(" ", "\n") for name in columns])
    axes.set_xlim(-0.6, len(columns) - 0.4)
    plain(axes)
    axes.tick_params(labelsize=7)


def draw_histories(aenet: Sequence[dict[str, float]], acnet: Sequence[dict[str, float]], path: Path) -> Path:
    """Draw loss and accuracy over epochs (Fig. 3): AENet above, ACNet below."""
    figure, panels = new_figure(2, 2, 8.4, 6.0)
    for axes, history, title, keys in (
        (panels[0], aenet, "a  AENet, loss", {"loss": "training", "mse": "validation, MSE"}),
        (panels[1], aenet, "b  AENet, accuracy (±1)", {"accuracy": "validation"}),
        (panels[2], acnet, "c  ACNet, loss", {"loss": "training, MSE"}),
        (panels[3], acnet, "d  ACNet, accuracy (±5 µm)", {"accuracy": "offline test"}),
    ):
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        axes.set_xlabel("epoch")
        for colour, (key, label) in zip(COLOURS, keys.items(), strict=False):
            steps = [entry["step"] + 1 for entry in history if key in entry]
            axes.plot(steps, [entry[key] for entry in history if key in entry], ".-", color=colour, label=label)
        if not any(key in entry for entry in history for key in keys):
            axes.text(0.5, 0.5, "not in the history given", transform=axes.transAxes, ha="center", color=INK)
        elif "loss" in keys:
            axes.set_yscale("log")
        plain(axes)
    panels[1].axhline(AENET_TRAINING_ACCURACY, color=_THEIRS, linestyle="--", label="paper, converged")
    for axes in panels:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    return write(figure, path)


def draw_evaluation(fields: Sequence[ScoredField], series: Sequence[MeasuredSeries], path: Path) -> Path:
    """Draw score against label, and score, variance and entropy against defocus (Fig. 4), a line a specimen."""
    names = list(dict.fromkeys(one.specimen for one in series))
    figure, panels = new_figure(len(names), 4, 13.0, 2.7 * len(names) + 0.4)
    magnifications = [one.magnification for one in series]
    scale = LogNorm(min(magnifications) * 0.99, max(magnifications) * 1.01)
    colours = colormaps["viridis"]
    for row, name in enumerate(names):
        scatter, *curves = panels[4 * row : 4 * row + 4]
        _draw_scatter(scatter, [one for one in fields if one.specimen == name])
        scatter.set_ylabel(f"{titled(name)}\nAENet score")
        for index, (axes, title) in enumerate(zip(curves, _MEASURES, strict=True)):
            for one in series:
                if one.specimen == name:
                    colour = colours(float(scale(one.magnification)))
                    axes.plot(one.defocus, one.values[index], color=colour, linewidth=0.8)
            axes.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
            if row == 0:
                axes.set_title(title, fontsize=9, color=INK, loc="left")
            if row == len(names) - 1:
                axes.set_xlabel("working distance from focus, DoF")
            plain(axes)
        curves[0].set_ylim(-0.2, 9.2)
        if row == 0:
            scatter.set_title("a", fontsize=9, color=INK, loc="left")
        if row == len(names) - 1:
            scatter.set_xlabel("label")
    figure.colorbar(ScalarMappable(scale, colours), ax=panels, label="magnification", shrink=0.6)
    return write(figure, path)


def _draw_scatter(axes: Axes, fields: Sequence[ScoredField]) -> None:
    label = np.concatenate([one.label for one in fields])
    score = np.concatenate([one.score for one in fields])
    axes.plot(label, score, ".", color=_OURS, markersize=3)
    slope, start = np.polyfit(label, score, 1)
    correlation = np.corrcoef(label, score)[0, 1] if score.std() > 0 else math.nan
    axes.plot([0, 9], [start, start + 9 * slope], "--", color=_THEIRS, linewidth=1.2)
    axes.text(0.04, 0.9, f"r = {correlation:.3f}", transform=axes.transAxes, fontsize=8, color=INK)
    axes.set_xlim(-0.2, 9.2)
    axes.set_ylim(-0.2, 9.2)
    plain(axes)


def draw_photographs(shown: Sequence[Photographs], path: Path) -> Path:
    """Draw pictures at the start, after autofocus, and at the true best (Fig. 5), a line a run."""
    figure, panels = new_figure(len(shown), 3, 9.6, 2.55 * len(shown) + 0.2)
    for row, one in enumerate(shown):
        record = one.record
        columns = (
            (one.start, "start", one.start_score, abs(record.start_error)),
            (one.final, f"autofocus: {record.status}", record.final_score, record.error),
            (one.best, "true best (paper: experts)", record.best_score, 0.0),
        )
        low, high = np.percentile(one.best.pixels, (0.5, 99.5))
        for axes, (image, title, score, error) in zip(panels[3 * row : 3 * row + 3], columns, strict=True):
            _draw_picture(axes, image, (float(low), float(max(high, low + 1))))
            axes.set_title(f"{title}: score {score:.1f}, {error:.1f} DoF", fontsize=8, color=INK)
        panels[3 * row].set_ylabel(f"{titled(record.specimen)}\n{record.magnification:,.0f}×", fontsize=8, color=INK)
    return write(figure, path)


def _draw_picture(axes: Axes, image: Image, levels: tuple[float, float]) -> None:
    axes.imshow(image.pixels, cmap="gray", vmin=levels[0], vmax=levels[1], interpolation="nearest")
    draw_scale_bar(axes, image.pixels.shape, image.pixel_size)
    axes.set_xticks([])
    axes.set_yticks([])
