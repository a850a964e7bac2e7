"""URLs of the EM-30, read into what they name. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Any
from urllib.parse import unquote

from firmware_protocol.codes import CONTROL_PORT
from semdrivers.connection import flag_option, host_and_port, number_option, read_token, split_url, whole_option
from semdrivers.errors import InvalidParameterError
from semdrivers.links import client_context

_OPTIONS = ("usb", "bits", "keep_beam", "beam_off_after", "client", "on_close", "waiting", "token", "tls")
_LEAST_WATCH, _MOST_WATCH = 0.1, 86400.0


@dataclass(frozen=True, slots=True)
class Address:
    """What an EM-30's URL names.

    Parameters
    ----------
    host, port : str, int
        Host and port of the control channel over TCP; an empty host means a serial line.
    device, baudrate : str, int
        Device and baud rate of the serial line.
    usb : str or None
        Where images come from (see `semdrivers.links`); None for the instrument's own identifiers.
    bits : int
        Depth of the frames.
    keep_beam : bool
        Whether closing leaves the beam as it is.
    beam_off_after : float or None
        Seconds without a call after which the beam is switched off.
    client : str
        How the instrument names this client to others.
    token : str or None
        For an instrument, or a USB bridge, that asks for it.
    tls : bool or str
        Whether sockets are spoken to over TLS; a PEM file with the certificate that vouches for the other side.
    """

    host: str = ""
    port: int = CONTROL_PORT
    device: str = ""
    baudrate: int = 115200
    usb: str | None = None
    bits: int = 8
    keep_beam: bool = True
    beam_off_after: float | None = None
    client: str = "semdrivers"
    token: str | None = field(default=None, repr=False)
    tls: bool | str = False

    def context(self) -> SSLContext | None:
        """Return how sockets are spoken to over TLS, None for no TLS; raises as `client_context` does."""
        return client_context(None if self.tls is True else self.tls) if self.tls else None


def parse_address(url: str, options: Mapping[str, Any]) -> Address:
    """Return what a URL and options name; an option stands above its namesake in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When something is malformed or unknown.
    """
    over_serial = url.lower().startswith("em30+serial:")
    parts, given = split_url(url, options, (*_OPTIONS, "baudrate") if over_serial else _OPTIONS, "an EM-30")
    client = given.get("client", "semdrivers")
    if not isinstance(client, str) or not client:
        raise InvalidParameterError(f"{url}: client must be a name, not {client!r}")
    common: dict[str, Any] = {
        "usb": given.get("usb"),
        "bits": whole_option(url, "bits", given.get("bits", 8)),
        "keep_beam": flag_option(url, "keep_beam", given.get("keep_beam", True)),
        "client": client,
        "token": given.get("token") or read_token(None),
        "tls": _tls(url, given.get("tls", False)),
    }
    if (seconds := given.get("beam_off_after")) is not None:
        common["beam_off_after"] = number_option(url, "beam_off_after", seconds, _LEAST_WATCH, _MOST_WATCH, "s")
    if not isinstance(common["token"], str | None):
        raise InvalidParameterError(f"{url}: token must be a text")
    if common["bits"] not in (8, 16):
        raise InvalidParameterError(f"{url}: bits must be 8 or 16, not {common['bits']}")
    if over_serial:
        device = unquote(parts.netloc + parts.path)
        if not device:
            raise InvalidParameterError(
                f"{url} names no serial line; write em30+serial:///dev/ttyUSB0 or em30+serial://COM3"
            )
        return Address(device=device, baudrate=whole_option(url, "baudrate", given.get("baudrate", 115200)), **common)
    host, port = host_and_port(url, parts, "em30://HOST[:PORT][?usb=VID:PID[:SERIAL]]", CONTROL_PORT)
    return Address(host=host, port=port, **common)


def _tls(url: str, value: object) -> bool | str:
    """Return a switch, or the name of a file: a text that is no switch."""
    if isinstance(value, Path):
        return str(value)
    try:
        return flag_option(url, "tls", value)
    except InvalidParameterError:
        if isinstance(value, str) and value:
            return value
        raise
