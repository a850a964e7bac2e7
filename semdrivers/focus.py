"""Values of an autofocus run: its settings, its steps, its result, and the two errors that carry a result."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, cast, overload, runtime_checkable

from semdrivers.data_bar import BarRows, checked_bar_rows
from semdrivers.errors import AutofocusError, InvalidParameterError, OutOfRangeError, SemDriversError
from semdrivers.files import counted, plain, replacing
from semdrivers.image import ScanMode
from semdrivers.microscope import PartType, checked_limits, number, whole_number, within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Astigmatism", "AutofocusResult", "AutofocusSettings", "Drift", "FocusRecord", "FocusStep", "FrameSkippedError",
    "NotFocusedError", "Progress", "RecordsFocus", "record_of_frame",
]  # fmt: skip


_FLAGS = (
    "may_change_magnification", "restore_on_failure", "may_change_brightness", "learn_aperture", "stigmate",
    "move_to_contrast", "correct_drift",
)  # fmt: skip


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
        Furthest distance from the start, in mm; by default the lens may go wherever the instrument and `bounds` allow.
    bounds : tuple of float, optional
        Lowest and highest working distance allowed, in mm; the instrument's whole range by default.
    may_change_magnification : bool
        Whether the method may look at another magnification. It is put back in any case.
    scan_mode : ScanMode, optional
        Mode of every frame; by default the fastest of at least 320×240 pixels that the instrument offers.
        A plugin always receives one.
    accept_score : float, optional
        Least score (0 to 9) that counts as focused; the method's own by default.
    restore_on_failure : bool
        Whether the working distance goes back to the start unless the status is ``"focused"``.
    learn_aperture : bool
        Whether the run starts from the aperture that earlier runs on this instrument measured, and keeps what it
        measures.
    may_change_brightness : bool
        Whether brightness and contrast may be corrected before the first frame counts, when more than a quarter of its
        pixels are black or white. They stay corrected when the status is ``"focused"``, and are put back otherwise.
    bar_rows : int or (int, int), optional
        Rows of a data bar at the bottom of every frame, below 0 at the top, or rows at the top and at the bottom, which
        show no sample; detected by default.
    max_seconds : float, optional
        Deadline of the whole run in s, by this computer's clock. No frame begins after it, and one under way ends where
        the microscope is a `HasStop`; the run is then refused. What puts the start back comes after it. No deadline by
        default.
    stigmate : bool
        Whether the stigmator is corrected together with the focus. The microscope must be a `HasStigmator`, and it must
        be known what its stigmator does (`Capabilities.stigmator_matrix`, or ``semfocus calibrate --stigmator``). It is
        put back unless the status is ``"focused"``.
    stigmator_bounds : tuple of float, optional
        Lowest and highest value of either axis of the stigmator, in the units of the instrument.
    max_stigmator_travel : float, optional
        Furthest that either axis of the stigmator goes from its start, in the units of the instrument.
    max_dose : float, optional
        Most electrons per µm² that the run may put on any part of the sample, all its frames together. The instrument
        must report its beam current, and how long the beam dwells on a pixel. No limit by default.
    region : tuple of float, optional
        Part of every frame to focus on: x0, y0, x1, y1 as shares of its width and height from the upper left corner,
        such as ``(0.5, 0.0, 1.0, 0.5)`` for the upper right quarter. The beam scans the whole frame. By default the
        mode is the fastest whose part has 320×240 pixels.
    focus_offset : tuple of float, optional
        Where to focus in place of the target, to spare it: the stage moves by (dx, dy) in mm, the run is made there,
        and the stage goes back, whatever ended the run. On a tilted sample the focus differs by the tilt times the
        distance; with a map, the map corrects for that.
    move_to_contrast : bool
        Whether a run that is refused is made again at up to eight places around, four at half of `contrast_radius` and
        four at all of it, until one is focused. The stage then goes back. `max_frames` and `max_seconds` hold for all
        of these runs together, `max_dose` for each field.
    contrast_radius : float
        How far from the target those places may lie, mm. Choose more than two widths of a field: fields that overlap
        share their dose.
    correct_drift : bool
        Whether the field follows the sample by what it has drifted during a run that is focused, where that is known:
        by the beam shift where the microscope is a `HasBeamShift`, otherwise by the stage, which is not moved by less
        than 1 µm. One or two frames more show whether the picture came back; where it did not, nothing stays moved.
    """

    method: str | None = None
    max_frames: int | None = None
    max_travel: float | None = None
    bounds: tuple[float, float] | None = None
    may_change_magnification: bool = False
    scan_mode: ScanMode | None = None
    accept_score: float | None = None
    restore_on_failure: bool = True
    may_change_brightness: bool = True
    learn_aperture: bool = True
    bar_rows: BarRows | None = None
    max_seconds: float | None = None
    max_dose: float | None = None
    stigmate: bool = False
    stigmator_bounds: tuple[float, float] | None = None
    max_stigmator_travel: float | None = None
    region: tuple[float, float, float, float] | None = None
    focus_offset: tuple[float, float] | None = None
    move_to_contrast: bool = False
    contrast_radius: float = 0.1
    correct_drift: bool = False

    def __post_init__(self) -> None:
        if self.method is not None and not isinstance(self.method, str):
            raise InvalidParameterError(f"method must be a name, not {self.method!r}")
        if self.max_frames is not None:
            whole_number("max_frames", self.max_frames, 1)
        object.__setattr__(self, "bounds", checked_limits(self.max_travel, self.bounds))
        if self.scan_mode is not None and not isinstance(self.scan_mode, ScanMode):
            raise InvalidParameterError(f"scan_mode must be a semdrivers.ScanMode, not {self.scan_mode!r}")
        if self.accept_score is not None:
            within("accept_score", self.accept_score, 0, 9)
        if self.bar_rows is not None:
            checked_bar_rows("bar_rows", self.bar_rows)
        for name, unit in (("max_seconds", "s"), ("max_dose", "electrons/µm²")):
            value = getattr(self, name)
            if value is not None and number(name, value, unit) <= 0:
                raise OutOfRangeError(f"{name} must be above 0 {unit}, not {value:g} {unit}")
        if number("contrast_radius", self.contrast_radius, "mm") <= 0:
            raise OutOfRangeError(f"contrast_radius must be above 0 mm, not {self.contrast_radius:g} mm")
        if self.region is not None:
            x0, y0, x1, y1 = region = _numbers("region", self.region, ("x0", "y0", "x1", "y1"))
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise OutOfRangeError(
                    f"region must hold 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, shares of the frame, not {region}"
                )
            object.__setattr__(self, "region", region)
        if self.focus_offset is not None:
            object.__setattr__(self, "focus_offset", _numbers("focus_offset", self.focus_offset, ("dx", "dy"), "mm"))
        stigmator = checked_limits(
            self.max_stigmator_travel, self.stigmator_bounds, ("max_stigmator_travel", "stigmator_bounds"), ""
        )
        object.__setattr__(self, "stigmator_bounds", stigmator)
        if not self.stigmate and (stigmator is not None or self.max_stigmator_travel is not None):
            raise InvalidParameterError("limits of the stigmator need stigmate=True")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidParameterError(f"{name} must be True or False, not {getattr(self, name)!r}")


def _numbers(name: str, values: Any, parts: tuple[str, ...], unit: str = "") -> tuple[float, ...]:
    """Return a tuple of finite numbers, one for each part."""
    try:
        given = tuple(values)
    except TypeError:
        given = ()
    if len(given) != len(parts):
        raise InvalidParameterError(f"{name} must be ({', '.join(parts)}), not {values!r}")
    return tuple(number(f"{name} {part}", value, unit) for part, value in zip(parts, given, strict=True))


@dataclass(frozen=True, slots=True)
class FocusStep:
    """One frame of a run.

    Parameters
    ----------
    index : int
        0 for the first frame, whose number `frame` is 1.
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
    time : float or None
        When the frame was scored, s since the run began; None where the method does not report it.
    blur, blur_sigma : float or None
        Radius of the blur and its standard deviation, pixels; None where the method does not measure it.
    posterior : tuple of float or None
        What the frames before this one said of the focus, by which its place was chosen: working distances in mm below
        which the focus lies with the probabilities 0, 1/n, 2/n, … 1, but for one in a thousand at either end. None
        where the method computes none.
    astigmatism : tuple of float or None
        What those frames said of the astigmatism, while the stigmator is corrected: both components and the standard
        deviation of each, µm, as in `Astigmatism`.
    """

    index: int
    phase: str
    working_distance: float
    magnification: float
    score: float
    variance: float
    entropy: float
    action: float | None = None
    time: float | None = None
    blur: float | None = None
    blur_sigma: float | None = None
    posterior: tuple[float, ...] | None = None
    astigmatism: tuple[float, float, float] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FocusStep:
        """Return the step of one entry of ``to_dict()["trace"]``; raises as `AutofocusResult.from_dict` does."""
        try:
            known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
            for name in ("posterior", "astigmatism"):
                if known.get(name) is not None:
                    known[name] = tuple(map(float, known[name]))
            return cls(**known)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidParameterError(f"it is no step of an autofocus run: {error}") from error

    @property
    def frame(self) -> int:
        """Number of the frame, 1 for the first: what the terminal, plots and JSON count by."""
        return self.index + 1


class FocusRecord(TypedDict):
    """An `AutofocusResult` without trace, posterior and provenance.

    It travels in ``metadata["autofocus"]`` of the frames that follow.
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
    depth_of_field: NotRequired[float | None]
    measured_at: NotRequired[tuple[float, float] | None]
    drift: NotRequired[dict[str, Any] | None]
    frames_since: NotRequired[int]
    """Frames between the run and this frame; recorded by `semdrivers.hosts` alone."""
    lens_offset: NotRequired[float | None]
    """How far the lens stood from where focus was found, mm; None when none was found. In frames alone."""


@runtime_checkable
class RecordsFocus(Protocol, metaclass=PartType):
    """A microscope that writes the last autofocus result into the metadata of the frames that follow it."""

    @property
    def focus_record(self) -> FocusRecord | None:
        """Record of the last autofocus run, None before the first."""
        ...

    @focus_record.setter
    def focus_record(self, value: FocusRecord | None) -> None: ...


_STATUSES = ("focused", "refused", "cancelled")


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
    unseen : float or None
        On a sample that shows one direction alone: the angle in degrees, 0 to 90, of the component that it does not
        show, which is the one along this angle and across it. `x` and `y` are the other component then.
    """

    x: float
    y: float
    sigma: float
    unseen: float | None = None

    @property
    def amount(self) -> float:
        """Half the distance between the line foci, µm."""
        return math.hypot(self.x, self.y)

    @property
    def angle(self) -> float:
        """Direction θ in degrees, 0 to 180."""
        return math.degrees(0.5 * math.atan2(self.y, self.x)) % 180.0


@dataclass(frozen=True, slots=True)
class Drift:
    """How the picture drifted during a run, apart from what the lens moved it.

    Parameters
    ----------
    x, y : float
        Speed to the right and downwards in the picture, nm/s.
    sigma : float
        Standard deviation of each, nm/s.
    seconds : float
        From the first frame to the last.
    corrected : tuple of float or None
        By how much the field followed it in the end, (x, y) in nm; None where it was left.
    """

    x: float
    y: float
    sigma: float
    seconds: float
    corrected: tuple[float, float] | None = None

    @property
    def shift(self) -> tuple[float, float]:
        """How far the picture drifted from the first frame to the last, (x, y) in nm."""
        return self.x * self.seconds, self.y * self.seconds

    @property
    def shift_sigma(self) -> float:
        """Standard deviation of each component of `shift`, nm."""
        return self.sigma * self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class AutofocusResult:
    """How a run ended. It has no truth value: ask `focused`.

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
    stigmator, start_stigmator : tuple of float or None
        Setting of both axes as read back, in the units of the instrument; None without ``stigmate``.
    posterior : tuple of float or None
        What all frames together say of the focus, in the form of `FocusStep.posterior`.
    provenance : mapping
        ``time`` (seconds since the epoch, at the end), ``instrument``, ``settings``, ``versions``, and what the method
        adds, such as ``models``: the SHA-256 of each network by name.
    depth_of_field : float or None
        Of a frame of the run, at the working distance that it ends at, mm; None where the method does not report it.
    measured_at : tuple of float or None
        Stage position (x, y) in mm at which the focus was measured, where that was beside the target
        (`AutofocusSettings.focus_offset` and ``move_to_contrast``); None where it was at the target.
    drift : Drift or None
        How the picture drifted during the run; None where the frames do not show it to a pixel, or the method does not
        measure it.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For a status that is none of the three, a score outside 0 to 9, a confidence outside 0 to 1, or a value that is
        no finite number.
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
    stigmator: tuple[float, float] | None = None
    start_stigmator: tuple[float, float] | None = None
    posterior: tuple[float, ...] | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    depth_of_field: float | None = None
    measured_at: tuple[float, float] | None = None
    drift: Drift | None = None

    def __post_init__(self) -> None:
        if self.status not in _STATUSES:
            raise InvalidParameterError(f"status must be one of {', '.join(_STATUSES)}, not {self.status!r}")
        for name in ("working_distance", "start_working_distance"):
            number(name, getattr(self, name), "mm")
        within("score", self.score, 0, 9)
        within("confidence", self.confidence, 0, 1)
        whole_number("frames", self.frames, 0)
        if number("elapsed", self.elapsed, "s") < 0:
            raise OutOfRangeError(f"elapsed must be at least 0 s, not {self.elapsed:g} s")
        if not all(isinstance(step, FocusStep) for step in self.trace):
            raise InvalidParameterError("trace must hold FocusSteps alone")

    def __bool__(self) -> bool:
        raise TypeError(
            "an AutofocusResult is neither true nor false, for a refusal is a result too: use result.focused"
        )

    @property
    def focused(self) -> bool:
        """Whether the status is ``"focused"``."""
        return self.status == "focused"

    def __repr__(self) -> str:
        return (
            f"<AutofocusResult {self.status}: working distance {self.working_distance:.3f} mm "
            f"(from {self.start_working_distance:.3f} mm), score {self.score:.1f}, "
            f"confidence {self.confidence:.2f}, {counted(self.frames, 'frame')}, {self.elapsed:.1f} s, "
            f"{self.method}; {self.reason}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-ready values: plain numbers, whatever numbers the instrument reads back.

        Each step of the trace has its ``frame`` besides, 1 for the first.
        """
        values: dict[str, Any] = plain(self)
        values["trace"] = [{"frame": step.frame, **plain(step)} for step in self.trace]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutofocusResult:
        """Return the result that `to_dict` or `save` has written.

        Raises
        ------
        InvalidParameterError, OutOfRangeError
            When it is none, or holds values that make no sense. Fields that an earlier version did not write may be
            missing, and unknown ones are passed over.
        """
        try:
            known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
            known["trace"] = tuple(map(FocusStep.from_dict, known.get("trace", ())))
            if known.get("astigmatism") is not None:
                known["astigmatism"] = Astigmatism(**known["astigmatism"])
            if known.get("drift") is not None:
                moved = known["drift"].get("corrected")
                known["drift"] = Drift(**{**known["drift"], "corrected": None if moved is None else tuple(moved)})
            for name in ("posterior", "measured_at", "stigmator", "start_stigmator"):
                if known.get(name) is not None:
                    known[name] = tuple(map(float, known[name]))
            return cls(**known)
        except SemDriversError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidParameterError(f"it is no result of an autofocus run: {error}") from error

    def to_record(self) -> FocusRecord:
        """Return all fields but trace, posterior and provenance."""
        left_out = ("trace", "posterior", "provenance")
        return cast(FocusRecord, {name: value for name, value in self.to_dict().items() if name not in left_out})

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the result, trace included, as JSON; the file appears whole or not at all.

        Raises
        ------
        ExistingFileError
            When there is such a file, unless `overwrite`.
        """
        path = Path(path)
        with replacing(path, overwrite) as partial:
            partial.write_text(json.dumps(plain(self.to_dict()), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        """Return the run for a notebook: what it found, the figure of `plot`, and its frames."""
        from semdrivers.files import report_fragment

        return report_fragment(self.to_dict())

    def _repr_png_(self) -> bytes:
        """Return the figure of `plot` for a notebook that shows no HTML."""
        from semdrivers.files import draw_result

        return draw_result(self.to_dict(), "png")

    @overload
    def plot(self) -> Figure: ...

    @overload
    def plot(self, path: str | Path, *, overwrite: bool = False) -> Path: ...

    def plot(self, path: str | Path | None = None, *, overwrite: bool = False) -> Figure | Path:
        """Draw score and blur against working distance, with the focus and its uncertainty, and the path by frames.

        Parameters
        ----------
        path : str or Path, optional
            File to write: ``.png``, or ``.pdf`` or ``.svg`` for print. Without it nothing is written.
        overwrite : bool
            Whether the file may take the place of another.

        Returns
        -------
        Path or matplotlib.figure.Figure
            The file written; without a path the figure, which a notebook shows.

        Raises
        ------
        ExistingFileError
            When there is such a file, unless `overwrite`.
        """
        from semdrivers.files import plot_result, result_figure

        if path is None:
            return result_figure(self.to_dict())
        return plot_result(self.to_dict(), path, overwrite=overwrite)


Progress = Callable[[FocusStep], object]
"""What `semdrivers.autofocus` calls after every frame."""


class NotFocusedError(AutofocusError):
    """A run of frames ends here: autofocus was refused under the policy ``"abort"``, or cancelled.

    Raised by `semdrivers.hosts` before the frame that would have been out of focus. Working distance and
    magnification are back where they were; `result` says why.

    Parameters
    ----------
    message : str
        What happened.
    result : AutofocusResult, optional
        Result of the run that did not focus.
    """

    def __init__(self, message: str, result: AutofocusResult | None = None) -> None:
        super().__init__(message)
        self.result = result


class FrameSkippedError(AutofocusError):
    """One frame is left out for want of focus, under the policies ``"skip"`` and ``"retry"``; the run may go on.

    Raised by `semdrivers.hosts` before the frame. Catch it and go to the next place. Parameters are those of
    `NotFocusedError`.
    """

    def __init__(self, message: str, result: AutofocusResult | None = None) -> None:
        super().__init__(message)
        self.result = result


def record_of_frame(record: Mapping[str, Any], working_distance: float) -> dict[str, Any]:
    """Return a focus record as it travels in ``metadata["autofocus"]`` of one frame.

    Parameters
    ----------
    record : mapping
        Record of an autofocus run, such as ``microscope.focus_record``.
    working_distance : float
        At which the frame was scanned, mm.

    Returns
    -------
    dict
        The record, with ``lens_offset``: how far the lens stood from where focus was found, mm; None when the run
        found none. A record without ``working_distance`` stays as it is.
    """
    focus = record.get("working_distance")
    if focus is None:
        return dict(record)
    offset = float(working_distance) - float(focus)
    known = record.get("status") == "focused" and math.isfinite(offset)
    return {**record, "lens_offset": round(offset, 6) if known else None}
