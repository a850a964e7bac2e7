"""Faults of the image stream: damaged, lost and misplaced frames, a halted endpoint, a pulled cable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from firmware_protocol.stream import Buffer
from semdrivers.emulator.instrument import ScannedFrame
from semdrivers.emulator.wires._faults import Faults, Occasion
from semdrivers.emulator.wires._usb_bus import EmulatedBus
from semdrivers.emulator.wires._usb_device import Transfers, frame_transfers, stream_frame

REPLUG_TIME = 0.2
"""Seconds from pulling the cable to plugging it in again."""

_HARMLESS = frozenset({"usb-duplicate"})
"""Faults after which the frame still arrives whole."""


class FaultyStream:
    """Turns frames into the transfers that reach the host.

    Parameters
    ----------
    faults : Faults
        Says which fault happens to which frame.
    bus : EmulatedBus
        Whose cable is pulled, and whose device halts.
    report_dropped : callable
        Takes the id of a frame that is lost and reported.
    witness : callable, optional
        Takes each frame that leaves whole, before it does.
    """

    def __init__(
        self,
        faults: Faults,
        bus: EmulatedBus,
        report_dropped: Callable[[int], object],
        witness: Callable[[ScannedFrame], object] | None = None,
    ) -> None:
        self._faults = faults
        self._bus = bus
        self._report_dropped = report_dropped
        self._witness = witness
        self._before: Transfers = ()
        self._held: Transfers = ()

    def encode(self, frame: ScannedFrame) -> Iterable[Buffer]:
        """Return what is sent when `frame` has been scanned; called by the device's thread."""
        if not self._faults:
            if self._witness is not None and not frame.aborted:
                self._witness(frame)
            return stream_frame(frame)
        whole = sent = frame_transfers(frame)
        before, self._before = self._before, whole
        held, self._held = self._held, ()
        names = self._faults.at(Occasion.FRAME)
        leaves_whole = not frame.aborted
        for name in names:
            leaves_whole &= name in _HARMLESS
            match name:
                case "usb-drop":
                    sent = ()
                    self._report_dropped(frame.frame_id)
                case "usb-timeout":
                    sent = ()
                case "usb-truncate":
                    sent = self._truncated(sent)
                case "usb-duplicate":
                    sent += sent
                case "usb-reorder":
                    self._held, sent = sent, ()
                case "usb-flip":
                    sent = self._flipped(sent)
                case "usb-stale":
                    sent = before
                case "usb-zero":
                    sent = tuple(bytes(len(part)) if index == 1 else part for index, part in enumerate(sent))
                case "usb-stall":
                    self._bus.device.halt()
                case "usb-unplug":
                    self._bus.unplug()
                case "usb-replug":
                    self._bus.unplug()
                    threading.Timer(REPLUG_TIME, self._bus.plug).start()
        if self._witness is not None and leaves_whole:
            self._witness(frame)
        return sent + held

    def _truncated(self, sent: Transfers) -> Transfers:
        if len(sent) < 2:
            return sent
        leader, payload, *rest = sent
        return (leader, memoryview(payload)[: self._faults.place(len(payload))], *rest)

    def _flipped(self, sent: Transfers) -> Transfers:
        parts = [bytearray(part) for part in sent]
        place = self._faults.place(8 * sum(map(len, parts)) or 1)
        for part in parts:
            if place < 8 * len(part):
                part[place // 8] ^= 1 << place % 8
                break
            place -= 8 * len(part)
        return tuple(parts)
