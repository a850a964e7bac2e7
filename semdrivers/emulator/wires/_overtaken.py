"""Whether what a reply announced has come true, or something else came between."""

from __future__ import annotations

from firmware_protocol.messages import (
    Applied,
    BeamSet,
    Parameter,
    StageMoved,
    StageOriented,
    StigmatorApplied,
    VacuumSet,
    VacuumState,
)
from semdrivers.emulator.instrument import Instrument

_ON_THE_WAY = {
    VacuumState.READY: (VacuumState.PUMPING, VacuumState.READY),
    VacuumState.VENTED: (VacuumState.VENTING, VacuumState.VENTED),
}


def still_holds(instrument: Instrument, reply: object) -> bool:
    """Return whether the state that `reply` announced stands, or is on its way."""
    match reply:
        case Applied(parameter=parameter, value=value):
            return instrument.value(parameter) == value
        case StigmatorApplied(x=x, y=y):
            return _values(instrument, Parameter.STIGMATOR_X, Parameter.STIGMATOR_Y) == (x, y)
        case StageMoved(x=x, y=y):
            return _values(instrument, Parameter.STAGE_X, Parameter.STAGE_Y) == (x, y)
        case StageOriented(tilt=tilt, rotation=rotation):
            return _values(instrument, Parameter.STAGE_TILT, Parameter.STAGE_ROTATION) == (tilt, rotation)
        case BeamSet(on=on):
            return instrument.status().beam_on == on
        case VacuumSet(state=state):
            return instrument.status().vacuum in _ON_THE_WAY[state]
    return True


def _values(instrument: Instrument, first: Parameter, second: Parameter) -> tuple[float, float]:
    return instrument.value(first), instrument.value(second)
