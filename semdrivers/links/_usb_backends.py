"""From the ``usb=`` part of a URL to a pyusb backend and a device on it.

====================== ==================================================================
``VID:PID[:SERIAL]``   a device on this computer's bus, through libusb (hexadecimal ids)
``tcp://HOST:PORT``    a device in another process, through a bridge
``emulated:KEY``       an emulated device in this process, registered under that key
====================== ==================================================================

Driver and emulator meet here without knowing each other.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

from firmware_protocol.usb import PRODUCT_ID, VENDOR_ID
from semdrivers.errors import InvalidParameterError, NotConnectedError, installation

_IDS = re.compile(r"([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})(?::(.+))?")
_BRIDGE = re.compile(r"tcp://(\[[^\]]+\]|[^:/?#]+):(\d{1,5})/?")
_EMULATED = "emulated:"
_registered: dict[str, Any] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class UsbTarget:
    """Which device to open, and through what.

    Parameters
    ----------
    text : str
        As the user wrote it, for messages.
    backend : object or None
        A pyusb backend, or None for libusb.
    vendor_id, product_id : int
        Identifiers to look for.
    serial : str or None
        Serial number to look for, or None for any.
    release : callable or None
        Gives the backend back, where it was made for this target alone.
    """

    text: str
    backend: Any = None
    vendor_id: int = VENDOR_ID
    product_id: int = PRODUCT_ID
    serial: str | None = None
    release: Callable[[], None] | None = None


def register(key: str, backend: object) -> None:
    """Make a backend known as ``emulated:KEY``.

    Raises
    ------
    InvalidParameterError
        When the key is taken.
    """
    with _lock:
        if _registered.setdefault(key, backend) is not backend:
            raise InvalidParameterError(f"an emulated USB device is already registered as {key!r}")


def unregister(key: str) -> None:
    """Forget a backend; an unknown key is no error."""
    with _lock:
        _registered.pop(key, None)


def parse_target(text: str | None, token: str | None = None, tls: SSLContext | None = None) -> UsbTarget:
    """Return the target that `text` names, the instrument's own identifiers when it is None. No I/O.

    Parameters
    ----------
    text : str or None
        The ``usb=`` part of a URL.
    token : str, optional
        For a bridge that asks for it.
    tls : SSLContext, optional
        How a bridge is spoken to over TLS.

    Raises
    ------
    InvalidParameterError
        When it has none of the three forms.
    NotConnectedError
        When nothing is registered under the key of an emulated device.
    """
    if text is None:
        return UsbTarget(f"{VENDOR_ID:04x}:{PRODUCT_ID:04x}")
    if not isinstance(text, str):
        raise InvalidParameterError(f"usb must be a string, not {text!r}")
    if text.startswith(_EMULATED):
        with _lock:
            backend = _registered.get(text.removeprefix(_EMULATED))
        if backend is None:
            raise NotConnectedError(
                f"no emulated USB device {text.removeprefix(_EMULATED)!r} in this process: its emulator was "
                "closed, or runs in another process (then use usb=tcp://HOST:PORT)"
            )
        return UsbTarget(text, backend)
    if (bridge := _BRIDGE.fullmatch(text)) and 0 < int(bridge[2]) < 65536:
        from semdrivers.links._usb_bridge import BridgedPipe
        from semdrivers.links._usb_pipe import PipeBackend

        pipe = BridgedPipe(bridge[1].strip("[]"), int(bridge[2]), token, tls)
        return UsbTarget(text, PipeBackend(pipe), release=pipe.close)
    if ids := _IDS.fullmatch(text):
        return UsbTarget(text, None, int(ids[1], 16), int(ids[2], 16), ids[3])
    raise InvalidParameterError(
        f"usb={text} names no USB device; write VID:PID[:SERIAL] in hexadecimal (such as "
        f"{VENDOR_ID:04x}:{PRODUCT_ID:04x}), tcp://HOST:PORT, or emulated:KEY"
    )


def libusb_backend() -> Any:
    """Return pyusb's libusb backend, with the library that ``libusb-package`` brings if it is installed.

    Raises
    ------
    NotConnectedError
        When there is no libusb on this computer.
    """
    import usb.backend.libusb1

    try:
        import libusb_package
    except ImportError:
        backend = usb.backend.libusb1.get_backend()
    else:
        backend = libusb_package.get_libusb1_backend()
    if backend is None:
        raise NotConnectedError(
            f"libusb is not installed: install your system's libusb-1.0, or run {installation('usb-libusb')}"
        )
    return backend
