"""The written specification says what the code does: opcodes, fields in their order, codes."""

from __future__ import annotations

import dataclasses
import re
import typing
from importlib import resources
from typing import Any

import pytest

from firmware_protocol import authentication, bridge, codes, control, replies, stream, usb
from firmware_protocol import messages as m

TEXT = (resources.files("firmware_protocol") / "spec.md").read_text(encoding="utf-8")
TYPES = {"d": "f64", "B": "u8", "H": "u16", "I": "u32", "Q": "u64", "?": "switch", "text": "text"}


def fields(kind: Any) -> str:
    hints = typing.get_type_hints(kind, include_extras=True)
    told = []
    for field in dataclasses.fields(kind):
        arguments = typing.get_args(hints[field.name])
        record = typing.get_origin(hints[field.name]) is tuple
        told.append(f"{field.name} {f'[{arguments[0].__name__}]' if record else TYPES[arguments[1].format]}")
    return ", ".join(told) or "nothing"


@pytest.mark.parametrize("opcode", sorted(m.REQUESTS))
def test_every_request_is_specified(opcode: int) -> None:
    name = m.Opcode(opcode).name
    row = f"| {opcode:#06x} | {name} | {fields(m.REQUESTS[opcode])} | {fields(m.REPLIES[opcode])} |"
    assert row in TEXT.splitlines()


@pytest.mark.parametrize("opcode", sorted(m.EVENTS))
def test_every_event_is_specified(opcode: int) -> None:
    assert f"| {opcode:#06x} | {m.Opcode(opcode).name} | {fields(m.EVENTS[opcode])} |" in TEXT.splitlines()


@pytest.mark.parametrize("codes", [stream.FrameStatus, bridge.TransferStatus])
def test_every_status_of_the_stream_is_specified(codes: Any) -> None:
    text = (resources.files("firmware_protocol") / "spec_stream.md").read_text(encoding="utf-8")
    assert f"status: {', '.join(f'{member.value} {name}' for name, member in codes.__members__.items())} |" in text


@pytest.mark.parametrize("room", [m, replies, stream, bridge], ids=lambda room: room.__name__)
def test_what_travels_cannot_be_changed_and_has_no_other_fields(room: Any) -> None:
    values = [each for each in vars(room).values() if isinstance(each, type) and dataclasses.is_dataclass(each)]
    assert values
    for kind in values:
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert set(kind.__slots__) == {field.name for field in dataclasses.fields(kind)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("record", [m.Capability, m.ScanModeInfo, m.Refusal, m.Pending])
def test_every_record_is_specified(record: Any) -> None:
    assert f"| {record.__name__} | {fields(record)} |" in TEXT.splitlines()


@pytest.mark.parametrize("codes", [m.Kind, m.Status, m.Parameter, m.VacuumState, m.Subsystem, m.Reason])
def test_every_code_is_specified(codes: Any) -> None:
    members = [member for member in codes.__members__.values() if member.name != "NONE"]
    assert ", ".join(f"{member.value} {member.name}" for member in members) in TEXT


def test_every_flag_is_specified() -> None:
    (flags,) = re.findall(r"^Flags: (.*?)\. They", TEXT, re.MULTILINE | re.DOTALL)
    for flag in m.Wait:
        if flag is not m.Wait.ALL:
            assert f"{flag.value} {flag.name}" in flags


def test_every_refusal_is_explained() -> None:
    rows = [line.split(" | ")[0].lstrip("| ") for line in TEXT.splitlines() if line.startswith("| ")]
    assert {status.name for status in m.Status} - {"OK"} <= set(rows)


def test_every_number_of_the_layout_is_specified() -> None:
    assert f"TCP (port {codes.CONTROL_PORT} unless agreed" in TEXT
    sizes = control.HEADER_SIZE, control.MAX_PAYLOAD, control.TRAILER_SIZE
    assert "A header of {} bytes, a payload of 0 to {}, a checksum of {}.".format(*sizes) in TEXT
    text = (resources.files("firmware_protocol") / "spec_stream.md").read_text(encoding="utf-8")
    for request in usb.VendorRequest:
        kind = usb.VENDOR_IN if request is usb.VendorRequest.STREAM_INFO else usb.VENDOR_OUT
        assert f"| {request.name} | {kind:#04X} | {request.value} |".replace("0X", "0x") in text
    assert f"operation: {', '.join(f'{each.value} {each.name}' for each in bridge.Operation)} (of the port)" in text
    assert f"more than {stream.MAX_PAYLOAD // 1024**2} MiB" in text
    assert f"at most {bridge.MAX_TRANSFER // 1024**2} MiB" in text
    assert (stream.MAX_PAYLOAD % 1024**2, bridge.MAX_TRANSFER % 1024**2) == (0, 0)
    assert (usb.ENDPOINT_HALT, authentication.BRIDGE_SESSION, bridge.NO_TIMEOUT) == (0, 0, 0)
