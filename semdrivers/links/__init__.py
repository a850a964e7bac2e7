"""Links to an instrument: USB pipes and their bridge over a socket, TLS, what a device that declines answers, and what
it reports of itself.
"""

from semdrivers.links._refusals import describe, exception_for
from semdrivers.links._reported import capabilities_of, limits_of
from semdrivers.links._tls import TlsSocket, client_context, server_context
from semdrivers.links._usb_backends import UsbTarget, libusb_backend, parse_target, register, unregister
from semdrivers.links._usb_bridge import BridgedPipe
from semdrivers.links._usb_pipe import PipeBackend, UsbPipe

__all__ = [
    "BridgedPipe", "PipeBackend", "TlsSocket", "UsbPipe", "UsbTarget", "capabilities_of", "client_context", "describe",
    "exception_for", "libusb_backend", "limits_of", "parse_target", "register", "server_context", "unregister",
]  # fmt: skip
