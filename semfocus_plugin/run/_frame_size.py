"""Frames of any size, for networks that look at 320×240 pixels.

The fastest mode that is large enough is scanned. Of a frame that is twice as large or more, both ways, squares of
pixels are averaged: that keeps the whole field, lowers the noise, and costs the networks as little as a small frame.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from semdrivers.errors import AutofocusError
from semdrivers.focus import AutofocusSettings
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities

_WIDTH, _HEIGHT = ScanMode.FAST.width, ScanMode.FAST.height


def mode_for(capabilities: Capabilities, settings: AutofocusSettings) -> ScanMode:
    """Return the mode in which to scan: that of the settings, or the fastest of at least 320×240 pixels.

    Raises
    ------
    AutofocusError
        When the settings name none and the instrument offers none that is large enough.
    """
    if settings.scan_mode is not None:
        return settings.scan_mode
    for mode in capabilities.scan_modes:
        if mode.width >= _WIDTH and mode.height >= _HEIGHT:
            return mode
    offer = ", ".join(f"{mode.name} {mode.width}×{mode.height}" for mode in capabilities.scan_modes)
    raise AutofocusError(
        f"autofocus needs frames of at least {_WIDTH}×{_HEIGHT} pixels; the instrument offers {offer or 'none'}"
    )


def fitted(image: Image) -> Image:
    """Return a frame with squares of its pixels averaged as far as 320×240 remain; a small one as it is."""
    height, width = image.pixels.shape
    factor = min(width // _WIDTH, height // _HEIGHT)
    if factor < 2:
        return image
    rows, columns = height // factor, width // factor
    squares = image.pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    pixels = np.rint(squares.mean(axis=(1, 3), dtype=np.float32)).astype(image.pixels.dtype)
    return dataclasses.replace(image, pixels=pixels, pixel_size=image.pixel_size * factor)
