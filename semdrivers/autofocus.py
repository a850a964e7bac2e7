"""The autofocus contract: settings, steps, result, and the one call that hosts make.

The focusing itself lives in plugins (hook ``semdrivers_autofocus``). What must hold for every plugin lives
here: arguments checked before any I/O, one run at a time on a microscope, and working distance and
magnification put back whatever happens.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdrivers.errors import AutofocusError, BusyError, InvalidParameterError, OutOfRangeError
from semdrivers.microscope import Microscope, RecordsFocus, ScanMode, missing_members, number
from semdrivers.plain import plain


@dataclass(frozen=True, slots=True)
class AutofocusSettings:
    """How to focus. Every field has a default that suits an unattended run.

    Parameters
    ----------
    method : str, optional
        Name of a method (``semfocus models`` lists them); the best that is installed by default.
    max_frames : int, optional
        Upper limit of frames acquired, everything included; the method's own limit by default.
    max_travel : float, optional
        Furthest distance from the start, in mm.
    bounds : tuple of float, optional
        Lowest and highest working distance allowed, in mm.
    may_change_magnification : bool
        Whether the method may look at another magnification. It is put back in any case.
    scan_mode : ScanMode
        Mode of every frame.
    accept_score : float, optional
        Least score (0 to 9) that counts as focused; the method's own by default.
    restore_on_failure : bool
        Whether the working distance goes back to the start unless the status is ``"focused"``.
    may_change_brightness : bool
        Whether brightness and contrast may be corrected before the first frame counts, when more than a quarter of its
        pixels are black or white. They stay corrected when the status is ``"focused"``, and are put back otherwise.
    learn_aperture : bool
        Whether the run starts from the aperture that earlier runs on this instrument measured, and keeps what it
        measures.
    """

    method: str | None = None
    max_frames: int | None = None
    max_travel: float | None = None
    bounds: tuple[float, float] | None = None
    may_change_magnification: bool = False
    scan_mode: ScanMode = ScanMode.FAST
    accept_score: float | None = None
    restore_on_failure: bool = True
    may_change_brightness: bool = True
    learn_aperture: bool = True

    def __post_init__(self) -> None:
        if self.method is not None and not isinstance(self.method, str):
            raise InvalidParameterError(f"method must be a name, not {self.method!r}")
        if self.max_frames is not None:
            if isinstance(self.max_frames, bool) or not isinstance(self.max_frames, int):
                raise InvalidParameterError(f"max_frames must be a whole number, not {self.max_frames!r}")
            if self.max_frames < 1:
                raise OutOfRangeError(f"max_frames must be at least 1, not {self.max_frames}")
        if self.max_travel is not None and number("max_travel", self.max_travel, "mm") <= 0:
            raise OutOfRangeError(f"max_travel must be above 0 mm, not {self.max_travel:g} mm")
        if self.bounds is not None:
            try:
                low, high = self.bounds
            except (TypeError, ValueError):
                raise InvalidParameterError(
                    f"bounds must be two working distances in mm, not {self.bounds!r}"
                ) from None
            low, high = number("bounds[0]", low, "mm"), number("bounds[1]", high, "mm")
            if low >= high:
                raise OutOfRangeError(f"bounds must be (low, high) in mm with low < high, not ({low:g}, {high:g})")
            object.__setattr__(self, "bounds", (low, high))
        if not isinstance(self.scan_mode, ScanMode):
            raise InvalidParameterError(f"scan_mode must be a semdrivers.ScanMode, not {self.scan_mode!r}")
        if self.accept_score is not None and not 0 <= number("accept_score", self.accept_score) <= 9:
            raise OutOfRangeError(f"accept_score must be within 0 to 9, not {self.accept_score:g}")
        for name in ("may_change_magnification", "restore_on_failure", "may_change_brightness", "learn_aperture"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidParameterError(f"{name} must be True or False, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class FocusStep:
    """One frame of a run.

    Parameters
    ----------
    index : int
        0 for the first frame.
    phase : str
        What the frame was for: ``"search"``, ``"evaluate"``, ``"control"``, ``"verify"``, ``"brightness"``, …;
        ``"spoiled"`` for one that was not used, and taken again.
    working_distance : float
        mm, as read back.
    magnification : float
        Plain number.
    score : float
        0 (out of focus) to 9.
    variance : float
        Equation 3 of the paper.
    entropy : float
        Equation 4 of the paper, bits.
    action : float or None
        Step in mm that follows the frame; None after the last.
    """

    index: int
    phase: str
    working_distance: float
    magnification: float
    score: float
    variance: float
    entropy: float
    action: float | None = None


@dataclass(frozen=True, slots=True)
class Astigmatism:
    """Two-fold astigmatism that remains at the focus.

    Parameters
    ----------
    x, y : float
        Components of half the distance between the two line foci, µm: the amount times cos 2θ and times sin 2θ, θ being
        the direction in the picture, from the lines towards the next line, in which a picture above the focus (at a
        longer working distance) is blurred most. `x` is along 0° and 90°, `y` along 45° and 135°.
    sigma : float
        Standard deviation of each, µm.
    """

    x: float
    y: float
    sigma: float

    @property
    def amount(self) -> float:
        """Half the distance between the line foci, µm."""
        return math.hypot(self.x, self.y)

    @property
    def angle(self) -> float:
        """Direction θ in degrees, 0 to 180."""
        return math.degrees(0.5 * math.atan2(self.y, self.x)) % 180.0


@dataclass(frozen=True, slots=True)
class AutofocusResult:
    """How a run ended.

    Parameters
    ----------
    status : str
        ``"focused"``, ``"refused"`` or ``"cancelled"``.
    reason : str
        One sentence for a person.
    working_distance, start_working_distance : float
        mm, as read back.
    score : float
        Score of the final frame, 0 to 9.
    confidence : float
        0 to 1.
    frames : int
        Every frame acquired, search and verification included.
    elapsed : float
        Seconds on this computer's clock.
    method : str
        Name of the method.
    trace : tuple of FocusStep
        One step a frame.
    astigmatism : Astigmatism or None
        What remains at the focus; None where the method does not measure it, or the frames do not show it.
    at_limit : bool
        Whether the sharpest place allowed is at a limit of the run, so that the true focus may lie beyond it.
    """

    status: str
    reason: str
    working_distance: float
    start_working_distance: float
    score: float
    confidence: float
    frames: int
    elapsed: float
    method: str
    trace: tuple[FocusStep, ...] = ()
    astigmatism: Astigmatism | None = None
    at_limit: bool = False

    @property
    def focused(self) -> bool:
        """Whether the status is ``"focused"``."""
        return self.status == "focused"

    def __repr__(self) -> str:
        return (
            f"<AutofocusResult {self.status}: working distance {self.working_distance:.3f} mm "
            f"(from {self.start_working_distance:.3f} mm), score {self.score:.1f}, "
            f"confidence {self.confidence:.2f}, {self.frames} frames, {self.elapsed:.1f} s, "
            f"{self.method}; {self.reason}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-ready values."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the result, trace included, as JSON."""
        path = Path(path)
        path.write_text(json.dumps(plain(self), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path

    def plot(self, path: str | Path) -> Path:
        """Draw score against working distance and against frame number, as PNG."""
        from semdrivers.plotting import plot_result

        return plot_result(self, path)


Progress = Callable[[FocusStep], object]


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
        Anything with the five members of the protocol.
    settings : AutofocusSettings, optional
        How to focus.
    progress : callable, optional
        Called with a `FocusStep` after every frame.
    cancel : threading.Event, optional
        Obeyed before the next frame.
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
        When an autofocus run is under way on this microscope.
    AutofocusError
        When no installed plugin offers the method.
    SemDriversError
        Whatever the microscope raises; working distance and magnification have been put back.
    """
    settings = _settings(settings, overrides)
    missing = missing_members(microscope)
    if missing:
        raise InvalidParameterError(
            f"{type(microscope).__name__} is no Microscope: it lacks {', '.join(missing)}; "
            "semdrivers.Microscope lists the five members that autofocus needs"
        )
    for name, callback, kind in (("progress", progress, callable), ("cancel", cancel, _is_event)):
        if callback is not None and not kind(callback):
            raise InvalidParameterError(f"{name} cannot be {callback!r}")
    from semdrivers.plugins import get_plugin_manager

    plugins = get_plugin_manager()
    if settings.method is not None:
        plugins.check_autofocus_method(settings.method)
    with _exclusive(microscope), _restoring(microscope, settings) as restore:
        result = plugins.autofocus_hook(settings.method)(
            microscope=microscope, settings=settings, progress=progress, cancel=cancel
        )
        if result is None:
            raise AutofocusError(plugins.describe_missing_autofocus(settings.method))
        if not isinstance(result, AutofocusResult):
            raise AutofocusError(f"an autofocus plugin returned {type(result).__name__}, not an AutofocusResult")
        result = dataclasses.replace(result, working_distance=restore(result.focused))
    if isinstance(microscope, RecordsFocus):
        microscope.focus_record = {key: value for key, value in result.to_dict().items() if key != "trace"}
    return result


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


def _is_event(value: object) -> bool:
    return callable(getattr(value, "is_set", None))


_running: set[int] = set()
_running_lock = threading.Lock()


@contextmanager
def _exclusive(microscope: object) -> Iterator[None]:
    """Hold the microscope for one run, by identity: a foreign object need not be hashable."""
    with _running_lock:
        if id(microscope) in _running:
            raise BusyError(
                f"an autofocus run is under way on this {type(microscope).__name__}; wait for it or cancel it"
            )
        _running.add(id(microscope))
    try:
        yield
    finally:
        with _running_lock:
            _running.discard(id(microscope))


@contextmanager
def _restoring(microscope: Microscope, settings: AutofocusSettings) -> Iterator[Callable[[bool], float]]:
    """Remember working distance and magnification, and put them back.

    Yields a function that takes whether focus was found, restores what must be restored, and returns the
    working distance as read back. An exception restores both.
    """
    magnification = microscope.magnification
    start = microscope.working_distance

    def restore(focused: bool) -> float:
        if microscope.magnification != magnification:
            microscope.magnification = magnification
        if not focused and settings.restore_on_failure and microscope.working_distance != start:
            microscope.working_distance = start
        return microscope.working_distance

    try:
        yield restore
    except BaseException as error:
        for name, value in (("magnification", magnification), ("working_distance", start)):
            try:
                setattr(microscope, name, value)
            except Exception as second:
                error.add_note(f"and {name} could not be put back to {value:g}: {second}")
        raise
