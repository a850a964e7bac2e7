"""URLs of TESCAN microscopes, read into what they name. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firmware_protocol.sharksem import CONTROL_PORT
from semdrivers.connection import host_and_port, limits_option, number_option, split_url, whole_option
from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import Range

_OPTIONS = (
    "bits",
    "detector",
    "dwell",
    "lock",
    "on_close",
    "stigmator",
    "timeout",
    "unlock",
    "view_field",
    "working_distance",
)

_WORKING_DISTANCE = Range(3.0, 50.0)
_VIEW_FIELD = Range(0.001, 6.0)


@dataclass(frozen=True, slots=True)
class Address:
    """What the URL of a TESCAN microscope names.

    Parameters
    ----------
    host, port : str, int
        Host and port of the control connection; the data connection has the next port.
    bits : int
        Depth of the frames.
    detector : str
        Name or number; ``""`` for SE, or else the first.
    dwell : float or None
        Time on a pixel in all modes, s; 0 for the speed that is set at the instrument, None for that of the mode.
    stigmator : int or None
        Index of the centering that is the stigmator; None for the first whose name says so.
    timeout : float
        Longest silence of the instrument, s.
    working_distance, view_field : Range
        Limits in mm: the protocol does not report them.
    lock, unlock : str
        Names of the calls that take and give back exclusive control, where this version of the server has them.
    """

    host: str
    port: int = CONTROL_PORT
    bits: int = 8
    detector: str = ""
    dwell: float | None = None
    stigmator: int | None = None
    timeout: float = 10.0
    working_distance: Range = _WORKING_DISTANCE
    view_field: Range = _VIEW_FIELD
    lock: str = ""
    unlock: str = ""


def parse_address(url: str, options: Mapping[str, Any]) -> Address:
    """Return what a URL and options name; an option stands above its namesake in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When something is malformed or unknown.
    """
    parts, given = split_url(url, options, _OPTIONS, "a TESCAN microscope")
    write = "tescan://HOST or tescan://HOST:PORT, with PORT from 1 to 65534"
    host, port = host_and_port(url, parts, write, CONTROL_PORT)
    if port == 65535:
        raise InvalidParameterError(f"{url}: write {write}")
    values: dict[str, Any] = {name: str(given[name]) for name in ("detector", "lock", "unlock") if name in given}
    for name in ("bits", "stigmator"):
        if name in given:
            values[name] = whole_option(url, name, given[name])
    if values.get("bits", 8) not in (8, 16):
        raise InvalidParameterError(f"{url}: bits must be 8 or 16, not {values['bits']}")
    for name, least in (("dwell", 0.0), ("timeout", 0.05)):
        if name in given:
            values[name] = number_option(url, name, given[name], least, 600.0, "s")
    for name in ("working_distance", "view_field"):
        if name in given:
            values[name] = limits_option(url, name, given[name], least=0)
    for name in ("lock", "unlock"):
        call = values.get(name, "")
        if not (call.isascii() and len(call) < 16 and (call == "" or call.isalnum())):
            raise InvalidParameterError(f"{url}: {name} must be the name of a call of at most 15 letters, not {call!r}")
    return Address(host=host, port=port, **values)
