"""Links to an instrument: USB pipes and their bridge over a socket, TLS, and what a device that declines answers."""

from semdrivers.links._refusals import describe, exception_for
from semdrivers.links._tls import TlsSocket, client_context, server_context
from semdrivers.links._usb_backends import UsbTarget, libusb_backend, parse_target, register, unregister
from semdrivers.links._usb_bridge import BridgedPipe
from semdrivers.links._usb_pipe import PipeBackend, UsbPipe

__all__ = [
    "BridgedPipe", "PipeBackend", "TlsSocket", "UsbPipe", "UsbTarget", "client_context", "describe", "exception_for",
    "libusb_backend", "parse_target", "register", "server_context", "unregister",
]  # fmt: skip
