"""What the electrons do: optics, column, detector, charging, contamination, emission.

The nominal physics in here (ideal score, depth of field, transfer of a defocused probe, width of the field) is written
independently of the autofocus that it judges; one test compares the two.
"""

from semdrivers.emulator.physics._charging import discharged
from semdrivers.emulator.physics._column import ElectronColumn
from semdrivers.emulator.physics._coupling import turn
from semdrivers.emulator.physics._optics import (
    depth_of_field,
    electrons_per_pixel,
    frequency_grid,
    half_angle,
    ideal_score,
    pixel_size,
    probe_core,
    probe_core_of,
)
from semdrivers.emulator.physics._orientation import seen
from semdrivers.emulator.physics._presets import PRESETS, ColumnPreset, preset_named, preset_with
from semdrivers.emulator.physics._scan import Column, Exposure, ScanConditions, Truth

__all__ = [
    "PRESETS", "Column", "ColumnPreset", "ElectronColumn", "Exposure", "ScanConditions", "Truth", "depth_of_field",
    "discharged", "electrons_per_pixel", "frequency_grid", "half_angle", "ideal_score", "pixel_size", "preset_named",
    "preset_with", "probe_core", "probe_core_of", "seen", "turn",
]  # fmt: skip
