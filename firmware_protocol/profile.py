"""`InstrumentProfile`: the only place with numbers of the EM-30.

Every field says where its number comes from: **S** sourced (the paper that this project implements, its authors'
published client, or named literature), **A** assumed from desktop instruments of the class. A number is changed with
`dataclasses.replace`, and nowhere else. The driver asks the instrument, but for `PROBE_DIAMETER`, which no message
reports. How strong the artefacts of a frame are is a matter of the emulator's presets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["EM30", "PROBE_DIAMETER", "InstrumentProfile", "ScanModeProfile"]


@dataclass(frozen=True, slots=True)
class ScanModeProfile:
    """A frame size that the scan generator offers.

    Parameters
    ----------
    name : str
        As in `semdrivers.ScanMode`.
    width, height : int
        Pixels (A; 320 x 240 S: the paper's network input).
    dwell_time : float
        Seconds a pixel (A).
    """

    name: str
    width: int
    height: int
    dwell_time: float

    @property
    def frame_time(self) -> float:
        """Seconds a frame takes; the flyback is counted into the dwell time."""
        return self.width * self.height * self.dwell_time


@dataclass(frozen=True, slots=True)
class InstrumentProfile:
    """An instrument in numbers.

    Parameters
    ----------
    model, firmware : str
        As HELLO reports them.
    working_distance_minimum, working_distance_maximum : float
        mm (S: 1 to 50).
    working_distance_step : float
        mm, quantum of the lens (S: 1 µm).
    magnification_minimum, magnification_maximum, magnification_step : float
        Plain numbers (A).
    field_width_at_unity : float
        mm; horizontal field = this / magnification (A).
    scan_modes : tuple of ScanModeProfile
        About 0.1, 1 and 10 s a frame (A).
    aperture_radius : float
        µm; half-angle = radius / working distance, 3 mrad at 15 mm (A; published: 2 to 14 mrad).
    accelerating_voltage : float
        kV (A).
    beam_current : float
        pA (A).
    gun_brightness : float
        A/(cm² sr) at 20 kV, in proportion to the voltage; tungsten (S: textbook; A for this gun).
    energy_spread : float
        eV (A: tungsten).
    spherical_aberration, chromatic_aberration : float
        Cs and Cc, mm (A).
    secondary_yield : float
        Secondary electrons detected a beam electron (A).
    contamination_dose : float
        pC/µm² after which a scanned field has lost 63 % of what contamination takes from it in the end (A).
    lens_time_constant : float
        s; the lens approaches a new value exponentially (A: 0.1 to 0.3; S: waits of 0.05 to 0.5 s).
    lens_settled_within : float
        mm; the lens counts as settled when it is this close (A).
    magnification_settling, stigmator_settling, detector_settling : float
        s (A).
    stage_travel : float
        mm; x and y reach from minus to plus half of it (A).
    stage_step : float
        mm (A).
    stage_settling, stage_speed : float
        s and mm/s; a move takes the settling time and the way by the speed (S: 4 to 5 s; A: the split).
    stage_height, stage_highest : float
        mm above the lowest position: as it stands, and at most; set by hand (A).
    stage_free_height : float
        mm; above it every mm of height takes a mm from the lowest working distance allowed (A).
    stage_free_radius : float
        mm; with the stage above its free height it must stay this close to the axis (A).
    stage_tilt_maximum, stage_tilt_step, stage_rotation_step : float
        degrees; the tilt runs from 0, the rotation from 0 to 360 (A).
    stage_tilt_speed, stage_rotation_speed : float
        degrees/s (A).
    stage_holder_radius : float
        mm; a tilt lifts the edge of the sample holder, which counts as height of the stage (A).
    stigmator_range, stigmator_step : float
        µm, both axes from minus to plus the range (A: 10 depths of field at 500× and working distances up to 20 mm).
    detector_step : float
        Quantum of brightness and contrast, which run from 0 to 1 (A).
    pump_time, vent_time, beam_on_time : float
        s (A).
    lease_time : float
        s of silence after which a controlling client loses the instrument (A).
    rotation_coupling : float
        degrees of image rotation a mm of working distance (A).
    shift_coupling : float
        µm of image shift a mm of working distance (A: 1 to 5).
    magnification_coupling : float
        Relative change of the true magnification a mm of working distance (A).
    lens_hysteresis : float
        mm by which the focus differs with the direction of approach (A: 2 to 10 µm).
    absent : frozenset of str
        Parameters that the instrument does not have, by name in lower case, such as ``"stage_tilt"`` (A: none).
    """

    model: str = "EM-30"
    firmware: str = "1.0.0"

    working_distance_minimum: float = 1.0
    working_distance_maximum: float = 50.0
    working_distance_step: float = 0.001
    magnification_minimum: float = 20.0
    magnification_maximum: float = 150_000.0
    magnification_step: float = 1.0
    field_width_at_unity: float = 128.0
    scan_modes: tuple[ScanModeProfile, ...] = (
        ScanModeProfile("FAST", 320, 240, 1.3e-6),
        ScanModeProfile("STANDARD", 640, 480, 3.2e-6),
        ScanModeProfile("SLOW", 1280, 960, 8.0e-6),
    )

    aperture_radius: float = 45.0
    accelerating_voltage: float = 15.0
    beam_current: float = 20.0
    gun_brightness: float = 1e5
    energy_spread: float = 2.0
    spherical_aberration: float = 40.0
    chromatic_aberration: float = 20.0
    secondary_yield: float = 0.2
    contamination_dose: float = 30.0

    lens_time_constant: float = 0.1
    lens_settled_within: float = 0.0005
    magnification_settling: float = 0.05
    stigmator_settling: float = 0.05
    detector_settling: float = 0.02
    stage_travel: float = 35.0
    stage_step: float = 0.001
    stage_settling: float = 4.0
    stage_speed: float = 35.0
    stage_height: float = 10.0
    stage_highest: float = 35.0
    stage_free_height: float = 20.0
    stage_free_radius: float = 10.0
    stage_tilt_maximum: float = 45.0
    stage_tilt_step: float = 0.01
    stage_rotation_step: float = 0.01
    stage_tilt_speed: float = 5.0
    stage_rotation_speed: float = 20.0
    stage_holder_radius: float = 12.5
    stigmator_range: float = 4000.0
    stigmator_step: float = 0.1
    detector_step: float = 0.001
    pump_time: float = 120.0
    vent_time: float = 60.0
    beam_on_time: float = 5.0
    lease_time: float = 5.0

    rotation_coupling: float = 1.5
    shift_coupling: float = 3.0
    magnification_coupling: float = 0.005
    lens_hysteresis: float = 0.004
    absent: frozenset[str] = frozenset()

    def pixel_size(self, magnification: float, width: int) -> float:
        """Return the size of a pixel in nm, in a frame `width` pixels wide."""
        return self.field_width_at_unity * 1e6 / magnification / width

    def half_angle(self, working_distance: float) -> float:
        """Return the half-angle of the beam in mrad at a working distance in mm."""
        return self.aperture_radius / working_distance

    def scan_mode(self, width: int, height: int) -> ScanModeProfile | None:
        """Return the mode of a frame size, or None when the instrument has none."""
        for mode in self.scan_modes:
            if (mode.width, mode.height) == (width, height):
                return mode
        return None

    def lens_settling(self, change: float) -> float:
        """Return the seconds that the lens takes to settle after a change of working distance in mm."""
        ratio = abs(change) / self.lens_settled_within
        return self.lens_time_constant * math.log(ratio) if ratio > 1 else 0.0

    def lowest_working_distance(self, stage_height: float) -> float:
        """Return the lower edge of the collision envelope in mm, for a stage height in mm."""
        return self.working_distance_minimum + max(0.0, stage_height - self.stage_free_height)


EM30 = InstrumentProfile()
"""The instrument as shipped."""

PROBE_DIAMETER = 36.0
"""Diameter of its focused probe, nm: tungsten at 15 kV, 20 pA and 3 mrad (A)."""
