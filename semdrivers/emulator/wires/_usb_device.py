"""The USB side of the emulated instrument: endpoint 0, and a bulk IN FIFO fed by the scan generator.

Packet accurate: a read ends with a short packet or a full buffer, a packet too large for what is left of the
buffer is an overflow, a halted endpoint stalls until the halt is cleared, after an unplug nothing answers.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from firmware_protocol import usb
from firmware_protocol.bridge import TransferError, TransferStatus
from firmware_protocol.stream import Buffer, FrameStatus, Leader, PixelFormat, encode_parts
from firmware_protocol.usb import DescriptorType, SetupPacket, StandardRequest, StreamInfo, VendorRequest
from semdrivers.emulator.instrument import ScannedFrame

Transfers = tuple[Buffer, ...]

_POLL = 0.001
_MOST_PAYLOAD = 1280 * 960 * 2  # Bytes, as STREAM_INFO reports

_log = logging.getLogger(__name__)


class FrameSource(Protocol):
    """What fills the FIFO; `semdrivers.emulator.instrument.Instrument` is one."""

    def next_frame(self) -> ScannedFrame | None:
        """Scan one frame, or return None when no scan is running."""
        ...


def frame_transfers(frame: ScannedFrame) -> Transfers:
    """Return the transfers that carry a frame: leader, payload, trailer."""
    return tuple(stream_frame(frame))


def stream_frame(frame: ScannedFrame) -> Iterator[Buffer]:
    """Yield the transfers that carry a frame, one by one: see `firmware_protocol.stream.encode_parts`."""
    pixels = np.ascontiguousarray(frame.pixels)
    if pixels.dtype.itemsize > 1 and sys.byteorder == "big":
        pixels = pixels.byteswap()
    leader = Leader(
        frame.frame_id,
        frame.start_time,
        frame.width,
        frame.height,
        PixelFormat.MONO16 if pixels.dtype.itemsize == 2 else PixelFormat.MONO8,
        frame.bits,
        frame.working_distance,
        frame.magnification,
        frame.pixel_size,
    )
    status = FrameStatus.ABORTED if frame.aborted else FrameStatus.OK
    yield from encode_parts(leader, pixels.data.cast("B"), frame.end_time, status)


class UsbDevice:
    """The device's state machine. Thread safe.

    Frames are scanned by a thread of the device's own, on demand: while a read waits and the FIFO is empty.

    Parameters
    ----------
    source : FrameSource
        Where frames come from.
    serial : str
        The serial number in its descriptors.
    encode : callable, optional
        Turns a frame into transfers, of which each leaves before the next is asked for; tests damage frames here, and
        set the attribute of this name.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        serial: str,
        encode: Callable[[ScannedFrame], Iterable[Buffer]] = stream_frame,
    ) -> None:
        self._source = source
        self.encode = encode
        self._strings = (usb.MANUFACTURER, usb.PRODUCT, serial)
        self._state = threading.Condition()
        self._reading = threading.Lock()
        self._pump: threading.Thread | None = None
        self._demand = False
        self._closed = False
        self._generation = 0
        self._fifo: deque[memoryview] = deque()
        self._configuration = 0
        self._streaming = False
        self._halted = False
        self._plugged = True
        self._sent = 0

    # The cable

    def plug(self) -> None:
        """Plug the device in; it is unconfigured and stopped."""
        with self._state:
            self._plugged = True

    def unplug(self) -> None:
        """Pull the cable: waiting and later transfers end with NO_DEVICE."""
        with self._state:
            self._plugged = False
            self._configuration = 0
            self._halted = False
            self._stop()

    def reset(self) -> None:
        """Reset the port; as after libusb's reset the configuration is chosen again."""
        with self._state:
            self._alive()
            self._halted = False
            self._stop()

    def halt(self) -> None:
        """Halt the bulk endpoint, as a device does when it has lost the thread."""
        with self._state:
            self._halted = True
            self._state.notify_all()

    def close(self) -> None:
        """End the device's thread and unplug. The frame source must let go of `next_frame` by itself."""
        with self._state:
            self._closed = True
        self.unplug()
        if self._pump is not None:
            self._pump.join(timeout=5.0)

    # Endpoint 0

    def control(self, setup: SetupPacket, data: bytes = b"") -> bytes:
        """Answer a control transfer; raises `TransferError` STALL for one that it does not know."""
        with self._state:
            self._alive()
            kind = setup.request_type & 0x60
            answer = self._vendor(setup) if kind == 0x40 else self._standard(setup) if kind == 0 else None
            if answer is None:
                raise TransferError(TransferStatus.STALL, f"the device does not know {setup}")
            return answer[: setup.length]

    def _standard(self, setup: SetupPacket) -> bytes | None:
        match setup:
            case SetupPacket(0x80, StandardRequest.GET_DESCRIPTOR):
                return self._descriptor(setup.value >> 8, setup.value & 0xFF)
            case SetupPacket(0x80, StandardRequest.GET_CONFIGURATION):
                return bytes((self._configuration,))
            case SetupPacket(0x00, StandardRequest.SET_CONFIGURATION, (0 | usb.CONFIGURATION) as value):
                self._configuration = value
                self._halted = False
                self._stop()
                return b""
            case SetupPacket(0x80 | 0x81, StandardRequest.GET_STATUS):
                return b"\x01\x00" if setup.request_type == 0x80 else b"\x00\x00"
            case SetupPacket(0x82, StandardRequest.GET_STATUS, 0, usb.BULK_IN):
                return bytes((self._halted, 0))
            case SetupPacket(0x02, StandardRequest.CLEAR_FEATURE, usb.ENDPOINT_HALT, usb.BULK_IN):
                self._halted = False
                return b""
            case SetupPacket(0x02, StandardRequest.SET_FEATURE, usb.ENDPOINT_HALT, usb.BULK_IN):
                self._halted = True
                return b""
            case SetupPacket(0x81, StandardRequest.GET_INTERFACE, 0, usb.INTERFACE):
                return b"\x00"
            case SetupPacket(0x01, StandardRequest.SET_INTERFACE, 0, usb.INTERFACE):
                return b""
        return None

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        if (kind, index) == (DescriptorType.DEVICE, 0):
            return usb.device_descriptor()
        if (kind, index) == (DescriptorType.CONFIGURATION, 0):
            return usb.configuration_descriptor()
        if (kind, index) == (DescriptorType.STRING, 0):
            return usb.language_descriptor()
        if kind == DescriptorType.STRING and 1 <= index <= len(self._strings):
            return usb.string_descriptor(self._strings[index - 1])
        return None

    def _vendor(self, setup: SetupPacket) -> bytes | None:
        if setup.index != usb.INTERFACE or not self._configuration:
            return None
        match (setup.request_type, setup.request):
            case (usb.VENDOR_OUT, VendorRequest.START):
                self._start()
                return b""
            case (usb.VENDOR_OUT, VendorRequest.STOP):
                self._stop()
                return b""
            case (usb.VENDOR_OUT, VendorRequest.RESET):
                self._stop()
                self._sent = 0
                return b""
            case (usb.VENDOR_IN, VendorRequest.STREAM_INFO):
                return StreamInfo(self._streaming, self._sent & 0xFFFFFFFF, 0, _MOST_PAYLOAD).encode()
        return None

    # Bulk IN

    def bulk_in(self, endpoint: int, buffer: memoryview, timeout: float | None) -> int:
        """Move packets into `buffer`; returns the number of bytes.

        Raises
        ------
        TransferError
            TIMEOUT when nothing came in time, OVERFLOW, STALL, NO_DEVICE, or NOT_FOUND for another endpoint.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        done = 0
        with self._reading, self._state:
            try:
                while True:
                    self._alive()
                    if endpoint != usb.BULK_IN or not self._configuration:
                        raise TransferError(TransferStatus.NOT_FOUND, f"no endpoint 0x{endpoint:02X}")
                    if self._halted:
                        raise TransferError(TransferStatus.STALL, "the bulk endpoint is halted")
                    done, ended = self._move(buffer, done)
                    if ended:
                        return done
                    self._demand = True
                    self._state.notify_all()
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        if done:
                            return done
                        raise TransferError(TransferStatus.TIMEOUT, "no data in time")
                    self._state.wait(left)
            finally:
                self._demand = False

    def _move(self, buffer: memoryview, done: int) -> tuple[int, bool]:
        """Move what the FIFO has; returns the bytes moved so far and whether that ends the read."""
        while self._fifo and done < len(buffer):
            transfer = self._fifo[0]
            room = len(buffer) - done
            whole = min(len(transfer), room) // usb.MAX_PACKET * usb.MAX_PACKET
            short = len(transfer) - whole
            if short and short < usb.MAX_PACKET and short <= room - whole:
                self._fifo.popleft()
                buffer[done : done + len(transfer)] = transfer
                return done + len(transfer), True
            buffer[done : done + whole] = transfer[:whole]
            done += whole
            if short:
                self._fifo[0] = transfer[whole:]
                if done < len(buffer):
                    self._fifo[0] = transfer[whole + usb.MAX_PACKET :]
                    if not self._fifo[0]:
                        self._fifo.popleft()
                    raise TransferError(
                        TransferStatus.OVERFLOW,
                        f"a packet of {min(short, usb.MAX_PACKET)} bytes, room for {len(buffer) - done}",
                    )
            else:
                self._fifo.popleft()
        return done, done == len(buffer)

    def _start(self) -> None:
        self._streaming = True
        if self._pump is None:
            self._pump = threading.Thread(target=self._run, name="EM-30 scan", daemon=True)
            self._pump.start()
        self._state.notify_all()

    def _stop(self) -> None:
        self._streaming = False
        self._generation += 1
        self._fifo.clear()
        self._state.notify_all()

    def _run(self) -> None:
        """Scan while a read waits for data."""
        with self._state:
            while not self._closed:
                if not (self._demand and self._streaming and not self._fifo and not self._halted):
                    self._state.wait()
                    continue
                generation = self._generation
                self._state.release()
                try:
                    scanned = self._scan(generation)
                except Exception:
                    _log.exception("the emulated scan failed; the bulk endpoint is halted")
                    self.halt()
                    scanned = True
                finally:
                    self._state.acquire()
                if not scanned:
                    self._state.wait(_POLL)

    def _scan(self, generation: int) -> bool:
        """Scan a frame and send its parts as they are made; returns whether there was one."""
        frame = self._source.next_frame()
        if frame is None:
            return False
        transfers = self.encode(frame)
        with self._state:
            self._sent += generation == self._generation
        for part in transfers:
            with self._state:
                if generation != self._generation:
                    break
                if len(part):
                    self._fifo.append(memoryview(part))
                    self._state.notify_all()
        return True

    def _alive(self) -> None:
        if not self._plugged:
            raise TransferError(TransferStatus.NO_DEVICE, "the device was unplugged")
