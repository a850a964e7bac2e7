"""Frames that hold more than one place: averaged over time, interlaced, torn, or begun before the lens had settled.

No frame says of itself that it is such a mixture. Signs of it are cheap to see in the frames of a run that is about to
report a focus, and each of them has honest causes too: a camera's fixed pattern, a tilted sample. So a sign costs
further frames at a place that has one already, and only frames of one place that differ are evidence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.networks import line_correlation
from semfocus_plugin.run._measurement import NOISE, Measurement

_SHARED = 0.2
"""Correlation of the noise of two frames, one after the other, from which one may hold a part of the other."""

_AVERAGED = 0.45
"""The same between an average of two frames and the next, at least; fine detail of a sample reaches 0.37."""

_APART = 4
"""Frames between two that share no noise where a few are averaged."""

_BLURRED = math.log(3.0)
"""ln(1 + blur radius) from which a frame has nothing of the sample at its finest frequencies: noise alone is there."""

_WHITE = 0.1
"""Correlation of that noise between lines, at most; the rest of a picture without noise has 0.6 and more."""

_UNEVEN = 0.7
"""Difference of ln fine structure between parts of a frame, or between every other line, that another frame lacks."""

_ALIKE = 0.03
"""Correlation of lines that two frames of one place leave in their difference, as a share of that in the frames."""

_REPEATED = 0.2
"""Largest difference of ln fine structure between two frames of one place, noise left out."""
_SIGMAS = 4.0
"""Standard deviations of what noise does to that difference which are allowed beside it."""

_TILE = 16
_FLOOR = 0.05
"""Share of the fine contrast below which its structure is not distinguished from noise."""

Array = NDArray[np.float32]


def mixture(frames: Sequence[Measurement], focus: float, unit: float) -> tuple[str, Measurement] | None:
    """Return what makes frames of a run look as if they held more than one place, and the frame to repeat; or None.

    Parameters
    ----------
    frames : sequence of Measurement
        Of one magnification and one stigmator, in the order of their acquisition.
    focus : float
        Where the focus is said to be, mm.
    unit : float
        Depth of field, mm.
    """
    nearest = min(frames, key=lambda m: abs(m.working_distance - focus))
    for before, after in itertools.pairwise(frames):
        shared = _shared_noise(before, after)
        if shared >= _SHARED:
            return (
                f"a frame shares {shared:.0%} of its noise with the one before, as an average over time does",
                nearest,
            )
        correlation = max(before.correlation, after.correlation)
        if abs(after.working_distance - before.working_distance) > unit and correlation > NOISE:
            left = line_correlation(_levels(after) - _levels(before))
            if left < _ALIKE * correlation:
                return "two frames of different places show the same, as where the second is late", after
    shown = [m for m in frames if m.detail >= 2 * _FLOOR]
    if not shown:
        return None
    lines, parts = (np.array(each) for each in zip(*(_structure(_levels(m)) for m in shown), strict=True))
    odd = np.abs(lines).max(axis=1)
    if odd.max() >= _UNEVEN:
        return "every other line of a frame is sharper, as where two exposures are interlaced", shown[odd.argmax()]
    odd = np.ptp(parts - np.median(parts, axis=0), axis=1)
    if odd.max() >= _UNEVEN:
        return "a part of a frame is sharper than the rest, as where the lens moves meanwhile", shown[odd.argmax()]
    return None


def averaged(frames: Sequence[Measurement]) -> bool:
    """Whether frames share noise with the next ones that later frames do not hold: no pattern of a camera does that."""
    moved = ((m, n) for m, n in itertools.pairwise(frames) if m.working_distance != n.working_distance)
    near = max((_shared_noise(*pair) for pair in moved), default=0.0)
    pairs = ((one, other) for k, one in enumerate(frames) for other in frames[k + _APART :])
    far = min((_shared_noise(*pair) for pair in pairs if _only_noise(*pair)), default=math.inf)
    return near >= _AVERAGED and far < 0.5 * near


def differ(first: Measurement, again: Measurement) -> bool:
    """Whether two frames of one place are not equally sharp."""
    structure = abs(math.log(max(first.structure, 1e-12) / max(again.structure, 1e-12)))
    rows, columns = first.image.pixels.shape
    detail = max(min(first.detail, again.detail), 1e-3)
    noise = math.sqrt(2 / (rows * columns)) / detail + math.sqrt(2 / rows) * (1 - detail)  # of pixels, and of lines
    lines, parts = zip(*(_structure(_levels(m)) for m in (first, again)), strict=True)
    uneven = max(float(np.abs(np.diff(lines, axis=0)).max()), float(np.ptp(np.diff(parts, axis=0))))
    return structure > _REPEATED + _SIGMAS * noise or uneven >= _UNEVEN


def _levels(m: Measurement) -> Array:
    return m.image.pixels.astype(np.float32)


def _only_noise(first: Measurement, second: Measurement) -> bool:
    blurred = max(first, second, key=lambda m: m.evaluation.log_blur or 0.0)
    if (blurred.evaluation.log_blur or 0.0) < _BLURRED:
        return False
    fine = _finest(_levels(blurred))
    return abs(float(np.mean(fine[:-1] * fine[1:]))) <= _WHITE * float(np.mean(fine * fine))


def _shared_noise(first: Measurement, second: Measurement) -> float:
    """Return the correlation of two frames at frequencies that are highest along both axes, 0 where both are sharp."""
    if not _only_noise(first, second):
        return 0.0
    one, other = (_finest(_levels(m)) for m in (first, second))
    power = float(np.mean(one * one) * np.mean(other * other))
    return float(np.mean(one * other)) / math.sqrt(power) if power > 1e-6 else 0.0


def _finest(levels: Array) -> Array:
    height, width = (size // 2 * 2 for size in levels.shape)
    squares = levels[:height, :width]
    fine = squares[::2, ::2] - squares[1::2, ::2] - squares[::2, 1::2] + squares[1::2, 1::2]
    return np.asarray(fine - fine.mean(), np.float32)


def _structure(levels: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ln of the fine structure of even over odd lines and columns, shape (2,), and of the quarters, (4,)."""
    height, width = (size // _TILE * _TILE for size in levels.shape)
    tiles = levels[:height, :width].reshape(height // _TILE, _TILE, width // _TILE, _TILE)
    fine = (tiles - tiles.mean(axis=(1, 3), keepdims=True)).reshape(height, width)
    floor = _FLOOR * float(np.mean(fine * fine)) + 1e-9
    down, across = fine[:-1] * fine[1:], fine[:, :-1] * fine[:, 1:]

    def ln(part: Array) -> float:
        return math.log(max(float(part.mean()), 0.0) + floor)

    middle, centre = height // 2, width // 2
    lines = ln(across[::2]) - ln(across[1::2]), ln(down[:, ::2]) - ln(down[:, 1::2])
    halves = down[:middle], down[middle:]
    return np.array(lines), np.array([ln(part) for half in halves for part in (half[:, :centre], half[:, centre:])])
