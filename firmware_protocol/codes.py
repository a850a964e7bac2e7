"""Numbers with a meaning on the control channel: port, kinds, states, opcodes, parameters, reasons."""

from __future__ import annotations

import enum

__all__ = [
    "CONTROL_PORT", "Group", "Kind", "Opcode", "Parameter", "Reason", "Status", "Subsystem", "VacuumState", "Wait",
]  # fmt: skip

CONTROL_PORT = 5030
"""TCP port of the control channel (assumed; the vendor's is not public)."""


class Kind(enum.IntEnum):
    """What an envelope is."""

    REQUEST = 1
    REPLY = 2
    PENDING = 3
    EVENT = 4


class Status(enum.IntEnum):
    """How a request ended. `Refusal` carries the details of all but OK."""

    OK = 0
    NOT_IMPLEMENTED = 1
    INVALID_PARAMETER = 2
    OUT_OF_RANGE = 3
    READ_ONLY = 4
    NOT_OWNER = 5
    BUSY = 6
    INTERLOCK = 7
    ABORTED = 8
    TIMEOUT = 9
    HARDWARE_FAULT = 10
    BAD_FRAME = 11
    NOT_AUTHENTICATED = 12


class Wait(enum.IntFlag):
    """Flags of a command: what must be at rest before the reply is sent. SCAN means the frame under way."""

    NOTHING = 0
    OPTICS = 1
    SCAN = 2
    STAGE = 4
    BEAM = 8
    VACUUM = 16
    ALL = 31


class Group(enum.IntEnum):
    """High byte of an opcode."""

    SESSION = 0x01
    OPTICS = 0x02
    SCAN = 0x03
    STAGE = 0x04
    BEAM = 0x05
    VACUUM = 0x06


class Opcode(enum.IntEnum):
    """``group << 8 | number``; numbers from 0x80 up are events."""

    HELLO = 0x0101
    KEEP_ALIVE = 0x0102
    SUBSCRIBE = 0x0103
    BYE = 0x0104
    GET_STATUS = 0x0105
    EMERGENCY_STOP = 0x0106
    AUTHENTICATE = 0x0107
    GET_PARAMETER = 0x0201
    SET_PARAMETER = 0x0202
    SET_STIGMATOR = 0x0203
    START_SCAN = 0x0301
    STOP_SCAN = 0x0302
    MOVE_STAGE = 0x0401
    ORIENT_STAGE = 0x0402
    SET_BEAM = 0x0501
    PUMP = 0x0601
    VENT = 0x0602
    PARAMETER_CHANGED = 0x0280
    SCAN_ENDED = 0x0380
    FRAME_DROPPED = 0x0381
    STAGE_IDLE = 0x0480
    BEAM_CHANGED = 0x0580
    VACUUM_CHANGED = 0x0680
    INTERLOCK_TRIPPED = 0x0681

    @property
    def group(self) -> Group:
        """The subsystem that the opcode belongs to."""
        return Group(self >> 8)


class Parameter(enum.IntEnum):
    """What GET_PARAMETER and SET_PARAMETER name; the capability of that name (lower case) has its limits."""

    WORKING_DISTANCE = 1
    MAGNIFICATION = 2
    BRIGHTNESS = 3
    CONTRAST = 4
    STIGMATOR_X = 5
    STIGMATOR_Y = 6
    STAGE_X = 7
    STAGE_Y = 8
    STAGE_Z = 9
    ACCELERATING_VOLTAGE = 10
    BEAM_CURRENT = 11
    STAGE_TILT = 12
    STAGE_ROTATION = 13


class VacuumState(enum.IntEnum):
    """State of the chamber."""

    VENTED = 0
    PUMPING = 1
    READY = 2
    VENTING = 3


class Subsystem(enum.IntEnum):
    """What is busy, in a `Refusal` with status BUSY."""

    NONE = 0
    CONTROL = 1
    OPTICS = 2
    SCAN = 3
    STAGE = 4
    BEAM = 5
    VACUUM = 6


class Reason(enum.IntFlag):
    """Why an interlock forbids a request, in a `Refusal` with status INTERLOCK, or acted on its own."""

    NONE = 0
    VACUUM_NOT_READY = 1
    DOOR_OPEN = 2
    BEAM_OFF = 4
    BEAM_ON = 8
    COLLISION = 16
    STOPPED = 32
