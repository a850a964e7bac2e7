"""Measure the physics of the emulated column in its pixels, and lay it beside what was set.

Blur, probe, noise, depth of field, score curve and every artefact are measured in frames of test patterns (dots,
stripes, an even field) by methods that share no code with what draws them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.profile import EM30, InstrumentProfile
from semdrivers.emulator.physics import PRESETS, ColumnPreset, ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import Picture

__all__ = [
    "RADII", "TABLES", "Row", "blur", "cells", "column_over", "depth", "dithered", "dots", "noise", "scan",
    "smoothed", "spots", "stripes", "width",
]  # fmt: skip

_Pixels = NDArray[np.float64]  # Grey levels or lengths of a measurement
_BEST = 15.0  # Working distance of best focus in every measurement, mm: the half-angle there is 3 mrad
_QUIET = ColumnPreset(noise=False, tilt=0.0)  # A column without any artefact
_HOSTILE = PRESETS["hostile"]  # The preset whose strengths are measured
# An instrument whose probe has no width to speak of, so that what is seen is the defocus alone
_NO_CORE = dataclasses.replace(
    EM30, gun_brightness=1e15, spherical_aberration=0.0, chromatic_aberration=0.0, energy_spread=0.0
)

RADII = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 13.0, 16.0, 20.0)
"""Pixels; beyond 12 the emulator blurs on a coarser grid."""

_EVEN = 0.8  # Signal of an even picture, over the nominal: what `Picture` lays on the stage
_PERIOD = 32  # Period of the stripes, pixels: whole periods in both sides of a frame


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Parameters
    ----------
    what : str
        Name, with its conditions.
    expected, measured : float
        What was set, or follows from the formula; and what the pixels show.
    unit : str
        Unit of both.
    limit : float
        Largest relative deviation.
    """

    what: str
    expected: float
    measured: float
    unit: str
    limit: float = 0.05

    @property
    def deviation(self) -> float:
        """Relative to what is expected."""
        return self.measured / self.expected - 1

    @property
    def holds(self) -> bool:
        """Whether the deviation is within the limit."""
        return abs(self.deviation) <= self.limit


def scan(magnification: float = 2000.0, **changes: Any) -> ScanConditions:
    """Return a FAST scan of 16 bits in focus, with the changes given."""
    return dataclasses.replace(ScanConditions(_BEST, magnification, 320, 240, bits=16, contrast=0.3), **changes)


def column_over(
    picture: _Pixels,
    magnification: float,
    preset: ColumnPreset = _QUIET,
    profile: InstrumentProfile = _NO_CORE,
    seed: int = 0,
) -> ElectronColumn:
    """Return a column over a picture whose pixels are those of the FAST frame."""
    specimen = Picture(picture, EM30.pixel_size(magnification, 320))
    return ElectronColumn(specimen, seed=seed, preset=preset, profile=profile, best_working_distance=_BEST)


def dots(pitch: int = 96) -> _Pixels:
    """Return single bright pixels, `pitch` apart."""
    picture = np.full((11 * pitch, 11 * pitch), 10.0)
    picture[pitch // 2 :: pitch, pitch // 2 :: pitch] = 40.0
    return picture


def stripes(axis: int) -> _Pixels:
    """Return a sine along an axis, the other one even."""
    line = 1 + 0.5 * np.sin(2 * np.pi * np.arange(512) / _PERIOD)
    return np.broadcast_to(line if axis == 1 else line[:, None], (512, 512)).copy()


def dithered(column: ElectronColumn, conditions: ScanConditions) -> _Pixels:
    """Return the mean of 16 frames whose brightness differs by fractions of a grey level, which stills the rounding."""
    total = np.zeros((conditions.height, conditions.width))
    for k in range(16):
        total += column.render(dataclasses.replace(conditions, brightness=0.5 + k / 16 / 65535.0))
    return total / 16


def spots(sharp: _Pixels, frame: _Pixels, reach: int) -> tuple[_Pixels, _Pixels]:
    """Measure the spots that the dots of a sharp frame have become.

    Parameters
    ----------
    sharp, frame : ndarray of shape (H, W)
        The dots in focus, and as they are now.
    reach : int
        Radius about each dot that is looked at, pixels.

    Returns
    -------
    places : ndarray of shape (N, 2, 2)
        For every dot: (x, y) from the middle of the frame, before and now.
    moments : ndarray of shape (2,)
        Mean variance of a spot along x and along y, pixels².
    """
    rows, columns = np.array(sharp.shape)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = np.hypot(x, y) <= reach
    places, moments = [], []
    for row, column in np.argwhere(sharp > 0.5 * sharp.max()):
        if not (reach <= row < rows - reach and reach <= column < columns - reach):
            continue
        patch = frame[row - reach : row + reach + 1, column - reach : column + reach + 1]
        patch = (patch - patch[~inside].mean()) * inside
        weight = patch / patch.sum()
        middle = np.array([(weight * x).sum(), (weight * y).sum()])
        here = np.array([column - (columns - 1) / 2, row - (rows - 1) / 2])
        places.append((here, here + middle))
        moments.append(((weight * x**2).sum() - middle[0] ** 2, (weight * y**2).sum() - middle[1] ** 2))
    return np.array(places), np.mean(moments, axis=0)


def smoothed(frame: _Pixels) -> _Pixels:
    """Return the frame under a Gaussian of 2 pixels, which stills the ringing of the pixels and adds a known moment."""
    rows, columns = np.fft.fftfreq(frame.shape[0])[:, None], np.fft.rfftfreq(frame.shape[1])[None, :]
    transfer = np.exp(-2 * (np.pi * 2.0) ** 2 * (rows**2 + columns**2))
    return np.fft.irfft2(np.fft.rfft2(frame) * transfer, frame.shape)


def blur(radii: Sequence[float] = RADII) -> Iterator[Row]:
    """Radius of the defocus disc on both sides of focus: the variance of an even disc along an axis is r²/4."""
    magnification = 2000.0
    column = column_over(dots(), magnification)
    pixel = EM30.pixel_size(magnification, 320) * 1e-6
    aperture = EM30.aperture_radius * 1e-3
    sharp = dithered(column, scan(magnification))
    for radius in radii:
        for side, sign in (("above", -1), ("below", 1)):
            distance = _BEST * aperture / (aperture + sign * radius * pixel)
            frame = dithered(column, scan(magnification, working_distance=distance))
            reach = math.ceil(radius) + 10
            _, now = spots(sharp, smoothed(frame), reach)
            _, before = spots(sharp, smoothed(sharp), reach)
            yield Row(f"α\\|z\\| = {radius:g} px, {side} focus", radius, math.sqrt(2 * (now - before).sum()), "px")


def _probe() -> Iterator[Row]:
    """Full width of the focused probe, at 100 000 ×."""
    magnification = 100_000.0
    pixel = EM30.pixel_size(magnification, 320)
    sharp = dithered(column_over(dots(), magnification), scan(magnification))
    column = column_over(dots(), magnification, profile=EM30)
    for voltage, current, expected in ((15.0, 100.0, 78.0), (15.0, 20.0, 36.0), (30.0, 5.0, 13.0)):
        at = scan(magnification, accelerating_voltage=voltage, beam_current=current)
        reach = min(round(1.5 * expected / pixel) + 12, 45)
        _, now = spots(sharp, smoothed(dithered(column, at)), reach)
        _, before = spots(sharp, smoothed(sharp), reach)
        width = 2.3548 * math.sqrt((now - before).mean()) * pixel
        yield Row(f"probe core d₀, {voltage:g} kV, {current:g} pA", expected, width, "nm")


def noise(frames: int = 4) -> Iterator[Row]:
    """Standard deviation over mean of an even field against √((1 + δ) / (n₀ δ)), n₀ of the signal's own level."""
    column = column_over(np.ones((64, 64)), 2000.0, ColumnPreset(tilt=0.0), EM30)
    dark = float(column.render(scan(beam_on=False, beam_current=1e4, dwell_time=1e-3)).mean())
    for current, dwell in ((100.0, 1.3e-6), (20.0, 1.3e-6), (100.0, 5e-6), (20.0, 3.2e-6), (20.0, 8e-6)):
        electrons = current * 1e-12 * dwell / 1.602176634e-19
        expected = math.sqrt((1 + EM30.secondary_yield) / (electrons * EM30.secondary_yield * _EVEN))
        seen = [column.render(scan(beam_current=current, dwell_time=dwell, frame_id=k)) for k in range(frames)]
        measured = np.std(seen) / (np.mean(seen) - dark)
        yield Row(f"noise / signal, {current:g} pA, {dwell * 1e6:g} µs", 100 * expected, 100 * float(measured), "%")


def depth() -> Iterator[Row]:
    """Depth of field against the design's figures, and full width at half maximum of the score curve.

    The paper's largest step A_max (equation 5) is that width at both ends of its range, for a probe without core.
    """
    for magnification, expected in ((1000.0, 134.0), (10_000.0, 18.0), (30_000.0, 13.0)):
        column = column_over(np.ones((64, 64)), magnification, profile=EM30)
        depth = column.truth(scan(magnification)).depth_of_field * 1e3
        yield Row(f"depth of field, {magnification:g}×", expected, depth, "µm")
    for magnification, expected in ((1000.0, 1200.0), (33_000.0, 36.0)):
        column = column_over(np.ones((64, 64)), magnification)
        yield Row(
            f"width of the score curve = A_max, {magnification:g}×, no core",
            expected,
            width(column, magnification),
            "µm",
        )
    for magnification in (1000.0, 10_000.0, 30_000.0):
        column = column_over(np.ones((64, 64)), magnification, profile=EM30)
        expected = 9 * math.hypot(400e3 / magnification, 36.0) / 3.0
        yield Row(
            f"width of the score curve, {magnification:g}×, 15 kV, 20 pA", expected, width(column, magnification), "µm"
        )


def width(column: ElectronColumn, magnification: float) -> float:
    """Return the µm between the two working distances at which the score is half its best."""
    half = column.truth(scan(magnification)).score / 2
    return sum(_where_half(column, magnification, side, half) for side in (-1.0, 1.0)) * 1e3


def _where_half(column: ElectronColumn, magnification: float, side: float, half: float) -> float:
    near, far = 0.0, 3.0
    for _ in range(40):
        middle = (near + far) / 2
        above = column.truth(scan(magnification, working_distance=_BEST + side * middle)).score > half
        near, far = (middle, far) if above else (near, middle)
    return near


def _displacement(frame: NDArray[np.uint16]) -> _Pixels:
    """Return by how many pixels every line of upright stripes is displaced, from the phase of the stripes."""
    x = np.arange(frame.shape[1])
    carrier = np.hanning(frame.shape[1]) * np.exp(-2j * np.pi * x / _PERIOD)
    lines = frame.astype(float)
    phase = np.angle((lines - lines.mean(axis=1, keepdims=True)) @ carrier)
    return np.asarray(np.unwrap(phase) * _PERIOD / (2 * np.pi))


def _speed_across(frame: NDArray[np.uint16], axis: int) -> float:
    """Return the displacement of the stripes in pixels a line, along the axis on which they change."""
    if axis == 1:
        return float(np.polyfit(np.arange(frame.shape[0]), _displacement(frame), 1)[0])
    profile = frame.mean(axis=1) - frame.mean()
    turning = profile * np.exp(-2j * np.pi * np.arange(profile.size) / _PERIOD)
    phase = np.unwrap(np.angle(np.convolve(turning, np.ones(_PERIOD), "valid")))
    return float(np.polyfit(np.arange(phase.size), phase, 1)[0] * _PERIOD / (2 * np.pi))


def _deflection(frames: int = 10) -> Iterator[Row]:
    """What displaces lines: drift, mains hum, line jitter, detector lag; at the strengths of `hostile`."""
    magnification = 30_000.0
    pixel = EM30.pixel_size(magnification, 320)

    def only(seed: int = 0, axis: int = 1, **strength: Any) -> ElectronColumn:
        return column_over(stripes(axis), magnification, dataclasses.replace(_QUIET, **strength), seed=seed)

    slow = scan(magnification, dwell_time=1e-4)
    line_time = slow.dwell_time * slow.width
    for seed in range(3):
        frames_of_drift = [only(seed, axis, drift=_HOSTILE.drift).render(slow) for axis in (0, 1)]
        speed = math.hypot(*(_speed_across(frame, axis) for axis, frame in enumerate(frames_of_drift)))
        yield Row(f"drift, direction {seed + 1}", _HOSTILE.drift, speed * pixel / line_time, "nm/s")
    still = _displacement(only().render(scan(magnification)))
    moved = _displacement(only(hum=_HOSTILE.hum).render(scan(magnification))) - still
    turn = 2 * np.pi * 50.0 * np.arange(240) * 320 * scan().dwell_time
    parts, *_ = np.linalg.lstsq(np.stack([np.sin(turn), np.cos(turn)], axis=1), moved, rcond=None)
    yield Row("mains hum, amplitude at 50 Hz", _HOSTILE.hum, float(np.hypot(*parts)) * pixel, "nm")
    jittered = only(line_jitter=_HOSTILE.line_jitter)
    shaken = [_displacement(jittered.render(scan(magnification, frame_id=k))) - still for k in range(frames)]
    yield Row("line jitter, standard deviation", _HOSTILE.line_jitter, float(np.std(shaken)), "px")
    behind = _displacement(only(detector_lag=_HOSTILE.detector_lag).render(scan(magnification))) - still
    angle = 2 * np.pi / _PERIOD
    lag = math.tan(angle * abs(float(behind.mean()))) / angle
    yield Row("detector lag, time constant along the line", _HOSTILE.detector_lag, lag, "px")


def _gain(frames: int = 400) -> Iterator[Row]:
    """What changes the level of lines: row gain, charging ramp and streaks; at the strengths of `hostile`."""

    def only(**strength: Any) -> ElectronColumn:
        return column_over(np.ones((64, 64)), 2000.0, dataclasses.replace(_QUIET, **strength))

    dark = float(only().render(scan(beam_on=False, brightness=0.7)).mean())
    unit = (float(only().render(scan(brightness=0.7)).mean()) - dark) / _EVEN
    uneven = only(row_gain=_HOSTILE.row_gain)
    levels = [uneven.render(scan(brightness=0.7, frame_id=k)).mean(axis=1) - dark for k in range(10)]
    yield Row("row gain, standard deviation", _HOSTILE.row_gain, float(np.std(levels) / np.mean(levels)), "of signal")
    charged = only(charging=_HOSTILE.charging)
    ramps, streaks, lines = [], [], 0
    for k in range(frames):
        frame = (charged.render(scan(brightness=0.7, frame_id=k)).astype(float) - dark) / unit
        across = frame[:, 0] - frame[:, -1]
        half = frame.shape[0] // 2
        # Most lines bear no streak, so the median is the ramp itself.
        ramps += [
            -float(np.median(across)) / 2,
            float(np.median(frame[half:, -1] - frame[:half, -1])) * (frame.shape[0] - 1) / half / 2,
        ]
        excess = (across - np.median(across)) / (1 - math.exp(-2))
        streaks += [float(streak) for streak in excess if streak > 1e-3]
        lines += frame.shape[0]
    rms = math.sqrt(np.mean(np.square(ramps)))
    yield Row("charging, ramp over half a frame, rms", _HOSTILE.charging, rms, "of nominal signal")
    yield Row("charging, streaks: mean strength", _HOSTILE.charging, float(np.mean(streaks)), "of nominal signal")
    yield Row("charging, streaks: share of lines", 4.0, 100 * len(streaks) / lines, "%")


def _geometry() -> Iterator[Row]:
    """What the lenses do to the image: astigmatism, and shift, turn and growth with the working distance."""
    magnification = 2000.0
    pixel = EM30.pixel_size(magnification, 320)
    sharp = dithered(column_over(dots(), magnification), scan(magnification))
    set_to, away = 40.0, 0.3
    distance = _BEST + away
    alpha = EM30.half_angle(distance)
    frame = dithered(column_over(dots(), magnification), scan(working_distance=distance, stigmator_x=set_to))
    _, moments = spots(sharp, smoothed(frame), 24)
    radii = 2 * np.sqrt(moments - spots(sharp, smoothed(sharp), 24)[1])
    difference = abs(float(radii[0] - radii[1])) * pixel / alpha / 2
    yield Row("astigmatism, half-difference of the foci", set_to, difference, "µm")
    coupled = dataclasses.replace(_QUIET, image_shift=1.0, image_rotation=1.0, magnification_change=1.0)
    frame = dithered(column_over(dots(64), magnification, coupled), scan(working_distance=distance))
    sharp = dithered(column_over(dots(64), magnification), scan(magnification))
    places, _ = spots(sharp, smoothed(frame), 28)
    source = np.concatenate([places[:, 0], np.ones((len(places), 1))], axis=1)
    (xx, yx), (xy, yy), shift = np.linalg.lstsq(source, places[:, 1], rcond=None)[0]
    yield Row("image shift", EM30.shift_coupling, float(np.hypot(*shift)) * pixel * 1e-3 / away, "µm/mm")
    turned = math.degrees(math.atan2(yx - xy, xx + yy))
    yield Row("image rotation", EM30.rotation_coupling, abs(turned) / away, "°/mm")
    growth = math.sqrt(xx * yy - xy * yx) - 1
    yield Row("magnification", 100 * EM30.magnification_coupling, 100 * growth / away, "%/mm")


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "Blur": blur,
    "Probe": _probe,
    "Noise": noise,
    "Depth of field and score curve": depth,
    "What displaces lines": _deflection,
    "What changes the level of lines": _gain,
    "What the lenses do to the image": _geometry,
}
"""The tables by their titles."""


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return a table as text, headings first."""
    heads = "", "set or by formula", "measured", "deviation", "limit", ""
    return [
        heads,
        *(
            (
                row.what,
                f"{row.expected:.4g} {row.unit}",
                f"{row.measured:.4g} {row.unit}",
                f"{row.deviation:+.1%}",
                f"{row.limit:.0%}",
                "holds" if row.holds else "**fails**",
            )
            for row in rows
        ),
    ]
