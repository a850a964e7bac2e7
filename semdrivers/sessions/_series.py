"""``series:///folder``: a focal series from a real instrument, pictures with their working distances, as a microscope.

Its lens goes to the working distances that were photographed and to no other: one that lies between two planes becomes
the nearer one, and reads back as that. So every frame is a picture that was taken where it says.

With ``planes=interpolated`` it goes anywhere between, and a frame is a mixture of the two pictures beside it. That is
no picture that a microscope would take: it shows both blurs at once, and less noise than either.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.connection import split_path_url
from semdrivers.data_bar import BarRows, bar_rows_of, checked_bar_rows, without_bar
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import counted, decimal, named_file, read_pixels, read_table, table_columns
from semdrivers.image import SCAN_MODES, Image, ScanMode, read_image
from semdrivers.microscope import Capabilities, Range, number
from semdrivers.sessions._recorded import Recorded

_PICTURES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
_COLUMNS = ("file", "working_distance", "magnification", "pixel_size")
OPTICS = ("half_angle", "numerical_aperture", "probe_diameter")
"""Columns of a series for values of `Capabilities` at each plane, in its units."""
_NUMBERS = ("magnification", "pixel_size")
_OPTIONS = (*_NUMBERS, "planes", "bar_rows")
_BETWEEN = ("nearest", "interpolated")
_FIELD_WIDTH = 128e6
"""nm; width of the field at magnification 1, where a picture states its pixel size but no magnification."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One picture of a series.

    Parameters
    ----------
    path : Path
        Path of the picture.
    working_distance : float
        mm.
    magnification : float
        Plain number.
    pixel_size : float
        nm.
    shape : (int, int)
        Lines and pixels along a line.
    bits : int
        Depth of the pixels.
    bar_rows : int or (int, int)
        Rows of a data bar at the bottom of the picture, below 0 at the top, which are left out; `shape` does not count
        them.
    bit_depth : int or None
        Bits of a grey level, where the file names fewer than `bits`.
    optics : dict of str to float
        Those of `OPTICS` that the table has.
    """

    path: Path
    working_distance: float
    magnification: float
    pixel_size: float
    shape: tuple[int, int]
    bits: int
    bar_rows: BarRows = 0
    bit_depth: int | None = None
    optics: dict[str, float] = field(default_factory=dict)


def open_series(url: str, options: Mapping[str, Any]) -> Series:
    """Open the pictures at ``series:///folder[?magnification=…&pixel_size=…&bar_rows=…&planes=interpolated]``.

    Raises
    ------
    InvalidParameterError
        When the folder holds no series, or an option is unknown or malformed.
    """
    folder, given = split_path_url(url, options, _OPTIONS, "a series", "folder")
    numbers = {name: _number(url, name, given[name]) for name in _NUMBERS if name in given}
    rows = given.get("bar_rows")
    if rows is not None:
        rows = checked_bar_rows(f"{url}: bar_rows", rows)
    return Series(folder, planes=given.get("planes", "nearest"), bar_rows=rows, **numbers)


class Series(Recorded):
    """A focal series as a microscope.

    Parameters
    ----------
    folder : str or Path
        Pictures with their working distances: OME-TIFF that states them, or any pictures and one CSV file with the
        columns ``file``, ``working_distance`` (mm) and, if known, ``magnification``, ``pixel_size`` (nm) and those
        values of `Capabilities` that are named in `OPTICS`.
    magnification, pixel_size : float, optional
        Magnification and pixel size (nm) of pictures that do not state them.
    planes : str
        What lies between two pictures: ``"nearest"``, the nearer of them, or ``"interpolated"``, a mixture of both in
        proportion.
    bar_rows : int or (int, int), optional
        Rows of a data bar at the bottom of every picture, below 0 at the top, or at both, which are left out; by
        default known from the file, or detected.

    Raises
    ------
    InvalidParameterError
        When there are fewer than two planes, or a picture does not state its working distance, magnification or pixel
        size, or is smaller than a FAST frame; when pictures that differ in size or pixel size shall be mixed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        magnification: float | None = None,
        pixel_size: float | None = None,
        planes: str = "nearest",
        bar_rows: BarRows | None = None,
    ) -> None:
        super().__init__(folder, "series in")
        if planes not in _BETWEEN:
            raise InvalidParameterError(f"planes must be {' or '.join(_BETWEEN)}, not {planes!r}")
        self._interpolated = planes == "interpolated"
        pictures = _planes(self.folder, magnification, pixel_size, bar_rows)
        shapes = [plane.shape for plane in pictures]
        self._modes = tuple(mode for mode in SCAN_MODES if all(h >= mode.height and w >= mode.width for h, w in shapes))
        if not self._modes:
            raise InvalidParameterError(f"{folder}: the pictures of a series must have 320×240 pixels at least")
        self._planes: dict[float, list[Plane]] = {}
        for plane in sorted(pictures, key=lambda plane: plane.working_distance):
            self._planes.setdefault(plane.magnification, []).append(plane)
        self._magnification = max(self._planes, key=lambda key: len(self._planes[key]))
        here = self._planes[self._magnification]
        if len({plane.working_distance for plane in here}) < 2:
            raise InvalidParameterError(f"{folder}: a series needs two pictures of different working distance at least")
        if self._interpolated:
            for series in self._planes.values():
                _check_alike(series)
        self._position = here[0].working_distance
        self._frames = 0

    @property
    def capabilities(self) -> Capabilities:
        """Working distances of the series, the step being its widest gap (0 if interpolated); its magnifications."""
        self._check_open()
        here = self._planes[self._magnification]
        distances = [plane.working_distance for plane in here]
        nearest = min(here, key=lambda plane: abs(plane.working_distance - self._position))
        return Capabilities(
            Range(distances[0], distances[-1], 0.0 if self._interpolated else max(np.diff(distances).tolist())),
            Range(min(self._planes), max(self._planes)),
            self._modes,
            model="focal series",
            serial=self.folder.name,
            half_angle=nearest.optics.get("half_angle"),
            numerical_aperture=nearest.optics.get("numerical_aperture"),
            probe_diameter=nearest.optics.get("probe_diameter"),
        )

    @property
    def working_distances(self) -> tuple[float, ...]:
        """Working distances of the pictures at the present magnification, mm, the shortest first."""
        self._check_open()
        return tuple(dict.fromkeys(plane.working_distance for plane in self._planes[self._magnification]))

    @property
    def working_distance(self) -> float:
        """Working distance in mm; setting it goes to the nearest picture, unless interpolated.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            When set outside the series, or to no number.
        """
        self._check_open()
        return self._position

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        target = self.capabilities.working_distance.check(f"{self!r}: working_distance", value, "mm")
        with self._lock:
            self._go(target)

    @property
    def magnification(self) -> float:
        """Magnification; it can be set to those that were photographed.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            When set to another.
        """
        self._check_open()
        return self._magnification

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._check_open()
        wanted = number(f"{self!r}: magnification", value)
        with self._lock:
            for known in self._planes:
                if math.isclose(known, wanted, rel_tol=1e-6):
                    self._magnification = known
                    self._go(self._position)
                    return
        offer = ", ".join(f"{known:g}" for known in sorted(self._planes))
        raise OutOfRangeError(f"{self!r} has no pictures at magnification {wanted:g}; there are {offer}")

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Return the picture at the present working distance, its middle averaged down to the frame's pixels.

        ``metadata["file"]`` names the picture, ``metadata["interpolated"]`` the two that are mixed, and their shares.

        Raises
        ------
        InvalidParameterError
            When `mode` is larger than the pictures.
        """
        self._check_open()
        if not isinstance(mode, ScanMode) or mode not in self._modes:
            offer = ", ".join(offered.name for offered in self._modes)
            raise InvalidParameterError(f"{self!r} has no scan mode {mode!r}; it has {offer}")
        with self._lock:
            shares, position = self._shares(), self._position
            self._frames += 1
            frame_id = self._frames
        plane = max(shares, key=lambda item: item[1])[0]
        metadata: dict[str, Any] = {"file": plane.path.name}
        if len(shares) > 1:
            metadata["interpolated"] = {each.path.name: share for each, share in shares}
        pictures = [without_bar(read_pixels(each.path), each.bar_rows) for each, _ in shares]
        mixed = sum(share * _fitted(picture, mode) for picture, (_, share) in zip(pictures, shares, strict=True))
        factor = min(plane.shape[1] / mode.width, plane.shape[0] / mode.height)
        return self._delivered(
            Image(
                pixels=np.rint(mixed).astype(pictures[0].dtype),
                working_distance=position,
                magnification=plane.magnification,
                pixel_size=plane.pixel_size * factor,
                frame_id=frame_id,
                scan_mode=mode,
                metadata={**metadata, "bar_rows": 0},
                bit_depth=plane.bit_depth,
            )
        )

    def __repr__(self) -> str:
        return f"<Series of {counted(sum(map(len, self._planes.values())), 'picture')} in {self.folder}>"

    def _go(self, target: float) -> None:
        """Go to a working distance within the series: to the nearest picture, or between two."""
        here = self._planes[self._magnification]
        if self._interpolated:
            self._position = min(max(target, here[0].working_distance), here[-1].working_distance)
        else:
            nearest = min(here, key=lambda plane: abs(plane.working_distance - target))
            self._position = nearest.working_distance

    def _shares(self) -> list[tuple[Plane, float]]:
        """The pictures that a frame is made of at the present working distance, and how much of each."""
        here = self._planes[self._magnification]
        above = bisect.bisect_left(here, self._position, key=lambda plane: plane.working_distance)
        high = here[above]
        if high.working_distance == self._position:
            return [(high, 1.0)]
        low = here[above - 1]
        share = (self._position - low.working_distance) / (high.working_distance - low.working_distance)
        return [(low, 1 - share), (high, share)]


def _check_alike(planes: list[Plane]) -> None:
    """Raise unless the pictures of one magnification can be mixed."""
    first = planes[0]
    for plane in planes:
        for name in ("shape", "bits", "pixel_size"):
            if not np.allclose(getattr(plane, name), getattr(first, name), rtol=1e-6):
                raise InvalidParameterError(
                    f"{plane.path}: its {name.replace('_', ' ')} {getattr(plane, name)} differs from "
                    f"{getattr(first, name)} of {first.path.name}, so nothing can be interpolated between them; "
                    "open the series with planes=nearest"
                )


def _planes(
    folder: Path, magnification: float | None, pixel_size: float | None, bar_rows: BarRows | None
) -> list[Plane]:
    if not folder.is_dir():
        raise InvalidParameterError(f"{folder}: there is no such folder")
    tables = {table: table_columns(table) for table in sorted(folder.glob("*.csv"))}
    describing = [table for table, columns in tables.items() if all(name in columns for name in _COLUMNS[:2])]
    if len(describing) > 1:
        raise InvalidParameterError(
            f"{folder}: {len(describing)} CSV files list pictures with their working distances "
            f"({', '.join(table.name for table in describing)}); a series is described by one"
        )
    if describing:
        rows = _rows(describing[0])
    else:
        pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES)
        rows = [(path, {}) for path in pictures]
    if not rows:
        raise InvalidParameterError(f"{folder}: holds no pictures ({', '.join(_PICTURES)})")
    try:
        return [_plane(path, stated, magnification, pixel_size, bar_rows) for path, stated in rows]
    except _Unstated as error:
        lacking = [
            f"{table.name} lacks the column {next(name for name in _COLUMNS[:2] if name not in columns)!r}"
            for table, columns in tables.items()
            if table not in describing
        ]
        raise InvalidParameterError(
            f"{error}; write it into a CSV file beside the pictures, with columns {', '.join(_COLUMNS)}"
            + (f" ({'; '.join(lacking)})" if lacking else "")
        ) from None


class _Unstated(Exception):
    """A picture does not say what a plane needs."""


def _rows(table: Path) -> list[tuple[Path, dict[str, float]]]:
    rows = []
    for row in read_table(table, _COLUMNS[:2]):
        path = named_file(table.parent, row.text("file"))
        if not path.is_file():
            raise InvalidParameterError(f"{row.where}: there is no file {row.text('file')!r}")
        drive = bool(row.text("numerical_aperture"))  # then z is that of a focus drive, of either sign
        stated = {
            name: _number(row.where, name, row.number(name), signed=drive and name == "working_distance")
            for name in (*_COLUMNS[1:], *OPTICS)
            if row.text(name)
        }
        rows.append((path, stated))
    return rows


def _number(where: str, name: str, value: Any, *, signed: bool = False) -> float:
    """Return the number that a table or an option gives, above 0 unless `signed`."""
    result = decimal(value)
    if result is None or not (result > 0 or (signed and math.isfinite(result))):
        raise InvalidParameterError(f"{where}: {name} must be a number above 0, not {value!r}")
    return result


def _plane(
    path: Path,
    stated: dict[str, float],
    magnification: float | None,
    pixel_size: float | None,
    bar_rows: BarRows | None,
) -> Plane:
    image = read_image(path)
    vendor = "vendor" in image.metadata

    def known(name: str, otherwise: float | None) -> float:
        for value in (stated.get(name), getattr(image, name), otherwise):
            if value is not None and math.isfinite(value) and value > 0:
                return float(value)
        return math.nan

    distance = stated.get("working_distance", known("working_distance", None))
    pixel = known("pixel_size", pixel_size)
    # A maker's magnification refers to a screen or a photograph of his own; the pixel does not.
    magnified = (
        math.nan if vendor and "magnification" not in stated and pixel > 0 else known("magnification", magnification)
    )
    width = image.pixels.shape[1]
    if math.isnan(magnified):
        magnified = _FIELD_WIDTH / (pixel * width)
    elif math.isnan(pixel):
        pixel = _FIELD_WIDTH / (magnified * width)
    for name, value, unit in (("working_distance", distance, "mm"), ("pixel_size", pixel, "nm")):
        if not math.isfinite(value):
            raise _Unstated(f"{path}: does not state its {name} in {unit}")
    rows = bar_rows_of(image.pixels, image.metadata, bar_rows)
    shape = without_bar(image.pixels, rows, str(path)).shape
    return Plane(
        path,
        distance,
        magnified,
        pixel,
        (shape[0], shape[1]),
        8 * image.pixels.itemsize,
        rows,
        image.bit_depth,
        {name: stated[name] for name in OPTICS if name in stated},
    )


def _fitted(pixels: NDArray[Any], mode: ScanMode) -> NDArray[np.float32]:
    """Return the middle of a picture in the frame's pixels, each an average."""
    from PIL import Image as Pillow

    height, width = pixels.shape
    factor = min(width / mode.width, height / mode.height)
    across, down = mode.width * factor, mode.height * factor
    left, top = (width - across) / 2, (height - down) / 2
    picture = Pillow.fromarray(pixels.astype(np.float32))
    box = (left, top, left + across, top + down)
    return np.asarray(picture.resize((mode.width, mode.height), Pillow.Resampling.BOX, box=box))
