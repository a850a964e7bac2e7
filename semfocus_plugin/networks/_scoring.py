"""The score of any picture, outside of an autofocus run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semfocus_plugin.networks._models as networks
from semdrivers.data_bar import BarRows, bar_rows_of, without_bar
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.grey_levels import full_scale, in_unit, native
from semdrivers.image import Image
from semdrivers.microscope import number
from semfocus_plugin.networks._models import Evaluation
from semfocus_plugin.networks._preprocessing import FAST_WIDTH, LARGEST, mag_image_value, windows_of
from semfocus_plugin.optics import NOMINAL_PIXEL, TUNGSTEN, check_probe_diameter, half_blur, ideal_score

_SAME = 0.02
"""Relative deviation of a magnification from that of the pixel size that is rounding."""

LEAST_ROWS = 120
"""Rows that the removal of a data bar must leave: the rest of what AENet reads is their mirror image."""


def score(
    image: Image | NDArray[Any],
    *,
    magnification: float | None = None,
    probe_diameter: float | None = None,
    bar_rows: BarRows | None = None,
) -> float:
    """Return AENet's score of a picture: 0 (out of focus) to 9.

    Parameters
    ----------
    image : Image or ndarray of shape (H, W)
        At least 320 pixels wide and 240 high; uint8, uint16, or floating point in 0..1. The median of the
        score map counts for a picture that is larger; beyond four million pixels it is that of 36 windows.
    magnification : float, optional
        Magnification of the picture, a plain number. Taken from an `Image`; required with an array.
    probe_diameter : float, optional
        Diameter of the focused probe in nm, where it is known: of a fine probe a blur shows earlier than of the
        tungsten one of 36 nm that the score supposes.
    bar_rows : int or (int, int), optional
        Rows of a data bar at the bottom, below 0 at the top, which are no sample and are left out. By default they are
        known from the picture's metadata, or detected.

    Raises
    ------
    InvalidParameterError
        For something that is no grey picture, or an array without magnification.
    OutOfRangeError
        For a picture that is too small, a data bar that leaves too little, a magnification that is not above 0, or a
        probe that no instrument has.
    ModelError
        When the network cannot be loaded.
    """
    return evaluate(image, magnification=magnification, probe_diameter=probe_diameter, bar_rows=bar_rows).score


def evaluate(
    image: Image | NDArray[Any],
    *,
    magnification: float | None = None,
    probe_diameter: float | None = None,
    bar_rows: BarRows | None = None,
) -> networks.Evaluation:
    """Return all that is known of a picture; arguments and errors as in `score`."""
    pixel, depth = None, None
    metadata: Mapping[str, Any] = {}
    if isinstance(image, Image):
        pixels, depth, metadata = image.pixels, image.bit_depth, image.metadata
        pixel = image.pixel_size * 1e-6 if 0 < image.pixel_size < math.inf else None
        magnification = magnification_of(image) if magnification is None else magnification
    else:
        pixels = image
    if magnification is None:
        raise InvalidParameterError(
            "the score depends on the magnification: pass magnification=…, or a semdrivers.Image"
        )
    factor = number("magnification", magnification)
    if factor <= 0:
        raise OutOfRangeError(f"magnification must be above 0, not {factor:g}")
    diameter = None if probe_diameter is None else check_probe_diameter(probe_diameter) * 1e-6
    check_pixels(pixels)
    pixels = sample_of(pixels, bar_rows_of(pixels, metadata, bar_rows))
    top, width = full_scale(pixels, depth), pixels.shape[1]
    seen = windows_of(pixels) if pixels.size > LARGEST else pixels
    seen_at = mag_image_value(factor, width) / mag_image_value(1.0, seen.shape[-1])
    result = networks.load().evaluator(in_unit(native(seen), top), seen_at)
    if diameter is None:
        return result
    return for_core(result, diameter, magnification=factor, width=width, pixel=pixel)


def magnification_of(image: Image) -> float:
    """Return the magnification that goes with the picture's pixel size in this project's field of 128 mm.

    Makers refer their magnifications to screens and photographs of different widths, so of a picture from elsewhere the
    pixel size decides where it is known. NaN where neither is.
    """
    stated, width = image.magnification, image.pixels.shape[1]
    if "vendor" not in image.metadata or not 0 < image.pixel_size < math.inf:
        return stated
    from_pixel = magnification_from_pixel(image.pixel_size, width)
    return stated if math.isclose(stated, from_pixel, rel_tol=_SAME) else from_pixel


def magnification_from_pixel(pixel_size: float, width: int) -> float:
    """Return the magnification, in this project's field of 128 mm, of a picture of `width` pixels of `pixel_size` nm.

    Raises
    ------
    OutOfRangeError
        When `pixel_size` is not above 0 nm.
    """
    if number("pixel_size", pixel_size, "nm") <= 0:
        raise OutOfRangeError(f"pixel_size must be above 0 nm, not {pixel_size:g} nm")
    return NOMINAL_PIXEL * FAST_WIDTH / (pixel_size * 1e-6 * width)


def sample_of(pixels: NDArray[Any], bar_rows: BarRows, name: str = "the picture") -> NDArray[Any]:
    """Return a picture without its data bar, as a view.

    Raises
    ------
    OutOfRangeError
        When less than half of the rows that AENet reads are left.
    """
    sample = without_bar(pixels, bar_rows, name)
    if len(sample) < LEAST_ROWS:
        raise OutOfRangeError(
            f"{name}: a data bar of {len(pixels) - len(sample)} rows leaves {len(sample)} of {len(pixels)}; the "
            f"score needs at least {LEAST_ROWS}: check bar_rows"
        )
    return sample


def check_pixels(pixels: object, name: str = "the picture") -> None:
    """Check that `pixels` is a grey picture that AENet can read.

    Raises
    ------
    InvalidParameterError
        When it is no array, has colours, an unknown dtype, NaN, or values outside 0..1 in floating point.
    OutOfRangeError
        When it is smaller than 320×240.
    """
    if not isinstance(pixels, np.ndarray):
        raise InvalidParameterError(f"{name} must be a numpy array or a semdrivers.Image, not {type(pixels).__name__}")
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        raise InvalidParameterError(
            f"{name} has colours (shape {pixels.shape}); an SEM picture has one channel: pass pixels[..., 0]"
        )
    if pixels.ndim != 2:
        raise InvalidParameterError(f"{name} must have two axes (height, width), not the shape {pixels.shape}")
    floating = np.issubdtype(pixels.dtype, np.floating)
    if not floating and pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise InvalidParameterError(f"{name} must be uint8, uint16 or floating point in 0..1, not {pixels.dtype}")
    height, width = pixels.shape
    if height < networks.SMALLEST[0] or width < networks.SMALLEST[1]:
        raise OutOfRangeError(f"{name} is {width}×{height} pixels; the score needs at least 320×240")
    if floating:
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0.0 and high <= 1.0):
            raise InvalidParameterError(
                f"{name} must lie within 0..1 and hold no NaN, but spans {low:g} to {high:g}; "
                "scale it, or pass uint8 or uint16"
            )


def for_core(
    evaluation: Evaluation, core: float, *, magnification: float, width: int, pixel: float | None = None
) -> Evaluation:
    """Return what AENet said of a frame with the score that a known probe core makes of the blur.

    Parameters
    ----------
    evaluation : Evaluation
        As AENet gave it. One that reports no blur is returned as it is.
    core : float
        Diameter of the focused probe, mm.
    magnification : float
        The magnification that AENet received.
    width : int
        Width of the frame, pixels.
    pixel : float, optional
        Size of a pixel of the frame, mm; the one that goes with the magnification by default.
    """
    blur = evaluation.log_larger
    if blur is None:
        return evaluation
    supposed = NOMINAL_PIXEL / mag_image_value(magnification, width)
    correction = evaluation.score - ideal_score(blur, half_blur(supposed, TUNGSTEN))
    score = ideal_score(blur, half_blur(pixel or supposed, core)) + correction
    return dataclasses.replace(evaluation, score=min(max(score, 0.0), 9.0))
