"""The emulator's own record of a session: every message and every frame on the wires, in a folder that can be replayed.

Beside the messages stand the calls that a driver made of them, in the terms of `semdrivers.sessions`, so that
``replay:///folder`` opens the record as a microscope. What a driver refuses by itself, such as a value out of range,
never came over the wires and is not in it; a frame that was lost or damaged on its way is no answer to anything.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from firmware_protocol.control import Damaged, Envelope
from firmware_protocol.messages import (
    GetParameter,
    GetStatus,
    MoveStage,
    Opcode,
    OrientStage,
    Parameter,
    Pump,
    SetBeam,
    SetParameter,
    SetStigmator,
    StartScan,
    Status,
    Vent,
)
from semdrivers.emulator.instrument import Instrument, ScannedFrame
from semdrivers.files import plain
from semdrivers.image import SCAN_MODES, Image, ScanMode
from semdrivers.links import capabilities_of, exception_for
from semdrivers.sessions import METHODS, PROPERTIES, SessionFolder, written

_OFFERS = [name for name in (*PROPERTIES, *METHODS) if name != "focus_record"]
"""All but what the driver keeps to itself."""
_PAIRS = {
    Parameter.STAGE_Y: ("stage_position", Parameter.STAGE_X),
    Parameter.STAGE_ROTATION: ("stage_orientation", Parameter.STAGE_TILT),
    Parameter.STIGMATOR_Y: ("stigmator", Parameter.STIGMATOR_X),
}
"""Members of two axes: known when the second has been read, right after the first."""
_SINGLE = (Parameter.WORKING_DISTANCE, Parameter.MAGNIFICATION, Parameter.BRIGHTNESS, Parameter.CONTRAST)
_OPCODES = {opcode.value: opcode.name for opcode in Opcode}

Call = tuple[str, str, list[Any]]
"""Kind (get, set, call), name of the member, arguments."""


class SessionLog:
    """Writes the record. Called by the threads of the wires.

    Parameters
    ----------
    folder : str or Path
        Made here; must not exist, or be empty.
    instrument : Instrument
        What is recorded.

    Raises
    ------
    InvalidParameterError
        When the folder is in use.
    OSError
        When it cannot be written.
    """

    def __init__(self, folder: str | Path, instrument: Instrument) -> None:
        self._instrument = instrument
        self._epoch = time.time() - instrument.clock.now()
        self._read: dict[Parameter, float] = {}
        about = capabilities_of(instrument.profile.model, instrument.hello())
        self._folder = SessionFolder(folder, instrument.profile.model, about, _OFFERS)

    def close(self) -> None:
        """End the record. A second call does nothing."""
        self._folder.close()

    def discard(self) -> None:
        """Take the folder away again, while nothing has been said."""
        self._folder.discard()

    # What the control desk reports

    def received(self, client: str, message: Envelope | Damaged) -> None:
        """Write a message of a client."""
        self._wire("received", client, message)

    def sent(self, client: str, message: Envelope) -> None:
        """Write a message to a client."""
        self._wire("sent", client, message)

    def answered(self, request: Envelope, reply: Envelope) -> None:
        """Write the call that a request was made for, and what came of it."""
        if reply.status is not Status.OK:
            call = _command(request.message) or _query(request.message)
            if call is not None:
                error = exception_for(self._instrument.profile.model, request.message, reply.status, reply.message)
                self._write(call, {"error": type(error).__name__, "message": str(error)})
            return
        call, message = _command(request.message), reply.message
        if call is not None and not isinstance(request.message, StartScan):
            self._write(call, {"result": _result(request.message, message)})
        elif isinstance(request.message, GetStatus):
            self._write(("get", "beam_on", []), {"result": message.beam_on})
            self._write(("get", "vacuum", []), {"result": plain(message.vacuum)})
        elif isinstance(request.message, GetParameter):
            self._was_read(request.message.parameter, message.value)

    def scanned(self, frame: ScannedFrame) -> None:
        """Write a frame that leaves whole."""
        mode = _mode(frame.width, frame.height)
        name = self._folder.save(
            Image(
                pixels=frame.pixels,
                working_distance=frame.working_distance,
                magnification=frame.magnification,
                pixel_size=frame.pixel_size,
                frame_id=frame.frame_id,
                timestamp=self._epoch + frame.start_time,
                scan_mode=mode,
                metadata={"model": self._instrument.profile.model, "serial": self._instrument.serial},
            )
        )
        self._write(("call", "acquire", [mode]), {"frame": name})

    def _was_read(self, parameter: Parameter, value: float) -> None:
        if parameter in _SINGLE:
            self._write(("get", parameter.name.lower(), []), {"result": value})
        elif parameter in _PAIRS and _PAIRS[parameter][1] in self._read:
            name, first = _PAIRS[parameter]
            self._write(("get", name, []), {"result": [self._read[first], value]})
        self._read[parameter] = value

    def _wire(self, direction: str, client: str, message: Envelope | Damaged) -> None:
        if message.opcode == Opcode.KEEP_ALIVE:
            return
        record: dict[str, Any] = {"sequence": message.sequence}
        record["opcode"] = _OPCODES.get(message.opcode, hex(message.opcode))
        if isinstance(message, Envelope):
            record |= {"kind": message.kind.name, "status": message.status.name, "payload": plain(message.message)}
        else:
            record |= {"damage": message.problem.value, "detail": message.detail}
        entry = {"kind": "wire", "name": direction, "arguments": client, "result": record, "end": self._folder.now()}
        self._folder.write(entry)

    def _write(self, call: Call, outcome: dict[str, Any]) -> None:
        kind, name, arguments = call
        entry = {"kind": kind, "name": name, "arguments": written(arguments), **outcome}
        self._folder.write({**entry, "end": self._folder.now()})


def _command(message: object) -> Call | None:
    match message:
        case SetParameter(parameter=parameter, value=value):
            return "set", parameter.name.lower(), [value]
        case SetStigmator(x=x, y=y):
            return "set", "stigmator", [(x, y)]
        case MoveStage(x=x, y=y):
            return "call", "move_stage", [x, y]
        case OrientStage(tilt=tilt, rotation=rotation):
            return "call", "orient_stage", [tilt, rotation]
        case SetBeam(on=on):
            return "set", "beam_on", [on]
        case Pump():
            return "call", "pump", []
        case Vent():
            return "call", "vent", []
        case StartScan(width=width, height=height):
            return "call", "acquire", [_mode(width, height)]
    return None


def _query(message: object) -> Call | None:
    return ("get", message.parameter.name.lower(), []) if isinstance(message, GetParameter) else None


def _result(request: object, reply: Any) -> Any:
    match request:
        case MoveStage():
            return [reply.x, reply.y]
        case OrientStage():
            return [reply.tilt, reply.rotation]
    return None


def _mode(width: int, height: int) -> ScanMode:
    """Return the mode of a frame size, as the instrument names it."""
    named = {(mode.width, mode.height): mode for mode in SCAN_MODES}
    return named.get((width, height)) or ScanMode(f"{width}x{height}", width, height)
