"""The last value that is taken and the first that is not, and what a field says that is left out."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import pytest

from firmware_protocol import authentication, bridge, control, messages, payload, sharksem, stream, usb, zem
from firmware_protocol.frame_assembly import Defect, FrameAssembler

LARGEST = stream.Leader(7, 0.0, 8192, 8192, stream.PixelFormat.MONO8, 8, 12.0, 5000.0, 80.0)


def test_fields_that_are_left_out_say_this():
    assert messages.StartScan(640, 480) == messages.StartScan(width=640, height=480, bits=8, frames=0)
    assert messages.Bye() == messages.Bye(keep_beam=True)
    assert messages.Subscribe() == messages.Subscribe(enabled=True)
    assert messages.EmergencyStop() == messages.EmergencyStop(client="")
    assert messages.Authenticate(5) == messages.Authenticate(token=5, proof="")
    assert usb.SetupPacket(0x41, 1) == usb.SetupPacket(0x41, 1, value=0, index=0, length=0)
    assert bridge.BridgeRequest(bridge.Operation.DEVICES).encode() == b"\x01" + bytes(19)
    assert bridge.BridgeResponse(bridge.Operation.RESET, bridge.TransferStatus.OK).encode() == b"\x04" + bytes(7)


def test_a_message_keeps_the_address_of_its_request():
    request = control.Envelope.request(9, messages.StopScan(), messages.Wait.SCAN)
    event = control.Envelope.event(messages.ScanEnded(3, 1.0))
    assert (event.kind, event.sequence, event.flags, event.status) == (messages.Kind.EVENT, 0, 0, messages.Status.OK)
    answers = [
        (request.reply(messages.Done(1.0)), messages.Kind.REPLY, messages.Status.OK),
        (request.pending(2.5), messages.Kind.PENDING, messages.Status.OK),
        (request.refuse(messages.Status.BUSY, messages.Refusal()), messages.Kind.REPLY, messages.Status.BUSY),
    ]
    for answer, kind, status in answers:
        assert (answer.kind, answer.status, answer.flags) == (kind, status, messages.Wait.NOTHING)
        assert (answer.sequence, answer.opcode) == (9, messages.Opcode.STOP_SCAN)
    assert answers[1][0].message.seconds == 2.5


def test_the_longest_payload_of_a_message_has_4096_bytes():
    room = control.MAX_PAYLOAD - len(payload.encode_payload(messages.EmergencyStop()))
    longest = control.Envelope.request(1, messages.EmergencyStop("x" * room))
    decoder = control.Decoder()
    assert decoder.feed(control.encode(longest)) == [longest]
    with pytest.raises(payload.PayloadError, match="EmergencyStop takes 4097 bytes, the limit is 4096"):
        control.encode(control.Envelope.request(1, messages.EmergencyStop("x" * (room + 1))))


def test_what_waits_is_counted_and_what_is_no_message_is_dropped_but_for_half_a_magic():
    decoder = control.Decoder()
    message = control.encode(control.Envelope.request(1, messages.KeepAlive()))
    assert decoder.feed(b"abc" + message[:7]) == []
    assert (decoder.waiting, decoder.discarded) == (7, 3)
    assert len(decoder.feed(message[7:] + control.MAGIC[:1])) == 1
    assert (decoder.waiting, decoder.discarded) == (1, 3)
    assert decoder.abandon() == []
    assert (decoder.waiting, decoder.discarded) == (0, 4)


def test_a_message_that_ends_as_another_begins_is_whole():
    many = (control.Envelope.request(sequence, messages.EmergencyStop("x" * 300)) for sequence in range(4096))
    sent = next(each for each in many if control.encode(each).endswith(control.MAGIC[:1]))
    decoder = control.Decoder()
    assert decoder.feed(control.encode(sent)) == [sent]
    assert (decoder.waiting, decoder.discarded) == (0, 0)


def test_a_payload_ends_where_its_layout_ends():
    data = payload.encode_payload(messages.Done(2.0))
    assert payload.decode_payload(messages.Done, data) == messages.Done(2.0)
    with pytest.raises(payload.PayloadError, match="Done takes 8 bytes, its payload has 9"):
        payload.decode_payload(messages.Done, data + b"\0")
    with pytest.raises(payload.PayloadError, match=r"Done\.time at byte 0"):
        payload.decode_payload(messages.Done, data[:-1])
    text = payload.encode_payload(messages.EmergencyStop("abc"))
    assert payload.decode_payload(messages.EmergencyStop, text).client == "abc"
    with pytest.raises(payload.PayloadError, match="a text of 3 bytes ends beyond the payload"):
        payload.decode_payload(messages.EmergencyStop, text[:-1])


def test_the_largest_frame_has_64_mebibytes():
    assert stream.Leader.decode(LARGEST.encode()) == LARGEST
    with pytest.raises(stream.StreamError, match=r"payload of 67117056 bytes for 8193×8192 pixels MONO8"):
        dataclasses.replace(LARGEST, width=8193).encode()


@pytest.mark.parametrize(
    ("pixel_format", "bits", "taken"),
    [("MONO8", 1, True), ("MONO8", 8, True), ("MONO8", 9, False), ("MONO16", 16, True), ("MONO16", 17, False)],
)
def test_a_pixel_has_no_more_bits_than_its_bytes_hold(pixel_format, bits, taken):
    leader = dataclasses.replace(LARGEST, width=4, height=2, pixel_format=stream.PixelFormat[pixel_format], bits=bits)
    if taken:
        assert stream.Leader.decode(leader.encode()).bits == bits
    else:
        with pytest.raises(stream.StreamError, match=f"leader of frame 7: {bits} bits in {pixel_format} pixels"):
            leader.encode()


def _sealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [(4, 2, "leader of version 2; this side speaks version 1"), (16, 2, "leader of frame 7: unknown pixel format 0x01080002")],
)  # fmt: skip
def test_a_leader_of_another_kind_is_named(place, value, words):
    data = bytearray(LARGEST.encode()[:-4])
    data[place] = value
    with pytest.raises(stream.StreamError, match=words):
        stream.Leader.decode(_sealed(bytes(data)))


def test_what_is_no_leader_is_named_by_its_first_four_bytes():
    with pytest.raises(stream.StreamError, match="no leader: it begins with b'ABCD', not b'EM3L'"):
        stream.Leader.decode(b"ABCDEFGH".ljust(stream.LEADER_SIZE, b"."))


@pytest.mark.parametrize("noise", [b"??", b"????????", b"EM??EM3?"])
def test_of_noise_that_begins_no_leader_nothing_is_held(noise):
    assembler = FrameAssembler()
    assert assembler.feed(noise) == []
    assert assembler.due == stream.LEADER_SIZE
    assert assembler.feed(noise + stream.LEADER_MAGIC[:3]) == []
    assert assembler.due == stream.LEADER_SIZE - 3


def test_a_trailer_of_an_unknown_status_is_named():
    data = bytearray(stream.Trailer(7, stream.FrameStatus.OK, 1.0, 0).encode()[:-4])
    data[6] = 3
    with pytest.raises(stream.StreamError, match="trailer of frame 7: unknown status 3"):
        stream.Trailer.decode(_sealed(bytes(data)))


@pytest.mark.parametrize("status", ["ABORTED", "OVERRUN"])
def test_a_frame_that_did_not_end_well_is_lost_once(status):
    leader = dataclasses.replace(LARGEST, width=4, height=2)
    parts = stream.encode_frame(leader, bytes(8), 1.0, stream.FrameStatus[status])
    found = FrameAssembler().feed(b"".join(map(bytes, parts)))
    assert found == [Defect(f"frame 7: the instrument marks it {status}", 7, 1)]


def test_the_largest_body_of_a_message_has_64_mebibytes():
    head = bytearray(sharksem.encode("ABCDEFGHIJKLMNO"))
    head[16:20] = (1 << 26).to_bytes(4, "little")
    assert sharksem.decode_head(bytes(head)) == sharksem.Message("ABCDEFGHIJKLMNO", 1 << 26, 0)
    head[16:20] = ((1 << 26) + 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="67108865 bytes is larger"):
        sharksem.decode_head(bytes(head))


@pytest.mark.parametrize("name", [b"", b"A\0B", b"\xffA", b"A\nB"])
def test_what_is_no_name_of_a_command_is_named(name):
    with pytest.raises(ValueError, match="is no name of a command"):
        sharksem.decode_head(name.ljust(16, b"\0") + bytes(16))


@pytest.mark.parametrize("name", ["", "A" * 16])
def test_a_name_has_1_to_15_characters(name):
    assert sharksem.decode_head(sharksem.encode("A")).name == "A"
    with pytest.raises(ValueError, match="1 to 15 characters"):
        sharksem.encode(name)


@pytest.mark.parametrize("count", range(6))
def test_an_array_is_followed_by_zeros_up_to_a_multiple_of_four(count):
    body = sharksem.encode("A", [bytes(range(count)), 5])[sharksem.HEAD_SIZE :]
    assert len(body) == 4 + (count + 3) // 4 * 4 + 4
    reader = sharksem.Reader(body)
    assert (reader.array(), reader.left, reader.unsigned(), reader.left) == (bytes(range(count)), 4, 5, 0)
    with pytest.raises(ValueError, match=f"the body ends after {len(body)} bytes, within a value of 4"):
        reader.unsigned()


def test_whole_numbers_have_a_sign_where_they_need_one():
    body = sharksem.encode("A", [True, 2**32 - 1, -(2**31), 1.23456789e-7])[sharksem.HEAD_SIZE :]
    reader = sharksem.Reader(body)
    assert (reader.unsigned(), reader.unsigned(), reader.integer()) == (1, 2**32 - 1, -(2**31))
    assert reader.text() == "1.23456789e-07"


@pytest.mark.parametrize(("bits", "taken"), [(8, True), (16, True), (7, False), (12, False), (32, False)])
def test_pixels_have_8_or_16_bits(bits, taken):
    piece = sharksem.Pixels(frame=2**32 - 1, channel=-1, first=640, bits=bits, pixels=b"abc")
    body = sharksem.encode_pixels(piece)[sharksem.HEAD_SIZE :]
    if taken:
        assert sharksem.decode_pixels(body) == piece
    else:
        with pytest.raises(ValueError, match=f"pixels of {bits} bit; there are 8 and 16"):
            sharksem.decode_pixels(body)


def test_a_map_may_have_an_equals_sign_in_a_value_and_lists_by_number():
    assert sharksem.parse_map(" a = b=c \nnothing\n=\n") == {"a": "b=c", "": ""}
    values = {"det.10.name": "X", "det.9.name": "Y", "det.x.name": "no", "det.1": "no", "ded.1.name": "no"}
    assert sharksem.entries(values | {"det.9.a.b": "Z"}, "det") == [
        {"": "9", "name": "Y", "a.b": "Z"},
        {"": "10", "name": "X"},
    ]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ((), ""),
        (("1", "Error Code:0"), ""),
        (("1", "Error Code:12"), "error code 12"),
        (("invalidCommand",), "the instrument does not know the command"),
        (("1", "Invalid Command"), ""),
    ],
)
def test_an_answer_says_what_went_wrong(values, error):
    assert zem.Answer("SetWD", values).error == error


@pytest.mark.parametrize("session", [0, 2**64 - 1])
def test_a_proof_holds_for_one_token_one_challenge_and_one_session(session):
    first, second = authentication.new_challenge(), authentication.new_challenge()
    assert first != second
    assert len(first) == authentication.CHALLENGE_SIZE == 32
    proof = authentication.proof_of("token", first, session)
    assert len(proof) == authentication.PROOF_SIZE == 32
    assert authentication.is_proof(proof, "token", first, session)
    assert not authentication.is_proof(proof, "token", second, session)
    assert not authentication.is_proof(proof, "Token", first, session)
    assert not authentication.is_proof(proof, "token", first, session ^ 1)
    assert not authentication.is_proof(proof[:-1], "token", first, session)


def test_a_request_to_the_device_is_followed_by_its_data():
    for request_type, length in ((usb.VENDOR_OUT, 5), (usb.VENDOR_IN, 0)):
        setup = usb.SetupPacket(request_type, usb.VendorRequest.START)
        assert setup.is_in is (request_type == usb.VENDOR_IN)
        assert bridge.BridgeRequest(bridge.Operation.CONTROL, length=5, setup=setup).following == length
    assert bridge.BridgeRequest(bridge.Operation.BULK_IN, length=5).following == 0
