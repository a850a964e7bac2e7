"""What detector and electronics add to a frame that the emulated column does not draw, line by line.

Each is drawn at random, and most frames have none: lag of the detector (noise correlated along the line), an offset of
its own for every line, bands of slow hum, and automatic contrast and brightness.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.lab.training.textures import Array, log_uniform

__all__ = ["digitised", "with_line_artefacts"]

_LAG = 0.25, (0.15, 1.2)
"""Share of frames, and time constants in pixels."""
_ROW_OFFSET = 0.3, (0.5, 6.0)
"""Share of frames, and standard deviations in grey levels of 255."""
_BANDS = 0.2, (1.0, 8.0)
"""Share of frames, and amplitudes in grey levels of 255."""
_AUTOMATIC = 0.4
"""Share of frames whose contrast and brightness the instrument sets by the frame."""


def with_line_artefacts(grey: Array, random: np.random.Generator) -> Array:
    """Return a frame, shape (H, W), grey levels 0 to 255, with lag, line offsets and bands drawn at random."""
    if random.random() < _LAG[0]:
        grey = _lagging(grey, log_uniform(random, *_LAG[1]))
    height = len(grey)
    offset = np.zeros(height)
    if random.random() < _ROW_OFFSET[0]:
        offset += log_uniform(random, *_ROW_OFFSET[1]) * random.standard_normal(height)
    if random.random() < _BANDS[0]:
        period = log_uniform(random, 3, 240)
        phase = 2 * math.pi * (np.arange(height) / period + random.random())
        offset += log_uniform(random, *_BANDS[1]) * np.sin(phase)
    return np.asarray(grey + offset[:, None].astype(np.float32))


def digitised(grey: Array, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the frame in 8 bits, as it is or stretched to a range of its own as automatic contrast does."""
    if random.random() < _AUTOMATIC:
        low, high = np.percentile(grey[::4, ::4], (1.0, 99.0))
        dark, bright = random.uniform(10, 70), random.uniform(150, 245)
        grey = (grey - np.float32(low)) * np.float32((bright - dark) / max(high - low, 2.0)) + np.float32(dark)
    return np.clip(grey + np.float32(0.5), 0, 255).astype(np.uint8)


def _lagging(grey: Array, pixels: float) -> Array:
    """A first-order lag along the line, of this time constant; the line begins as it would have gone on before."""
    padded = np.pad(grey, [(0, 0), (16, 0)], mode="reflect")
    frequency = 2 * np.pi * np.fft.rfftfreq(padded.shape[1])
    transfer = (1 / (1 + 1j * frequency * pixels)).astype(np.complex64)
    return np.asarray(np.fft.irfft(np.fft.rfft(padded) * transfer, padded.shape[1])[:, 16:], np.float32)
