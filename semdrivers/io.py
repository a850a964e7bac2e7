"""Frames to OME-TIFF and back, and the grey levels of any ordinary picture.

A frame is written with all that is known of it: the physical pixel size where every OME reader looks for
it, and working distance, magnification, frame id, time, scan mode and the focus record as OME annotations.
The XML is pure ASCII (other characters as references), so any reader of TIFF descriptions takes it.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import Image
from semdrivers.omexml import conditions_of, describe
from semdrivers.pictures import read_pixels, tiff_description

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
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype not in (np.uint8, np.uint16):
        raise InvalidParameterError(
            f"{path}: an image must have pixels of shape (H, W), uint8 or uint16, not {pixels.shape} of {pixels.dtype}"
        )
    description = describe(image, path.name)
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
    return Image(pixels=pixels, **conditions_of(tiff_description(Path(path))))


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
