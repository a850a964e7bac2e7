"""``emulator://`` URLs: an emulator, and the shipped driver connected to it over the wires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from semdrivers.connection import connect as connect_url
from semdrivers.emulator._emulator import Emulator
from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import Microscope
from semdrivers.url import path_of, split_url

_NUMBERS = ("magnification", "working_distance", "pixel_size")
_OPTIONS = ("seed", *_NUMBERS, "preset", "path", "bar_rows", "realtime", "faults")
_DRIVER = ("bits", "client")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def connect(url: str, options: Mapping[str, Any]) -> Microscope:
    """Start the emulator that a URL names and connect to it; it ends with the microscope.

    Parameters
    ----------
    url : str
        ``emulator://SPECIMEN[?seed=…&magnification=…&working_distance=…&preset=…&realtime=1&faults=…]``, or
        ``emulator://image?path=…&pixel_size=…``.
    options : mapping
        The same, above their namesakes in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When something is malformed or unknown; before anything is started.
    """
    specimen, arguments, driver = parse_emulator_url(url, options)
    emulator = Emulator(specimen, **arguments).start()
    try:
        microscope: Microscope = connect_url(emulator.url, on_close=emulator.close, **driver)
    except BaseException:
        emulator.close()
        raise
    return microscope


def parse_emulator_url(url: str, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return specimen, arguments of `Emulator`, and options of the driver.

    Raises
    ------
    InvalidParameterError
        When something is malformed or unknown.
    """
    place, queried = split_url(url)
    given = {name: value if name == "path" else unquote(value) for name, value in queried.items()} | dict(options)
    for name in given:
        if name not in _OPTIONS + _DRIVER:
            raise InvalidParameterError(
                f"{url}: there is no option {name!r}; an emulator takes {', '.join(_OPTIONS + _DRIVER)}"
            )
    specimen: Any = unquote(place).rstrip("/")
    if not specimen or "/" in specimen:
        raise InvalidParameterError(f"{url}: write emulator://SPECIMEN, such as emulator://tin-balls?seed=1")
    path = given.pop("path", None)
    if specimen == "image":
        if not path:
            raise InvalidParameterError(f"{url}: write emulator://image?path=/path/to/picture.tif&pixel_size=26.9")
        specimen = path_of(path) if isinstance(path, str) else path
    elif path is not None:
        raise InvalidParameterError(f"{url}: a path belongs to emulator://image")
    driver = {name: given.pop(name) for name in _DRIVER if name in given}
    return specimen, {name: _converted(url, name, value) for name, value in given.items()}, driver


def _converted(url: str, name: str, value: Any) -> Any:
    """Turn the text of a query into what `Emulator` takes; other types pass, and are checked there."""
    if not isinstance(value, str):
        return value
    try:
        if name in ("seed", "bar_rows"):
            return int(value)
        if name in _NUMBERS:
            return float(value)
    except ValueError:
        raise InvalidParameterError(f"{url}: {name} must be a number, not {value!r}") from None
    if name == "realtime":
        if value.lower() not in _TRUE + _FALSE:
            raise InvalidParameterError(f"{url}: realtime must be 1 or 0, not {value!r}")
        return value.lower() in _TRUE
    return value
