"""The parameters of the emulated instrument: limits, quantum, unit, settling; and how it says no."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from firmware_protocol.messages import Capability, Parameter, Reason, Refusal, Status, Subsystem
from firmware_protocol.profile import InstrumentProfile


class Refused(Exception):
    """The instrument declines a request; nothing has changed. Carries what the reply will say."""

    def __init__(self, status: Status, refusal: Refusal) -> None:
        super().__init__(f"{status.name}: {refusal.text}")
        self.status = status
        self.refusal = refusal


def refuse(
    status: Status,
    text: str,
    *,
    minimum: float = 0.0,
    maximum: float = 0.0,
    subsystem: Subsystem = Subsystem.NONE,
    reasons: Reason = Reason.NONE,
) -> Refused:
    """Return the exception that declines a request."""
    return Refused(status, Refusal(minimum, maximum, subsystem, reasons, text))


@dataclass(frozen=True, slots=True)
class ParameterRule:
    """What holds for one parameter; the functions take it from the profile."""

    unit: str
    writable: bool
    limits: Callable[[InstrumentProfile], tuple[float, float]]
    step: Callable[[InstrumentProfile], float]
    settling: Callable[[InstrumentProfile], float] = lambda profile: 0.0

    def quantise(self, profile: InstrumentProfile, value: float) -> float:
        """Return the nearest value that the instrument can take."""
        step = self.step(profile)
        return round(round(value / step) * step, 9) if step else value


def _between(name: str) -> Callable[[InstrumentProfile], tuple[float, float]]:
    """Limits that the profile holds as ``name_minimum`` and ``name_maximum``."""
    return lambda profile: (getattr(profile, f"{name}_minimum"), getattr(profile, f"{name}_maximum"))


def _either_way(profile: InstrumentProfile) -> tuple[float, float]:
    return -profile.stigmator_range, profile.stigmator_range


def _half_travel(profile: InstrumentProfile) -> tuple[float, float]:
    return -profile.stage_travel / 2, profile.stage_travel / 2


_STIGMATOR = ParameterRule("µm", True, _either_way, lambda p: p.stigmator_step, lambda p: p.stigmator_settling)
_DETECTOR = ParameterRule("", True, lambda p: (0.0, 1.0), lambda p: p.detector_step, lambda p: p.detector_settling)
_STAGE = ParameterRule("mm", False, _half_travel, lambda p: p.stage_step)

# The rule of every parameter. The stage's axes are read here, and moved by MOVE_STAGE and ORIENT_STAGE.
PARAMETERS: dict[Parameter, ParameterRule] = {
    Parameter.WORKING_DISTANCE: ParameterRule(
        "mm", True, _between("working_distance"), lambda p: p.working_distance_step
    ),
    Parameter.MAGNIFICATION: ParameterRule(
        "", True, _between("magnification"), lambda p: p.magnification_step, lambda p: p.magnification_settling
    ),
    Parameter.BRIGHTNESS: _DETECTOR,
    Parameter.CONTRAST: _DETECTOR,
    Parameter.STIGMATOR_X: _STIGMATOR,
    Parameter.STIGMATOR_Y: _STIGMATOR,
    Parameter.STAGE_X: _STAGE,
    Parameter.STAGE_Y: _STAGE,
    Parameter.STAGE_Z: ParameterRule("mm", False, lambda p: (0.0, p.stage_highest), lambda p: p.stage_step),
    Parameter.ACCELERATING_VOLTAGE: ParameterRule(
        "kV", False, lambda p: (p.accelerating_voltage, p.accelerating_voltage), lambda p: 0.0
    ),
    Parameter.BEAM_CURRENT: ParameterRule("pA", False, lambda p: (p.beam_current, p.beam_current), lambda p: 0.0),
    Parameter.STAGE_TILT: ParameterRule("°", False, lambda p: (0.0, p.stage_tilt_maximum), lambda p: p.stage_tilt_step),
    Parameter.STAGE_ROTATION: ParameterRule("°", False, lambda p: (0.0, 360.0), lambda p: p.stage_rotation_step),
}


def require(profile: InstrumentProfile, *parameters: Parameter) -> None:
    """Raise `Refused` with NOT_IMPLEMENTED for a parameter that the instrument does not have."""
    for parameter in parameters if profile.absent else ():
        if parameter.name.lower() in profile.absent:
            raise refuse(Status.NOT_IMPLEMENTED, f"this instrument has no {parameter.name.lower()}")


def check(profile: InstrumentProfile, parameter: Parameter, value: float, low: float, high: float) -> float:
    """Return `value` on the instrument's quantum, or raise `Refused` with OUT_OF_RANGE naming the limits."""
    rule = PARAMETERS[parameter]
    if not math.isfinite(value) or not low <= value <= high:
        unit = f" {rule.unit}" if rule.unit else ""
        raise refuse(
            Status.OUT_OF_RANGE,
            f"{parameter.name.lower()} {value:g}{unit} is outside {low:g} to {high:g}{unit}",
            minimum=low,
            maximum=high,
        )
    return rule.quantise(profile, value)


def capabilities(
    profile: InstrumentProfile, limits: Callable[[Parameter], tuple[float, float]]
) -> tuple[Capability, ...]:
    """Return what HELLO says of every parameter."""
    return tuple(
        Capability(parameter.name.lower(), *limits(parameter), rule.step(profile), rule.unit, rule.writable)
        for parameter, rule in PARAMETERS.items()
        if parameter.name.lower() not in profile.absent
    )
