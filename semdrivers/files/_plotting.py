"""Figures of an autofocus run: what was seen at which working distance, and the picture before and after.

Drawn on canvases of their own, so they work without a display, in any thread, and leave pyplot alone.
"""

from __future__ import annotations

import io
import math
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError
from semdrivers.files._atomic import check_free, replacing
from semdrivers.files._text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_STATUS = {"focused": "#009e73", "refused": "#d55e00", "cancelled": "#666666"}
_INK = "#333333"
_MARKERS = "osD^vP"
_PRINT: dict[Any, Any] = {"pdf.fonttype": 42}
"""Fonts are embedded as such: journals refuse those of type 3."""
_SCORE_AXIS = (-0.4, 9.6)
_ONE_SIGMA = 0.1587
"""Probability below the mean less one standard deviation."""
_FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".tif", ".tiff")


def plot_result(result: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> Path:
    """Draw score and blur against working distance, with the posterior, and the path taken frame by frame.

    Parameters
    ----------
    result : mapping
        What `semdrivers.AutofocusResult.to_dict` returns. Without a trace the figure says that no frame was acquired.
        Blur and posterior are drawn where the method measured them.
    path : str or Path
        ``.png``, ``.pdf`` or ``.svg``.
    overwrite : bool
        Whether the file may take the place of another.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InvalidParameterError
        When the ending of the name is not a picture format.
    ExistingFileError
        When there is such a file, unless `overwrite`.
    OSError
        When the file cannot be written.
    """
    path = _checked(path, overwrite)
    return _write(result_figure(result), path, overwrite)


def draw_result(result: Mapping[str, Any], kind: str = "svg") -> bytes:
    """Return the figure of `plot_result` as SVG, or as PNG."""
    return _rendered(result_figure(result), kind)


def draw_before_after(before: NDArray[Any], after: NDArray[Any], titles: tuple[str, str], pixel_size: float) -> bytes:
    """Return the figure of `plot_before_after` as PNG."""
    return _rendered(_pair_figure(before, after, titles, pixel_size), "png")


def plot_before_after(
    before: NDArray[Any],
    after: NDArray[Any],
    titles: tuple[str, str],
    pixel_size: float,
    path: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Draw two frames side by side, each with its title and a scale bar.

    Parameters
    ----------
    before, after : ndarray of shape (H, W), uint8 or uint16
        Frames of one size; both are shown over the same range of grey levels, that of `after`.
    titles : tuple of str
        One line for each.
    pixel_size : float
        nm; no scale bar where it is unknown (NaN).
    path, overwrite
        As of `plot_result`, and so are what is returned and what is raised.
    """
    path = _checked(path, overwrite)
    return _write(_pair_figure(before, after, titles, pixel_size), path, overwrite)


def result_figure(result: Mapping[str, Any]) -> Figure:
    """Return the figure of `plot_result`, which a notebook shows by itself."""
    blurred = any(step.get("blur") is not None for step in result["trace"])
    figure = _figure(12.6 if blurred else 9.0, 4.3)
    panels = figure.subplots(1, 3 if blurred else 2)
    figure.suptitle(
        f"{result['method']}: {result['status']} at {result['working_distance']:.3f} mm "
        f"in {counted(result['frames'], 'frame')} ({result['elapsed']:.1f} s)",
        color=_STATUS.get(result["status"], _INK),
        fontsize=11,
        fontweight="bold",
    )
    figure.supxlabel(_conditions(result, 150 if blurred else 110), fontsize=8, color=_INK)
    _draw_by_distance(panels[0], result)
    _draw_by_frame(panels[-1], result)
    if blurred:
        _draw_blur(panels[1], result)
    return figure


def _conditions(result: Mapping[str, Any], width: int) -> str:
    """Return instrument, date and magnification of a run, and its reason, in lines of at most `width` characters."""
    about = result.get("provenance") or {}
    factors = sorted({step["magnification"] for step in result["trace"]})
    known = [
        " ".join(filter(None, (about.get("instrument") or {}).values())),
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(about["time"])) if about.get("time") is not None else "",
        ", ".join(f"{factor:g}×" for factor in factors),
    ]
    return (
        "\n".join([", ".join(filter(None, known)), *textwrap.wrap(result["reason"], width)]).strip().replace("$", r"\$")
    )


def _pair_figure(before: NDArray[Any], after: NDArray[Any], titles: tuple[str, str], pixel_size: float) -> Figure:
    height, width = after.shape
    figure = _figure(10.0, 10.0 / 2 * height / width + 0.3)
    low, high = np.percentile(after, (0.5, 99.5))
    for axes, pixels, title in zip(figure.subplots(1, 2), (before, after), titles, strict=True):
        axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")
        axes.set_title(title, fontsize=10, color=_INK)
        axes.set_axis_off()
        draw_scale_bar(axes, pixels.shape, pixel_size)
    return figure


def plot_calibration(calibration: Mapping[str, Any], path: str | Path, *, overwrite: bool = False) -> Path:
    """Draw a calibration: blur against working distance, frame by frame, and the cone of the beam that was fitted.

    Parameters
    ----------
    calibration : mapping
        ``series`` (working distance in mm and blur radius in pixels of each frame), ``pixel`` (nm), ``aperture`` and
        ``aperture_sigma`` (mm), ``working_distance`` (mm), ``magnification``, ``model``, ``serial``, ``date``.
    path, overwrite
        As of `plot_result`, and so are what is returned and what is raised.
    """
    path = _checked(path, overwrite)
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    places, blurs = np.array(calibration["series"]).T
    focus = calibration["working_distance"]
    along = np.linspace(places.min(), places.max(), 400)

    def cone(aperture: float) -> NDArray[Any]:
        return np.asarray(aperture * np.abs(along - focus) / along / (calibration["pixel"] * 1e-6))

    aperture, sigma = calibration["aperture"], calibration["aperture_sigma"]
    axes.fill_between(along, cone(aperture - sigma), cone(aperture + sigma), color=_COLOURS[4], alpha=0.4, label="±σ")
    axes.plot(along, cone(aperture), color=_COLOURS[0], label=f"aperture {aperture * 1e3:.1f} ± {sigma * 1e3:.1f} µm")
    axes.plot(places, blurs, "o", color=_COLOURS[5], markersize=4, label="frames")
    axes.set(xlabel="working distance (mm)", ylabel="blur radius (pixels)", ylim=(0, None))
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.legend(fontsize=8, frameon=False)
    name = f"{calibration['model']} {calibration['serial']}".strip() or "unnamed instrument"
    axes.set_title(f"{name}, {calibration['date']}, {calibration['magnification']:g}×", fontsize=9, color=_INK)
    return _write(figure, path, overwrite)


def plot_focus_map(
    x: NDArray[Any],
    y: NDArray[Any],
    mean: NDArray[Any],
    sigma: NDArray[Any],
    places: NDArray[Any],
    residuals: NDArray[Any],
    depth_of_field: float,
    path: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Draw the focus over the stage with the points that were measured, its uncertainty, and the residuals.

    Parameters
    ----------
    x, y : ndarray of shape (W,) and (H,)
        Stage positions of the columns and rows, mm.
    mean, sigma : ndarray of shape (H, W)
        Working distance of best focus and its standard deviation, mm.
    places : ndarray of shape (N, 2)
        x and y of the points, mm.
    residuals : ndarray of shape (N,)
        By how much each lies above what the other points say, mm.
    depth_of_field : float
        mm; the unit of uncertainty and residuals.
    path, overwrite
        As of `plot_result`, and so are what is returned and what is raised.
    """
    path = _checked(path, overwrite)
    figure = _figure(12.0, 3.9)
    surface, uncertainty, errors = figure.subplots(1, 3)
    off = residuals / depth_of_field
    for axes, values, title, colours in (
        (surface, 1e3 * (mean - mean.mean()), "focus, µm about its mean", "viridis"),
        (uncertainty, sigma / depth_of_field, "uncertainty, depths of field", "magma_r"),
    ):
        drawn = axes.pcolormesh(x, y, values, cmap=colours, shading="nearest")
        figure.colorbar(drawn, ax=axes)
        axes.plot(*places.T, "o", color="white", markeredgecolor=_INK, markersize=4)
        wild = np.abs(off) > 1
        axes.plot(*places[wild].T, "x", color=_COLOURS[5], markersize=7, markeredgewidth=2)
        axes.set(title=title, xlabel="stage x, mm", ylabel="stage y, mm", aspect="equal")
    errors.axhspan(-0.5, 0.5, color=_COLOURS[2], alpha=0.15)
    errors.plot(np.arange(1, len(off) + 1), off, "o", color=_COLOURS[0], markersize=4)
    errors.set(title="points against all others", xlabel="point", ylabel="depths of field")
    return _write(figure, path, overwrite)


def _draw_by_distance(axes: Axes, result: Mapping[str, Any]) -> None:
    axes.set_xlabel("working distance (mm)")
    axes.set_ylabel("score (0 to 9)")
    axes.set_ylim(*_SCORE_AXIS)
    axes.axvline(result["start_working_distance"], color=_INK, linewidth=0.8, linestyle=":", label="start")
    axes.axvline(
        result["working_distance"],
        color=_STATUS.get(result["status"], _INK),
        linewidth=1.2,
        linestyle="--",
        label="final",
    )
    _draw_posterior(axes, result)
    trace = result["trace"]
    if not trace:
        axes.text(0.5, 0.5, "no frame was acquired", transform=axes.transAxes, ha="center", color=_INK)
    curve = sorted((step["working_distance"], step["score"]) for step in trace)
    axes.plot([place for place, _ in curve], [score for _, score in curve], color="#bbbbbb", linewidth=0.8, zorder=1)
    phases = dict.fromkeys(step["phase"] for step in trace)
    for colour, marker, phase in zip(_cycle(_COLOURS), _cycle(_MARKERS), phases, strict=False):
        steps = [step for step in trace if step["phase"] == phase]
        axes.scatter(
            [step["working_distance"] for step in steps],
            [step["score"] for step in steps],
            s=26,
            color=colour,
            marker=marker,
            label=phase,
            zorder=2,
        )
    for step in trace if len(trace) <= 25 else ():
        axes.annotate(
            str(step["frame"]),
            (step["working_distance"], step["score"]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
            color=_INK,
        )
    axes.legend(fontsize=8, frameon=False, loc="best")
    axes.ticklabel_format(axis="x", useOffset=False)


def _draw_blur(axes: Axes, result: Mapping[str, Any]) -> None:
    axes.set_xlabel("working distance (mm)")
    axes.set_ylabel("blur radius (pixels)")
    steps = [step for step in result["trace"] if step.get("blur") is not None]
    axes.errorbar(
        [step["working_distance"] for step in steps],
        [step["blur"] for step in steps],
        yerr=[step["blur_sigma"] or 0.0 for step in steps],
        fmt="o",
        markersize=4,
        color=_COLOURS[0],
        ecolor=_COLOURS[4],
        label="blur of each frame, ±σ",
    )
    axes.set_ylim(0, 1.15 * max(step["blur"] + (step["blur_sigma"] or 0.0) for step in steps) + 0.5)
    _draw_posterior(axes, result)
    axes.legend(fontsize=8, frameon=False, loc="best")
    axes.ticklabel_format(axis="x", useOffset=False)
    if result.get("astigmatism") and result.get("depth_of_field"):
        _draw_ellipses(axes, result["astigmatism"], result["depth_of_field"] * 1e3)


_ASIDE = 3.0
"""Depths of field from the focus to the blur that is drawn below and above it."""


def _draw_ellipses(axes: Axes, left: Mapping[str, Any], unit: float) -> None:
    """Draw the blur below, in and above the focus, with the astigmatism that remains."""
    from matplotlib.patches import Ellipse

    x, y, sigma = (left[name] / unit for name in ("x", "y", "sigma"))
    amount, turn = math.hypot(x, y), math.degrees(0.5 * math.atan2(y, x))
    inset = axes.inset_axes((0.3, 0.68, 0.4, 0.3))
    for number, away in enumerate((-_ASIDE, 0.0, _ASIDE)):
        along, across = (2 * math.hypot(away + sign * amount, 1.0) for sign in (1, -1))
        # Lines are counted downwards, so an angle from the lines to the next line is clockwise.
        inset.add_patch(Ellipse((9 * number, 0), along, across, angle=-turn, color=_COLOURS[0], alpha=0.6))
    inset.set_xlim(-5, 23)
    inset.set_ylim(-6, 6)
    inset.set_aspect("equal")
    inset.set_axis_off()
    inset.set_title(f"x {x:.1f}, y {y:.1f} ± {sigma:.1f} depths of field", fontsize=7, color=_INK)


def _draw_posterior(axes: Axes, result: Mapping[str, Any]) -> None:
    """Shade where all frames together say that the focus lies."""
    ends = result.get("posterior")
    if not ends:
        return
    widths = np.maximum(np.diff(ends), 1e-6)
    low, high = axes.get_ylim()
    height = (high - low) * 0.9 * widths.min() / widths  # each piece is equally probable
    shares = np.linspace(0, 1, len(ends))
    below, middle, above = np.interp((_ONE_SIGMA, 0.5, 1 - _ONE_SIGMA), shares, ends)
    said = f"focus {middle:.3f} ± {(above - below) / 2:.2g} mm"
    axes.stairs(low + height, ends, baseline=low, fill=True, color=_COLOURS[2], alpha=0.25, label=said, zorder=0)
    axes.set_ylim(low, high)


def _draw_by_frame(axes: Axes, result: Mapping[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    frames = [step["frame"] for step in result["trace"]]
    axes.set_xlabel("frame")
    axes.set_ylabel("score (0 to 9)", color=_COLOURS[0])
    axes.set_ylim(*_SCORE_AXIS)
    axes.plot(frames, [step["score"] for step in result["trace"]], "o-", color=_COLOURS[0], markersize=4, linewidth=1.2)
    axes.tick_params(axis="y", colors=_COLOURS[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    distance = axes.twinx()
    distance.spines[["top"]].set_visible(False)
    distance.set_ylabel("working distance (mm)", color=_COLOURS[5])
    distance.plot(
        frames,
        [step["working_distance"] for step in result["trace"]],
        "s--",
        color=_COLOURS[5],
        markersize=3,
        linewidth=1,
    )
    distance.tick_params(axis="y", colors=_COLOURS[5])
    distance.ticklabel_format(axis="y", useOffset=False)


def draw_scale_bar(axes: Axes, shape: tuple[int, ...], pixel_size: float) -> None:
    """Draw a scale bar of a round length into a panel that shows a picture.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Axes of the panel, in pixels of the picture.
    shape : tuple of int
        Height and width of the picture, pixels.
    pixel_size : float
        nm; nothing is drawn where it is unknown (NaN).
    """
    height, width = shape
    if not pixel_size > 0:
        return
    length = _round_length(width * pixel_size / 4)
    pixels = length / pixel_size
    left, bottom = width * 0.04, height * 0.94
    axes.plot([left, left + pixels], [bottom, bottom], color="white", linewidth=4, solid_capstyle="butt")
    axes.text(
        left + pixels / 2,
        bottom - height * 0.025,
        f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm",
        color="white",
        ha="center",
        va="bottom",
        fontsize=9,
        fontweight="bold",
        bbox={"facecolor": "black", "alpha": 0.4, "edgecolor": "none", "pad": 2},
    )


def _round_length(most: float) -> float:
    """Return the greatest 1, 2 or 5 times a power of ten that is at most `most`."""
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most * (1 + 1e-9)))


def _cycle(values: Sequence[str]) -> Iterator[str]:
    from itertools import cycle

    return cycle(values)


@cache
def _shown_figure() -> type[Figure]:
    """Return a class of figures that a notebook shows without pyplot."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            return _rendered(self, "png")

    return ShownFigure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _shown_figure()(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _checked(path: str | Path, overwrite: bool) -> Path:
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise InvalidParameterError(f"{path}: a figure's name ends in .png, .pdf or .svg, not {path.suffix!r}")
    check_free(path, overwrite)
    return path


def _write(figure: Figure, path: Path, overwrite: bool) -> Path:
    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(_rendered(figure, path.suffix[1:].lower()))
    return path


def _rendered(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context

    for axes in figure.axes:
        axes.spines[["top"]].set_visible(False)
    buffer = io.BytesIO()
    with rc_context(_PRINT) if kind == "pdf" else nullcontext():
        figure.savefig(buffer, format=kind)
    return buffer.getvalue()
