"""Packets of a ZEM, byte for byte."""

from __future__ import annotations

import pytest

from firmware_protocol import zem


def test_the_crc_is_that_of_modbus():
    assert zem.crc(b"123456789") == 0x4B37


def test_the_sizes_and_the_port_are_the_makers():
    codes = {0: (512, 512), 1: (2048, 2048), 2: (1024, 1024), 3: (128, 128), 4: (1920, 1440), 5: (3840, 2880)}
    assert {code: size for size, code in zem.SIZES.items()} == codes
    assert zem.PORT == 61557


def test_a_request_states_where_its_answer_goes():
    body = b"$SetWD:12.5,127.0.0.1:4000,"
    check = zem.crc(body)
    assert zem.encode("SetWD", "12.5", "127.0.0.1", 4000) == body + b"%02X%02X%%" % (check & 0xFF, check >> 8)


@pytest.mark.parametrize("case", [bytes.upper, bytes.lower])
def test_an_answer_is_read_whatever_the_case_of_its_crc(case):
    body = b"$GetWD:12.5,Error Code:0,"
    check = zem.crc(body)
    answer = zem.decode(body + case(b"%02X%02X" % (check & 0xFF, check >> 8)) + b"%")
    assert (answer.command, answer.values[:2], answer.error) == ("GetWD", ("12.5", "Error Code:0"), "")


@pytest.mark.parametrize("values", ["Invalid Command,", "1,Error Code:7,"])
def test_a_refusal_is_known(values):
    body = f"$SetWD:{values}".encode()
    check = zem.crc(body)
    assert zem.decode(body + b"%02X%02X%%" % (check & 0xFF, check >> 8)).error


@pytest.mark.parametrize("damage", [b"", b"$", b"GetWD:1,0000%", b"$GetWD:1,0000%", b"$GetWD:10000%"])
def test_what_is_no_packet_is_named(damage):
    with pytest.raises(ValueError, match=r"no packet|CRC"):
        zem.decode(damage)


@pytest.mark.parametrize(
    ("body", "end"),
    [(b"#GetWD:1,", b"%"), (b"%GetWD:1,", b"%"), (b"$GetWD:1,", b"$"), (b"$GetWD:1,", b"&"), (b"$GetWD:1;", b"%")],
)
def test_a_right_crc_makes_no_packet_without_its_marks(body, end):
    check = zem.crc(body)
    with pytest.raises(ValueError, match="is no packet"):
        zem.decode(body + b"%02X%02X" % (check & 0xFF, check >> 8) + end)
