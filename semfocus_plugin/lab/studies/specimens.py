"""Compare the emulated specimens with real micrographs by number: power spectrum and histogram of grey levels.

Emulated are frames of 640×480 pixels in best focus, preset typical, neutral brightness and contrast, 32 µs a pixel (the
10 s that an operator gives a frame to keep), at the magnifications of the contact sheet. Real are windows of that size
out of the sharp micrographs of a folder with MANIFEST.csv.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.emulator.physics import ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import SPECIMENS, make_specimen
from semfocus_plugin.lab.benchmark.pictures import read_folder

__all__ = [
    "DEFAULT_MAGNIFICATIONS", "HEADINGS", "MAGNIFICATIONS", "emulated", "emulated_rows", "measures",
    "real_windows", "spectral_slopes", "summary", "table", "verdict",
]  # fmt: skip

_WIDTH, _HEIGHT = 640, 480  # size of a frame, pixels
_DWELL = 32e-6  # Dwell time of a pixel, s
MAGNIFICATIONS = {"gold-nanoparticles": (8_000, 12_000, 20_000, 30_000), "featureless": ()}
"""Magnifications of specimens that differ from the others."""
DEFAULT_MAGNIFICATIONS = (500, 1_500, 4_000, 10_000)
"""Magnifications of every other specimen."""
# Cycles a pixel: structure of 125 to 25 and of 25 to 5 pixels. Finer than that, noise is in the way.
_BANDS = {"slope, coarse": (0.008, 0.04), "slope, fine": (0.04, 0.2)}

# Percentiles of the real windows between which a measure is inside; beyond them but not beyond all, at the edge
_USUAL = 5, 95
HEADINGS = (*_BANDS, "mean", "spread", "skewness", "kurtosis", "clipped %", "entropy")
"""Headings of the measures."""


def measures(pixels: NDArray[np.uint8]) -> tuple[float, ...]:
    """Return the measures of a picture, in the order of `HEADINGS`.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), uint8
        Grey levels.

    Returns
    -------
    tuple of float
        Slopes of log power against log frequency; mean and standard deviation in grey levels; skewness and excess
        kurtosis; per cent of pixels at 0 or 255; entropy of the histogram in bits.
    """
    values = pixels.astype(float)
    spread = max(float(values.std()), 1e-9)
    standard = (values - values.mean()) / spread
    share = np.bincount(pixels.ravel(), minlength=256) / pixels.size
    entropy = -float((share[share > 0] * np.log2(share[share > 0])).sum())
    return (
        *spectral_slopes(values),
        float(values.mean()),
        spread,
        float((standard**3).mean()),
        float((standard**4).mean()) - 3.0,
        100 * float(share[0] + share[255]),
        entropy,
    )


def spectral_slopes(values: NDArray[np.float64]) -> list[float]:
    """Return the slope of the radial power spectrum (log power by log frequency) in every band of `_BANDS`."""
    rows, columns = values.shape
    window = np.hanning(rows)[:, None] * np.hanning(columns)
    power = np.abs(np.fft.rfft2((values - values.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns))
    slopes = []
    for low, high in _BANDS.values():
        edges = np.geomspace(low, high, 9)
        ring = np.digitize(frequency.ravel(), edges)
        count = np.bincount(ring, minlength=10)[1:9]
        total = np.bincount(ring, power.ravel(), 10)[1:9]
        used = count > 0
        middle = np.log(np.sqrt(edges[1:] * edges[:-1]))[used]
        slopes.append(float(np.polyfit(middle, np.log(np.maximum(total[used] / count[used], 1e-9)), 1)[0]))
    return slopes


def _eight_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return grey levels of 8 bits."""
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def real_windows(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the windows of every sharp micrograph: its corners and its middle, those that do not overlap by half."""
    for picture in read_folder(folder):
        pixels = _eight_bit(picture.pixels)
        rows, columns = pixels.shape
        high, wide = min(_HEIGHT, rows), min(_WIDTH, columns)
        tops = {0, rows - high} if rows >= 1.5 * high else {(rows - high) // 2}
        lefts = {0, columns - wide} if columns >= 1.5 * wide else {(columns - wide) // 2}
        for top in sorted(tops):
            for left in sorted(lefts):
                yield pixels[top : top + high, left : left + wide]


def emulated(name: str, magnification: float, fields: int) -> NDArray[np.float64]:
    """Return the median of the measures over `fields` seeds, each another sample at another place."""
    measured = []
    for seed in range(1, fields + 1):
        column = ElectronColumn(make_specimen(name, seed), seed=seed, preset="typical")
        at = ScanConditions(
            15.0, magnification, _WIDTH, _HEIGHT, dwell_time=_DWELL, stage_x=0.37 * seed, stage_y=-0.21 * seed
        )
        best = column.best_working_distance(at)
        measured.append(measures(column.render(dataclasses.replace(at, working_distance=best))))
    return np.median(measured, axis=0)


def verdict(value: float, real: NDArray[np.float64]) -> str:
    """Return ``inside``, ``edge`` or ``outside`` of the spread of the real windows."""
    low, high = np.percentile(real, _USUAL)
    if low <= value <= high:
        return "inside"
    return "edge" if real.min() <= value <= real.max() else "outside"


def emulated_rows(fields: int) -> dict[str, NDArray[np.float64]]:
    """Return the measures of every specimen at every magnification."""
    return {
        f"{name}, {magnification}×": emulated(name, magnification, fields)
        for name in SPECIMENS
        for magnification in MAGNIFICATIONS.get(name, DEFAULT_MAGNIFICATIONS)
    }


def table(real: NDArray[np.float64], rows: Mapping[str, NDArray[np.float64]]) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table, headings first; what is not inside says so."""
    yield "", *HEADINGS
    for label, percentiles in (("real, all", (0, 100)), (f"real, {_USUAL[0]} to {_USUAL[1]} %", _USUAL)):
        yield label, *(f"{low:.3g} to {high:.3g}" for low, high in np.percentile(real, percentiles, axis=0).T)
    marks = {"inside": "{:.3g}", "edge": "{:.3g} (edge)", "outside": "**{:.3g} (outside)**"}
    for name, values in rows.items():
        yield name, *(marks[verdict(value, real[:, k])].format(value) for k, value in enumerate(values))


def summary(real: NDArray[np.float64], rows: Mapping[str, NDArray[np.float64]]) -> str:
    """Return how many measures are inside, at the edge and outside."""
    words = [verdict(value, real[:, k]) for values in rows.values() for k, value in enumerate(values)]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("inside", "edge", "outside"))
    return f"{len(real)} real windows; of {len(words)} measures {counts}."
