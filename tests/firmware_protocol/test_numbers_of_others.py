"""Numbers that are not ours to choose: USB, GenICam and SharkSEM fix them."""

from __future__ import annotations

import dataclasses
import hmac

import pytest

from firmware_protocol import authentication, replies, sharksem, stream, usb

NUMBERS = {
    # Universal Serial Bus Specification, revision 2.0, tables 9-4 and 9-5
    usb.StandardRequest: {
        "GET_STATUS": 0,
        "CLEAR_FEATURE": 1,
        "SET_FEATURE": 3,
        "SET_ADDRESS": 5,
        "GET_DESCRIPTOR": 6,
        "GET_CONFIGURATION": 8,
        "SET_CONFIGURATION": 9,
        "GET_INTERFACE": 10,
        "SET_INTERFACE": 11,
    },
    usb.DescriptorType: {"DEVICE": 1, "CONFIGURATION": 2, "STRING": 3, "INTERFACE": 4, "ENDPOINT": 5},
    # GenICam Pixel Format Naming Convention
    stream.PixelFormat: {"MONO8": 0x01080001, "MONO16": 0x01100007},
    # Flags of a SharkSEM header
    sharksem.Flags: {
        "NONE": 0,
        "ANSWER": 0x001,
        "JUMP_QUEUE": 0x002,
        "WAIT_SCAN": 0x100,
        "WAIT_STAGE": 0x200,
        "WAIT_OPTICS": 0x400,
        "WAIT_PROCEDURE": 0x800,
    },
}


@pytest.mark.parametrize("numbers", NUMBERS, ids=lambda numbers: numbers.__name__)
def test_the_numbers_are_those_of_the_standard(numbers):
    assert {name: member.value for name, member in numbers.__members__.items()} == NUMBERS[numbers]


def test_a_descriptor_of_another_kind_is_passed_over_down_to_two_bytes():
    own = usb.configuration_descriptor()
    longer = own[:2] + (len(own) + 2).to_bytes(2, "little") + own[4:] + b"\x02\x30"
    found = usb.ConfigurationDescriptor.decode(longer)
    assert found.interfaces == usb.ConfigurationDescriptor.decode(own).interfaces
    assert found.interfaces[0].endpoints


@pytest.mark.parametrize("tail", [b"\x02", b"\x01\x30", b"\x03\x30", b"\x00\x30"])
def test_a_descriptor_that_runs_past_the_end_is_named(tail):
    own = usb.configuration_descriptor()
    longer = own[:2] + (len(own) + len(tail)).to_bytes(2, "little") + own[4:] + tail
    with pytest.raises(usb.UsbError, match=f"byte {len(own)} runs past the end"):
        usb.ConfigurationDescriptor.decode(longer)


def test_a_string_of_126_characters_is_the_longest():
    assert len(usb.string_descriptor("a" * 126)) == 254
    with pytest.raises(usb.UsbError, match="126 characters, not 127"):
        usb.string_descriptor("a" * 127)


def test_fields_of_a_refusal_that_do_not_apply_are_0_or_empty():
    assert dataclasses.astuple(replies.Refusal()) == (0.0, 0.0, 0, 0, "")


def test_a_proof_is_that_of_the_specification():
    said = b"EM-30 authentication 1" + bytes(range(32)) + b"\x07\0\0\0\0\0\0\0"
    assert authentication.proof_of("a token", bytes(range(32)), 7) == hmac.new(b"a token", said, "sha256").digest()
