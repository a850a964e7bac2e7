"""`record_series`: a focal series of any microscope, as a folder that ``series:///folder`` opens and others can use."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semdrivers.base import described
from semdrivers.claims import claimed
from semdrivers.errors import InterlockError, InvalidParameterError, OutOfRangeError
from semdrivers.files import check_free, replacing
from semdrivers.grey_levels import full_scale
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import (
    Capabilities,
    HasBeam,
    HasDetector,
    Range,
    check_microscope,
    offered_mode,
    restoring,
    whole_number,
    within,
)
from semdrivers.sessions._recording import free_folder
from semdrivers.sessions._series import OPTICS

_TABLE, _README = "series.csv", "README.md"
_FEWEST, _MOST = 5, 1000
_BLOCK = 4
"""Pixels whose mean is compared with that of their neighbours, along and across: noise is no sharpness."""
_NOMINAL_ANGLE = 3e-3
"""Half-angle in rad that the default span rests on where the instrument reports none."""
_BLUR = 20.0
"""Radius of the blur in pixels at the ends of the default span."""
_CLIPPED, _DRIFT = 0.05, 0.1


@dataclass(frozen=True, slots=True)
class SeriesRecord:
    """What was recorded.

    Parameters
    ----------
    folder : Path
        Holds the pictures, ``series.csv`` and ``README.md``.
    working_distances : tuple of float
        Working distances of the planes, mm, as read back.
    sharpest : float
        Working distance of the sharpest plane, mm.
    notes : tuple of str
        What the checks of the series found wanting; none where all is well.
    """

    folder: Path
    working_distances: tuple[float, ...]
    sharpest: float
    notes: tuple[str, ...]


def record_series(
    microscope: Any,
    folder: str | Path,
    *,
    planes: int = 41,
    span: float | None = None,
    mode: ScanMode | None = None,
    sample: str = "",
    licence: str = "",
    overwrite: bool = False,
    progress: Callable[[int, Image], object] | None = None,
) -> SeriesRecord:
    """Take pictures through focus, around the present working distance, and put the lens back.

    The planes are equally spaced and taken upwards. The folder opens as ``series:///folder``.

    Parameters
    ----------
    microscope : Microscope
        Any microscope, in focus or near it; its beam stays as it is.
    folder : str or Path
        Folder that is made here; must not exist or be empty, unless `overwrite`.
    planes : int
        Number of pictures, 5 to 1000.
    span : float, optional
        Distance from the first plane to the last, mm; by default what blurs by 20 pixels at either end, within the
        limits of the instrument, for its reported half-angle or else 3 mrad.
    mode : ScanMode, optional
        Mode of the frames; by default the fastest of at least 320×240 pixels.
    sample, licence : str
        Texts for the read-me: what was under the beam, and under which licence others may use the pictures.
    overwrite : bool
        Whether the files of a series in the folder may be replaced.
    progress : callable, optional
        Function that is called with index and picture after every plane.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For a setting that cannot be; nothing has moved.
    InterlockError
        When the beam is off; nothing has moved.
    OSError
        When the folder cannot be written.
    """
    check_microscope(microscope)
    if not _FEWEST <= whole_number("planes", planes) <= _MOST:
        raise OutOfRangeError(f"planes must be {_FEWEST} to {_MOST}, not {planes}")
    path = Path(folder) if overwrite else free_folder(folder)
    if path.exists() and not path.is_dir():
        raise InvalidParameterError(f"{folder}: is no folder")
    capabilities: Capabilities = microscope.capabilities
    mode = offered_mode(capabilities, mode)
    if mode.width < ScanMode.FAST.width or mode.height < ScanMode.FAST.height:
        raise InvalidParameterError(f"{mode} is too small for a series; it needs 320×240 pixels at least")
    with claimed(microscope, "a focal series is being recorded"):
        if isinstance(microscope, HasBeam) and not microscope.beam_on:
            raise InterlockError("the beam is off; switch it on before a series is recorded")
        here = microscope.working_distance
        pixel = microscope.acquire(mode).pixel_size * 1e-6
        places = _places(capabilities, here, planes, span, pixel)
        path.mkdir(parents=True, exist_ok=True)
        files = [f"plane-{index:0{len(str(planes - 1))}d}.ome.tif" for index in range(planes)]
        for name in (*files, _TABLE, _README):
            check_free(path / name, overwrite)
        rows: list[dict[str, Any]] = []
        seen: list[tuple[float, float, float]] = []
        began = time.time()
        with restoring(microscope, "working_distance"):
            for index, (place, name) in enumerate(zip(places, files, strict=True)):
                microscope.working_distance = place
                image = microscope.acquire(mode)
                described(image, microscope).save(path / name, overwrite=overwrite)
                seen.append(_measured(image))
                rows.append(_row(name, image, microscope.capabilities))
                if progress is not None:
                    progress(index, image)
    distances = tuple(row["working_distance"] for row in rows)
    notes = _notes(distances, np.array(seen))
    sharpest = distances[int(np.argmax([sharpness for sharpness, _, _ in seen]))]
    with replacing(path / _TABLE, overwrite) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = _readme(microscope, capabilities, rows, sharpest, notes, sample, licence, began)
    with replacing(path / _README, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return SeriesRecord(path, distances, sharpest, notes)


def _places(about: Capabilities, here: float, planes: int, span: float | None, pixel: float) -> list[float]:
    """Return the working distances to take, rising."""
    limits: Range = about.working_distance
    if span is None:
        angle = about.half_angle * 1e-3 if about.half_angle is not None else _NOMINAL_ANGLE
        angle = math.asin(about.numerical_aperture) if about.numerical_aperture is not None else angle
        half = _BLUR * pixel / angle
        low, high = limits.clip(here - half), limits.clip(here + half)
    else:
        half = within("span", span, 0.0, limits.maximum - limits.minimum, "mm") / 2
        low, high = here - half, here + half
        for end in (low, high):
            limits.check(f"span {span:g} mm around {here:g} mm", end, "mm")
    gap = (high - low) / (planes - 1)
    if gap <= 0 or gap < limits.step:
        raise OutOfRangeError(
            f"{planes} planes over {high - low:g} mm are {gap:g} mm apart, and the lens moves in steps of "
            f"{limits.step:g} mm; take fewer planes or a wider span"
        )
    return [min(low + index * gap, high) for index in range(planes)]


def _measured(image: Image) -> tuple[float, float, float]:
    """Return sharpness, mean and clipped share of a picture."""
    pixels = image.pixels.astype(np.float32)
    height, width = (size // _BLOCK * _BLOCK for size in pixels.shape)
    blocks = pixels[:height, :width].reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    smooth, mean = blocks.mean(axis=(1, 3)), float(pixels.mean())
    across, down = np.diff(smooth, axis=1), np.diff(smooth, axis=0)
    sharpness = float((across**2).mean() + (down**2).mean()) / max(mean, 1.0) ** 2
    top = full_scale(image.pixels, image.bit_depth)
    return sharpness, mean, float(np.mean((image.pixels == 0) | (image.pixels >= top)))


def _notes(distances: tuple[float, ...], seen: Any) -> tuple[str, ...]:
    """Return what is wrong with a series, a sentence each."""
    sharpness, means, clipped = seen.T
    best, notes = int(np.argmax(sharpness)), []
    if best in (0, 1, len(distances) - 2, len(distances) - 1):
        notes.append("The sharpest plane is at an end: focus first, or take a wider span.")
    elif max(sharpness[0], sharpness[-1]) > 0.5 * sharpness[best]:
        notes.append("The picture hardly blurs towards an end: take a wider span, or a sample with more structure.")
    if len(set(distances)) < len(distances):
        notes.append("Some planes have the same working distance: take fewer planes or a wider span.")
    if clipped.max() > _CLIPPED:
        notes.append(f"Up to {clipped.max():.0%} of a picture is black or white: correct brightness and contrast.")
    if abs(means[-1] / max(means[0], 1e-9) - 1) > _DRIFT:
        notes.append(
            f"The mean grey level went from {means[0]:.0f} to {means[-1]:.0f}: charging, or a beam that drifts."
        )
    return tuple(notes)


def _row(name: str, image: Image, about: Capabilities) -> dict[str, Any]:
    row: dict[str, Any] = {
        "file": name,
        "working_distance": round(image.working_distance, 9),
        "magnification": image.magnification,
        "pixel_size": image.pixel_size,
    }
    return row | {key: getattr(about, key) for key in OPTICS if getattr(about, key) is not None}


def _readme(
    microscope: Any,
    about: Capabilities,
    rows: list[dict[str, Any]],
    sharpest: float,
    notes: tuple[str, ...],
    sample: str,
    licence: str,
    began: float,
) -> str:
    first, last = rows[0], rows[-1]
    detector = (
        f"{microscope.brightness:.3f} / {microscope.contrast:.3f}" if isinstance(microscope, HasDetector) else "unknown"
    )
    values = {
        "sample": sample or "not said",
        "instrument": about.model or type(microscope).__name__,
        "serial number, firmware": f"{about.serial or 'unknown'}, {about.firmware or 'unknown'}",
        "recorded": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
        "planes": f"{len(rows)}, {first['working_distance']:g} to {last['working_distance']:g} mm, taken upwards",
        "sharpest plane": f"{sharpest:g} mm",
        "magnification, pixel": f"{first['magnification']:g}, {first['pixel_size']:g} nm",
        "brightness / contrast": detector,
        **{f"{key.replace('_', ' ')} at the first plane": f"{first[key]:g}" for key in OPTICS if key in first},
    }
    allowed = licence or "none given. Nobody but the owner may use these pictures; pass a licence, such as CC0-1.0."
    lines = [
        "# A focal series",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in values.items()),
    ]
    lines += ["", f"`{_TABLE}` lists the pictures; `series:///path/to/this/folder` opens them as a microscope.", ""]
    lines += ["## Checks", "", *(f"- {note}" for note in notes or ("All is well.",)), "", f"Licence: {allowed}", ""]
    return "\n".join(lines)
