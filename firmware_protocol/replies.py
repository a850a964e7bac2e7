"""What the instrument answers, as frozen dataclasses. Conventions: `firmware_protocol.messages`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from firmware_protocol.codes import Parameter, Reason, Subsystem, VacuumState
from firmware_protocol.payload import F64, U8, U16, U64, Switch, Text, Wire

__all__ = [
    "Applied", "BeamSet", "Capability", "Challenge", "Done", "HelloReply", "ParameterValue", "Pending", "Refusal",
    "ScanModeInfo", "ScanStarted", "StageMoved", "StageOriented", "StatusReport", "StigmatorApplied", "Unknown",
    "VacuumSet",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Capability:
    """Limits of one parameter. `name` is a `Parameter` in lower case; a step of 0 means continuous."""

    name: Text
    minimum: F64
    maximum: F64
    step: F64
    unit: Text
    writable: Switch


@dataclass(frozen=True, slots=True)
class ScanModeInfo:
    """One frame size that the scan generator offers; `dwell_time` per pixel and `frame_time` in s."""

    name: Text
    width: U16
    height: U16
    dwell_time: F64
    frame_time: F64


@dataclass(frozen=True, slots=True)
class Refusal:
    """Payload of every reply whose status is not OK; fields that do not apply are 0 or empty."""

    minimum: F64 = 0.0
    maximum: F64 = 0.0
    subsystem: Annotated[Subsystem, Wire("B")] = Subsystem.NONE
    reasons: Annotated[Reason, Wire("I")] = Reason.NONE
    text: Text = ""


@dataclass(frozen=True, slots=True)
class Pending:
    """Payload of PENDING: the request is being carried out and will take about `seconds` more."""

    seconds: F64


@dataclass(frozen=True, slots=True)
class Unknown:
    """Payload of an intact envelope whose opcode this version does not know."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class HelloReply:
    """Who the instrument is and what it can do.

    `owner` is whether this client holds the control lease, which lasts `lease` seconds from its last
    message. `time` is the instrument's clock.
    """

    version: U8
    owner: Switch
    lease: F64
    time: F64
    model: Text
    serial: Text
    firmware: Text
    capabilities: tuple[Capability, ...]
    scan_modes: tuple[ScanModeInfo, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """An OK that reports nothing but the instrument's clock."""

    time: F64


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The state of the instrument; `next_frame` is the id that the next frame scanned will carry."""

    time: F64
    beam_on: Switch
    vacuum: Annotated[VacuumState, Wire("B")]
    door_closed: Switch
    scanning: Switch
    stage_moving: Switch
    next_frame: U64
    owner: Text
    fault: Text


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a proof is to be made over, in hexadecimal; empty where the proof was right."""

    challenge: Text = ""


@dataclass(frozen=True, slots=True)
class ParameterValue:
    """A parameter as it stands, at `time`; while the lens settles, the value that it settles to."""

    parameter: Annotated[Parameter, Wire("H")]
    value: F64
    time: F64


@dataclass(frozen=True, slots=True)
class Applied:
    """The value that was really set, the settling time that it takes, and when it is in full effect."""

    parameter: Annotated[Parameter, Wire("H")]
    value: F64
    settling: F64
    time: F64


@dataclass(frozen=True, slots=True)
class StigmatorApplied:
    """As `Applied`, for both axes of the stigmator, µm."""

    x: F64
    y: F64
    settling: F64
    time: F64


@dataclass(frozen=True, slots=True)
class ScanStarted:
    """Id of the first frame to come, seconds a frame takes, dwell time a pixel, and the start of the scan."""

    first_frame: U64
    frame_time: F64
    dwell_time: F64
    time: F64


@dataclass(frozen=True, slots=True)
class StageMoved:
    """Where the stage goes (mm), the travel time, and when it is at rest."""

    x: F64
    y: F64
    settling: F64
    time: F64


@dataclass(frozen=True, slots=True)
class StageOriented:
    """How the stage will lie (degrees), the time that it takes, and when it is at rest."""

    tilt: F64
    rotation: F64
    settling: F64
    time: F64


@dataclass(frozen=True, slots=True)
class BeamSet:
    """The beam as switched, the time it takes to be stable, and when it is."""

    on: Switch
    settling: F64
    time: F64


@dataclass(frozen=True, slots=True)
class VacuumSet:
    """The state that the chamber goes to, how long it takes, and when it is there."""

    state: Annotated[VacuumState, Wire("B")]
    settling: F64
    time: F64
