"""The image link against a damaged stream: it mends it, or says what it tried; a wrong frame never gets through."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import deque
from contextlib import closing

import numpy as np
import pytest

from firmware_protocol import usb as wire
from firmware_protocol.stream import FrameStatus, Trailer
from semdrivers.em30 import FrameOrder, ImageLink, WaitingTimes
from semdrivers.emulator.instrument import ScannedFrame
from semdrivers.emulator.wires import EmulatedBus, UsbDevice, frame_transfers
from semdrivers.errors import NotConnectedError, TransportError
from semdrivers.links import PipeBackend, UsbTarget

WIDTH, HEIGHT = 320, 240
FRAME_TIME = 0.01


HURRY = WaitingTimes(frame=1.0, replug=0.5)
"""Long enough for a frame on a busy machine, and what will not come is not waited for much longer."""


class Instrument:
    """Scans a frame for every order; `damage` holds what becomes of the next ones."""

    def __init__(self) -> None:
        self.next_id = 1
        self.time = 0.0
        self.ready: deque[ScannedFrame] = deque()
        self.damage: deque[object] = deque()
        self.orders = 0
        self.device = UsbDevice(self, serial="EMU000001", encode=self.encode)
        self.bus = EmulatedBus(self.device)
        self.target = UsbTarget("emulated:test", PipeBackend(self.bus))

    def scan(self, width: int = WIDTH, height: int = HEIGHT) -> ScannedFrame:
        pixels = np.random.default_rng(self.next_id).integers(0, 256, (height, width), np.uint8)
        scanned = ScannedFrame(self.next_id, self.time, self.time + 0.1, width, height, 8, 12.0, 5e3, 80.0, pixels)
        self.next_id += 1
        self.time += 0.1
        self.ready.append(scanned)
        return scanned

    def order(self, width: int = WIDTH, height: int = HEIGHT) -> FrameOrder:
        """As the driver does: ask for one frame of the present."""
        self.orders += 1
        order = FrameOrder(self.next_id, self.time, width, height, FRAME_TIME)
        self.scan()
        return order

    def next_frame(self) -> ScannedFrame | None:
        return self.ready.popleft() if self.ready else None

    def encode(self, frame: ScannedFrame):
        damage = self.damage.popleft() if self.damage else None
        parts = frame_transfers(frame)
        return parts if damage is None else damage(parts)


@pytest.fixture
def instrument():
    made = Instrument()
    yield made
    made.device.close()


@pytest.fixture
def link(instrument):
    opened = ImageLink(instrument.target, "EM-30", waiting=HURRY)
    yield opened
    opened.close()


def pixels_of(frame_id: int) -> bytes:
    return np.random.default_rng(frame_id).integers(0, 256, (HEIGHT, WIDTH), np.uint8).tobytes()


def flipped(parts):
    payload = bytearray(parts[1])
    payload[1234] ^= 1
    return parts[0], bytes(payload), parts[2]


def status(value):
    def change(parts):
        trailer = Trailer.decode(parts[2])
        return parts[0], parts[1], dataclasses.replace(trailer, status=value).encode()

    return change


DAMAGE = {
    "a flipped bit in the payload": flipped,
    "a leader damaged": lambda parts: (b"EM3X" + parts[0][4:], *parts[1:]),
    "a trailer damaged": lambda parts: (*parts[:2], bytes(32)),
    "no leader": lambda parts: parts[1:],
    "no payload": lambda parts: (parts[0], parts[2]),
    "no trailer": lambda parts: parts[:2],
    "half a payload": lambda parts: (parts[0], bytes(parts[1])[: 512 * 75], parts[2]),
    "an odd piece of a payload": lambda parts: (parts[0], bytes(parts[1])[:1001], parts[2]),
    "bytes too many": lambda parts: (parts[0], bytes(parts[1]) + bytes(700), parts[2]),
    "zeros": lambda parts: (parts[0], bytes(len(parts[1])), parts[2]),
    "nothing at all": lambda parts: (),
    "aborted": status(FrameStatus.ABORTED),
    "overrun": status(FrameStatus.OVERRUN),
}


def test_a_frame_is_the_buffer_that_was_read(instrument, link):
    for expected in (1, 2, 3):
        frame = link.acquire(instrument.order)
        assert frame.leader.frame_id == expected
        assert bytes(frame.payload) == pixels_of(expected)
        assert isinstance(frame.payload, memoryview)
    assert (link.frames_lost, link.recoveries, instrument.orders) == (0, 0, 3)


@pytest.mark.parametrize("name", DAMAGE)
def test_one_damaged_frame_is_asked_for_again(instrument, link, name):
    link.acquire(instrument.order)
    instrument.damage.append(DAMAGE[name])
    frame = link.acquire(instrument.order)
    assert frame.leader.frame_id > 2
    assert bytes(frame.payload) == pixels_of(frame.leader.frame_id)
    assert link.acquire(instrument.order).leader.frame_id == frame.leader.frame_id + 1


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_without_end_is_a_named_error(instrument, name, caplog):
    instrument.damage.extend([DAMAGE[name]] * 20)
    with closing(ImageLink(instrument.target, "EM-30", waiting=WaitingTimes(frame=0.03, replug=0.5))) as link:
        with caplog.at_level(logging.WARNING), pytest.raises(TransportError, match="no frame over USB") as failed:
            link.acquire(instrument.order)
        assert str(failed.value).count("; then ") == 3
        assert instrument.orders == 4
        assert link.recoveries == 3
    assert "recovery step 3 of 3" in caplog.text


def test_after_a_failure_the_link_works_again(instrument, link):
    instrument.damage.extend([flipped] * 4)
    with pytest.raises(TransportError):
        link.acquire(instrument.order)
    assert bytes(link.acquire(instrument.order).payload) == pixels_of(5)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_each_step_of_the_ladder_helps(instrument, link, times):
    instrument.damage.extend([flipped] * times)
    assert bytes(link.acquire(instrument.order).payload) == pixels_of(times + 1)
    assert link.recoveries == times


def test_two_faults_in_a_row_after_a_replug_recover(instrument, link):
    link.acquire(instrument.order)
    instrument.damage.extend([flipped] * 3)  # the first was scanned before the cable was pulled
    instrument.bus.unplug()
    threading.Timer(0.15, instrument.bus.plug).start()
    frame = link.acquire(instrument.order)
    assert bytes(frame.payload) == pixels_of(frame.leader.frame_id)
    assert link.recoveries == 3


def test_a_device_that_is_plugged_in_and_out_without_end_is_a_named_error(instrument, link):
    def order() -> FrameOrder:
        instrument.bus.unplug()
        instrument.bus.plug()
        return instrument.order()

    with pytest.raises(TransportError, match="unplugged"):
        link.acquire(order)
    assert instrument.orders <= 5


def test_a_check_ends_the_acquisition_and_the_next_frame_is_whole(instrument, link):
    class NotWanted(Exception):
        pass

    def check() -> None:
        raise NotWanted

    instrument.damage.append(DAMAGE["no trailer"])
    with pytest.raises(NotWanted):
        link.acquire(instrument.order, check=check)
    frame = link.acquire(instrument.order)
    assert bytes(frame.payload) == pixels_of(frame.leader.frame_id)


def test_a_stall_is_cleared_at_once(instrument, link):
    link.acquire(instrument.order)
    instrument.device.halt()
    assert bytes(link.acquire(instrument.order).payload) == pixels_of(3)
    assert link.recoveries == 1


def test_a_device_plugged_in_again_is_opened_again(instrument, link):
    link.acquire(instrument.order)
    instrument.bus.unplug()
    threading.Timer(0.15, instrument.bus.plug).start()
    frame = link.acquire(instrument.order)
    assert bytes(frame.payload) == pixels_of(frame.leader.frame_id)
    assert link.recoveries == 1


def test_a_device_that_stays_away_is_a_named_error(instrument, link):
    instrument.bus.unplug()
    with pytest.raises(TransportError, match="unplugged") as failed:
        link.acquire(instrument.order)
    assert "no USB device emulated:test" in str(failed.value)
    instrument.bus.plug()
    assert bytes(link.acquire(instrument.order).payload) == pixels_of(instrument.next_id - 1)


def test_another_device_in_its_place_is_not_taken_for_it(instrument):
    link = ImageLink(instrument.target, "EM-30", serial="EMU000001", waiting=HURRY)
    link.acquire(instrument.order)
    instrument.bus.unplug()
    instrument.bus.device = UsbDevice(instrument, serial="EMU000666")
    instrument.bus.plug()
    with pytest.raises(TransportError, match="its serial number is EMU000666, not EMU000001"):
        link.acquire(instrument.order)
    link.close()
    instrument.bus.device.close()


def test_older_frames_are_thrown_away(instrument, link):
    """Frames of before the order, still in the pipe, by their ids."""
    for _ in range(3):
        instrument.scan()
    frame = link.acquire(instrument.order)
    assert frame.leader.frame_id == 4
    assert link.recoveries == 0


def test_frames_begun_before_the_last_set_are_thrown_away(instrument, link):
    """Ids that are new enough do not help a frame whose scan began too early."""

    def order() -> FrameOrder:
        first = instrument.next_id
        instrument.scan()
        instrument.scan()
        return FrameOrder(first, 0.1, WIDTH, HEIGHT, FRAME_TIME)

    assert link.acquire(order).leader.frame_id == 2


def test_a_repeated_frame_is_thrown_away(instrument, link):
    link.acquire(instrument.order)
    instrument.damage.append(lambda parts: (*frame_transfers(again), *parts))
    again = instrument.scan()
    instrument.ready.clear()
    instrument.next_id = 3
    assert link.acquire(instrument.order).leader.frame_id == 3


def test_a_frame_of_another_size_is_asked_for_again(instrument, link):
    def order() -> FrameOrder:
        instrument.orders += 1
        order = FrameOrder(instrument.next_id, instrument.time, WIDTH, HEIGHT, FRAME_TIME)
        instrument.scan(*((640, 480) if instrument.orders == 1 else (WIDTH, HEIGHT)))
        return order

    assert link.acquire(order).leader.width == WIDTH
    assert link.recoveries == 1


def test_a_gap_is_reported_and_does_no_harm(instrument, link, caplog):
    link.acquire(instrument.order)
    instrument.next_id = 6
    with caplog.at_level(logging.WARNING):
        assert link.acquire(instrument.order).leader.frame_id == 6
    assert link.frames_lost == 4
    assert "4 frames lost before frame 6" in caplog.text
    assert link.recoveries == 0


def test_what_the_order_raises_gets_out_and_the_link_goes_on(instrument, link):
    def refused() -> FrameOrder:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link.acquire(refused)
    assert link.acquire(instrument.order).leader.frame_id == 1


def test_what_is_left_of_another_program_is_drained(instrument):
    with_leftovers = ImageLink(instrument.target, "EM-30", waiting=HURRY)
    instrument.scan()
    with_leftovers._device.read(wire.BULK_IN, 512, 1000)
    with_leftovers.close()
    link = ImageLink(instrument.target, "EM-30", waiting=HURRY)
    assert link.acquire(instrument.order).leader.frame_id == 2
    assert link.frames_lost == 0
    link.close()


def test_opened_twice_it_is_busy(instrument, link):
    with pytest.raises(NotConnectedError, match="another program uses it"):
        ImageLink(instrument.target, "EM-30", waiting=HURRY)
    assert link.acquire(instrument.order).leader.frame_id == 1


def test_wrong_ids_and_serial_numbers(instrument):
    with pytest.raises(NotConnectedError, match="no USB device emulated:test"):
        ImageLink(dataclasses.replace(instrument.target, product_id=0x1234), "EM-30", waiting=HURRY)
    with pytest.raises(NotConnectedError, match="its serial number is EMU000001, not EMU000002"):
        ImageLink(dataclasses.replace(instrument.target, serial="EMU000002"), "EM-30", waiting=HURRY)
    ImageLink(dataclasses.replace(instrument.target, serial="EMU000001"), "EM-30", waiting=HURRY).close()
    ImageLink(instrument.target, "EM-30", serial="EMU000001").close()


class OtherDevice(UsbDevice):
    """The right ids, the wrong kind of device."""

    answer: bytes | None = b"I am a printer, really.."
    interface_class = 0xFF

    def _vendor(self, setup):
        return self.answer

    def _descriptor(self, kind, index):
        found = super()._descriptor(kind, index)
        if kind == wire.DescriptorType.CONFIGURATION:
            found = found[:14] + bytes((self.interface_class,)) + found[15:]
        return found


@pytest.mark.parametrize(
    ("answer", "interface_class", "message"),
    [
        (b"I am a printer, really..", 0xFF, "does not answer as an EM-30 image stream"),
        (None, 0xFF, "does not answer as an EM-30 image stream"),
        (b"", 0x07, "it is another kind of device"),
    ],
)
def test_another_kind_of_device_is_recognised_before_it_is_used(instrument, answer, interface_class, message):
    other = OtherDevice(instrument, serial="EMU000001")
    other.answer, other.interface_class = answer, interface_class
    target = UsbTarget("1209:0001", PipeBackend(EmulatedBus(other)))
    with pytest.raises(NotConnectedError, match=message):
        ImageLink(target, "EM-30", waiting=HURRY)
    other.close()


def test_closed_it_says_so(instrument):
    link = ImageLink(instrument.target, "EM-30", waiting=HURRY)
    link.close()
    link.close()
    with pytest.raises(NotConnectedError, match="closed"):
        link.acquire(instrument.order)
    assert instrument.orders == 0


def test_closing_after_an_unplug_is_quiet(instrument):
    link = ImageLink(instrument.target, "EM-30", waiting=HURRY)
    instrument.bus.unplug()
    link.close()
