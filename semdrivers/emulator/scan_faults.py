"""Faults of the instrument itself, in the middle of a scan."""

from __future__ import annotations

from firmware_protocol.messages import Parameter
from semdrivers.emulator.faults import Faults, Occasion
from semdrivers.emulator.instrument import Instrument

KNOB = 0.1
"""mm by which the operator turns the working distance."""


def disturb(instrument: Instrument, faults: Faults) -> None:
    """Let happen what is due while a frame is scanned."""
    for name in faults.at(Occasion.SCAN):
        match name:
            case "knob-turned":
                _, high = instrument.limits(Parameter.WORKING_DISTANCE)
                now = instrument.value(Parameter.WORKING_DISTANCE)
                instrument.set_parameter(Parameter.WORKING_DISTANCE, now + KNOB if now + KNOB <= high else now - KNOB)
            case "beam-blanked":
                instrument.set_beam(False)
            case "filament-dies":
                instrument.break_filament()
