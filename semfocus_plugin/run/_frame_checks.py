"""Whether a frame is of the place, the magnification and the time that it was asked for.

Instruments buffer frames. A frame that is one exposure late shows the sample where the lens stood before, and a focus
computed from it is a false one. Every frame is therefore compared with what was set and with the frames before it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import AutofocusError, InvalidParameterError
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import number
from semfocus_plugin.networks import structure_beside
from semfocus_plugin.optics import PERIODIC, period_of, spectrum
from semfocus_plugin.run._measurement import NOISE, Measurement, falsely_sharp

MOST_LATE = 2
"""Frames in a row that may be late; each is dropped and taken again, the next one ends the run."""

_TRUSTED = 0.5
"""Share of the largest blur that a network reports up to which it distinguishes blurs."""

_SCATTER = 0.12
"""Largest spread of ln(1 + blur radius) among frames of one field and one place: noise alone."""

_LEAST_SPREAD = 0.4
"""Change of ln(1 + blur radius) that the lens must be expected to cause before its absence means anything."""

_WIDEST_FLOOR = 4.0
"""Blur radius in pixels that a sample which is soft by nature shows in focus."""

_CONTRADICTION = 0.5
"""Least difference of ln(1 + blur radius) that neither noise nor a beam of half or twice its angle explains."""
_SIGMAS = 2.5
"""Least such difference in standard deviations of what the network reports of the frame."""

_LEAST_PLACES = 5
"""Places whose fine structure falls from the focus outwards by chance in one order of twenty, or fewer."""

_LOBES = 0.02
"""Share of the fine structure at the focus that reversed contrast shows, at most: a disc leaves 0.0175 of a wave."""

_PLAINLY = 1.15
"""Ratio of the fine structure of two frames from which one shows more than the other, whatever a network reads."""

_MOVED = 1.3
"""The same of frames between which the lens has moved, whatever charging and brightness do."""

_DRAWN = 0.02
"""Least share of a frame, black or saturated in every one, that may be drawn into it."""

_SAME = 0.98
"""Least share of the pixels that are so in any frame, which are so in all: defocus moves the edges of what is dark."""

_BLANK = 0.9
"""Share of a frame from which it is blank, and nothing is drawn into it."""

_TOO_SMALL = 1.5
"""Factor by which astigmatism may be larger than estimated on a sample that shows mostly along one direction."""

_OLD_FRAMES = 16
"""A frame whose number is behind the last one's by no more is old; a counter that begins anew goes back further."""

_OLD_ROWS = 1 / 8
"""Share of a frame's rows that, side by side, equal those of the frame before, from which that part of it is old."""

_LEAST_SIGMA = 0.15
"""Least standard deviation of ln half-angle that a run is believed to have measured."""
_CHANCE = 0.2
"""Share of the other rows that may equal theirs: more do where frames without noise hardly differ."""


class FrameMismatchError(AutofocusError):
    """The instrument keeps returning frames of another place, magnification, size or time than was asked for.

    Raised after the frame has been asked for again. Working distance and magnification are back where they were.
    Flush the frame buffer of the instrument or restart its acquisition program, and focus again.
    """


def check_conditions(image: Image) -> None:
    """Raise where a condition of a frame cannot be compared with what was asked for; NaN and None are not known.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        Naming the condition and what the frame holds.
    """
    required = {"working_distance": "mm", "magnification": "", "pixel_size": "nm"}
    for name, unit in {**required, "frame_id": "", "timestamp": "s"}.items():
        value = getattr(image, name)
        unknown = (value is None and name not in required) or (
            isinstance(value, float | np.floating) and value != value
        )
        if not unknown:
            number(f"the frame's {name}", value, unit)
    if not isinstance(image.scan_mode, ScanMode | None):
        raise InvalidParameterError(f"the frame's scan_mode must be a ScanMode or None, not {image.scan_mode!r}")


class FrameChecks:
    """What is known of the frames of a run, and what each must agree with.

    Parameters
    ----------
    mode : ScanMode
        Of every frame.
    """

    def __init__(self, mode: ScanMode) -> None:
        self._mode = mode
        self._last: Image | None = None
        self._place = math.nan
        self._shape: tuple[int, ...] | None = None

    def resized(self, image: Image) -> str:
        """Return why a frame as it came, data bar included, has another size than the first, or an empty text."""
        shape = image.pixels.shape
        self._shape = shape if self._shape is None else self._shape
        height, width = self._shape
        return "" if shape == self._shape else f"it has {shape[1]}×{shape[0]} pixels, and the first {width}×{height}"

    def late(self, image: Image, working_distance: float, magnification: float, tolerance: float) -> str:
        """Return why a frame is not the one that was asked for, or an empty text.

        Parameters
        ----------
        image : Image
            What it does not report (None, NaN) cannot disagree.
        working_distance, magnification : float
            As read back from the instrument; mm and a plain number.
        tolerance : float
            Of the working distance, mm.
        """
        last, place = self._last, self._place
        if abs(image.working_distance - working_distance) > tolerance:
            return (
                f"it was scanned at a working distance of {image.working_distance:.3f} mm, and the lens stands at "
                f"{working_distance:.3f} mm"
            )
        if abs(image.magnification / magnification - 1) > 0.1:
            return f"it was scanned at {image.magnification:g}×, and the magnification is {magnification:g}×"
        if image.scan_mode is not None and image.scan_mode != self._mode:
            return f"it was scanned in mode {image.scan_mode.name}, and mode {self._mode.name} was asked for"
        if last is None:
            return ""
        if image.frame_id is not None and last.frame_id is not None:
            if image.frame_id == last.frame_id:
                return f"it has the number {image.frame_id}, as the frame before it"
            if 0 < last.frame_id - image.frame_id <= _OLD_FRAMES:
                return f"it has the number {image.frame_id}, and the frame before it {last.frame_id}"
        if image.timestamp is not None and last.timestamp is not None and image.timestamp < last.timestamp:
            return f"it was scanned {last.timestamp - image.timestamp:.3f} s before the frame that came before it"
        if place != working_distance and _identical(image, last):
            return "its pixels are those of the frame before it, though the lens has moved; the frame buffer is frozen"
        if place != working_distance and _torn(image, last):
            return "a part of it is of the frame before it, though the lens has moved; the frame buffer is torn"
        return ""

    def accept(self, image: Image, working_distance: float) -> None:
        """Keep a frame for comparison with the next, and the place where it was scanned, mm."""
        self._last, self._place = image, working_distance


def _identical(image: Image, other: Image) -> bool:
    """Whether two frames that show something are equal in every pixel; noise alone makes any two frames differ."""
    return (
        image.pixels.shape == other.pixels.shape
        and bool(image.pixels.min() < image.pixels.max())
        and np.array_equal(image.pixels, other.pixels)
    )


def _torn(image: Image, other: Image) -> bool:
    """Whether rows side by side show something and equal those of another frame in every pixel; the rest differs."""
    if image.pixels.shape != other.pixels.shape:
        return False
    equal = (image.pixels == other.pixels).all(axis=1) & (image.pixels.min(axis=1) < image.pixels.max(axis=1))
    edges = np.flatnonzero(np.diff(equal, prepend=False, append=False))
    longest = int((edges[1::2] - edges[::2]).max(initial=0))
    others = int(equal.sum()) - longest
    return bool(longest >= _OLD_ROWS * equal.size and others <= _CHANCE * (equal.size - longest))


def contradiction(
    measurements: Sequence[Measurement],
    focus: float,
    half_angle: float,
    blur_range: float | None,
    sigma: float | None = None,
    astigmatism: float = 0.0,
) -> tuple[Measurement, str] | None:
    """Return the frame that agrees least with the others on where the focus is, and whether it is "sharp" or "blurred".

    None where all of them agree.

    The blur of every frame must be that of its distance from the focus, for one beam of about the angle that is known,
    and no less than the blur at the focus. Between two frames it changes by no more than their distance explains.
    Astigmatism leaves any blur between both radii of an ellipse. On a periodic sample the network misreads the blur, so
    such frames are left out; the ratios of the spectra answer for them.

    Parameters
    ----------
    measurements : sequence of Measurement
        Of one run; those of the present magnification and stigmator that show a sample and report a blur are compared.
    focus : float
        Where the focus is said to be, mm.
    half_angle, blur_range
        As for `lens_stands_still`.
    sigma : float, optional
        Standard deviation of ln half-angle, where the run measured it; half to twice the angle is allowed without.
    astigmatism : float
        Half the distance between the line foci, mm.
    """
    if blur_range is None or len(measurements) < 2:
        return None
    seen = [m for m in _of_the_last(measurements) if m.correlation > NOISE and m.evaluation.log_blur is not None]
    if len(seen) < 2:
        return None
    largest = math.log1p(_TRUSTED * blur_range)
    blur = np.array([min(m.evaluation.log_blur or 0.0, largest) for m in seen])
    slope = half_angle / seen[-1].pixel
    places = np.array([m.working_distance for m in seen])
    distance = slope * np.abs(places - focus)
    amount = slope * astigmatism
    floor = max(math.expm1(blur[distance.argmin()]) - amount, 0.0)
    reach = math.log(2) if sigma is None else min(2 * max(sigma, _LEAST_SIGMA), math.log(2))
    beams = np.exp(np.linspace(-reach, reach, 15))[:, None]
    least, most = (
        np.minimum(np.log1p(np.hypot(beams * radius, floor)), largest)
        for radius in (np.abs(distance - amount), distance + amount)
    )
    steps = slope * np.abs(places[:, None] - places)
    most = np.minimum(most, np.log1p(np.expm1(blur) + beams[..., None] * steps).min(axis=2))
    sigmas = (-math.inf if m.evaluation.log_sigma is None else m.evaluation.log_sigma for m in seen)
    allowed = np.array([max(_CONTRADICTION, _SIGMAS * math.exp(each)) for each in sigmas])
    deviation = np.maximum(np.maximum(least - blur, blur - most), 0.0) / allowed
    beam = int(deviation.max(axis=1).argmin())
    odd = int(deviation[beam].argmax())
    if deviation[beam, odd] <= 1.0:
        return None
    readable = [m for m in seen if _readable(m)]
    if len(readable) < len(seen):
        return contradiction(readable, focus, half_angle, blur_range, sigma, astigmatism)
    return seen[odd], "sharp" if blur[odd] < least[beam, odd] else "blurred"


def in_order(measurements: Sequence[Measurement], focus: float) -> bool:
    """Return whether the fine structure of the frames is largest at the focus, and falls from there on either side.

    It needs no network and no model of the beam: halos around the probe, rings and samples of few edges mislead the
    network about how far away a frame is, and hardly about which of two frames shows more. Frames of another place than
    they say are out of order.

    Parameters
    ----------
    measurements : sequence of Measurement
        Of one run; those of the present magnification and stigmator are compared.
    focus : float
        Where the focus is said to be, mm.
    """
    sides = _falling(measurements, focus)
    if sides is None or sum(map(len, sides)) <= _LEAST_PLACES:  # the focus is in both
        return False
    return all(side[0] > _PLAINLY * side[-1] for side in sides)


def side_to_look_at(measurements: Sequence[Measurement], focus: float) -> int | None:
    """Return on which side of the focus a frame is missing to tell whether all are `in_order`: 1 above, −1 below.

    None where they are, and where no further frame would make them so.
    """
    sides = _falling(measurements, focus)
    if sides is None or in_order(measurements, focus):
        return None
    return 1 if len(sides[0]) <= len(sides[1]) else -1


def _falling(measurements: Sequence[Measurement], focus: float) -> tuple[list[float], list[float]] | None:
    """Return the fine structure from the focus upwards and downwards, its own included; None where it rises.

    What a frame shows less than lobes of the disc do counts as that little, whatever a network reads off it.
    """
    shown: dict[float, Measurement] = {}
    for m in _of_the_last(measurements):
        shown[m.working_distance] = max(m, shown.get(m.working_distance, m), key=lambda each: each.structure)
    best = shown[min(shown, key=lambda place: abs(place - focus))]
    least = _LOBES * best.structure
    above = [max(shown[place].structure, least) for place in sorted(shown) if place >= best.working_distance]
    below = [max(shown[place].structure, least) for place in sorted(shown)[::-1] if place <= best.working_distance]
    falls = all(further <= closer for side in (above, below) for closer, further in itertools.pairwise(side))
    if not falls or any(m.structure > least and _reads_sharper(m, best) for m in shown.values()):
        return None
    return above, below


def _of_the_last(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the frames of a run at the magnification and the stigmator of its last one."""
    last = measurements[-1]
    return [
        m
        for m in measurements
        if m.setting == last.setting and math.isclose(m.magnification, last.magnification, rel_tol=1e-2)
    ]


def _reads_sharper(m: Measurement, best: Measurement) -> bool:
    """Return whether a network reads less blur off a frame than off another one, beyond its uncertainty of either."""
    blurs = m.evaluation.log_blur, best.evaluation.log_blur
    if blurs[0] is None or blurs[1] is None:
        return m.score > best.score
    sigmas = (math.exp(each.evaluation.log_sigma or 0.0) for each in (m, best))
    return blurs[0] < blurs[1] - math.hypot(*sigmas)


def _readable(m: Measurement) -> bool:
    """Return whether a network reads the blur of a frame: not that of a periodic sample, nor of little but noise."""
    pixels = m.image.pixels
    return not falsely_sharp(m) and spectrum(pixels).peak < PERIODIC and period_of(pixels) is None


def lens_stands_still(measurements: Sequence[Measurement], half_angle: float, blur_range: float | None) -> str:
    """Return why the frames cannot come from a lens that moves, or an empty text.

    Of three places one at least differs from the others in defocus, wherever the focus lies, and so in blur. Three
    frames of a visible sample, not a periodic one, whose blur does not differ, though the beam would make it differ by
    more than three times what is allowed here, and so a beam of half its angle still plainly, are of one place; or the
    beam is narrower still, or what is drawn into every frame outshines the sample.

    Parameters
    ----------
    measurements : sequence of Measurement
        Of one run; those of the present magnification and stigmator that show a sample and report a blur are compared.
    half_angle : float
        Half-angle of the beam as far as it is known, rad.
    blur_range : float or None
        Largest blur radius that the network reports, pixels: near it all blurs look alike. None where it reports none.
    """
    if blur_range is None:
        return ""
    largest = math.log1p(_TRUSTED * blur_range)
    seen = [m for m in _of_the_last(measurements) if m.correlation > NOISE and (m.evaluation.log_blur or 0.0) < largest]
    places = np.array([m.working_distance for m in seen])
    if len(np.unique(places)) < 3:
        return ""
    blur = np.array([m.evaluation.log_blur or 0.0 for m in seen])
    shown = [m.structure for m in seen]
    if np.ptp(blur) > _SCATTER or max(shown) > _MOVED * min(shown):
        return ""
    slope = half_angle / seen[-1].pixel
    candidates = np.linspace(places.min() - np.ptp(places), places.max() + np.ptp(places), 121)
    distance = slope * np.abs(candidates[:, None] - places)
    floors = (0.0, min(math.expm1(blur.min()), _WIDEST_FLOOR))
    expected = [np.ptp(np.log1p(np.hypot(distance, floor)), axis=1).min() for floor in floors]
    if min(expected) < _LEAST_SPREAD or not all(map(_readable, seen)):
        return ""
    return (
        f"{len(seen)} frames from {places.min():.3f} to {places.max():.3f} mm show the same blur: the lens does not "
        "follow its control, or the beam is far narrower than supposed, or what the frames show is no detail that "
        "defocus could blur, such as what is drawn into them; check the control of the objective lens, have the driver "
        "report half_angle, choose the sample by region, or move the stage"
    )


def beyond_line_foci(depth_of_field: float, astigmatism: float) -> float:
    """Return how far from the focus a sample of one direction may show more of it than there; all in one unit."""
    return 2 * depth_of_field + _TOO_SMALL * astigmatism


def drawn_pixels(measurements: Sequence[Measurement]) -> NDArray[np.bool_]:
    """Return which pixels are black, or saturated, in every frame, where these are not just dark or bright parts."""
    seen = _of_one_size(measurements)
    drawn = np.zeros(seen[-1].image.pixels.shape, bool)
    if len({m.working_distance for m in seen}) < 2:
        return drawn
    for level in (0, seen[-1].full_scale):
        each = [m.image.pixels == level for m in seen]
        always = np.logical_and.reduce(each)
        if always.mean() >= _DRAWN and always.sum() >= _SAME * np.logical_or.reduce(each).sum():
            drawn |= always
    return drawn


def drawn_into(drawn: NDArray[np.bool_]) -> str:
    """Return what is drawn into every frame, and what to do about it; an empty text where there is nothing."""
    share = drawn.mean()
    if not 0 < share < _BLANK:
        return ""
    return (
        f"{share:.0%} of every frame is black or white at the same pixels, drawn into it: choose the sample by region"
    )


def outshone(
    measurements: Sequence[Measurement],
    drawn: NDArray[np.bool_],
    focus: float,
    depth_of_field: float,
    astigmatism: float,
) -> str:
    """Return why what is drawn into every frame misleads, or an empty text.

    A round picture on black and a frame around one have edges that no defocus blurs: pixels that are black, or
    saturated, in every frame. Beside them the sample must show most at the focus.

    Parameters
    ----------
    measurements : sequence of Measurement
        Of one run; those of the present magnification and stigmator are compared.
    drawn : ndarray of bool
        `drawn_pixels` of them.
    focus : float
        Where the focus is said to be, mm.
    depth_of_field, astigmatism : float
        mm; a sample of one direction shows most at a line focus, `astigmatism` from the focus.
    """
    seen = _of_one_size(measurements)
    best = min(seen, key=lambda m: abs(m.working_distance - focus))
    beyond = beyond_line_foci(depth_of_field, astigmatism)
    others = [m for m in seen if abs(m.working_distance - focus) > beyond]
    if not others or not drawn.any():
        return ""
    shown = {id(m): structure_beside(m.image.pixels, drawn) for m in (best, *others)}
    most = max(others, key=lambda m: shown[id(m)])
    if shown[id(most)] <= _PLAINLY * shown[id(best)]:
        return ""
    return (
        f"beside what is drawn into every frame, the one at {most.working_distance:.3f} mm shows more of the sample "
        f"than the best place found, {focus:.3f} mm"
    )


def _of_one_size(measurements: Sequence[Measurement]) -> list[Measurement]:
    return [m for m in _of_the_last(measurements) if m.image.pixels.shape == measurements[-1].image.pixels.shape]
