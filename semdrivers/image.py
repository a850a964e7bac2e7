"""Frames to OME-TIFF and back, and the grey levels of any ordinary picture.

A frame is written with all that is known of it: the physical pixel size where every OME reader looks for
it, and working distance, magnification, frame id, time, scan mode and the focus record as OME annotations.
The XML is pure ASCII (other characters as references), so any reader of TIFF descriptions takes it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError
from semdrivers.files import conditions_of, describe, read_pixels, replacing, tiff_description

__all__ = ["Image", "ScanMode", "read_image", "write_image"]


def write_image(path: str | Path, image: Image) -> Path:
    """Write a frame as OME-TIFF.

    The file appears whole or not at all: it is written beside its final place and then renamed.

    Parameters
    ----------
    path : str or Path
        Must end in ``.tif`` or ``.tiff``; ``.ome.tif`` is the custom.
    image : Image
        Pixels of shape (H, W), uint8 or uint16.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InvalidParameterError
        When the name has another ending, or the pixels another shape or dtype.
    OSError
        When the file cannot be written.
    """
    import tifffile

    path = Path(path)
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InvalidParameterError(f"{path}: the name of an OME-TIFF ends in .tif or .tiff, not {path.suffix!r}")
    pixels = np.asarray(image.pixels)
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype not in (np.uint8, np.uint16):
        raise InvalidParameterError(
            f"{path}: an image must have pixels of shape (H, W), uint8 or uint16, not {pixels.shape} of {pixels.dtype}"
        )
    conditions = {name: getattr(image, name) for name in _CONDITIONS}
    conditions["scan_mode"] = None if image.scan_mode is None else image.scan_mode.name
    description = describe(path.name, pixels.shape, str(pixels.dtype), conditions)
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(pixels),
            photometric="minisblack",
            description=description,
            metadata=None,
            ome=False,
            software="semdrivers",
        )
    return path


def read_image(path: str | Path) -> Image:
    """Read a picture, with its conditions if it has them.

    Parameters
    ----------
    path : str or Path
        An OME-TIFF from `write_image`, or any picture that `read_pixels` takes.

    Returns
    -------
    Image
        What the file does not say of `working_distance`, `magnification` and `pixel_size` is NaN; a file from
        `write_image` says all of it, an OME-TIFF from elsewhere the pixel size.

    Raises
    ------
    InvalidParameterError
        When there is no such file, or it is no picture.
    """
    pixels = read_pixels(path)
    conditions = conditions_of(tiff_description(Path(path)))
    mode = conditions.pop("scan_mode", None)
    return Image(pixels=pixels, scan_mode=ScanMode.__members__.get(mode or ""), **conditions)


_CONDITIONS = ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "metadata")


class ScanMode(enum.Enum):
    """A frame size and, with it, a speed. The value is (width, height) in pixels."""

    FAST = (320, 240)
    STANDARD = (640, 480)
    SLOW = (1280, 960)

    @property
    def width(self) -> int:
        """Pixels along a line."""
        return self.value[0]

    @property
    def height(self) -> int:
        """Lines in a frame."""
        return self.value[1]


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
        Anything else; ``metadata["autofocus"]`` is the record of the autofocus run that preceded the frame.
    """

    pixels: NDArray[Any]
    working_distance: float
    magnification: float
    pixel_size: float
    frame_id: int | None = None
    timestamp: float | None = None
    scan_mode: ScanMode | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the frame as OME-TIFF, with pixel size, conditions and focus record.

        Returns
        -------
        Path
            The file written. `semdrivers.read_image` reads it back.

        Raises
        ------
        InvalidParameterError
            When the name does not end in ``.tif`` or ``.tiff``.
        OSError
            When the file cannot be written.
        """
        from semdrivers.image import write_image

        return write_image(path, self)
