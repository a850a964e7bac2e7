"""How awkward the emulated column is: strengths of its imperfections, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.microscope import number


@dataclass(frozen=True, slots=True)
class ColumnPreset:
    """Strengths of what stands between an ideal frame and a real one; 0 switches an effect off.

    Parameters
    ----------
    astigmatism : float
        Largest residual half-difference of the two foci, µm.
    line_jitter : float
        Standard deviation of a line's displacement, pixels of the 320-pixel frame.
    hum : float
        Amplitude of the mains hum in the deflection, nm.
    drift : float
        Drift of the sample within a frame, nm/s, which the next frame knows nothing of; its direction follows from the
        seed.
    detector_lag : float
        Time constant along the line, pixels of the 320-pixel frame.
    row_gain : float
        Relative standard deviation of a line's gain.
    banding : float
        Relative amplitude of a gain that swings from line to line, two to twelve times in a frame.
    line_noise : float
        Standard deviation of a noise that is correlated along the line, in units of the nominal signal.
    line_correlation : float
        Length along the line over which that noise is averaged, pixels of the 320-pixel frame.
    auto_brightness : bool
        Whether the detector stretches every frame to the grey scale by itself (automatic brightness and contrast);
        what brightness and contrast are set to has no effect then.
    column_astigmatism : float
        Largest astigmatism of the column beside the residual one, half-difference of the two foci in µm: what an
        operator would correct with the stigmator.
    charging : float
        Strength of the brightness ramp and the streaks, in units of the nominal signal.
    contamination : float
        Share of the signal that a field loses in the end when it is scanned again and again.
    emission : float
        Relative amplitude of the slow wander of the beam current, and so of the brightness, from the start on.
    noise : bool
        Whether there is shot noise.
    tilt : float
        Largest slope of the sample, µm/mm.
    bow : float
        Curvature of the sample: the best working distance grows by so many µm at 1 mm from stage (0, 0), by the square.
    height_drift : float
        Drift of the best working distance, nm/s.
    lateral_drift : float
        Drift of the sample from frame to frame and within each, nm/s, in the direction of `drift`.
    lens_hysteresis, image_shift, image_rotation, magnification_change : float
        How much of the profile's lens hysteresis, and of its couplings of shift, rotation and magnification to the
        working distance, there is; 1 for all of it.
    stigmator_hysteresis : float
        µm by which an axis of the stigmator stays behind after it was turned down; going up it is as set.
    stigmator_rotation : float
        Degrees by which the axes of the stigmator turn in the picture with every mm of working distance, from 15 mm on.
    stigmator_shift : float
        nm by which the picture moves with every µm of either axis.
    lens_motion : bool
        Whether a frame that is scanned while the lens moves is blurred line by line as it goes; else the whole frame
        is as the lens stood at its start.
    """

    astigmatism: float = 0.0
    line_jitter: float = 0.0
    hum: float = 0.0
    drift: float = 0.0
    detector_lag: float = 0.0
    row_gain: float = 0.0
    banding: float = 0.0
    line_noise: float = 0.0
    line_correlation: float = 8.0
    auto_brightness: bool = False
    column_astigmatism: float = 0.0
    charging: float = 0.0
    contamination: float = 0.0
    emission: float = 0.0
    noise: bool = True
    tilt: float = 10.0
    bow: float = 0.0
    height_drift: float = 0.0
    lateral_drift: float = 0.0
    lens_hysteresis: float = 0.0
    image_shift: float = 0.0
    image_rotation: float = 0.0
    magnification_change: float = 0.0
    stigmator_hysteresis: float = 0.0
    stigmator_rotation: float = 0.0
    stigmator_shift: float = 0.0
    lens_motion: bool = False


_KINDS = {each.name: str(each.type) for each in fields(ColumnPreset)}

# Strengths of the presets `typical` and `hostile`; what is not listed is the default
_STRENGTHS: dict[str, tuple[float, float]] = {
    "astigmatism": (4.0, 15.0),
    "line_jitter": (0.2, 0.7),
    "hum": (3.0, 10.0),
    "drift": (2.0, 10.0),
    "detector_lag": (0.25, 0.8),
    "row_gain": (0.01, 0.04),
    "charging": (0.02, 0.15),
    "contamination": (0.15, 0.4),
    "emission": (0.02, 0.08),
    "lens_hysteresis": (1.0, 2.5),
    "image_shift": (1.0, 1.7),
    "image_rotation": (1.0, 1.0),
    "magnification_change": (1.0, 1.0),
    "stigmator_hysteresis": (0.0, 4.0),
    "stigmator_rotation": (0.0, 1.5),
    "stigmator_shift": (0.0, 20.0),
}

PRESETS = {"ideal": ColumnPreset()} | {
    preset: ColumnPreset(**{name: both[k] for name, both in _STRENGTHS.items()}, lens_motion=True)  # type: ignore[arg-type]
    for k, preset in enumerate(("typical", "hostile"))
}
"""The presets by name: ``ideal``, ``typical``, ``hostile``."""


def preset_with(preset: str | ColumnPreset, changes: Mapping[str, object]) -> ColumnPreset:
    """Return the preset of that name, or the preset itself, with some strengths changed.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For an unknown preset or strength (the message lists the known ones), and a value that is no number from 0.
    """
    strengths: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in _KINDS:
            raise InvalidParameterError(
                f"an emulator has no option or strength {name!r}; strengths: {', '.join(_KINDS)}"
            )
        if _KINDS[name] == "bool":
            if value not in (True, False):
                raise InvalidParameterError(f"{name} must be True or False, not {value!r}")
            strengths[name] = bool(value)
        elif not 0 <= number(name, value) < math.inf:
            raise OutOfRangeError(f"{name} must be a finite number from 0, not {value!r}")
        else:
            strengths[name] = float(number(name, value))
    return replace(preset_named(preset), **strengths)


def preset_named(preset: str | ColumnPreset) -> ColumnPreset:
    """Return the preset of that name, or the preset itself.

    Raises
    ------
    InvalidParameterError
        For an unknown name; the message lists the known ones.
    """
    if isinstance(preset, ColumnPreset):
        return preset
    try:
        return PRESETS[preset]
    except (KeyError, TypeError):
        raise InvalidParameterError(f"no preset {preset!r}; there are {', '.join(PRESETS)}") from None
