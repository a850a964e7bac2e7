"""The image link: whole frames from the instrument's USB stream, or a named error.

Reads are driven by the lengths in the stream, never by short packets. A payload is read in one piece into an
array, and the frame refers to that array. What goes wrong is mended in three steps, each harder than the last:

1. ask for another frame, and resynchronise on its leader;
2. reset the stream, clear the halt, drain what is left in the pipe;
3. give the device up and open it again, for which it may be plugged in anew.

The steps are climbed one by one while faults name no remedy. A fault that names its remedy (a halt, a device that went
away) is met with that step at once, and the frame after it begins at the first again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import usb.core
import usb.util

from firmware_protocol.frame_assembly import Defect, Frame, FrameAssembler
from firmware_protocol.stream import MAX_PAYLOAD
from firmware_protocol.usb import (
    BULK_IN,
    INTERFACE,
    INTERFACE_CLASS,
    MAX_PACKET,
    STREAM_INFO_SIZE,
    VENDOR_IN,
    VENDOR_OUT,
    StreamInfo,
    UsbError,
    VendorRequest,
)
from semdrivers.em30._waiting import WaitingTimes
from semdrivers.errors import NotConnectedError, TransportError
from semdrivers.links import UsbTarget, libusb_backend

_log = logging.getLogger(__name__)

_CONTROL_TIMEOUT = 1000
_DRAIN_TIMEOUT = 10
_DRAIN_CHUNK = 64 * MAX_PACKET
_DRAIN_LIMIT = 8 * 1024 * 1024
_LISTEN = 0.05
"""Seconds of one read; between reads the link asks whether the frame was lost, or is no longer wanted."""

_MOST_REMEDIES = 3
"""Faults of one acquisition that may name their remedy themselves."""

_RESYNCHRONISE, _RESET, _REOPEN = 1, 2, 3
_WHILE_SCANNED = 15
"""How many times `WaitingTimes.frame` a frame may be late that the instrument still scans: as long as the frames of all
steps together. Another order would begin it anew."""


@dataclass(frozen=True, slots=True)
class FrameOrder:
    """What was asked of the instrument, so that no other frame is taken for it.

    Parameters
    ----------
    first_frame : int
        Least id of a frame that will do.
    not_before : float
        Earliest start of its scan, seconds on the instrument's clock.
    width, height : int
        Pixels.
    frame_time : float
        Seconds that the scan takes.
    payload : int
        Bytes that the pixels should have; room for them is made while they are scanned.
    """

    first_frame: int
    not_before: float
    width: int
    height: int
    frame_time: float
    payload: int = 0


class _Trouble(Exception):
    """No good frame; `step` is the least step of recovery that can help."""

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(reason)
        self.step = step


class ImageLink:
    """Frames over USB. Not thread safe: the driver's lock guards it.

    Parameters
    ----------
    target : UsbTarget
        Which device to open.
    name : str
        Name of the instrument, for messages.
    serial : str, optional
        Serial number that the instrument gives on the control link. Unless the target names one, the device must
        have this one: frames of another instrument would be taken for this one's.
    waiting : WaitingTimes, optional
        How late a frame may be, and in what time a lost device may be plugged in again.

    Raises
    ------
    NotConnectedError
        When there is no such device, it cannot be opened, or it does not speak this protocol.
    """

    def __init__(
        self,
        target: UsbTarget,
        name: str = "EM-30",
        *,
        serial: str | None = None,
        waiting: WaitingTimes = WaitingTimes(),  # noqa: B008 - frozen
    ) -> None:
        self.name = name
        self._waiting_times = waiting
        self.frames_lost = 0
        """Frames known to be missing or damaged since the link was opened."""
        self.recoveries = 0
        """Steps of recovery taken since the link was opened."""
        self._target = target
        self._serial = target.serial or serial
        self._backend = target.backend if target.backend is not None else libusb_backend()
        self._assembler = FrameAssembler()
        self._scratch = array("B", bytes(MAX_PACKET))
        self._room = array("B")
        """For the payload of the frame that is awaited."""
        self._device: Any = None
        self._broken_off = False
        """Whether somebody ended the last acquisition, so that parts of its frame may be in the pipe."""
        self._closed = False
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def acquire(
        self,
        order: Callable[[], FrameOrder],
        lost: Callable[[FrameOrder], str] = lambda _: "",
        check: Callable[[], object] = lambda: None,
        under_way: Callable[[FrameOrder], bool] = lambda _: False,
    ) -> Frame:
        """Ask for a frame and return it.

        Parameters
        ----------
        order : callable
            Asks the instrument for one frame; called again whenever that frame was lost.
        lost : callable, optional
            Says why the frame ordered will not come, if the instrument has said so; else nothing. Asked many times a
            second, so that a lost frame does not wait for its time limit.
        check : callable, optional
            Called as often; what it raises ends the acquisition, because the frame is not needed any more.
        under_way : callable, optional
            Says whether the instrument still scans the frame ordered; asked when that is late.

        Raises
        ------
        TransportError
            When no good frame came after all steps of recovery; it names what happened at each.
        """
        if self._closed:
            raise NotConnectedError(f"{self.name}: the image link is closed; connect again")
        reasons: list[str] = []
        step = climbed = remedies = remedy = 0
        if self._device is None:
            reasons.append("the device was lost")
            step = _REOPEN
        while True:
            recovering = step > 0
            try:
                if recovering:
                    self._recover(step, reasons[-1], check)
                elif self._broken_off:
                    self._restart_after_break()
                recovering = self._broken_off = False
                ordered = order()
                self._broken_off = True
                frame = self._await(ordered, lost, check, under_way, step)
                self._broken_off = False
                return frame
            except _Trouble as trouble:
                self._broken_off = False  # the ladder mends it
                reasons.append(str(trouble))
                if recovering:
                    climbed = max(step + 1, trouble.step)
                elif trouble.step > climbed + 1:
                    remedies += 1
                    if remedies <= _MOST_REMEDIES:
                        step = remedy = max(trouble.step, min(remedy + 1, _REOPEN))
                        climbed = 0
                        continue
                    climbed = _REOPEN + 1
                else:
                    climbed += 1
                step = climbed
                if step > _REOPEN:
                    raise TransportError(
                        f"{self.name}: no frame over USB ({self._target.text}): {'; then '.join(reasons)}. "
                        "Check the cable and the instrument, and connect again"
                    ) from trouble

    def stream_info(self) -> StreamInfo:
        """Ask the device about its stream.

        Raises
        ------
        NotConnectedError
            When what answers is no EM-30.
        """
        try:
            answer = self._device.ctrl_transfer(
                VENDOR_IN, VendorRequest.STREAM_INFO, 0, INTERFACE, STREAM_INFO_SIZE, _CONTROL_TIMEOUT
            )
            return StreamInfo.decode(bytes(answer))
        except (usb.core.USBError, UsbError) as error:
            raise NotConnectedError(
                f"{self.name}: the USB device {self._target.text} does not answer as an EM-30 image stream "
                f"({error}); name another with usb=VID:PID[:SERIAL]"
            ) from error

    def close(self) -> None:
        """Stop the stream and give the device back. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._give_up()
        if self._target.release is not None:
            self._target.release()

    # Device

    def _open(self) -> None:
        device = self._find()
        try:
            with contextlib.suppress(NotImplementedError, usb.core.USBError):
                if device.is_kernel_driver_active(INTERFACE):
                    device.detach_kernel_driver(INTERFACE)
            _configure(device)
            interface = device.get_active_configuration()[(INTERFACE, 0)]
            endpoints = [endpoint.bEndpointAddress for endpoint in interface]
            if interface.bInterfaceClass != INTERFACE_CLASS or BULK_IN not in endpoints:
                raise NotConnectedError(
                    f"{self.name}: the USB device {self._target.text} has no image stream; it is another kind "
                    "of device. Name the right one with usb=VID:PID[:SERIAL]"
                )
            usb.util.claim_interface(device, INTERFACE)
            self._device = device
            self.stream_info()
            self._restart()
        except (usb.core.USBError, IndexError) as error:
            raise NotConnectedError(
                f"{self.name}: the USB device {self._target.text} could not be opened: {_why(error)}"
            ) from error
        finally:
            if self._device is None:
                usb.util.dispose_resources(device)

    def _find(self) -> Any:
        target = self._target
        failures: dict[str, str | Exception] = {}
        try:
            for device in usb.core.find(find_all=True, backend=self._backend):
                seen = f"USB {device.idVendor:04x}:{device.idProduct:04x} (bus {device.bus}, {device.address})"
                if (device.idVendor, device.idProduct) != (target.vendor_id, target.product_id):
                    continue
                if not self._serial:
                    return device
                try:
                    serial = device.serial_number
                except (usb.core.USBError, ValueError) as error:
                    failures[seen] = f"its serial number could not be read: {_why(error)}"
                    continue
                if serial == self._serial:
                    return device
                failures[seen] = f"its serial number is {serial}, not {self._serial}"
        except usb.core.USBError as error:
            failures["USB"] = _why(error)
        raise NotConnectedError(
            f"{self.name}: no USB device {target.text}"
            + (f" with serial number {self._serial}" if self._serial else "")
            + "; check that the instrument is on and its USB cable plugged in",
            failures,
        )

    def _restart(self) -> None:
        """Bring the stream into its first state, and start it."""
        self._request(VendorRequest.RESET)
        self._device.clear_halt(BULK_IN)
        self._drain()
        self._assembler.clear()
        self._request(VendorRequest.START)

    def _restart_after_break(self) -> None:
        try:
            self._restart()
        except usb.core.USBError as error:
            raise _Trouble(_why(error), _REOPEN) from error

    def _request(self, request: VendorRequest) -> None:
        self._device.ctrl_transfer(VENDOR_OUT, request, 0, INTERFACE, None, _CONTROL_TIMEOUT)

    def _drain(self) -> None:
        scrap = array("B", bytes(_DRAIN_CHUNK))
        for _ in range(_DRAIN_LIMIT // _DRAIN_CHUNK):
            try:
                self._device.read(BULK_IN, scrap, _DRAIN_TIMEOUT)
            except usb.core.USBTimeoutError:
                return

    def _give_up(self) -> None:
        if self._device is None:
            return
        with contextlib.suppress(usb.core.USBError):
            self._request(VendorRequest.STOP)
        usb.util.dispose_resources(self._device)
        self._device = None

    # Frames

    def _await(
        self,
        order: FrameOrder,
        lost: Callable[[FrameOrder], str],
        check: Callable[[], object],
        under_way: Callable[[FrameOrder], bool],
        step: int,
    ) -> Frame:
        """Return the frame ordered; older ones are thrown away."""
        self._room = _room_for(min(order.payload, MAX_PAYLOAD))
        grace = self._waiting_times.frame * 2**step
        limit = order.frame_time + grace
        longest = limit if step else order.frame_time + grace * _WHILE_SCANNED
        start = time.monotonic()
        while True:
            left = start + limit - time.monotonic()
            if left <= 0:
                if limit >= longest or not under_way(order):
                    raise _Trouble(f"no frame within {limit:.1f} s", _RESYNCHRONISE)
                limit = min(limit + grace, longest)
                continue
            for item in self._read(left):
                if isinstance(item, Defect):
                    self.frames_lost += item.lost
                    _log.warning("%s: image stream: %s", self.name, item.reason)
                    if item.frame_id is not None and item.frame_id >= order.first_frame:
                        raise _Trouble(item.reason, _RESYNCHRONISE)
                elif self._is_ordered(item, order):
                    return item
            check()
            if reason := lost(order):
                raise _Trouble(reason, _RESYNCHRONISE)

    def _is_ordered(self, frame: Frame, order: FrameOrder) -> bool:
        leader = frame.leader
        if leader.frame_id < order.first_frame or leader.start_time < order.not_before:
            _log.info("%s: frame %d is older than the last change; discarded", self.name, leader.frame_id)
            return False
        if (leader.width, leader.height) != (order.width, order.height):
            raise _Trouble(
                f"frame {leader.frame_id} has {leader.width}×{leader.height} pixels, not {order.width}×{order.height}",
                _RESYNCHRONISE,
            )
        return True

    def _read(self, seconds: float) -> list[Frame | Defect]:
        """Read up to the end of the part of a frame that is due, for so long at most; return what that completes."""
        due = self._assembler.due
        if due <= MAX_PACKET:
            buffer = self._scratch
        elif due <= len(self._room) < due + MAX_PACKET:
            buffer, self._room = self._room, array("B")
        else:
            buffer = _room_for(due)
        try:
            count = self._device.read(BULK_IN, buffer, max(1, int(min(seconds, _LISTEN) * 1000)))
        except usb.core.USBTimeoutError:
            return []
        except usb.core.USBError as error:
            raise _Trouble(_why(error), _REOPEN if error.errno == errno.ENODEV else _RESET) from error
        data = memoryview(buffer)[:count]
        return self._assembler.feed(bytes(data) if buffer is self._scratch else data)

    def _recover(self, step: int, reason: str, check: Callable[[], object]) -> None:
        self.recoveries += 1
        # A read that is late on a busy computer is daily business; a device that must be opened again is not.
        level = logging.WARNING if step == _REOPEN else logging.INFO
        _log.log(level, "%s: image stream: %s; recovery step %d of %d", self.name, reason, step, _REOPEN)
        try:
            if step == _RESET:
                self._restart()
            elif step == _REOPEN:
                self._reopen(check)
        except usb.core.USBError as error:
            raise _Trouble(f"recovery failed: {_why(error)}", _REOPEN) from error

    def _reopen(self, check: Callable[[], object]) -> None:
        self._give_up()
        deadline = time.monotonic() + self._waiting_times.replug
        while True:
            check()
            try:
                self._open()
            except NotConnectedError as error:
                if time.monotonic() >= deadline:
                    raise _Trouble(f"it could not be opened again: {error}", _REOPEN) from error
                time.sleep(0.05)
            else:
                return


def _room_for(size: int) -> array[int]:
    """Return room for whole packets of `size` bytes together; the system has given its memory by then."""
    return array("B", b"\0") * (-(-size // MAX_PACKET) * MAX_PACKET)


def _configure(device: Any) -> None:
    """Configure a device that is not; configuring one that is would stop the stream of whoever uses it."""
    try:
        device.get_active_configuration()
    except usb.core.USBError as error:
        if error.errno is not None:
            raise
        device.set_configuration()


def _why(error: Exception) -> str:
    if isinstance(error, usb.core.USBError):
        if error.errno == errno.EACCES:
            return "permission denied; on Linux install a udev rule for the device, on Windows the WinUSB driver"
        if error.errno == errno.EBUSY:
            return "another program uses it; close that and try again"
        if error.errno == errno.ENODEV:
            return f"it was unplugged, or its other end has gone ({error.strerror})"
        if error.errno == errno.EPIPE:
            return "the device has halted its stream"
    return str(error)
