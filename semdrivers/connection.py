"""`connect`: from a URL to a microscope."""

from __future__ import annotations

import re
from typing import Any

from semdrivers.errors import InvalidParameterError, NotConnectedError, SemDriversError
from semdrivers.microscope import Microscope, missing_members

__all__ = ["connect"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


def connect(url: str, **options: Any) -> Any:
    """Open the microscope that `url` names.

    Parameters
    ----------
    url : str
        ``em30://HOST[:PORT][?usb=VID:PID[:SERIAL]]``, ``em30+serial:///dev/ttyUSB0?baudrate=115200``,
        ``emulator://SPECIMEN[?seed=…&magnification=…]``, or a scheme that a plugin adds (``semdrivers
        plugins`` lists them).
    **options
        Handed to the driver; each stands above its namesake in the URL's query.

    Returns
    -------
    Microscope
        Usable in a ``with`` statement if it comes from this distribution. Typed as Any, since what it offers
        beyond `Microscope` depends on the instrument.

    Raises
    ------
    InvalidParameterError
        When the URL is malformed, or no plugin knows its scheme; before any I/O.
    NotConnectedError
        When a link could not be opened; the message is a tree of what was tried.
    SemDriversError
        Whatever else the driver raises while it connects.
    """
    if not isinstance(url, str):
        raise InvalidParameterError(f"a microscope's address must be a string, not {url!r}")
    match = _SCHEME.match(url)
    if match is None:
        raise InvalidParameterError(
            f"{url!r} is no address of a microscope; it must look like em30://192.168.1.30 or emulator://tin-balls"
        )
    if _CONTROL.search(url):
        raise InvalidParameterError(f"{url!r} holds a space or a control character; write a space as %20")
    from semdrivers.plugins import get_plugin_manager, unknown

    plugins = get_plugin_manager()
    crashes: dict[str, str | Exception] = {}
    for plugin, answer in plugins.each("semdrivers_connect", url=url, options=options):
        if isinstance(answer, SemDriversError):
            raise answer
        if isinstance(answer, Exception):
            crashes[f"plugin {plugin}"] = f"{type(answer).__name__}: {answer}"
            continue
        missing = missing_members(answer)
        if missing:
            crashes[f"plugin {plugin}"] = (
                f"it returned a {type(answer).__name__}, no Microscope: it lacks {', '.join(missing)}"
            )
            continue
        microscope: Microscope = answer
        return microscope
    if crashes:
        raise NotConnectedError(f"could not open {url}", {**crashes, **plugins.failures})
    schemes = plugins.schemes()
    message = unknown("scheme", match[1].lower(), schemes, nothing="no plugin offers any")
    raise InvalidParameterError(
        f"cannot open {url}: {message}" + "".join(f"\n  {name}: {why}" for name, why in plugins.failures.items())
    )
