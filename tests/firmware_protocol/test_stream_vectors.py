"""Golden bytes of image stream, USB and bridge, and a second decoder of the same layouts (construct) as an oracle."""

from __future__ import annotations

import dataclasses
import json
import zlib
from importlib import resources
from typing import Any

import construct as c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_protocol import usb
from firmware_protocol.bridge import (
    GREETING,
    Attachment,
    BridgeError,
    BridgeRequest,
    BridgeResponse,
    Operation,
    TransferStatus,
)
from firmware_protocol.frame_assembly import Defect, Frame, FrameAssembler
from firmware_protocol.stream import (
    LEADER_SIZE,
    TRAILER_SIZE,
    FrameStatus,
    Leader,
    PixelFormat,
    StreamError,
    Trailer,
    encode_frame,
)

LEADER = c.Struct(
    "magic" / c.Const(b"EM3L"),
    "version" / c.Const(1, c.Int8ul),
    "bits" / c.Int8ul,
    c.Const(b"\0\0"),
    "frame_id" / c.Int64ul,
    "pixel_format" / c.Int32ul,
    "width" / c.Int16ul,
    "height" / c.Int16ul,
    "start_time" / c.Float64l,
    "working_distance" / c.Float64l,
    "magnification" / c.Float64l,
    "pixel_size" / c.Float64l,
    "payload_length" / c.Int32ul,
    "crc" / c.Int32ul,
)
TRAILER = c.Struct(
    "magic" / c.Const(b"EM3T"),
    "version" / c.Const(1, c.Int8ul),
    c.Const(b"\0"),
    "status" / c.Int16ul,
    "frame_id" / c.Int64ul,
    "end_time" / c.Float64l,
    "payload_crc" / c.Int32ul,
    "crc" / c.Int32ul,
)
FRAME = c.Struct("leader" / LEADER, "payload" / c.Bytes(c.this.leader.payload_length), "trailer" / TRAILER)

finite = st.floats(allow_nan=False, allow_infinity=False)
leaders = st.builds(
    Leader,
    frame_id=st.integers(0, 2**64 - 1),
    start_time=finite,
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    pixel_format=st.sampled_from(PixelFormat),
    bits=st.integers(1, 8),
    working_distance=finite,
    magnification=finite,
    pixel_size=finite,
)
trailers = st.builds(
    Trailer,
    frame_id=st.integers(0, 2**64 - 1),
    status=st.sampled_from(FrameStatus),
    end_time=finite,
    payload_crc=st.integers(0, 2**32 - 1),
)


def records(name: str) -> list[tuple[dict[str, Any], bytes]]:
    text = (resources.files("firmware_protocol") / "vectors" / name).read_text(encoding="utf-8")
    found = []
    for record in text.split("\n\n"):
        lines = [line for line in record.splitlines() if line and not line.startswith("#")]
        if lines:
            found.append((json.loads(lines[0]), bytes.fromhex("".join(lines[1:]))))
    return found


def vectors(name: str) -> Any:
    found = records(name)
    return pytest.mark.parametrize(("meaning", "data"), found, ids=[meaning["name"] for meaning, _ in found])


def checked(parsed: Any, data: bytes) -> dict[str, Any]:
    assert parsed.crc == zlib.crc32(data[:-4])
    return {name: value for name, value in parsed.items() if name not in ("_io", "magic", "version", "crc")}


@vectors("stream-good.txt")
def test_good_frames_mean_what_the_file_says(meaning, data):
    (frame,) = FrameAssembler().feed(data)
    assert isinstance(frame, Frame)
    told = {name: getattr(frame.leader, name) for name in Leader.__slots__}
    told |= {"payload": bytes(frame.payload).hex(), "status": frame.trailer.status, "end_time": frame.trailer.end_time}
    assert told == {name: value for name, value in meaning.items() if name != "name"}


@vectors("stream-good.txt")
def test_meanings_give_the_bytes_of_the_file(meaning, data):
    values = {name: meaning[name] for name in Leader.__slots__}
    leader = Leader(**{**values, "pixel_format": PixelFormat(values["pixel_format"])})
    assert b"".join(encode_frame(leader, bytes.fromhex(meaning["payload"]), meaning["end_time"])) == data


@vectors("stream-good.txt")
def test_the_oracle_reads_the_same(meaning, data):
    parsed = FRAME.parse(data)
    leader = checked(parsed.leader, data[:LEADER_SIZE])
    trailer = checked(parsed.trailer, data[-TRAILER_SIZE:])
    assert leader.pop("payload_length") == len(parsed.payload)
    assert trailer.pop("payload_crc") == zlib.crc32(parsed.payload)
    assert {**leader, **trailer, "payload": parsed.payload.hex(), "name": meaning["name"]} == meaning


@vectors("stream-bad.txt")
def test_bad_frames_yield_nothing_and_hide_nothing(meaning, data):
    good = dict(records("stream-good.txt")[0][0])
    leader = Leader(100, 2.0, good["width"], good["height"], PixelFormat.MONO8, 8, 12.0, 5000.0, 80.0)
    follower = b"".join(encode_frame(leader, bytes.fromhex(good["payload"]), 2.1))
    assembler = FrameAssembler()
    found = assembler.feed(data + follower)
    assert [item.leader for item in found if isinstance(item, Frame)] == [leader]
    damaged = [item for item in found if isinstance(item, Defect) and item.frame_id is not None]
    assert len(damaged) == meaning["damaged"]


@given(leaders)
def test_leaders_survive_and_the_oracle_agrees(leader):
    data = leader.encode()
    assert len(data) == LEADER_SIZE
    assert Leader.decode(data) == leader
    read = checked(LEADER.parse(data), data)
    assert read.pop("payload_length") == leader.payload_length
    assert read == {name: getattr(leader, name) for name in Leader.__slots__}


@given(trailers)
def test_trailers_survive_and_the_oracle_agrees(trailer):
    data = trailer.encode()
    assert len(data) == TRAILER_SIZE
    assert Trailer.decode(data) == trailer
    assert checked(TRAILER.parse(data), data) == {name: getattr(trailer, name) for name in Trailer.__slots__}


@given(leaders, st.integers(0, LEADER_SIZE * 8 - 1))
def test_no_flipped_bit_gets_through_a_leader(leader, bit):
    data = bytearray(leader.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StreamError):
        Leader.decode(data)


@given(trailers, st.integers(0, TRAILER_SIZE * 8 - 1))
def test_no_flipped_bit_gets_through_a_trailer(trailer, bit):
    data = bytearray(trailer.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StreamError):
        Trailer.decode(data)


@given(st.binary(max_size=200))
def test_anything_is_read_or_refused(data):
    for decode in (Leader.decode, Trailer.decode):
        with pytest.raises(StreamError):
            decode(data)


def test_values_that_fit_into_no_leader_are_refused():
    good = {"frame_id": 1, "start_time": 0.0, "width": 4, "height": 2, "pixel_format": PixelFormat.MONO8, "bits": 8}
    good |= {"working_distance": 12.0, "magnification": 5e3, "pixel_size": 80.0}
    for wrong in (
        {"frame_id": -1},
        {"frame_id": 2**64},
        {"width": 0},
        {"width": 65536},
        {"width": 65535, "height": 65535},
        {"bits": 9},
        {"bits": 0},
    ):
        with pytest.raises(StreamError):
            Leader(**{**good, **wrong}).encode()
    with pytest.raises(StreamError, match="7 bytes"):
        encode_frame(Leader(**good), bytes(7), 1.0)


@vectors("usb-good.txt")
def test_usb_bytes(meaning, data):
    match meaning["kind"]:
        case "device":
            assert usb.device_descriptor() == data
            descriptor = usb.DeviceDescriptor.decode(data)
            assert (descriptor.idVendor, descriptor.idProduct) == (usb.VENDOR_ID, usb.PRODUCT_ID)
            assert descriptor.encode() == data
        case "configuration":
            assert usb.configuration_descriptor() == data
            (interface,) = usb.ConfigurationDescriptor.decode(data).interfaces
            (endpoint,) = interface.endpoints
            assert (interface.bInterfaceClass, endpoint.bEndpointAddress) == (0xFF, 0x81)
            assert (endpoint.bmAttributes, endpoint.wMaxPacketSize) == (2, 512)
        case "language":
            assert usb.language_descriptor() == data
        case "string":
            assert usb.string_descriptor(meaning["text"]) == data
        case "setup":
            fields = {name: meaning[name] for name in usb.SetupPacket.__slots__}
            assert usb.SetupPacket(**fields).encode() == data
            assert usb.SetupPacket.decode(data) == usb.SetupPacket(**fields)
        case "stream_info":
            info = usb.StreamInfo.decode(data)
            assert {name: getattr(info, name) for name in usb.StreamInfo.__slots__} == {
                name: value for name, value in meaning.items() if name not in ("name", "kind")
            }
            assert info.encode() == data


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (usb.DeviceDescriptor.decode, usb.device_descriptor()[:-1]),
        (usb.DeviceDescriptor.decode, usb.configuration_descriptor()[:18]),
        (usb.ConfigurationDescriptor.decode, usb.configuration_descriptor()[:-1]),
        (usb.ConfigurationDescriptor.decode, usb.device_descriptor()),
        (usb.ConfigurationDescriptor.decode, usb.configuration_descriptor()[:9] + bytes(16)),
        (usb.SetupPacket.decode, bytes(7)),
        (usb.StreamInfo.decode, b""),
        (usb.StreamInfo.decode, b"EM3X" + bytes(20)),
        (usb.StreamInfo.decode, b"EM3S\x02" + bytes(19)),
    ],
)
def test_bad_usb_bytes_are_refused(decode, data):
    with pytest.raises(usb.UsbError):
        decode(data)


def test_usb_values_that_do_not_fit_are_refused():
    with pytest.raises(usb.UsbError, match="126"):
        usb.string_descriptor("x" * 127)
    with pytest.raises(usb.UsbError):
        usb.SetupPacket(0x41, 1, 65536).encode()


@vectors("bridge-good.txt")
def test_bridge_bytes(meaning, data):
    expected = {name: value for name, value in meaning.items() if name not in ("name", "kind")}
    match meaning["kind"]:
        case "greeting":
            assert data == GREETING
        case "request":
            request = BridgeRequest.decode(data)
            assert request.encode() == data
            told = {name: getattr(request, name) for name in BridgeRequest.__slots__}
            assert {**told, "setup": request.setup.encode().hex()} == expected
        case "response":
            response = BridgeResponse.decode(data)
            assert response.encode() == data
            assert {name: getattr(response, name) for name in BridgeResponse.__slots__} == expected
        case "attachment":
            (attachment,) = Attachment.decode_all(data)
            assert attachment.encode() == data
            assert {name: getattr(attachment, name) for name in Attachment.__slots__} == expected


requests = st.builds(
    BridgeRequest,
    operation=st.sampled_from(Operation),
    address=st.integers(0, 0xFFFF),
    endpoint=st.integers(0, 0xFF),
    length=st.integers(0, 2**20),
    timeout=st.integers(0, 2**32 - 1),
    setup=st.builds(usb.SetupPacket, st.integers(0, 255), st.integers(0, 255), *[st.integers(0, 0xFFFF)] * 3),
)


@given(requests)
def test_bridge_requests_survive(request):
    assert BridgeRequest.decode(request.encode()) == request
    outgoing = request.operation is Operation.CONTROL and not request.setup.is_in
    assert request.following == (request.length if outgoing else 0)


@given(st.sampled_from(Operation), st.sampled_from(TransferStatus), st.integers(0, 2**20))
def test_bridge_responses_survive(operation, status, length):
    response = BridgeResponse(operation, status, length)
    assert BridgeResponse.decode(response.encode()) == response


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (BridgeRequest.decode, bytes(20)),
        (BridgeRequest.decode, bytes(19)),
        (BridgeRequest.decode, b"\x03\x81\x01\x00\xff\xff\xff\xff" + bytes(12)),
        (BridgeResponse.decode, bytes(8)),
        (BridgeResponse.decode, b"\x03\x63" + bytes(6)),
        (BridgeResponse.decode, b"\x03\x00\x00\x00\xff\xff\xff\xff"),
        (BridgeResponse.decode, b""),
        (Attachment.decode_all, bytes(7)),
    ],
)
def test_bad_bridge_bytes_are_refused(decode, data):
    with pytest.raises(BridgeError):
        decode(data)


@pytest.mark.parametrize(
    "head", [BridgeRequest(Operation.BULK_IN, 1), BridgeResponse(Operation.BULK_IN, TransferStatus.OK)]
)
def test_the_longest_transfer_has_128_mebibytes(head):
    longest = dataclasses.replace(head, length=128 * 1024 * 1024)
    assert type(head).decode(longest.encode()) == longest
    with pytest.raises(BridgeError, match="134217729 bytes; the longest has 134217728"):
        type(head).decode(dataclasses.replace(head, length=longest.length + 1).encode())


def test_a_device_is_on_the_first_port_at_high_speed_unless_it_is_elsewhere():
    assert Attachment(99, 7) == Attachment(bus=99, address=7, port=1, speed=3)


def test_bridge_values_that_do_not_fit_are_refused():
    with pytest.raises(BridgeError):
        BridgeRequest(Operation.RESET, 65536).encode()
