"""pymmcore-plus: a `Microscope` as camera, focus drive, stage and shutter, and autofocus before acquisition.

::

    core = UniMMCore()
    load_microscope(core, microscope)
    with autofocus_before(core, microscope):
        core.mda.run(useq.MDASequence(stage_positions=[(0, 0), (500, 0)], autofocus_plan={"axes": ("p",)}))

The other way round, `MicroscopeOfCore` makes a core's camera and focus drive a `Microscope`; so does the address
``micromanager:///path/to/config.cfg?numerical_aperture=0.5``.

For the first, Micro-Manager need not be installed. Written for pymmcore-plus 0.18.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from semdrivers.errors import installation
from semdrivers.files import plain
from semdrivers.focus import FrameSkippedError, NotFocusedError, Progress
from semdrivers.hosts._cadence import FocusKeeper, FocusPolicy, PolledEvent
from semdrivers.image import Image
from semdrivers.microscope import Microscope

try:
    from pymmcore_plus.mda import SkipEvent
    from useq import AcquireImage, HardwareAutofocus, MDASequence

    from semdrivers.hosts._pymmcore_adapters import MicroscopeOfCore, connect
    from semdrivers.hosts._pymmcore_devices import (
        BeamShutter,
        MicroscopeCamera,
        MicroscopeStage,
        WorkingDistanceDrive,
        beam_for_frames,
        camera_of,
        conditions,
        follow,
        load_microscope,
    )
except ImportError as error:
    raise ImportError(f"semdrivers.hosts.pymmcore needs pymmcore-plus 0.18: {installation('pymmcore')}") from error

__all__ = [
    "BeamShutter", "FocusingEngine", "MicroscopeCamera", "MicroscopeOfCore", "MicroscopeStage",
    "WorkingDistanceDrive", "autofocus_before", "connect", "follow", "load_microscope",
]  # fmt: skip

_UM = 1000.0


class FocusingEngine:
    """An acquisition engine that focuses where the sequence or the policy needs it, and leaves the rest to another.

    Parameters
    ----------
    core : CMMCorePlus
        The core.
    engine : PMDAEngine
        The engine that does everything else.
    keeper : FocusKeeper
        Keeper of the microscope behind the core.
    """

    def __init__(self, core: Any, engine: Any, keeper: FocusKeeper) -> None:
        self._core, self._engine, self._keeper = core, engine, keeper
        self._corrections: dict[Any, float] = {}
        self._left_out = ""
        keeper.around_focus = lambda: beam_for_frames(core)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def setup_sequence(self, sequence: Any) -> Any:
        """Begin a run: nothing is in focus yet."""
        self._keeper.restart()
        self._corrections.clear()
        self._left_out = ""
        return self._engine.setup_sequence(sequence)

    def event_iterator(self, events: Iterable[Any]) -> Iterator[Any]:
        """Let every run of one sequence focus anew; under a cadence, let no events be merged past us."""
        if isinstance(events, MDASequence):
            events = _with_fresh_plans(events)
        merge = getattr(self._engine, "event_iterator", iter)
        yield from merge(events) if self._keeper.policy.once else events

    def setup_event(self, event: Any) -> None:
        """Move as the event says, with the working distance corrected by the focus found; focus a frame if due."""
        if _takes_frame(event) and self._left_out:
            raise SkipEvent(_frames(event), self._left_out)
        at = event.index.get("p")
        corrected = event.z_pos is not None and at in self._corrections
        self._engine.setup_event(
            event.model_copy(update={"z_pos": event.z_pos + self._corrections[at]}) if corrected else event
        )
        if event.z_pos is not None:
            self._keeper.accept_lens()
        if not _takes_frame(event) or "z" in event.index:
            return
        try:
            if self._keeper.before_frame():
                self._correct(event)
        except FrameSkippedError as error:
            raise SkipEvent(_frames(event), str(error)) from error
        except NotFocusedError as error:
            if self._keeper.cancel.is_set():
                raise SkipEvent(_frames(event), str(error)) from error
            raise

    def exec_event(self, event: Any) -> Iterator[Any]:
        """Focus for an autofocus event; else take the frame and write conditions and focus record beside it."""
        if isinstance(event.action, HardwareAutofocus):
            self._focus(event)
            return
        frames = iter(self._engine.exec_event(event) or ())
        signal, camera = None, camera_of(self._core, self._keeper.microscope) if _takes_frame(event) else None
        if camera is not None:
            camera.error = None
        while True:
            try:
                payload = frames.send(signal) if isinstance(frames, types.GeneratorType) else next(frames)
            except StopIteration:
                if camera is not None and camera.error is not None:
                    raise camera.error from None  # the other engine logs it and goes on without the frame
                return
            signal = yield self._described(payload) if payload is not None and _takes_frame(event) else payload

    def teardown_event(self, event: Any) -> None:
        """Leave it to the other engine."""
        getattr(self._engine, "teardown_event", lambda event: None)(event)

    def teardown_sequence(self, sequence: Any) -> None:
        """Leave it to the other engine."""
        getattr(self._engine, "teardown_sequence", lambda sequence: None)(sequence)

    def _focus(self, event: Any) -> None:
        try:
            self._keeper.focus()
        except FrameSkippedError as error:
            self._left_out = str(error)
        except NotFocusedError:
            if not self._keeper.cancel.is_set():
                raise
        else:
            self._left_out = ""
            self._correct(event)

    def _correct(self, event: Any) -> None:
        """Remember how far the focus lies from where the sequence thinks it is."""
        result = self._keeper.result
        if event.z_pos is not None and result is not None and result.focused:
            self._corrections[event.index.get("p")] = result.working_distance * _UM - event.z_pos

    def _described(self, payload: Any) -> Any:
        pixels, event, metadata = payload
        microscope, camera = self._keeper.microscope, camera_of(self._core, self._keeper.microscope)
        image = None if camera is None else camera.last_image
        if image is None:
            width = metadata.get("pixel_size_um") or 0.0
            image = Image(pixels, microscope.working_distance, microscope.magnification, width * 1000)
        else:
            metadata["pixel_size_um"] = image.pixel_size / 1000
        metadata["semdrivers"] = conditions(image)
        image = self._keeper.after_frame(image)
        metadata["autofocus"] = plain(image.metadata.get("autofocus"))
        return pixels, event, metadata


@contextmanager
def autofocus_before(
    core: Any,
    microscope: Microscope,
    policy: FocusPolicy | None = None,
    *,
    progress: Progress | None = None,
    **overrides: Any,
) -> Iterator[FocusKeeper]:
    """Focus during the acquisitions that run inside the ``with`` block; the engine found is put back at its end.

    A frame that the instrument refuses (beam off, link lost) ends the acquisition with that error.

    Autofocus events of the sequence (``autofocus_plan``) focus; so do the first frame of a run and whatever the
    policy needs besides. A z-stack is left to the plan. ``core.mda.cancel()`` is obeyed before the next frame,
    autofocus frames included. The block ends when an acquisition that was started in it has ended.

    Parameters
    ----------
    core : CMMCorePlus
        With the microscope loaded (`load_microscope`), or with any other devices of the same instrument.
    microscope : Microscope
        The instrument behind the core.
    policy, progress, **overrides
        As for `semdrivers.hosts.focused`.

    Yields
    ------
    FocusKeeper
        With the last result.

    Raises
    ------
    BusyError
        When another keeper or an autofocus run holds the instrument.
    """
    cancel = PolledEvent(lambda: bool(core.mda.status.cancel_requested))
    keeper = FocusKeeper(microscope, policy, cancel=cancel, progress=progress, **overrides)
    started_before = set(threading.enumerate())
    engine = core.mda.engine
    with keeper.hold():
        core.mda.set_engine(FocusingEngine(core, engine, keeper))
        try:
            yield keeper
            _wait(core, started_before)
        finally:
            if core.mda.is_running():
                core.mda.cancel()
                _wait(core, started_before)
            core.mda.set_engine(engine)


def _wait(core: Any, started_before: set[threading.Thread]) -> None:
    """Return when no acquisition runs; one that was just started on a thread is given time to begin."""
    begins_by = time.monotonic() + 2.0
    while core.mda.is_running() or (
        time.monotonic() < begins_by
        and any(thread.is_alive() and not thread.daemon for thread in set(threading.enumerate()) - started_before)
    ):
        time.sleep(0.02)


def _takes_frame(event: Any) -> bool:
    return event.action is None or isinstance(event.action, AcquireImage)


def _frames(event: Any) -> int:
    return len(getattr(event, "events", (event,)))


def _with_fresh_plans(sequence: Any) -> Any:
    """Return the sequence with autofocus plans that remember no earlier run, or they would focus but once."""
    update: dict[str, Any] = {}
    if sequence.autofocus_plan is not None:
        plan = sequence.autofocus_plan
        update["autofocus_plan"] = type(plan)(**plan.model_dump())
    positions = [
        place.model_copy(update={"sequence": _with_fresh_plans(place.sequence)}) if place.sequence else place
        for place in sequence.stage_positions
    ]
    if any(place.sequence for place in positions):
        update["stage_positions"] = tuple(positions)
    return sequence.model_copy(update=update) if update else sequence
