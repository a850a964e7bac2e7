"""pyusb over anything that carries USB transfers: an emulated device, or a device behind a socket.

`PipeBackend` is a pyusb backend in pure Python; it needs no libusb. What libusb does it does: partial data on a
timeout, and the errors ETIMEDOUT, EOVERFLOW, EPIPE on a stall, ENODEV after an unplug, EBUSY for a second claim.
"""

from __future__ import annotations

import errno
import threading
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import usb.backend
import usb.core

from firmware_protocol.bridge import Attachment, TransferError, TransferStatus
from firmware_protocol.usb import (
    ENDPOINT_HALT,
    ConfigurationDescriptor,
    DescriptorType,
    DeviceDescriptor,
    EndpointDescriptor,
    InterfaceDescriptor,
    SetupPacket,
    StandardRequest,
)

_CONTROL_TIMEOUT = 1.0
_ERRNO = {
    TransferStatus.IO: errno.EIO,
    TransferStatus.NO_DEVICE: errno.ENODEV,
    TransferStatus.NOT_FOUND: errno.ENOENT,
    TransferStatus.BUSY: errno.EBUSY,
    TransferStatus.TIMEOUT: errno.ETIMEDOUT,
    TransferStatus.OVERFLOW: errno.EOVERFLOW,
    TransferStatus.STALL: errno.EPIPE,
}


class UsbPipe(Protocol):
    """Carries transfers to devices. Timeouts are in seconds, None for none; failures are `TransferError`."""

    def attached(self) -> tuple[Attachment, ...]:
        """Return the devices that are plugged in."""
        ...

    def control(self, address: int, setup: SetupPacket, data: bytes, timeout: float | None) -> bytes:
        """Carry out a control transfer; returns what came back."""
        ...

    def bulk_in(self, address: int, endpoint: int, buffer: memoryview, timeout: float | None) -> int:
        """Read into `buffer`; returns the number of bytes, fewer after a timeout or a short packet."""
        ...

    def reset(self, address: int) -> None:
        """Reset the device's port."""
        ...


@dataclass(eq=False, slots=True)
class _Handle:
    address: int
    claimed: set[int] = field(default_factory=set)


class PipeBackend(usb.backend.IBackend):  # type: ignore[misc]
    """A pyusb backend over a `UsbPipe`.

    Parameters
    ----------
    pipe : UsbPipe
        Carries the transfers.
    """

    def __init__(self, pipe: UsbPipe) -> None:
        self.pipe = pipe
        self._lock = threading.Lock()
        self._claims: dict[tuple[int, int], _Handle] = {}
        self._descriptors: dict[int, tuple[DeviceDescriptor, list[ConfigurationDescriptor]]] = {}

    def enumerate_devices(self) -> Iterator[Attachment]:
        """Yield what is plugged in."""
        with _usb_errors():
            attached = self.pipe.attached()
        with self._lock:
            present = {attachment.address for attachment in attached}
            self._descriptors = {a: d for a, d in self._descriptors.items() if a in present}
        yield from attached

    def get_parent(self, dev: Attachment) -> None:
        """Return None: the device hangs on a root port."""
        return None

    def get_device_descriptor(self, dev: Attachment) -> SimpleNamespace:
        """Return the device descriptor, with where the device is plugged in."""
        descriptor, _ = self._described(dev.address)
        return SimpleNamespace(
            **asdict(descriptor),
            bus=dev.bus,
            address=dev.address,
            port_number=dev.port,
            port_numbers=(dev.port,),
            speed=dev.speed,
        )

    def get_configuration_descriptor(self, dev: Attachment, config: int) -> SimpleNamespace:
        """Return the configuration of that index; raises IndexError when there is none."""
        descriptor = self._described(dev.address)[1][config]
        return SimpleNamespace(**_fields(descriptor), extra_descriptors=[])

    def get_interface_descriptor(self, dev: Attachment, intf: int, alt: int, config: int) -> SimpleNamespace:
        """Return an interface; raises IndexError when there is none."""
        if alt:
            raise IndexError(f"no alternate setting {alt}")
        descriptor = self._described(dev.address)[1][config].interfaces[intf]
        return SimpleNamespace(**_fields(descriptor), extra_descriptors=[])

    def get_endpoint_descriptor(self, dev: Attachment, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        """Return an endpoint; raises IndexError when there is none."""
        descriptor = self._described(dev.address)[1][config].interfaces[intf].endpoints[ep]
        return SimpleNamespace(**_fields(descriptor), bRefresh=0, bSynchAddress=0, extra_descriptors=[])

    def open_device(self, dev: Attachment) -> _Handle:
        """Return a handle; raises ENODEV when the device has gone."""
        with _usb_errors():
            if dev.address not in (attachment.address for attachment in self.pipe.attached()):
                raise TransferError(TransferStatus.NO_DEVICE, "the device was unplugged")
        return _Handle(dev.address)

    def close_device(self, dev_handle: _Handle) -> None:
        """Give back what the handle holds."""
        for interface in tuple(dev_handle.claimed):
            self.release_interface(dev_handle, interface)

    def set_configuration(self, dev_handle: _Handle, config_value: int) -> None:
        """Choose a configuration; raises EBUSY while an interface is claimed."""
        with self._lock, _usb_errors():
            if any(address == dev_handle.address for address, _ in self._claims):
                raise TransferError(TransferStatus.BUSY, "an interface of the device is claimed")
        self._standard(dev_handle, 0x00, StandardRequest.SET_CONFIGURATION, config_value)

    def get_configuration(self, dev_handle: _Handle) -> int:
        """Return the value of the configuration chosen, 0 for none."""
        return self._standard(dev_handle, 0x80, StandardRequest.GET_CONFIGURATION, length=1)[0]

    def set_interface_altsetting(self, dev_handle: _Handle, intf: int, altsetting: int) -> None:
        """Choose an alternate setting."""
        self._standard(dev_handle, 0x01, StandardRequest.SET_INTERFACE, altsetting, intf)

    def claim_interface(self, dev_handle: _Handle, intf: int) -> None:
        """Claim an interface; raises EBUSY when another handle has it."""
        key = dev_handle.address, intf
        with self._lock, _usb_errors():
            if self._claims.setdefault(key, dev_handle) is not dev_handle:
                raise TransferError(TransferStatus.BUSY, f"interface {intf} is claimed by another program")
            dev_handle.claimed.add(intf)

    def release_interface(self, dev_handle: _Handle, intf: int) -> None:
        """Give an interface back."""
        with self._lock:
            if self._claims.get((dev_handle.address, intf)) is dev_handle:
                del self._claims[dev_handle.address, intf]
            dev_handle.claimed.discard(intf)

    def bulk_read(self, dev_handle: _Handle, ep: int, intf: int, buff: array[Any], timeout: int | None) -> int:
        """Read into `buff`; returns the number of bytes. `timeout` is in ms, 0 for none."""
        with _usb_errors():
            if intf not in dev_handle.claimed:
                raise TransferError(TransferStatus.NOT_FOUND, f"interface {intf} has not been claimed")
            return self.pipe.bulk_in(dev_handle.address, ep, memoryview(buff).cast("B"), _seconds(timeout))

    def ctrl_transfer(
        self,
        dev_handle: _Handle,
        bmRequestType: int,
        bRequest: int,
        wValue: int,
        wIndex: int,
        data: array[Any],
        timeout: int | None,
    ) -> int:
        """Carry out a control transfer on endpoint 0; returns the number of bytes moved."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        setup = SetupPacket(bmRequestType, bRequest, wValue, wIndex, len(view))
        with _usb_errors():
            outgoing = b"" if setup.is_in else bytes(view)
            answer = self.pipe.control(dev_handle.address, setup, outgoing, _seconds(timeout))
        if not setup.is_in:
            return len(view)
        view[: len(answer)] = answer
        return len(answer)

    def clear_halt(self, dev_handle: _Handle, ep: int) -> None:
        """End a stall of the endpoint."""
        self._standard(dev_handle, 0x02, StandardRequest.CLEAR_FEATURE, ENDPOINT_HALT, ep)

    def reset_device(self, dev_handle: _Handle) -> None:
        """Reset the device's port."""
        with _usb_errors():
            self.pipe.reset(dev_handle.address)

    def is_kernel_driver_active(self, dev_handle: _Handle, intf: int) -> bool:
        """Return False: no kernel knows the device."""
        return False

    def _standard(
        self, handle: _Handle, request_type: int, request: int, value: int = 0, index: int = 0, length: int = 0
    ) -> bytes:
        return self._control(handle.address, SetupPacket(request_type, request, value, index, length))

    def _control(self, address: int, setup: SetupPacket) -> bytes:
        with _usb_errors():
            return self.pipe.control(address, setup, b"", _CONTROL_TIMEOUT)

    def _described(self, address: int) -> tuple[DeviceDescriptor, list[ConfigurationDescriptor]]:
        with self._lock:
            if address in self._descriptors:
                return self._descriptors[address]
        device = DeviceDescriptor.decode(self._descriptor(address, DescriptorType.DEVICE, 0, 18))
        configurations = []
        for index in range(device.bNumConfigurations):
            head = self._descriptor(address, DescriptorType.CONFIGURATION, index, 9)
            total = int.from_bytes(head[2:4], "little")
            whole = self._descriptor(address, DescriptorType.CONFIGURATION, index, total)
            configurations.append(ConfigurationDescriptor.decode(whole))
        with self._lock:
            self._descriptors[address] = device, configurations
        return device, configurations

    def _descriptor(self, address: int, kind: DescriptorType, index: int, length: int) -> bytes:
        setup = SetupPacket(0x80, StandardRequest.GET_DESCRIPTOR, kind << 8 | index, 0, length)
        return self._control(address, setup)


def _fields(descriptor: ConfigurationDescriptor | InterfaceDescriptor | EndpointDescriptor) -> dict[str, int]:
    return {name: getattr(descriptor, name) for name in descriptor.__slots__ if name not in ("interfaces", "endpoints")}


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


class _usb_errors:
    """Turns a `TransferError` into the exception that pyusb's own backends raise."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TransferError):
            timed_out = error.status is TransferStatus.TIMEOUT
            exception = usb.core.USBTimeoutError if timed_out else usb.core.USBError
            raise exception(str(error), -int(error.status), _ERRNO[error.status]) from error
