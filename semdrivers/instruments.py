"""Named instruments: an address and limits under a short name, in the user's settings.

``semdrivers instrument add lab-sem em30://192.168.1.30 --max-travel 2`` keeps one; `semdrivers.connect` and every
command then take ``lab-sem`` for an address, and the lens keeps within the limits whatever a script passes.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdrivers.base import WrappedMicroscope
from semdrivers.errors import ExistingFileError, InvalidParameterError
from semdrivers.files import plain, read_json, replacing
from semdrivers.microscope import Capabilities, LimitsTravel, Range, checked_limits

__all__ = [
    "SETTINGS_VARIABLE",
    "Instrument",
    "LimitedMicroscope",
    "add_instrument",
    "read_instruments",
    "remove_instrument",
    "settings_folder",
]

SETTINGS_VARIABLE = "SEMDRIVERS_SETTINGS"
"""Environment variable that names another folder for the settings."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument under a name.

    Parameters
    ----------
    url : str
        As `semdrivers.connect` takes it.
    max_travel : float, optional
        Furthest that an autofocus run may go from its start, mm.
    bounds : tuple of float, optional
        Lowest and highest working distance that may be set at all, mm.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For an address without a scheme, and limits that cannot be.
    """

    url: str
    max_travel: float | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or "://" not in self.url:
            raise InvalidParameterError(f"url must be an address such as em30://192.168.1.30, not {self.url!r}")
        object.__setattr__(self, "bounds", checked_limits(self.max_travel, self.bounds))

    def describe(self) -> str:
        """Return address and limits on one line."""
        limits = [f"travel up to {self.max_travel:g} mm"] if self.max_travel is not None else []
        limits += [f"working distance {self.bounds[0]:g} to {self.bounds[1]:g} mm"] if self.bounds else []
        return ", ".join([self.url, *(limits or ["no limits of its own"])])


class LimitedMicroscope(WrappedMicroscope, LimitsTravel):
    """A microscope within the limits of a named instrument.

    `capabilities` report the narrower range of working distances, a set beyond it raises before anything moves, and
    `max_travel` holds for every autofocus run.

    Parameters
    ----------
    microscope : Microscope
        Open; `close` closes it too.
    instrument : Instrument
        The limits.
    """

    def __init__(self, microscope: Any, instrument: Instrument) -> None:
        super().__init__(microscope)
        self._instrument = instrument

    @property
    def capabilities(self) -> Capabilities:
        """Those of the microscope, with the range of working distances that is allowed."""
        capabilities = super().capabilities
        return dataclasses.replace(capabilities, working_distance=self._allowed(capabilities.working_distance))

    @property
    def max_travel(self) -> float | None:
        """Furthest that an autofocus run may go from its start, mm; None for no limit."""
        return self._instrument.max_travel

    def _write(self, name: str, value: Any) -> None:
        if name == "working_distance" and self._instrument.bounds is not None:
            self._allowed(super().capabilities.working_distance).check("working distance", value, "mm")
        super()._write(name, value)

    def _allowed(self, range_: Range) -> Range:
        bounds = self._instrument.bounds
        return range_ if bounds is None else range_.intersect(*bounds)


def settings_folder() -> Path:
    """Return the user's folder for settings, as the platform has it, or what `SETTINGS_VARIABLE` names."""
    override = os.environ.get(SETTINGS_VARIABLE)
    if override:
        return Path(override)
    home = os.path.expanduser("~")
    if os.name == "nt":
        return Path(os.environ.get("APPDATA") or os.path.join(home, "AppData", "Roaming")) / "semfocus"
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")) / "semfocus"


def _file() -> Path:
    return settings_folder() / "instruments.json"


def read_instruments() -> dict[str, Instrument]:
    """Return the named instruments; empty where there are none.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When the file holds something else; the message names it.
    """
    path = _file()
    if not path.is_file():
        return {}
    try:
        kept = read_json(path)
        return {name: Instrument(**values) for name, values in kept.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidParameterError(
            f"{path} does not hold instruments that can be read ({error}); correct it, or delete it"
        ) from error


def add_instrument(name: str, instrument: Instrument, *, overwrite: bool = False) -> Path:
    """Keep an instrument under a name; returns the file that holds it.

    Raises
    ------
    InvalidParameterError
        For a name that is none.
    ExistingFileError
        When there is an instrument of that name, unless `overwrite`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameterError(f"a name must consist of letters, digits, '-', '_' and '.', not {name!r}")
    kept = read_instruments()
    if name in kept and not overwrite:
        raise ExistingFileError(f"the instrument {name}")
    return _keep({**kept, name: instrument})


def remove_instrument(name: str) -> Path:
    """Forget a named instrument; returns the file.

    Raises
    ------
    InvalidParameterError
        When there is none of that name.
    """
    kept = read_instruments()
    if name not in kept:
        raise InvalidParameterError(f"there is no instrument {name!r}; there are: {', '.join(kept) or 'none'}")
    return _keep({each: instrument for each, instrument in kept.items() if each != name})


def _keep(kept: dict[str, Instrument]) -> Path:
    path = _file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite=True, private=True) as partial:
        partial.write_text(json.dumps(plain(kept), indent=2) + "\n", encoding="utf-8")
    return path
