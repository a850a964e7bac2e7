"""Brightness and contrast of a run: corrected before the first frame counts, where clipping hides the sample.

Grey levels that are cut off hold neither blur nor spectrum. On the emulator, a quarter of the pixels clipped costs
nothing yet; beyond a half, one run in four ends at a false focus. Frames are compared with one another, and that
comparison does not survive another brightness: so the correction comes before the first frame, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from semdrivers import AutofocusError, HasDetector, Image, Microscope, ScanMode, autobrightness
from semdrivers.microscope import read_number, within
from semfocus_plugin.run._measurement import DARK_OR_BRIGHT, NOISE, shows_nothing

if TYPE_CHECKING:
    from semfocus_plugin.run._measurement import Measurement

CLIPPED = 0.25
"""Share of clipped pixels beyond which a first frame asks for another brightness."""

UNRELIABLE = 0.5
"""Share of clipped pixels beyond which a first frame is not focused on, if nothing else can be had."""

_BLACK_NEIGHBOURS = 7
"""Black ones, of the eight neighbours of a pixel that is amid black ones."""
_DARK_NOISE = 0.03
"""Largest noise of such pixels in a dark part of a sample, as a share of the bright ones."""

LOOKS = 4
"""Most frames of a correction, the first of the run included."""

ANSWER = 0.004
"""Change of the mean, of the grey scale, below which a frame has not answered to another brightness."""

SCARCE = 6
"""Frames of a whole run whose corrected frame still holds nothing but noise."""


class Unusable(AutofocusError):
    """The first frame shows too little to focus on, and brightness does not mend it; caught by the loop."""


class Exposure:
    """Brightness and contrast, as a run found and as it sets them.

    Parameters
    ----------
    microscope : Microscope
        Nothing is read before it is needed; only one that is a `HasDetector` can be corrected.
    allowed : bool
        Whether anything may be set.
    """

    def __init__(self, microscope: Microscope, allowed: bool) -> None:
        self._microscope = microscope
        self._allowed = allowed
        self._start: tuple[float, float] | None = None
        self.note = ""
        """What was corrected, for a person; empty when nothing was."""

    def correct(self, first: Measurement, look: Callable[[], Measurement]) -> Measurement:
        """Return a frame to focus on: `first`, or one at a better brightness and contrast.

        Parameters
        ----------
        first : Measurement
            The first frame of the run.
        look : callable
            Takes another at the same place, within the budget.

        Raises
        ------
        Unusable
            When too many pixels are clipped, and cannot be brought back.
        Exception
            What `look` and the microscope raise.
        """
        if _cut_off(first) <= CLIPPED:
            return first
        grey = np.issubdtype(first.image.pixels.dtype, np.integer)
        if self._allowed and grey and isinstance(self._microscope, HasDetector):
            best = self._corrected(self._microscope, look, first)
        else:
            best = look() if _cut_off(first) > UNRELIABLE else first
        reason = shows_nothing(best)
        if not reason and _cut_off(best) > UNRELIABLE:
            reason = f"{_cut_off(best):.0%} of the picture is black or white; correct brightness and contrast first"
        if reason:
            raise Unusable(reason)
        return best

    @property
    def start(self) -> dict[str, float]:
        """Brightness and contrast to put back, by name; empty when they were not touched."""
        return {} if self._start is None else dict(zip(("brightness", "contrast"), self._start, strict=True))

    def restored(self) -> None:
        """Record that brightness and contrast are back where they were."""
        self.note = self.note and f"{self.note}, and put back"

    def _corrected(self, detector: HasDetector, look: Callable[[], Measurement], first: Measurement) -> Measurement:
        start = read_number(detector, "brightness"), read_number(detector, "contrast")
        for name, value in zip(("brightness", "contrast"), start, strict=True):
            within(f"the instrument's {name}", value, 0, 1)
        self._start = start
        sight = _Sight(detector, first, look)
        autobrightness(sight, max_frames=LOOKS)
        now = detector.brightness, detector.contrast
        if now != self._start:
            (brightness, contrast), (new_brightness, new_contrast) = self._start, now
            self.note = (
                f"brightness and contrast corrected first (brightness {brightness:.2f} -> {new_brightness:.2f}, "
                f"contrast {contrast:.2f} -> {new_contrast:.2f})"
            )
        return sight.last if sight.settings == now else look()


def _cut_off(m: Measurement) -> float:
    """Return the share of pixels whose signal is cut off: saturated, or black where the sample is not simply dark.

    Where the black level cuts a signal off, its noise still shows here and there amid black pixels.
    """
    if m.clipped > DARK_OR_BRIGHT or m.correlation <= NOISE:
        return m.clipped
    pixels = m.image.pixels
    black = pixels <= 0
    if not black.any():
        return m.clipped
    rows = np.pad(black, 1).astype(np.uint8)
    rows = rows[:-2] + rows[1:-1] + rows[2:]
    around = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] - black
    inside = pixels[around >= _BLACK_NEIGHBOURS].astype(np.float32)
    bright = float(np.percentile(pixels, 99.5))
    dark = (
        inside.size > 0
        and 2 * inside.size >= np.count_nonzero(black)
        and float(np.square(inside).mean()) <= (_DARK_NOISE * bright) ** 2
    )
    return m.clipped - float(black.mean()) if dark else m.clipped


class _Sight:
    """What `autobrightness` sees of a microscope: its detector, and frames that the run counts."""

    def __init__(self, detector: HasDetector, first: Measurement, look: Callable[[], Measurement]) -> None:
        self._detector = detector
        self._look = look
        self._seen = [first]
        self._unused = True
        self.settings = detector.brightness, detector.contrast
        """Those of the last frame."""

    @property
    def last(self) -> Measurement:
        return self._seen[-1]

    @property
    def brightness(self) -> float:
        return self._detector.brightness

    @brightness.setter
    def brightness(self, value: float) -> None:
        self._detector.brightness = value

    @property
    def contrast(self) -> float:
        return self._detector.contrast

    @contrast.setter
    def contrast(self, value: float) -> None:
        self._detector.contrast = value

    def acquire(self, mode: ScanMode) -> Image:
        """Return the first frame, then others; two that have not answered are enough."""
        if self._unused:
            self._unused = False
            return self.last.image
        self._seen.append(self._look())
        self.settings = self.brightness, self.contrast
        nothing = shows_nothing(self.last)
        top = max(seen.full_scale for seen in self._seen)
        means = [float(seen.image.pixels.mean()) / top for seen in self._seen[-3:]]
        if nothing and len(means) == 3 and max(means) - min(means) < ANSWER:
            raise Unusable(f"{nothing} (brightness and contrast, tried, change nothing)")
        return self.last.image
