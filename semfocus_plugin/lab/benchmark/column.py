"""A simulated column of its own for the benchmark: any aperture, probe, raster and fault; disc or wave optics.

It shares nothing with the emulator's optics. A frame is a sharp sample convolved with the probe, sampled with noise.
The probe is an elliptical disc, or the intensity of a wave that a circular pupil with the aberration
W = ½ θ² (z + a cos 2(φ − φ₀)) focuses, each convolved with a Gaussian for the source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import OutOfRangeError
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities, Range
from semfocus_plugin.lab.parallel import required

__all__ = ["MARGIN", "PROBES", "SimulatedColumn"]

_Array = NDArray[np.float32]

PROBES = ("disc", "gaussian", "hollow", "halo", "soft")
"""Shapes of a geometric probe out of focus; the networks were trained on the disc alone."""

MARGIN = 48
"""Pixels around a field that its blurred picture may draw from."""

_FWHM_TO_SIGMA = 1 / 2.3548
_BANDS = 8
"""Bands of lines of one defocus each, in which a tilted sample is drawn."""


@dataclass
class SimulatedColumn:
    """A microscope with the five members that autofocus needs, and a truth.

    Parameters
    ----------
    sample : ndarray of shape (H + 2 · MARGIN, W + 2 · MARGIN), float32
        Sharp sample on the pixels of a frame, 0 to 1.
    pixel : float
        mm.
    focus : float
        Working distance of the circle of least confusion, mm.
    aperture : float
        Aperture radius, mm; the half-angle in rad is this over the working distance.
    core : float
        Diameter (full width at half maximum) of the focused probe, mm.
    position : float
        Working distance at the start, mm.
    astigmatism : tuple of float
        Half the distance between the line foci as (a cos 2θ, a sin 2θ), mm; along θ the radius is α |z + a|.
    probe : str
        Of `PROBES`: what the probe out of focus looks like, where it follows geometry.
    wavelength : float
        mm; above 0 the probe follows wave optics, else geometry.
    electrons : float
        Detected a pixel of full signal; sets the shot noise.
    lag : float
        Time constant of the detector along the line, pixels.
    row_noise : float
        Standard deviation of an offset of each line, grey levels of 255.
    automatic_contrast : bool
        Whether every frame is stretched to the same mean and deviation.
    charging : float
        Amplitude of a brightness ramp down the frame, and of a slow offset from frame to frame; share of full signal.
    tilt : float
        Change of the focus over the frame's height, mm.
    hysteresis : float
        mm; the lens is this much short of its reading, against the direction of the last move.
    step : float
        Least step of the lens, mm.
    bits : int
        8 or 16.
    limits : tuple of float
        Lowest and highest working distance, mm.
    magnification : float
        Plain number.
    seed : int
        Random seed; fixes the noise.
    reports : dict
        Further fields of the capabilities.
    """

    sample: _Array
    pixel: float
    focus: float
    aperture: float
    core: float
    position: float
    astigmatism: tuple[float, float] = (0.0, 0.0)
    probe: str = "disc"
    wavelength: float = 0.0
    electrons: float = 150.0
    lag: float = 0.0
    row_noise: float = 0.0
    automatic_contrast: bool = False
    charging: float = 0.0
    tilt: float = 0.0
    hysteresis: float = 0.0
    step: float = 0.0
    bits: int = 8
    limits: tuple[float, float] = (1.0, 50.0)
    magnification: float = 1000.0
    seed: int = 0
    reports: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng([self.seed, 7])
        height, width = self.sample.shape
        self._ky = (2 * np.pi * np.fft.fftfreq(height))[:, None]
        self._kx = (2 * np.pi * np.fft.rfftfreq(width))[None, :]
        self._direction = 0.0
        self._offset = 0.0
        self.show(self.sample)

    def show(self, sample: _Array) -> None:
        """Have another sample of the same shape under the beam; `focus` can be set besides."""
        self.sample = sample
        self._waves = np.fft.rfft2(sample)
        self._clean: dict[tuple[float, float], _Array] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Limits of the lens, and what the instrument reports of itself."""
        return Capabilities(
            Range(*self.limits, self.step),
            Range(self.magnification, self.magnification),
            model="simulated column",
            **self.reports,  # type: ignore[arg-type]
        )

    @property
    def working_distance(self) -> float:
        """Working distance as read back, mm."""
        return self.position

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        low, high = self.limits
        if not low - 1e-9 <= value <= high + 1e-9:
            raise OutOfRangeError(f"working_distance {value:g} mm is outside {low:g} to {high:g} mm")
        reached = round(value / self.step) * self.step if self.step else value
        if reached != self.position:
            self._direction = math.copysign(1.0, reached - self.position)
        self.position = reached

    @property
    def in_focus(self) -> float:
        """Working distance at which the beam is really focused, hysteresis included, mm."""
        return self.position - self._direction * self.hysteresis

    @property
    def depth_of_field(self) -> float:
        """Depth of field at the focus, mm."""
        return math.hypot(self.pixel, self.core) * self.focus / self.aperture

    @property
    def shape(self) -> tuple[int, int]:
        """Lines and pixels along a line of a frame."""
        height, width = self.sample.shape
        return height - 2 * MARGIN, width - 2 * MARGIN

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Return a frame, always of this instrument's own raster."""
        place = self.in_focus, self.focus
        if place not in self._clean:
            self._clean = {place: self._blurred(place[0])}
        signal = self._scanned(self._clean[place])
        top = 2**self.bits - 1
        pixels = np.clip(np.rint(signal * top), 0, top).astype(np.uint16 if self.bits > 8 else np.uint8)
        return Image(pixels, self.position, self.magnification, self.pixel * 1e6, scan_mode=mode)

    def close(self) -> None:
        """Do nothing."""

    def _scanned(self, clean: _Array) -> _Array:
        """Return a frame in 0 to 1: noise, lag, uneven lines, charging and the detector's own contrast."""
        random, (height, _) = self._random, clean.shape
        signal = random.poisson(np.maximum(clean, 0.0) * self.electrons) / self.electrons
        if self.lag:
            keep = math.exp(-1 / self.lag)
            for column in range(1, signal.shape[1]):
                signal[:, column] = keep * signal[:, column - 1] + (1 - keep) * signal[:, column]
        signal += random.normal(0.0, self.row_noise / 255, (height, 1))
        if self.charging:
            self._offset += 0.3 * self.charging * float(random.normal())
            ramp = np.exp(-np.arange(height) / (0.3 * height)) * random.normal()
            signal += (self.charging * ramp)[:, None] + self._offset
        if self.automatic_contrast:
            signal = 0.45 + 0.16 * (signal - signal.mean()) / max(float(signal.std()), 1e-6)
        else:
            signal = 0.15 + 0.65 * signal
        return np.asarray(signal, dtype=np.float32)

    def _blurred(self, place: float) -> _Array:
        height, width = self.shape
        inside = slice(MARGIN, MARGIN + height), slice(MARGIN, MARGIN + width)
        if abs(self.tilt) * self.aperture / self.focus < 0.25 * self.pixel:
            return self._seen(place - self.focus, place)[inside]
        picture = np.empty((height, width), np.float32)
        for band in range(_BANDS):
            lines = slice(band * height // _BANDS, (band + 1) * height // _BANDS)
            away = self.tilt * ((band + 0.5) / _BANDS - 0.5)
            picture[lines] = self._seen(place - self.focus - away, place)[inside][lines]
        return picture

    def _seen(self, defocus: float, place: float) -> _Array:
        """Return the whole sample at a defocus (mm) with the lens at `place` (mm)."""
        alpha = self.aperture / place
        transfer = self._wave_transfer(defocus, alpha) if self.wavelength else self._plain_transfer(defocus, alpha)
        sigma = self.core / self.pixel * _FWHM_TO_SIGMA
        transfer = transfer * np.exp(-0.5 * sigma**2 * (self._kx**2 + self._ky**2))
        return np.asarray(np.fft.irfft2(self._waves * transfer, self.sample.shape), dtype=np.float32)

    def _axes(self) -> tuple[float, float]:
        """Return amount (mm) and direction (rad) of the astigmatism."""
        x, y = self.astigmatism
        return math.hypot(x, y), 0.5 * math.atan2(y, x)

    def _plain_transfer(self, defocus: float, alpha: float) -> NDArray[np.float64]:
        amount, turn = self._axes()
        along = self._kx * math.cos(turn) + self._ky * math.sin(turn)
        across = self._ky * math.cos(turn) - self._kx * math.sin(turn)
        scale = alpha / self.pixel
        x = np.hypot(along * (defocus + amount) * scale, across * (defocus - amount) * scale) + 1e-9
        gaussian = np.exp(-(x**2) / 8)  # as wide as the disc: the same second moment
        if self.probe == "gaussian":
            return np.asarray(gaussian)
        j1 = required("scipy.special", "a geometric probe", "benchmark").j1
        disc = 2 * j1(x) / x
        if self.probe == "hollow":  # half the radius is dark
            return np.asarray((4 * disc - 2 * j1(x / 2) / (x / 2)) / 3)
        if self.probe == "halo":  # a quarter of the current, three times as wide
            return np.asarray(0.75 * disc + 0.25 * gaussian**9)
        return np.asarray(0.5 * (disc + gaussian) if self.probe == "soft" else disc)

    def _wave_transfer(self, defocus: float, alpha: float) -> NDArray[np.complex128]:
        """Return the transfer of the probe that a wave makes, by two matrix transforms of the pupil.

        The field in the focal plane is E(x) = ∫ P(u) exp(2πi (W(u) − α u·x) / λ) du over the pupil |u| ≤ 1 (Goodman,
        Introduction to Fourier Optics). It is sampled finer than its intensity varies, and summed into pixels.
        """
        amount, turn = self._axes()
        reach = alpha * (abs(defocus) + amount) / self.pixel + 4.0 + 2 * self.wavelength / (alpha * self.pixel)
        reach = min(math.ceil(reach), 90)
        finer = min(max(math.ceil(self.pixel * 4 * alpha / self.wavelength), 1), 6)
        waves = 0.5 * alpha**2 * (abs(defocus) + amount) / self.wavelength
        count = int(min(max(96, 10 * waves, 8 * alpha * reach * self.pixel / self.wavelength), 900))
        u = (np.arange(count) + 0.5) / count * 2 - 1
        radius2 = u[:, None] ** 2 + u**2
        along = u * math.cos(turn) + u[:, None] * math.sin(turn)
        across = u[:, None] * math.cos(turn) - u * math.sin(turn)
        phase = 0.5 * alpha**2 * ((defocus + amount) * along**2 + (defocus - amount) * across**2)
        pupil = np.where(radius2 <= 1, np.exp(2j * np.pi / self.wavelength * phase), 0).astype(np.complex64)
        size = (2 * reach + 1) * finer
        x = ((np.arange(size) + 0.5) / finer - (reach + 0.5)) * self.pixel
        kernel = np.exp((-2j * np.pi * alpha / self.wavelength) * np.outer(x, u)).astype(np.complex64)
        intensity = np.abs(kernel @ pupil @ kernel.T) ** 2
        spread = intensity.reshape(2 * reach + 1, finer, 2 * reach + 1, finer).sum(axis=(1, 3))
        height, width = self.sample.shape
        canvas = np.zeros((height, width))
        canvas[: 2 * reach + 1, : 2 * reach + 1] = spread / spread.sum()
        canvas = np.roll(canvas, (-reach, -reach), axis=(0, 1))
        return np.fft.rfft2(canvas)
