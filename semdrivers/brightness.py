"""`autobrightness`: brightness and contrast at which few pixels are clipped and the mean lies in the middle."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from semdrivers.data_bar import bar_rows_of, without_bar
from semdrivers.errors import InvalidParameterError
from semdrivers.grey_levels import full_scale, saturation
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import HasDetector, number, offered_mode, read_number, restoring, whole_number

__all__ = ["BrightnessResult", "autobrightness"]

_MEAN = (0.35, 0.65)
_SPREAD = (0.3, 0.85)
_SPREAD_TARGET = 0.6
_CLIPPED = 0.01
_LARGEST_STEP = 0.25
_LEVELS_A_BRIGHTNESS = 1.0
_DOUBLINGS_A_CONTRAST = 4.0


@dataclass(frozen=True, slots=True)
class BrightnessResult:
    """What came of `autobrightness`.

    Parameters
    ----------
    reached : bool
        Whether the last frame is as it should be; else brightness and contrast are the best that were tried.
    brightness, contrast : float
        As set, 0 to 1.
    mean : float
        Mean of the grey levels of the frame taken there, 0 (black) to 1 (white).
    clipped : float
        Share of its pixels that are black or white, 0 to 1.
    frames : int
        Acquired in all.
    """

    reached: bool
    brightness: float
    contrast: float
    mean: float
    clipped: float
    frames: int


@dataclass(frozen=True, slots=True)
class _Look:
    """One frame: percentiles, mean and ends of its grey levels, and the level at which they saturate."""

    brightness: float
    contrast: float
    mean: float
    spread: float
    clipped: float
    top: int

    def of(self, top: int) -> _Look:
        """Return the look as shares of a larger full scale: a later frame has shown more bits."""
        if top == self.top:
            return self
        factor = self.top / top
        return replace(self, mean=self.mean * factor, spread=self.spread * factor, top=top)

    @property
    def good(self) -> bool:
        """Few pixels clipped, the mean in the middle; a sample without contrast may be flat at full contrast."""
        wide = self.spread >= _SPREAD[0] or self.contrast >= 1
        return self.clipped <= _CLIPPED and _MEAN[0] <= self.mean <= _MEAN[1] and wide and self.spread <= _SPREAD[1]

    @property
    def badness(self) -> float:
        """Of two looks the one with less is the better."""
        return self.clipped * 10 + abs(self.mean - 0.5) + max(0.0, _SPREAD[0] - self.spread)


def autobrightness(microscope: Any, *, max_frames: int = 10, mode: ScanMode = ScanMode.FAST) -> BrightnessResult:
    """Set brightness and contrast so that few pixels are clipped and the mean is in the middle.

    At most 1 % of the pixels are black or white, the mean lies between 0.35 and 0.65 of the grey scale, and 98 % of the
    pixels take up 0.3 to 0.85 of it. Nothing is assumed of the detector but that more brightness and more contrast do
    what their names say.

    Parameters
    ----------
    microscope : Microscope and HasDetector
        Focus is not needed: brightness does not depend on it.
    max_frames : int
        Budget; 10 suffice from anywhere on the emulator.
    mode : ScanMode
        Scan mode of the frames.

    Returns
    -------
    BrightnessResult
        When the budget is spent, the best setting that was tried is set, and `reached` is False.

    Raises
    ------
    InvalidParameterError
        When the microscope has no brightness and contrast, or `max_frames` is no whole number; nothing was touched.
    OutOfRangeError
        When `max_frames` is below 1; nothing was touched.
    SemDriversError
        What the microscope raises; brightness and contrast are back where they were, as on any other exception.
    """
    if not isinstance(microscope, HasDetector):
        raise InvalidParameterError(
            f"autobrightness needs a microscope with brightness and contrast; a {type(microscope).__name__} has none"
        )
    whole_number("max_frames", max_frames, 1)
    capabilities = getattr(microscope, "capabilities", None)
    if capabilities is not None:
        mode = offered_mode(capabilities, mode)
    looks: list[_Look] = []
    with restoring(microscope, "brightness", "contrast", only_on_error=True):
        while True:
            looks.append(_look(microscope, mode))
            top = max(look.top for look in looks)
            looks = [look.of(top) for look in looks]
            if looks[-1].good or len(looks) == max_frames:
                break
            microscope.brightness, microscope.contrast = _next(looks)
        best = looks[-1] if looks[-1].good else min(looks, key=lambda look: look.badness)
        if best is not looks[-1]:
            microscope.brightness, microscope.contrast = best.brightness, best.contrast
    return BrightnessResult(best.good, best.brightness, best.contrast, best.mean, best.clipped, len(looks))


def _look(microscope: Any, mode: ScanMode) -> _Look:
    image: Image = microscope.acquire(mode)
    depth = image.bit_depth
    if depth is None:
        depth = getattr(getattr(microscope, "capabilities", None), "bit_depth", None)
    pixels = without_bar(image.pixels, bar_rows_of(image.pixels, image.metadata))
    top = full_scale(pixels, depth)
    low, high = np.percentile(pixels, (1, 99)) / top
    clipped = np.mean((pixels <= 0) | (pixels >= saturation(pixels, top)))
    return _Look(
        read_number(microscope, "brightness"),
        read_number(microscope, "contrast"),
        number("the mean of the frame", float(pixels.mean()) / top),
        float(high - low),
        float(clipped),
        top,
    )


def _next(looks: list[_Look]) -> tuple[float, float]:
    """Where to look next: contrast by the spread, brightness by the mean, each by the response seen so far."""
    last = looks[-1]
    doublings = math.log2(_SPREAD_TARGET / max(last.spread, 0.02))
    middle = _MEAN[0] <= last.mean <= _MEAN[1]
    if last.mean > _MEAN[1] and last.brightness <= 0:
        doublings = -1.0
    elif last.mean < _MEAN[0] and last.brightness >= 1:
        doublings = 1.0
    elif not middle and _SPREAD[0] <= last.spread <= _SPREAD[1]:
        doublings = 0.0
    elif not middle and last.clipped > 0.2:
        doublings = -abs(doublings) if last.mean > 0.5 else 0.0
    return (
        _stepped(last.brightness, (0.5 - last.mean) / _response(looks)),
        _stepped(last.contrast, doublings / _DOUBLINGS_A_CONTRAST),
    )


def _response(looks: list[_Look]) -> float:
    """Grey scales by which the mean rises a unit of brightness, from the last two looks of one contrast."""
    if len(looks) > 1:
        before, last = looks[-2:]
        change = last.brightness - before.brightness
        if before.contrast == last.contrast and abs(change) > 0.02:
            return max((last.mean - before.mean) / change, 0.3)
    return _LEVELS_A_BRIGHTNESS


def _stepped(value: float, step: float) -> float:
    """Return `value` after a step of limited size, from 0 to 1."""
    step = min(max(step, -_LARGEST_STEP), _LARGEST_STEP)
    return round(min(max(value + step, 0.0), 1.0), 3)
