"""Data bars: rows at the bottom of a picture that instruments draw over it, and that show no sample.

A bar stays sharp whatever the lens does, so a score or a spectrum of a picture that holds one is wrong. It can be
detected since it is drawn: its background is one grey level exactly, its text mostly another one, the steps between
them are one pixel wide, and it begins along a straight line. Noise leaves no such rows in a recorded sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import OutOfRangeError

__all__ = ["bar_rows_of", "detect_bar_rows", "without_bar"]

_TALLEST = 0.35
"""Greatest height of a bar, as a share of the picture."""

_LEAST_ROWS = 6
_COLUMNS = 2048
"""Columns looked at; in a wider picture they are taken from several places, in groups of neighbours."""

_GROUP = 64
_BACKGROUND = 0.35
"""Least share of the pixels of a row of a bar that have exactly the level of its background."""

_LINE = 0.98
"""Least share of a row that has one level where it is a line across the whole picture, which may head a bar."""

_STEP = 0.25
"""Least difference of that share between the bar and the rows above it."""

_TEXT = (0.004, 0.62)
"""Share of a bar that is text, lines and logo."""

_TEXT_LEVEL = 0.2
"""Least share of the text that has one exact level."""

_CONTRAST = 0.15
"""Least difference of that level from the background, as a share of the range of the picture."""

_SHARP = 0.25
"""Least share of the steps between neighbouring pixels of a row that are sudden, ..."""

_EDGE, _SUDDEN = 0.1, 0.6
"""... where a step is at least the first share of the difference between the two levels, a sudden one the second."""

_CHANGES = 0.02
"""Least number of changes between background and text from a row to the next, as a share of the pixels of the text: an
edge of the sample that runs down the picture has none."""

_PURE = 0.85
"""Least share of the two levels in a bar without a blank row."""

_BLANK = 0.94
_GAP = 4
"""Rows inside a bar that may look otherwise, such as those of a thin rule or of a rounded frame."""

_BELOW = 6
"""Rows of a frame, and of the sample, that may show below a bar."""


def detect_bar_rows(pixels: NDArray[Any]) -> int:
    """Return the number of rows of a data bar at the bottom of a picture.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        Grey levels of any dtype, as they were recorded: neither scaled nor compressed with loss.

    Returns
    -------
    int
        Rows from the bar's first to the picture's last; 0 where there is no bar.
    """
    height = pixels.shape[0]
    limit = int(height * _TALLEST)
    if limit < _LEAST_ROWS + _BELOW:
        return 0
    rows = _some_columns(pixels[height - limit :])
    level, share = _modes(rows[-_lowest(height) :])
    flat = share >= _BACKGROUND
    if np.count_nonzero(flat) < len(flat) // 2:
        return 0
    background = _most_common(level[flat & (share < _LINE)] if (flat & (share < _LINE)).any() else level[flat])
    if not np.any(level[flat] == background):
        return 0
    return max((_bar_of(rows, value, pixels) for value in dict.fromkeys((background, *level[flat]))), default=0)


def bar_rows_of(pixels: NDArray[Any], metadata: Mapping[str, Any], given: int | None = None) -> int:
    """Return the height of a picture's data bar: as given, else as its metadata say, else as detected.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        The picture.
    metadata : mapping
        Metadata of the picture; ``bar_rows`` counts.
    given : int, optional
        The user's word.
    """
    if given is not None:
        return given
    known = metadata.get("bar_rows")
    if isinstance(known, int) and not isinstance(known, bool) and 0 <= known < len(pixels):
        return known
    return detect_bar_rows(pixels)


def without_bar(pixels: NDArray[Any], rows: int, name: str = "the picture") -> NDArray[Any]:
    """Return a picture without the data bar at its bottom, as a view.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        The picture.
    rows : int
        Height of the bar.
    name : str
        Name of the picture, for the message.

    Raises
    ------
    OutOfRangeError
        When `rows` is below 0, or nothing would be left.
    """
    height = len(pixels)
    if not 0 <= rows < height:
        raise OutOfRangeError(f"{name}: bar_rows must be within 0 and {height - 1}, not {rows}")
    return pixels[: height - rows]


def _lowest(height: int) -> int:
    """Rows at the bottom that decide whether a closer look is worth while."""
    return max(_LEAST_ROWS + _BELOW, height // 40)


def _some_columns(rows: NDArray[Any]) -> NDArray[Any]:
    width = rows.shape[1]
    if width <= _COLUMNS:
        return rows
    starts = np.linspace(0, width - _GROUP, _COLUMNS // _GROUP).astype(int)
    return np.concatenate([rows[:, start : start + _GROUP] for start in starts], axis=1)


def _modes(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the most common level of every row, and its share."""
    ordered = np.sort(rows, axis=1)
    levels, shares = [], []
    for row in ordered:
        ends = np.flatnonzero(np.concatenate((row[1:] != row[:-1], [True])))
        counts = np.diff(np.concatenate(([-1], ends)))
        best = int(counts.argmax())
        levels.append(row[ends[best]])
        shares.append(counts[best] / len(row))
    return np.array(levels), np.array(shares)


def _most_common(values: NDArray[Any]) -> Any:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts.argmax()]


def _bar_of(rows: NDArray[Any], background: Any, pixels: NDArray[Any]) -> int:
    """Return the rows of the bar whose background has this level; 0 where there is none."""
    here = rows == background
    share = here.mean(axis=1)
    inside = share >= _BACKGROUND
    top = _step(share, inside, _top(inside))
    if top is None:
        return 0
    count = len(rows) - top
    bar, flat = rows[top:], here[top:]
    text = bar[~flat]
    if not (count >= _LEAST_ROWS and _TEXT[0] <= text.size / bar.size <= _TEXT[1]):
        return 0
    writing = _most_common(text)
    written = bar == writing
    spread = float(np.ptp(pixels[:: max(1, len(pixels) // 256)]))
    contrast = abs(float(writing) - float(background))
    if np.count_nonzero(written) < _TEXT_LEVEL * text.size or contrast < _CONTRAST * spread:
        return 0
    steps = np.abs(np.diff(bar.astype(np.float32), axis=1))
    if np.count_nonzero(steps >= _SUDDEN * contrast) < max(_SHARP * np.count_nonzero(steps > _EDGE * contrast), 8):
        return 0
    if np.count_nonzero(flat[1:] != flat[:-1]) < max(_CHANGES * text.size, 8):
        return 0
    blank = (share[top:] >= _BLANK)[: max(3, count // 2)].any()
    pure = (text.size - np.count_nonzero(written)) / bar.size <= 1 - _PURE
    if not (blank or pure):
        return 0
    for row in range(top - 1, max(top - 1 - _GAP, 0), -1):
        if _modes(rows[row : row + 1])[1][0] < _LINE:
            break
        top = row
    return len(rows) - top


def _top(inside: NDArray[np.bool_]) -> int:
    """Return the first of the rows that reach down to the bottom, small gaps allowed."""
    top, gap = len(inside), 0
    for row in range(len(inside) - 1, -1, -1):
        if inside[row]:
            top, gap = row, 0
            continue
        gap += 1
        if gap > (_GAP if top < len(inside) else _BELOW):
            break
    return top


def _step(share: NDArray[np.float64], inside: NDArray[np.bool_], top: int) -> int | None:
    """Return where the bar begins: `top` where the picture changes there, else the straight line further down.

    A sample whose shadows have the level of the bar's background may reach up to the picture's top.
    """
    if top >= len(share):
        return None
    above = share[max(0, top - 8) : top]
    if len(above) >= 3 and np.median(above) <= np.median(share[top:][inside[top:]]) - _STEP:
        return top
    for row in range(max(top, 8), len(share) - _LEAST_ROWS):
        upper, lower = share[row - 8 : row], share[row : row + 3]
        if lower.min() >= 0.98 and (upper.max() <= 0.95 or upper[-1] <= 0.02):
            return row
    return None
