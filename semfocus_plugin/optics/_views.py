"""Frames of one field at several working distances, made ready to be compared by their spectra.

What `semfocus_plugin.optics` and `semfocus_plugin.optics` share: the frames on the pixels of a FAST frame, where
each lies in depths of field from the focus, and what a defocused disc leaves of the sample's power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError
from semfocus_plugin.optics._nominal import NOMINAL_APERTURE, TUNGSTEN

Array = NDArray[Any]

_WIDTH = 320
_WIDEST = 40.0
"""Pixels of blur beyond which a frame has too little left to compare."""


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A frame of a field.

    Parameters
    ----------
    working_distance : float
        mm.
    pixel : float
        mm.
    pixels : ndarray of shape (H, W), any real dtype
        Raw grey levels.
    """

    working_distance: float
    pixel: float
    pixels: NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Frames of one field that can be compared.

    Parameters
    ----------
    frames : list of ndarray of shape (h, w), float32
        Relative to the mean grey level of each, on pixels of about those of a FAST frame.
    defocus : ndarray of shape (n,), float64
        Working distance beyond the focus, in depths of field.
    blur : ndarray of shape (n,), float64
        Radius, in pixels of `frames`, of the disc that a depth of field of defocus makes.
    """

    frames: list[Array]
    defocus: Array
    blur: Array


def prepare(views: Sequence[View], focus: float, aperture: float | None, core: float = TUNGSTEN) -> Views | None:
    """Return the frames that can be compared, or None when there are fewer than two.

    Flat frames, and those too far from the focus to show the sample, are left out.

    Parameters
    ----------
    views : sequence of View
        Frames of one field at one magnification, of one shape.
    focus : float
        Working distance of the focus found, mm.
    aperture : float, optional
        Aperture radius in mm, where it has been calibrated.
    core : float
        Diameter of the focused probe, mm.

    Raises
    ------
    InvalidParameterError
        When focus, aperture or a pixel is not above 0, or when the frames differ in shape or pixel.
    """
    aperture = NOMINAL_APERTURE if aperture is None else aperture
    if not views:
        return None
    first = views[0]
    for name, value in (("focus", focus), ("aperture", aperture), ("pixel", first.pixel)):
        if not (math.isfinite(value) and value > 0):
            raise InvalidParameterError(f"{name} must be above 0 mm, not {value:g} mm")
    for view in views:
        if view.pixels.ndim != 2 or view.pixels.shape != first.pixels.shape:
            raise InvalidParameterError(
                f"the frames must be of one shape, not {first.pixels.shape} and {view.pixels.shape}; "
                "leave out those of another scan mode"
            )
        if not math.isclose(view.pixel, first.pixel, rel_tol=1e-2):
            raise InvalidParameterError(
                f"the frames must have one pixel size, not {first.pixel * 1e6:g} and {view.pixel * 1e6:g} nm; "
                "leave out those of another magnification"
            )
    step = max(1, round(first.pixels.shape[1] / _WIDTH))
    pixel = first.pixel * step
    unit = math.hypot(pixel, core) * focus / aperture
    chosen = []
    for view in views:
        defocus = (view.working_distance - focus) / unit
        blur = aperture / view.working_distance * unit / pixel
        if abs(defocus) * blur <= _WIDEST and view.pixels.min() < view.pixels.max():
            chosen.append((_reduced(view.pixels, step), defocus, blur))
    if len(chosen) < 2:
        return None
    frames, defocus_of, blur_of = zip(*chosen, strict=True)
    return Views(list(frames), np.array(defocus_of), np.array(blur_of))


def visible(power: Array, error: Array) -> Array:
    """Return a weight of 0 to 1 for what at least one frame shows above its noise.

    Parameters
    ----------
    power, error : ndarray of shape (n, ...)
        Power of the sample in every frame, and its variance.
    """
    signal = (np.maximum(power, 0.0) ** 2 / error).max(axis=0)
    return np.asarray(np.where(signal > 4.0, signal / (signal + 4.0), 0.0))


def _reduced(pixels: NDArray[Any], step: int) -> Array:
    """Average squares of pixels, and divide by the mean."""
    height, width = (size // step for size in pixels.shape)
    frame = pixels[: height * step, : width * step].astype(np.float32)
    if step > 1:
        frame = frame.reshape(height, step, width, step).mean(axis=(1, 3))
    mean = float(frame.mean(dtype=np.float64))
    return frame / np.float32(mean if mean > 0 else 1.0)
