"""A sample that discharges while a frame is scanned: its brightness jumps between two lines, and lines are streaked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_JUMP = 0.15, 0.35  # range of the jump, in grey scales
_RELAXATION = 1.0  # heights of the frame over which the jump decays
_STREAKS = 30  # lines that are streaked, in a frame of 240 lines
_BURST = 1 / 4  # share of the height that holds these lines
_STREAK = 0.2, 0.5  # range of a streak at its beginning, in grey scales
_DECAY = 0.5  # widths of the frame over which a streak decays


def discharged(pixels: NDArray[Any], random: np.random.Generator) -> NDArray[Any]:
    """Return the frame of a sample that discharges somewhere in the middle half of the frame.

    The brightness goes to the side that has more room; where it ends, it is clipped as any other.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), uint8 or uint16
        The frame of the sample at rest.
    random : numpy.random.Generator
        Says where, how much, and which lines.
    """
    height, width = pixels.shape
    top = np.iinfo(pixels.dtype).max
    side = 1.0 if float(pixels.mean()) < 0.5 * top else -1.0
    first = int(random.integers(height // 4, 3 * height // 4 - int(_BURST * height)))
    grey = pixels.astype(np.float32)
    after = np.arange(height - first) / (_RELAXATION * height)
    grey[first:] += (side * top * random.uniform(*_JUMP) * np.exp(-after))[:, None]
    burst = int(_BURST * height)
    struck = first + random.choice(burst, min(_STREAKS * height // 240, burst), replace=False)
    along = np.exp(-np.arange(width) / (_DECAY * width))
    grey[struck] += side * top * random.uniform(*_STREAK, (len(struck), 1)) * along
    return np.clip(np.rint(grey), 0, top).astype(pixels.dtype)
