"""`autofocus`: the one call that hosts make.

The focusing itself lives in plugins (hook ``semdrivers_autofocus``). What must hold for every plugin lives
here: arguments checked before any I/O, one run at a time on a microscope, and working distance and
magnification put back whatever happens.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

from semdrivers.claims import claimed, layers
from semdrivers.errors import AutofocusError, DeviceError, InvalidParameterError, OutOfRangeError
from semdrivers.files import counted, plain
from semdrivers.focus import AutofocusResult, AutofocusSettings, FocusStep, Progress, RecordsFocus
from semdrivers.microscope import (
    WHOLE_FRAME,
    Capabilities,
    HasBeamShift,
    HasStage,
    LimitsTravel,
    Microscope,
    Range,
    allowed_range,
    approach,
    check_microscope,
    has_member,
    offered_mode,
    put_back,
    read_number,
    read_pair,
    restoring,
    stigmator_of,
)

if TYPE_CHECKING:
    from semdrivers.maps import FocusMap

__all__ = ["BY_MAP", "autofocus", "checked_settings", "ended_in_order"]

BY_MAP = "focus-map"
"""Method of a result that a `semdrivers.maps.FocusMap` gave without a frame."""

_log = logging.getLogger("semdrivers.autofocus")
_PLACE, _STAGE, _SHIFT = "working_distance", "stage_position", "beam_shift"
_ASIDE = 2.0  # Depths of field from the prediction of a map at which a run begins
_AROUND = [(0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5), (0.7, 0.7), (-0.7, 0.7), (-0.7, -0.7), (0.7, -0.7)]
"""Where ``move_to_contrast`` looks, in radii from the target."""
_SAME = 1e-3
"""Share of a value by which two reads of it may differ where nothing was set."""
_STAGE_ERROR = 0.005
"""mm by which a stage that was sent beside the target, or back, may miss its place, besides half of the way."""
_TERMINATE = ("SIGTERM", "SIGHUP")


def autofocus(
    microscope: Microscope,
    *,
    settings: AutofocusSettings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    map: FocusMap | None = None,
    **overrides: Any,
) -> AutofocusResult:
    """Focus `microscope` with the installed plugin.

    Parameters
    ----------
    microscope : Microscope
        Anything with the five members of the protocol. The limits of a named instrument (`LimitsTravel`)
        hold besides the settings.
    settings : AutofocusSettings, optional
        How to focus.
    progress : callable, optional
        Called with a `FocusStep` after every frame.
    cancel : threading.Event, optional
        Obeyed before the next frame, and within one where the microscope is a `HasStop`.
    map : FocusMap, optional
        Predicts the focus at the present stage position. The lens goes there, and a run follows only where the
        uncertainty exceeds half a depth of field; a confident run is a new point of the map. A result without a run has
        the method ``"focus-map"``, no frames, and the score of the nearest point. A prediction beyond the limits counts
        for nothing. Needs a microscope with a stage.
    **overrides
        Single fields of `AutofocusSettings`, such as ``method="dual-network"``.

    Returns
    -------
    AutofocusResult
        With ``status`` ``"focused"``, or ``"refused"`` or ``"cancelled"`` with the start restored.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        Before any I/O, for settings that make no sense.
    BusyError
        When an autofocus run is under way on this microscope, through whatever wrapper, or a keeper of another
        thread holds it.
    AutofocusError
        When no installed plugin offers the method.
    DeviceError
        When the stage does not stand where a run beside the target has sent it, or not back at the target.
    SemDriversError
        Whatever the microscope raises; working distance and magnification have been put back.
    SystemExit
        On SIGTERM and SIGHUP, where the program has no handler of its own and this is its main thread; the same.
    """
    settings = checked_settings(settings, overrides)
    check_microscope(microscope)
    travels = [settings.max_travel, *(each.max_travel for each in layers(microscope) if isinstance(each, LimitsTravel))]
    limits = [travel for travel in travels if travel is not None]
    settings = dataclasses.replace(settings, max_travel=min(limits, default=None))
    if map is not None and not isinstance(microscope, HasStage):
        raise InvalidParameterError(f"map needs a stage, and {type(microscope).__name__} has none; leave map out")
    for name, callback, kind in (("progress", progress, callable), ("cancel", cancel, _is_event)):
        if callback is not None and not kind(callback):
            raise InvalidParameterError(f"{name} cannot be {callback!r}")
    from semdrivers.plugins import get_plugin_manager

    plugins = get_plugin_manager()
    if settings.method is not None:
        plugins.check_autofocus_method(settings.method)
    mode = offered_mode(microscope.capabilities, settings.scan_mode, settings.region or WHOLE_FRAME)
    with (
        claimed(microscope, "an autofocus run"),
        ended_in_order(),
        restoring(microscope, only_on_error=True, values=_start(microscope, settings)) as start,
    ):
        bounds = _bounds(settings, start["working_distance"])
        settings = dataclasses.replace(settings, scan_mode=mode, bounds=bounds)
        result = None
        if map is not None and not (cancel is not None and cancel.is_set()):
            result = _by_map(microscope, map, settings, start)
        if result is None:

            def focus(settings: AutofocusSettings, progress: Progress | None) -> AutofocusResult:
                found = plugins.autofocus_hook(settings.method)(
                    microscope=microscope, settings=settings, progress=progress, cancel=cancel
                )
                if found is None:
                    raise AutofocusError(plugins.describe_missing_autofocus(settings.method))
                if not isinstance(found, AutofocusResult):
                    raise AutofocusError(f"an autofocus plugin returned {type(found).__name__}, not an AutofocusResult")
                return found

            result = _beside(microscope, settings, progress, cancel, start, focus)
        stays: tuple[str, ...] = () if settings.restore_on_failure and not result.focused else ("working_distance",)
        stays += ("stigmator",) if result.focused else ()
        moved = None if result.drift is None else result.drift.corrected
        if moved is not None and _SHIFT in start:
            stays += (_SHIFT,)
        elif moved is not None:
            # By the stage, which goes back from beside the target to where the target now is
            x, y = start[_STAGE]
            start = {**start, _STAGE: (x + moved[0] * 1e-6, y + moved[1] * 1e-6)}
        if settings.correct_drift and not _aside(settings):
            stays += (_STAGE,)
        for failure in put_back(microscope, {name: start[name] for name in start if name not in stays}).values():
            raise failure
        if _STAGE in start and _STAGE not in stays:
            _check_stage(microscope, start[_STAGE], settings)
        if map is not None and result.method != BY_MAP:
            _feed(map, microscope, result)
        if result.measured_at is not None:
            _at_target(microscope, map, settings, start, result)
        elsewhere = map is not None or _STAGE in start
        result = dataclasses.replace(
            result,
            working_distance=_read_twice(microscope, _PLACE, microscope.capabilities.working_distance, "mm"),
            start_working_distance=start[_PLACE] if elsewhere else result.start_working_distance,
            provenance={**_provenance(microscope.capabilities, settings), **result.provenance},
        )
        if settings.stigmate:
            now = stigmator_of(microscope)
            result = dataclasses.replace(result, stigmator=now, start_stigmator=start["stigmator"])
    if isinstance(microscope, RecordsFocus):
        microscope.focus_record = result.to_record()
    _log.info(
        "autofocus %s at %.4f mm (from %.4f mm): score %.1f, confidence %.2f, %d frames, %.1f s, %s: %s",
        result.status,
        result.working_distance,
        result.start_working_distance,
        result.score,
        result.confidence,
        result.frames,
        result.elapsed,
        result.method,
        result.reason,
    )
    return result


def _provenance(capabilities: Capabilities, settings: AutofocusSettings) -> dict[str, Any]:
    """Return what a result is worth nothing without, years later: when, on what, how, with which versions."""
    names = ("semdrivers", "numpy", "onnxruntime")
    installed = {name: version for name in names if (version := _version(name)) is not None}
    return {
        "time": time.time(),
        "instrument": {name: getattr(capabilities, name) for name in ("model", "serial", "firmware")},
        "settings": plain({**dataclasses.asdict(settings), "scan_mode": str(settings.scan_mode)}),
        "versions": {"python": platform.python_version(), **installed},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _by_map(
    microscope: Any, map: FocusMap, settings: AutofocusSettings, start: Mapping[str, float]
) -> AutofocusResult | None:
    """Go where a map predicts the focus; return the result, or None where a run must follow."""
    began = time.perf_counter()
    here, magnification = start[_PLACE], start["magnification"]
    limits = allowed_range(microscope.capabilities.working_distance, settings.bounds, here)
    x, y = read_pair(microscope, _STAGE, "mm")
    aim, sigma = map.predict(x, y)
    if aim not in limits:
        return None
    depth = map.depth_of_field(magnification)
    if not map.trusts(sigma, magnification):
        # From a place that is nearly sharp a run can hardly measure; the side alternates, and with it what remains.
        away = _ASIDE * depth * (1 if len(map.points) % 2 else -1)
        approach(microscope, next((place for place in (aim + away, aim - away) if place in limits), aim), limits)
        return None
    approach(microscope, aim, limits)
    return AutofocusResult(
        status="focused",
        reason=f"the focus map of {counted(len(map.points), 'point')} predicts it to ±{sigma / depth:.2f} depths of "
        "field",
        working_distance=microscope.working_distance,
        start_working_distance=here,
        score=map.score_near(x, y),
        confidence=math.erf(depth / (sigma * math.sqrt(2))) if sigma > 0 else 1.0,
        frames=0,
        elapsed=time.perf_counter() - began,
        method=BY_MAP,
        depth_of_field=depth,
    )


def _beside(
    microscope: Any,
    settings: AutofocusSettings,
    progress: Progress | None,
    cancel: threading.Event | None,
    start: Mapping[str, Any],
    focus: Callable[[AutofocusSettings, Progress | None], AutofocusResult],
) -> AutofocusResult:
    """Run where the settings say: at the target, beside it, or around it until a run is focused.

    The stage is left where the run was made; what `start` holds of it is put back by the caller.
    """
    x, y = start.get(_STAGE, (0.0, 0.0))
    if settings.focus_offset is not None:
        x, y = x + settings.focus_offset[0], y + settings.focus_offset[1]
        microscope.move_stage(x, y)
        _check_stage(microscope, (x, y), settings)
    result = focus(settings, progress)
    first = result
    for along, across in _AROUND if settings.move_to_contrast else ():
        left = _what_is_left(settings, result)
        if result.status != "refused" or left is None or (cancel is not None and cancel.is_set()):
            break
        place = x + along * settings.contrast_radius, y + across * settings.contrast_radius
        try:
            microscope.move_stage(*place)
        except OutOfRangeError as error:
            _log.info("no run at (%.4f, %.4f) mm: %s", *place, error)
            continue
        count = result.frames

        def numbered(step: FocusStep, count: int = count) -> FocusStep:
            return dataclasses.replace(step, index=step.index + count)

        def report(step: FocusStep, numbered: Callable[[FocusStep], FocusStep] = numbered) -> None:
            if progress is not None:
                progress(numbered(step))

        found = focus(left, report)
        result = dataclasses.replace(
            found,
            frames=count + found.frames,
            elapsed=result.elapsed + found.elapsed,
            trace=(*result.trace, *map(numbered, found.trace)),
        )
    if result is not first:
        result = dataclasses.replace(result, reason=f"{result.reason}; at the target: {first.reason}")
    if _STAGE in start and _aside(settings) and result.focused:
        now = read_pair(microscope, _STAGE, "mm")
        result = dataclasses.replace(result, measured_at=None if now == start[_STAGE] else now)
    return result


def _check_stage(microscope: Any, place: tuple[float, float], settings: AutofocusSettings) -> None:
    """Raise where the stage is not where a run beside the target has sent it: the target is spared, and comes back."""
    now = read_pair(microscope, _STAGE, "mm")
    way = math.hypot(*(settings.focus_offset or (0.0, 0.0))) + settings.contrast_radius * settings.move_to_contrast
    if math.dist(now, place) > max(0.5 * way, _STAGE_ERROR):
        raise DeviceError(
            f"the stage stands at ({now[0]:g}, {now[1]:g}) mm, and not at ({place[0]:g}, {place[1]:g}) mm where it was "
            "sent: check the stage and its driver"
        )


def _what_is_left(settings: AutofocusSettings, result: AutofocusResult) -> AutofocusSettings | None:
    """Return the settings of a further run, within what is left of frames and time; None where nothing is."""
    frames = None if settings.max_frames is None else settings.max_frames - result.frames
    seconds = None if settings.max_seconds is None else settings.max_seconds - result.elapsed
    if (frames is not None and frames < 1) or (seconds is not None and seconds <= 0):
        return None
    return dataclasses.replace(settings, max_frames=frames, max_seconds=seconds)


def _feed(map: FocusMap, microscope: Any, result: AutofocusResult) -> None:
    """Make a confident run a point of the map; without a depth of field there is nothing to weigh it by."""
    if result.depth_of_field is None and map.tolerance is None:
        _log.warning("%s reports no depth of field, so the run is no point of the focus map", result.method)
        return
    x, y = result.measured_at or read_pair(microscope, _STAGE, "mm")
    map.add(x, y, result, magnification=microscope.magnification)


def _at_target(
    microscope: Any,
    map: FocusMap | None,
    settings: AutofocusSettings,
    start: Mapping[str, Any],
    result: AutofocusResult,
) -> None:
    """Have the lens where the focus of the target should be: a stage move may set it back, and a map has a slope."""
    assert result.measured_at is not None
    aim = result.working_distance
    if map is not None and map.points:
        aim += map.predict(*read_pair(microscope, _STAGE, "mm"))[0] - map.predict(*result.measured_at)[0]
    limits = allowed_range(microscope.capabilities.working_distance, settings.bounds, start[_PLACE])
    if aim in limits and abs(aim - microscope.working_distance) > limits.step / 2:
        approach(microscope, aim, limits)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let a request to terminate end the block by an exception, so that everything is put back.

    Without, the process would end on the spot, the lens where the run had driven it. A handler that the program has
    installed stays, and so does everything outside the main thread.
    """
    asked: list[int] = []

    def end(number: int, _: object) -> None:
        if not asked:  # a second request must not break off what is being put back
            asked.append(number)
            raise SystemExit(128 + number)

    numbers = [number for name in _TERMINATE if (number := getattr(signal, name, None)) is not None]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def checked_settings(settings: AutofocusSettings | None, overrides: Mapping[str, Any]) -> AutofocusSettings:
    """Return the settings of a run with single fields overridden, as `autofocus` takes them.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For a field that there is not, and for values that make no sense.
    """
    if settings is None:
        settings = AutofocusSettings()
    elif not isinstance(settings, AutofocusSettings):
        raise InvalidParameterError(f"settings must be an AutofocusSettings, not {settings!r}")
    known = [field.name for field in dataclasses.fields(AutofocusSettings)]
    for name in overrides:
        if name not in known:
            raise InvalidParameterError(f"autofocus has no setting {name!r}; it has {', '.join(known)}")
    return dataclasses.replace(settings, **overrides)


def _start(microscope: Microscope, settings: AutofocusSettings) -> dict[str, Any]:
    """Return what to put back, in that order; raises before anything has moved where a run cannot begin from it."""
    if settings.stigmate and not has_member(microscope, "stigmator"):
        raise InvalidParameterError("stigmate=True needs a microscope whose stigmator can be set (HasStigmator)")
    aside = _aside(settings)
    if aside and not isinstance(microscope, HasStage):
        name = "move_to_contrast" if settings.focus_offset is None else "focus_offset"
        raise InvalidParameterError(f"{name} needs a stage, and {type(microscope).__name__} has none; leave it out")
    about = microscope.capabilities
    values: dict[str, Any] = {"magnification": _read_twice(microscope, "magnification", about.magnification)}
    if settings.stigmate:
        values["stigmator"] = stigmator_of(microscope)
    if settings.correct_drift and not isinstance(microscope, HasBeamShift | HasStage):
        raise InvalidParameterError(
            f"correct_drift needs a beam shift or a stage, and {type(microscope).__name__} has neither; leave it out"
        )
    if settings.correct_drift and isinstance(microscope, HasBeamShift):
        values[_SHIFT] = read_pair(microscope, _SHIFT, "mm")
    elif settings.correct_drift:
        aside = True
    if aside and isinstance(microscope, HasStage):
        values[_STAGE] = read_pair(microscope, _STAGE, "mm")
    values[_PLACE] = _read_twice(microscope, _PLACE, about.working_distance, "mm")
    allowed_range(about.working_distance, settings.bounds, values[_PLACE])
    return values


def _read_twice(microscope: Microscope, name: str, offered: Range, unit: str = "") -> float:
    """Return a value that is reported or put back, which two reads agree on: no later one would contradict it."""
    first, again = (read_number(microscope, name, unit) for _ in range(2))
    if abs(again - first) > max(offered.step, _SAME * abs(first)):
        raise DeviceError(
            f"the instrument reads back a {name.replace('_', ' ')} of {first:g} {unit}, and then {again:g} {unit}, "
            "with nothing set in between: wait until it stands still, or check its driver"
        )
    return first


def _aside(settings: AutofocusSettings) -> bool:
    """Return whether the run may be made beside the target."""
    return settings.focus_offset is not None or settings.move_to_contrast


def _bounds(settings: AutofocusSettings, start: float) -> tuple[float, float] | None:
    """Return the bounds with the travel within them: what a plugin reads as the start later does not move them."""
    if settings.max_travel is None:
        return settings.bounds
    low, high = settings.bounds or (-math.inf, math.inf)
    return max(low, start - settings.max_travel), min(high, start + settings.max_travel)


def _is_event(value: object) -> bool:
    return callable(getattr(value, "is_set", None))
