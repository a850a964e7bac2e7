"""The wires of the emulated instrument: control server, USB device, faults on both, and their log."""

from semdrivers.emulator.wires._control_desk import ControlDesk, still_holds
from semdrivers.emulator.wires._control_server import ControlServer
from semdrivers.emulator.wires._faults import FAULTS, FaultRule, Faults, Occasion, parse_faults
from semdrivers.emulator.wires._frame_faults import FaultyStream
from semdrivers.emulator.wires._session_log import SessionLog
from semdrivers.emulator.wires._usb_bridge import UsbBridgeServer
from semdrivers.emulator.wires._usb_bus import EmulatedBus
from semdrivers.emulator.wires._usb_device import UsbDevice, frame_transfers

__all__ = [
    "FAULTS", "ControlDesk", "ControlServer", "EmulatedBus", "FaultRule", "Faults", "FaultyStream", "Occasion",
    "SessionLog", "UsbBridgeServer", "UsbDevice", "frame_transfers", "parse_faults", "still_holds",
]  # fmt: skip
