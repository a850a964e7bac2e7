"""One picture out of all tiles: placed by the stage, refined where neighbours show the same.

The refinement is a least-squares problem over all joints at once, with the stage as a weak prior and long-tailed
weights, so that a joint that matched by chance does not tear the rest (Preibisch, Saalfeld & Tomancak, Bioinformatics
25, 2009, place tiles in the same way).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.files import replacing
from semdrivers.image import Image, read_image
from semfocus_plugin.tiles._joint import ALIKE, joint
from semfocus_plugin.tiles._run import TileRecord

_STAGE, _JOINT = 20.0, 0.3  # Pixels; standard deviations of a stage position and of a joint
_ROUNDS = 8
_SMALLEST = 512
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the tiles lie.

    Parameters
    ----------
    positions : dict of int to tuple of float
        Row and column of the upper left corner of every tile, pixels of the mosaic, by index.
    seams : ndarray of shape (joints,)
        By how many pixels each joint misses, after refinement.
    weak : int
        Joints of which the two tiles do not show the same, and which were not used.
    """

    positions: dict[int, tuple[float, float]]
    seams: NDArray[np.float64]
    weak: int


def place(records: Mapping[int, TileRecord]) -> Placed:
    """Return where tiles lie: by the stage, x to the right and y downwards, refined where they overlap."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import lsqr

    order = sorted(records)
    number = {index: k for k, index in enumerate(order)}
    pixel = float(np.median([records[index].pixel_size for index in order])) * 1e-6
    by_stage = np.array([(records[index].y, records[index].x) for index in order]) / pixel
    at = {(records[index].tile.row, records[index].tile.column): index for index in order}
    found: list[tuple[int, int, float, float]] = []
    weak = 0
    pictures: dict[int, Image] = {}
    for index in order:
        tile = records[index].tile
        pictures[index] = read_image(records[index].path)
        width = max(other.column for other in (records[k].tile for k in order)) + 1
        for old in [old for old in pictures if index - old > 2 * width]:
            del pictures[old]
        for row, column in ((0, -1), (0, 1), (-1, 0)):
            other = at.get((tile.row + row, tile.column + column))
            if other is None or other not in pictures or other >= index:
                continue
            expected = by_stage[number[index]] - by_stage[number[other]]
            where = joint(pictures[other], pictures[index], float(expected[0]), float(expected[1]))
            if where is None:
                continue
            if where.alike < ALIKE:
                weak += 1
                continue
            found.append((number[other], number[index], where.row, where.column))
    positions, seams = by_stage - by_stage.min(axis=0), np.zeros(0)
    if found:
        n, count = len(order), len(found)
        first, second = (np.array([entry[k] for entry in found]) for k in (0, 1))
        measured = np.array([entry[2:] for entry in found]) - (by_stage[second] - by_stage[first])
        weight = np.ones(count)
        for _ in range(_ROUNDS):
            scale = np.concatenate([weight / _JOINT, weight / _JOINT, np.full(n, 1 / _STAGE)])
            rows = np.concatenate([np.arange(count), np.arange(count), count + np.arange(n)])
            matrix = coo_matrix(
                (
                    scale * np.concatenate([-np.ones(count), np.ones(count + n)]),
                    (rows, np.concatenate([first, second, np.arange(n)])),
                ),
                shape=(count + n, n),
            ).tocsr()
            right = np.vstack([measured * (weight / _JOINT)[:, None], np.zeros((n, 2))])
            moved = np.stack([lsqr(matrix, right[:, axis], atol=1e-10, btol=1e-10)[0] for axis in (0, 1)], axis=1)
            seams = np.hypot(*(moved[second] - moved[first] - measured).T)
            weight = 1 / np.sqrt(1 + (seams / (3 * _JOINT)) ** 2)
        positions = by_stage + moved
        positions -= positions.min(axis=0)
    return Placed({index: tuple(map(float, positions[number[index]])) for index in order}, seams, weak)  # type: ignore[misc]


def assemble(records: Mapping[int, TileRecord], placed: Placed) -> NDArray[Any]:
    """Return the mosaic, cut in the middle of what neighbours share; 0 outside."""
    images = {index: read_image(records[index].path).pixels for index in records}
    height, width = next(iter(images.values())).shape
    corners = {index: tuple(round(value) for value in placed.positions[index]) for index in records}
    shape = tuple(max(corner[axis] for corner in corners.values()) + (height, width)[axis] for axis in (0, 1))
    mosaic = np.zeros(shape, next(iter(images.values())).dtype)
    at = {(record.tile.row, record.tile.column): index for index, record in records.items()}
    for index, record in records.items():
        row, column = corners[index]
        tile = record.tile
        cut = []
        for axis, length in ((0, height), (1, width)):
            step = (1, 0) if axis == 0 else (0, 1)
            start = corners[index][axis]
            low, high = start, start + length
            for sign in (-1, 1):
                other = at.get((tile.row + sign * step[0], tile.column + sign * step[1]))
                if other is None:
                    continue
                theirs = corners[other][axis]
                # The seam runs in the middle of what both show
                if 0 < sign * (theirs - start) < length:
                    seam = (max(start, theirs) + min(start, theirs) + length) // 2
                    low, high = (max(low, seam), high) if sign < 0 else (low, min(high, seam))
            cut.append((low, high))
        (top, bottom), (left, right) = cut
        mosaic[top:bottom, left:right] = images[index][top - row : bottom - row, left - column : right - column]
    # Corners that no cut tile covers, where rows are shifted against each other, come from the whole tiles.
    for index in records:
        row, column = corners[index]
        part = mosaic[row : row + height, column : column + width]
        np.copyto(part, images[index], where=part == 0)
    return mosaic


def write_mosaic(path: Path, mosaic: NDArray[Any], pixel_size: float, *, overwrite: bool = False) -> Path:
    """Write a mosaic as OME-TIFF with smaller levels, which appears whole or not at all.

    Parameters
    ----------
    path : Path
        ``.ome.tif``.
    mosaic : ndarray of shape (H, W), uint8 or uint16
        From `assemble`.
    pixel_size : float
        nm.
    overwrite : bool
        Whether the file may take the place of another.
    """
    import tifffile

    levels = [mosaic]
    while min(levels[-1].shape) > 2 * _SMALLEST:
        levels.append(halved(levels[-1]))
    micrometres = pixel_size * 1e-3
    scale = {"PhysicalSizeX": micrometres, "PhysicalSizeY": micrometres}
    units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    options: dict[str, Any] = {"photometric": "minisblack", "tile": (_CHUNK, _CHUNK), "compression": "zlib"}
    with replacing(path, overwrite) as partial, tifffile.TiffWriter(partial, bigtiff=True, ome=True) as file:
        for k, level in enumerate(levels):
            resolution = 1e7 / pixel_size / 2**k
            options |= {"resolution": (resolution, resolution), "resolutionunit": "CENTIMETER"}
            if k == 0:
                about = {"axes": "YX", **scale, **units}
                file.write(level, subifds=len(levels) - 1, metadata=about, **options)
            else:
                file.write(level, subfiletype=1, **options)
    return path


def halved(picture: NDArray[Any]) -> NDArray[Any]:
    """Return a picture of half the size: means of two by two pixels."""
    height, width = (n - n % 2 for n in picture.shape)
    squares = picture[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(squares.mean(axis=(1, 3))).astype(picture.dtype)
