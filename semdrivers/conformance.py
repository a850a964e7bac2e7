"""Checks of any `Microscope`: what its author runs, and what ``semdrivers check URL`` prints.

Each check is a plain function over an open microscope. It raises `AssertionError` with a sentence that says
what is wrong, returns None when all is well, or raises `Skipped` when the microscope has nothing to check.
A check leaves the microscope as it was.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from semdrivers.autofocus import autofocus
from semdrivers.errors import InvalidParameterError, OutOfRangeError, SemDriversError, StoppedError
from semdrivers.focus import AutofocusResult, RecordsFocus, record_of_frame
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import (
    SIX_DIGITS,
    Capabilities,
    HasBeam,
    HasStage,
    HasStageOrientation,
    HasStigmator,
    HasStop,
    Microscope,
    Range,
    missing_members,
    restoring,
)

__all__ = [
    "CHECKS", "Check", "Outcome", "Skipped", "Wire", "check_autofocus_keeps_its_promises",
    "check_cancelled_autofocus_restores", "check_capabilities", "check_close_twice", "check_default_frame",
    "check_focus_record_travels", "check_frame_ids_rise", "check_frames", "check_frames_are_the_callers_own",
    "check_frames_follow_settings", "check_magnification_changes", "check_magnification_is_refused_beyond_its_limits",
    "check_magnification_must_be_a_number", "check_members", "check_pixel_size_follows_magnification",
    "check_scan_mode_must_be_one", "check_stage", "check_stage_orientation", "check_state_is_within_capabilities",
    "check_stigmator", "check_stop", "check_working_distance_is_refused_beyond_its_limits",
    "check_working_distance_moves", "check_working_distance_must_be_a_number", "run_check", "run_checks",
]  # fmt: skip

_FAR = 1e9
_TRAVEL = 0.1
_INTO_THE_FRAME, _PATIENCE = 0.2, 5.0
_OPTIONAL = {
    "probe_diameter": (0.1, 1000, "nm"),
    "half_angle": (0.01, 1000, "mrad"),
    "numerical_aperture": (0.01, 2, "no unit"),
    "bit_depth": (1, 16, "bits"),
    "beam_current": (1e-3, 1e9, "pA"),
}
"""Optional values of the capabilities: least, greatest, unit."""
_NOT_FINITE = (math.nan, math.inf, -math.inf)


class Skipped(Exception):
    """The microscope does not offer what the check is about; that is no fault."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of one check.

    Parameters
    ----------
    name : str
        Name of the check.
    rule : str
        What it checks, one sentence.
    status : str
        ``"passed"``, ``"failed"`` or ``"skipped"``.
    detail : str
        Why it failed or was skipped.
    """

    name: str
    rule: str
    status: str
    detail: str = ""


class Wire:
    """A link that plays a script of (sent, received) pairs to a driver, as the manual of its instrument has them.

    Use it in a ``with`` statement: the driver must have sent all of it by the end of the block, and nothing else.

    Parameters
    ----------
    pairs : sequence of pairs
        What the driver sends, and what it is answered, in this order; text or bytes, as the driver has it.
    data : bytes
        What `read` returns, piece by piece: pictures.

    Raises
    ------
    AssertionError
        When the driver sends something else, or too little.
    """

    def __init__(self, pairs: Sequence[tuple[Any, Any]], data: bytes = b"") -> None:
        self._pairs, self._data = list(pairs), data

    def ask(self, sent: Any) -> Any:
        """Return the answer to what is sent."""
        assert self._pairs, f"{sent!r} was sent after the end of the script"
        expected, received = self._pairs.pop(0)
        assert sent == expected, f"{sent!r} was sent, and the script has {expected!r}"
        return received

    def read(self, count: int) -> bytes:
        """Return the next bytes of the data."""
        assert len(self._data) >= count, f"{count} bytes are read, and {len(self._data)} are left in the script"
        part, self._data = self._data[:count], self._data[count:]
        return part

    def close(self) -> None:
        """Do nothing: a script has no end of its own."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert not self._pairs, f"{self._pairs[0][0]!r} was never sent"


Check = Callable[[Any], None]
"""A check: it raises AssertionError where a microscope breaks a rule, and `Skipped` where the rule does not apply."""


def check_members(microscope: Any) -> None:
    """It has the five members of `Microscope`."""
    missing = missing_members(microscope)
    assert not missing, f"{type(microscope).__name__} lacks {', '.join(missing)}"


def check_capabilities(microscope: Any) -> None:
    """Its capabilities are sane: limits finite and in order, at least one scan mode.

    A working distance may be below zero where ``numerical_aperture`` says that it is the z of a focus drive.
    """
    capabilities = microscope.capabilities
    assert isinstance(capabilities, Capabilities), f"capabilities is a {type(capabilities).__name__}"
    for name in ("working_distance", "magnification"):
        limits = getattr(capabilities, name)
        assert isinstance(limits, Range), f"capabilities.{name} is a {type(limits).__name__}, not a Range"
        assert math.isfinite(limits.minimum), f"the lowest {name} is {limits.minimum}"
        assert math.isfinite(limits.maximum), f"the highest {name} is {limits.maximum}"
        assert limits.minimum <= limits.maximum, f"{name} runs from {limits.minimum:g} to {limits.maximum:g}"
        signed = name == "working_distance" and capabilities.numerical_aperture is not None
        assert limits.minimum > 0 or signed, f"the lowest {name} is {limits.minimum:g}"
        if limits.minimum < limits.maximum:
            assert 0 <= limits.step < limits.maximum - limits.minimum, f"the step of {name} is {limits.step:g}"
    lens = capabilities.working_distance
    assert lens.minimum < lens.maximum, f"the working distance is fixed at {lens.minimum:g} mm"
    for name, (least, most, unit) in _OPTIONAL.items():
        value = getattr(capabilities, name)
        assert value is None or least <= value <= most, f"{name} is {value}; it is in {unit}, or None where unknown"
    modes = capabilities.scan_modes
    assert modes, "no scan mode is offered"
    assert all(isinstance(mode, ScanMode) for mode in modes), f"scan_modes holds {modes!r}"
    names = [mode.name for mode in modes]
    assert len(set(names)) == len(names), f"two scan modes have one name: {', '.join(names)}"


def check_state_is_within_capabilities(microscope: Any) -> None:
    """What it reports lies within what it says it can do."""
    for name in ("working_distance", "magnification"):
        value, limits = getattr(microscope, name), getattr(microscope.capabilities, name)
        rounding = SIX_DIGITS * limits.maximum
        assert limits.minimum - rounding <= value <= limits.maximum + rounding, (
            f"{name} reads {value!r}, outside {limits.minimum:g} to {limits.maximum:g}"
        )


def check_working_distance_moves(microscope: Any) -> None:
    """A working distance that was set reads back within one step, up and down."""
    with restoring(microscope) as start:
        limits = microscope.capabilities.working_distance
        for travel in (_TRAVEL, -_TRAVEL):
            target = limits.clip(start["working_distance"] + travel)
            microscope.working_distance = target
            _assert_near("working_distance", microscope.working_distance, target, limits)


def check_working_distance_is_refused_beyond_its_limits(microscope: Any) -> None:
    """A working distance beyond a limit, or not finite, raises OutOfRangeError and moves nothing."""
    limits = microscope.capabilities.working_distance
    beyond: tuple[float, ...] = (limits.minimum - 0.1, limits.maximum + 0.1, -_FAR, _FAR, *_NOT_FINITE)
    beyond += () if -1.0 in limits else (-1.0,)
    _assert_refused(microscope, "working_distance", OutOfRangeError, beyond)


def check_working_distance_must_be_a_number(microscope: Any) -> None:
    """A working distance that is no number raises InvalidParameterError and moves nothing."""
    _assert_refused(microscope, "working_distance", InvalidParameterError, ("12", None, [12.0], True))


def check_magnification_changes(microscope: Any) -> None:
    """A magnification that was set reads back within one step."""
    limits = microscope.capabilities.magnification
    if limits.minimum == limits.maximum:
        raise Skipped(f"its magnification is fixed at {limits.minimum:g}")
    with restoring(microscope) as start:
        for factor in (1.25, 0.8):
            target = limits.clip(start["magnification"] * factor)
            microscope.magnification = target
            _assert_near("magnification", microscope.magnification, target, limits)


def check_magnification_is_refused_beyond_its_limits(microscope: Any) -> None:
    """A magnification beyond a limit, or not finite, raises OutOfRangeError and changes nothing."""
    limits = microscope.capabilities.magnification
    beyond = (limits.minimum / 2, limits.maximum * 2, 0.0, -_FAR, *_NOT_FINITE)
    _assert_refused(microscope, "magnification", OutOfRangeError, beyond)


def check_magnification_must_be_a_number(microscope: Any) -> None:
    """A magnification that is no number raises InvalidParameterError and changes nothing."""
    _assert_refused(microscope, "magnification", InvalidParameterError, ("500x", None, [500], True))


def check_frames(microscope: Any) -> None:
    """Every scan mode gives a frame of its size, with the conditions in force."""
    for mode in microscope.capabilities.scan_modes:
        image = microscope.acquire(mode)
        assert isinstance(image, Image), f"acquire({mode.name}) returned a {type(image).__name__}"
        pixels = image.pixels
        assert pixels.shape == (mode.height, mode.width), (
            f"a {mode.name} frame has the shape {pixels.shape}, not {(mode.height, mode.width)}"
        )
        assert pixels.dtype in (np.uint8, np.uint16), f"a {mode.name} frame has pixels of {pixels.dtype}"
        _assert_conditions(microscope, image)


def check_default_frame(microscope: Any) -> None:
    """`acquire()` without a mode gives a FAST frame, or one of its own modes where it has no FAST."""
    modes = microscope.capabilities.scan_modes
    expected = {(mode.height, mode.width) for mode in ((ScanMode.FAST,) if ScanMode.FAST in modes else modes)}
    shape = microscope.acquire().pixels.shape
    assert shape in expected, f"the frame has the shape {shape}, not {' or '.join(map(str, sorted(expected)))}"


def check_scan_mode_must_be_one(microscope: Any) -> None:
    """A scan mode that is none raises InvalidParameterError."""
    for mode in ("fast", (320, 240), 1):
        try:
            microscope.acquire(mode)
        except InvalidParameterError:
            continue
        raise AssertionError(f"acquire({mode!r}) was accepted")


def check_frames_follow_settings(microscope: Any) -> None:
    """A frame was scanned wholly after the last set took effect: its conditions are the new ones."""
    with restoring(microscope) as start:
        limits = microscope.capabilities
        microscope.acquire()
        microscope.working_distance = limits.working_distance.clip(start["working_distance"] + _TRAVEL)
        _assert_conditions(microscope, microscope.acquire())
        microscope.magnification = limits.magnification.clip(start["magnification"] * 1.5)
        _assert_conditions(microscope, microscope.acquire())


def check_frames_are_the_callers_own(microscope: Any) -> None:
    """A frame does not change when the next is acquired."""
    first = microscope.acquire().pixels
    kept = first.copy()
    microscope.acquire()
    assert np.array_equal(first, kept), "the pixels of an earlier frame were overwritten by the next"


def check_frame_ids_rise(microscope: Any) -> None:
    """Frame ids, where there are any, rise."""
    first, second = microscope.acquire().frame_id, microscope.acquire().frame_id
    if first is None or second is None:
        raise Skipped("the frames have no frame_id")
    assert second > first, f"frame {second} followed frame {first}"


def check_pixel_size_follows_magnification(microscope: Any) -> None:
    """Twice the magnification halves the pixel size, within 5 %."""
    limits = microscope.capabilities.magnification
    if limits.minimum == limits.maximum:
        raise Skipped(f"its magnification is fixed at {limits.minimum:g}")
    with restoring(microscope) as start:
        before = microscope.acquire()
        twice = start["magnification"] * 2
        microscope.magnification = limits.clip(twice if twice in limits else twice / 4)
        after = microscope.acquire()
        expected = before.pixel_size * before.magnification / after.magnification
        assert math.isclose(after.pixel_size, expected, rel_tol=0.05), (
            f"the pixel size is {after.pixel_size:g} nm at {after.magnification:g}×, but "
            f"{before.pixel_size:g} nm at {before.magnification:g}×"
        )


def check_stage(microscope: Any) -> None:
    """A stage, where there is one, goes where it is sent and says where it is."""
    if not isinstance(microscope, HasStage):
        raise Skipped("it has no stage")
    x, y = microscope.stage_position
    try:
        reached = microscope.move_stage(x + 0.01, y - 0.01)
        _assert_reached(reached, microscope.stage_position, (x + 0.01, y - 0.01), 0.005)
    finally:
        microscope.move_stage(x, y)


def check_stage_orientation(microscope: Any) -> None:
    """A stage that tilts and rotates reaches the angles that were set, and stays where it stands."""
    place = microscope.stage_position if isinstance(microscope, HasStage) else None
    if not isinstance(microscope, HasStageOrientation):
        raise Skipped("its stage does not tilt or rotate")
    try:
        tilt, rotation = microscope.stage_orientation
    except InvalidParameterError as error:
        raise Skipped(str(error)) from error
    try:
        target = tilt + 1.0, rotation + (1.0 if rotation < 180 else -1.0)
        _assert_reached(microscope.orient_stage(*target), microscope.stage_orientation, target, 0.1)
        now = getattr(microscope, "stage_position", None)
        assert now == place, f"it moved from {place} to {now}"
    finally:
        microscope.orient_stage(tilt, rotation)


def check_stigmator(microscope: Any) -> None:
    """A stigmator, where there is one, reads back what was set."""
    if not isinstance(microscope, HasStigmator):
        raise Skipped("it has no stigmator")
    with restoring(microscope, "stigmator") as start:
        x, y = start["stigmator"]
        microscope.stigmator = (x + 1.0, y - 1.0)
        read = microscope.stigmator
        assert math.dist(read, (x + 1.0, y - 1.0)) < 0.5, f"it reads {read}"


def check_stop(microscope: Any) -> None:
    """A scan that can be stopped ends within the frame, the next frame comes, and the beam goes off when asked."""
    acquire, mode = microscope.acquire, microscope.capabilities.scan_modes[-1]
    if not isinstance(microscope, HasStop):
        raise Skipped("it cannot be stopped in the middle of a frame")
    outcome: list[object] = []

    def scan() -> None:
        try:
            outcome.append(acquire(mode))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=scan)
    thread.start()
    thread.join(_INTO_THE_FRAME)
    microscope.stop(keep_beam=True)
    thread.join(_PATIENCE)
    assert not thread.is_alive(), f"a {mode.name} frame went on for {_PATIENCE:g} s after stop(keep_beam=True)"
    assert isinstance(outcome[0], Image | StoppedError), f"the frame that was stopped raised {outcome[0]!r}"
    assert isinstance(acquire(), Image), "no frame came after stop(keep_beam=True)"
    if isinstance(microscope, HasBeam):
        with restoring(microscope, "beam_on"):
            microscope.stop()
            assert not microscope.beam_on, "the beam is on after stop()"


def check_focus_record_travels(microscope: Any) -> None:
    """The record of an autofocus, where it is kept, stands in the metadata of the frames that follow.

    Where it has ``lens_offset``, that is how far the frame's working distance is from the record's.
    """
    acquire = microscope.acquire
    if not isinstance(microscope, RecordsFocus):
        raise Skipped("it keeps no focus record")
    record = AutofocusResult(
        status="focused",
        reason="a check",
        working_distance=10.0,
        start_working_distance=10.0,
        score=9.0,
        confidence=1.0,
        frames=1,
        elapsed=1.0,
        method="check",
    ).to_record()
    with restoring(microscope, "focus_record"):
        microscope.focus_record = record
        image = acquire()
    recorded = image.metadata.get("autofocus")
    assert recorded in (record, record_of_frame(record, image.working_distance)), f"the frame says {recorded!r}"


def check_cancelled_autofocus_restores(microscope: Any) -> None:
    """An autofocus cancelled before its first frame acquires none and leaves everything where it was."""
    cancel = threading.Event()
    cancel.set()
    before = (microscope.working_distance, microscope.magnification)
    result = autofocus(microscope, cancel=cancel)
    after = (microscope.working_distance, microscope.magnification)
    assert result.status == "cancelled", f"the status is {result.status!r}"
    assert result.frames == 0, f"{result.frames} frames were acquired"
    assert after == before, f"working distance and magnification were {before} and are {after}"


def check_autofocus_keeps_its_promises(microscope: Any) -> None:
    """Autofocus ends focused or refused; magnification is back, and so is the working distance if refused."""
    with restoring(microscope) as start:
        limits = microscope.capabilities.working_distance
        result = autofocus(microscope)
        assert result.status in ("focused", "refused"), f"the status is {result.status!r}"
        assert microscope.magnification == start["magnification"], "the magnification was not put back"
        read = microscope.working_distance
        assert result.working_distance == read, (
            f"the result says {result.working_distance:g} mm, the microscope {read:g} mm"
        )
        assert all(step.working_distance in limits for step in result.trace), "it went beyond the limits"
        if result.status == "refused":
            _assert_near("working_distance", read, start["working_distance"], limits)


def check_close_twice(microscope: Any) -> None:
    """`close()` can be called twice; it comes last, since it ends the connection."""
    microscope.close()
    microscope.close()


CHECKS: tuple[Check, ...] = tuple(
    value for name, value in list(globals().items()) if name.startswith("check_") and callable(value)
)
"""All checks, in the order in which they are run."""


def run_checks(microscope: Microscope) -> Iterator[Outcome]:
    """Run every check in order and yield each outcome; the last one closes the microscope.

    Parameters
    ----------
    microscope : Microscope
        Open, with a sample that may be focused on. Working distance and magnification will move.
    """
    for check in CHECKS:
        yield run_check(check, microscope)


def run_check(check: Check, microscope: Microscope) -> Outcome:
    """Run one check and return its outcome; of what it raises, an interrupt alone gets out."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    rule = " ".join((check.__doc__ or "").split())
    try:
        check(microscope)
    except Skipped as reason:
        return Outcome(name, rule, "skipped", str(reason))
    except AssertionError as error:
        return Outcome(name, rule, "failed", str(error) or "the assertion has no message")
    except Exception as error:
        return Outcome(name, rule, "failed", f"{type(error).__name__}: {error}")
    return Outcome(name, rule, "passed")


def _assert_near(name: str, value: float, target: float, limits: Range) -> None:
    tolerance = max(limits.step, SIX_DIGITS * abs(target)) * 1.001
    assert abs(value - target) <= tolerance, f"{name} was set to {target:g} and reads {value:g}"


def _assert_reached(
    reached: tuple[float, float], read: tuple[float, float], target: tuple[float, float], tolerance: float
) -> None:
    assert reached == read, f"{reached} differs from {read}"
    assert math.dist(reached, target) < tolerance, f"sent to {target}, at {reached}"


def _assert_refused(microscope: Any, name: str, expected: type[SemDriversError], values: tuple[object, ...]) -> None:
    before = getattr(microscope, name)
    for value in values:
        try:
            setattr(microscope, name, value)
        except expected:
            pass
        except Exception as error:
            raise AssertionError(
                f"{name} = {value!r} raised {type(error).__name__}, not {expected.__name__}"
            ) from error
        else:
            setattr(microscope, name, before)
            raise AssertionError(f"{name} = {value!r} was accepted")
        read = getattr(microscope, name)
        assert read == before, f"{name} = {value!r} was refused, but it went from {before:g} to {read:g}"


def _assert_conditions(microscope: Any, image: Image) -> None:
    for name in ("working_distance", "magnification"):
        limits = getattr(microscope.capabilities, name)
        _assert_near(f"the frame's {name}", getattr(image, name), getattr(microscope, name), limits)
    assert math.isfinite(image.pixel_size), f"the frame's pixel size is {image.pixel_size}"
    assert image.pixel_size > 0, f"the frame's pixel size is {image.pixel_size:g} nm"
