"""Frames of any size, for networks that look at 320×240 pixels."""

from __future__ import annotations

import dataclasses

import numpy as np

from semdrivers.image import Image, ScanMode


def fitted(image: Image) -> Image:
    """Return a frame with squares of its pixels averaged as far as 320×240 remain; a smaller one as it is.

    That keeps the whole field, lowers the noise, and costs the networks as little as a small frame.
    """
    height, width = image.pixels.shape
    factor = min(width // ScanMode.FAST.width, height // ScanMode.FAST.height)
    if factor < 2:
        return image
    rows, columns = height // factor, width // factor
    squares = image.pixels[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    pixels = np.rint(squares.mean(axis=(1, 3), dtype=np.float32)).astype(image.pixels.dtype)
    return dataclasses.replace(image, pixels=pixels, pixel_size=image.pixel_size * factor)
