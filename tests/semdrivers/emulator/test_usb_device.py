"""The emulated USB device under pyusb itself: what libusb would do, it does, in this process and over the bridge."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from array import array
from collections import deque

import numpy as np
import pytest
import usb.core
import usb.util

from firmware_protocol import usb as wire
from firmware_protocol.bridge import GREETING, TransferStatus
from firmware_protocol.frame_assembly import FrameAssembler
from firmware_protocol.stream import LEADER_SIZE, TRAILER_SIZE, Leader
from semdrivers.emulator.instrument import ScannedFrame
from semdrivers.emulator.wires import EmulatedBus, UsbBridgeServer, UsbDevice, frame_transfers
from semdrivers.links import BridgedPipe, PipeBackend


def frame(frame_id: int, width: int = 320, height: int = 240, bits: int = 8) -> ScannedFrame:
    pixels = np.random.default_rng(frame_id).integers(0, 2**bits, (height, width), np.uint8 if bits == 8 else np.uint16)
    return ScannedFrame(frame_id, 1.0, 1.1, width, height, bits, 12.0, 5000.0, 80.0, pixels)


class Frames:
    """A scan generator with frames laid ready."""

    def __init__(self) -> None:
        self.ready: deque[ScannedFrame] = deque()

    def next_frame(self) -> ScannedFrame | None:
        return self.ready.popleft() if self.ready else None


class Rig:
    """A device on its bus, and pyusb's view of it."""

    def __init__(self, bridged: bool, **options: float) -> None:
        self.frames = Frames()
        self.encode = frame_transfers
        self.device = UsbDevice(self.frames, serial="EMU000042", encode=lambda frame: self.encode(frame))
        self.bus = EmulatedBus(self.device)
        self.server = UsbBridgeServer(self.bus, **options) if bridged else None
        self.pipe = BridgedPipe("127.0.0.1", self.server.start()) if self.server else self.bus
        self.backend = PipeBackend(self.pipe)

    def find(self) -> usb.core.Device | None:
        return usb.core.find(idVendor=wire.VENDOR_ID, idProduct=wire.PRODUCT_ID, backend=self.backend)

    def open(self) -> usb.core.Device:
        found = self.find()
        found.set_configuration()
        usb.util.claim_interface(found, 0)
        return found

    def started(self) -> usb.core.Device:
        found = self.open()
        vendor(found, wire.VendorRequest.START)
        return found

    def close(self) -> None:
        if self.server is not None:
            self.pipe.close()
            self.server.close()
        self.device.close()


def vendor(device: usb.core.Device, request: wire.VendorRequest) -> None:
    device.ctrl_transfer(wire.VENDOR_OUT, request, 0, 0, None, 1000)


def info(device: usb.core.Device) -> wire.StreamInfo:
    answer = device.ctrl_transfer(wire.VENDOR_IN, wire.VendorRequest.STREAM_INFO, 0, 0, wire.STREAM_INFO_SIZE, 1000)
    return wire.StreamInfo.decode(bytes(answer))


@pytest.fixture(params=[False, True], ids=["in-process", "bridged"])
def rig(request):
    made = Rig(request.param)
    yield made
    made.close()


@pytest.fixture
def local():
    made = Rig(bridged=False)
    yield made
    made.close()


def test_pyusb_enumerates_and_describes_it(rig):
    found = rig.find()
    assert (found.serial_number, found.product) == ("EMU000042", wire.PRODUCT)
    assert found.manufacturer == wire.MANUFACTURER
    assert (found.speed, found.port_numbers, found.parent) == (usb.util.SPEED_HIGH, (1,), None)
    assert "Bulk IN" in str(found)
    assert usb.core.find(idVendor=0xDEAD, backend=rig.backend) is None


def test_it_must_be_configured(rig):
    found = rig.find()
    with pytest.raises(usb.core.USBError, match="Configuration not set"):
        found.get_active_configuration()
    with pytest.raises(usb.core.USBError) as stalled:
        vendor(found, wire.VendorRequest.START)
    assert stalled.value.errno == errno.EPIPE
    found.set_configuration()
    assert found.get_active_configuration().bConfigurationValue == wire.CONFIGURATION


@pytest.mark.parametrize(
    ("request_type", "number", "value", "index"),
    [
        (0xC1, 99, 0, 0),
        (0x41, 1, 0, 7),
        (0x80, 6, 0x0900, 0),
        (0x80, 6, 0x0309, 0x0409),
        (0x00, 9, 5, 0),
        (0xA1, 1, 0, 0),
    ],
)
def test_requests_that_it_does_not_know_stall(local, request_type, number, value, index):
    found = local.open()
    data = 8 if request_type & 0x80 else None
    with pytest.raises(usb.core.USBError) as stalled:
        found.ctrl_transfer(request_type, number, value, index, data, 1000)
    assert stalled.value.errno == errno.EPIPE
    assert stalled.value.backend_error_code == -9


def test_standard_requests(local):
    found = local.open()
    assert bytes(found.ctrl_transfer(0x80, wire.StandardRequest.GET_STATUS, 0, 0, 2)) == b"\x01\x00"
    assert bytes(found.ctrl_transfer(0x81, wire.StandardRequest.GET_INTERFACE, 0, 0, 1)) == b"\x00"
    found.set_interface_altsetting(0, 0)
    found.ctrl_transfer(0x02, wire.StandardRequest.SET_FEATURE, wire.ENDPOINT_HALT, wire.BULK_IN)
    assert bytes(found.ctrl_transfer(0x82, wire.StandardRequest.GET_STATUS, 0, wire.BULK_IN, 2)) == b"\x01\x00"
    found.clear_halt(wire.BULK_IN)
    assert bytes(found.ctrl_transfer(0x82, wire.StandardRequest.GET_STATUS, 0, wire.BULK_IN, 2)) == b"\x00\x00"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(320, 240), (640, 480)])
def test_a_frame_arrives_in_three_reads(rig, size, bits):
    found = rig.started()
    sent = frame(7, *size, bits)
    rig.frames.ready.append(sent)
    leader = found.read(wire.BULK_IN, 512, 2000)
    assert len(leader) == LEADER_SIZE
    read = Leader.decode(leader.tobytes())
    payload = array("B", bytes(read.payload_length))
    assert found.read(wire.BULK_IN, payload, 2000) == read.payload_length
    trailer = found.read(wire.BULK_IN, 512, 2000)
    assert len(trailer) == TRAILER_SIZE
    assembler = FrameAssembler()
    (whole,) = assembler.feed(leader.tobytes() + payload.tobytes() + trailer.tobytes())
    depth = np.uint8 if bits == 8 else np.dtype("<u2")
    assert np.array_equal(np.frombuffer(whole.payload, depth).reshape(size[1], size[0]), sent.pixels)
    assert info(found).frames_sent == 1


def test_reads_of_any_length_give_the_same_bytes(local):
    found = local.started()
    sent = frame(3)
    for length in (512, 1024, 512 * 7, 1 << 20):
        local.frames.ready.append(sent)
        taken = b""
        while len(taken) < LEADER_SIZE + 76800 + TRAILER_SIZE:
            taken += found.read(wire.BULK_IN, length, 2000).tobytes()
        assert taken == b"".join(bytes(part) for part in frame_transfers(sent))


def test_a_short_packet_ends_a_read_and_a_full_payload_does_not(local):
    """The payload has whole packets alone, so a longer read runs on into the trailer, whose packet is short."""
    found = local.started()
    local.frames.ready.append(frame(3))
    assert len(found.read(wire.BULK_IN, 1 << 20, 2000)) == LEADER_SIZE
    assert len(found.read(wire.BULK_IN, 1 << 20, 2000)) == 76800 + TRAILER_SIZE


def test_nothing_to_read_times_out(rig):
    found = rig.started()
    start = time.monotonic()
    with pytest.raises(usb.core.USBTimeoutError) as late:
        found.read(wire.BULK_IN, 512, 50)
    assert late.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - start >= 0.05


def test_a_timeout_returns_what_has_come(rig):
    found = rig.started()
    rig.encode = lambda frame: (bytes(range(256)) * 4,)
    rig.frames.ready.append(frame(1))
    assert found.read(wire.BULK_IN, 4096, 50).tobytes() == bytes(range(256)) * 4


def test_a_packet_that_does_not_fit_is_an_overflow(rig):
    found = rig.started()
    rig.frames.ready.append(frame(1))
    with pytest.raises(usb.core.USBError) as overflow:
        found.read(wire.BULK_IN, LEADER_SIZE - 1, 1000)
    assert overflow.value.errno == errno.EOVERFLOW
    assert len(found.read(wire.BULK_IN, 76800, 1000)) == 76800


def test_a_halted_endpoint_stalls_until_cleared_and_loses_nothing(rig):
    found = rig.started()
    rig.frames.ready.append(frame(1))
    found.read(wire.BULK_IN, 512, 1000)
    rig.device.halt()
    for _ in range(2):
        with pytest.raises(usb.core.USBError) as stalled:
            found.read(wire.BULK_IN, 512, 1000)
        assert stalled.value.errno == errno.EPIPE
    found.clear_halt(wire.BULK_IN)
    assert len(found.read(wire.BULK_IN, 76800, 1000)) == 76800


def test_a_halt_ends_a_read_under_way(local):
    found = local.started()
    threading.Timer(0.05, local.device.halt).start()
    with pytest.raises(usb.core.USBError) as stalled:
        found.read(wire.BULK_IN, 512, 5000)
    assert stalled.value.errno == errno.EPIPE


@pytest.mark.parametrize("request_", [wire.VendorRequest.STOP, wire.VendorRequest.RESET])
def test_stop_and_reset_throw_away_what_waits(rig, request_):
    found = rig.started()
    rig.frames.ready.append(frame(1))
    found.read(wire.BULK_IN, 512, 1000)
    assert info(found).streaming
    vendor(found, request_)
    assert not info(found).streaming
    with pytest.raises(usb.core.USBTimeoutError):
        found.read(wire.BULK_IN, 512, 20)
    assert info(found).frames_sent == (0 if request_ is wire.VendorRequest.RESET else 1)
    rig.frames.ready.append(frame(2))
    vendor(found, wire.VendorRequest.START)
    assert Leader.decode(found.read(wire.BULK_IN, 512, 1000).tobytes()).frame_id == 2


def test_a_reset_of_the_port_stops_the_stream(rig):
    found = rig.started()
    rig.frames.ready.append(frame(1))
    found.read(wire.BULK_IN, 512, 1000)
    rig.device.halt()
    found.reset()
    found = rig.open()
    assert not info(found).streaming
    with pytest.raises(usb.core.USBTimeoutError):
        found.read(wire.BULK_IN, 512, 20)


def test_unplugged_it_is_gone_and_plugged_in_it_is_another(rig):
    found = rig.started()
    rig.bus.unplug()
    for use in (
        lambda: found.read(wire.BULK_IN, 512, 100),
        lambda: vendor(found, wire.VendorRequest.START),
        lambda: found.clear_halt(wire.BULK_IN),
        found._ctx.managed_open() and (lambda: found.backend.reset_device(found._ctx.handle)),
    ):
        with pytest.raises(usb.core.USBError) as gone:
            use()
        assert gone.value.errno == errno.ENODEV
    assert rig.find() is None
    rig.bus.plug()
    with pytest.raises(usb.core.USBError) as stale:
        found.read(wire.BULK_IN, 512, 100)
    assert stale.value.errno == errno.ENODEV
    again = rig.started()
    assert again.address != found.address
    rig.frames.ready.append(frame(5))
    assert len(again.read(wire.BULK_IN, 512, 1000)) == LEADER_SIZE


def test_an_unplug_ends_a_read_under_way(rig):
    found = rig.started()
    threading.Timer(0.05, rig.bus.unplug).start()
    with pytest.raises(usb.core.USBError) as gone:
        found.read(wire.BULK_IN, 512, 600_000)
    assert gone.value.errno == errno.ENODEV


def test_a_device_unplugged_before_it_is_opened(local):
    found = local.find()
    local.bus.unplug()
    with pytest.raises(usb.core.USBError) as gone:
        found.set_configuration()
    assert gone.value.errno == errno.ENODEV


def test_an_interface_has_one_claimant(rig):
    first, second = rig.find(), rig.find()
    first.set_configuration()
    usb.util.claim_interface(first, 0)
    with pytest.raises(usb.core.USBError) as busy:
        usb.util.claim_interface(second, 0)
    assert busy.value.errno == errno.EBUSY
    with pytest.raises(usb.core.USBError) as busy:
        second.set_configuration()
    assert busy.value.errno == errno.EBUSY
    usb.util.dispose_resources(first)
    usb.util.claim_interface(second, 0)


def test_writing_has_no_endpoint(local):
    found = local.open()
    with pytest.raises(ValueError, match="Invalid endpoint"):
        found.write(0x01, b"data")


def test_a_frame_of_before_a_reset_never_comes_after_it(local):
    """The scan under way when the stream is reset belongs to the past."""
    entered, leave = threading.Event(), threading.Event()

    def slowly():
        if local.frames.ready:
            entered.set()
            leave.wait(5)
            return local.frames.ready.popleft()
        return None

    local.frames.next_frame = slowly
    found = local.started()
    local.frames.ready.append(frame(1))
    with pytest.raises(usb.core.USBTimeoutError):
        found.read(wire.BULK_IN, 512, 50)
    assert entered.is_set()
    vendor(found, wire.VendorRequest.RESET)
    vendor(found, wire.VendorRequest.START)
    leave.set()
    with pytest.raises(usb.core.USBTimeoutError):
        found.read(wire.BULK_IN, 512, 100)


def test_a_failing_scan_halts_the_endpoint(local, caplog):
    def broken():
        raise RuntimeError("the column is on fire")

    local.frames.next_frame = broken
    found = local.started()
    with caplog.at_level(logging.ERROR), pytest.raises(usb.core.USBError) as stalled:
        found.read(wire.BULK_IN, 512, 1000)
    assert stalled.value.errno == errno.EPIPE
    assert "the column is on fire" in caplog.text


class TestBridge:
    """What only the bridge can do wrong."""

    @pytest.fixture
    def bridged(self):
        made = Rig(bridged=True)
        yield made
        made.close()

    def test_a_second_client_is_told_that_it_is_busy(self, bridged):
        bridged.open()
        other = PipeBackend(BridgedPipe("127.0.0.1", bridged.pipe.port))
        with pytest.raises(usb.core.USBError, match="another client") as busy:
            list(usb.core.find(find_all=True, backend=other))
        assert busy.value.errno == errno.EBUSY

    def test_the_next_client_is_served_when_the_first_has_gone(self, bridged):
        bridged.open()
        bridged.pipe.close()
        other = BridgedPipe("127.0.0.1", bridged.pipe.port)
        for _ in range(100):
            try:
                found = usb.core.find(backend=PipeBackend(other))
                break
            except usb.core.USBError:
                time.sleep(0.02)
        assert found.serial_number == "EMU000042"
        other.close()

    def test_a_client_that_stops_in_a_request_is_hung_up_on(self):
        rig = Rig(bridged=True, patience=0.2)
        with socket.create_connection(("127.0.0.1", rig.pipe.port), 5) as stopped:
            stopped.sendall(GREETING)
            assert stopped.recv(100) == GREETING + b"\0"
            stopped.sendall(b"\x01")
            assert stopped.recv(100) == b""
        assert rig.find().serial_number == "EMU000042"
        rig.close()

    def test_no_server(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(usb.core.USBError, match=f"no USB bridge at 127.0.0.1:{port}"):
            usb.core.find(backend=PipeBackend(BridgedPipe("127.0.0.1", port)))

    def test_a_server_that_goes_away_is_an_unplug(self, bridged):
        found = bridged.started()
        threading.Timer(0.05, bridged.server.close).start()
        with pytest.raises(usb.core.USBError) as gone:
            found.read(wire.BULK_IN, 512, 5000)
        assert gone.value.errno == errno.ENODEV
        with pytest.raises(usb.core.USBError, match="not connected"):
            found.read(wire.BULK_IN, 512, 100)

    @pytest.mark.parametrize(
        "data", [b"GET / HTTP/1.1\r\n\r\n", GREETING + bytes(20), GREETING + b"\x03" + b"\xff" * 19]
    )
    def test_strange_clients_are_hung_up_on_and_harm_nobody(self, bridged, data):
        with socket.create_connection(("127.0.0.1", bridged.pipe.port), 5) as stranger:
            stranger.sendall(data)
            stranger.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(100):
                    pass
        assert bridged.find().serial_number == "EMU000042"

    @pytest.mark.parametrize(
        ("answers", "message"),
        [
            ([b"HTTP/1.1 400 Bad Request"], "no USB bridge of this version"),
            ([b"EM3B"], "hung up"),
            ([GREETING + bytes((TransferStatus.BUSY,))], "another client"),
            ([GREETING + b"\0", bytes(8)], "0 is not a valid Operation"),
            ([GREETING + b"\0", b"\x02\0\0\0\0\0\0\0"], "answered CONTROL to DEVICES"),
            ([GREETING + b"\0", b"\x01\0\0\0\x05\0\0\0hello"], "list of devices with 5 bytes"),
        ],
    )
    def test_strange_servers_are_recognised(self, answers, message):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve():
                connection, _ = listener.accept()
                with connection:
                    for answer in answers:
                        connection.recv(100)
                        connection.sendall(answer)

            server = threading.Thread(target=serve)
            server.start()
            pipe = BridgedPipe("127.0.0.1", listener.getsockname()[1])
            with pytest.raises(usb.core.USBError, match=message):
                usb.core.find(backend=PipeBackend(pipe))
            pipe.close()
            server.join()
