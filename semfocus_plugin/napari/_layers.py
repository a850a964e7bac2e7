"""Pictures and focal series as layers of napari."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import semdrivers
from semdrivers.files import page_count

LayerData = tuple[Any, dict[str, Any], str]
"""Pixels, arguments of the layer, and ``"image"``."""

_ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


def reader_of(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return what reads a path, or several, for napari; None for what is neither picture nor focal series."""
    paths = [Path(each) for each in ([path] if isinstance(path, str) else path)]
    readable = all(each.is_dir() or each.suffix.lower() in _ENDINGS for each in paths)
    return read if paths and readable else None


def read(path: str | Sequence[str]) -> list[LayerData]:
    """Return a layer for each page of each picture, and one for each folder that holds a focal series.

    The scale of a layer is in µm where the pixel size is known; the planes of a series are stacked by working distance.

    Raises
    ------
    InvalidParameterError
        When a file is no picture, or a folder no focal series.
    """
    layers = []
    for each in [Path(one) for one in ([path] if isinstance(path, str) else path)]:
        if each.is_dir():
            layers.append(_series(each))
        else:
            layers += [_picture(each, page) for page in range(page_count(each))]
    return layers


def _picture(path: Path, page: int) -> LayerData:
    image = semdrivers.read_image(path, page)
    name = path.name if page == 0 else f"{path.name} [{page}]"
    return image.pixels, {"name": name, **_scale(image.pixel_size, 2), "metadata": _conditions(image)}, "image"


def _series(folder: Path) -> LayerData:
    microscope: Any = semdrivers.connect(folder.absolute().as_uri().replace("file://", "series://", 1))
    with microscope:
        places = microscope.working_distances
        frames = []
        for place in places:
            microscope.working_distance = place
            frames.append(microscope.acquire(microscope.capabilities.scan_modes[-1]))
    about = {**_conditions(frames[0]), "working_distances": list(places)}
    pixels = np.stack([frame.pixels for frame in frames])
    return pixels, {"name": folder.name, **_scale(frames[0].pixel_size, 3), "metadata": about}, "image"


def _scale(pixel_size: float, dimensions: int) -> dict[str, Any]:
    if not 0 < pixel_size < math.inf:
        return {}
    side = pixel_size * 1e-3
    return {"scale": (1.0,) * (dimensions - 2) + (side, side), "units": ("pixel",) * (dimensions - 2) + ("µm", "µm")}


def _conditions(image: semdrivers.Image) -> dict[str, Any]:
    """Return the fields of a picture but its pixels, for the metadata of a layer."""
    return {field.name: getattr(image, field.name) for field in dataclasses.fields(image) if field.name != "pixels"}
