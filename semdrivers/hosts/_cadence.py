"""When to focus during a run of many frames, and what to do without focus: one implementation for every host."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from semdrivers.autofocus import autofocus
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.focus import AutofocusResult, AutofocusSettings, FrameSkippedError, NotFocusedError, Progress
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Microscope, number

ON_FAILURE = ("retry", "skip", "continue", "abort")
FIRST = "first frame"
"""Why focus is wanted before anything was tried."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FocusPolicy:
    """When to focus, how, and what to do when it fails.

    The first frame of a run always wants focus. After it, each field that is given is a further occasion; with
    none given, the run is focused once.

    Parameters
    ----------
    every : int, optional
        Focus again after so many frames; 1 focuses before each.
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
        Tries in all under ``"retry"``.
    settings : AutofocusSettings
        How to focus.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For values that make no sense.
    """

    every: int | None = None
    score_drop: float | None = None
    score: Callable[[Image], float] | None = None
    stage_travel: float | None = None
    magnification_change: float | None = None
    temperature: Callable[[], float] | None = None
    temperature_change: float | None = None
    on_failure: str = "abort"
    attempts: int = 3
    settings: AutofocusSettings = field(default_factory=AutofocusSettings)

    def __post_init__(self) -> None:
        for name in ("every", "attempts"):
            value = getattr(self, name)
            if value is None and name == "every":
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
        ):
            value = getattr(self, name)
            if value is not None and number(name, value, unit) < least:
                raise OutOfRangeError(f"{name} must be {'0 or more' if least == 0 else 'above 0'}, not {value:g}")
        for value, reader in (("score_drop", "score"), ("temperature_change", "temperature")):
            given, read = getattr(self, value), getattr(self, reader)
            if (given is None) != (read is None) or (read is not None and not callable(read)):
                raise InvalidParameterError(f"{value} and {reader} (a function) belong together; give both or neither")
        if self.on_failure not in ON_FAILURE:
            raise InvalidParameterError(f"on_failure must be one of {', '.join(ON_FAILURE)}, not {self.on_failure!r}")
        if not isinstance(self.settings, AutofocusSettings):
            raise InvalidParameterError(f"settings must be an AutofocusSettings, not {self.settings!r}")

    @property
    def once(self) -> bool:
        """Whether the first frame of a run is the only occasion."""
        occasions = (self.every, self.score_drop, self.stage_travel, self.magnification_change, self.temperature_change)
        return all(occasion is None for occasion in occasions)

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
        Whether the host wants to stop; quick, for it is asked before every frame.
    """

    def __init__(self, poll: Callable[[], bool]) -> None:
        super().__init__()
        self._poll = poll

    def is_set(self) -> bool:
        """Whether `set` was called or the host wants to stop."""
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
        Of the last focusing.
    frames : int
        Frames taken since the keeper was made.
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
        if self.policy.stage_travel is not None and not hasattr(type(microscope), "stage_position"):
            raise InvalidParameterError(
                f"{type(microscope).__name__} has no stage_position, which stage_travel needs; leave stage_travel out"
            )
        self.restart()

    def restart(self) -> None:
        """Begin a new run: the next frame wants focus."""
        self._wanted = FIRST
        self._since = 0
        self._first_score: float | None = None
        self._last_score: float | None = None
        self._place: Mapping[str, Any] = {}

    @property
    def record(self) -> dict[str, Any] | None:
        """Result of the last focusing without its trace, and the frames taken since; None before the first."""
        if self.result is None:
            return None
        record = {name: value for name, value in self.result.to_dict().items() if name != "trace"}
        return {**record, "frames_since": self._since}

    def due(self) -> str:
        """Return why the next frame wants focus, or an empty text."""
        policy, place = self.policy, self._place
        if self._wanted:
            return self._wanted
        if policy.every is not None and self._since >= policy.every:
            return f"{self._since} frames since the last focusing"
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
        """Focus if the next frame wants it; return why it did, or an empty text.

        Raises
        ------
        NotFocusedError
            When the run must end: cancelled, or refused under ``"abort"``.
        FrameSkippedError
            When the frame must not be taken; the next one will want focus again.
        """
        if self.cancel.is_set():
            raise NotFocusedError("cancelled before the frame was taken", self.result)
        reason = self.due()
        if reason:
            _log.info("focusing: %s", reason)
            self.focus()
        return reason

    def focus(self) -> AutofocusResult:
        """Focus now, whatever the cadence, and apply the failure policy. Raises as `before_frame` does."""
        policy, tries = self.policy, 0
        self._wanted = "the last focusing did not succeed"
        while True:
            tries += 1
            self.result = result = autofocus(
                self.microscope, settings=policy.settings, progress=self.progress, cancel=self.cancel
            )
            self._since, self._first_score, self._last_score = 0, None, None
            if result.status == "cancelled":
                raise NotFocusedError(f"autofocus was cancelled: {result.reason}", result)
            if result.focused or policy.on_failure == "continue":
                break
            _log.warning("autofocus %s: %s", result.status, result.reason)
            if policy.on_failure == "abort":
                raise NotFocusedError(f"autofocus {result.status}: {result.reason}", result)
            if policy.on_failure == "skip" or tries >= policy.attempts:
                raise FrameSkippedError(f"autofocus {result.status} {tries} times: {result.reason}", result)
        self._wanted = ""
        self._place = self._read_place()
        return result

    def after_frame(self, image: Image) -> Image:
        """Count a frame that was taken; return it with the focus record in its metadata."""
        record = self.record
        self.count()
        if self.policy.score is not None:
            self._last_score = float(self.policy.score(image))
            if self._first_score is None:
                self._first_score = self._last_score
        return dataclasses.replace(image, metadata={**image.metadata, "autofocus": record}) if record else image

    def count(self) -> None:
        """Count a frame whose picture is not at hand."""
        self.frames += 1
        self._since += 1

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Focus if due, and take a frame. Raises as `before_frame` and the microscope do."""
        self.before_frame()
        return self.after_frame(self.microscope.acquire(mode))

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
