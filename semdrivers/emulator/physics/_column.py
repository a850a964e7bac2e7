"""The electron column: a specimen, seen through the optics, as the detector reports it.

A frame is the sharp specimen convolved, in Fourier space, with the probe: a disc of radius α|z| for defocus z (an
ellipse with astigmatism), a Gaussian for the probe's core, a first-order lag along the line. Relief is drawn as a few
layers of equal height, each with its own disc. With the distance from best focus the image shifts, turns and grows.
Discs wider than 12 pixels are drawn on a coarser grid that covers a wider piece of the specimen, so that a frame costs
the same at any defocus.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semdrivers.emulator.physics._coupling as coupling
import semdrivers.emulator.physics._detector as detector
import semdrivers.emulator.physics._optics as optics
import semdrivers.emulator.physics._orientation as orientation
from firmware_protocol.profile import EM30, InstrumentProfile
from semdrivers.emulator.physics._contamination import Film
from semdrivers.emulator.physics._emission import Emission
from semdrivers.emulator.physics._presets import ColumnPreset, preset_named
from semdrivers.emulator.physics._scan import ScanConditions, Truth
from semdrivers.emulator.specimens import Array, Specimen, Window

_MARGIN = 20
_WIDEST_DISC = 12.0
_COARSEST = 6
_MAX_LAYERS = 5
# Layers of a tilted sample: each is a band of lines, and its focus should join that of the next
_MAX_BANDS_IN_FOCUS = 15
_BANDS = 5
_FWHM_TO_SIGMA = 1 / 2.3548
_UPRIGHT = 15.0
"""Working distance, mm, at which the axes of the stigmator lie as they are named."""
_FAST_WIDTH, _FAST_HEIGHT = 320, 240
_STEP = 8
"""Pixels by which the window on a drifting specimen moves; the rest is a shift of the picture, for which it lasts."""

_Surfaces = OrderedDict[tuple[Window, float, float], tuple[Array, Array]]
"""Intensity and height by window, tilt and rotation."""


@dataclass(frozen=True, slots=True, eq=False)
class _Canvas:
    """The sharp specimen around a field, in Fourier space, split into layers of equal height."""

    shape: tuple[int, int]
    heights: tuple[float, ...]
    tones: tuple[NDArray[np.complex64], ...]
    masks: tuple[NDArray[np.complex64], ...]


class ElectronColumn:
    """Draws frames of one specimen under one column. Same seed and conditions, same bytes.

    Parameters
    ----------
    specimen : Specimen
        What lies under the beam.
    seed : int
        Random seed; fixes the sample's height and tilt, the residual astigmatism and the noise.
    preset : str or ColumnPreset
        How awkward the column is.
    profile : InstrumentProfile
        Its constants: aperture, gun, aberrations, yield, field width.
    best_working_distance : float, optional
        Height of the sample at stage (0, 0), as the working distance of best focus in mm; 11 to 20 mm by seed.
    """

    def __init__(
        self,
        specimen: Specimen,
        *,
        seed: int = 0,
        preset: str | ColumnPreset = "typical",
        profile: InstrumentProfile = EM30,
        best_working_distance: float | None = None,
    ) -> None:
        self.specimen = specimen
        self.seed = seed
        self.preset = preset_named(preset)
        self.profile = profile
        random = np.random.default_rng([seed, 1])
        height, tilt_x, tilt_y, astigmatism, angle, drift = random.random(6)
        self._base = best_working_distance if best_working_distance is not None else 11.5 + 8.0 * height
        self._tilt = self.preset.tilt * 1e-3 * (2 * tilt_x - 1), self.preset.tilt * 1e-3 * (2 * tilt_y - 1)
        amount, turn = self.preset.astigmatism * astigmatism, math.pi * angle
        amount_of_column, angle_of_column = np.random.default_rng([seed, 5]).random(2)
        of_column, turn_of_column = self.preset.column_astigmatism * amount_of_column, 2 * math.pi * angle_of_column
        self._residual = (
            amount * math.cos(2 * turn) + of_column * math.cos(turn_of_column),
            amount * math.sin(2 * turn) + of_column * math.sin(turn_of_column),
        )
        direction_of_drift = math.cos(2 * math.pi * drift), math.sin(2 * math.pi * drift)
        self._drift = tuple((self.preset.drift + self.preset.lateral_drift) * each for each in direction_of_drift)
        self._speed = (
            -self.preset.lateral_drift * direction_of_drift[0],
            -self.preset.lateral_drift * direction_of_drift[1],
        )
        direction = 2 * math.pi * random.random()
        away = self.preset.image_shift * profile.shift_coupling
        self._shift = away * math.cos(direction), away * math.sin(direction)
        self._rotation = math.radians(self.preset.image_rotation * profile.rotation_coupling)
        self._growth = self.preset.magnification_change * profile.magnification_coupling
        self._film = Film(self.preset.contamination, profile.contamination_dose)
        self._emission = Emission(self.preset.emission, np.random.default_rng([seed, 4]))
        self._canvases: OrderedDict[tuple[float, ...], _Canvas] = OrderedDict()
        self._surfaces = _surfaces_of(specimen)
        self._mean_heights: OrderedDict[tuple[float, ...], float] = OrderedDict()

    def best_working_distance(self, conditions: ScanConditions) -> float:
        """Area-weighted best working distance (mm) of the FAST field at these conditions."""
        key = _place(conditions)
        if key not in self._mean_heights:
            fast = dataclasses.replace(conditions, width=_FAST_WIDTH, height=_FAST_HEIGHT)
            height = self._surface(fast, 0)[1][_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
            self._mean_heights[key] = float(height.mean())
            _trim(self._mean_heights, 256)
        return self._plane(conditions) + self._mean_heights[key] * 1e-3

    def truth(self, conditions: ScanConditions, width: int = _FAST_WIDTH) -> Truth:
        """Return the ideal at these conditions, for a frame `width` pixels wide: FAST by default."""
        conditions = self._drifted(conditions)
        best = self.best_working_distance(conditions)
        pixel = optics.pixel_size(conditions.magnification, width, self.profile.field_width_at_unity)
        alpha = optics.half_angle(best, self.profile.aperture_radius)
        depth = optics.depth_of_field(pixel, self._core(alpha, conditions), alpha)
        distance = conditions.working_distance + conditions.focus_offset
        defocus = distance - best
        disc = optics.half_angle(distance, self.profile.aperture_radius) * abs(defocus) * 1e6
        return Truth(
            best, depth, disc / pixel, optics.ideal_score(defocus / depth), self._astigmatism(conditions), self._speed
        )

    def _drifted(self, conditions: ScanConditions) -> ScanConditions:
        """Return the conditions with drift and stigmator in them: another stage position, and the rest as a shift.

        A picture that a shift alone moved far would need a coarser canvas, and lose what is fine in it.
        """
        if not (self.preset.lateral_drift or self.preset.stigmator_shift):
            return conditions
        pixel = optics.pixel_size(conditions.magnification, conditions.width, self.profile.field_width_at_unity)
        axes = conditions.stigmator_x, conditions.stigmator_y
        gone = [
            speed * conditions.start_time + self.preset.stigmator_shift * axis
            for speed, axis in zip(self._speed, axes, strict=True)
        ]
        whole = [_STEP * pixel * round(each / (_STEP * pixel)) for each in gone]
        return dataclasses.replace(
            conditions,
            stage_x=conditions.stage_x - whole[0] * 1e-6,
            stage_y=conditions.stage_y - whole[1] * 1e-6,
            shift_x=gone[0] - whole[0],
            shift_y=gone[1] - whole[1],
        )

    def _astigmatism(self, conditions: ScanConditions) -> tuple[float, float]:
        """Both components, µm: of the column, and what the stigmator adds; its axes turn with the working distance."""
        turned = math.radians(2 * self.preset.stigmator_rotation * (conditions.working_distance - _UPRIGHT))
        x, y = conditions.stigmator_x, conditions.stigmator_y
        return (
            self._residual[0] + x * math.cos(turned) - y * math.sin(turned),
            self._residual[1] + x * math.sin(turned) + y * math.cos(turned),
        )

    def _plane(self, conditions: ScanConditions) -> float:
        x, y = conditions.stage_x, conditions.stage_y
        bow = self.preset.bow * 1e-3 * (x * x + y * y)
        drift = self.preset.height_drift * 1e-6 * conditions.start_time
        return self._base + self._tilt[0] * x + self._tilt[1] * y + bow + drift

    def _core(self, alpha: float, conditions: ScanConditions) -> float:
        return optics.probe_core_of(self.profile, alpha, conditions.accelerating_voltage, conditions.beam_current)

    def render(self, conditions: ScanConditions) -> NDArray[Any]:
        """Return the frame, shape (height, width), uint8 or uint16."""
        conditions = self._drifted(conditions)
        random = np.random.default_rng([self.seed, 2, conditions.frame_id, conditions.width])
        if conditions.beam_on:
            moving = self.preset.lens_motion and conditions.lens_travel
            signal = self._in_motion(conditions) if moving else self._blurred(conditions)
            signal = self._displaced(self._contaminated(signal, conditions), conditions, random)
            if self.preset.emission:
                lines = np.arange(conditions.height) * conditions.width * conditions.dwell_time
                signal *= self._emission.at(conditions.start_time + lines)[:, None]
        else:
            signal = np.zeros((conditions.height, conditions.width), np.float32)
        if self.preset.noise:
            electrons = optics.electrons_per_pixel(conditions.beam_current, conditions.dwell_time)
            signal = detector.shot_noise(signal, max(electrons, 1e-3), self.profile.secondary_yield, random)
        if conditions.beam_on:
            signal = self._uneven(signal, random)
            signal = self._disturbed(signal, np.random.default_rng([self.seed, 9, conditions.frame_id]))
            if self.preset.auto_brightness:
                return detector.stretched(signal, conditions.bits)
        return detector.grey_levels(signal, conditions.brightness, conditions.contrast, conditions.bits)

    def _in_motion(self, conditions: ScanConditions) -> Array:
        """The signal of a frame during which the lens moves: bands of lines, each as the lens stands in its middle."""
        signal = np.empty((conditions.height, conditions.width), np.float32)
        lines = conditions.height // _BANDS
        for band in range(_BANDS):
            time = (band + 0.5) * lines * conditions.width * conditions.dwell_time
            gone = conditions.lens_travel * (1 - math.exp(-time / self.profile.lens_time_constant))
            distance = conditions.working_distance + gone
            part = slice(band * lines, (band + 1) * lines if band < _BANDS - 1 else None)
            signal[part] = self._blurred(dataclasses.replace(conditions, working_distance=distance))[part]
        return signal

    def _blurred(self, conditions: ScanConditions) -> Array:
        """The noise-free signal on the frame's pixels."""
        width, height = conditions.width, conditions.height
        pixel = optics.pixel_size(conditions.magnification, width, self.profile.field_width_at_unity)
        distance = conditions.working_distance + conditions.focus_offset
        alpha = optics.half_angle(distance, self.profile.aperture_radius)
        defocus = (distance - self._plane(conditions)) * 1e3
        away = distance - self.best_working_distance(conditions)
        a, b = self._astigmatism(conditions)
        astigmatism, angle = math.hypot(a, b), 0.5 * math.atan2(b, a)
        typical_disc = alpha * (abs(away) * 1e3 + astigmatism) * 1e3 / pixel
        x, y = (
            (each * away * 1e3 + moved) / pixel
            for each, moved in zip(self._shift, (conditions.shift_x, conditions.shift_y), strict=True)
        )
        reach = max(typical_disc / _WIDEST_DISC, (typical_disc + math.hypot(x, y)) / _MARGIN)
        octave = 0
        while reach / 2**octave > 1 and octave < _COARSEST:
            octave += 1
        canvas = self._canvas(conditions, octave)
        grid = optics.frequency_grid(canvas.shape)
        scale = pixel * 2**octave

        def disc(height: float) -> Array:
            z = defocus - height
            per_micrometre = alpha * 1e3 / scale
            return grid.disc(abs(z + astigmatism) * per_micrometre, abs(z - astigmatism) * per_micrometre, angle)

        discs = [disc(height) for height in canvas.heights]
        spectrum = _sum_of_products(canvas.tones, discs)
        core = self._core(alpha, conditions) / scale * _FWHM_TO_SIGMA
        spectrum *= grid.gaussian(round(core, 4))
        lag = self.preset.detector_lag * width / _FAST_WIDTH / 2**octave
        if lag:
            spectrum *= grid.lag(lag)
        if x or y:
            coupling.shift(spectrum, grid, x / 2**octave, y / 2**octave)
        image: Array = np.fft.irfft2(spectrum, canvas.shape).astype(np.float32, copy=False)
        if canvas.masks:
            cover = _sum_of_products(canvas.masks, discs)
            if x or y:
                coupling.shift(cover, grid, x / 2**octave, y / 2**octave)
            image /= np.maximum(np.fft.irfft2(cover, canvas.shape), np.float32(0.2))
        image = coupling.turn(image, self._rotation * away, 1 + self._growth * away)
        if octave == 0:
            return np.ascontiguousarray(image[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width])
        return _enlarged(image, octave, width, height)

    def _canvas(self, conditions: ScanConditions, octave: int) -> _Canvas:
        """Return the (cached) transformed specimen around the field, on pixels 2**octave times the frame's."""
        key = (*_place(conditions), conditions.width, octave)
        if key in self._canvases:
            self._canvases.move_to_end(key)
            return self._canvases[key]
        tone, height = self._surface(conditions, octave)
        pixel = optics.pixel_size(conditions.magnification, conditions.width, self.profile.field_width_at_unity)
        alpha = optics.half_angle(self._base, self.profile.aperture_radius)
        depth = optics.depth_of_field(pixel * 2**octave, self._core(alpha, conditions), alpha) * 1e3
        canvas = self._canvases[key] = _layered(
            tone, height, depth, _MAX_BANDS_IN_FOCUS if conditions.stage_tilt else _MAX_LAYERS
        )
        _trim(self._canvases, 24)
        return canvas

    def _surface(self, conditions: ScanConditions, octave: int) -> tuple[Array, Array]:
        """The sharp specimen (intensity, height in µm) around the field.

        On a coarse grid the field itself is the fine surface averaged, so that what a frame shows does not depend on
        the grid that its blur was drawn on; only the surroundings are rendered coarsely.
        """
        step = 2**octave
        width, height = conditions.width, conditions.height
        pixel = optics.pixel_size(conditions.magnification, width, self.profile.field_width_at_unity) * 1e-3
        shape = height // step + 2 * _MARGIN, width // step + 2 * _MARGIN
        if octave == 0:
            window = _centred(conditions.stage_x, conditions.stage_y, pixel, shape[1], shape[0])
            key = window, conditions.stage_tilt, conditions.stage_rotation
            surface = self._surfaces.get(key)
            if surface is None:
                surface = self._surfaces[key] = self._seen(conditions, window)
                _trim(self._surfaces, 4)
            return surface
        window = _centred(conditions.stage_x, conditions.stage_y, pixel * step, shape[1], shape[0])
        coarse = self._seen(conditions, window)
        return tuple(  # type: ignore[return-value]
            _with_centre(around, _averaged(fine, step, (height // step, width // step)))
            for around, fine in zip(coarse, self._surface(conditions, 0), strict=True)
        )

    def _seen(self, conditions: ScanConditions, window: Window) -> tuple[Array, Array]:
        return orientation.seen(self.specimen, window, conditions.stage_tilt, conditions.stage_rotation)

    def _contaminated(self, signal: Array, conditions: ScanConditions) -> Array:
        if not (self.preset.contamination and conditions.exposures):
            return signal
        pixel = optics.pixel_size(conditions.magnification, conditions.width, self.profile.field_width_at_unity)
        blur = self.truth(conditions, conditions.width).blur_radius
        return signal * self._film.transmission(conditions, pixel * 1e-3, blur)

    def _displaced(self, signal: Array, conditions: ScanConditions, random: np.random.Generator) -> Array:
        """Shift every line by jitter, hum and drift."""
        preset = self.preset
        if not (preset.line_jitter or preset.hum or preset.drift or preset.lateral_drift):
            return signal
        height, width = signal.shape
        pixel = optics.pixel_size(conditions.magnification, width, self.profile.field_width_at_unity)
        line_time = conditions.dwell_time * width
        time = np.arange(height) * line_time
        shift: Array = preset.line_jitter * width / _FAST_WIDTH * random.standard_normal(height)
        phase = 2 * math.pi * 50.0 * (conditions.start_time % 0.02)
        shift += preset.hum / pixel * np.sin(2 * math.pi * 50.0 * time + phase)
        shift = shift + self._drift[0] / pixel * (time - time[-1] / 2)
        down = self._drift[1] / pixel * (time - time[-1] / 2)
        rows = np.clip(np.rint(np.arange(height) + down), 0, height - 1).astype(np.int32)
        whole = np.floor(shift).astype(np.int32)
        fraction = (shift - whole).astype(np.float32)[:, None]
        columns = np.arange(width, dtype=np.int32)[None, :] + whole[:, None]
        start = (rows * width)[:, None]
        near = signal.take(start + np.clip(columns, 0, width - 1))
        near += fraction * (signal.take(start + np.clip(columns + 1, 0, width - 1)) - near)
        return near

    def _uneven(self, signal: Array, random: np.random.Generator) -> Array:
        """Add line gain, charging ramp and streaks."""
        preset = self.preset
        height, width = signal.shape
        if preset.row_gain:
            signal *= (1 + preset.row_gain * random.standard_normal((height, 1))).astype(np.float32)
        if preset.charging:
            x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
            y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
            a, b = (preset.charging * random.standard_normal(2)).astype(np.float32)
            length, struck = random.standard_exponential(height), random.random(height) < 0.04
            streak: Array = np.asarray(preset.charging * length * struck, np.float32)
            signal += a * x + b * y + streak[:, None] * np.exp(-(x + 1))
        return signal

    def _disturbed(self, signal: Array, random: np.random.Generator) -> Array:
        """Add bands, and noise correlated along the line."""
        preset = self.preset
        height, width = signal.shape
        if preset.banding:
            swings, phase = random.uniform(2, 12), random.uniform(0, 2 * math.pi)
            bands = np.sin(2 * math.pi * swings * np.arange(height) / height + phase)
            signal *= (1 + preset.banding * bands).astype(np.float32)[:, None]
        if preset.line_noise:
            length = max(round(preset.line_correlation * width / _FAST_WIDTH), 1)
            signal += np.float32(preset.line_noise) * detector.line_noise(height, width, length, random)
        return signal


def _surfaces_of(specimen: Specimen) -> _Surfaces:
    """Return what has been drawn of a specimen; equal ones share it, so that a second instrument starts at once."""
    if isinstance(specimen, Hashable) and type(specimen).__eq__ is not object.__eq__:
        with contextlib.suppress(TypeError):  # a field of it has no hash
            return _drawn(specimen)
    return OrderedDict()


@functools.lru_cache(maxsize=4)
def _drawn(specimen: Hashable) -> _Surfaces:
    return OrderedDict()


def _place(conditions: ScanConditions) -> tuple[float, ...]:
    """What decides which piece of the specimen fills the field."""
    pose = conditions.stage_x, conditions.stage_y, conditions.stage_tilt, conditions.stage_rotation
    return (*pose, conditions.magnification)


def _centred(stage_x: float, stage_y: float, pixel: float, columns: int, rows: int) -> Window:
    """The window whose middle is at a stage position; stage in mm, pixel in µm."""
    return Window(
        stage_x * 1e3 - (columns - 1) / 2 * pixel, stage_y * 1e3 - (rows - 1) / 2 * pixel, pixel, columns, rows
    )


def _averaged(fine: Array, step: int, field: tuple[int, int]) -> Array:
    """Average squares of `step` pixels of the middle of a surface: the field and as much of its margin as fits."""
    rows, columns = (n + 2 * (_MARGIN // step) for n in field)
    top, left = (fine.shape[0] - rows * step) // 2, (fine.shape[1] - columns * step) // 2
    middle = fine[top : top + rows * step, left : left + columns * step]
    return middle.reshape(rows, step, columns, step).mean(axis=(1, 3))


def _with_centre(around: Array, centre: Array) -> Array:
    """Lay `centre` on the middle of `around`, whose level is brought to that of the centre."""
    top, left = (around.shape[0] - centre.shape[0]) // 2, (around.shape[1] - centre.shape[1]) // 2
    middle = slice(top, top + centre.shape[0]), slice(left, left + centre.shape[1])
    surface = around + (centre.mean() - around[middle].mean())
    surface[middle] = centre
    return surface


def _layered(tone: Array, height: Array, depth_of_field: float, most: int) -> _Canvas:
    """Split the specimen by height into layers of at most ¾ of a depth of field (µm), `most` of them at most."""
    low, high = (float(q) for q in np.percentile(height, [1, 99]))
    count = min(max(math.ceil((high - low) / (0.75 * depth_of_field)), 1), most)
    if count == 1:
        return _Canvas(tone.shape, (float(height.mean()),), (_transform(tone),), ())
    edges = np.linspace(low, high, count + 1)[1:-1]
    index = np.digitize(height, edges)
    used = [k for k in range(count) if (index == k).any()]
    members = [index == k for k in used]
    return _Canvas(
        tone.shape,
        tuple(float(height[m].mean()) for m in members),
        tuple(_transform(np.where(m, tone, np.float32(0))) for m in members),
        tuple(_transform(m.astype(np.float32)) for m in members),
    )


def _sum_of_products(spectra: tuple[NDArray[np.complex64], ...], discs: list[Array]) -> NDArray[np.complex64]:
    total = spectra[0] * discs[0]
    for spectrum, disc in zip(spectra[1:], discs[1:], strict=True):
        total += spectrum * disc
    return total


def _transform(image: Array) -> NDArray[np.complex64]:
    return np.fft.rfft2(image).astype(np.complex64, copy=False)


def _enlarged(image: Array, octave: int, width: int, height: int) -> Array:
    """Interpolate the middle of a coarse image to the frame's pixels, by cubic splines."""
    rows, row_weights = _spline(height, image.shape[0], 2**octave)
    columns, column_weights = _spline(width, image.shape[1], 2**octave)
    # Summed by taps, not as a product of matrices: a BLAS may share that among threads, and the last bits with them.
    tall = sum(weight[:, None] * image.take(row, axis=0) for row, weight in zip(rows, row_weights, strict=True))
    return sum(weight * tall.take(column, axis=1) for column, weight in zip(columns, column_weights, strict=True))


@functools.lru_cache(maxsize=64)
def _spline(count: int, size: int, step: int) -> tuple[NDArray[np.int64], Array]:
    """Index and weight, each (4, count), of the coarse samples that make up each of the `count` fine ones."""
    position = (np.arange(count) - (count - 1) / 2) / step + (size - 1) / 2
    base = np.floor(position).astype(np.int64)
    t = position - base
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return np.clip(base + np.arange(-1, 3)[:, None], 0, size - 1), weights.astype(np.float32)


def _trim(cache: OrderedDict[Any, Any], size: int) -> None:
    while len(cache) > size:
        cache.popitem(last=False)
