"""Data bars: rows at the bottom or the top of a picture that instruments draw over it, and that show no sample.

A bar stays sharp whatever the lens does, so a score or a spectrum of a picture that holds one is wrong. It can be
detected since it is drawn: its background is one grey level or a ramp of them, its text another one, the steps between
them are one or two pixels wide, lines of text begin and end in a row, and the bar begins along a straight line. First
a background of exactly one level is looked for, which noise never leaves in a sample; then one that is level but for
the traces of compression, a ramp or little noise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError, OutOfRangeError

__all__ = ["BarRows", "bar_rows_of", "bar_rows_text", "both_bars", "checked_bar_rows", "detect_bar_rows", "without_bar"]

BarRows = int | tuple[int, int]
"""Rows of a data bar at the bottom, below 0 at the top; or a pair: rows at the top, and rows at the bottom."""

_TALLEST = 0.35
"""Greatest height of a bar, as a share of the picture."""

_LEAST_ROWS = 6
_COLUMNS = 2048
"""Columns looked at; in a wider picture they are taken from several places, in groups of neighbours."""

_GROUP = 64
_BACKGROUND = 0.35
"""Least share of the pixels of a row of a bar that have the level of its background."""

_RINGING = 0.25
"""The same where compression has left ringing around the text."""

_LINE = 0.98
"""Least share of a row that has one level where it is blank, or a line across the whole picture."""

_STEP = 0.25
"""Least difference of that share between the bar and the rows above it."""

_BLOCK = 8
"""Rows of a block of JPEG: one that the edge of the bar runs through hides the edge."""

_STRAIGHT = 0.75
"""Least share of that difference that comes within four rows: the edge of a sample is not as straight."""

_NOISE = 6 / 255
"""Most noise of a background, as a share of the range of grey levels: the width that holds 0.4 of the pixels."""

_TOLERANCE = 3.0
"""Width of what counts as background, as a multiple of that noise; at least as many of 256 grey levels."""

_SEGMENTS = 16
"""Parts of a line whose medians show a ramp along it."""

_INK = 0.12
"""Least distance of text, lines and logo from the background, as a share of the range of grey levels."""

_TEXT = (0.004, 0.62)
"""Share of a bar that is such."""

_ONE_SIDED = 0.7
"""Least predominance of text brighter than the background over text darker than it, or the reverse."""

_ONE_LEVEL = (0.17, 0.15)
"""Least share of the text whose distance from the background is alike to the second share."""

_CONTRAST = 0.15
"""Least distance of that level from the background, as a share of the range of grey levels."""

_SHARP = 0.2
"""Least share of the steps between neighbouring pixels of a row that are sudden, ..."""

_EDGE, _SUDDEN = 0.1, 0.5
"""... where a step is at least the first share of the contrast of the text, a sudden one the second."""

_TOGETHER = (3.0, 9.0)
"""Least number of standard deviations by which more strokes begin within two rows than strokes of beads would, or end
so; and of both together: letters stand on a line."""

_GAP = 4
"""Rows inside a bar that may look otherwise, such as those of a thin rule or of a rounded frame."""

_BELOW = 6
"""Rows of a frame, and of the sample, that may show below a bar."""

_LETTERS = 0.1
"""Greatest height of the sample below a line of text without a background, as a share of the picture; a line has half
of it at most."""

_STROKES = 5
"""Least number of strokes that half of the rows of such a line have."""

_FEWEST = _LEAST_ROWS // 2 + 1
"""Least number of rows with so many: a line is at least `_LEAST_ROWS` high, with a blank row or two around it."""

_BLANK = 0.1
"""Share of the ink of the fullest rows below which a row holds none."""

_ALIKE, _SELDOM = 0.4, 0.02
"""The sample has rows of strokes too where the second share of the rows in the middle of the picture has the first
share of the strokes of the text."""

_LIKE_INK = (0.0, 0.1, 0.25)
"""How far the ink may be from its level, as shares of the range of grey levels: as it was drawn, and compressed."""

_Strip = NDArray[np.float32]


def detect_bar_rows(pixels: NDArray[Any]) -> BarRows:
    """Return the number of rows of a data bar of a picture, or of lines of text that are drawn over it without one.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        Grey levels of any dtype, not scaled since the bar was drawn.

    Returns
    -------
    int or (int, int)
        Rows from the bar's first to the picture's last; below 0, from the picture's first to the last of a bar at the
        top; both as (rows at the top, rows at the bottom) where there are two bars; 0 where there is none.
    """
    bottom = _bars_at_the_bottom(pixels)
    top = _bars_at_the_bottom(pixels[: len(pixels) - bottom][::-1])
    return (top, bottom) if top and bottom else bottom - top


def _bars_at_the_bottom(pixels: NDArray[Any]) -> int:
    """Return the rows of all bars that stand on each other, such as one of the maker and one of the laboratory."""
    rows = 0
    while more := _rows_at_the_bottom(pixels[: len(pixels) - rows]):
        rows += more
    return rows


def checked_bar_rows(name: str, value: object) -> BarRows:
    """Return rows of a data bar that a user, a file or another program gave.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value : int, (int, int) or str
        Such as 60, -20 or (20, 60); or as text: ``60``, ``-20``, or ``20+60`` for 20 at the top and 60 at the bottom.

    Raises
    ------
    InvalidParameterError
        When it is none of them.
    """
    match = re.fullmatch(r"(-?\d{1,6})|(\d{1,6})[+ ](\d{1,6})", value.strip()) if isinstance(value, str) else None
    if match is not None:
        value = int(match[1]) if match[1] else (int(match[2]), int(match[3]))
    both: list[Any] = list(value) if isinstance(value, tuple | list) and len(value) == 2 else [value]
    if all(isinstance(each, int) and not isinstance(each, bool) and (len(both) == 1 or each >= 0) for each in both):
        return (both[0], both[1]) if len(both) == 2 else int(both[0])
    raise InvalidParameterError(
        f"{name} must be a whole number of rows such as 60, below 0 at the top, or the rows at top and bottom such as "
        f"20+60, not {value!r}"
    )


def bar_rows_text(rows: BarRows) -> str:
    """Return the rows of a data bar as the text that `checked_bar_rows` reads."""
    return f"{rows[0]}+{rows[1]}" if isinstance(rows, tuple) else str(rows)


def bar_rows_of(pixels: NDArray[Any], metadata: Mapping[str, Any], given: BarRows | None = None) -> BarRows:
    """Return the rows of a picture's data bar: as given, else as its metadata say, else as detected.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        The picture.
    metadata : mapping
        Metadata of the picture; ``bar_rows`` counts, where it is a number of rows or two of them.
    given : int or (int, int), optional
        The user's word.

    Returns
    -------
    int or (int, int)
        As of `detect_bar_rows`.

    Raises
    ------
    InvalidParameterError
        When what is given is no number of rows.
    """
    if given is not None:
        return checked_bar_rows("bar_rows", given)
    try:
        known = checked_bar_rows("bar_rows", metadata.get("bar_rows"))
    except InvalidParameterError:
        return detect_bar_rows(pixels)
    return known if sum(_top_and_bottom(known)) < len(pixels) else detect_bar_rows(pixels)


def both_bars(one: BarRows, other: BarRows) -> BarRows:
    """Return the rows that cover two bars."""
    top, bottom = (max(pair) for pair in zip(_top_and_bottom(one), _top_and_bottom(other), strict=True))
    return (top, bottom) if top and bottom else bottom - top


def _top_and_bottom(rows: BarRows) -> tuple[int, int]:
    return rows if isinstance(rows, tuple) else (max(-rows, 0), max(rows, 0))


def without_bar(pixels: NDArray[Any], rows: BarRows, name: str = "the picture") -> NDArray[Any]:
    """Return a picture without its data bar, as a view.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        The picture.
    rows : int or (int, int)
        Height of the bar at the bottom, below 0 that of a bar at the top; or of one at the top and one at the bottom.
    name : str
        Name of the picture, for the message.

    Raises
    ------
    OutOfRangeError
        When nothing would be left.
    """
    height = len(pixels)
    top, bottom = _top_and_bottom(rows)
    if top + bottom >= height:
        raise OutOfRangeError(
            f"{name}: bar_rows must be within 0 and {height - 1} (below 0, to {1 - height}, at the top), not "
            f"{bar_rows_text(rows)}"
        )
    return pixels[top : height - bottom]


def _lowest(height: int) -> int:
    """Rows at the bottom that decide whether a closer look is worth while."""
    return max(_LEAST_ROWS + _BELOW, height // 40)


def _some_columns(rows: NDArray[Any]) -> NDArray[Any]:
    width = rows.shape[1]
    if width <= _COLUMNS:
        return rows
    starts = np.linspace(0, width - _GROUP, _COLUMNS // _GROUP).astype(int)
    return np.concatenate([rows[:, start : start + _GROUP] for start in starts], axis=1)


def _rows_at_the_bottom(pixels: NDArray[Any]) -> int:
    height = len(pixels)
    limit = int(height * _TALLEST)
    if limit < _LEAST_ROWS + _BELOW:
        return 0
    return _rows_of_background(pixels, limit) or _rows_of_text(pixels)


def _rows_of_text(pixels: NDArray[Any]) -> int:
    """Return the rows from the first of a line of text that is drawn over the sample to the last; 0 where none is."""
    every = -(-pixels.shape[1] // _COLUMNS)
    strip = pixels[-int(2.5 * _LETTERS * len(pixels)) :: every, ::every].astype(np.int32)
    low, high = int(strip.min()), int(strip.max())
    most = max(_LEAST_ROWS, int(_LETTERS * len(pixels) / every))
    counts = np.bincount(strip.ravel())
    rises = counts - 2 * np.maximum(np.append(counts[1:], 0), np.append(0, counts[:-1]))
    often = [int(each) for each in rises.argsort()[-3:] if rises[each] > 0.002 * strip.size]
    for level in dict.fromkeys((high, low, *often)):
        rows = 0
        off = _framed(strip, level, high - low)
        for share in _LIKE_INK if level in (high, low) else _LIKE_INK[:1]:
            near, far = (int(each * (high - low)) for each in (share, max(_CONTRAST, 1.5 * share)))
            if near < far and _FEWEST * _STROKES <= np.count_nonzero(off <= near) < _TEXT[1] * strip.size:
                runs = _sudden_runs(off, near, far)
                if np.count_nonzero(np.bincount(runs[0]) >= _STROKES) < _FEWEST:
                    continue
                ink = _strokes(runs, strip.shape)
                top = _top_of_text(ink, most)
                if top is not None:
                    middle = pixels[len(pixels) // 4 : 3 * len(pixels) // 4 : every, ::every].astype(np.int32)
                    alike = _strokes(_sudden_runs(_framed(middle, level, high - low), near, far), middle.shape)
                    if np.mean(_per_row(alike) >= _ALIKE * _per_row(ink[top:]).max()) <= _SELDOM:
                        rows = max(rows, (len(strip) - top) * every)
        if rows:
            return rows
    return 0


def _per_row(ink: NDArray[np.bool_]) -> NDArray[np.int64]:
    strokes: NDArray[np.int64] = (ink[:, 1:] > ink[:, :-1]).sum(axis=1)
    return strokes


_Runs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]


def _framed(rows: NDArray[np.int32], level: int, away: int) -> NDArray[np.int32]:
    """Return how far pixels are from a level, and two columns on either side that are far `away`."""
    framed = np.full((len(rows), rows.shape[1] + 4), away, rows.dtype)
    inside = framed[:, 2:-2]
    np.subtract(rows, level, out=inside)
    np.abs(inside, out=inside)
    return framed


def _sudden_runs(off: NDArray[np.int32], near: int, far: int) -> _Runs:
    """Return row, first and last column of runs along a row near the level of the ink that begin and end suddenly.

    Parameters
    ----------
    off : ndarray of shape (H, W + 4)
        How far pixels are from the level, `_framed`.
    near, far : int
        Up to which a pixel is of the level, and from which it is not at all.
    """
    levels = off.ravel()
    ink = levels <= near
    edges = np.flatnonzero(ink[1:] != ink[:-1])
    begins, ends = edges[::2] + 1, edges[1::2]
    sudden = np.maximum(levels[begins - 2], levels[begins - 1]) >= far
    sudden &= np.maximum(levels[ends + 1], levels[ends + 2]) >= far
    row, column = np.divmod(begins[sudden], off.shape[1])
    return row, column - 2, column - 2 + (ends - begins)[sudden]


def _strokes(runs: _Runs, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the pixels of strokes: those of sudden runs that have two neighbours of such."""
    row, first, last = runs
    marks = np.zeros((shape[0] + 2, shape[1] + 3), np.int8)
    marks[row + 1, first + 1] = 1
    marks[row + 1, last + 2] = -1
    inked = np.cumsum(marks[:, :-1], axis=1, dtype=np.int8)
    rows = inked[:-2] + inked[1:-1] + inked[2:]
    kept: NDArray[np.bool_] = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] >= 3) & (inked[1:-1, 1:-1] > 0)
    return kept


def _top_of_text(ink: NDArray[np.bool_], most: int) -> int | None:
    """Return the first row of the lowest line of text, and of a rule above it; None where none is there."""
    strokes = _per_row(ink)
    filled = strokes > max(_BLANK * float(np.sort(strokes)[-4]), 1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], filled, [False]]).astype(np.int8)))
    for top, end in edges.reshape(-1, 2)[::-1].tolist():
        height = end - top
        if len(ink) - end > most:
            return None
        if _LEAST_ROWS <= height <= most // 2 + 1 and top >= 3 and _is_text(ink[top - 2 : end + 2], height):
            ruled = ink[max(top - height, 0) : top].sum(axis=1) >= height
            return int(top - (ruled[::-1].nonzero()[0][-1] + 1 if ruled.any() else 0))
    return None


def _is_text(ink: NDArray[np.bool_], height: int) -> bool:
    """Whether rows with blank ones around them hold the strokes of a line of text."""
    strokes = _per_row(ink)
    return bool(
        _median(strokes) >= _STROKES
        and max(1.8, 0.15 * height) * np.count_nonzero(ink[1:] & ~ink[:-1])
        <= np.count_nonzero(ink)
        <= 0.6 * height * strokes.sum()
        and min(lines := (_alignment(ink), _alignment(ink[::-1]))) >= 2
        and sum(lines) >= 6
    )


def _rows_of_background(pixels: NDArray[Any], limit: int) -> int:
    """Return the rows of the lowest bar with a background; 0 where there is none."""
    height = len(pixels)
    strip = _some_columns(pixels[height - limit :]).astype(np.float32)
    spread = float(np.ptp(strip))
    if spread == 0.0:
        return 0
    low = _lowest(height)
    for rows, tolerance in _levelled(strip, low, spread):
        for level in _levels(rows[-low:], tolerance):
            top = _top(rows, level, tolerance, spread)
            if top is not None:
                return len(rows) - top
    return 0


def _levelled(rows: _Strip, low: int, spread: float) -> Iterator[tuple[_Strip, float]]:
    """Yield the rows and the width of what counts as their background: as they are, then without a ramp along them."""
    yield rows, 0.0
    width = rows.shape[1]
    segments = (np.arange(_SEGMENTS) * width // _SEGMENTS)[:, None] + np.arange(width // _SEGMENTS)
    medians = _median(rows[-low:, segments].transpose(1, 0, 2).reshape(_SEGMENTS, -1))
    ends = 2 * medians[0] - medians[2:0:-1], medians, 2 * medians[-1] - medians[-2:-4:-1]
    ramp = _median(np.stack([np.concatenate(ends)[k : k + _SEGMENTS] for k in range(5)], axis=1))
    middles = (np.arange(_SEGMENTS) + 0.5) * width / _SEGMENTS
    along = np.interp(np.arange(width) + 0.5, middles, ramp - ramp.mean()).astype(np.float32)
    ordered, most = np.sort(rows[-low:] - along, axis=1), int(0.4 * width)
    widths = np.sort((ordered[:, most:] - ordered[:, :-most]).min(axis=1))
    noise = float(np.interp(0.3 * (len(widths) - 1), np.arange(len(widths)), widths))
    if noise <= _NOISE * spread:
        yield rows - along, _TOLERANCE * max(noise, spread / 255)


def _median(values: NDArray[Any]) -> NDArray[Any]:
    """Return what `numpy.median` does along the last axis, at a fifth of its price for so few."""
    upper = values.shape[-1] // 2
    lower = values.shape[-1] - upper - 1
    ordered = np.partition(values, (lower, upper))
    return np.asarray((ordered[..., lower] + ordered[..., upper]) / 2)


def _levels(rows: _Strip, tolerance: float) -> list[float]:
    """Return the levels that most pixels of a row have, of those rows where they are enough; the most common first."""
    ordered, enough = np.sort(rows, axis=1), math.ceil(_BACKGROUND * rows.shape[1])
    levelled = (ordered[:, enough - 1 :] <= ordered[:, : 1 - enough] + tolerance).any(axis=1)
    if np.count_nonzero(levelled) < len(rows) // 2:
        return []
    levels: list[float] = []
    for row in ordered[levelled]:
        counts = np.searchsorted(row, row + tolerance, side="right") - np.arange(len(row))
        first = int(counts.argmax())
        levels.append(float(row[first + counts[first] // 2]))
    distinct: list[float] = []
    for level in sorted(levels, key=lambda each: -sum(abs(each - other) <= tolerance for other in levels)):
        if all(abs(level - other) > tolerance for other in distinct):
            distinct.append(level)
    return distinct


def _top(rows: _Strip, level: float, tolerance: float, spread: float) -> int | None:
    """Return the first row of the bar whose background has this level at the bottom; None where there is none."""
    count = len(rows)
    share, about, levels = np.zeros(count), np.zeros(count), np.full(count, level)
    if not tolerance:  # the level stays, so all rows can be counted at once
        off = np.abs(rows - np.float32(level))
        alike, inked = np.mean(off == 0, axis=1), np.mean(off <= _INK * spread, axis=1)
    top, gap = count, 0
    for row in range(count - 1, -1, -1):
        if tolerance:
            near = rows[row][np.abs(rows[row] - level) <= tolerance]
            here = float(_median(near)) if near.size else level
            off = np.abs(rows[row] - here)
            share[row] = np.count_nonzero(off <= tolerance / 2) / off.size
            about[row] = np.count_nonzero(off <= _INK * spread) / off.size
        else:
            here, share[row], about[row] = level, alike[row], inked[row]
        if share[row] >= (_RINGING if tolerance else _BACKGROUND):
            top, gap, level = row, 0, here
        else:
            gap += 1
        levels[row] = level
        if gap > (_GAP if top < count else _BELOW) and row <= top - 2 * _BLOCK:
            break
    begin = _step(share, about, top, tolerance)
    if begin is None or np.mean(share[begin:] >= _RINGING) < 0.5 or (not tolerance and _goes_on(rows, begin, spread)):
        return None
    top = begin
    if not _is_written(rows[top:] - levels[top:, None].astype(np.float32), tolerance, spread):
        return None
    above, inside = (float(np.median(part)) for part in (about[max(0, top - 2 * _BLOCK) : top + 1], about[top:]))
    if inside - above >= _STEP:
        hidden = about[max(0, top - _BLOCK) : top][::-1] > (above + inside) / 2
        top -= int(np.argmin(np.append(hidden, False)))
    for row in range(top - 1, max(top - 1 - _GAP, 0), -1):
        if not any(np.mean(np.abs(rows[row] - each) <= tolerance) >= _LINE for each in (rows[row][0], rows[row][-1])):
            break
        top = row
    return top


def _goes_on(rows: _Strip, top: int, spread: float) -> bool:
    """Whether the row above has a background too, of nearly the level below it: a ramp of levels goes on."""
    above, below = (float(np.median(rows[row])) for row in (max(top - 1, 0), top))
    blank = np.mean(rows[top - 1] == above) >= _BACKGROUND
    return bool(blank and 0 < abs(above - below) <= _TOLERANCE * spread / 255)


def _step(share: NDArray[np.float64], about: NDArray[np.float64], top: int, tolerance: float) -> int | None:
    """Return where the bar begins: `top` where the picture changes there, else the straight line further down.

    A sample whose shadows have the level of the bar's background may reach up to the picture's top.
    """
    if top >= len(share):
        return None
    above, inside = share[max(0, top - 8) : top], share[top:][share[top:] >= _RINGING]
    if len(above) >= 3 and np.median(above) <= np.median(inside) - _STEP:
        edges = range(max(2, top - _BLOCK), top + 1)
        step = max(about[row : row + 3].max() - about[row - 2] for row in edges)
        straight = step >= _STRAIGHT * (np.median(about[top:]) - np.median(about[max(0, top - 2 * _BLOCK) : top]))
        return top if straight else None
    least = _STEP if tolerance else 1 - _LINE
    for row in range(max(top, 8), len(share) - _LEAST_ROWS):
        upper, lower = share[row - 8 : row], share[row : row + 3]
        if lower.min() >= (_LINE if not tolerance else 0.8) and (
            upper.max() <= lower.min() - least or upper[-1] <= 1 - _LINE
        ):
            return row
    return None


def _is_written(bar: _Strip, tolerance: float, spread: float) -> bool:
    """Whether rows, as differences from their background, hold what is drawn in a bar."""
    amount = np.abs(bar)
    ink = amount > max(_INK * spread, tolerance)
    if len(bar) < _LEAST_ROWS or not _TEXT[0] <= ink.mean() <= _TEXT[1]:
        return False
    contrast = float(np.percentile(amount[ink], 75))
    steps = np.abs(np.diff(bar, axis=1))
    sudden = np.count_nonzero(steps >= _SUDDEN * contrast)
    return bool(
        contrast >= _CONTRAST * spread
        and np.mean(np.abs(amount[ink] - contrast) <= _ONE_LEVEL[1] * contrast) >= _ONE_LEVEL[0]
        and abs(np.sign(bar[ink]).mean()) >= _ONE_SIDED
        and sudden >= max(_SHARP * np.count_nonzero(steps > _EDGE * contrast), 8)
        and min(lines := (_alignment(ink), _alignment(ink[::-1]))) >= _TOGETHER[0]
        and sum(lines) >= _TOGETHER[1]
    )


def _alignment(ink: NDArray[np.bool_]) -> float:
    """Return how many more strokes begin in the same two rows than would at random, in standard deviations."""
    here, above = ink[1:], ink[:-1].copy()
    above[:, 1:] |= ink[:-1, :-1]
    above[:, :-1] |= ink[:-1, 1:]
    first = here.copy()
    first[:, 1:] &= ~here[:, :-1]
    run = np.cumsum(first.ravel()).reshape(first.shape) * here
    goes_on = np.zeros(int(run.max(initial=0)) + 1, bool)
    goes_on[run[above]] = True
    begins = np.count_nonzero(first & ~goes_on[run], axis=1)
    pairs = begins[1:] + begins[:-1]
    mean = float(pairs.mean())
    return (float(pairs.max()) - mean) / math.sqrt(max(mean, 1.0))
