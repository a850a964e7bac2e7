"""Golden bytes of the control channel, both ways: the files that any implementer can check against."""

from __future__ import annotations

import dataclasses
import json
import typing
from importlib import resources
from typing import Any

import pytest

from firmware_protocol.control import Damaged, Decoder, Envelope, encode
from firmware_protocol.messages import (
    EVENTS,
    REPLIES,
    REQUESTS,
    KeepAlive,
    Kind,
    Opcode,
    Pending,
    Refusal,
    Status,
    Wait,
)

AFTER = Envelope.request(99, KeepAlive())


def records(name: str) -> list[tuple[dict[str, Any], bytes]]:
    text = (resources.files("firmware_protocol") / "vectors" / name).read_text(encoding="utf-8")
    found = []
    for record in text.split("\n\n"):
        lines = [line for line in record.splitlines() if line and not line.startswith("#")]
        if lines:
            found.append((json.loads(lines[0]), bytes.fromhex("".join(lines[1:]))))
    return found


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def built(message_type: Any, fields: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(message_type)
    values = {}
    for name, value in fields.items():
        hint = hints[name]
        if typing.get_origin(hint) is tuple:
            values[name] = tuple(built(typing.get_args(hint)[0], record) for record in value)
        else:
            values[name] = hint(value)
    return message_type(**values)


GOOD = records("control-good.txt")
BAD = records("control-bad.txt")


@pytest.mark.parametrize(("meaning", "data"), GOOD, ids=[meaning["name"] for meaning, _ in GOOD])
def test_good_bytes_mean_what_the_file_says(meaning: dict[str, Any], data: bytes) -> None:
    decoder = Decoder()
    (item,) = decoder.feed(data)
    assert isinstance(item, Envelope)
    assert decoder.discarded == 0
    header = {name: int(getattr(item, name)) for name in ("kind", "sequence", "opcode", "flags", "status")}
    assert header == {name: meaning[name] for name in header}
    assert plain(item.message) == meaning["payload"]


@pytest.mark.parametrize(("meaning", "data"), GOOD, ids=[meaning["name"] for meaning, _ in GOOD])
def test_the_meaning_gives_the_good_bytes(meaning: dict[str, Any], data: bytes) -> None:
    kind, status, opcode = Kind(meaning["kind"]), Status(meaning["status"]), meaning["opcode"]
    if kind is Kind.REPLY:
        message_type: Any = REPLIES[opcode] if status is Status.OK else Refusal
    else:
        message_type = {Kind.REQUEST: REQUESTS, Kind.EVENT: EVENTS}.get(kind, {}).get(opcode, Pending)
    message = built(message_type, meaning["payload"])
    envelope = Envelope(kind, meaning["sequence"], opcode, message, Wait(meaning["flags"]), status)
    assert encode(envelope) == data


def test_every_opcode_has_a_golden_message() -> None:
    assert {meaning["opcode"] for meaning, _ in GOOD} == set(Opcode)


@pytest.mark.parametrize(("meaning", "data"), BAD, ids=[meaning["name"] for meaning, _ in BAD])
def test_bad_bytes_yield_nothing_but_what_the_file_says(meaning: dict[str, Any], data: bytes) -> None:
    decoder = Decoder()
    found = decoder.feed(data) + decoder.abandon()
    assert [item.problem.name for item in found if isinstance(item, Damaged)] == (
        [meaning["problem"]] if meaning["problem"] else []
    )
    assert not [item for item in found if isinstance(item, Envelope)]
    assert decoder.discarded == meaning["discarded"]
    assert decoder.feed(encode(AFTER)) == [AFTER]


@pytest.mark.parametrize(("meaning", "data"), BAD, ids=[meaning["name"] for meaning, _ in BAD])
def test_a_good_message_right_behind_bad_bytes_is_found(meaning: dict[str, Any], data: bytes) -> None:
    decoder = Decoder()
    found = decoder.feed(data + encode(AFTER)) + decoder.abandon()
    assert [item for item in found if isinstance(item, Envelope)] == [AFTER]
