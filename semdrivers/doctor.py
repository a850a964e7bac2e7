"""`examine`: what works in this installation, part by part, each with what to do where it does not."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from semdrivers.connection import connect
from semdrivers.errors import installation
from semdrivers.instruments import read_instruments, settings_folder
from semdrivers.plugins import get_plugin_manager

__all__ = ["Finding", "examine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one part.

    Parameters
    ----------
    what : str
        The part.
    status : str
        ``"good"``, ``"note"`` (only some uses need it) or ``"bad"``.
    detail : str
        One line for a person.
    """

    what: str
    status: str
    detail: str


def examine() -> Iterator[Finding]:
    """Yield a finding for every part of the installation. No instrument is asked anything, and nothing raises."""
    for what, check in _CHECKS.items():
        try:
            yield Finding(what, *check())
        except Exception as error:
            yield Finding(what, "bad", f"{type(error).__name__}: {error}")


def _versions() -> tuple[str, str]:
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("semdrivers", "numpy", "tifffile", "onnxruntime"))
    return "good", f"Python {platform.python_version()} on {platform.platform()}; {packages}"


def _plugins() -> tuple[str, str]:
    manager = get_plugin_manager()
    broken = [f"{record.name}: {record.error}" for record in manager.records if record.error]
    if broken:
        return "bad", "; ".join(broken)
    return "good", ", ".join(record.name for record in manager.records) or "none"


def _autofocus() -> tuple[str, str]:
    methods = list(get_plugin_manager().autofocus_methods())
    if not methods:
        return "bad", "no method is installed; install semdrivers again, or check SEMDRIVERS_PLUGINS"
    return "good", ", ".join(methods)


def _usb() -> tuple[str, str]:
    import usb.core

    try:
        devices = list(usb.core.find(find_all=True))
    except usb.core.NoBackendError:
        return "note", f"no libusb was found; images over USB need it: {installation('usb-libusb')}"
    return "good", f"libusb answers, {len(devices)} devices are visible"


def _serial() -> tuple[str, str]:
    from serial.tools import list_ports

    ports = [port.device for port in list_ports.comports()]
    return "good", ", ".join(ports) or "no serial line is there"


def _settings() -> tuple[str, str]:
    kept = read_instruments()
    return "good", f"{settings_folder()}, {len(kept)} named instruments"


def _picture() -> tuple[str, str]:
    began = time.perf_counter()
    with connect("emulator://featureless?seed=1") as microscope:
        shape = microscope.acquire().pixels.shape
    return (
        "good",
        f"{shape[1]}×{shape[0]} pixels over loopback TCP and emulated USB, {time.perf_counter() - began:.1f} s",
    )


_CHECKS: dict[str, Callable[[], tuple[str, str]]] = {
    "versions": _versions,
    "plugins": _plugins,
    "autofocus methods": _autofocus,
    "USB": _usb,
    "serial lines": _serial,
    "settings": _settings,
    "picture from the emulator": _picture,
}
