"""The EM-30: control over TCP or a serial line, images over USB."""

from semdrivers.em30._control_link import ControlLink, send_emergency_stop
from semdrivers.em30._driver import EM30, connect, stop
from semdrivers.em30._image_link import FrameOrder, ImageLink
from semdrivers.em30._transport import TcpTransport, Transport, open_serial, open_tcp
from semdrivers.em30._waiting import WaitingTimes

__all__ = [
    "EM30", "ControlLink", "FrameOrder", "ImageLink", "TcpTransport", "Transport", "WaitingTimes", "connect",
    "open_serial", "open_tcp", "send_emergency_stop", "stop",
]  # fmt: skip
