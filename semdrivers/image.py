"""Frames to OME-TIFF and back, and the grey levels of any ordinary picture.

A frame is written with all that is known of it: the physical pixel size where every OME reader looks for
it, and working distance, magnification, frame id, time, scan mode and the focus record as OME annotations.
The XML is UTF-8, as every reader of OME-TIFF expects it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import (
    conditions_of,
    describe,
    read_pixels,
    replacing,
    tiff_bit_depth,
    tiff_description,
    vendor_conditions,
)
from semdrivers.grey_levels import check_bit_depth, native

__all__ = ["SCAN_MODES", "Image", "ScanMode", "read_image", "write_image"]


def write_image(path: str | Path, image: Image, *, overwrite: bool = False) -> Path:
    """Write a frame as OME-TIFF.

    The file appears whole or not at all: it is written beside its final place and then renamed.

    Parameters
    ----------
    path : str or Path
        Must end in ``.tif`` or ``.tiff``; ``.ome.tif`` is the custom.
    image : Image
        Pixels of shape (H, W), uint8 or uint16.
    overwrite : bool
        Whether the file may take the place of another.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InvalidParameterError
        When the name has another ending, or the pixels another shape or dtype.
    ExistingFileError
        When there is such a file, unless `overwrite`.
    OSError
        When the file cannot be written.
    """
    import tifffile

    path = Path(path)
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InvalidParameterError(f"{path}: the name of an OME-TIFF ends in .tif or .tiff, not {path.suffix!r}")
    pixels = np.asarray(image.pixels)
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise InvalidParameterError(
            f"{path}: an image must have pixels of shape (H, W), uint8 or uint16, not {pixels.shape} of {pixels.dtype}"
        )
    conditions = {name: getattr(image, name) for name in _CONDITIONS}
    conditions["scan_mode"] = None if image.scan_mode is None else str(image.scan_mode)
    conditions |= {name: float(conditions[name]) for name in ("working_distance", "magnification", "pixel_size")}
    if conditions["bit_depth"] is not None:
        check_bit_depth(conditions["bit_depth"], f"{path}: bit_depth")
    pixels = native(pixels)
    description = describe(path.name, pixels.shape, str(pixels.dtype), conditions)
    with replacing(path, overwrite) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(pixels),
            **_resolution(conditions["pixel_size"]),
            photometric="minisblack",
            description=description,
            metadata=None,
            ome=False,
            software="semdrivers",
        )
    return path


def read_image(path: str | Path, page: int = 0) -> Image:
    """Read a picture, with its conditions if it has them.

    Parameters
    ----------
    path : str or Path
        An OME-TIFF from `write_image`, or any picture that `read_pixels` takes.
    page : int
        Which picture of a file that holds several, from 0.

    Returns
    -------
    Image
        What the file does not say of `working_distance`, `magnification` and `pixel_size` is NaN. A file from
        `write_image` says all of it; in others, OME-XML and what the maker of the microscope wrote count. The latter is
        in ``metadata["vendor"]``, the height of a data bar that it names in ``metadata["bar_rows"]``.

    Raises
    ------
    InvalidParameterError
        When there is no such file, or it is no picture.
    """
    path = Path(path)
    pixels = read_pixels(path, page)
    conditions = conditions_of(tiff_description(path))
    mode = conditions.pop("scan_mode", None)
    if "metadata" not in conditions:
        height, width = pixels.shape
        vendor = vendor_conditions(path, width, height)
        if not vendor and not all(math.isnan(conditions[name]) for name in ("magnification", "pixel_size")):
            vendor = {"vendor": "OME-XML"}
        for name in ("working_distance", "magnification", "pixel_size"):
            if math.isnan(conditions[name]):
                conditions[name] = vendor.get(name, math.nan)
        metadata: dict[str, Any] = {"vendor": vendor} if vendor else {}
        if "bar_rows" in vendor:
            metadata["bar_rows"] = vendor["bar_rows"]
        conditions["metadata"] = metadata
    if conditions.get("bit_depth") is None:
        conditions["bit_depth"] = tiff_bit_depth(path) if pixels.dtype == np.uint16 else None
    return Image(pixels=pixels, scan_mode=None if mode is None else ScanMode.parse(mode), **conditions)


_CONDITIONS = ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "bit_depth", "metadata")


def _resolution(pixel_size: float) -> dict[str, Any]:
    """Return the TIFF tags of a pixel size in nm, in pixels a centimetre; none where it is unknown."""
    if not (math.isfinite(pixel_size) and 1e-2 <= pixel_size <= 1e6):
        return {}
    return {"resolution": (1e7 / pixel_size,) * 2, "resolutionunit": "CENTIMETER"}


_MOST_PIXELS = 999_999
"""Along a side of a scan mode: six digits, as its text has them."""


@dataclass(frozen=True, slots=True)
class ScanMode:
    """A frame size and, with it, a speed.

    ``ScanMode.FAST`` (320×240), ``ScanMode.STANDARD`` (640×480) and ``ScanMode.SLOW`` (1280×960) are the EM-30's.
    What an instrument offers is in ``capabilities.scan_modes``.

    Parameters
    ----------
    name : str
        What the instrument calls it.
    width, height : int
        Pixels along a line, and lines.
    dwell : float, optional
        Time on a pixel, s; None where the instrument chooses or does not report it.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When the name is empty, a number is none or not above 0, or a side has more than 999 999 pixels.
    """

    name: str
    width: int
    height: int
    dwell: float | None = None

    FAST: ClassVar[ScanMode]
    STANDARD: ClassVar[ScanMode]
    SLOW: ClassVar[ScanMode]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidParameterError(f"the name of a scan mode must be a text, not {self.name!r}")
        for name in ("width", "height"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidParameterError(f"scan mode {self.name}: {name} must be a whole number, not {value!r}")
            if value < 1:
                raise OutOfRangeError(f"scan mode {self.name}: {name} must be at least 1 pixel, not {value}")
            if value > _MOST_PIXELS:
                raise OutOfRangeError(f"scan mode {self.name}: {name} must be at most {_MOST_PIXELS} pixels")
        if self.dwell is not None:
            if isinstance(self.dwell, bool) or not isinstance(self.dwell, int | float):
                raise InvalidParameterError(f"scan mode {self.name}: dwell must be a time in s, not {self.dwell!r}")
            if not 0 < self.dwell < 1e9:
                printable = isinstance(self.dwell, float) or abs(self.dwell) < 10**300
                shown = f"{self.dwell:g}" if printable else "a number of more than 300 digits"
                raise OutOfRangeError(f"scan mode {self.name}: dwell must be finite and above 0 s, not {shown}")

    def __str__(self) -> str:
        """Return the mode as text: its name, and for others than the EM-30's its size and dwell time."""
        if self in SCAN_MODES:
            return self.name
        dwell = "" if self.dwell is None else f" {self.dwell!r}"
        return f"{self.name} {self.width}x{self.height}{dwell}"

    @classmethod
    def parse(cls, text: str) -> ScanMode | None:
        """Return the mode of which this is the text, or None where it is none: another program may have written it."""
        for mode in SCAN_MODES:
            if text == mode.name:
                return mode
        match = re.fullmatch(r"(.+) (\d{1,6})x(\d{1,6})(?: ([-+.\deE]+))?", text)
        if match is None:
            return None
        try:
            return cls(match[1], int(match[2]), int(match[3]), None if match[4] is None else float(match[4]))
        except ValueError:
            return None


ScanMode.FAST = ScanMode("FAST", 320, 240)
ScanMode.STANDARD = ScanMode("STANDARD", 640, 480)
ScanMode.SLOW = ScanMode("SLOW", 1280, 960)

SCAN_MODES = (ScanMode.FAST, ScanMode.STANDARD, ScanMode.SLOW)
"""The modes of the EM-30, fastest first."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One frame, with the conditions in force while it was scanned.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), uint8 or uint16
        Grey levels, first line first.
    working_distance : float
        mm.
    magnification : float
        Plain number.
    pixel_size : float
        nm.
    frame_id : int, optional
        The instrument's count of frames.
    timestamp : float, optional
        Start of the scan, seconds since the epoch.
    scan_mode : ScanMode, optional
        Mode of the scan.
    metadata : mapping
        Anything else; ``metadata["autofocus"]`` is the record of the autofocus run that preceded the frame,
        ``metadata["bar_rows"]`` the rows of a data bar at the bottom, below 0 at the top, or a pair of rows at the top
        and at the bottom, where they are known.
    bit_depth : int, optional
        Bits of a grey level, where they are fewer than the type of the pixels holds: 10, 12 or 14 in uint16. Where
        nothing is said they are detected; see `semdrivers.grey_levels.full_scale`.
    """

    pixels: NDArray[Any]
    working_distance: float
    magnification: float
    pixel_size: float
    frame_id: int | None = None
    timestamp: float | None = None
    scan_mode: ScanMode | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    bit_depth: int | None = None

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the frame as OME-TIFF, with pixel size, conditions and focus record.

        Returns
        -------
        Path
            The file written. `semdrivers.read_image` reads it back.

        Raises
        ------
        InvalidParameterError
            When the name does not end in ``.tif`` or ``.tiff``.
        ExistingFileError
            When there is such a file, unless `overwrite`.
        OSError
            When the file cannot be written.
        """
        from semdrivers.image import write_image

        return write_image(path, self, overwrite=overwrite)
