"""Everything that travels on the control channel, as frozen dataclasses: requests, replies and events.

The order and the annotations of the fields *are* the payload layout (see `firmware_protocol.payload`).
Units: working distance and stage mm, tilt and rotation degrees, stigmator µm, times s, voltage kV, current pA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar, get_args

from firmware_protocol.codes import Group, Kind, Opcode, Parameter, Reason, Status, Subsystem, VacuumState, Wait
from firmware_protocol.payload import F64, U8, U16, U32, U64, Switch, Text, Wire
from firmware_protocol.replies import (
    Applied,
    BeamSet,
    Capability,
    Challenge,
    Done,
    HelloReply,
    ParameterValue,
    Pending,
    Refusal,
    ScanModeInfo,
    ScanStarted,
    StageMoved,
    StageOriented,
    StatusReport,
    StigmatorApplied,
    Unknown,
    VacuumSet,
)

__all__ = [
    "EVENTS", "REPLIES", "REQUESTS", "Applied", "Authenticate", "BeamChanged", "BeamSet", "Bye", "Capability",
    "Challenge", "Command", "Done", "EmergencyStop", "Event", "FrameDropped", "GetParameter", "GetStatus", "Group",
    "Hello", "HelloReply", "InterlockTripped", "KeepAlive", "Kind", "MoveStage", "Opcode", "OrientStage", "Parameter",
    "ParameterChanged", "ParameterValue", "Pending", "Pump", "Query", "Reason", "Refusal", "Request", "ScanEnded",
    "ScanModeInfo", "ScanStarted", "SetBeam", "SetParameter", "SetStigmator", "StageIdle", "StageMoved",
    "StageOriented", "StartScan", "Status", "StatusReport", "StigmatorApplied", "StopScan", "Subscribe", "Subsystem",
    "Unknown", "VacuumChanged", "VacuumSet", "VacuumState", "Vent", "Wait",
]  # fmt: skip

_Reply = TypeVar("_Reply", covariant=True)


class Request(Generic[_Reply]):
    """A request; the type argument is the class of its OK reply."""

    __slots__ = ()
    opcode: ClassVar[Opcode]


class Query(Request[_Reply]):
    """A request that anyone may send: it moves nothing, or it stops."""

    __slots__ = ()


class Command(Request[_Reply]):
    """A request that changes the instrument: only the owner may send it."""

    __slots__ = ()


class Event:
    """What the instrument says unasked, to clients that subscribed."""

    __slots__ = ()
    opcode: ClassVar[Opcode]


@dataclass(frozen=True, slots=True)
class Hello(Query[HelloReply]):
    """Opens a session; must come first.

    `token` is drawn at random by every client session: the same token under the same sequence number is a
    retry, a new token is a new session (on a serial line nothing else distinguishes them).
    """

    opcode: ClassVar[Opcode] = Opcode.HELLO
    minimum_version: U8
    maximum_version: U8
    token: U64
    observer: Switch
    client: Text


@dataclass(frozen=True, slots=True)
class KeepAlive(Query[Done]):
    """Renews the lease, as any message does."""

    opcode: ClassVar[Opcode] = Opcode.KEEP_ALIVE


@dataclass(frozen=True, slots=True)
class Subscribe(Query[Done]):
    """Asks for events, or no more of them."""

    opcode: ClassVar[Opcode] = Opcode.SUBSCRIBE
    enabled: Switch = True


@dataclass(frozen=True, slots=True)
class Bye(Query[Done]):
    """Ends the session in order. An owner's scan stops; the beam stays as it is only if `keep_beam`."""

    opcode: ClassVar[Opcode] = Opcode.BYE
    keep_beam: Switch = True


@dataclass(frozen=True, slots=True)
class EmergencyStop(Query[BeamSet]):
    """Stops the scan and blanks the beam at once. Anyone may send it, also before HELLO; `client` says who.

    An owner that another client stopped cannot switch the beam on again in its session.
    """

    opcode: ClassVar[Opcode] = Opcode.EMERGENCY_STOP
    client: Text = ""


@dataclass(frozen=True, slots=True)
class Authenticate(Query[Challenge]):
    """Asks for a challenge, or proves with an answer to it that the client knows the instrument's token.

    `token` is the number that the HELLO behind it has; `proof` is empty, or hexadecimal
    (`firmware_protocol.authentication.proof_of`).
    """

    opcode: ClassVar[Opcode] = Opcode.AUTHENTICATE
    token: U64
    proof: Text = ""


@dataclass(frozen=True, slots=True)
class GetStatus(Query[StatusReport]):
    """Asks for the state of the instrument."""

    opcode: ClassVar[Opcode] = Opcode.GET_STATUS


@dataclass(frozen=True, slots=True)
class GetParameter(Query[ParameterValue]):
    """Asks for one parameter."""

    opcode: ClassVar[Opcode] = Opcode.GET_PARAMETER
    parameter: Annotated[Parameter, Wire("H")]


@dataclass(frozen=True, slots=True)
class SetParameter(Command[Applied]):
    """Sets one parameter."""

    opcode: ClassVar[Opcode] = Opcode.SET_PARAMETER
    parameter: Annotated[Parameter, Wire("H")]
    value: F64


@dataclass(frozen=True, slots=True)
class SetStigmator(Command[StigmatorApplied]):
    """Sets both axes of the stigmator at once, µm."""

    opcode: ClassVar[Opcode] = Opcode.SET_STIGMATOR
    x: F64
    y: F64


@dataclass(frozen=True, slots=True)
class StartScan(Command[ScanStarted]):
    """Starts scanning frames of a size on offer; `frames` of them, or without end when 0.

    A scan under way is replaced.
    """

    opcode: ClassVar[Opcode] = Opcode.START_SCAN
    width: U16
    height: U16
    bits: U8 = 8
    frames: U32 = 0


@dataclass(frozen=True, slots=True)
class StopScan(Command[Done]):
    """Stops scanning; no error when nothing is scanned."""

    opcode: ClassVar[Opcode] = Opcode.STOP_SCAN


@dataclass(frozen=True, slots=True)
class MoveStage(Command[StageMoved]):
    """Moves the stage to (x, y), mm."""

    opcode: ClassVar[Opcode] = Opcode.MOVE_STAGE
    x: F64
    y: F64


@dataclass(frozen=True, slots=True)
class OrientStage(Command[StageOriented]):
    """Tilts and rotates the stage, degrees."""

    opcode: ClassVar[Opcode] = Opcode.ORIENT_STAGE
    tilt: F64
    rotation: F64


@dataclass(frozen=True, slots=True)
class SetBeam(Command[BeamSet]):
    """Switches the beam."""

    opcode: ClassVar[Opcode] = Opcode.SET_BEAM
    on: Switch


@dataclass(frozen=True, slots=True)
class Pump(Command[VacuumSet]):
    """Evacuates the chamber."""

    opcode: ClassVar[Opcode] = Opcode.PUMP


@dataclass(frozen=True, slots=True)
class Vent(Command[VacuumSet]):
    """Lets air into the chamber; the beam must be off."""

    opcode: ClassVar[Opcode] = Opcode.VENT


@dataclass(frozen=True, slots=True)
class ParameterChanged(Event):
    """A parameter has a new value, by a client's command or by the operator's hand."""

    opcode: ClassVar[Opcode] = Opcode.PARAMETER_CHANGED
    parameter: Annotated[Parameter, Wire("H")]
    value: F64
    time: F64


@dataclass(frozen=True, slots=True)
class ScanEnded(Event):
    """The scan is over; `next_frame` is the id of the first frame that was not scanned."""

    opcode: ClassVar[Opcode] = Opcode.SCAN_ENDED
    next_frame: U64
    time: F64


@dataclass(frozen=True, slots=True)
class FrameDropped(Event):
    """A frame was scanned but could not be delivered."""

    opcode: ClassVar[Opcode] = Opcode.FRAME_DROPPED
    frame_id: U64
    time: F64


@dataclass(frozen=True, slots=True)
class StageIdle(Event):
    """The stage has come to rest after a move or an orientation; where it is, mm."""

    opcode: ClassVar[Opcode] = Opcode.STAGE_IDLE
    x: F64
    y: F64
    time: F64


@dataclass(frozen=True, slots=True)
class BeamChanged(Event):
    """The beam went on or off."""

    opcode: ClassVar[Opcode] = Opcode.BEAM_CHANGED
    on: Switch
    time: F64


@dataclass(frozen=True, slots=True)
class VacuumChanged(Event):
    """The chamber is in a new state."""

    opcode: ClassVar[Opcode] = Opcode.VACUUM_CHANGED
    state: Annotated[VacuumState, Wire("B")]
    time: F64


@dataclass(frozen=True, slots=True)
class InterlockTripped(Event):
    """An interlock acted on its own, for example because the door was opened."""

    opcode: ClassVar[Opcode] = Opcode.INTERLOCK_TRIPPED
    reasons: Annotated[Reason, Wire("I")]
    time: F64
    text: Text


REQUESTS: dict[int, type[Request[object]]] = {
    kind.opcode: kind
    for kind in (
        Hello, KeepAlive, Subscribe, Bye, GetStatus, EmergencyStop, Authenticate, GetParameter, SetParameter,
        SetStigmator, StartScan, StopScan, MoveStage, OrientStage, SetBeam, Pump, Vent,
    )
}  # fmt: skip
"""Request class of every opcode."""

REPLIES: dict[int, type] = {
    opcode: get_args(kind.__orig_bases__[0])[0]  # type: ignore[attr-defined]
    for opcode, kind in REQUESTS.items()
}
"""Class of the OK reply to every opcode."""

EVENTS: dict[int, type[Event]] = {
    kind.opcode: kind
    for kind in (
        ParameterChanged, ScanEnded, FrameDropped, StageIdle, BeamChanged, VacuumChanged, InterlockTripped,
    )
}  # fmt: skip
"""Event class of every opcode."""
