"""AENet on elliptical blurs: real micrographs under a sampled elliptical disc, each seen in its eight mirror images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError
from semfocus_plugin import networks
from semfocus_plugin.lab.benchmark.pictures import Picture, read_folder
from semfocus_plugin.lab.benchmark.reproduction.drawing import draw_lines
from semfocus_plugin.lab.benchmark.reproduction.estimates import estimate, mean, median
from semfocus_plugin.lab.benchmark.reproduction.exhibit import Exhibit, Line
from semfocus_plugin.lab.benchmark.reproduction.micrographs import in_bytes
from semfocus_plugin.lab.benchmark.reproduction.request import Request, Stage
from semfocus_plugin.lab.parallel import required, run_all
from semfocus_plugin.optics import HALF_SCORE, ideal_score

__all__ = ["RADII", "BlurredByEllipse", "blur_picture", "elliptical_disc", "table_ellipses"]

RADII = ((12.0, 0.7), (9.0, 0.7), (9.0, 3.0), (6.0, 2.0), (9.0, 9.0), (3.0, 3.0))
"""Semi-axes in pixels."""

_ANGLES = 3
"""Directions of every ellipse on a picture, drawn at random."""
_MAGNIFICATION = 3000.0
_NOISE = 0.08
_SQUARE = 320
_MARGIN = 20
_SHARP = 6.0
"""Score above which a line focus would pass for a focus."""


@dataclass(frozen=True, slots=True, eq=False)
class BlurredByEllipse:
    """One picture under one ellipse, in its mirror images.

    Parameters
    ----------
    name : str
        Name of the file.
    larger, smaller, angle : float
        Semi-axes in pixels; degrees from the lines, towards the next line, to the larger.
    label : float
        Score that the larger radius implies.
    score : ndarray of shape (8,)
        AENet's, by mirror image.
    turned : ndarray of shape (8,)
        Degrees from the true direction to the reported one, −90 to 90; NaN where the network reports none.
    log_larger, log_smaller : ndarray of shape (8,)
        Reported ln(1 + radius); NaN where the network reports none.
    """

    name: str
    larger: float
    smaller: float
    angle: float
    label: float
    score: NDArray[Any]
    turned: NDArray[Any]
    log_larger: NDArray[Any]
    log_smaller: NDArray[Any]


def table_ellipses(request: Request, stage: Stage) -> Exhibit:
    """Score real micrographs under elliptical discs, and compare the scores of mirror images of the same frame."""
    if request.pictures is None:
        raise InvalidParameterError("--table ellipses needs real micrographs: name their folder with --pictures")
    pictures = read_folder(request.pictures)
    tasks = [(picture, *radii, request.seed) for picture in pictures for radii in RADII]
    results = [
        each
        for part in run_all(blur_picture, tasks, workers=request.workers, progress=stage("blurring", len(tasks)))
        for each in part
    ]
    columns = tuple(_titled(*radii) for radii in RADII)
    lines = _lines({_titled(*radii): [f for f in results if (f.larger, f.smaller) == radii] for radii in RADII})
    notes = (
        f"{len(pictures)} real micrographs under a sampled elliptical disc, {_ANGLES} directions each, with noise; "
        "every frame in its four mirror images and their transposes.",
        "Spread: root mean square of the score about its mean over the eight images of a frame.",
    )
    return Exhibit(
        "Table ellipses",
        "AENet on elliptical blurs (not in the paper); semi-axes in pixels",
        columns,
        tuple(lines),
        notes,
        partial(draw_lines, "AENet on elliptical blurs", columns, lines),
        {"frames": results},
    )


def blur_picture(picture: Picture, larger: float, smaller: float, seed: int) -> list[BlurredByEllipse]:
    """Blur a square window of a picture by an ellipse in several directions, add noise, and score all mirror images.

    Raises
    ------
    AutofocusError
        When SciPy is not installed.
    """
    signal = required("scipy.signal", "the independent blur", "benchmark")
    random = np.random.default_rng([seed, *picture.name.encode(), round(10 * larger), round(10 * smaller)])
    sharp = in_bytes(picture.pixels)
    evaluator = networks.load().evaluator
    results = []
    for _ in range(_ANGLES):
        angle = random.uniform(-90, 90)
        padded = np.pad(sharp, max(_MARGIN, (_SQUARE - min(sharp.shape)) // 2 + _MARGIN + 1), mode="reflect")
        top, left = (int(random.integers(side - _SQUARE - 2 * _MARGIN + 1)) for side in padded.shape)
        window = padded[top : top + _SQUARE + 2 * _MARGIN, left : left + _SQUARE + 2 * _MARGIN]
        blurred = signal.fftconvolve(window, elliptical_disc(larger, smaller, angle), mode="same")
        blurred = blurred[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        noisy = blurred + random.normal(0, _NOISE * max(blurred.mean(), 30), blurred.shape)
        square = np.clip(noisy, 0, 255).astype(np.uint8)
        reports = [(evaluator(_middle(image), _MAGNIFICATION), sign, turned) for image, sign, turned in _images(square)]
        reported = [(report.ellipse, sign, turned) for report, sign, turned in reports]
        results.append(
            BlurredByEllipse(
                picture.name,
                larger,
                smaller,
                angle,
                ideal_score(math.log1p(larger), HALF_SCORE),
                np.array([report.score for report, _, _ in reports]),
                np.array([math.nan if e is None else _apart(e.direction, s * angle + t) for e, s, t in reported]),
                np.array([math.nan if e is None else e.log_larger for e, _, _ in reported]),
                np.array([math.nan if e is None else e.log_smaller for e, _, _ in reported]),
            )
        )
    return results


def elliptical_disc(larger: float, smaller: float, angle: float, fine: int = 8) -> NDArray[np.float64]:
    """Return an elliptical disc of sum 1, each pixel the mean of `fine`² samples; semi-axes in pixels, degrees."""
    half = math.ceil(larger) + 1
    place = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
    turn = math.radians(angle)
    x, y = place[None, :], place[:, None]
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    inside = (np.hypot(along / larger, across / smaller) <= 1).astype(float)
    kernel = inside.reshape(2 * half + 1, fine, 2 * half + 1, fine).mean(axis=(1, 3))
    return np.asarray(kernel / kernel.sum())


def _images(square: NDArray[Any]) -> list[tuple[NDArray[Any], float, float]]:
    """Return the mirror images of a square frame; a direction becomes `sign` times itself plus `turned` degrees."""
    return [
        (image.T if transposed else image, sign * (-1.0 if transposed else 1.0), 90.0 if transposed else 0.0)
        for transposed in (False, True)
        for image, sign in ((square, 1.0), (square[::-1], -1.0), (square[:, ::-1], -1.0), (square[::-1, ::-1], 1.0))
    ]


def _middle(square: NDArray[Any]) -> NDArray[Any]:
    rows, columns = networks.SMALLEST
    top, left = (square.shape[0] - rows) // 2, (square.shape[1] - columns) // 2
    return np.ascontiguousarray(square[top : top + rows, left : left + columns])


def _apart(first: float, second: float) -> float:
    """Return the difference of two axes in degrees, −90 to 90."""
    return (first - second + 90) % 180 - 90


def _titled(larger: float, smaller: float) -> str:
    return f"{larger:g} × {smaller:g}"


def _lines(by_radii: dict[str, list[BlurredByEllipse]]) -> list[Line]:
    group = "AENet result"

    def line(measure: str, statistic: Any, digits: int = 2) -> Line:
        return Line(group, measure, {name: statistic(results) for name, results in by_radii.items()}, digits=digits)

    def names(results: Sequence[BlurredByEllipse]) -> list[str]:
        return [each.name for each in results]

    def spread(results: Sequence[BlurredByEllipse]) -> Any:
        return estimate([each.score.std() for each in results], _root_mean_square, names(results))

    def sharp(results: Sequence[BlurredByEllipse]) -> Any:
        return mean([float((each.score > _SHARP).any()) for each in results], names(results))

    def error(results: Sequence[BlurredByEllipse]) -> Any:
        return estimate(
            [_root_mean_square(each.score - each.label) for each in results], _root_mean_square, names(results)
        )

    def radius(results: Sequence[BlurredByEllipse], axis: str) -> Any:
        true = [getattr(each, axis) for each in results]
        reported = np.array([getattr(each, f"log_{axis}") for each in results])
        kept = np.isfinite(reported).all(axis=1)
        return median(np.abs(reported - np.log1p(true)[:, None])[kept].mean(axis=1), np.array(names(results))[kept])

    def direction(results: Sequence[BlurredByEllipse]) -> Any:
        turned = np.array([each.turned for each in results])
        kept = np.isfinite(turned).all(axis=1) & np.array([each.larger > each.smaller for each in results])
        return median(np.abs(turned[kept]).mean(axis=1), np.array(names(results))[kept])

    return [
        line("spread of the score over mirror images, rms", spread),
        line(f"scored above {_SHARP:g} in one of them at least", sharp, 3),
        line("mean score", lambda results: mean([each.score.mean() for each in results], names(results))),
        line("error of the score against the larger radius, rms", error),
        line("error of ln(1 + larger radius), median", partial(radius, axis="larger")),
        line("error of ln(1 + smaller radius), median", partial(radius, axis="smaller")),
        line("error of the direction, degrees, median", direction, 1),
    ]


def _root_mean_square(lines: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(lines))))
