"""Bluesky: a `Microscope` as devices without ophyd, and autofocus as plan stub, wrapper, preprocessor and step.

::

    sem = devices(microscope)
    RE(autofocus_wrapper(bp.list_scan([sem.detector], sem.stage_x, [0, 1, 2]), sem, every=1))
    RE.preprocessors.append(autofocus_preprocessor(sem, every=10, on_failure="skip"))  # or: in every plan from here on

Each event of the detector holds the focus record (``sem_focus_status`` and so on) and the conditions of the frame
(``sem_frame_working_distance``), and each focusing inside a run is an event of the stream
``autofocus``. Abort, stop and pause reach inside: the lens is back at its start before the RunEngine goes on.
Written for Bluesky 1.15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from semdrivers.errors import installation
from semdrivers.focus import AutofocusResult, FrameSkippedError, NotFocusedError
from semdrivers.hosts._cadence import FocusKeeper, FocusPolicy
from semdrivers.microscope import Microscope

try:
    from bluesky import plan_stubs as bps
    from bluesky.preprocessors import plan_mutator
    from bluesky.utils import FailedStatus, Msg
except ImportError as error:
    raise ImportError(f"semdrivers.hosts.bluesky needs Bluesky 1.15: {installation('bluesky')}") from error

from semdrivers.hosts._bluesky_devices import Devices, devices

__all__ = [
    "STREAM", "Devices", "Plan", "autofocus", "autofocus_per_step", "autofocus_preprocessor", "autofocus_wrapper",
    "devices",
]  # fmt: skip

STREAM = "autofocus"
"""Name of the event stream in which focusings are written."""

Plan = Iterator[Any]
"""What a plan is: a generator of messages."""


def autofocus(
    sem: Devices | Microscope, policy: FocusPolicy | None = None, *, stream: str | None = None, **overrides: Any
) -> Any:
    """Focus now: a plan stub that returns the `AutofocusResult`.

    Parameters
    ----------
    sem : Devices or Microscope
        What `devices` returned; or a microscope, with devices of the stub's own.
    policy : FocusPolicy, optional
        What to do on failure; the one in force on `sem` by default.
    stream : str, optional
        Inside a run: the stream in which the result is written as an event.
    **overrides
        Single fields of the policy, or of `AutofocusSettings`.

    Raises
    ------
    NotFocusedError
        Within the plan, when it was refused under ``"abort"``, or stopped.
    FrameSkippedError
        Within the plan, when it was refused under ``"skip"`` or ``"retry"``.
    """
    sem = sem if isinstance(sem, Devices) else devices(sem)
    if policy is not None or overrides:
        before = sem.autofocus.keeper.policy
        sem.autofocus.keeper.policy = (policy if policy is not None else before).changed(**overrides)
        try:
            return (yield from _focus(sem, stream))
        finally:
            sem.autofocus.keeper.policy = before
    return (yield from _focus(sem, stream))


def autofocus_wrapper(
    plan: Plan, sem: Devices | Microscope, policy: FocusPolicy | None = None, **overrides: Any
) -> Plan:
    """Focus before the frames of a plan that want it: the first of each run, and those that the policy names.

    Parameters
    ----------
    plan : generator
        Any plan that triggers ``sem.detector``.
    sem : Devices
        What `devices` returned.
    policy : FocusPolicy, optional
        Focus once a run and abort on failure by default.
    **overrides
        Single fields of the policy, or of `AutofocusSettings`.

    Yields
    ------
    Msg
        Those of the plan. A frame left out for want of focus leaves no event. In a scan of ``sem.working_distance`` the
        lens is the plan's: nothing is focused. Where the plan sets it otherwise, that is no disturbance.
    """
    sem = sem if isinstance(sem, Devices) else devices(sem)
    keeper = sem.autofocus.keeper = FocusKeeper(sem.microscope, policy, **overrides)
    runs = 0
    left_out = lens_is_scanned = False

    def focused_trigger(message: Any) -> Plan:
        nonlocal left_out
        try:
            keeper.obey_disturbance()
            yield from _focus(sem, STREAM if runs else None)
        except FrameSkippedError:
            left_out = True
            yield Msg("null")
        else:
            yield message

    def process(message: Any) -> tuple[Plan | None, None]:
        nonlocal runs, left_out, lens_is_scanned
        command = message.command
        if command == "open_run":
            runs += 1
            keeper.restart()
            lens_is_scanned = sem.working_distance.name in (message.kwargs.get("motors") or ())
        elif command == "close_run":
            runs -= 1
            lens_is_scanned = False
        elif command == "set" and message.obj is sem.working_distance:
            keeper.accept_lens(message.args[0])
        elif command == "trigger" and message.obj is sem.detector:
            left_out = False
            if not lens_is_scanned and keeper.due():
                return focused_trigger(message), None
        elif left_out and command == "read" and message.obj is sem.detector:
            return _instead("null"), None
        elif left_out and command == "save":
            left_out = False
            return _instead("drop"), None
        return None, None

    return (yield from plan_mutator(plan, process))  # type: ignore[no-any-return]


def autofocus_preprocessor(sem: Devices, policy: FocusPolicy | None = None, **overrides: Any) -> Callable[[Plan], Plan]:
    """Return a function for ``RE.preprocessors``: `autofocus_wrapper` around every plan."""
    FocusKeeper(sem.microscope, policy, **overrides)  # a policy that makes no sense is reported now, not in the night
    return lambda plan: autofocus_wrapper(plan, sem, policy, **overrides)


def autofocus_per_step(sem: Devices, policy: FocusPolicy | None = None, **overrides: Any) -> Callable[..., Any]:
    """Return a ``per_step`` for scans: move, focus, read. By default every point is focused.

    A point without focus under ``"skip"`` or ``"retry"`` leaves no event. Nothing is focused where the working distance
    is scanned.
    """
    overrides = overrides if policy is not None else {"every": 1, **overrides}
    keeper = FocusKeeper(sem.microscope, policy, **overrides)

    def per_step(detectors: Sequence[Any], step: Mapping[Any, Any], pos_cache: dict[Any, Any]) -> Any:
        sem.autofocus.keeper = keeper
        yield from bps.move_per_step(step, pos_cache)
        try:
            if sem.working_distance not in step and keeper.due():
                keeper.obey_disturbance()
                yield from _focus(sem, STREAM)
        except FrameSkippedError:
            return
        yield from bps.trigger_and_read([*detectors, *step])

    return per_step


def _focus(sem: Devices, stream: str | None) -> Any:
    """Set the autofocus device and wait; write its reading; raise what it raised."""
    device = sem.autofocus
    error: BaseException | None = None
    try:
        yield from bps.abs_set(device, None, wait=True)
    except FailedStatus:
        if device.error is None:
            raise
        error = device.error
    result: AutofocusResult | None = device.result
    if stream is not None and result is not None:
        yield from bps.create(name=stream)
        yield from bps.read(device)
        yield from bps.save()
    if error is not None:
        raise error
    if result is not None and result.status == "cancelled":
        raise NotFocusedError(f"autofocus was stopped: {result.reason}", result)
    return result


def _instead(command: str) -> Plan:
    yield Msg(command)
