"""Frames that charging or a disturbance spoiled while they were scanned.

A sample that charges, or discharges, changes its brightness between two lines: the rest of the frame is brighter or
darker, or a burst of lines stands out. Both fill the spectrum of the frame with what is no sample, and a method takes
that for sharpness. A sample does not look so: its edges are blurred, uneven and seldom parallel to the lines.

A slow ramp of brightness is left alone, for it does not mislead; lines displaced sideways are, too: they look like
the edges of a sample that run along the lines, and leave blur and spectrum as they were.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

JUMP = 0.12
"""Least jump of brightness between two lines, as a share of the range of grey levels of the frame."""

STREAK = 0.11
"""Least deviation of a line of a burst from its two neighbours, as a share of that range."""

STREAKS = 20
"""Least number of such lines in a burst."""

_PIECES = 16
_EXCEPTIONS = 8
"""One piece of a line in so many need not change with the others."""

_LINES = 6
"""Lines above and below, over which a jump must last."""

_HEIGHT = 240
"""Lines of the frame that the limits are meant for; higher frames are averaged down to it."""


def spoiled(pixels: NDArray[Any]) -> str:
    """Return what spoiled the frame, or an empty text.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        Grey levels of any kind, at least 240 lines.
    """
    levels = np.sort(pixels[::3, ::3].astype(np.float32), axis=None)
    low, high = np.interp((0.01 * (levels.size - 1), 0.99 * (levels.size - 1)), np.arange(levels.size), levels)
    if high <= low:
        return ""
    lines = _pieces(pixels) / np.float32(high - low)
    if _jumps(lines):
        return "the brightness jumps between two lines"
    if np.partition(_deviations(lines), -STREAKS)[-STREAKS] >= STREAK:
        return "a burst of lines stands out"
    return ""


def _pieces(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the means of the pieces of every line, shape (lines, pieces)."""
    step = max(pixels.shape[0] // _HEIGHT, 1)
    height, width = pixels.shape[0] // step, pixels.shape[1] // _PIECES
    cut = pixels[: height * step, : width * _PIECES].astype(np.float32)
    sums = cut.reshape(-1, width) @ np.full(width, 1 / (width * step), np.float32)
    return np.asarray(sums.reshape(height, step, _PIECES).sum(axis=1))


def _jumps(lines: NDArray[np.float32]) -> bool:
    """Return whether nearly all pieces share a change that is large, from one line to the next and lasting."""
    sudden = np.diff(lines, axis=0)[_LINES - 1 : 1 - _LINES]
    jumps = [(sign, _shared(sign * sudden)) for sign in (1.0, -1.0)]
    if all(jump.max(initial=0.0) < JUMP for _, jump in jumps):
        return False
    together = np.stack([lines[k : len(lines) - _LINES + 1 + k] for k in range(_LINES)])
    together.sort(axis=0)
    level = 0.5 * (together[(_LINES - 1) // 2] + together[_LINES // 2])
    lasting = level[_LINES:] - level[:-_LINES]
    return any(bool((np.minimum(_shared(sign * lasting), jump) >= JUMP).any()) for sign, jump in jumps)


def _shared(change: NDArray[Any]) -> NDArray[Any]:
    """Return by how much at least all pieces but the exceptions rise, for every line."""
    exceptions = change.shape[1] // _EXCEPTIONS
    return np.partition(change, exceptions, axis=1)[:, exceptions]


def _deviations(lines: NDArray[np.float32]) -> NDArray[Any]:
    """Return by how much nearly all of the first half of a line, where streaks begin, deviates from its neighbours."""
    middle = (lines[1:-1] - 0.5 * (lines[:-2] + lines[2:]))[:, : _PIECES // 2]
    return np.asarray(np.maximum(_shared(middle), _shared(-middle)))
