"""``emulator://`` and ``tescan-emulator://`` URLs: an emulator, and its driver connected to it over the wires."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from semdrivers.connection import connect as connect_url
from semdrivers.connection import flag_option, split_url
from semdrivers.data_bar import checked_bar_rows
from semdrivers.emulator._emulator import Emulator
from semdrivers.emulator._tescan import TescanEmulator
from semdrivers.emulator.physics import ColumnPreset
from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import Microscope

_SWITCHES = ("realtime", *(each.name for each in fields(ColumnPreset) if each.type == "bool"))
_STRENGTHS = tuple(each.name for each in fields(ColumnPreset))
_NUMBERS = ("magnification", "working_distance", "pixel_size", "period", *(n for n in _STRENGTHS if n not in _SWITCHES))
_OPTIONS = ("seed", *_NUMBERS, *_SWITCHES, "preset", "path", "bar_rows", "rasters", "faults")
_DRIVER = ("bits", "client", "keep_beam", "beam_off_after")
_NUMBERS_OF_TESCAN = ("magnification", "working_distance", "pixel_size", "half_angle")
_OPTIONS_OF_TESCAN = ("seed", *_NUMBERS_OF_TESCAN, "preset", "path", "faults")
_DRIVER_OF_TESCAN = ("bits", "timeout")


def connect(url: str, options: Mapping[str, Any]) -> Microscope:
    """Start the emulator that a URL names and connect to it; it ends with the microscope.

    Parameters
    ----------
    url : str
        ``emulator://SPECIMEN[?seed=…&magnification=…&working_distance=…&preset=…&realtime=1&faults=…]``, or
        ``emulator://image?path=…&pixel_size=…``. Every argument of `Emulator` that is a text or a number is an option,
        and so is every field of `ColumnPreset`.
    options : mapping
        The same, above their namesakes in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When something is malformed or unknown; before anything is started.
    """
    specimen, arguments, driver = parse_emulator_url(url, options)
    return _connected(Emulator(specimen, **arguments).start(), driver)


def connect_tescan(url: str, options: Mapping[str, Any]) -> Microscope:
    """Start the emulator that a URL names and connect the TESCAN driver to it; it ends with the microscope.

    Parameters
    ----------
    url : str
        ``tescan-emulator://SPECIMEN[?seed=…&magnification=…&working_distance=…&preset=…&faults=…&bits=…]``, or
        ``tescan-emulator://image?path=…&pixel_size=…``.
    options : mapping
        The same, above their namesakes in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When something is malformed or unknown; before anything is started.
    """
    parts, given = split_url(url, options, _OPTIONS_OF_TESCAN + _DRIVER_OF_TESCAN, "a TESCAN emulator")
    specimen = _specimen(url, parts, given, "tescan-emulator")
    driver = {name: given.pop(name) for name in _DRIVER_OF_TESCAN if name in given}
    arguments = {name: _converted(url, name, value) for name, value in given.items()}
    return _connected(TescanEmulator(specimen, **arguments).start(), driver)


def _connected(emulator: Emulator | TescanEmulator, driver: Mapping[str, Any]) -> Microscope:
    """Connect the driver to an emulator that runs, and ends with the microscope."""
    try:
        microscope: Microscope = connect_url(emulator.url, on_close=emulator.close, **driver)
    except BaseException:
        emulator.close()
        raise
    return microscope


def _specimen(url: str, parts: SplitResult, given: dict[str, Any], scheme: str) -> Any:
    """Return the name of the specimen, or the path of the picture, which is taken from the options.

    Raises
    ------
    InvalidParameterError
        When there is none, or a path beside a name.
    """
    if not parts.netloc or parts.path not in ("", "/"):
        raise InvalidParameterError(f"{url}: write {scheme}://SPECIMEN, such as {scheme}://tin-balls?seed=1")
    path = given.pop("path", None)
    if parts.netloc != "image":
        if path is not None:
            raise InvalidParameterError(f"{url}: a path belongs to {scheme}://image")
        return parts.netloc
    if not path:
        raise InvalidParameterError(f"{url}: write {scheme}://image?path=/path/to/picture.tif&pixel_size=26.9")
    return Path(path)


def parse_emulator_url(url: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return specimen, arguments of `Emulator`, and options of the driver.

    Raises
    ------
    InvalidParameterError
        When something is malformed or unknown.
    """
    parts, given = split_url(url, options, _OPTIONS + _DRIVER, "an emulator")
    specimen = _specimen(url, parts, given, "emulator")
    driver = {name: given.pop(name) for name in _DRIVER if name in given}
    return specimen, {name: _converted(url, name, value) for name, value in given.items()}, driver


def _converted(url: str, name: str, value: Any) -> Any:
    """Turn the text of a query into what `Emulator` takes; other types pass, and are checked there."""
    if not isinstance(value, str):
        return value
    if name == "bar_rows":
        return checked_bar_rows(f"{url}: bar_rows", value)
    try:
        if name == "seed":
            return int(value)
        if name in _NUMBERS + _NUMBERS_OF_TESCAN:
            return float(value)
    except ValueError:
        raise InvalidParameterError(f"{url}: {name} must be a number, not {value!r}") from None
    return flag_option(url, name, value) if name in _SWITCHES else value
