"""The drivers, the emulator and the recordings of this distribution, registered as a plugin like anyone's."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import Microscope
from semdrivers.plugins import hookimpl

_EM30 = ("em30", "em30+serial")
_EMULATOR = "emulator"


class _Kind(NamedTuple):
    """A kind of address.

    Parameters
    ----------
    example : str
        An address of the kind.
    opened_by : str
        ``module:function``; the module is imported when the first such address is opened.
    verified_on : str
        What a driver was verified on that nobody has run on an instrument yet; empty for what is no instrument.
    """

    example: str
    opened_by: str
    verified_on: str = ""


_KINDS = {
    "em30": _Kind("em30://192.168.1.30", "semdrivers.em30:connect", "its emulator"),
    "em30+serial": _Kind("em30+serial:///dev/ttyUSB0?baudrate=115200", "semdrivers.em30:connect", "its emulator"),
    "emulator": _Kind("emulator://tin-balls?seed=1", "semdrivers.emulator:connect"),
    "fibsem": _Kind(
        "fibsem:///path/to/configuration.yaml",
        "semdrivers.hosts.fibsem:connect",
        "fibsem's demo microscope, and its own classes over stand-ins for the makers' libraries",
    ),
    "micromanager": _Kind(
        "micromanager:///path/to/config.cfg?numerical_aperture=0.5",
        "semdrivers.hosts.pymmcore:connect",
        "Micro-Manager's demo camera and drives",
    ),
    "replay": _Kind("replay:///path/to/session", "semdrivers.sessions:open_replay"),
    "semfocus+http": _Kind("semfocus+http://192.168.1.50:8765", "semdrivers.remote:open_remote"),
    "series": _Kind("series:///path/to/pictures", "semdrivers.sessions:open_series"),
    "smartsem": _Kind(
        "smartsem://?working_distance=4:20", "semdrivers.smartsem:connect", "a stand-in for its COM object"
    ),
    "tescan": _Kind("tescan://192.168.1.40", "semdrivers.tescan:connect", "its emulator"),
    "tescan-emulator": _Kind("tescan-emulator://tin-balls?seed=1", "semdrivers.emulator:connect_tescan"),
    "zem": _Kind("zem://192.168.1.50", "semdrivers.zem:connect", "the maker's simulator"),
}

NOT_RUN = {scheme: kind.verified_on for scheme, kind in _KINDS.items() if kind.verified_on}
"""Schemes of drivers that nobody has run on an instrument yet, each with what it was verified on."""


@hookimpl
def semdrivers_schemes() -> Mapping[str, str]:
    """Name the schemes of the drivers, of the emulators and of recordings."""
    return {scheme: kind.example for scheme, kind in _KINDS.items()}


@hookimpl
def semdrivers_connect(url: str, options: Mapping[str, Any]) -> Microscope | None:
    """Open a microscope of `_KINDS`, an emulated one in this process, a shared one, or a recording."""
    kind = _KINDS.get(url.partition("://")[0].lower())
    if kind is None:
        return None
    module, _, name = kind.opened_by.partition(":")
    microscope: Microscope = getattr(import_module(module), name)(url, options)
    return microscope


@hookimpl
def semdrivers_stop(url: str, options: Mapping[str, Any]) -> bool | None:
    """Stop an EM-30, beside the client that controls it."""
    scheme = url.partition("://")[0].lower()
    if scheme == _EMULATOR:
        raise InvalidParameterError(f"{url} names a new emulator; to stop one, write the em30:// address of its own")
    if scheme not in _EM30:
        return None
    from semdrivers import em30

    em30.stop(url, options)
    return True


@hookimpl
def semdrivers_specimens() -> Mapping[str, Any]:
    """Name the procedural specimens."""
    from semdrivers.emulator.specimens import SPECIMENS

    return SPECIMENS
