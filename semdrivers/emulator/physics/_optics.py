"""Electron optics as pure functions: geometry, probe, depth of field, transfer of the defocused probe, ideal score.

Lengths are nm unless a name says otherwise; angles are rad.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.profile import InstrumentProfile

_ELEMENTARY_CHARGE = 1.602176634e-19
_SCORE_HALF_WIDTH = 4.5


def pixel_size(magnification: float, width: int, field_width_mm: float = 128.0) -> float:
    """Pixel in nm of a frame `width` pixels wide, for a horizontal field of ``field_width_mm / magnification``."""
    return field_width_mm * 1e6 / magnification / width


def half_angle(working_distance: float, aperture_radius: float) -> float:
    """Beam half-angle in rad from working distance (mm) and aperture radius (µm)."""
    return aperture_radius * 1e-3 / working_distance


def wavelength(voltage: float) -> float:
    """Relativistic electron wavelength in nm at `voltage` kV."""
    volts = voltage * 1e3
    return 1.226 / math.sqrt(volts * (1 + 0.9788e-6 * volts))


def probe_core(
    alpha: float,
    voltage: float,
    current: float,
    *,
    brightness: float = 1e5,
    energy_spread: float = 2.0,
    spherical: float = 40.0,
    chromatic: float = 20.0,
) -> float:
    """Diameter in nm of the focused probe: source, diffraction, spherical and chromatic terms in quadrature.

    Parameters
    ----------
    alpha : float
        Half-angle, rad.
    voltage, current : float
        kV and pA.
    brightness : float
        Brightness of the gun at 20 kV, A/cm²sr; it grows in proportion to the voltage.
    energy_spread : float
        eV.
    spherical, chromatic : float
        Aberration coefficients, mm.
    """
    beta = brightness * 1e-14 * voltage / 20.0  # A / (nm² sr)
    source = math.sqrt(4 * current * 1e-12 / (beta * math.pi**2 * alpha**2))
    diffraction = 0.61 * wavelength(voltage) / alpha
    sphere = 0.5 * spherical * 1e6 * alpha**3
    chroma = chromatic * 1e6 * alpha * energy_spread / (voltage * 1e3)
    return math.sqrt(source**2 + diffraction**2 + sphere**2 + chroma**2)


def probe_core_of(profile: InstrumentProfile, alpha: float, voltage: float, current: float) -> float:
    """Return the diameter in nm of the focused probe of an instrument; the rest as in `probe_core`."""
    return probe_core(
        alpha,
        voltage,
        current,
        brightness=profile.gun_brightness,
        energy_spread=profile.energy_spread,
        spherical=profile.spherical_aberration,
        chromatic=profile.chromatic_aberration,
    )


def depth_of_field(pixel: float, core: float, alpha: float) -> float:
    """Depth of field in mm: √(pixel² + core²) / α, with pixel and core in nm."""
    return math.hypot(pixel, core) / alpha * 1e-6


def ideal_score(defocus: float) -> float:
    """Score of a frame `defocus` depths of field from best focus: 9 at focus, half at ±4.5, towards 0 beyond."""
    return 9.0 / (1.0 + (defocus / _SCORE_HALF_WIDTH) ** 2)


def electrons_per_pixel(current: float, dwell_time: float) -> float:
    """Primary electrons that reach a pixel, from pA and s."""
    return current * 1e-12 * dwell_time / _ELEMENTARY_CHARGE


_TABLE_STEP = 0.004
_TABLE_END = 60.0


@functools.cache
def _disc_table() -> NDArray[np.float32]:
    """2 J₁(x)/x on a fine grid, from Poisson's integral: (2/π) ∫ cos(x cos t) sin² t dt over 0..π."""
    x = np.arange(0.0, _TABLE_END + _TABLE_STEP, _TABLE_STEP)
    t = (np.arange(256) + 0.5) * (math.pi / 256)
    table: NDArray[np.float32] = (2 * np.cos(np.outer(x, np.cos(t))) @ np.sin(t) ** 2 / 256).astype(np.float32)
    table[-1] = 0.0
    return table


class FrequencyGrid:
    """Angular frequencies (rad/pixel) of a real FFT over `shape`, and the transfer functions on them."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.ky = (2 * np.pi * np.fft.fftfreq(shape[0])).astype(np.float32)[:, None]
        self.kx = (2 * np.pi * np.fft.rfftfreq(shape[1])).astype(np.float32)[None, :]
        self._squared = self.kx**2 + self.ky**2
        self._gaussian: tuple[float, NDArray[np.float32]] | None = None

    def disc(self, radius_u: float, radius_v: float, angle: float) -> NDArray[np.float32]:
        """Transfer of an elliptical disc: semi-axes in pixels, the first at `angle` (rad) to x."""
        if radius_u == radius_v:
            argument = np.sqrt(self._squared) * np.float32(radius_u / _TABLE_STEP)
        else:
            cosine, sine = math.cos(angle), math.sin(angle)
            along = self.kx * np.float32(cosine * radius_u) + self.ky * np.float32(sine * radius_u)
            across = self.ky * np.float32(cosine * radius_v) - self.kx * np.float32(sine * radius_v)
            argument = np.sqrt(along**2 + across**2) * np.float32(1 / _TABLE_STEP)
        table = _disc_table()
        index = np.minimum(argument + np.float32(0.5), np.float32(table.size - 1)).astype(np.int32)
        return table.take(index)

    def gaussian(self, sigma: float) -> NDArray[np.float32]:
        """Transfer of a Gaussian of standard deviation `sigma` pixels."""
        if self._gaussian is None or self._gaussian[0] != sigma:
            self._gaussian = (sigma, np.exp(self._squared * np.float32(-0.5 * sigma**2)))
        return self._gaussian[1]

    def lag(self, pixels: float) -> NDArray[np.complex64]:
        """Transfer of a first-order lag along the scan line, with time constant in pixels."""
        return (1 / (1 + 1j * self.kx * np.float32(pixels))).astype(np.complex64)


@functools.lru_cache(maxsize=16)
def frequency_grid(shape: tuple[int, int]) -> FrequencyGrid:
    """Return the (cached) grid of a canvas of `shape`."""
    return FrequencyGrid(shape)
