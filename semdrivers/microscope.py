"""What a microscope is: value types and narrow protocols.

Autofocus needs the five members of `Microscope` and nothing else. Everything further is an optional
protocol of its own, found with ``isinstance``.

Units: working distance mm, pixel size nm, times s, voltage kV, stage position mm, stage angles degrees.
"""

from __future__ import annotations

import abc
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import DeviceError, InvalidParameterError, OutOfRangeError, ProtocolError, TransportError
from semdrivers.image import Image, ScanMode

SIX_DIGITS = 5e-6
"""Largest relative difference of a number that was rounded to six significant digits: two such numbers are equal."""

TAKE_UP = 0.02
"""How far below its target a lens that goes down turns round, mm: its iron remembers the direction."""

WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)
"""The region that is the whole frame: x0, y0, x1, y1 as shares of its width and height."""

__all__ = [
    "SIX_DIGITS", "TAKE_UP", "WHOLE_FRAME", "Capabilities", "HasBeam", "HasBeamShift", "HasDetector", "HasStage",
    "HasStageOrientation", "HasStigmator", "HasStop", "HasVacuum", "HasVoltage", "LimitsTravel", "Microscope",
    "PartType", "Range", "allowed_range", "approach", "blank_after", "check_microscope", "check_read_back",
    "checked_limits", "has_member", "has_part", "missing_members", "number", "offered_mode", "put_back", "read_number",
    "read_pair", "reported", "reported_picture", "restoring", "stigmator_of", "switch", "two_of", "whole_number",
    "within",
]  # fmt: skip

_log = logging.getLogger(__name__)

_ROUNDING = 1e-6
"""Relative deviation of a number that was read back in single precision, or as text of six digits."""


def number(name: str, value: object, unit: str = "") -> float:
    """Return `value` as a finite float.

    Raises
    ------
    InvalidParameterError
        When it is no number (strings and booleans included).
    OutOfRangeError
        When it is NaN or infinite.
    """
    suffix = f" {unit}" if unit else ""
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        result = float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise OutOfRangeError(f"{name} must be finite, not a number of more than 300 digits") from None
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"{name} must be a number{suffix and ' in' + suffix}, not {value!r}") from error
    if not math.isfinite(result):
        raise OutOfRangeError(f"{name} must be finite, not {result}{suffix}")
    return result


def reported(name: str, value: object, unit: str = "") -> float:
    """Return what an instrument reports as a finite float; a text may be one.

    Raises
    ------
    ProtocolError
        When it is none: nothing may be computed from it, let alone set.
    """
    try:
        return number(name, float(value) if isinstance(value, str) else value, unit)
    except ValueError as error:
        raise ProtocolError(f"{name} reads {value!r}, which is no finite number; check the instrument") from error


def reported_picture(name: str, data: object) -> NDArray[Any]:
    """Return a copy of the picture that an instrument's library returns, shape (H, W).

    Raises
    ------
    ProtocolError
        When it is none, or in colour.
    """
    pixels = np.array(data)
    if pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "uif":
        raise ProtocolError(f"{name} returns no picture of grey levels, but {pixels.dtype} of shape {pixels.shape}")
    return pixels


def whole_number(name: str, value: object, least: int | None = None) -> int:
    """Return `value` as an int of at least `least`.

    Raises
    ------
    InvalidParameterError
        When it is no whole number (booleans and floats included).
    OutOfRangeError
        When it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameterError(f"{name} must be a whole number, not {value!r}")
    if least is not None and value < least:
        raise OutOfRangeError(f"{name} must be at least {least}, not {value}")
    return value


def within(name: str, value: object, minimum: float, maximum: float, unit: str = "") -> float:
    """Return `value` as a float from `minimum` to `maximum`, both included; raises as `number` does."""
    result = number(name, value, unit)
    if not minimum <= result <= maximum:
        suffix = f" {unit}" if unit else ""
        raise OutOfRangeError(f"{name} must be within {minimum:g} to {maximum:g}{suffix}, not {result:g}")
    return result


def two_of(name: str, value: Any, unit: str = "") -> tuple[Any, Any]:
    """Return the two parts of `value`, whatever they are.

    Raises
    ------
    InvalidParameterError
        When it has not two.
    """
    try:
        x, y = value
    except (TypeError, ValueError):
        raise InvalidParameterError(f"{name} must be (x, y){f' in {unit}' if unit else ''}, not {value!r}") from None
    return x, y


def switch(name: str, value: object) -> bool:
    """Return `value`, which must be True or False.

    Raises
    ------
    InvalidParameterError
        When it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise InvalidParameterError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def check_read_back(name: str, value: float, read: float, tolerance: float, unit: str = "") -> None:
    """Raise when an instrument has cut or ignored a value: what it reads back is not what it was set to.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    value, read : float
        As set, and as read back.
    tolerance : float
        Largest difference of rounding, beside six significant digits.
    unit : str
        For the message.

    Raises
    ------
    DeviceError
        The message has both values.
    """
    if not abs(read - value) <= max(tolerance, SIX_DIGITS * abs(value)) * 1.001:
        suffix = f" {unit}" if unit else ""
        raise DeviceError(
            f"{name} was set to {value:g}{suffix} and reads {read:g}{suffix}: the instrument limits or ignores the "
            "value; check its limits, and whether somebody else is operating it"
        )


def checked_limits(
    max_travel: object, bounds: Any, names: tuple[str, str] = ("max_travel", "bounds"), unit: str = "mm"
) -> tuple[float, float] | None:
    """Return the bounds of a run as two floats, or None; its limits are checked.

    Parameters
    ----------
    max_travel : float or None
        Furthest distance from the start.
    bounds : pair of float or None
        Lowest and highest value allowed, such as working distances.
    names : tuple of str
        Of the two, for the messages.
    unit : str
        Of both; empty for the units of the instrument.

    Raises
    ------
    InvalidParameterError
        When `max_travel` is no number, or `bounds` are not two numbers.
    OutOfRangeError
        When `max_travel` is not above 0, or the bounds do not rise.
    """
    travel_name, name = names
    suffix = f" {unit}" if unit else ""
    if max_travel is not None and (travel := number(travel_name, max_travel, unit)) <= 0:
        raise OutOfRangeError(f"{travel_name} must be above 0{suffix}, not {travel:g}{suffix}")
    if bounds is None:
        return None
    try:
        first, second = bounds
    except (TypeError, ValueError):
        raise InvalidParameterError(f"{name} must be two numbers{suffix and ' in' + suffix}, not {bounds!r}") from None
    low, high = number(f"{name}[0]", first, unit), number(f"{name}[1]", second, unit)
    if low >= high:
        raise OutOfRangeError(
            f"{name} must be (low, high){suffix and ' in' + suffix} with low < high, not ({low:g}, {high:g})"
        )
    return low, high


def allowed_range(capability: Range, bounds: tuple[float, float] | None, start: float) -> Range:
    """Return the working distances of a run: those of the instrument within `bounds`.

    Raises
    ------
    OutOfRangeError
        When the start is outside, by more than half a step of the instrument.
    """
    limits, names = capability, f"the instrument's {capability.minimum:g} to {capability.maximum:g} mm"
    if bounds is not None:
        limits = limits.intersect(*bounds)
        names += f" and bounds {bounds[0]:g} to {bounds[1]:g} mm"
    rounding = max(1e-6 * abs(start), 0.5 * limits.step)
    if not limits.minimum - rounding <= start <= limits.maximum + rounding:
        raise OutOfRangeError(
            f"working distance {start:g} mm is outside {names}; move there first, or widen the bounds"
        )
    return limits


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a parameter can take.

    Parameters
    ----------
    minimum, maximum : float
        Inclusive limits, in the parameter's unit.
    step : float
        Quantum of the instrument, 0 for a continuous parameter.
    """

    minimum: float
    maximum: float
    step: float = 0.0

    def __contains__(self, value: object) -> bool:
        """Whether `value` is a number within the limits."""
        return isinstance(value, int | float | np.number) and self.minimum <= float(value) <= self.maximum

    def check(self, name: str, value: object, unit: str = "") -> float:
        """Return `value` as a float within the limits, or raise naming parameter, value and limit.

        Raises
        ------
        InvalidParameterError
            When `value` is no number.
        OutOfRangeError
            When it is not finite or beyond a limit.
        """
        result = number(name, value, unit)
        if self.misses_by_rounding(result):
            return self.clip(result)
        if not self.minimum <= result <= self.maximum:
            suffix = f" {unit}" if unit else ""
            raise OutOfRangeError(f"{name} {result:g}{suffix} is outside {self.minimum:g} to {self.maximum:g}{suffix}")
        return result

    def misses_by_rounding(self, value: float) -> bool:
        """Whether a value is beyond a limit by no more than what single precision or decimal text changes."""
        return value != self.clip(value) and math.isclose(value, self.clip(value), rel_tol=_ROUNDING)

    def clip(self, value: float) -> float:
        """Return the nearest value within the limits."""
        return min(max(value, self.minimum), self.maximum)

    def including(self, value: float) -> Range:
        """Return the range, widened to a value beyond it."""
        return Range(min(self.minimum, value), max(self.maximum, value), self.step)

    def intersect(self, minimum: float, maximum: float) -> Range:
        """Return the part of the range between two further limits (it may be empty)."""
        return Range(max(self.minimum, minimum), min(self.maximum, maximum), self.step)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the instrument says of itself.

    Parameters
    ----------
    working_distance : Range
        In mm.
    magnification : Range
        Plain numbers.
    scan_modes : tuple of ScanMode
        The modes that `Microscope.acquire` accepts, fastest first; an instrument may accept others too.
    model, serial, firmware : str
        For people and records.
    probe_diameter : float, optional
        Diameter of the focused beam, nm, where it is known: with the pixel it sets the depth of field.
    half_angle : float, optional
        Half-angle of the beam at the present working distance, mrad, where it is known.
    numerical_aperture : float, optional
        The same for an instrument whose angle does not depend on the working distance: an optical microscope, or a
        stage that moves the sample through focus.
    stigmator : Range, optional
        Values that each axis of the stigmator can take, in the units of the instrument.
    stigmator_matrix : pair of pair of float, optional
        What the stigmator does, where the instrument knows it: rows x and y of `Astigmatism` in µm, columns the change
        of either axis by one of its units.
    bit_depth : int, optional
        Bits of a grey level, where they are fewer than the type of the pixels holds: 10, 12 or 14 in uint16.
    beam_current : float, optional
        Current of the beam at present, pA, or the largest that it can have, where that is known.
    dwell_times : tuple of float, optional
        Seconds that the beam rests on a pixel in each of `scan_modes`, where the instrument chooses them.
    """

    working_distance: Range
    magnification: Range
    scan_modes: tuple[ScanMode, ...] = (ScanMode.FAST,)
    model: str = ""
    serial: str = ""
    firmware: str = ""
    probe_diameter: float | None = field(default=None, metadata={"unit": "nm"})
    half_angle: float | None = field(default=None, metadata={"unit": "mrad"})
    numerical_aperture: float | None = field(default=None, metadata={"unit": ""})
    stigmator: Range | None = None
    stigmator_matrix: tuple[tuple[float, float], tuple[float, float]] | None = None
    bit_depth: int | None = field(default=None, metadata={"unit": "bits"})
    beam_current: float | None = field(default=None, metadata={"unit": "pA"})
    dwell_times: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Capabilities:
        """Return the capabilities that `semdrivers.files.plain` has turned into JSON's types.

        Raises
        ------
        InvalidParameterError
            When something is missing or malformed.
        """
        try:
            known: dict[str, Any] = {part.name: values.get(part.name) for part in fields(cls) if part.default is None}
            numbers = [part.name for part in fields(cls) if part.metadata and known.get(part.name) is not None]
            known |= {name: number(name, known[name]) for name in numbers}
            if known["bit_depth"] is not None:
                known["bit_depth"] = whole_number("bit_depth", values["bit_depth"], 1)
            known |= {name: str(values[name]) for name in ("model", "serial", "firmware")}
            known["dwell_times"] = tuple(number("dwell_times", each) for each in values.get("dwell_times", ()))
            if known["stigmator"] is not None:
                known["stigmator"] = _range_of(known["stigmator"])
            if known["stigmator_matrix"] is not None:
                rows = two_of("stigmator_matrix", known["stigmator_matrix"])
                pairs = [two_of("stigmator_matrix", row) for row in rows]
                known["stigmator_matrix"] = tuple(
                    (number("stigmator_matrix", x), number("stigmator_matrix", y)) for x, y in pairs
                )
            return cls(
                working_distance=_range_of(values["working_distance"]),
                magnification=_range_of(values["magnification"]),
                scan_modes=tuple(map(_mode_of, values["scan_modes"])),
                **known,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidParameterError(f"its capabilities cannot be read: {error!r}") from error


def _range_of(values: Any) -> Range:
    """Return a range from its parts; no limit is written as None."""
    limits = Range(**values)
    low = -math.inf if limits.minimum is None else number("minimum", limits.minimum)
    high = math.inf if limits.maximum is None else number("maximum", limits.maximum)
    step = number("step", limits.step)
    if low > high or step < 0:
        raise ValueError(f"no range goes from {low:g} to {high:g} in steps of {step:g}")
    return Range(low, high, step)


def _mode_of(value: Any) -> ScanMode:
    """Return a scan mode from its parts, or from its name: that alone stood in recordings of the EM-30."""
    mode = ScanMode.parse(value.upper()) if isinstance(value, str) else ScanMode(**value)
    if mode is None:
        raise ValueError(f"there is no scan mode {value!r}")
    return mode


def offered_mode(
    capabilities: Capabilities, mode: ScanMode | None = None, part: Sequence[float] | None = None
) -> ScanMode:
    """Return a scan mode that the instrument offers.

    Parameters
    ----------
    capabilities : Capabilities
        Limits and modes of the instrument.
    mode : ScanMode, optional
        The one asked for. None, and FAST where the instrument has no such mode, stand for the fastest of at least
        320×240 pixels, or for the fastest where none is so large.
    part : sequence of four float, optional
        Part of the frame that must have 320×240 pixels: x0, y0, x1, y1 as shares of its width and height.

    Raises
    ------
    InvalidParameterError
        When `mode` is none, or none that the instrument offers, or no mode has a part that is large enough.
    """
    modes, least = capabilities.scan_modes, ScanMode.FAST
    if mode is not None and not isinstance(mode, ScanMode):
        raise InvalidParameterError(f"mode must be a semdrivers.ScanMode, not {mode!r}")
    if part is not None:
        x0, y0, x1, y1 = part
        width, height = ((b - a) * (1 + 1e-9) for a, b in ((x0, x1), (y0, y1)))
        given = modes if mode is None or mode not in modes else (mode,)
        given = given or (mode or least,)
        modes = tuple(m for m in given if m.width * width >= least.width and m.height * height >= least.height)
        if not modes:
            small = ", ".join(f"{m.name} ({m.width}×{m.height})" for m in given)
            whole = min(width, height) >= 1
            raise InvalidParameterError(
                f"{'' if whole else f'region {tuple(part)} of '}scan mode {small} has less than the {least.width}×"
                f"{least.height} pixels that focusing needs: {'' if whole else 'enlarge region, or '}choose a larger "
                "scan_mode, or set a larger frame at the instrument"
            )
    if mode is not None and (not modes or mode in modes):
        return mode
    if mode in (None, ScanMode.FAST):
        large = [offered for offered in modes if offered.width >= least.width and offered.height >= least.height]
        return next(iter(large or modes), least)
    raise InvalidParameterError(
        f"scan_mode {mode} is not offered; the instrument has {', '.join(offered.name for offered in modes)}"
    )


def has_member(microscope: object, name: str) -> bool:
    """Return whether an object has a member. Looks at the class first: reading a property would ask the instrument."""
    return hasattr(type(microscope), name) or hasattr(microscope, name)


def has_part(microscope: object, part: type) -> bool:
    """Return whether an object has every member of `Microscope`, or of a protocol of an optional part.

    This is what ``isinstance`` answers for these protocols, on every version of Python alike. Nothing is read: the
    instrument is asked nothing, and a link that is lost changes no answer.
    """
    protocols = [base for base in part.__mro__ if base not in (object, Protocol, Generic)]
    return all(has_member(microscope, name) for base in protocols for name in vars(base) if not name.startswith("_"))


if TYPE_CHECKING:
    _ProtocolType = abc.ABCMeta
else:
    _ProtocolType = type(Protocol)


class PartType(_ProtocolType):
    """Type of the protocols of this package whose ``isinstance`` reads no property: see `has_part`."""

    def __instancecheck__(cls, instance: object) -> bool:
        if getattr(cls, "_is_runtime_protocol", False) and getattr(cls, "_is_protocol", False):
            return has_part(instance, cls)
        return super().__instancecheck__(instance)


@runtime_checkable
class Microscope(Protocol, metaclass=PartType):
    """The five members that autofocus needs, and so all that a microscope of any make must offer."""

    @property
    def capabilities(self) -> Capabilities:
        """Limits and modes, as the instrument reports them."""
        ...

    @property
    def working_distance(self) -> float:
        """Working distance in mm, as read back; setting it returns once the lens has settled.

        Raises
        ------
        OutOfRangeError
            When set outside ``capabilities.working_distance``; nothing has moved.
        """
        ...

    @working_distance.setter
    def working_distance(self, value: float) -> None: ...

    @property
    def magnification(self) -> float:
        """Magnification, a plain number, as read back.

        Raises
        ------
        OutOfRangeError
            When set outside ``capabilities.magnification``; nothing has changed.
        """
        ...

    @magnification.setter
    def magnification(self, value: float) -> None: ...

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame, wholly after the last set took effect, and return it."""
        ...

    def close(self) -> None:
        """Give the instrument back. A second call does nothing."""
        ...


_TRIES = 3
"""How often a value is put back at most when Ctrl-C, or a request to terminate, comes in between."""

_AT_ONCE = frozenset({"stigmator"})
"""Members without travel: one that reads its value stands there."""

_MEMBERS = ("capabilities", "working_distance", "magnification", "acquire", "close")


def missing_members(microscope: object) -> list[str]:
    """Return the names of the members of `Microscope` that an object lacks; the instrument is asked nothing."""
    return [name for name in _MEMBERS if not has_member(microscope, name)]


def check_microscope(microscope: object) -> None:
    """Raise unless an object has the five members of `Microscope`; the instrument is asked nothing.

    Raises
    ------
    InvalidParameterError
        When it lacks some; the message lists them.
    """
    missing = missing_members(microscope)
    if missing:
        raise InvalidParameterError(
            f"{type(microscope).__name__} is no Microscope: it lacks {', '.join(missing)}; "
            "semdrivers.Microscope lists the five members that are needed"
        )


def stigmator_of(microscope: object) -> tuple[float, float]:
    """Return the setting of a stigmator as two finite numbers, in the units of the instrument; as `read_pair`."""
    return read_pair(microscope, "stigmator")


def put_back(microscope: object, values: Mapping[str, Any], *, changed_only: bool = True) -> dict[str, Exception]:
    """Set members of a microscope to values they had; each is tried, whatever fails. NaN and infinity are never set.

    Parameters
    ----------
    microscope : Microscope
        The instrument.
    values : mapping of str to object
        Names of members, such as ``"working_distance"``, with the values to set, in this order; to
        ``"stage_position"`` the stage moves.
    changed_only : bool
        Whether to leave alone a member that reads its value already. A stigmator, whose coils follow at once, is left
        alone then in any case: each set on the way may leave it elsewhere.

    Returns
    -------
    dict of str to Exception
        What failed, by the name of the member.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        Once everything has been tried: Ctrl-C, or a request to terminate, while values are put back leaves none of them
        out. What failed is a note of it.
    """
    failures: dict[str, Exception] = {}
    interrupt: BaseException | None = None
    for name, value in values.items():
        for _ in range(_TRIES):
            try:
                for each in value if isinstance(value, tuple) else (value,):
                    if isinstance(each, float | np.floating):
                        number(name, each)
                if not (changed_only or name in _AT_ONCE) or getattr(microscope, name) != value:
                    if name == "stage_position":
                        microscope.move_stage(*value)  # type: ignore[attr-defined]
                    else:
                        setattr(microscope, name, value)
            except Exception as error:
                failures[name] = error
            except BaseException as impatient:
                interrupt = impatient
                continue
            break
    if interrupt is not None:
        _note_failures(interrupt, values, failures)
        raise interrupt
    return failures


def _note_failures(error: BaseException, values: Mapping[str, Any], failures: Mapping[str, Exception]) -> None:
    """Have an exception, and the log, say which values could not be put back."""
    for name, failure in failures.items():
        error.add_note(f"and {name} could not be put back to {values[name]}: {failure}")
        _log.error("%s could not be put back to %s: %s", name, values[name], failure)  # SystemExit shows no note


def approach(microscope: Microscope, working_distance: float, limits: Range) -> None:
    """Move the lens to a working distance (mm) from below, as far as the limits allow.

    Raises
    ------
    OutOfRangeError
        When it is beyond the limits; nothing has moved.
    """
    target = limits.check("working_distance", working_distance, "mm")
    if limits.step > 0:
        target = limits.clip(round(round(target / limits.step) * limits.step, 9))
    below = limits.clip(round(target - TAKE_UP, 9))
    if below < target < microscope.working_distance:
        microscope.working_distance = below
    microscope.working_distance = target


def read_number(microscope: object, name: str, unit: str = "") -> float:
    """Return a member of a microscope as a finite number.

    Parameters
    ----------
    microscope : Microscope
        The instrument.
    name : str
        Name of the member, such as ``"working_distance"``.
    unit : str
        For the message.

    Raises
    ------
    DeviceError
        When it reads no such number: nothing may be computed from it, let alone set.
    """
    try:
        return number(name.replace("_", " "), getattr(microscope, name), unit)
    except (InvalidParameterError, OutOfRangeError) as error:
        raise DeviceError(f"the instrument reads back no usable value: {error}; check its driver") from error


def read_pair(microscope: object, name: str, unit: str = "") -> tuple[float, float]:
    """Return a member of a microscope that has an x and a y, as two finite numbers; parameters as for `read_number`.

    Raises
    ------
    DeviceError
        When it reads no such numbers: nothing may be computed from them, let alone set.
    """
    what = name.replace("_", " ")
    try:
        x, y = getattr(microscope, name)
        return number(f"{what} x", x, unit), number(f"{what} y", y, unit)
    except (TypeError, ValueError) as error:
        raise DeviceError(f"the instrument reads back no usable {what}: {error}; check its driver") from error


@contextmanager
def restoring(
    microscope: object, *names: str, only_on_error: bool = False, values: Mapping[str, Any] | None = None
) -> Iterator[Mapping[str, Any]]:
    """Remember members of a microscope, and put them back at the end of the block.

    After an exception each is set, also one that reads its value, but for a stigmator: a move may be under way. What
    cannot be put back is a note of that exception.

    Parameters
    ----------
    microscope : Microscope
        The instrument.
    *names : str
        Members in the order in which to put them back; ``"magnification", "working_distance"`` by default.
    only_on_error : bool
        Whether a block that ends well leaves everything as it is.
    values : mapping of str to object, optional
        What to put back, in this order; by default what the members read now.

    Yields
    ------
    mapping of str to object
        The values by name.

    Raises
    ------
    Exception
        The first failure, when the block ends well and something cannot be put back.
    """
    if values is None:
        values = {name: getattr(microscope, name) for name in names or ("magnification", "working_distance")}
    try:
        yield values
    except BaseException as error:
        failures = put_back(microscope, values, changed_only=False)
        _note_failures(error, values, failures)
        back = [f"{name} is back at {value}" for name, value in values.items() if name not in failures]
        if isinstance(error, TransportError) and back:
            error.add_note(f"the link was opened again: {', '.join(back)}")
        raise
    if not only_on_error:
        for failure in put_back(microscope, values).values():
            raise failure


def blank_after(error: BaseException, microscope: object) -> None:
    """Leave no beam on for nobody after an error: stop, or switch the beam off where there is no `HasStop`.

    Parameters
    ----------
    error : BaseException
        What ends the use of the microscope; a beam that could not be blanked is a note of it.
    microscope : Microscope
        The instrument. One whose beam cannot be switched is left as it is.
    """
    try:
        if isinstance(microscope, HasStop):
            microscope.stop()
        elif isinstance(microscope, HasBeam):
            microscope.beam_on = False
    except Exception as failure:
        _log.exception("the beam could not be blanked")
        error.add_note(f"and the beam could not be blanked: {failure}; look at the instrument")


class LimitsTravel(abc.ABC):
    """A wrapper that limits every autofocus run through it, whatever settings are passed."""

    @property
    @abc.abstractmethod
    def max_travel(self) -> float | None:
        """Furthest that a run may go from its start, mm; None for no limit."""


@runtime_checkable
class HasStage(Protocol, metaclass=PartType):
    """A stage with lateral axes."""

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y) in mm."""
        ...

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y) in mm; returns the position reached, once the stage is idle."""
        ...


@runtime_checkable
class HasStageOrientation(Protocol, metaclass=PartType):
    """A stage that tilts and rotates, and leaves the point under the beam where it is."""

    @property
    def stage_orientation(self) -> tuple[float, float]:
        """Tilt and rotation in degrees."""
        ...

    def orient_stage(self, tilt: float, rotation: float) -> tuple[float, float]:
        """Tilt and rotate, degrees; returns what was reached, once the stage is idle."""
        ...


@runtime_checkable
class HasStigmator(Protocol, metaclass=PartType):
    """A stigmator of two axes."""

    @property
    def stigmator(self) -> tuple[float, float]:
        """Setting of both axes (x, y), in the units of the instrument; `Capabilities.stigmator` has their limits."""
        ...

    @stigmator.setter
    def stigmator(self, value: tuple[float, float]) -> None: ...


@runtime_checkable
class HasBeamShift(Protocol, metaclass=PartType):
    """A deflection that moves the scanned field over a sample that stays where it is."""

    @property
    def beam_shift(self) -> tuple[float, float]:
        """Where the field lies, (x, y) in mm at the sample: to the right and downwards in the picture from its zero."""
        ...

    @beam_shift.setter
    def beam_shift(self, value: tuple[float, float]) -> None: ...


@runtime_checkable
class HasDetector(Protocol, metaclass=PartType):
    """A detector with gain and offset."""

    @property
    def brightness(self) -> float:
        """Offset, 0 to 1."""
        ...

    @brightness.setter
    def brightness(self, value: float) -> None: ...

    @property
    def contrast(self) -> float:
        """Gain, 0 to 1."""
        ...

    @contrast.setter
    def contrast(self, value: float) -> None: ...


@runtime_checkable
class HasBeam(Protocol, metaclass=PartType):
    """A beam that can be switched."""

    @property
    def beam_on(self) -> bool:
        """Whether electrons reach the sample."""
        ...

    @beam_on.setter
    def beam_on(self, value: bool) -> None: ...


@runtime_checkable
class HasStop(Protocol, metaclass=PartType):
    """A scan that can be stopped in the middle of a frame."""

    def stop(self, keep_beam: bool = False) -> None:
        """End the scan at once and, unless `keep_beam`, blank the beam. A frame under way raises `StoppedError`.

        May be called from any thread; waits for no frame and no other call. Nothing happens when nothing is scanned
        and the beam is off. The microscope can be used afterwards.
        """
        ...


@runtime_checkable
class HasVoltage(Protocol, metaclass=PartType):
    """An instrument that reports its acceleration voltage."""

    @property
    def voltage(self) -> float:
        """Acceleration voltage, kV."""
        ...


@runtime_checkable
class HasVacuum(Protocol, metaclass=PartType):
    """A chamber that can be pumped and vented."""

    @property
    def vacuum(self) -> str:
        """``"vented"``, ``"pumping"``, ``"ready"`` or ``"venting"``."""
        ...

    def pump(self) -> None:
        """Evacuate the chamber; returns when the vacuum is ready."""
        ...

    def vent(self) -> None:
        """Let air in; the beam must be off."""
        ...
