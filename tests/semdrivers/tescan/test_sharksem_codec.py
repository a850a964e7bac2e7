"""SharkSEM as bytes: golden messages, both ways of counting, and what is no message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_protocol import sharksem
from firmware_protocol.sharksem import Flags, Pixels, Reader

GOLDEN = {
    "a number with a fraction": (
        ("SetWD", [10.5], 7, Flags.WAIT_SCAN),
        "5365745744000000 0000000000000000 0c000000 07000000 0001 0000 00000000 05000000 31302e3500 000000",
    ),
    "whole numbers": (
        ("DtEnable", [0, 1, 16], 8, Flags.NONE),
        "4474456e61626c65 0000000000000000 0c000000 08000000 0000 0000 00000000 00000000 01000000 10000000",
    ),
    "no argument, an answer, after scan and optics": (
        ("GetViewField", [], 0x01020304, Flags.ANSWER | Flags.WAIT_SCAN | Flags.WAIT_OPTICS),
        "4765745669657746 69656c6400000000 00000000 04030201 0105 0000 00000000",
    ),
    "a negative result": (
        ("ScScanXY", [-1], 9, Flags.NONE),
        "53635363616e5859 0000000000000000 04000000 09000000 0000 0000 00000000 ffffffff",
    ),
    "a text": (
        ("TcpGetVersion", ["2.0.25"], 1, Flags.NONE),
        "5463704765745665 7273696f6e000000 0c000000 01000000 0000 0000 00000000 07000000 322e302e3235 00 00",
    ),
}


@pytest.mark.parametrize(("message", "golden"), GOLDEN.values(), ids=GOLDEN)
def test_messages_are_these_bytes(message, golden):
    name, values, number, flags = message
    raw = sharksem.encode(name, values, number=number, flags=flags)
    assert raw.hex() == golden.replace(" ", "")
    head = sharksem.decode_head(raw[: sharksem.HEAD_SIZE])
    assert (head.name, head.number, head.flags, head.size) == (name, number, flags, len(raw) - sharksem.HEAD_SIZE)


def test_picture_data_are_these_bytes():
    raw = sharksem.encode_pixels(Pixels(frame=3, channel=0, first=640, bits=16, pixels=b"\x01\x02\x03\x04\x05\x06"))
    assert raw[sharksem.HEAD_SIZE :].hex() == "03000000000000008002000010000000060000000102030405060000"
    assert raw[:16] == b"ScData".ljust(16, b"\0")


@pytest.mark.parametrize("body", ["05000000 31302e3500 000000", "08000000 31302e3500 000000", "04000000 31302e35"])
def test_texts_are_counted_with_or_without_their_padding(body):
    reader = Reader(bytes.fromhex(body) + b"\x2a\0\0\0")
    assert reader.number() == 10.5
    assert reader.unsigned() == 42
    assert reader.left == 0


@given(st.floats(1e-6, 1e6), st.integers(-(2**31), 2**31 - 1), st.binary(max_size=40), st.text("abc.=\n", max_size=20))
def test_what_is_written_is_read(number, integer, array, text):
    raw = sharksem.encode("Test", [float(number), integer, array, text])
    reader = Reader(raw[sharksem.HEAD_SIZE :])
    assert reader.number() == pytest.approx(number, rel=1e-8)
    assert (reader.integer(), reader.array(), reader.text(), reader.left) == (integer, array, text, 0)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_head_of_another_size_is_named(size):
    raw = sharksem.encode("Test", [1.0, 2, b"four", "five"])
    with pytest.raises(ValueError, match=f"a head has 32 bytes, not {size}"):
        sharksem.decode_head(raw[:size])


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_are_a_head_or_a_value_error(raw):
    try:
        head = sharksem.decode_head(raw)
    except ValueError:
        return
    assert 0 < len(head.name) < 17
    assert head.size <= sharksem.LARGEST_BODY


@given(st.binary(max_size=60))
def test_any_body_is_pixels_or_a_value_error(raw):
    try:
        piece = sharksem.decode_pixels(raw)
    except ValueError:
        return
    assert piece.bits in (8, 16)


def test_a_long_name_is_refused():
    with pytest.raises(ValueError, match="1 to 15 characters"):
        sharksem.encode("ANameOfSixteenCh")


def test_a_number_that_is_none_is_named():
    with pytest.raises(ValueError, match="'ten' is no number"):
        Reader(bytes.fromhex("04000000") + b"ten\0").number()


def test_maps_list_entries_by_number():
    text = "det.1.name=BSE\ndet.0.name=SE\ndet.0.detector=4\nnonsense\ndet.1.detector=7\ncen.0.name=Stigmator\n"
    values = sharksem.parse_map(text)
    assert sharksem.entries(values, "det") == [
        {"": "0", "name": "SE", "detector": "4"},
        {"": "1", "name": "BSE", "detector": "7"},
    ]
    assert sharksem.parse_map(sharksem.write_map({"half_angle": 0.2})) == {"half_angle": "0.2"}
