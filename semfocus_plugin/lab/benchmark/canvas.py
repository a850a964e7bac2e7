"""The look of the evaluation's figures, on canvases of their own: no display needed, pyplot left alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#56b4e9", "#999999", "#e69f00", "#cc79a7", "#009e73", "#d55e00", "#8c6d31", "#882255", "#333333")
INK = "#333333"


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
