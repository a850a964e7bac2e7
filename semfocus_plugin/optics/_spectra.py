"""What two frames of one field show together: the ratio of their power spectra, whatever the sample.

A disc of radius r multiplies the power at frequency k by (2 J₁(2πkr) / 2πkr)². Of two frames of one field the spectrum
of the sample is common, so their ratio depends on the two blurs alone, and with the two working distances on the place
of the focus, sign included (Binding, Mikula & Denk, Microscopy and Microanalysis 19, 2013, use the same ratio). A blur
read off one frame (AENet's) carries the error of one texture; the ratio does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_EDGES = np.geomspace(0.0125, 0.4, 25)
"""Limits of the frequency bins, cycles a pixel."""
BEYOND_BINS = 0.42
"""Vertical frequencies (cycles a line) above which there is noise alone, independent from line to line."""
_SMALLEST, _LARGEST, _COUNT = 0.25, 80.0, 96
"""Blur radii of the table, pixels: 0 and a geometric series."""
_GROWTH = math.log(_LARGEST / _SMALLEST) / (_COUNT - 2)
RELIEF = (0.85, 0.93, 1.0, 1.07, 1.15)
"""A real sample is not flat, so a frame holds a range of blurs, which fills the zeros of a single disc."""
LEAST_TRANSFER = 2e-4
MODEL_ERROR = 0.15
"""Relative error of a power that the disc does not explain: astigmatism, charging, a sample that moved."""
COMMON = 0.3
"""What the two frames do not share of the field, as a relative error of a single mode."""
NOISE_EXCESS = 1.5
"""Detector lag and 8-bit levels make the noise's power scatter this much more than white noise does."""
LEAST_DISAGREEMENT = 1.5
"""Neighbouring frequencies are not independent: the sum of squares counts only a part of them."""
_SHOWN = 2.4
"""Sum of the weights of the rings in a sector that shows it; noise alone comes to 1 by chance, to 2 seldom."""
_LEAKAGE = 0.01
"""Share of a ring's strongest sector below which power may be that sector's own, spread by the window of the frame."""
_MOST = 12.0
"""Square that one bin adds at most to the disagreement of a pair by direction: what no blur explains is none."""
_VISIBLE = 2.0
"""Standard errors of its power at which a frequency counts half."""
_OUTLIER = 0.01
_LARGEST_SIDE = 640
SECTORS = 8
"""Directions that the half-plane of frequencies is split into."""
_RING_EDGES = np.geomspace(0.0125, 0.4, 15)
"""Limits of the rings of a sector, cycles a pixel."""
_RINGS = len(_RING_EDGES) - 1
_CENTRES, _RING_CENTRES = (np.sqrt(edges[1:] * edges[:-1]) for edges in (_EDGES, _RING_EDGES))
_MANY = 60
"""Modes of a bin in which a peak shows."""
_AROUND, _RIDGE = 6, 4.0
PERIODIC, DOMINANT = 18.0, 0.15
"""Peak of a spectrum, and its share of the power, from which a frame of a periodic sample shows little but one wave;
of noise one frame in a thousand has a peak of 14."""

_LOWEST_COLUMN = 3
"""Gain of a line and streaks change from line to line: they lie in the columns of the lowest horizontal frequencies."""


SECTOR_ANGLES = np.arange(SECTORS) * math.pi / SECTORS - math.pi / 2
"""Direction of every sector in radians, from the lines towards the next line."""


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Radial power spectrum of a frame, relative to its squared mean grey level.

    Parameters
    ----------
    power : ndarray of shape (24,), float64
        Of the sample: noise is taken off.
    error : ndarray of shape (24,), float64
        Variance of `power`.
    frequency : ndarray of shape (24,), float64
        Mean frequency of the power in every bin, cycles a pixel: a periodic sample has it at one frequency alone.
    sectors, sectors_error, sectors_frequency : ndarray of shape (8, 14), float64
        The same by direction and frequency; the middle of sector k is at `SECTOR_ANGLES[k]`.
    sectors_direction : ndarray of shape (8, 14), complex128
        Mean of exp(2iφ) of the power there, φ being its direction: a pattern has it at one direction alone.
    peak : float
        How far the strongest mode stands out: some 10 for textures, 18 and more for periodic samples.
    dominance : float
        Share of that mode and its surroundings in the power of the sample.
    period : float
        Pixels; of that mode.
    """

    power: Array
    error: Array
    frequency: Array
    sectors: Array
    sectors_error: Array
    sectors_frequency: Array
    sectors_direction: Array
    peak: float
    dominance: float
    period: float

    @property
    def wave(self) -> bool:
        """Whether the frame shows little but one wave."""
        return self.peak >= PERIODIC and self.dominance >= DOMINANT


def spectrum(pixels: NDArray[Any]) -> Spectrum:
    """Return the radial power spectrum of a raw frame.

    Noise is independent from line to line, so at every horizontal frequency its power is that of the highest vertical
    ones, where no sample is left; detector lag, which acts along lines, is in it.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), any real dtype
        The middle of a frame that is larger than 640 pixels is taken.
    """
    height, width = pixels.shape
    top, left = max(0, height - _LARGEST_SIDE) // 2, max(0, width - _LARGEST_SIDE) // 2
    frame = pixels[top : top + _LARGEST_SIDE, left : left + _LARGEST_SIDE].astype(np.float32)
    window, weight, squares, cells, frequencies, cosines, sines, bins, rings, sectors, noisy = _geometry(*frame.shape)
    mean = float(frame.mean(dtype=np.float64))
    frame = frame / np.float32(mean if mean > 0 else 1.0)
    frame -= np.float32(float((frame * window).sum(dtype=np.float64)) / weight)
    power = power_of(frame * window) / np.float32(squares)
    column = power[noisy].mean(axis=0)
    by_cell = [np.bincount(cells, values.ravel()) for values in (power, power * frequencies)]
    total, first, floor = *(rings.of(values) for values in by_cell), rings.columns @ column
    by_sector, moments, below = *(sectors.of(values) for values in by_cell), sectors.columns @ column
    sample = power - column
    cosine, sine = (sectors.of(np.bincount(cells, (sample * part).ravel())) for part in (cosines, sines))
    shown = by_sector - below
    counts, sector_counts = rings.counts, sectors.counts
    peak, where, lobe = _peak(power, bins, total / counts, counts)
    shape = SECTORS, _RINGS
    return Spectrum(
        power=(total - floor) / counts,
        error=variance((total - floor) / counts, floor / counts, counts),
        frequency=_mean(first, total, _CENTRES),
        sectors=(shown / sector_counts).reshape(shape),
        sectors_error=variance(shown / sector_counts, below / sector_counts, sector_counts).reshape(shape),
        sectors_frequency=_mean(moments.reshape(shape), by_sector.reshape(shape), _RING_CENTRES),
        sectors_direction=_mean_direction(cosine + 1j * sine, shown).reshape(shape),
        peak=peak,
        dominance=lobe / max(float((total - floor).sum()), 1e-30),
        period=1 / max(float(frequencies.flat[where]), 1e-3),
    )


def transform_of(frames: Array) -> Array:
    """Return the Fourier transform over the last two axes, complex64.

    One that is not normalised takes numpy 2.4 six times as long.
    """
    return np.asarray(np.fft.rfft2(frames.astype(np.float32, copy=False), norm="forward"))


def power_of(frames: Array) -> Array:
    """Return the squares of the Fourier transform over the last two axes, float32."""
    transform = transform_of(frames)
    return np.asarray((transform.real**2 + transform.imag**2) * np.float32(math.prod(frames.shape[-2:]) ** 2))


def _mean(moment: Array, total: Array, centre: Array) -> Array:
    return np.where(total > 0, moment / np.maximum(total, 1e-30), centre)


def _mean_direction(moment: Array, total: Array) -> Array:
    # Where noise is taken off little is left of weak bins; a mean of exp(2iφ) is of length 1 at most.
    return np.asarray(moment / np.maximum(np.maximum(total, np.abs(moment)), 1e-30))


def _peak(power: Array, bins: Array, mean: Array, counts: Array) -> tuple[float, int, float]:
    """Return how far the strongest mode stands out from its bin, its index, and the power around it.

    Where it stands out less from its surroundings, that counts.
    The edge of a sample makes a ridge, of which every mode has neighbours like itself.
    """
    scale = np.zeros(len(mean) + 2, np.float32)
    scale[1:-1] = np.where(counts >= _MANY, 1 / np.maximum(mean, 1e-30), 0.0)
    relative = power * scale.take(bins)
    relative[:, :_LOWEST_COLUMN] = 0.0
    y, x = divmod(int(relative.argmax()), relative.shape[1])
    rows = np.arange(y - _AROUND, y + _AROUND + 1) % len(relative)
    left = max(x - _AROUND, 0)
    around = power[rows, left : x + _AROUND + 1].copy()
    inside = slice(_AROUND - 2, _AROUND + 3), slice(max(x - 2 - left, 0), x + 3 - left)
    lobe = float(around[inside].sum())
    top = float(power[y, x])
    around[inside] = 0.0
    standing = min(float(relative[y, x]), _RIDGE * top / max(float(around.max()), 1e-30))
    return standing, y * relative.shape[1] + x, lobe


def variance(power: Array, floor: Array, modes: Array) -> Array:
    """Return the variance of a mean power of `modes` independent modes, noise of power `floor` taken off."""
    sample = np.maximum(power, 0.0)
    grain = (2 * sample * floor + floor**2) * (NOISE_EXCESS / modes)
    return np.asarray(grain + (MODEL_ERROR**2 + COMMON**2 / modes) * sample**2 + 1e-18)


class Pair:
    """Log-likelihood of the blurs of two frames of one field at one magnification.

    Parameters
    ----------
    first, second : Spectrum
        Of the two frames.
    """

    def __init__(self, first: Spectrum, second: Spectrum) -> None:
        transfer = _disc_power(
            _radii(), _common_frequency(first.frequency, first.power, second.frequency, second.power)
        )
        weight = _visible(first, second)
        power = [(s.power * np.sqrt(weight)).astype(np.float32) for s in (first, second)]
        error = [s.error.astype(np.float32) for s in (first, second)]
        disagreement = _disagreement(transfer, power[0], power[1], error[0], error[1])
        least = float(disagreement.min())
        scale = max(LEAST_DISAGREEMENT, 2 * least / max(float(weight.sum()), 1.0))
        likelihood = np.exp(-0.5 * (disagreement - least) / scale)
        self._table = np.log((1 - _OUTLIER) * likelihood + _OUTLIER).ravel()

    def __call__(self, first: Array, second: Array) -> Array:
        """Return the log-likelihood of blur radii (pixels, any shapes that broadcast), float32."""
        (i, di), (j, dj) = _position(first), _position(second)
        base = i * _COUNT + j
        low, low_next = self._table.take(base), self._table.take(base + 1)
        low = low + dj * (low_next - low)
        base += _COUNT
        high, high_next = self._table.take(base), self._table.take(base + 1)
        high = high + dj * (high_next - high)
        return np.asarray(low + di * (high - low))


class SectorPair:
    """Disagreement of two frames of one field about their blurs, direction by direction.

    Parameters
    ----------
    first, second : Spectrum
        Of the two frames.

    Attributes
    ----------
    terms : float
        Bins that show the sample.
    directions : int
        Sectors that show the sample, of eight; a pattern of stripes shows in one or two.
    shares : ndarray of shape (8,)
        Of the power of the sample, of every sector.
    """

    def __init__(self, first: Spectrum, second: Spectrum) -> None:
        common = _common_frequency(first.sectors_frequency, first.sectors, second.sectors_frequency, second.sectors)
        weight = _weight(first.sectors, first.sectors_error, second.sectors, second.sectors_error)
        power = np.maximum(first.sectors, second.sectors)
        weight *= power > _LEAKAGE * power.max(axis=0)
        self.terms = float(weight.sum())
        self.directions = int((np.where(weight > 0.5, weight, 0.0).sum(axis=1) >= _SHOWN).sum())
        shown = np.maximum(power * weight, 0.0).sum(axis=1)
        self.shares = shown / max(float(shown.sum()), 1e-30)
        root = np.sqrt(weight)
        one, other = ((s.sectors * root).astype(np.float32) for s in (first, second))
        one_error, other_error = (s.sectors_error.astype(np.float32) for s in (first, second))
        transfer = np.moveaxis(_disc_power(_node_radii(), common), 0, 1)
        self._table = _disagreement(transfer, one, other, one_error, other_error, _MOST).ravel()

    def __call__(self, first: tuple[Array, Array], second: tuple[Array, Array]) -> Array:
        """Return the sum of squares over all sectors, shape (N,).

        Parameters
        ----------
        first, second : tuple of ndarray of shape (8, N)
            `sector_position` of the blur radii of the two frames in every sector.
        """
        (i, di), (j, dj) = first, second
        base = i * _NODES + j + _SECTOR_OFFSETS
        low, low_next = self._table.take(base), self._table.take(base + 1)
        low_next -= low
        low += dj * low_next
        base += _NODES
        high, high_next = self._table.take(base), self._table.take(base + 1)
        high_next -= high
        high += dj * high_next
        high -= low
        low += di * high
        return np.asarray(low.sum(axis=0))


def _disagreement(
    transfer: Array, one: Array, other: Array, one_error: Array, other_error: Array, most: float | None = None
) -> Array:
    """Return (P₁ T₂ − P₂ T₁)² / (var P₁ T₂² + var P₂ T₁²) for all pairs of radii, summed over frequencies.

    Parameters
    ----------
    transfer : ndarray of shape (..., R, F), float32
        T, of every radius and frequency.
    one, other, one_error, other_error : ndarray of shape (..., F), float32
        Powers and their variances.
    most : float, optional
        What one frequency adds at most.

    Returns
    -------
    ndarray of shape (..., R, R), float32
    """
    total = np.zeros((*transfer.shape[:-1], transfer.shape[-2]), np.float32)
    difference, error = np.empty_like(total), np.empty_like(total)
    for k in range(transfer.shape[-1]):  # One at a time fits into the processor's cache
        share = np.ascontiguousarray(transfer[..., k])
        squared = share * share
        first, second = (share * power[..., k, None] for power in (one, other))
        first_error, second_error = (squared * each[..., k, None] for each in (one_error, other_error))
        np.subtract(first[..., None, :], second[..., None], out=difference)
        np.square(difference, out=difference)
        np.add(first_error[..., None, :], second_error[..., None], out=error)
        difference /= error
        if most is not None:
            np.multiply(difference, np.float32(1 / most), out=error)
            error += 1
            difference /= error
        total += difference
    return total


_NODES = 72
_NODE_GROWTH = math.log(_LARGEST / _SMALLEST) / (_NODES - 2)
_SECTOR_OFFSETS = (np.arange(SECTORS) * _NODES * _NODES)[:, None]


def sector_position(radius: Array) -> tuple[Array, Array]:
    """Return where blur radii (pixels) lie in the tables of a `SectorPair`: node below, and fraction to the next."""
    scaled = radius * np.float32(1 / _SMALLEST)
    place = np.log(np.maximum(scaled, 1))
    place *= np.float32(1 / _NODE_GROWTH)
    place += 1
    np.copyto(place, scaled, where=radius < _SMALLEST)
    np.minimum(place, np.float32(_NODES - 1.001), out=place)
    index = place.astype(np.intp)
    return index, place - index


def sector_directions(spectra: Sequence[Spectrum]) -> Array:
    """Return the mean of exp(2iφ) of what frames of one field show in every sector, shape (8,).

    φ is the direction. What shows most counts: a pattern lies at one direction, not all over its sector, and near a
    line focus the radius of the blur changes much from one side of a sector to the other.
    """
    power = np.stack([np.maximum(each.sectors, 0.0) for each in spectra]) + 1e-12
    mean = (power * np.stack([each.sectors_direction for each in spectra])).sum(axis=0) / power.sum(axis=0)
    signal = np.max([np.square(each.sectors) / each.sectors_error for each in spectra], axis=0) ** 4
    return np.asarray((mean * signal).sum(axis=1) / signal.sum(axis=1))


def _visible(first: Spectrum, second: Spectrum) -> Array:
    """Return 0 to 1 for every frequency: whether either frame shows the sample there, and not noise alone."""
    return _weight(first.power, first.error, second.power, second.error)


def _weight(power: Array, error: Array, other: Array, other_error: Array) -> Array:
    signal = np.maximum(power**2 / error, other**2 / other_error)
    return np.asarray(signal / (signal + _VISIBLE**2))


def _position(radius: Array) -> tuple[Array, Array]:
    """Return the index of the table's node below a radius, and the fraction to the next."""
    scaled = radius * (1 / _SMALLEST)
    place = np.log(np.maximum(scaled, 1)) * (1 / _GROWTH) + 1
    place = np.where(radius < _SMALLEST, scaled, place)
    place = np.minimum(place, _COUNT - 1.001).astype(np.float32, copy=False)
    index = place.astype(np.intp)
    return index, place - index


@dataclass(frozen=True, slots=True, eq=False)
class _Bins:
    """Bins of modes: the bin of every cell, modes by bin, and by bin those of every horizontal frequency."""

    cell: Array
    counts: Array
    columns: Array

    def of(self, values: Array) -> Array:
        """Return sums by bin of values by cell."""
        return np.bincount(self.cell, values, len(self.counts) + 1)[:-1]


def _bins(bins: Array, cells: Array, count: int) -> _Bins:
    """Return bins, numbers from 0, of modes; those from `count` are left out."""
    width = bins.shape[1]
    bins = np.minimum(bins, count)
    cell = np.zeros(cells.max() + 1, np.int64)
    cell[cells] = bins.ravel()
    columns = np.bincount((bins * width + np.arange(width)).ravel(), minlength=(count + 1) * width)
    columns = columns.reshape(-1, width)[:-1]
    return _Bins(cell, np.maximum(columns.sum(axis=1), 1), columns.astype(np.float64))


@lru_cache(maxsize=4)
def _geometry(height: int, width: int) -> tuple[Any, ...]:
    """Return what spectra of a size of frames have in common.

    Window, the sums of it and of its squares, cell and frequency of every mode, cos 2φ and sin 2φ of its direction φ,
    its ring, bins by ring, bins by sector and ring, lines of noise alone. A cell is what is of one ring, one sector,
    and one ring of that.
    """
    window = (np.hanning(height)[:, None] * np.hanning(width)).astype(np.float32)
    vertical = np.abs(np.fft.fftfreq(height))
    horizontal = np.fft.rfftfreq(width)
    frequency = np.hypot(vertical[:, None], horizontal)
    bins = np.digitize(frequency, _EDGES)
    direction = np.arctan2(np.fft.fftfreq(height)[:, None], horizontal)
    ring = np.digitize(frequency, _RING_EDGES) - 1
    sector = np.floor((direction / math.pi + 0.5) * SECTORS + 0.5).astype(np.int64) % SECTORS
    used = (ring >= 0) & (ring < _RINGS) & (np.arange(len(horizontal)) >= _LOWEST_COLUMN)
    sectors = np.where(used, sector * _RINGS + ring, SECTORS * _RINGS)
    cells = np.unique(bins * (SECTORS * _RINGS + 1) + sectors, return_inverse=True)[1].ravel()
    return (
        window,
        float(window.sum(dtype=np.float64)),
        float(np.square(window).sum(dtype=np.float64)),
        cells,
        frequency.astype(np.float32),
        np.cos(2 * direction).astype(np.float32),
        np.sin(2 * direction).astype(np.float32),
        bins,
        _bins((bins - 1) % (len(_EDGES) + 1), cells, len(_EDGES) - 1),
        _bins(sectors, cells, SECTORS * _RINGS),
        vertical > BEYOND_BINS,
    )


@lru_cache(maxsize=1)
def _radii() -> Array:
    """Return the blur radii of the table of a `Pair`, shape (96,)."""
    return np.concatenate([[0.0], _SMALLEST * np.exp(_GROWTH * np.arange(_COUNT - 1))])


@lru_cache(maxsize=1)
def _node_radii() -> Array:
    """Return those of a `SectorPair`, shape (72,)."""
    return np.concatenate([[0.0], _SMALLEST * np.exp(_NODE_GROWTH * np.arange(_NODES - 1))])


def _common_frequency(first: Array, power: Array, second: Array, other: Array) -> Array:
    """Return the mean frequency of the power that two frames have in every bin."""
    one, two = np.maximum(power, 0.0) + 1e-12, np.maximum(other, 0.0) + 1e-12
    return np.asarray((first * one + second * two) / (one + two))


def _disc_power(radii: Array, frequencies: Array) -> Array:
    """Return the share of power that discs leave, shape (radii, *frequencies), float32."""
    return transfer(np.multiply.outer(radii, 2 * math.pi * frequencies)).astype(np.float32)


_STEP, _END, _TURNS = 0.02, 210.0, 256


def transfer(argument: Array) -> Array:
    """Return the share of power that a disc leaves.

    Parameters
    ----------
    argument : ndarray
        2π · frequency (cycles a pixel) · radius of the disc (pixels).

    Returns
    -------
    ndarray of the same shape, float64
        (2 J₁(x) / x)² over a small range of radii, and a small constant.
    """
    table = _transfer_table()
    place = np.minimum(argument * (1 / _STEP), len(table) - 1.001)
    index = place.astype(np.int32)
    low = table.take(index)
    return np.asarray(low + (place - index) * (table.take(index + 1) - low))


@lru_cache(maxsize=1)
def _transfer_table() -> Array:
    """Return `transfer` on a grid; 2 J₁(x)/x by Poisson's integral, (2/π) ∫ cos(x cos t) sin² t dt over 0..π."""
    x = np.arange(0.0, _END * max(RELIEF) + 2 * _STEP, _STEP)
    t = (np.arange(_TURNS) + 0.5) * (math.pi / _TURNS)
    disc = np.concatenate(
        [2 * np.cos(np.outer(part, np.cos(t))) @ np.sin(t) ** 2 / _TURNS for part in np.array_split(x, 64)]
    )
    grid = np.arange(0.0, _END, _STEP)
    return np.asarray(np.mean([np.interp(grid * f, x, disc**2) for f in RELIEF], axis=0) + LEAST_TRANSFER)
