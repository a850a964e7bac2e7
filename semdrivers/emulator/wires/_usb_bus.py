"""The emulated USB bus: one port with the instrument in it, for pyusb in this process."""

from __future__ import annotations

import threading

from firmware_protocol.bridge import Attachment, TransferError, TransferStatus
from firmware_protocol.usb import SetupPacket
from semdrivers.emulator.wires._usb_device import UsbDevice

BUS = 99
"""Number of the emulated bus; real ones count from 1."""


class EmulatedBus:
    """A `semdrivers.links.UsbPipe` that ends at an emulated device.

    Parameters
    ----------
    device : UsbDevice
        Plugged in at once.
    """

    def __init__(self, device: UsbDevice) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._address = 1
        self._plugged = True

    def plug(self) -> None:
        """Plug the device in again, under a new address."""
        with self._lock:
            self._address += 1
            self._plugged = True
            self.device.plug()

    def unplug(self) -> None:
        """Pull the cable."""
        with self._lock:
            self._plugged = False
            self.device.unplug()

    def attached(self) -> tuple[Attachment, ...]:
        """Return the device, if it is plugged in."""
        with self._lock:
            return (Attachment(BUS, self._address),) if self._plugged else ()

    def control(self, address: int, setup: SetupPacket, data: bytes, timeout: float | None) -> bytes:
        """Carry out a control transfer."""
        return self._at(address).control(setup, data)

    def bulk_in(self, address: int, endpoint: int, buffer: memoryview, timeout: float | None) -> int:
        """Read from the bulk endpoint."""
        return self._at(address).bulk_in(endpoint, buffer, timeout)

    def reset(self, address: int) -> None:
        """Reset the port."""
        self._at(address).reset()

    def _at(self, address: int) -> UsbDevice:
        if not self._plugged or address != self._address:
            raise TransferError(TransferStatus.NO_DEVICE, "the device was unplugged")
        return self.device
