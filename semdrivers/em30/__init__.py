"""The EM-30: control over TCP or a serial line, images over USB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semdrivers.em30.control_link import ControlLink
    from semdrivers.em30.driver import EM30

__all__ = ["connect"]


def connect(url: str, options: Mapping[str, Any]) -> EM30:
    """Open the EM-30 at a URL.

    Parameters
    ----------
    url : str
        ``em30://HOST[:PORT][?usb=…]`` or ``em30+serial:///dev/ttyUSB0[?baudrate=…]``.
    options : mapping
        ``usb``, ``bits``, ``keep_beam``, ``client``, ``baudrate``, as in the URL; ``on_close``, a callable for
        the end of `EM30.close`.

    Raises
    ------
    InvalidParameterError
        When the URL or an option is malformed; before any I/O.
    NotConnectedError
        When a link could not be opened; both are tried, and the message tells of each.
    BusyError
        When another client controls the instrument.
    ProtocolError
        When what answers does not speak this protocol.
    """
    from semdrivers.em30.address import parse_address
    from semdrivers.em30.driver import EM30
    from semdrivers.em30.image_link import ImageLink
    from semdrivers.errors import InvalidParameterError, NotConnectedError
    from semdrivers.usb_backends import parse_target

    address = parse_address(url, options)
    on_close = options.get("on_close")
    if on_close is not None and not callable(on_close):
        raise InvalidParameterError(f"{url}: on_close must be callable, not {on_close!r}")
    target = parse_target(address.usb)
    where = address.host or address.device
    name = f"EM-30 at {where}"
    failures: dict[str, str | Exception] = {}
    control: ControlLink | None = None
    images: ImageLink | None = None
    try:
        try:
            control = _open_control(address, name)
        except NotConnectedError as error:
            failures["control"] = error
        try:
            images = ImageLink(target, name, serial=None if control is None else control.hello.serial)
        except NotConnectedError as error:
            failures["images"] = error
        if control is None or images is None:
            raise NotConnectedError(f"could not connect to the {name}", failures)
        return EM30(control, images, name=name, bits=address.bits, keep_beam=address.keep_beam, on_close=on_close)
    except BaseException:
        closers: list[Callable[[], None]] = [link.close for link in (images, control) if link is not None]
        for close in closers:
            close()
        raise


def _open_control(address: Any, name: str) -> ControlLink:
    from semdrivers.em30.control_link import ControlLink
    from semdrivers.em30.transport import open_serial, open_tcp

    transport = open_tcp(address.host, address.port) if address.host else open_serial(address.device, address.baudrate)
    return ControlLink(transport, client_name=address.client, name=name)
