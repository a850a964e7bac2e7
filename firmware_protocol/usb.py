"""The USB side of the instrument: identity, descriptors, endpoint and vendor requests, as bytes.

Layouts of the standard descriptors follow chapter 9 of the USB 2.0 specification. Little endian.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "BULK_IN", "CONFIGURATION", "ENDPOINT_HALT", "INTERFACE", "INTERFACE_CLASS", "LANGUAGE", "MANUFACTURER",
    "MAX_PACKET", "PRODUCT", "PRODUCT_ID", "STREAM_INFO_MAGIC", "STREAM_INFO_SIZE", "VENDOR_ID", "VENDOR_IN",
    "VENDOR_OUT", "ConfigurationDescriptor", "DescriptorType", "DeviceDescriptor", "EndpointDescriptor",
    "InterfaceDescriptor", "SetupPacket", "StandardRequest", "StreamInfo", "UsbError", "VendorRequest",
    "configuration_descriptor", "device_descriptor", "language_descriptor", "string_descriptor",
]  # fmt: skip

VENDOR_ID = 0x1209
"""USB vendor id: that of pid.codes, assumed, since the vendor's own is not public."""
PRODUCT_ID = 0x0001
"""Assumed: the vendor's identifiers are not public; these are what pid.codes sets aside for private tests."""

MANUFACTURER = "semdrivers"
"""Text of string descriptor 1."""
PRODUCT = "EM-30 image stream"
"""Text of string descriptor 2."""
LANGUAGE = 0x0409
"""Language of the string descriptors: English (United States)."""

CONFIGURATION = 1
"""Value of the one configuration."""
INTERFACE = 0
"""Number of the one interface."""
INTERFACE_CLASS = 0xFF
"""Class of the interface: vendor specific."""
BULK_IN = 0x81
"""Address of the endpoint that delivers images."""
MAX_PACKET = 512
"""Bytes of a high-speed bulk packet."""

VENDOR_OUT = 0x41
"""bmRequestType of the vendor requests that carry no data: vendor, recipient interface."""
VENDOR_IN = 0xC1
"""bmRequestType of the vendor requests: vendor, recipient interface."""

STREAM_INFO_SIZE = 24
"""Bytes of the answer to STREAM_INFO."""
STREAM_INFO_MAGIC = b"EM3S"
"""Bytes that begin the answer to STREAM_INFO."""

_SETUP = struct.Struct("<BBHHH")
_DEVICE = struct.Struct("<BBHBBBBHHHBBBB")
_CONFIGURATION = struct.Struct("<BBHBBBBB")
_INTERFACE = struct.Struct("<BBBBBBBBB")
_ENDPOINT = struct.Struct("<BBBBHB")
_STREAM_INFO = struct.Struct("<4sBBHIIII")


class UsbError(ValueError):
    """Bytes that are no descriptor, setup packet or stream information of this device."""


class VendorRequest(enum.IntEnum):
    """bRequest of the vendor requests to the stream's interface."""

    START = 1
    STOP = 2
    RESET = 3
    STREAM_INFO = 4


class StandardRequest(enum.IntEnum):
    """bRequest of the standard requests (USB 2.0, table 9-4)."""

    GET_STATUS = 0
    CLEAR_FEATURE = 1
    SET_FEATURE = 3
    SET_ADDRESS = 5
    GET_DESCRIPTOR = 6
    GET_CONFIGURATION = 8
    SET_CONFIGURATION = 9
    GET_INTERFACE = 10
    SET_INTERFACE = 11


class DescriptorType(enum.IntEnum):
    """Kinds of descriptor (USB 2.0, table 9-5)."""

    DEVICE = 1
    CONFIGURATION = 2
    STRING = 3
    INTERFACE = 4
    ENDPOINT = 5


ENDPOINT_HALT = 0
"""Feature selector of CLEAR_FEATURE and SET_FEATURE."""


@dataclass(frozen=True, slots=True)
class SetupPacket:
    """The eight bytes that begin a control transfer (USB 2.0, table 9-2)."""

    request_type: int
    request: int
    value: int = 0
    index: int = 0
    length: int = 0

    @property
    def is_in(self) -> bool:
        """Whether the data stage goes to the host."""
        return bool(self.request_type & 0x80)

    def encode(self) -> bytes:
        """Return the eight bytes; raises `UsbError` when a value does not fit."""
        try:
            return _SETUP.pack(self.request_type, self.request, self.value, self.index, self.length)
        except struct.error as error:
            raise UsbError(f"setup packet {self}: {error}") from error

    @classmethod
    def decode(cls, data: bytes) -> SetupPacket:
        """Return the packet in eight bytes; raises `UsbError` for another length."""
        if len(data) != _SETUP.size:
            raise UsbError(f"a setup packet has {_SETUP.size} bytes, not {len(data)}")
        return cls(*_SETUP.unpack(data))


@dataclass(frozen=True, slots=True)
class DeviceDescriptor:
    """Standard device descriptor; the fields keep the specification's names, which pyusb reads."""

    bLength: int
    bDescriptorType: int
    bcdUSB: int
    bDeviceClass: int
    bDeviceSubClass: int
    bDeviceProtocol: int
    bMaxPacketSize0: int
    idVendor: int
    idProduct: int
    bcdDevice: int
    iManufacturer: int
    iProduct: int
    iSerialNumber: int
    bNumConfigurations: int

    def encode(self) -> bytes:
        """Return the 18 bytes."""
        return _DEVICE.pack(*(getattr(self, name) for name in self.__slots__))

    @classmethod
    def decode(cls, data: bytes) -> DeviceDescriptor:
        """Return the descriptor; raises `UsbError` when it is none."""
        return cls(*_unpack(_DEVICE, data, DescriptorType.DEVICE))


@dataclass(frozen=True, slots=True)
class EndpointDescriptor:
    """Standard endpoint descriptor."""

    bLength: int
    bDescriptorType: int
    bEndpointAddress: int
    bmAttributes: int
    wMaxPacketSize: int
    bInterval: int


@dataclass(frozen=True, slots=True)
class InterfaceDescriptor:
    """Standard interface descriptor, with its endpoints."""

    bLength: int
    bDescriptorType: int
    bInterfaceNumber: int
    bAlternateSetting: int
    bNumEndpoints: int
    bInterfaceClass: int
    bInterfaceSubClass: int
    bInterfaceProtocol: int
    iInterface: int
    endpoints: tuple[EndpointDescriptor, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class ConfigurationDescriptor:
    """Standard configuration descriptor, with its interfaces."""

    bLength: int
    bDescriptorType: int
    wTotalLength: int
    bNumInterfaces: int
    bConfigurationValue: int
    iConfiguration: int
    bmAttributes: int
    bMaxPower: int
    interfaces: tuple[InterfaceDescriptor, ...] = field(default=(), kw_only=True)

    @classmethod
    def decode(cls, data: bytes) -> ConfigurationDescriptor:
        """Return the configuration with all it contains; raises `UsbError` when it is none."""
        head = _unpack(_CONFIGURATION, data[: _CONFIGURATION.size], DescriptorType.CONFIGURATION)
        if head[2] != len(data):
            raise UsbError(f"configuration of {head[2]} bytes in {len(data)}")
        interfaces: list[InterfaceDescriptor] = []
        endpoints: list[EndpointDescriptor] = []
        at = len(data)
        for start, kind in reversed(list(_walk(data))):
            part = data[start:at]
            at = start
            if kind == DescriptorType.ENDPOINT:
                endpoints.insert(0, EndpointDescriptor(*_unpack(_ENDPOINT, part, kind)))
            elif kind == DescriptorType.INTERFACE:
                interfaces.insert(0, InterfaceDescriptor(*_unpack(_INTERFACE, part, kind), endpoints=tuple(endpoints)))
                endpoints = []
        return cls(*head, interfaces=tuple(interfaces))


def _walk(data: bytes) -> list[tuple[int, int]]:
    parts, at = [], 0
    while at < len(data):
        if at + 2 > len(data) or data[at] < 2 or at + data[at] > len(data):
            raise UsbError(f"descriptor at byte {at} runs past the end")
        parts.append((at, data[at + 1]))
        at += data[at]
    return parts


def _unpack(layout: struct.Struct, data: bytes, kind: int) -> tuple[Any, ...]:
    if len(data) != layout.size or data[0] != layout.size or data[1] != kind:
        raise UsbError(f"no descriptor of type {kind}: {bytes(data).hex()}")
    return layout.unpack(data)


def device_descriptor() -> bytes:
    """Return the 18 bytes of the instrument's device descriptor."""
    return DeviceDescriptor(
        _DEVICE.size, DescriptorType.DEVICE, 0x0200, 0, 0, 0, 64, VENDOR_ID, PRODUCT_ID, 0x0100, 1, 2, 3, 1
    ).encode()


def configuration_descriptor() -> bytes:
    """Return configuration, interface and endpoint descriptor, 25 bytes."""
    total = _CONFIGURATION.size + _INTERFACE.size + _ENDPOINT.size
    return (
        _CONFIGURATION.pack(_CONFIGURATION.size, DescriptorType.CONFIGURATION, total, 1, CONFIGURATION, 0, 0xC0, 50)
        + _INTERFACE.pack(_INTERFACE.size, DescriptorType.INTERFACE, INTERFACE, 0, 1, INTERFACE_CLASS, 0, 0, 2)
        + _ENDPOINT.pack(_ENDPOINT.size, DescriptorType.ENDPOINT, BULK_IN, 2, MAX_PACKET, 0)
    )


def string_descriptor(text: str) -> bytes:
    """Return a string descriptor; raises `UsbError` beyond 126 UTF-16 units."""
    body = text.encode("utf-16-le")
    if len(body) > 252:
        raise UsbError(f"a string descriptor holds 126 characters, not {len(body) // 2}")
    return bytes((len(body) + 2, DescriptorType.STRING)) + body


def language_descriptor() -> bytes:
    """Return string descriptor zero: the one language, English (United States)."""
    return bytes((4, DescriptorType.STRING)) + LANGUAGE.to_bytes(2, "little")


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Answer to STREAM_INFO.

    Parameters
    ----------
    streaming : bool
        Between START and STOP.
    frames_sent, frames_dropped : int
        Since the last RESET, modulo 2**32.
    max_payload : int
        Bytes of the largest payload.
    max_packet : int
        Bytes of a bulk packet.
    """

    streaming: bool
    frames_sent: int
    frames_dropped: int
    max_payload: int
    max_packet: int = MAX_PACKET

    def encode(self) -> bytes:
        """Return the 24 bytes."""
        counts = self.frames_sent, self.frames_dropped, self.max_payload
        return _STREAM_INFO.pack(STREAM_INFO_MAGIC, 1, self.streaming, self.max_packet, *counts, 0)

    @classmethod
    def decode(cls, data: bytes) -> StreamInfo:
        """Return the information; raises `UsbError` when another kind of device has answered."""
        if len(data) != STREAM_INFO_SIZE or data[:4] != STREAM_INFO_MAGIC:
            raise UsbError(f"no stream information: {bytes(data).hex() or 'nothing'}")
        _, version, streaming, packet, sent, dropped, payload, _ = _STREAM_INFO.unpack(data)
        if version != 1:
            raise UsbError(f"stream information of version {version}; this side speaks version 1")
        return cls(bool(streaming), sent, dropped, payload, packet)
