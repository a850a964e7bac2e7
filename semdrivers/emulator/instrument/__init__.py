"""The emulated instrument: its states, its limits, its stage, lens and scan generator, its clock."""

from semdrivers.emulator.instrument._clock import InstrumentClock
from semdrivers.emulator.instrument._exposures import Exposures
from semdrivers.emulator.instrument._instrument import Instrument
from semdrivers.emulator.instrument._lens import Lens
from semdrivers.emulator.instrument._parameters import Refused, capabilities, refuse, require
from semdrivers.emulator.instrument._scan_generator import ScannedFrame

__all__ = [
    "Exposures", "Instrument", "InstrumentClock", "Lens", "Refused", "ScannedFrame", "capabilities", "refuse",
    "require",
]  # fmt: skip
