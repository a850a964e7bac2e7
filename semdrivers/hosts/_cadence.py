"""When to focus during a run of many frames, and what to do without focus: one implementation for every host."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from semdrivers.autofocus import autofocus
from semdrivers.base import described
from semdrivers.claims import Claim, check_free, claimed
from semdrivers.errors import BusyError, InvalidParameterError, OutOfRangeError
from semdrivers.files import counted
from semdrivers.focus import (
    AutofocusResult,
    AutofocusSettings,
    FrameSkippedError,
    NotFocusedError,
    Progress,
    record_of_frame,
)
from semdrivers.image import Image, ScanMode
from semdrivers.maps import FocusMap
from semdrivers.microscope import HasStage, Microscope, has_member, number
from semdrivers.notify import Listener, notify
from semdrivers.tracking import FocusTracker

ON_FAILURE = ("retry", "skip", "continue", "abort")
ON_DISTURBANCE = ("again", "skip", "abort")
FIRST = "first frame"
"""Why focus is wanted before anything was tried."""

LENS_STEPS, LENS_TRAVEL = 2.0, 0.002
"""A lens that stands further than so many of its steps, and than so many mm, from where it was left, was moved."""
BUSY_PAUSE = 1.0
"""Seconds between two tries at a busy instrument, at most."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class FocusPolicy:
    """When to focus, how, and what to do when it fails.

    The first frame of a run is always focused. After it, each field that is given is a further occasion; with
    none given, the run is focused once.

    Parameters
    ----------
    every : int, optional
        Focus again after so many frames; 1 focuses before each.
    stigmate_every : int, optional
        Correct the stigmator too, with the first focusing and again after so many frames; other focusings leave it.
    score_drop : float, optional
        Focus again when the last frame scored less, by this much, than the first frame after focusing (0 to 9).
    score : callable, optional
        Gives the score of an `Image`, such as ``semfocus_plugin.score``; needed with `score_drop`.
    stage_travel : float, optional
        Focus again when the stage stands further than this from where it was last focused, mm; 0 for any move.
    magnification_change : float, optional
        Focus again when the magnification differs from the last one by this ratio: 0.1 for 10 %.
    temperature : callable, optional
        Reads a temperature of your own instrument, °C; needed with `temperature_change`.
    temperature_change : float, optional
        Focus again when the temperature differs from that of the last focusing by this much, °C.
    on_failure : str
        When autofocus refuses: ``"abort"`` ends the run; ``"skip"`` takes no frame; ``"retry"`` tries up to
        `attempts` times, then skips; ``"continue"`` takes the frame at the old working distance, and its
        metadata say so. A cancel, and an exception of the instrument, end the run under every policy.
    attempts : int
        Tries in all under ``"retry"``, and frames in all when each is disturbed while it is scanned.
    on_disturbance : str
        When the lens no longer stands where it was left in focus (a hand on the knob, a stage move that sets it back,
        another program), and when the instrument is busy: ``"again"`` focuses again, and waits for a busy instrument;
        ``"skip"`` takes no frame (`FrameSkippedError`), and the next one is focused; ``"abort"`` ends the run
        (`NotFocusedError` for the lens, `BusyError` for a busy instrument).
    lens_travel : float, optional
        How far the lens may stand from where it was left before that is a disturbance, mm; by default two of the
        instrument's steps, and at least 0.002 mm.
    busy_timeout : float
        How long ``"again"`` waits for a busy instrument before `BusyError` ends the run, s.
    settings : AutofocusSettings
        How to focus.
    map : FocusMap, optional
        Predicts the focus over the stage; a focusing that the map is certain of takes no frame. With ``stage_travel=0``
        every stage move is followed by one.
    track : bool
        Keep the map up to date by the pictures themselves, without extra frames: each is taken a quarter of a depth of
        field above or below the focus, in turn, at the map's prediction for its place and time; two that follow each
        other and overlap are compared. It needs `map`, pictures that pass through the keeper, and
        ``pip install '.[tiles]'``. Nothing else need be given then.
    on_event : callable, optional
        Called with a `semdrivers.notify.Event` when a focusing failed (``"not-focused"``, with its ``result``) and at
        the end of a run (``"ended"``, with its ``frames``), such as a `semdrivers.notify.Webhook`. What it raises is
        logged and does not disturb the run.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For values that make no sense.
    """

    every: int | None = None
    stigmate_every: int | None = None
    score_drop: float | None = None
    score: Callable[[Image], float] | None = None
    stage_travel: float | None = None
    magnification_change: float | None = None
    temperature: Callable[[], float] | None = None
    temperature_change: float | None = None
    on_failure: str = "abort"
    attempts: int = 3
    on_disturbance: str = "again"
    lens_travel: float | None = None
    busy_timeout: float = 60.0
    settings: AutofocusSettings = field(default_factory=AutofocusSettings)
    map: FocusMap | None = None
    track: bool = False
    on_event: Listener | None = None

    def __post_init__(self) -> None:
        for name in ("every", "stigmate_every", "attempts"):
            value = getattr(self, name)
            if value is None and name != "attempts":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidParameterError(f"{name} must be a whole number, not {value!r}")
            if value < 1:
                raise OutOfRangeError(f"{name} must be at least 1, not {value}")
        for name, unit, least in (
            ("score_drop", "", 1e-9),
            ("stage_travel", "mm", 0.0),
            ("magnification_change", "", 1e-9),
            ("temperature_change", "°C", 1e-9),
            ("lens_travel", "mm", 0.0),
            ("busy_timeout", "s", 0.0),
        ):
            value = getattr(self, name)
            if value is not None and number(name, value, unit) < least:
                raise OutOfRangeError(f"{name} must be {'0 or more' if least == 0 else 'above 0'}, not {value:g}")
        for value, reader in (("score_drop", "score"), ("temperature_change", "temperature")):
            given, read = getattr(self, value), getattr(self, reader)
            if (given is None) != (read is None) or (read is not None and not callable(read)):
                raise InvalidParameterError(f"{value} and {reader} (a function) belong together; give both or neither")
        for name, choices in (("on_failure", ON_FAILURE), ("on_disturbance", ON_DISTURBANCE)):
            if getattr(self, name) not in choices:
                raise InvalidParameterError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if not isinstance(self.settings, AutofocusSettings):
            raise InvalidParameterError(f"settings must be an AutofocusSettings, not {self.settings!r}")
        if self.map is not None and not isinstance(self.map, FocusMap):
            raise InvalidParameterError(f"map must be a FocusMap, not {self.map!r}")
        if self.track and self.map is None:
            raise InvalidParameterError("track keeps a map up to date; pass map=FocusMap() with it")
        if self.on_event is not None and not callable(self.on_event):
            raise InvalidParameterError(f"on_event must be a function, not {self.on_event!r}")

    @property
    def once(self) -> bool:
        """Whether the first frame of a run is the only occasion."""
        occasions = (
            *(self.every, self.stigmate_every, self.score_drop),
            *(self.stage_travel, self.magnification_change, self.temperature_change),
        )
        return not self.track and all(occasion is None for occasion in occasions)

    def changed(self, **overrides: Any) -> Self:
        """Return the policy with single fields of its own, or of its `settings`, replaced.

        Raises
        ------
        InvalidParameterError
            When neither has a field of that name.
        """
        own = {entry.name for entry in dataclasses.fields(self)}
        how = {entry.name for entry in dataclasses.fields(AutofocusSettings)}
        unknown = sorted(set(overrides) - own - how)
        if unknown:
            raise InvalidParameterError(f"no policy or autofocus setting {unknown[0]!r}; there are {sorted(own | how)}")
        policy = dataclasses.replace(self, **{name: value for name, value in overrides.items() if name in own})
        changes = {name: value for name, value in overrides.items() if name not in own}
        return dataclasses.replace(policy, settings=dataclasses.replace(policy.settings, **changes))


class PolledEvent(threading.Event):
    """An event that is also set while `poll` says so: a host's own wish to cancel, as autofocus understands it.

    Parameters
    ----------
    poll : callable
        Returns whether the host has been asked to stop; quick, for it is asked before every frame.
    """

    def __init__(self, poll: Callable[[], bool]) -> None:
        super().__init__()
        self._poll = poll

    def is_set(self) -> bool:
        """Whether `set` was called or the host has been asked to stop."""
        return super().is_set() or self._poll()


class FocusKeeper:
    """Keeps one microscope in focus through a run, by a `FocusPolicy`. Every host adapter drives one of these.

    Parameters
    ----------
    microscope : Microscope
        Any; with `FocusPolicy.stage_travel` it needs ``stage_position``.
    policy : FocusPolicy, optional
        Focus once and abort on failure by default.
    cancel : threading.Event, optional
        Obeyed before the next frame, of autofocus too.
    progress : callable, optional
        As in `semdrivers.autofocus`.
    **overrides
        Single fields of `FocusPolicy` or `AutofocusSettings`, such as ``every=10`` or ``max_travel=1.0``.

    Attributes
    ----------
    result : AutofocusResult or None
        Result of the last focusing.
    frames : int
        Frames taken since the keeper was made.
    around_focus : callable
        Makes the context in which each focusing runs, such as one that has the beam on; none by default.
    """

    def __init__(
        self,
        microscope: Microscope,
        policy: FocusPolicy | None = None,
        *,
        cancel: threading.Event | None = None,
        progress: Progress | None = None,
        **overrides: Any,
    ) -> None:
        self.microscope = microscope
        self.policy = (policy if policy is not None else FocusPolicy()).changed(**overrides)
        self.cancel = cancel if cancel is not None else threading.Event()
        self.progress = progress
        self.result: AutofocusResult | None = None
        self.frames = 0
        self.around_focus: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._claim: Claim | None = None
        if self.policy.stage_travel is not None and not hasattr(type(microscope), "stage_position"):
            raise InvalidParameterError(
                f"{type(microscope).__name__} has no stage_position, which stage_travel needs; leave stage_travel out"
            )
        if self.policy.map is not None and not isinstance(microscope, HasStage):
            raise InvalidParameterError(f"map needs a stage, and {type(microscope).__name__} has none; leave map out")
        if self.policy.stigmate_every is not None and not has_member(microscope, "stigmator"):
            raise InvalidParameterError(
                f"stigmate_every needs a stigmator that can be set, and {type(microscope).__name__} has none"
            )
        self._tracker: FocusTracker | None = None
        if self.policy.track and self.policy.map is not None:
            self._tracker = FocusTracker(microscope, self.policy.map)
        self.restart()

    def restart(self) -> None:
        """Begin a new run: the next frame is focused."""
        self._wanted = FIRST
        self._since = 0
        self._since_stigmated: int | None = None
        self._first_score: float | None = None
        self._last_score: float | None = None
        self._place: Mapping[str, Any] = {}
        self._left_at: float | None = None
        if self._tracker is not None:
            self._tracker.restart()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the instrument for the frames of the block: no other keeper, and no autofocus of another thread.

        Raises
        ------
        BusyError
            When it is held already, through whatever wrapper.
        """
        with claimed(self.microscope, "a run of frames kept in focus", as_keeper=True) as self._claim:
            ended = "the run of frames has ended"
            try:
                yield
            except BaseException as error:
                ended = f"the run of frames was ended by {type(error).__name__}: {error}"
                raise
            finally:
                self._claim = None
                notify(self.policy.on_event, "ended", ended, frames=self.frames)

    @property
    def record(self) -> dict[str, Any] | None:
        """Result of the last focusing without its trace, and the frames taken since; None before the first."""
        if self.result is None:
            return None
        record = {name: value for name, value in self.result.to_dict().items() if name != "trace"}
        return {**record, "frames_since": self._since}

    def record_of(self, working_distance: float) -> dict[str, Any] | None:
        """Return the record of a frame at a working distance in mm: with ``lens_offset``; None before any focusing."""
        return None if self.record is None else record_of_frame(self.record, working_distance)

    def accept_lens(self, working_distance: float | None = None) -> None:
        """Take the lens where it stands, or at a working distance in mm, for moved on purpose: no disturbance.

        For frames away from focus that are meant so, such as a focal series. Their record says how far away.
        """
        if self._left_at is not None:
            self._left_at = self.microscope.working_distance if working_distance is None else float(working_distance)

    def disturbance(self) -> str:
        """Return how far the lens was moved since it was left in focus, or an empty text."""
        return "" if self._left_at is None else self._moved(self.microscope.working_distance)

    def obey_disturbance(self) -> str:
        """Return what `disturbance` says; under ``"skip"`` and ``"abort"``, raise if it says anything.

        Raises
        ------
        FrameSkippedError, NotFocusedError
            As `FocusPolicy.on_disturbance` says. The next frame will want focus.
        """
        moved = "" if self._wanted else self.disturbance()
        if moved:
            self._disturbed(moved)
        return moved

    def due(self) -> str:
        """Return why the next frame is to be focused, or an empty text."""
        policy, place = self.policy, self._place
        if self._wanted:
            return self._wanted
        moved = self.disturbance()
        if moved:
            return moved
        if self._tracker is not None and self._since:
            return "the focus is tracked"
        if policy.every is not None and self._since >= policy.every:
            return f"{counted(self._since, 'frame')} since the last focusing"
        if self._stigmates() and self._since_stigmated is not None:
            return f"{counted(self._since_stigmated, 'frame')} since the stigmator was corrected"
        if policy.score_drop is not None and self._first_score is not None and self._last_score is not None:
            drop = self._first_score - self._last_score
            if drop >= policy.score_drop:
                return f"the score dropped by {drop:.1f}"
        now = self._read_place()
        if policy.magnification_change is not None:
            change = abs(now["magnification"] / place["magnification"] - 1)
            if change >= policy.magnification_change:
                return f"the magnification changed by {change:.0%}"
        if policy.stage_travel is not None:
            (x, y), (x0, y0) = now["stage"], place["stage"]
            travel = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
            if travel > policy.stage_travel:
                return f"the stage moved by {travel:.3f} mm"
        if policy.temperature_change is not None:
            change = abs(now["temperature"] - place["temperature"])
            if change >= policy.temperature_change:
                return f"the temperature changed by {change:.2f} °C"
        return ""

    def before_frame(self) -> str:
        """Focus if the next frame needs it; return why, or an empty text.

        Raises
        ------
        NotFocusedError
            When the run must end: cancelled, refused under ``on_failure="abort"``, or disturbed under
            ``on_disturbance="abort"``.
        FrameSkippedError
            When the frame must not be taken; the next one will want focus again.
        BusyError
            When another autofocus run is under way on the instrument, or the instrument stays busy.
        """
        if self.cancel.is_set():
            raise NotFocusedError("cancelled before the frame was taken", self.result)
        with self._acting():
            check_free(self.microscope)
            reason = self._when_free(lambda: self.obey_disturbance() or self.due())
        if reason:
            _log.info("focusing: %s", reason)
            self.focus()
        return reason

    def focus(self) -> AutofocusResult:
        """Focus now, whatever the cadence, and apply the failure policy. Raises as `before_frame` does."""
        policy, tries = self.policy, 0
        self._wanted, self._left_at = "the last focusing did not succeed", None
        with self._acting():
            check_free(self.microscope)
        while True:
            tries += 1
            self.result = result = self._when_free(self._autofocus)
            self._since, self._first_score, self._last_score = 0, None, None
            if not result.focused:
                failure = f"autofocus {result.status}: {result.reason}"
                notify(self.policy.on_event, "not-focused", failure, result=result.to_record())
            if result.status == "cancelled":
                raise NotFocusedError(f"autofocus was cancelled: {result.reason}", result)
            if result.focused or policy.on_failure == "continue":
                break
            _log.warning("autofocus %s: %s", result.status, result.reason)
            if policy.on_failure == "abort":
                raise NotFocusedError(f"autofocus {result.status}: {result.reason}", result)
            if policy.on_failure == "skip" or tries >= policy.attempts:
                raise FrameSkippedError(f"autofocus {result.status} {tries} times: {result.reason}", result)
        if self._tracker is not None and result.focused:
            with self._acting():
                self._tracker.step_aside(result, policy.settings)
            self._left_at = self.microscope.working_distance
        else:
            self._left_at = result.working_distance
        self._wanted = ""
        self._since_stigmated = 0 if self._stigmates() else self._since_stigmated
        self._place = self._read_place()
        return result

    def _stigmates(self) -> bool:
        """Return whether the next focusing is to correct the stigmator."""
        every, since = self.policy.stigmate_every, self._since_stigmated
        return every is not None and (since is None or since >= every)

    def _autofocus(self) -> AutofocusResult:
        settings, stigmates = self.policy.settings, self._stigmates()
        if stigmates:
            settings = dataclasses.replace(settings, stigmate=True)
        with self._acting(), self.around_focus():
            return autofocus(
                self.microscope,
                settings=settings,
                progress=self.progress,
                cancel=self.cancel,
                map=None if stigmates else self.policy.map,
            )

    def after_frame(self, image: Image) -> Image:
        """Count a frame that was taken; return it with settings and focus record in its metadata."""
        record = self.record_of(image.working_distance)
        moved = "" if self._left_at is None else self._moved(image.working_distance)
        if moved:
            _log.warning("frame %d: %s", self.frames, moved)
        if self._tracker is not None and not moved:
            self._tracker.add(image)
        self.count()
        if self.policy.score is not None:
            self._last_score = float(self.policy.score(image))
            if self._first_score is None:
                self._first_score = self._last_score
        image = described(image, self.microscope)
        return dataclasses.replace(image, metadata={**image.metadata, "autofocus": record}) if record else image

    def count(self) -> None:
        """Count a frame whose picture is not at hand."""
        self.frames += 1
        self._since += 1
        if self._since_stigmated is not None:
            self._since_stigmated += 1

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Focus if due, and take a frame; one during which the lens was moved is taken again, in focus.

        Raises
        ------
        NotFocusedError, FrameSkippedError, BusyError
            As `before_frame`; also when the lens was moved during `FocusPolicy.attempts` frames one after another.
        SemDriversError
            Whatever the microscope raises.
        """
        moved = ""
        for _ in range(self.policy.attempts):
            self.before_frame()
            image = self._when_free(lambda: self.microscope.acquire(mode))
            # A frame may report no place, or the one where its scan began: the lens is asked too.
            moved = self._moved(image.working_distance) or self.disturbance()
            if not moved:
                return self.after_frame(image)
            self._disturbed(f"by what frame and lens report, {moved}")
        raise FrameSkippedError(f"{self.policy.attempts} frames one after another were disturbed: {moved}", self.result)

    def _acting(self) -> AbstractContextManager[None]:
        """Let the present thread act for this keeper."""
        return self._claim.here() if self._claim is not None else nullcontext()

    def _moved(self, working_distance: float) -> str:
        """Return how far a working distance is from where the lens was left, or an empty text; NaN says nothing."""
        offset = working_distance - (working_distance if self._left_at is None else self._left_at)
        allowed = self.policy.lens_travel
        if allowed is None:
            allowed = max(LENS_STEPS * self.microscope.capabilities.working_distance.step, LENS_TRAVEL)
        if not math.isfinite(offset) or abs(offset) <= allowed + 1e-9:
            return ""
        return f"the lens stands {offset:+.4f} mm from where it was left in focus"

    def _disturbed(self, what: str) -> None:
        """Make the next frame want focus, and raise as the policy says."""
        _log.warning("disturbed: %s", what)
        self._wanted = what
        if self.policy.on_disturbance == "abort":
            raise NotFocusedError(f"the run was disturbed: {what}", self.result)
        if self.policy.on_disturbance == "skip":
            raise FrameSkippedError(f"the frame was disturbed: {what}", self.result)

    def _when_free(self, work: Callable[[], _T]) -> _T:
        """Do something with the instrument; one that is busy is waited for, as the policy says."""
        give_up = time.monotonic() + self.policy.busy_timeout
        while True:
            try:
                return work()
            except BusyError as error:
                if self.policy.on_disturbance == "skip":
                    raise FrameSkippedError(f"the instrument is busy: {error}", self.result) from error
                if self.policy.on_disturbance == "abort" or time.monotonic() >= give_up:
                    raise
                _log.warning("busy, trying again: %s", error)
            pause_ends = time.monotonic() + min(BUSY_PAUSE, self.policy.busy_timeout / 10)
            while time.monotonic() < pause_ends:
                if self.cancel.is_set():
                    raise NotFocusedError("cancelled while the instrument was busy", self.result)
                time.sleep(0.02)

    def _read_place(self) -> Mapping[str, Any]:
        """Read what the policy watches, and no more: each value is a question to the instrument."""
        policy, place = self.policy, dict[str, Any]()
        if policy.magnification_change is not None:
            place["magnification"] = self.microscope.magnification
        if policy.stage_travel is not None:
            place["stage"] = getattr(self.microscope, "stage_position")  # noqa: B009
        if policy.temperature is not None:
            place["temperature"] = number("temperature", policy.temperature(), "°C")
        return place
