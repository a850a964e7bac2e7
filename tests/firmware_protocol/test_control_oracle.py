"""An independent decoder of the control channel, written from the specification with `construct`, as an oracle."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import construct as c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_protocol import messages as m
from firmware_protocol.control import Decoder, Envelope, encode


def crc16(data: bytes) -> int:
    """CRC-16 with polynomial 0x1021, start 0xFFFF, bit by bit."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def crc32(data: bytes) -> int:
    """CRC-32 with polynomial 0x04C11DB7 reflected, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


TEXT = c.PascalString(c.Int16ul, "utf8")
SWITCH = c.Int8ul
F64 = c.Float64l

CAPABILITY = c.Struct("name" / TEXT, "minimum" / F64, "maximum" / F64, "step" / F64, "unit" / TEXT, "writable" / SWITCH)
SCAN_MODE = c.Struct("name" / TEXT, "width" / c.Int16ul, "height" / c.Int16ul, "dwell_time" / F64, "frame_time" / F64)
DONE = c.Struct("time" / F64)
PARAMETER = c.Struct("parameter" / c.Int16ul, "value" / F64, "time" / F64)
VACUUM_SET = c.Struct("state" / c.Int8ul, "settling" / F64, "time" / F64)
REFUSAL = c.Struct("minimum" / F64, "maximum" / F64, "subsystem" / c.Int8ul, "reasons" / c.Int32ul, "text" / TEXT)
PENDING = c.Struct("seconds" / F64)

REQUEST = {
    0x0101: c.Struct(
        "minimum_version" / c.Int8ul,
        "maximum_version" / c.Int8ul,
        "token" / c.Int64ul,
        "observer" / SWITCH,
        "client" / TEXT,
    ),
    0x0102: c.Struct(),
    0x0103: c.Struct("enabled" / SWITCH),
    0x0104: c.Struct("keep_beam" / SWITCH),
    0x0105: c.Struct(),
    0x0106: c.Struct("client" / TEXT),
    0x0107: c.Struct("token" / c.Int64ul, "proof" / TEXT),
    0x0201: c.Struct("parameter" / c.Int16ul),
    0x0202: c.Struct("parameter" / c.Int16ul, "value" / F64),
    0x0203: c.Struct("x" / F64, "y" / F64),
    0x0301: c.Struct("width" / c.Int16ul, "height" / c.Int16ul, "bits" / c.Int8ul, "frames" / c.Int32ul),
    0x0302: c.Struct(),
    0x0401: c.Struct("x" / F64, "y" / F64),
    0x0402: c.Struct("tilt" / F64, "rotation" / F64),
    0x0501: c.Struct("on" / SWITCH),
    0x0601: c.Struct(),
    0x0602: c.Struct(),
}
REPLY = {
    0x0101: c.Struct(
        "version" / c.Int8ul,
        "owner" / SWITCH,
        "lease" / F64,
        "time" / F64,
        "model" / TEXT,
        "serial" / TEXT,
        "firmware" / TEXT,
        "capabilities" / c.PrefixedArray(c.Int16ul, CAPABILITY),
        "scan_modes" / c.PrefixedArray(c.Int16ul, SCAN_MODE),
    ),
    0x0102: DONE,
    0x0103: DONE,
    0x0104: DONE,
    0x0105: c.Struct(
        "time" / F64,
        "beam_on" / SWITCH,
        "vacuum" / c.Int8ul,
        "door_closed" / SWITCH,
        "scanning" / SWITCH,
        "stage_moving" / SWITCH,
        "next_frame" / c.Int64ul,
        "owner" / TEXT,
        "fault" / TEXT,
    ),
    0x0106: c.Struct("on" / SWITCH, "settling" / F64, "time" / F64),
    0x0107: c.Struct("challenge" / TEXT),
    0x0201: PARAMETER,
    0x0202: c.Struct("parameter" / c.Int16ul, "value" / F64, "settling" / F64, "time" / F64),
    0x0203: c.Struct("x" / F64, "y" / F64, "settling" / F64, "time" / F64),
    0x0301: c.Struct("first_frame" / c.Int64ul, "frame_time" / F64, "dwell_time" / F64, "time" / F64),
    0x0302: DONE,
    0x0401: c.Struct("x" / F64, "y" / F64, "settling" / F64, "time" / F64),
    0x0402: c.Struct("tilt" / F64, "rotation" / F64, "settling" / F64, "time" / F64),
    0x0501: c.Struct("on" / SWITCH, "settling" / F64, "time" / F64),
    0x0601: VACUUM_SET,
    0x0602: VACUUM_SET,
}
EVENT = {
    0x0280: PARAMETER,
    0x0380: c.Struct("next_frame" / c.Int64ul, "time" / F64),
    0x0381: c.Struct("frame_id" / c.Int64ul, "time" / F64),
    0x0480: c.Struct("x" / F64, "y" / F64, "time" / F64),
    0x0580: c.Struct("on" / SWITCH, "time" / F64),
    0x0680: c.Struct("state" / c.Int8ul, "time" / F64),
    0x0681: c.Struct("reasons" / c.Int32ul, "time" / F64, "text" / TEXT),
}


def _layout(context: Any) -> Any:
    head = context.header.value
    if head.kind == 1:
        return REQUEST[head.opcode]
    if head.kind == 3:
        return PENDING
    if head.kind == 4:
        return EVENT[head.opcode]
    return REPLY[head.opcode] if head.status == 0 else REFUSAL


ENVELOPE = c.Struct(
    "header"
    / c.RawCopy(
        c.Struct(
            "magic" / c.Const(b"\xe3\x30"),
            "version" / c.Const(1, c.Int8ul),
            "kind" / c.Int8ul,
            "sequence" / c.Int16ul,
            "opcode" / c.Int16ul,
            "flags" / c.Int16ul,
            "status" / c.Int16ul,
            "length" / c.Int16ul,
        )
    ),
    "header_crc" / c.Checksum(c.Int16ul, crc16, lambda context: context.header.data),
    "payload" / c.Bytes(c.this.header.value.length),
    "crc"
    / c.Checksum(
        c.Int32ul,
        crc32,
        lambda context: context.header.data + context.header_crc.to_bytes(2, "little") + context.payload,
    ),
)


def oracle(data: bytes) -> tuple[Any, dict[str, Any]]:
    """Return header and fields of one message, as the specification has them."""
    envelope = ENVELOPE.parse(data)
    layout = c.Struct("fields" / _layout(envelope), c.Terminated)
    fields = layout.parse(envelope.payload).fields
    assert layout.build({"fields": fields}) == envelope.payload
    return envelope.header.value, _plain(fields)


def _plain(value: Any) -> Any:
    if isinstance(value, c.Container):
        return {key: _plain(item) for key, item in value.items() if not str(key).startswith("_")}
    if isinstance(value, c.ListContainer | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | enum.Enum):
        return int(value)
    return value


EXAMPLES = [
    Envelope.request(1, m.Hello(1, 3, 0x1122334455667788, True, "Mikroskop-Bedienung"), m.Wait.ALL),
    Envelope.request(0xFFFF, m.KeepAlive()),
    Envelope.request(2, m.Subscribe(False)),
    Envelope.request(3, m.Bye(False)),
    Envelope.request(4, m.GetStatus()),
    Envelope.request(40, m.EmergencyStop("Leitwarte 2")),
    Envelope(m.Kind.REPLY, 40, m.Opcode.EMERGENCY_STOP, m.BeamSet(False, 0.0, 2.5)),
    Envelope.request(44, m.Authenticate(0x1122334455667788, "1668a6edb468834b")),
    Envelope(m.Kind.REPLY, 44, m.Opcode.AUTHENTICATE, m.Challenge("000102030405060708")),
    Envelope.request(5, m.GetParameter(m.Parameter.STAGE_Z)),
    Envelope.request(6, m.SetParameter(m.Parameter.WORKING_DISTANCE, 12.345), m.Wait.OPTICS),
    Envelope.request(7, m.SetStigmator(-1.5, 2.5)),
    Envelope.request(8, m.StartScan(1280, 960, 16, 3)),
    Envelope.request(9, m.StopScan(), m.Wait.SCAN),
    Envelope.request(10, m.MoveStage(-3.25, 17.5)),
    Envelope.request(14, m.OrientStage(12.5, 270.0), m.Wait.STAGE),
    Envelope.request(11, m.SetBeam(True)),
    Envelope.request(12, m.Pump()),
    Envelope.request(13, m.Vent()),
    Envelope(
        m.Kind.REPLY,
        1,
        m.Opcode.HELLO,
        m.HelloReply(
            1,
            True,
            5.0,
            12.5,
            "EM-30",
            "EMU000001",
            "1.0.0",
            (m.Capability("stigmator_x", -50.0, 50.0, 0.1, "µm", True),) * 2,
            (m.ScanModeInfo("FAST", 320, 240, 1.3e-6, 0.1),),
        ),
    ),
    Envelope(m.Kind.REPLY, 2, m.Opcode.KEEP_ALIVE, m.Done(1.5)),
    Envelope(
        m.Kind.REPLY,
        4,
        m.Opcode.GET_STATUS,
        m.StatusReport(3.0, True, m.VacuumState.READY, True, False, True, 2**40, "a", "b"),
    ),
    Envelope(m.Kind.REPLY, 5, m.Opcode.GET_PARAMETER, m.ParameterValue(m.Parameter.CONTRAST, 0.5, 1.0)),
    Envelope(m.Kind.REPLY, 6, m.Opcode.SET_PARAMETER, m.Applied(m.Parameter.MAGNIFICATION, 1e4, 0.05, 9.0)),
    Envelope(m.Kind.REPLY, 7, m.Opcode.SET_STIGMATOR, m.StigmatorApplied(-1.5, 2.5, 0.05, 9.0)),
    Envelope(m.Kind.REPLY, 8, m.Opcode.START_SCAN, m.ScanStarted(17, 0.1, 1.3e-6, 4.0)),
    Envelope(m.Kind.REPLY, 10, m.Opcode.MOVE_STAGE, m.StageMoved(-3.25, 17.5, 4.5, 9.0)),
    Envelope(m.Kind.REPLY, 14, m.Opcode.ORIENT_STAGE, m.StageOriented(12.5, 270.0, 17.5, 30.0)),
    Envelope(m.Kind.REPLY, 11, m.Opcode.SET_BEAM, m.BeamSet(True, 5.0, 9.0)),
    Envelope(m.Kind.REPLY, 12, m.Opcode.PUMP, m.VacuumSet(m.VacuumState.READY, 120.0, 130.0)),
    Envelope(
        m.Kind.REPLY,
        13,
        m.Opcode.VENT,
        m.Refusal(0.0, 0.0, m.Subsystem.NONE, m.Reason.BEAM_ON, "venting needs the beam off"),
        status=m.Status.INTERLOCK,
    ),
    Envelope(m.Kind.PENDING, 12, m.Opcode.PUMP, m.Pending(119.5)),
    Envelope.event(m.ParameterChanged(m.Parameter.WORKING_DISTANCE, 11.0, 2.0)),
    Envelope.event(m.ScanEnded(18, 2.0)),
    Envelope.event(m.FrameDropped(17, 2.0)),
    Envelope.event(m.StageIdle(1.0, 2.0, 3.0)),
    Envelope.event(m.BeamChanged(False, 3.0)),
    Envelope.event(m.VacuumChanged(m.VacuumState.PUMPING, 3.0)),
    Envelope.event(m.InterlockTripped(m.Reason.DOOR_OPEN, 3.0, "the door was opened")),
]


def test_the_checksums_are_the_published_ones() -> None:
    assert crc16(b"123456789") == 0x29B1
    assert crc32(b"123456789") == 0xCBF43926


def test_every_opcode_has_an_example() -> None:
    assert {example.opcode for example in EXAMPLES} == set(m.Opcode)


@pytest.mark.parametrize("envelope", EXAMPLES, ids=lambda e: f"{e.kind.name}-{m.Opcode(e.opcode).name}")
def test_the_oracle_reads_what_we_write(envelope: Envelope) -> None:
    header, fields = oracle(encode(envelope))
    assert (header.kind, header.sequence, header.opcode) == (envelope.kind, envelope.sequence, envelope.opcode)
    assert (header.flags, header.status) == (envelope.flags, envelope.status)
    assert fields == _plain({key: _values(value) for key, value in _fields(envelope.message).items()})


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}


def _values(value: Any) -> Any:
    if isinstance(value, tuple):
        return [{key: _plain(item) for key, item in _fields(record).items()} for record in value]
    return _plain(value)


@given(st.sampled_from(EXAMPLES), st.data())
@settings(max_examples=300)
def test_we_accept_exactly_what_the_oracle_accepts(envelope: Envelope, data: st.DataObject) -> None:
    damaged = bytearray(encode(envelope))
    for _ in range(data.draw(st.integers(0, 2))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        oracle(bytes(damaged))
        accepted = True
    except (c.ConstructError, KeyError):
        accepted = False
    found = Decoder().feed(bytes(damaged))
    assert any(isinstance(item, Envelope) for item in found) == accepted
