"""The grey levels of any ordinary picture: TIFF of any vendor, PNG, JPEG, BMP.

TIFF is read by tifffile, since vendors' files need its tolerance; what tifffile cannot decode (LZW and JPEG
compression without its optional codecs) and everything else by Pillow.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError
from semdrivers.files._png import png_strips

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PIXELS = 2**28
"""Pixels of the largest picture that is decoded (16 384 × 16 384): a small file may claim any number of them."""

_LINES = 256
"""Lines of a picture that are converted at a time, so that a large one is not held several times."""

_LARGE = 2**22
"""Pixels from which a picture is converted so."""

_BUFFER = 2**24
"""Bytes of a file that are held beside what is decoded."""

_limit_lock = threading.RLock()
_LUMA = np.array([0.299, 0.587, 0.114])


def read_pixels(path: str | Path, page: int = 0) -> NDArray[Any]:
    """Return a picture of a file as grey levels.

    Parameters
    ----------
    path : str or Path
        TIFF, PNG, JPEG, BMP or whatever else Pillow reads.
    page : int
        Which picture of a file that holds several, from 0; thumbnails do not count.

    Returns
    -------
    ndarray of shape (H, W), uint8 or uint16
        8 and 16 bit are kept. Colour becomes luma (ITU-R BT.601), transparency is dropped, a palette is
        looked up. Other types (32 bit, floating point, signed) are stretched from their least to their
        greatest value over 16 bit.

    Raises
    ------
    InvalidParameterError
        When there is no such file or page, it is no picture, or one of more than 2²⁸ pixels, whatever their colours;
        that is known before it is decoded.
    """
    path = Path(path)
    if not os.path.isfile(path):  # which has an answer for a name that is too long
        raise InvalidParameterError(f"{path}: {'that is a folder' if os.path.isdir(path) else 'no such file'}")
    if isinstance(page, bool) or not isinstance(page, int) or page < 0:
        raise InvalidParameterError(f"{path}: page must be a whole number from 0, not {page!r}")
    if page and page >= (pages := page_count(path)):
        raise InvalidParameterError(f"{path}: page {page} is not there; the file has {pages}, numbered from 0")
    try:
        tiff = is_tiff(path)
    except OSError as error:
        raise InvalidParameterError(f"{path}: cannot be read ({error.strerror or error})") from error
    if tiff:
        try:
            pixels, palette = _read_tiff(path, page)
        except InvalidParameterError:
            raise
        except Exception as error:
            pixels, palette = _read_with_pillow(path, page, because=error), None
    else:
        pixels, palette = _read_with_pillow(path, page), None
    if palette is not None:
        pixels = _look_up(pixels, palette)
    return _to_grey(path, pixels)


def page_count(path: str | Path) -> int:
    """Return how many pictures a file holds, thumbnails not counted; 1 for one that cannot be read."""
    path = Path(path)
    try:
        if is_tiff(path):
            import tifffile

            with tifffile.TiffFile(path) as file:
                return max(1, len(_pages(file)))
        from PIL import Image as Pillow

        with Pillow.open(path) as picture:
            return int(getattr(picture, "n_frames", 1))
    except Exception:
        return 1


def _pages(file: Any) -> list[int]:
    """Return the indices of a TIFF file's pages that are pictures of full size."""
    full_size = [index for index, page in enumerate(file.pages) if not getattr(page, "is_reduced", False)]
    return full_size or list(range(len(file.pages)))


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    with path.open("rb") as file:
        return file.read(4) in _TIFF_SIGNATURES


def tiff_description(path: Path) -> str:
    """Return the description of a TIFF file's first picture; empty when it has none, or is no TIFF."""
    if not is_tiff(path):
        return ""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return str(file.pages.first.description)
    except (tifffile.TiffFileError, ValueError, KeyError):
        return ""


def tiff_bit_depth(path: Path) -> int | None:
    """Return the bits of a grey level that a TIFF file names, where they are 9 to 15; else None."""
    if not is_tiff(path):
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            bits = int(page.bitspersample)
            highest = page.tags.get("MaxSampleValue")
            if bits == 16 and highest is not None:
                bits = int(np.max(highest.value)).bit_length()
    except (tifffile.TiffFileError, ValueError, KeyError, TypeError):
        return None
    return bits if 9 <= bits <= 15 else None


def _read_tiff(path: Path, number: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the samples of a page with colour last, and the palette if it has one."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first if len(file.pages) == 1 else file.pages[_pages(file)[number]].aspage()
        _check_size(path, int(page.imagewidth) * int(page.imagelength) * int(page.imagedepth))
        if page.photometric == tifffile.PHOTOMETRIC.RGB and page.samplesperpixel >= 3 and page.imagedepth == 1:
            return _colours_as_grey(page), None
        samples = page.asarray(buffersize=_BUFFER)
        palette = None
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            palette = page.colormap
        elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and samples.dtype.kind == "u":
            white = np.asarray(2 ** min(int(page.bitspersample), 8 * samples.itemsize) - 1, samples.dtype)
            samples = np.subtract(white, samples, out=samples if samples.flags.writeable else None)
        elif page.photometric not in (
            tifffile.PHOTOMETRIC.MINISBLACK,
            tifffile.PHOTOMETRIC.MINISWHITE,
            tifffile.PHOTOMETRIC.RGB,
        ):
            raise ValueError(f"colours of kind {page.photometric}")
        if page.axes.startswith("S") and samples.ndim == 3:
            samples = np.moveaxis(samples, 0, -1)
        return samples, palette


def _colours_as_grey(page: Any) -> NDArray[Any]:
    """Return the luma of a page of a TIFF file, a part of it at a time: its colours need not be held beside it."""
    grey = np.empty((page.imagelength, page.imagewidth), page.dtype.newbyteorder("="))
    for top, left, colours in _parts(page):
        room = grey[top : top + len(colours), left : left + colours.shape[1]]
        room[...] = _luma(colours[: len(room), : room.shape[1], :3])
    return grey


def _parts(page: Any) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Yield the first line and column of each part of a page, and its colours of shape (H, W, S)."""
    file, width, samples = page.parent.filehandle, page.imagewidth, page.samplesperpixel
    planes = samples if page.planarconfig == 2 else 1
    if page.is_contiguous:
        stored, each = page.dtype.newbyteorder(page.parent.byteorder), samples // planes
        line = width * each * page.dtype.itemsize
        for top in range(0, page.imagelength, _LINES):
            lines = min(_LINES, page.imagelength - top)
            parts = []
            for plane in range(planes):
                file.seek(page.dataoffsets[0] + (plane * page.imagelength + top) * line)
                parts.append(np.frombuffer(file.read(lines * line), stored).reshape(lines, width, each))
            yield top, 0, np.concatenate(parts, axis=-1) if planes > 1 else parts[0]
        return
    tables = page.jpegtables
    header = page.jpegheader
    count = len(page.dataoffsets) // planes
    for number in range(count):
        parts = []
        for index in range(number, count * planes, count):
            file.seek(page.dataoffsets[index])
            data = file.read(page.databytecounts[index])
            values, place, _ = page.decode(data or None, index, jpegtables=tables, jpegheader=header)
            shape = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
            parts.append(np.zeros((*shape, samples // planes), page.dtype) if values is None else values[0])
        yield place[2], place[3], np.concatenate(parts, axis=-1)


def _read_with_pillow(path: Path, page: int, because: Exception | None = None) -> NDArray[Any]:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with _any_size(Pillow), Pillow.open(path) as picture:
            if page:
                picture.seek(page)
            _check_size(path, picture.width * picture.height)
            as_a_whole = picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG")
            if picture.width * picture.height < _LARGE or as_a_whole:
                return _samples(picture)
            return _in_strips(path, picture)
    except InvalidParameterError:
        raise
    except Exception as error:
        why = because or error
        detail = "" if isinstance(error, UnidentifiedImageError) and not because else f" ({why})"
        raise InvalidParameterError(f"{path}: no picture that can be read{detail}") from error


def _samples(picture: Any) -> NDArray[Any]:
    if picture.mode in ("P", "PA"):
        return np.asarray(picture.convert("RGBA"))
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La"):
        return np.asarray(picture.convert("RGB"))
    return np.asarray(picture)


def _in_strips(path: Path, picture: Any) -> NDArray[Any]:
    """Return the grey levels of a large picture, converted a few lines at a time, and decoded so where it is a PNG."""
    width, height = picture.size
    strips: Iterator[Any] | None = None
    if picture.format == "PNG":
        strips = png_strips(path, _LINES)
    elif picture.format == "JPEG":
        picture.draft("L", picture.size)  # which is the luma that colour would become
    if strips is None:
        bands = ((top, min(top + _LINES, height)) for top in range(0, height, _LINES))
        strips = (picture.crop((0, top, width, end)) for top, end in bands)
    grey, top = np.empty((0, width), np.uint8), 0
    for strip in strips:
        levels = _to_grey(path, _samples(strip))
        if top == 0:
            grey = np.empty((height, width), levels.dtype)
        grey[top : top + len(levels)] = levels
        top += len(levels)
    return grey


@contextmanager
def _any_size(pillow: Any) -> Iterator[None]:
    """Have Pillow open a picture of any size, and warn of none: `_check_size` decides."""
    with _limit_lock:
        before, pillow.MAX_IMAGE_PIXELS = pillow.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            pillow.MAX_IMAGE_PIXELS = before


def _check_size(path: Path, pixels: int) -> None:
    if pixels > _MOST_PIXELS:
        raise InvalidParameterError(
            f"{path}: a picture of {pixels / 1e6:.0f} million values, where at most {_MOST_PIXELS / 1e6:.0f} million "
            "are read; cut it into pieces"
        )


def _look_up(indices: NDArray[Any], palette: NDArray[Any]) -> NDArray[Any]:
    """Return the uint8 grey levels of palette indices. Some writers give 8-bit values for 16-bit ones."""
    shift = 8 if palette.max() > 255 else 0
    levels: NDArray[Any] = _luma((palette >> shift).astype(np.uint8).T[None])[0][indices]
    return levels


def _to_grey(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.ndim == 3 and pixels.shape[-1] in (1, 2):
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        pixels = _luma(pixels[..., :3])
    if pixels.ndim != 2 or pixels.size == 0:
        raise InvalidParameterError(f"{path}: no picture of lines and columns, but an array of shape {pixels.shape}")
    if pixels.dtype in (np.uint8, np.uint16):
        if not pixels.flags.writeable or not pixels.flags.c_contiguous:
            pixels = pixels.copy(order="C")
        return pixels if pixels.dtype.isnative else pixels.byteswap(inplace=True).view(pixels.dtype.newbyteorder("="))
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "iuf":
        raise InvalidParameterError(f"{path}: grey levels of type {pixels.dtype} cannot be used")
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    return _stretch(path, pixels)


def _luma(colours: NDArray[Any]) -> NDArray[Any]:
    red = colours[..., 0]
    if np.array_equal(red, colours[..., 1]) and np.array_equal(red, colours[..., 2]):
        return np.asarray(red)
    grey = np.empty(red.shape, colours.dtype)
    for first in range(0, len(grey), _LINES):
        some = colours[first : first + _LINES] @ _LUMA
        grey[first : first + _LINES] = np.rint(some) if colours.dtype.kind in "iu" else some
    return grey


def _stretch(path: Path, levels: NDArray[Any]) -> NDArray[np.uint16]:
    low, high = float(levels.min()), float(levels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InvalidParameterError(f"{path}: holds grey levels that are not finite")
    stretched = np.empty(levels.shape, np.uint16)
    for first in range(0, len(levels), _LINES):
        some = levels[first : first + _LINES].astype(np.float64)
        stretched[first : first + _LINES] = np.rint((some - low) * (65535.0 / (high - low or 1.0)))
    return stretched
