"""What a refusal of the instrument means to the caller: status codes to exceptions."""

from __future__ import annotations

from firmware_protocol import messages
from firmware_protocol.messages import Refusal, Request, Status, Subsystem
from semdrivers.errors import (
    BusyError,
    DeviceError,
    HardwareFault,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    ProtocolError,
    SemDriversError,
)

_MEANINGS: dict[Status, tuple[type[SemDriversError], str]] = {
    Status.NOT_IMPLEMENTED: (DeviceError, "its firmware has no such function"),
    Status.INVALID_PARAMETER: (InvalidParameterError, "it does not take this value"),
    Status.OUT_OF_RANGE: (OutOfRangeError, "the value is out of range"),
    Status.READ_ONLY: (DeviceError, "it can be read only"),
    Status.NOT_OWNER: (BusyError, "this connection does not control the instrument"),
    Status.BUSY: (BusyError, "it is busy"),
    Status.INTERLOCK: (InterlockError, "an interlock forbids it"),
    Status.ABORTED: (DeviceError, "it was aborted, or overtaken by another change"),
    Status.TIMEOUT: (HardwareFault, "the instrument did not finish it in time"),
    Status.HARDWARE_FAULT: (HardwareFault, "the instrument has a fault"),
    Status.BAD_FRAME: (ProtocolError, "the instrument receives damaged messages; check the cable and the address"),
    Status.NOT_AUTHENTICATED: (NotConnectedError, "it asks for a token"),
}


def describe(request: Request[object]) -> str:
    """Return a request in a few words, with parameter and value."""
    match request:
        case messages.SetParameter(parameter=parameter, value=value):
            return f"setting {parameter.name.lower()} to {value:g}"
        case messages.GetParameter(parameter=parameter):
            return f"reading {parameter.name.lower()}"
        case messages.MoveStage(x=x, y=y):
            return f"moving the stage to ({x:g}, {y:g}) mm"
        case messages.OrientStage(tilt=tilt, rotation=rotation):
            return f"tilting the stage to {tilt:g}° and rotating it to {rotation:g}°"
        case messages.SetStigmator(x=x, y=y):
            return f"setting the stigmator to ({x:g}, {y:g}) µm"
        case messages.SetBeam(on=on):
            return f"switching the beam {'on' if on else 'off'}"
        case messages.StartScan(width=width, height=height, bits=bits):
            return f"a scan of {width}x{height} pixels at {bits} bit"
        case messages.EmergencyStop():
            return "an emergency stop"
    return request.opcode.name


def exception_for(instrument: str, request: Request[object], status: Status, refusal: Refusal) -> SemDriversError:
    """Return the exception that reports a refusal: instrument, request, reason, limits, interlocks."""
    exception, meaning = _MEANINGS[status]
    did = "did not finish" if status is Status.TIMEOUT else "refused"
    parts = [f"{instrument} {did} {describe(request)}: {refusal.text or meaning}"]
    if status is Status.OUT_OF_RANGE and not refusal.text:
        parts.append(f"limits {refusal.minimum:g} to {refusal.maximum:g}")
    if status is Status.BUSY and refusal.subsystem is not Subsystem.NONE:
        parts.append(f"busy: {refusal.subsystem.name.lower()}")
    if refusal.reasons:
        names = ", ".join((flag.name or "unknown").lower().replace("_", " ") for flag in refusal.reasons)
        parts.append(f"interlock: {names}")
    message = parts[0] if len(parts) == 1 else f"{parts[0]} ({'; '.join(parts[1:])})"
    return exception(message)
