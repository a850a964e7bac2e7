"""The control codec: round trips, resynchronisation, and every way of cutting, joining and damaging bytes."""

from __future__ import annotations

import dataclasses
import enum
import typing

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from firmware_protocol.control import (
    MAGIC,
    MAX_PAYLOAD,
    Damaged,
    Decoder,
    Envelope,
    Problem,
    encode,
)
from firmware_protocol.messages import (
    EVENTS,
    REPLIES,
    REQUESTS,
    Applied,
    GetParameter,
    Hello,
    KeepAlive,
    Kind,
    Opcode,
    Parameter,
    Pending,
    Refusal,
    SetParameter,
    Status,
    Unknown,
    Wait,
)
from firmware_protocol.payload import PayloadError, encode_payload

_INTEGERS = {"B": 8, "H": 16, "I": 32, "Q": 64}


def _values(hint: typing.Any) -> st.SearchStrategy[typing.Any]:
    if typing.get_origin(hint) is tuple:
        return st.lists(messages(typing.get_args(hint)[0]), max_size=4).map(tuple)
    kind, wire = typing.get_args(hint)
    if issubclass(kind, enum.IntFlag):
        return st.integers(0, 31).map(kind)
    if issubclass(kind, enum.Enum):
        return st.sampled_from(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(0, 2 ** _INTEGERS[wire.format] - 1)
    if kind is float:
        return st.floats(allow_nan=False)
    return st.text(st.characters(codec="utf-8"), max_size=20)


def messages(kind: type) -> st.SearchStrategy[typing.Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{field.name: _values(hints[field.name]) for field in dataclasses.fields(kind)})


sequences = st.integers(1, 0xFFFF)
requests = st.sampled_from(sorted(REQUESTS)).flatmap(
    lambda opcode: st.builds(Envelope.request, sequences, messages(REQUESTS[opcode]), st.integers(0, 31).map(Wait))
)
replies = st.sampled_from(sorted(REPLIES)).flatmap(
    lambda opcode: st.builds(Envelope, st.just(Kind.REPLY), sequences, st.just(opcode), messages(REPLIES[opcode]))
)
refusals = st.builds(
    Envelope,
    st.just(Kind.REPLY),
    sequences,
    st.sampled_from(sorted(REPLIES)),
    messages(Refusal),
    status=st.sampled_from([status for status in Status if status is not Status.OK]),
)
pendings = st.builds(Envelope, st.just(Kind.PENDING), sequences, st.sampled_from(sorted(REPLIES)), messages(Pending))
events = st.sampled_from(sorted(EVENTS)).flatmap(lambda opcode: messages(EVENTS[opcode])).map(Envelope.event)
unknown = st.builds(
    Envelope,
    st.just(Kind.REQUEST),
    sequences,
    st.integers(0x7000, 0x7FFF),
    st.binary(max_size=64).map(Unknown),
)
envelopes = st.one_of(requests, replies, refusals, pendings, events, unknown)

SET = Envelope.request(7, SetParameter(Parameter.WORKING_DISTANCE, 15.25), Wait.OPTICS)


@given(envelopes)
@settings(max_examples=400)
def test_every_message_survives_the_wire(envelope: Envelope) -> None:
    data = encode(envelope)
    decoder = Decoder()
    assert decoder.feed(data) == [envelope]
    assert (decoder.discarded, decoder.waiting) == (0, 0)
    assert encode(envelope) == data


def test_every_opcode_is_a_request_with_a_reply_or_an_event() -> None:
    assert set(REQUESTS) == set(REPLIES)
    assert set(REQUESTS) | set(EVENTS) == set(Opcode)
    assert not set(REQUESTS) & set(EVENTS)
    assert all((opcode & 0xFF >= 0x80) == (opcode in EVENTS) for opcode in Opcode)
    assert all(opcode.group << 8 == opcode & 0xFF00 for opcode in Opcode)


@given(st.lists(envelopes, min_size=1, max_size=6), st.data())
def test_any_splitting_gives_the_same_messages(batch: list[Envelope], data: st.DataObject) -> None:
    stream = b"".join(map(encode, batch))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder, found = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == batch
    assert decoder.discarded == 0


def test_split_at_every_byte_and_byte_by_byte() -> None:
    batch = [SET, SET.reply(Applied(Parameter.WORKING_DISTANCE, 15.25, 0.1, 3.0)), Envelope.request(8, KeepAlive())]
    stream = b"".join(map(encode, batch))
    for cut in range(len(stream) + 1):
        decoder = Decoder()
        assert decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) == batch
    decoder = Decoder()
    assert [item for byte in stream for item in decoder.feed(bytes([byte]))] == batch


@given(st.binary(max_size=80), envelopes, st.binary(max_size=80), envelopes)
@example(MAGIC, SET, MAGIC[:1], SET)
@example(MAGIC * 20, SET, MAGIC * 20, SET)
def test_garbage_between_messages_is_counted_and_skipped(
    before: bytes, first: Envelope, between: bytes, second: Envelope
) -> None:
    decoder = Decoder()
    found = decoder.feed(before + encode(first) + between + encode(second))
    found += decoder.abandon()
    assert [item for item in found if isinstance(item, Envelope)] == [first, second]
    assert decoder.discarded == len(before) + len(between)
    assert decoder.waiting == 0


def test_every_flipped_bit_costs_one_message_and_never_the_next() -> None:
    good, after = encode(SET), Envelope.request(8, GetParameter(Parameter.MAGNIFICATION))
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        decoder = Decoder()
        found = decoder.feed(bytes(damaged) + encode(after))
        assert found[-1] == after
        assert not any(item == SET for item in found)
        assert all(isinstance(item, Damaged) for item in found[:-1])
        assert decoder.discarded == len(good)


def test_every_lost_byte_costs_one_message_once_the_line_falls_silent() -> None:
    good, after = encode(SET), Envelope.request(8, GetParameter(Parameter.MAGNIFICATION))
    for lost in range(len(good)):
        decoder = Decoder()
        found = decoder.feed(good[:lost] + good[lost + 1 :] + encode(after))
        found += decoder.abandon()
        assert [item for item in found if isinstance(item, Envelope)] == [after]


def test_every_truncation_is_overcome_by_the_next_messages() -> None:
    good, after = encode(SET), Envelope.request(8, GetParameter(Parameter.MAGNIFICATION))
    for length in range(len(good)):
        decoder = Decoder()
        found = decoder.feed(good[:length] + encode(after) * 3)
        assert [item for item in found if isinstance(item, Envelope)][-1] == after
        assert decoder.waiting == 0


@given(st.binary(max_size=4000))
@settings(max_examples=200)
def test_noise_makes_no_message_and_holds_at_most_one(noise: bytes) -> None:
    decoder = Decoder()
    assert not [item for item in decoder.feed(noise) if isinstance(item, Envelope)]
    assert decoder.waiting <= 16 + MAX_PAYLOAD + 4
    decoder.abandon()
    assert (decoder.discarded, decoder.waiting) == (len(noise), 0)


@given(st.lists(envelopes, min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_random_damage_never_invents_a_message(batch: list[Envelope], random: typing.Any) -> None:
    stream = bytearray(b"".join(map(encode, batch)))
    for _ in range(random.randint(1, 4)):
        position = random.randrange(len(stream))
        match random.randrange(3):
            case 0:
                stream[position] ^= 1 << random.randrange(8)
            case 1:
                del stream[position : position + random.randint(1, 3)]
            case _:
                stream[position:position] = random.randbytes(random.randint(1, 3))
        if not stream:
            break
    decoder = Decoder()
    found = decoder.feed(bytes(stream)) + decoder.abandon()
    assert all(item in batch for item in found if isinstance(item, Envelope))
    assert decoder.waiting == 0


def test_a_corrupted_length_does_not_stall() -> None:
    stream = bytearray(encode(SET) * 3)
    stream[12:14] = (4000).to_bytes(2, "little")
    assert Decoder().feed(bytes(stream)) == [SET, SET]


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        ({"version": 2}, Problem.VERSION),
        ({"kind": 9}, Problem.KIND),
        ({"status": 99, "kind": 2}, Problem.LAYOUT),
        ({"length": 4097}, Problem.OVERSIZE),
        ({"payload": b"\x01"}, Problem.LAYOUT),
        ({"payload": b"\x63\x00" + bytes(8)}, Problem.LAYOUT),
    ],
)
def test_what_has_intact_checksums_and_no_meaning_is_reported(patch: dict[str, typing.Any], problem: Problem) -> None:
    import binascii
    import struct
    import zlib

    payload = patch.get("payload", encode_payload(SET.message))
    header = struct.pack(
        "<2sBBHHHHH",
        MAGIC,
        patch.get("version", 1),
        patch.get("kind", 1),
        7,
        Opcode.SET_PARAMETER,
        0,
        patch.get("status", 0),
        patch.get("length", len(payload)),
    )
    body = header + struct.pack("<H", binascii.crc_hqx(header, 0xFFFF)) + payload
    decoder = Decoder()
    found = decoder.feed(body + struct.pack("<I", zlib.crc32(body)) + encode(SET))
    assert [type(item) for item in found] == [Damaged, Envelope]
    assert found[0].problem is problem
    assert (found[0].sequence, found[0].opcode) == (7, Opcode.SET_PARAMETER)


@pytest.mark.parametrize(
    ("message", "part"),
    [
        (SetParameter(Parameter.MAGNIFICATION, "x"), "SetParameter.value"),  # type: ignore[arg-type]
        (SetParameter(70000, 1.0), "SetParameter.parameter"),  # type: ignore[arg-type]
        (Hello(1, 1, -1, False, ""), "Hello.token"),
        (Hello(1, 1, 0, False, "\ud800"), "Hello.client"),
        (Hello(1, 1, 0, False, "x" * 70000), "Hello.client"),
        (Hello(1, 1, 0, False, "x" * 5000), "limit is 4096"),
    ],
)
def test_values_that_do_not_fit_are_named(message: typing.Any, part: str) -> None:
    with pytest.raises(PayloadError, match=part):
        encode(Envelope.request(1, message))


def test_sequence_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PayloadError, match="header"):
        encode(Envelope.request(70000, KeepAlive()))


def test_a_switch_is_0_or_1() -> None:
    data = bytearray(encode_payload(Hello(1, 1, 5, True, "a")))
    data[10] = 2
    from firmware_protocol.payload import decode_payload

    with pytest.raises(PayloadError, match="observer"):
        decode_payload(Hello, bytes(data))


def test_not_a_number_travels() -> None:
    (item,) = Decoder().feed(encode(Envelope.request(1, SetParameter(Parameter.MAGNIFICATION, float("nan")))))
    assert isinstance(item, Envelope)
    assert item.message.value != item.message.value
