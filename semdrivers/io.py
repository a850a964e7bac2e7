"""Frames to OME-TIFF and back, and the grey levels of any ordinary picture.

A frame is written with all that is known of it: the physical pixel size where every OME reader looks for
it, and working distance, magnification, frame id, time, scan mode and the focus record as OME annotations.
The XML is pure ASCII (other characters as references), so any reader of TIFF descriptions takes it.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from semdrivers.errors import InvalidParameterError
from semdrivers.files import vendor_conditions
from semdrivers.grey_levels import native
from semdrivers.microscope import Image, ScanMode
from semdrivers.omexml import conditions_of, describe
from semdrivers.pictures import read_pixels, tiff_bit_depth, tiff_description

__all__ = ["read_image", "read_pixels", "write_image"]


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
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise InvalidParameterError(
            f"{path}: an image must have pixels of shape (H, W), uint8 or uint16, not {pixels.shape} of {pixels.dtype}"
        )
    conditions = {name: getattr(image, name) for name in _CONDITIONS}
    conditions |= {name: float(conditions[name]) for name in ("working_distance", "magnification", "pixel_size")}
    conditions["scan_mode"] = None if image.scan_mode is None else image.scan_mode.name
    pixels = native(pixels)
    description = describe(path.name, pixels.shape, str(pixels.dtype), conditions)
    with replacing(path) as temporary:
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
    return Image(pixels=pixels, scan_mode=ScanMode.__members__.get(mode or ""), **conditions)


_CONDITIONS = ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "bit_depth", "metadata")


def _resolution(pixel_size: float) -> dict[str, Any]:
    """Return the TIFF tags of a pixel size in nm, in pixels a centimetre; none where it is unknown."""
    if not (math.isfinite(pixel_size) and 1e-2 <= pixel_size <= 1e6):
        return {}
    return {"resolution": (1e7 / pixel_size,) * 2, "resolutionunit": "CENTIMETER"}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`; the file written there takes the place of `path` if all went well."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
