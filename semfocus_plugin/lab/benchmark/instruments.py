"""Instruments of the benchmark that are not the emulator: drawn at random, or recorded."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from semdrivers.errors import InvalidParameterError
from semdrivers.files import read_pixels
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities, Range
from semfocus_plugin.lab.benchmark.column import MARGIN, PROBES, SimulatedColumn
from semfocus_plugin.lab.benchmark.pictures import Picture
from semfocus_plugin.lab.benchmark.textures import PERIODIC, periodic, sample_for

__all__ = ["RecordedSeries", "Station", "station", "visits", "wild_column"]

_WAVELENGTHS = {2.0: 27.4e-9, 15.0: 9.9e-9}
"""Electron wavelength in mm by voltage in kV."""
_RASTERS = ((240, 320), (384, 512), (480, 640), (768, 1024), (884, 1024))
_FAST = (240, 320)


@dataclass(frozen=True, slots=True, eq=False)
class Station:
    """An instrument that stands at its start, and its truth.

    Parameters
    ----------
    microscope : SimulatedColumn or RecordedSeries
        The instrument.
    specimen : str
        Name of the sample.
    focus : float
        Working distance of the circle of least confusion, mm.
    depth_of_field : float
        mm.
    aperture, core : float
        Aperture radius and diameter of the focused probe, mm, as peers receive them.
    astigmatism : tuple of float
        In depths of field, as (a cos 2θ, a sin 2θ).
    bounds : tuple of float or None
        Working distances that the run may use, mm.
    """

    microscope: Any
    specimen: str
    focus: float
    depth_of_field: float
    aperture: float
    core: float
    astigmatism: tuple[float, float] = (0.0, 0.0)
    bounds: tuple[float, float] | None = None

    def defocus(self) -> float:
        """Return the distance of the beam's focus from the truth, in depths of field."""
        return float(self.microscope.in_focus - self.focus) / self.depth_of_field


def _canvas(raster: tuple[int, int]) -> tuple[int, int]:
    return raster[0] + 2 * MARGIN, raster[1] + 2 * MARGIN


def _station(column: SimulatedColumn, specimen: str, start: float, **more: Any) -> Station:
    """Put a column `start` depths of field from its focus."""
    unit = column.depth_of_field
    column.working_distance = column.focus + start * unit
    turned = column.astigmatism[0] / unit, column.astigmatism[1] / unit
    return Station(column, specimen, column.focus, unit, column.aperture, column.core, turned, **more)


def _turned(amount: float, random: np.random.Generator) -> tuple[float, float]:
    turn = random.uniform(0, 2 * math.pi)
    return amount * math.cos(turn), amount * math.sin(turn)


def _wave(number: int, random: np.random.Generator, pictures: Sequence[Picture]) -> Station:
    voltage, alpha = ((2.0, 8e-3), (15.0, 3e-3))[number % 2]
    focus = random.uniform(4.0, 9.0)
    pixel = float(np.exp(random.uniform(math.log(2.5e-6), math.log(25e-6))))
    wavelength = _WAVELENGTHS[voltage]
    source = random.uniform(1.0e-6, 2.5e-6)
    core = math.hypot(source, 0.61 * wavelength / alpha)
    amount = ((number // 2) % 3) * math.hypot(pixel, core) / alpha
    column = SimulatedColumn(
        sample=sample_for(pictures, number, _canvas(_FAST), random),
        pixel=pixel,
        focus=focus,
        aperture=alpha * focus,
        core=source,
        position=focus,
        astigmatism=_turned(amount, random),
        wavelength=wavelength,
        electrons=random.uniform(60, 200),
        magnification=0.4 / pixel,
        seed=int(random.integers(2**31)),
    )
    start = random.uniform(-9, 9)
    unit = math.hypot(pixel, core) / alpha
    column.working_distance = focus + start * unit
    turned = column.astigmatism[0] / unit, column.astigmatism[1] / unit
    name = f"{voltage:g} kV, {(number // 2) % 3} DoF"
    return Station(column, name, focus, unit, column.aperture, core, turned)


def wild_column(random: np.random.Generator, sample: Callable[[tuple[int, int]], Any]) -> SimulatedColumn:
    """Return an instrument unlike the EM-30, in focus on a sample."""
    raster = _RASTERS[int(random.choice(5, p=(0.4, 0.2, 0.2, 0.1, 0.1)))]
    alpha15, focus = float(np.exp(random.uniform(math.log(1.5e-3), math.log(12e-3)))), random.uniform(5.0, 22.0)
    core = float(np.exp(random.uniform(math.log(2e-6), math.log(100e-6))))
    pixel = float(np.exp(random.uniform(math.log(max(5e-6, 0.4 * core)), math.log(1e-3))))

    def sometimes(share: float, low: float, high: float) -> float:
        value = random.uniform(low, high)
        return value if random.random() < share else 0.0

    aperture = alpha15 * 15.0
    unit = math.hypot(pixel, core) * focus / aperture
    return SimulatedColumn(
        sample=sample(_canvas(raster)),
        pixel=pixel,
        focus=focus,
        aperture=aperture,
        core=core,
        position=focus,
        astigmatism=_turned(random.uniform(0, 0.5) * unit, random),
        electrons=float(np.exp(random.uniform(math.log(25), math.log(300)))),
        lag=sometimes(0.4, 0.2, 0.9),
        row_noise=sometimes(0.3, 1.0, 4.0),
        automatic_contrast=bool(random.random() < 0.3),
        charging=sometimes(0.3, 0.02, 0.1),
        tilt=sometimes(0.4, -3.0, 3.0) * unit,
        hysteresis=sometimes(0.4, 0.0, 0.3) * unit,
        bits=16 if random.random() < 0.3 else 8,
        magnification=0.4 / pixel,
        seed=int(random.integers(2**31)),
    )


def _wild(number: int, random: np.random.Generator, pictures: Sequence[Picture], visit: int = 0) -> Station:
    other = np.random.default_rng([int(random.integers(2**31)), visit])
    column = wild_column(random, lambda shape: sample_for(pictures, number + 2 * visit, shape, other))
    column.seed += visit
    return _station(column, "micrograph" if pictures and number % 2 == 0 else "texture", other.uniform(-9, 9))


def _probes(number: int, random: np.random.Generator, pictures: Sequence[Picture]) -> Station:
    probe = PROBES[1 + number % (len(PROBES) - 1)]
    column = wild_column(random, lambda shape: sample_for(pictures, number // 4, shape, random))
    column.probe = probe
    return _station(column, probe, random.uniform(-20, 20))


def _plain(sample: Any, random: np.random.Generator, **more: Any) -> SimulatedColumn:
    """Return a column with the aperture and probe of the nominal instrument, in focus on a sample."""
    pixel = float(np.exp(random.uniform(math.log(13e-6), math.log(400e-6))))
    focus = random.uniform(11.0, 20.0)
    return SimulatedColumn(
        sample=sample,
        pixel=pixel,
        focus=focus,
        aperture=0.045,
        core=36e-6,
        position=focus,
        electrons=random.uniform(60, 250),
        lag=0.25,
        magnification=0.4 / pixel,
        seed=int(random.integers(2**31)),
        **more,
    )


def _periodic(number: int, random: np.random.Generator, pictures: Sequence[Picture]) -> Station:
    kind = tuple(PERIODIC)[number % len(PERIODIC)]
    lag = (0.0, 0.25, 0.8)[number % 3]
    column = _plain(periodic(kind, _canvas(_FAST), random), random)
    column.lag = lag
    return _station(column, kind, random.uniform(4, 40) * random.choice((-1, 1)))


def _limits(number: int, random: np.random.Generator, pictures: Sequence[Picture]) -> Station:
    column = _plain(sample_for(pictures, number // 4, _canvas(_FAST), random), random)
    half = (1.0, 2.0, 3.0, 5.0)[number % 4]
    reach = half * column.depth_of_field
    bounds = column.focus - reach, column.focus + reach
    return _station(column, f"±{half:g} DoF", random.uniform(-0.95, 0.95) * half, bounds=bounds)


def _astigmatic(number: int, random: np.random.Generator, pictures: Sequence[Picture]) -> Station:
    column = _plain(sample_for(pictures, number // 4, _canvas(_FAST), random), random)
    amount = (1.0, 2.0, 3.0, 5.0)[number % 4]
    column.astigmatism = _turned(amount * column.depth_of_field, random)
    return _station(column, f"{amount:g} DoF", random.uniform(-9, 9))


class RecordedSeries:
    """A focal series of a real instrument as a microscope; a pixel of blur is 1/3 mrad away, whatever its own optics.

    Parameters
    ----------
    folder : Path
        With ``MANIFEST.csv`` (file, working_distance or plane number) and the pictures.
    per_pixel : float
        Distance of a pixel (of such a frame) of blur radius, in mm of the listed working distance.
    pixel : float
        Size of a pixel of a frame of 320×240 pixels, mm.
    best : int
        Plane in focus.
    start : int
        Plane to start from.
    """

    def __init__(self, folder: Path, per_pixel: float, pixel: float, best: int, start: int) -> None:
        with (folder / "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        listed = np.array([float(row["working_distance"]) for row in rows])
        self.pixel = pixel
        self._places = np.round(15.0 + (listed - listed[best]) / per_pixel * pixel / 0.003, 6)
        self._frames = [_fast(folder / row["file"]) for row in rows]
        self.focus, self._position = float(self._places[best]), float(self._places[start])

    @property
    def capabilities(self) -> Capabilities:
        """Working distances of the planes."""
        gaps = np.diff(np.sort(self._places))
        return Capabilities(
            Range(float(self._places.min()), float(self._places.max()), float(gaps.max())),
            Range(self.magnification, self.magnification),
            model="recorded series",
        )

    @property
    def magnification(self) -> float:
        """Nominal magnification of the pixel."""
        return 0.4 / self.pixel

    @property
    def working_distance(self) -> float:
        """Working distance of the present plane, mm; setting it goes to the nearest plane."""
        return self._position

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._position = float(self._places[int(np.abs(self._places - value).argmin())])

    in_focus = working_distance

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Return the picture of the present plane."""
        frame = self._frames[int(np.abs(self._places - self._position).argmin())]
        return Image(frame, self._position, self.magnification, self.pixel * 1e6, scan_mode=mode)

    def close(self) -> None:
        """Do nothing."""


@lru_cache(maxsize=64)
def _fast(path: Path) -> Any:
    """Return the middle of a picture, averaged down to 320×240 pixels."""
    from PIL import Image as Pillow

    pixels = read_pixels(path)
    height, width = pixels.shape
    factor = min(width / 320, height / 240)
    left, top = (width - 320 * factor) / 2, (height - 240 * factor) / 2
    box = (left, top, width - left, height - top)
    small = Pillow.fromarray(pixels.astype(np.float32)).resize((320, 240), Pillow.Resampling.BOX, box=box)
    return np.rint(np.asarray(small)).astype(pixels.dtype)


def _series(number: int, random: np.random.Generator, folder: Path) -> Station:
    slopes = json.loads((folder / "slopes.json").read_text(encoding="utf-8"))
    names = sorted(slopes)
    name = names[number % len(names)]
    entry = slopes[name]
    planes = sum(1 for _ in (folder / name).glob("plane_*"))
    microscope = RecordedSeries(
        folder / name,
        1.0 / float(entry["pixels_of_blur_radius_per_mm_of_listed_wd"]),
        float(entry["pixel_nm"]) * 1e-6,
        int(entry["best_plane"]),
        (number // len(names)) % planes,
    )
    unit = microscope.pixel / 0.003
    return Station(microscope, name, microscope.focus, unit, 0.045, 1e-6)


_DRAWN: Mapping[str, Callable[[int, np.random.Generator, Sequence[Picture]], Station]] = MappingProxyType(
    {
        "wave": _wave,
        "wild": _wild,
        "probes": _probes,
        "periodic": _periodic,
        "limits": _limits,
        "astigmatic": _astigmatic,
    }
)


def visits(number: int, seed: int, pictures: Sequence[Picture], count: int) -> tuple[Station, ...]:
    """Return one instrument of track ``"wild"`` on several samples, as its owner uses it run after run."""
    key = int.from_bytes(b"wild", "big")
    return tuple(_wild(number, np.random.default_rng([seed, key, number]), pictures, visit) for visit in range(count))


def station(
    track: str, number: int, seed: int, pictures: Sequence[Picture] = (), series: Path | None = None
) -> Station:
    """Return the instrument of a trial, at its start.

    Parameters
    ----------
    track : str
        Key of the tracks that are drawn, or ``"series"``.
    number, seed : int
        Numbers of the trial; the same numbers give the same instrument.
    pictures : sequence of Picture
        Micrographs to focus on; random textures without.
    series : Path, optional
        Folder of recorded series with ``slopes.json``, for ``"series"``.

    Raises
    ------
    InvalidParameterError
        For an unknown track, or ``"series"`` without a folder.
    """
    random = np.random.default_rng([seed, int.from_bytes(track.encode()[:8], "big"), number])
    if track == "series":
        if series is None:
            raise InvalidParameterError("track 'series' needs a folder of recorded series")
        return _series(number, random, series)
    if track not in _DRAWN:
        raise InvalidParameterError(f"no instrument {track!r}; there are {', '.join(_DRAWN)}, series")
    return _DRAWN[track](number, random, pictures)
