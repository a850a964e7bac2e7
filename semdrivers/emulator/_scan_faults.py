"""Faults of the instrument and the sample, in the middle of a scan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.messages import Parameter
from semdrivers.emulator.instrument import Instrument
from semdrivers.emulator.physics import discharged
from semdrivers.emulator.wires import Faults, Occasion

KNOB = 0.1
"""mm by which the operator turns the working distance."""


def disturb(instrument: Instrument, faults: Faults, pixels: NDArray[Any]) -> NDArray[Any]:
    """Let happen what is due while a frame is scanned, and return its pixels."""
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
            case "charging-streaks":
                pixels = discharged(pixels, np.random.default_rng(faults.place(2**32)))
    return pixels
