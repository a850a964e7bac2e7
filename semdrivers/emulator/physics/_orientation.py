"""The surface of a specimen as the beam sees it when the stage is tilted and rotated.

The tilt turns the sample about the line of the image through its middle: what lies lower in the picture lies deeper,
so that only a band of lines is in focus; lengths across that line appear shorter by the cosine; and the whole is
brighter by the secant, since more secondary electrons escape from a surface that the beam grazes (Reimer, *Scanning
Electron Microscopy*, ch. 4). The rotation turns the sample about the beam, clockwise in the picture. Relief is not
sheared by the tilt.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.specimens import Array, Specimen, Window

_REACH = 3  # Pixels that the interpolation needs beyond the outermost point


def seen(specimen: Specimen, window: Window, tilt: float, rotation: float) -> tuple[Array, Array]:
    """Return (intensity, height in µm) on the pixels of an image, each (height, width) float32.

    Parameters
    ----------
    specimen : Specimen
        What lies on the stage.
    window : Window
        What the image would show of it if the stage were level; the beam's axis is at its middle.
    tilt, rotation : float
        Degrees.
    """
    if not (tilt or rotation):
        return specimen.render(window)
    lean, turn = math.radians(tilt), math.radians(rotation)
    across = (np.arange(window.width) - (window.width - 1) / 2)[None, :]
    down = (np.arange(window.height) - (window.height - 1) / 2)[:, None]
    along, cosine, sine = down / math.cos(lean), math.cos(turn), math.sin(turn)
    columns, rows = across * cosine + along * sine, along * cosine - across * sine
    # Half a pixel more, like an image of even size, so that a quarter turn falls on the pixels themselves.
    half_width, half_height = math.ceil(columns.max()) + _REACH + 0.5, math.ceil(rows.max()) + _REACH + 0.5
    around = Window(
        window.x + ((window.width - 1) / 2 - half_width) * window.pixel,
        window.y + ((window.height - 1) / 2 - half_height) * window.pixel,
        window.pixel,
        int(2 * half_width + 1),
        int(2 * half_height + 1),
    )
    tone, height = (_sampled(each, columns + half_width, rows + half_height) for each in specimen.render(around))
    tone *= np.float32(1 / math.cos(lean))
    height += (down * (window.pixel * math.tan(lean))).astype(np.float32)
    return tone, height


def _sampled(picture: Array, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> Array:
    """Interpolate by Catmull and Rom's cubic: it keeps the sharpness that a linear one would lose."""
    left, top = np.floor(columns).astype(np.int64), np.floor(rows).astype(np.int64)
    weights_x, weights_y = _weights((columns - left).astype(np.float32)), _weights((rows - top).astype(np.float32))
    flat, width = picture.ravel(), picture.shape[1]
    total: Array = np.zeros(columns.shape, np.float32)
    for j, weight_y in enumerate(weights_y, -1):
        start = (top + j) * width + left
        line: Array = np.zeros_like(total)
        for i, weight_x in enumerate(weights_x, -1):
            line += weight_x * flat.take(start + i)
        total += weight_y * line
    return total


def _weights(t: Array) -> tuple[Array, Array, Array, Array]:
    return (
        ((2 - t) * t - 1) * t / 2,
        ((3 * t - 5) * t * t + 2) / 2,
        ((4 - 3 * t) * t + 1) * t / 2,
        (t - 1) * t * t / 2,
    )
