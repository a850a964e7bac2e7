"""What two neighbouring tiles say of the focus between them: the strip that both show.

Of one strip taken at two working distances the spectrum of the sample is common. With a disc of small radius r the
logarithm of the power falls by (π r k)² at frequency k, so the logarithm of the ratio of the two powers is a straight
line over k². Its slope is proportional to the distance of the focus from the middle of the two working distances, sign
included. Round and astigmatic parts of r² add up, so that astigmatism drops out. (The ratio is that of Binding, Mikula
& Denk, Microscopy and Microanalysis 19, 2013; see `semfocus_plugin.optics`.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.image import Image
from semfocus_plugin.optics import Beam, spectrum

LEAST_OVERLAP = 12
"""Pixels of overlap that can be compared; a spectrum needs twice as many."""
ALIKE = 0.3
"""Correlation of two strips from which they show the same."""

_PASSES = 3  # The first finds the shift, the next compare what both show
_LOWEST, _HIGHEST = 0.02, 0.3  # Cycles a pixel: below the fields differ, above there is little but noise
_VISIBLE = 0.5  # Relative variance of a ratio of powers that counts
_LEAST_BINS = 6
_EXCESS = 1.5  # Relief, hysteresis, a strip that the beam has changed: beyond the scatter about the line
_LEAST_SIGMA = 0.2  # Depths of field


@dataclass(frozen=True, slots=True)
class Joint:
    """Where two neighbours join.

    Parameters
    ----------
    row, column : int
        By how many pixels the second lies below and to the right of the first.
    alike : float
        Correlation of what both show, −1 to 1.
    """

    row: float
    column: float
    alike: float


def joint(first: Image, second: Image, row: float, column: float) -> Joint | None:
    """Return where the second tile joins the first, to a fraction of a pixel.

    Parameters
    ----------
    first, second : Image
        Of one size.
    row, column : float
        Where the second should lie, pixels below and to the right of the first.

    Returns
    -------
    Joint or None
        None where they overlap by less than 12 pixels.
    """
    import skimage.registration as registration

    correlation: Any = registration.phase_cross_correlation
    where = row, column
    for _ in range(_PASSES):
        start = round(where[0]), round(where[1])
        strips = _strips(first.pixels, second.pixels, *start)
        if strips is None:
            return None if where == (row, column) else Joint(row, column, 0.0)
        window = np.outer(*(np.hanning(n) for n in strips[0].shape))
        flat = [(strip - strip.mean()) * window for strip in strips]
        shift = correlation(*flat, upsample_factor=20, normalization=None)[0]
        where = start[0] + float(shift[0]), start[1] + float(shift[1])
    strips = _strips(first.pixels, second.pixels, round(where[0]), round(where[1]))
    if strips is None or strips[0].std() == 0 or strips[1].std() == 0:
        return Joint(row, column, 0.0)
    return Joint(*where, float(np.corrcoef(strips[0].ravel(), strips[1].ravel())[0, 1]))


def focus_between(
    first: Image, second: Image, where: Joint, beam: Beam, depth_of_field: float
) -> tuple[float, float] | None:
    """Return the working distance of focus in the strip that two tiles share, and its standard deviation, mm.

    Parameters
    ----------
    first, second : Image
        Neighbours, taken at working distances that differ.
    where : Joint
        How they join.
    beam : Beam
        Half-angle of the beam.
    depth_of_field : float
        mm; sets the least standard deviation.

    Returns
    -------
    tuple of float or None
        None where the strip shows too little.
    """
    apart = second.working_distance - first.working_distance
    strips = _strips(first.pixels, second.pixels, round(where.row), round(where.column), 2 * LEAST_OVERLAP)
    if strips is None or where.alike < ALIKE or not abs(apart) > 0:
        return None
    one, other = (spectrum(strip) for strip in strips)
    frequency = 0.5 * (one.frequency + other.frequency)
    relative = sum(s.error / np.maximum(s.power, 1e-12) ** 2 for s in (one, other))
    used = (one.power > 0) & (other.power > 0) & (relative < _VISIBLE)
    used &= (frequency > _LOWEST) & (frequency < _HIGHEST)
    if used.sum() < _LEAST_BINS:
        return None
    ratio, weight = np.log(one.power[used] / other.power[used]), 1 / relative[used]
    terms = np.stack([np.ones(used.sum()), frequency[used] ** 2], axis=1)
    inverse = np.linalg.inv(terms.T @ (weight[:, None] * terms))
    line = inverse @ (terms.T @ (weight * ratio))
    scatter = max(float((weight * (ratio - terms @ line) ** 2).sum()) / (used.sum() - 2), 0.3)
    middle = 0.5 * (first.working_distance + second.working_distance)
    per_pixel = float(beam.angle(middle)) / (first.pixel_size * 1e-6)
    slope = -2 * math.pi**2 * apart * per_pixel**2
    sigma = abs(math.sqrt(inverse[1, 1] * scatter) / slope)
    return middle + float(line[1]) / slope, math.hypot(_EXCESS * sigma, _LEAST_SIGMA * depth_of_field)


def _strips(
    first: NDArray[Any], second: NDArray[Any], row: int, column: int, least: int = LEAST_OVERLAP
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return what both show when the second lies so many pixels below and to the right; None where that is little."""
    height, width = (min(a, b) for a, b in zip(first.shape, second.shape, strict=True))
    rows, columns = height - abs(row), width - abs(column)
    if rows < least or columns < least:
        return None
    one = first[max(row, 0) : max(row, 0) + rows, max(column, 0) : max(column, 0) + columns]
    other = second[max(-row, 0) : max(-row, 0) + rows, max(-column, 0) : max(-column, 0) + columns]
    return one.astype(np.float64), other.astype(np.float64)
