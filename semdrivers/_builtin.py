"""The drivers, the emulator and the recordings of this distribution, registered as a plugin like anyone's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semdrivers.errors import InvalidParameterError
from semdrivers.microscope import Microscope
from semdrivers.plugins import hookimpl

_EM30 = ("em30", "em30+serial")
_EMULATOR = "emulator"

NOT_RUN = {
    "em30": "its emulator",
    "em30+serial": "its emulator",
    "fibsem": "fibsem's demo microscope, and its own classes over stand-ins for the makers' libraries",
    "micromanager": "Micro-Manager's demo camera and drives",
    "smartsem": "a stand-in for its COM object",
    "tescan": "its emulator",
    "zem": "the maker's simulator",
}
"""Schemes of drivers that nobody has run on an instrument yet, each with what it was verified on."""


@hookimpl
def semdrivers_schemes() -> Mapping[str, str]:
    """Name the schemes of the drivers, of the emulators and of recordings."""
    return {
        "em30": "em30://192.168.1.30",
        "em30+serial": "em30+serial:///dev/ttyUSB0?baudrate=115200",
        "emulator": "emulator://tin-balls?seed=1",
        "fibsem": "fibsem:///path/to/configuration.yaml",
        "micromanager": "micromanager:///path/to/config.cfg?numerical_aperture=0.5",
        "replay": "replay:///path/to/session",
        "semfocus+http": "semfocus+http://192.168.1.50:8765",
        "series": "series:///path/to/pictures",
        "smartsem": "smartsem://?working_distance=4:20",
        "tescan": "tescan://192.168.1.40",
        "tescan-emulator": "tescan-emulator://tin-balls?seed=1",
        "zem": "zem://192.168.1.50",
    }


@hookimpl
def semdrivers_connect(url: str, options: Mapping[str, Any]) -> Microscope | None:
    """Open an EM-30 or a TESCAN microscope, an emulated one in this process, a shared one, or a recording."""
    scheme = url.partition("://")[0].lower()
    if scheme in _EM30:
        from semdrivers import em30

        return em30.connect(url, options)
    if scheme == _EMULATOR:
        from semdrivers import emulator

        return emulator.connect(url, options)
    if scheme == "tescan":
        from semdrivers import tescan

        return tescan.connect(url, options)
    if scheme == "tescan-emulator":
        from semdrivers import emulator

        return emulator.connect_tescan(url, options)
    if scheme == "smartsem":
        from semdrivers import smartsem

        return smartsem.connect(url, options)
    if scheme == "zem":
        from semdrivers import zem

        return zem.connect(url, options)
    if scheme == "fibsem":
        from semdrivers.hosts import fibsem

        return fibsem.connect(url, options)
    if scheme == "micromanager":
        from semdrivers.hosts import pymmcore

        return pymmcore.connect(url, options)
    if scheme == "semfocus+http":
        from semdrivers.remote import open_remote

        return open_remote(url, options)
    if scheme == "replay":
        from semdrivers.sessions import open_replay

        return open_replay(url, options)
    if scheme == "series":
        from semdrivers.sessions import open_series

        return open_series(url, options)
    return None


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
