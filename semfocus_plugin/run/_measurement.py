"""One scored frame, and whether it shows anything."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semdrivers.image import Image
from semfocus_plugin.networks import Evaluation
from semfocus_plugin.optics import NOMINAL_PIXEL, PLAIN, period_of


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One scored frame.

    Parameters
    ----------
    working_distance : float
        mm, as read back.
    magnification : float
        Plain number, as read back.
    evaluation : Evaluation
        Score, metrics, blur.
    correlation : float
        Of neighbouring lines of the raw frame, −1 to 1; near 0 in pure noise.
    structure, detail : float
        How much fine structure the raw frame holds, and its share of the fine contrast; see
        `semfocus_plugin.networks.fine_structure`.
    clipped : float
        Share of pixels at the darkest or brightest level, 0 to 1.
    image : Image
        The frame itself, without its data bar.
    full_scale : int
        Grey level at which it saturates; 1 in floating point.
    setting : tuple of float
        Of the stigmator, in the units of the instrument; zeros where it is left alone.
    time : float
        When the scan began, s: by this computer's clock.
    """

    working_distance: float
    magnification: float
    evaluation: Evaluation
    correlation: float
    structure: float
    detail: float
    clipped: float
    image: Image
    full_scale: int = 255
    setting: tuple[float, float] = (0.0, 0.0)
    time: float = 0.0

    @property
    def score(self) -> float:
        """AENet's score, 0 to 9."""
        return self.evaluation.score

    @property
    def pixel(self) -> float:
        """Pixel in mm."""
        return pixel_of(self.image, self.magnification)


def pixel_of(image: Image, magnification: float) -> float:
    """Return the pixel in mm as the image states it, or the nominal one where it states none."""
    size = float(image.pixel_size) * 1e-6
    return size if 0 < size < math.inf else NOMINAL_PIXEL / magnification


DARK_OR_BRIGHT = 0.98
"""Share of clipped pixels beyond which a frame shows nothing."""


NOISE = 0.012
"""Correlation between lines below which a frame holds nothing but noise."""


DETAIL = 0.03
"""Least share of the fine contrast that must be the sample's in focus; noise alone reaches 0.004, foci have 0.1."""

_SHARP = math.log1p(3.0)
"""ln(1 + blur radius) of a frame that may be in focus."""


def shows_nothing(measurement: Measurement) -> str:
    """Return why no method could use the frame (beam off, detector saturated), or an empty text."""
    pixels = measurement.image.pixels
    if measurement.evaluation.variance == 0.0 or pixels.min() == pixels.max():
        return f"the picture is flat (all at level {int(pixels.flat[0])}); check beam, detector, contrast"
    if measurement.clipped > DARK_OR_BRIGHT:
        level = "black" if float(pixels.mean()) < 0.5 * float(pixels.max()) else "saturated"
        return f"{measurement.clipped:.0%} of the picture is {level}; correct brightness and contrast first"
    return ""


_MOST_FINE = 3.0
"""Share of fine structure in the whole contrast, times the blur radius in pixels: samples have 2.2 at most."""

_LARGE = math.log1p(15.0)
"""ln(1 + blur radius) from which that says anything."""


def misread(measurement: Measurement) -> bool:
    """Return whether a network reads a blur off the frame that would leave less of its fine structure.

    It has seen no straight scratches, and no edge alone: it takes them for something far out of focus.
    """
    blur = measurement.evaluation.log_blur
    if blur is None or blur < _LARGE or measurement.detail < DETAIL:
        return False
    fine = _fine(measurement)
    noise = fine * (1 / measurement.detail - 1)
    return math.expm1(blur) * fine / max(float(measurement.image.pixels.var()) - noise, fine) > _MOST_FINE


def share_of_contrast(measurement: Measurement) -> float:
    """Return the share of a frame's whole contrast, noise included, that its fine structure makes up."""
    return _fine(measurement) / max(float(measurement.image.pixels.var()), 1e-12)


def _fine(measurement: Measurement) -> float:
    """Return the variance of a frame's fine structure, in grey levels squared."""
    return measurement.structure * float(measurement.image.pixels.mean()) ** 2


def misleading_period(measurement: Measurement) -> float | None:
    """Return the period in pixels of a sample whose blur a network misreads in this frame out of focus, or None."""
    return None if measurement.detail >= PLAIN else period_of(measurement.image.pixels)


def falsely_sharp(measurement: Measurement) -> bool:
    """Return whether a network reads a focus off a frame that shows little but noise."""
    blur = measurement.evaluation.log_blur
    return blur is not None and blur < _SHARP and measurement.detail < DETAIL
