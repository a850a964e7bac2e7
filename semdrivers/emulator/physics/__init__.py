"""What the electrons do: optics, column, detector, charging, contamination, emission."""

from semdrivers.emulator.physics._charging import discharged
from semdrivers.emulator.physics._column import ElectronColumn
from semdrivers.emulator.physics._optics import (
    electrons_per_pixel,
    frequency_grid,
    ideal_score,
    pixel_size,
    probe_core_of,
)
from semdrivers.emulator.physics._orientation import seen
from semdrivers.emulator.physics._presets import PRESETS, ColumnPreset, preset_named
from semdrivers.emulator.physics._scan import Column, Exposure, ScanConditions, Truth

__all__ = [
    "PRESETS",
    "Column",
    "ColumnPreset",
    "ElectronColumn",
    "Exposure",
    "ScanConditions",
    "Truth",
    "discharged",
    "electrons_per_pixel",
    "frequency_grid",
    "ideal_score",
    "pixel_size",
    "preset_named",
    "probe_core_of",
    "seen",
]
