"""Calibration to a microscope: the aperture, measured by one focal series, kept in a small file for later runs.

The angle of the beam decides how far a blur of so many pixels is from focus, and it differs by a factor of five among
instruments. `calibrate` measures it, `save` keeps it under the instrument's model and serial number, and `aperture_for`
shows what is kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from semdrivers.errors import InvalidParameterError, SemDriversError
from semdrivers.files import read_json, replacing
from semdrivers.instruments import settings_folder
from semdrivers.microscope import number
from semfocus_plugin.optics import UNKNOWN, Beam, check_probe_diameter, depth_of_field

CALIBRATION_VARIABLE = "SEMFOCUS_CALIBRATION"
"""Environment variable that names a calibration file, or another folder of them."""

_FORMAT = 1
_APERTURES = (1e-3, 1.0)
"""Radii in mm that a file may hold; other values are no aperture."""


class Identified(Protocol):
    """Identity of an instrument; `semdrivers.Capabilities` does."""

    @property
    def model(self) -> str:
        """Model, empty where the instrument does not say."""
        ...

    @property
    def serial(self) -> str:
        """Serial number, empty where the instrument does not say."""
        ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """What one focal series showed of an instrument.

    Parameters
    ----------
    model, serial, firmware : str
        The instrument, as it names itself.
    date : str
        When, ISO 8601 with the offset from UTC.
    aperture, aperture_sigma : float
        Radius of the aperture and its standard deviation, mm. The half-angle of the beam is this over the working
        distance.
    working_distance : float
        Working distance of best focus in the series, mm.
    magnification : float
        Magnification of the series, a plain number.
    pixel : float
        Size of a pixel of its frames, nm.
    residual : float
        Root mean square deviation of ln(1 + blur radius) from the fit: some 0.05 for a good one.
    frames : int
        Number of frames of the series; those of the autofocus before it not counted.
    probe_diameter : float, optional
        Diameter of the focused probe as somebody entered it, nm; None where nobody did.
    series : tuple of (float, float)
        Working distance in mm and blur radius in pixels of each frame that was fitted; empty where a file has none.
    """

    model: str
    serial: str
    firmware: str
    date: str
    aperture: float
    aperture_sigma: float
    working_distance: float
    magnification: float
    pixel: float
    residual: float
    frames: int
    probe_diameter: float | None = None
    series: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("model", "serial", "firmware", "date"):
            if not isinstance(getattr(self, name), str):
                raise InvalidParameterError(f"{name} must be text, not {getattr(self, name)!r}")
        for name in _NUMBERS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST:
                raise InvalidParameterError(f"{name} must be a number from 0 to {_MOST:g}, not {value!r}")
        if not _APERTURES[0] <= self.aperture <= _APERTURES[1]:
            raise InvalidParameterError(
                f"aperture must be a radius within {_APERTURES[0]:g} to {_APERTURES[1]:g} mm, not {self.aperture:g}"
            )
        if self.probe_diameter is not None:
            check_probe_diameter(self.probe_diameter)
        if self.working_distance <= 0:
            raise InvalidParameterError("working_distance must be above 0 mm")
        pairs = tuple((number("series", place), number("series", blur)) for place, blur in self.series)
        object.__setattr__(self, "series", pairs)

    @property
    def beam(self) -> Beam:
        """Beam that a run starts from."""
        return Beam.of_aperture(self.aperture)

    @property
    def core(self) -> float | None:
        """Diameter of the focused probe, mm; None where it is not known."""
        return None if self.probe_diameter is None else self.probe_diameter * 1e-6

    @property
    def half_angle(self) -> float:
        """Half-angle of the beam at `working_distance`, mrad."""
        return self.aperture / self.working_distance * 1e3

    @property
    def half_angle_sigma(self) -> float:
        """Standard deviation of `half_angle`, mrad."""
        return self.aperture_sigma / self.working_distance * 1e3

    @property
    def depth_of_field(self) -> float:
        """Depth of field at `working_distance` and `magnification`, mm, as a run computes it."""
        return depth_of_field(self.pixel * 1e-6, self.core or UNKNOWN, self.half_angle * 1e-3)

    @property
    def depth_of_field_sigma(self) -> float:
        """Standard deviation of `depth_of_field` from that of the aperture, mm."""
        return self.depth_of_field * self.aperture_sigma / self.aperture

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, and the figures that follow from them (angles in mrad, depth of field in mm)."""
        follow = ("half_angle", "half_angle_sigma", "depth_of_field", "depth_of_field_sigma")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in follow}


_MOST = 1e12
_NUMBERS = ("aperture", "aperture_sigma", "working_distance", "magnification", "pixel", "residual", "frames")


def save(calibration: Calibration, path: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write a calibration, in one piece; in the user's settings it takes the place of the instrument's earlier one.

    Parameters
    ----------
    calibration : Calibration
        What to keep.
    path : str or Path, optional
        A file ending in ``.json``; by default the instrument's own in the folder that `aperture_for` looks into (or the
        file, where `CALIBRATION_VARIABLE` names one).
    overwrite : bool
        Whether the file that `path` names may take the place of another.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InvalidParameterError
        When the name ends otherwise; or, without `path`, when the instrument reports neither model nor serial number,
        so that its calibration could be taken for another's.
    ExistingFileError
        When there is a file of the name `path`, unless `overwrite`.
    OSError
        When the file cannot be written.
    """
    target = Path(path) if path is not None else check_place(calibration)
    if target.suffix.lower() != ".json":
        raise InvalidParameterError(f"{target}: the name of a calibration must end in .json")
    if path is None:
        target.parent.mkdir(parents=True, exist_ok=True)
    values = {"format": _FORMAT, **dataclasses.asdict(calibration)}
    with replacing(target, overwrite or path is None) as partial:
        partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def load(path: str | Path) -> Calibration:
    """Read a calibration.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    InvalidParameterError
        When it is no calibration, or holds values that cannot be.
    """
    try:
        entries = read_json(path)
        if not isinstance(entries, dict) or entries.pop("format", None) != _FORMAT:
            raise InvalidParameterError(f'it must be an object with "format": {_FORMAT}')
        return Calibration(**entries)
    except (ValueError, TypeError) as error:
        raise InvalidParameterError(
            f"{path} is no calibration that can be read ({error}); delete it, or measure again: semfocus calibrate URL"
        ) from error


def aperture_for(info: Identified) -> float | None:
    """Return the radius of an instrument's aperture in mm as calibrated, or None where nothing is kept."""
    kept = calibration_for(info)
    return None if kept is None else kept.aperture


def calibration_for(info: Identified) -> Calibration | None:
    """Return what is kept of an instrument, or None.

    Reads one small file and never raises: a file that cannot be read is warned of and passed over.

    Parameters
    ----------
    info : Capabilities, or anything with ``model`` and ``serial``
        The instrument. What is kept of another is never returned.
    """
    path = place_for(info)
    if path is None or not path.is_file():
        return None
    try:
        kept = load(path)
    except (OSError, SemDriversError) as error:
        warnings.warn(f"autofocus goes on without calibration: {error}", RuntimeWarning, stacklevel=2)
        return None
    return kept if (kept.model, kept.serial) == (info.model, info.serial) else None


def place_for(info: Identified) -> Path | None:
    """Return the file for an instrument, there or not; None for one that reports neither model nor serial number."""
    override = os.environ.get(CALIBRATION_VARIABLE)
    if override and override.lower().endswith(".json"):
        return Path(override)
    if not (info.model or info.serial):
        return None
    name = re.sub(r"[^\w.-]+", "-", f"{info.model or 'unnamed'}_{info.serial or 'unnumbered'}")
    return (Path(override) if override else settings_folder() / "calibration") / f"{name}.json"


def kept_files() -> list[Path]:
    """Return the files of all calibrations that are kept, those of stigmators included."""
    override = os.environ.get(CALIBRATION_VARIABLE)
    place = Path(override) if override else settings_folder() / "calibration"
    return sorted(place.glob("*.json")) if place.is_dir() else [place] if place.is_file() else []


def check_place(info: Identified) -> Path:
    """Return the file for an instrument, as `place_for`.

    Raises
    ------
    InvalidParameterError
        When the instrument reports neither model nor serial number.
    """
    path = place_for(info)
    if path is None:
        raise InvalidParameterError(
            "the instrument reports neither model nor serial number, so that its calibration could be taken for "
            f"another instrument's: name a file (--out), and set {CALIBRATION_VARIABLE} to it where it holds"
        )
    return path
