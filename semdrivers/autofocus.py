"""`autofocus`: the one call that hosts make.

The focusing itself lives in plugins (hook ``semdrivers_autofocus``). What must hold for every plugin lives
here: arguments checked before any I/O, one run at a time on a microscope, and working distance and
magnification put back whatever happens.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from semdrivers.claims import claimed, layers
from semdrivers.errors import AutofocusError, InvalidParameterError
from semdrivers.focus import AutofocusResult, AutofocusSettings, Progress, RecordsFocus
from semdrivers.microscope import (
    LimitsTravel,
    Microscope,
    allowed_range,
    check_microscope,
    offered_mode,
    put_back,
    read_number,
    restoring,
)

__all__ = ["autofocus"]

_log = logging.getLogger("semdrivers.autofocus")
_PLACE = "working_distance"
_TERMINATE = ("SIGTERM", "SIGHUP")


def autofocus(
    microscope: Microscope,
    *,
    settings: AutofocusSettings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
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
    SemDriversError
        Whatever the microscope raises; working distance and magnification have been put back.
    SystemExit
        On SIGTERM and SIGHUP, where the program has no handler of its own and this is its main thread; the same.
    """
    settings = _settings(settings, overrides)
    check_microscope(microscope)
    travels = [settings.max_travel, *(each.max_travel for each in layers(microscope) if isinstance(each, LimitsTravel))]
    limits = [travel for travel in travels if travel is not None]
    settings = dataclasses.replace(settings, max_travel=min(limits, default=None))
    for name, callback, kind in (("progress", progress, callable), ("cancel", cancel, _is_event)):
        if callback is not None and not kind(callback):
            raise InvalidParameterError(f"{name} cannot be {callback!r}")
    from semdrivers.plugins import get_plugin_manager

    plugins = get_plugin_manager()
    if settings.method is not None:
        plugins.check_autofocus_method(settings.method)
    with (
        claimed(microscope, "an autofocus run"),
        _ended_in_order(),
        restoring(microscope, only_on_error=True, values=_start(microscope, settings)) as start,
    ):
        mode = offered_mode(microscope.capabilities, settings.scan_mode)
        bounds = _bounds(settings, start["working_distance"])
        settings = dataclasses.replace(settings, scan_mode=mode, bounds=bounds)
        result = plugins.autofocus_hook(settings.method)(
            microscope=microscope, settings=settings, progress=progress, cancel=cancel
        )
        if result is None:
            raise AutofocusError(plugins.describe_missing_autofocus(settings.method))
        if not isinstance(result, AutofocusResult):
            raise AutofocusError(f"an autofocus plugin returned {type(result).__name__}, not an AutofocusResult")
        stays = () if settings.restore_on_failure and not result.focused else ("working_distance",)
        for failure in put_back(microscope, {name: start[name] for name in start if name not in stays}).values():
            raise failure
        result = dataclasses.replace(result, working_distance=microscope.working_distance)
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


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let a request to terminate end the run by an exception, so that everything is put back.

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


def _settings(settings: AutofocusSettings | None, overrides: dict[str, Any]) -> AutofocusSettings:
    if settings is None:
        settings = AutofocusSettings()
    elif not isinstance(settings, AutofocusSettings):
        raise InvalidParameterError(f"settings must be an AutofocusSettings, not {settings!r}")
    known = [field.name for field in dataclasses.fields(AutofocusSettings)]
    for name in overrides:
        if name not in known:
            raise InvalidParameterError(f"autofocus has no setting {name!r}; it has {', '.join(known)}")
    return dataclasses.replace(settings, **overrides)


def _start(microscope: Microscope, settings: AutofocusSettings) -> dict[str, float]:
    """Return what to put back, in that order; raises before anything has moved where a run cannot begin from it."""
    values = {name: read_number(microscope, name, unit) for name, unit in (("magnification", ""), (_PLACE, "mm"))}
    allowed_range(microscope.capabilities.working_distance, settings.bounds, values[_PLACE])
    return values


def _bounds(settings: AutofocusSettings, start: float) -> tuple[float, float] | None:
    """Return the bounds with the travel within them: what a plugin reads as the start later does not move them."""
    if settings.max_travel is None:
        return settings.bounds
    low, high = settings.bounds or (-math.inf, math.inf)
    return max(low, start - settings.max_travel), min(high, start + settings.max_travel)


def _is_event(value: object) -> bool:
    return callable(getattr(value, "is_set", None))
