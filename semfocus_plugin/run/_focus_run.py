"""Move and measure: one working distance in, one scored frame out.

Everything that a method does to an instrument goes through a `FocusRun`, so limits, the frame budget,
cancellation and the trace hold for every method alike.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from semdrivers.data_bar import BarRows, bar_rows_of, both_bars
from semdrivers.errors import AutofocusError, DeviceError, InterlockError, SemDriversError, StoppedError
from semdrivers.files import counted
from semdrivers.focus import AutofocusSettings, Drift, FocusStep, Progress
from semdrivers.grey_levels import check_bit_depth, full_scale, in_unit, native
from semdrivers.image import Image
from semdrivers.microscope import TAKE_UP, HasStop, Microscope, Range, offered_mode, put_back, read_number
from semfocus_plugin.networks import (
    AENet,
    Evaluation,
    Evaluator,
    check_pixels,
    clipped_share,
    fine_structure,
    for_core,
    line_correlation,
    sample_of,
)
from semfocus_plugin.optics import NOMINAL_PIXEL, UNKNOWN, Beam, depth_of_field
from semfocus_plugin.run._brightness import SCARCE, Exposure, Unusable
from semfocus_plugin.run._dose import Dose
from semfocus_plugin.run._drift import Field, drift_shown_by
from semfocus_plugin.run._frame_checks import (
    MOST_LATE,
    FrameChecks,
    FrameMismatchError,
    check_conditions,
    lens_stands_still,
)
from semfocus_plugin.run._frame_size import fitted
from semfocus_plugin.run._limits import limits_of
from semfocus_plugin.run._measurement import NOISE, Measurement, pixel_of
from semfocus_plugin.run._spoiled import spoiled
from semfocus_plugin.run._stigmator import Stigmator, StigmatorEffect

_log = logging.getLogger(__name__)
_LOOK = 0.02
"""Seconds between two looks at the caller's event during a frame."""

MOST_RETAKES = 2
"""Spoiled frames of a run that are taken again; beyond that it is the sample."""


class Cancelled(Exception):
    """The caller's event was set, or a frame was stopped; its text says who stopped. Caught by the loop."""


class BudgetSpent(Exception):
    """No frames, no time or no dose is left; its text says which. Raised before the next frame, caught by the loop."""


class FocusRun:
    """The part of a microscope that autofocus may touch.

    Parameters
    ----------
    microscope : Microscope
        The instrument; read once, not moved, by the constructor.
    settings : AutofocusSettings
        Bounds, travel, scan mode.
    evaluate : Evaluator
        Scores frames.
    max_frames : int
        Budget of the whole run.
    progress : callable, optional
        Called with a `FocusStep` after every frame. What it raises ends the run, start restored, and reaches
        the caller: a host whose display broke must not drive a lens on.
    cancel : threading.Event, optional
        Obeyed before every move and every frame, and within a frame where the microscope is a `HasStop`.
    beam : Beam, optional
        Beam of the instrument; the nominal one by default.
    core : float, optional
        Diameter of the focused probe, mm; what its capabilities report by default.
    retakes : int
        Most spoiled frames of the run that are taken again.
    effect : StigmatorEffect, optional
        What the stigmator does, as calibrated.

    Raises
    ------
    OutOfRangeError
        When the instrument stands outside the bounds; nothing has moved.
    InvalidParameterError
        When `max_dose` is set and the instrument does not report what it takes to compute a dose.
    """

    def __init__(
        self,
        microscope: Microscope,
        settings: AutofocusSettings,
        evaluate: Evaluator,
        max_frames: int,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        *,
        beam: Beam | None = None,
        core: float | None = None,
        retakes: int = MOST_RETAKES,
        effect: StigmatorEffect | None = None,
    ) -> None:
        self._microscope = microscope
        self._settings = settings
        self._evaluate = evaluate
        self._read_frame = evaluate.at_once if isinstance(evaluate, AENet) else evaluate
        self._progress = progress
        self._cancel = cancel
        self._steps: list[FocusStep] = []
        self._began = time.perf_counter()
        self._measurements: list[Measurement] = []
        self._spoiled: list[str] = []
        self._late = 0
        self._magnified = False
        self._mode = offered_mode(microscope.capabilities, settings.scan_mode)
        self._dose = None if settings.max_dose is None else Dose(settings.max_dose, microscope.capabilities, self._mode)
        self._bar_rows: BarRows = 0
        self._binning = 1
        self._full_scale = 1
        self._checks = FrameChecks(self._mode)
        self._exposure = Exposure(microscope, settings.may_change_brightness)
        self.max_frames = max_frames
        self.start_working_distance = self._read_working_distance()
        self.start_magnification = self._read_magnification()
        self.working_distance = self.start_working_distance
        self.magnification = self.start_magnification
        self._retakes = retakes
        self.beam = Beam() if beam is None else beam
        self.aperture = None if self.beam.sigma is None or self.beam.at is None else self.beam.half_angle * self.beam.at
        diameter = getattr(microscope.capabilities, "probe_diameter", None)
        self._core = diameter * 1e-6 if core is None and diameter is not None else core
        self.limits = limits_of(microscope.capabilities.working_distance, settings, self.start_working_distance)
        self.posterior: tuple[float, ...] | None = None
        """What the frames say of the focus so far, as the method last computed it; see `FocusStep.posterior`."""
        self.astigmatism: tuple[float, float, float] | None = None
        """The same of the astigmatism, in a run that corrects the stigmator; see `FocusStep.astigmatism`."""
        self._on_grid = True
        self._drift: Drift | None = None
        self._field = Field(microscope) if settings.correct_drift else None
        self._field_note = ""
        self.stigmator = Stigmator(microscope, settings, effect) if settings.stigmate else None

    @property
    def core(self) -> float:
        """Diameter of the focused probe to compute with, mm; a fine one where it is not known."""
        nominal = NOMINAL_PIXEL / self.magnification
        pixel = self._measurements[-1].pixel if self._measurements else nominal
        return min(UNKNOWN, pixel) if self._core is None else self._core

    @property
    def blur_range(self) -> float | None:
        """Largest blur radius in pixels that the evaluator reports, or None."""
        return self._evaluate.blur_range

    @property
    def depth_of_field(self) -> float:
        """Depth of field at the present place and magnification, mm, with what is known of the beam."""
        return depth_of_field(self.pixel, self.core, self.half_angle)

    @property
    def fineness(self) -> float:
        """Depth of field of the instrument's own pixels, as a share of that of the pixels that are looked at."""
        return math.hypot(self.pixel / self._binning, self.core) / math.hypot(self.pixel, self.core)

    @property
    def distance_per_pixel(self) -> float:
        """Defocus that blurs by a radius of one pixel, mm, with what is known of the beam."""
        return self.pixel / self.half_angle

    @property
    def pixel(self) -> float:
        """Pixel at the present magnification, mm: that of the last frame, or the nominal one before the first."""
        last = self._measurements[-1] if self._measurements else None
        return (
            NOMINAL_PIXEL / self.magnification if last is None else last.pixel * last.magnification / self.magnification
        )

    @property
    def half_angle(self) -> float:
        """Half-angle of the beam at the present place, rad, as far as it is known."""
        return float(self.beam.angle(self.working_distance))

    @property
    def frames(self) -> int:
        """Frames acquired so far."""
        return len(self._steps)

    @property
    def remaining(self) -> int:
        """Frames left in the budget, and in the dose at the present magnification."""
        left = self.max_frames - len(self._steps)
        return left if self._dose is None else min(left, self._dose.frames_left(self.magnification))

    @property
    def trace(self) -> tuple[FocusStep, ...]:
        """One step a frame, each with the move that followed it."""
        return tuple(self._steps)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """What `measure` returned, oldest first: neither spoiled frames nor those of another brightness."""
        return tuple(self._measurements)

    @property
    def incidents(self) -> str:
        """What happened in the run besides focusing, for a person, or an empty text."""
        notes = [self._exposure.note] if self._exposure.note else []
        if self._spoiled:
            notes.append(
                f"{len(self._spoiled)} spoiled frame(s) taken again: {', '.join(dict.fromkeys(self._spoiled))}"
            )
        if self._field_note:
            notes.append(self._field_note)
        if self._late:
            notes.append(f"{self._late} late frame(s) taken again")
        return "; ".join(notes)

    def snap(self, working_distance: float) -> float:
        """Return the nearest working distance that the instrument can take within the limits."""
        if not math.isfinite(working_distance):
            raise AutofocusError(f"the method asked for a working distance of {working_distance} mm")
        step = self.limits.step if self._on_grid else 0.0
        snapped = round(working_distance / step) * step if step > 0 else working_distance
        return self.limits.clip(round(snapped, 9))

    def move(self, working_distance: float) -> float:
        """Move to the nearest working distance within the limits, from below; returns it as read back, mm.

        Raises
        ------
        Cancelled
            When the caller's event is set; nothing has moved.
        AutofocusError
            When the instrument reads back a place beyond the limits, or did not go half the way: its limits cut the
            value, or it ignored it.
        """
        self._check_cancelled()
        target = self.snap(working_distance)
        if target != self.working_distance:
            before = self.working_distance
            if target < before and self.snap(target - TAKE_UP) < target:
                self._microscope.working_distance = self.snap(target - TAKE_UP)
            self._microscope.working_distance = target
            self.working_distance = self._read_working_distance()
            self._check_place(before, target)
            self._check_grid(target)
            if self._steps:
                last = self._steps[-1]
                moved = (last.action or 0.0) + self.working_distance - before
                self._steps[-1] = dataclasses.replace(last, action=moved)
        return self.working_distance

    def measure(self, working_distance: float, phase: str) -> Measurement:
        """Move, acquire a frame, score it.

        A frame that was spoiled while it was scanned is taken again, and before the first frame of the run counts,
        brightness and contrast are corrected where it needs that. All these frames are in the trace.

        Parameters
        ----------
        working_distance : float
            mm; the nearest within the limits is taken.
        phase : str
            What the frame is for, as recorded in the trace.

        Raises
        ------
        Cancelled, BudgetSpent
            Before the move.
        AutofocusError
            When the frame cannot be read, or somebody else moves the lens or changes the magnification;
            `Unusable` when the first one shows too little, and brightness does not mend it.
        """
        self._check_next()
        self.move(working_distance)
        if self.stigmator is not None and not self._steps:
            self.stigmator.move(self.stigmator.start)
        measurement = self._look(phase)
        if not self._measurements:
            first, measurement = measurement, self._exposure.correct(measurement, lambda: self._look("brightness"))
            if measurement is not first and measurement.correlation <= NOISE:
                self.max_frames = min(self.max_frames, SCARCE)
        self._measurements.append(measurement)
        still = lens_stands_still(self._measurements, self.half_angle, self.blur_range)
        if still:
            raise Unusable(still)
        return measurement

    def _look(self, phase: str, again: bool = True) -> Measurement:
        """Acquire a frame here and score it; once more where it was spoiled."""
        self._check_next()
        began = time.perf_counter()
        image = self._acquire()
        pixels = image.pixels
        self._full_scale = max(self._full_scale, full_scale(pixels, image.bit_depth))
        evaluation = self._read_frame(in_unit(pixels, self._full_scale), self.magnification)
        if self._core is not None:
            evaluation = for_core(
                evaluation,
                self._core,
                magnification=self.magnification,
                width=pixels.shape[1],
                pixel=pixel_of(image, self.magnification),
            )
        structure, detail = fine_structure(pixels)
        measurement = Measurement(
            working_distance=self.working_distance,
            magnification=self.magnification,
            evaluation=evaluation,
            correlation=line_correlation(pixels),
            structure=structure,
            detail=detail,
            clipped=clipped_share(pixels, self._full_scale),
            image=image,
            full_scale=self._full_scale,
            setting=(0.0, 0.0) if self.stigmator is None else self.stigmator.setting,
            time=began,
        )
        damage = spoiled(pixels) if again and len(self._spoiled) < self._retakes else ""
        self._record("spoiled" if damage else phase, evaluation)
        if damage:
            self._spoiled.append(damage)
            return self._look(phase, again=False)
        return measurement

    def _acquire(self) -> Image:
        """Acquire a frame of this place; one that is late is dropped and asked for again."""
        for _ in range(MOST_LATE + 1):
            self._check_next()
            with self._ended_early():
                image = self._microscope.acquire(self._mode)
            self._check_frame(image)
            if self._dose is not None:
                self._dose.add(image, self.magnification)
            resized = self._checks.resized(image)
            image = self._sample_of(image)
            late = resized or self._checks.late(image, self.working_distance, self.magnification, self._tolerance())
            if not late:
                self._checks.accept(image, self.working_distance)
                frame = fitted(image)
                self._binning = max(1, image.pixels.shape[1] // frame.pixels.shape[1])
                return frame
            self._record("late", self._read_frame(fitted(image).pixels, self.magnification))
            self._late += 1
        raise FrameMismatchError(
            f"the instrument returned {MOST_LATE + 1} frames in a row that are not the one asked for: {late}; "
            "flush its frame buffer or restart its acquisition, and focus again"
        )

    def _sample_of(self, image: Image) -> Image:
        """Return the part to focus on, without the data bar of the run, and with the instrument's bit depth."""
        depth = image.bit_depth
        if depth is None:
            depth = getattr(self._microscope.capabilities, "bit_depth", None)
        if depth is not None:
            depth = check_bit_depth(depth, "the instrument's bit_depth")
        rows = bar_rows_of(image.pixels, image.metadata, self._settings.bar_rows)
        self._bar_rows = rows = both_bars(rows, self._bar_rows)
        try:
            pixels = native(sample_of(image.pixels, rows, "the frame") if rows else image.pixels)
            if self._settings.region is not None:
                height, width = pixels.shape
                x0, y0, x1, y1 = self._settings.region
                pixels = pixels[
                    math.floor(y0 * height) : math.ceil(y1 * height), math.floor(x0 * width) : math.ceil(x1 * width)
                ]
                check_pixels(pixels, f"region {self._settings.region} of the frame")
        except SemDriversError as error:
            raise AutofocusError(f"acquire() returned a frame that cannot be scored: {error}") from error
        if pixels is image.pixels and depth == image.bit_depth:
            return image
        metadata = {**image.metadata, "bar_rows": 0}
        return dataclasses.replace(image, pixels=pixels, bit_depth=depth, metadata=metadata)

    @contextmanager
    def _ended_early(self) -> Iterator[None]:
        """Have the caller's event, and the deadline, end the frame acquired in the block; the beam stays on.

        Raises
        ------
        Cancelled
            When the frame was ended, by the event or by somebody's stop.
        BudgetSpent
            When it was ended by the deadline.
        """
        microscope, cancel = self._microscope, self._cancel
        if not isinstance(microscope, HasStop):
            yield
            return
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_LOOK):
                if self._is_late() or (cancel is not None and cancel.is_set()):
                    try:
                        microscope.stop(True)
                    except SemDriversError:
                        _log.exception("the frame could not be ended; the run ends after it")
                    return

        watcher = threading.Thread(target=watch, name="autofocus cancel", daemon=True)
        watched = cancel is not None or self._settings.max_seconds is not None
        if watched:
            watcher.start()
        try:
            yield
        except StoppedError as stopped:
            by_cancel = cancel is not None and cancel.is_set()
            if not by_cancel:
                self._check_time()
            raise Cancelled("" if by_cancel else str(stopped)) from stopped
        except InterlockError as forbidden:
            if cancel is None or not cancel.is_set():
                raise
            raise Cancelled from forbidden  # whoever cancelled has blanked the beam between two frames
        finally:
            over.set()
            if watched:
                watcher.join()

    def _record(self, phase: str, evaluation: Evaluation) -> None:
        """Add a frame to the trace, and report it."""
        step = FocusStep(
            index=len(self._steps),
            phase=phase,
            working_distance=self.working_distance,
            magnification=self.magnification,
            score=evaluation.score,
            variance=evaluation.variance,
            entropy=evaluation.entropy,
            time=time.perf_counter() - self._began,
            posterior=self.posterior,
            astigmatism=self.astigmatism,
            **_blur_of(evaluation),
        )
        self._steps.append(step)
        if self._progress is not None:
            self._progress(step)

    def stigmate(self, setting: tuple[float, float]) -> tuple[float, float]:
        """Set the stigmator as near to a setting as its limits allow; returns it as read back.

        Raises
        ------
        Cancelled
            When the caller's event is set; nothing has moved.
        AutofocusError
            When the settings do not allow it.
        """
        if self.stigmator is None:
            raise AutofocusError("the method may not set the stigmator: stigmate is False")
        self._check_cancelled()
        return self.stigmator.move(setting)

    @property
    def drift(self) -> Drift | None:
        """How the picture drifts, as far as the frames show it."""
        return drift_shown_by(self._measurements) if self._drift is None else self._drift

    def follow_drift(self) -> None:
        """Have the field follow the drift, where the settings ask for it; the focus stands whatever comes of that.

        Raises
        ------
        Cancelled
            When the caller's event is set; `restore` puts the field back.
        """
        field = self._field
        if field is None:
            return
        try:
            frame, drift = None, self.drift
            if drift is None:
                frame = self._look("drift")
                drift = self._drift = drift_shown_by([*self._measurements, frame])
            if drift is None or not field.should_follow(drift):
                return
            problem = self._problem_of_following(field, drift, frame or self._look("drift"))
        except BudgetSpent as spent:
            problem = f"it could not be checked {spent}"
        if problem:
            self._field_note = f"the drift was not corrected: {problem}"
            field.restore()

    def _problem_of_following(self, field: Field, drift: Drift, before: Measurement) -> str:
        """Move the field by a drift, and check that by a frame; returns what is wrong with that, or an empty text."""
        try:
            moved = field.move(*drift.shift)
        except StoppedError:
            raise
        except DeviceError as error:
            return str(error)
        if not any(moved):
            return "it is less than a step"
        problem = field.followed(before, self._look("drift"), drift, moved)
        self._drift = drift if problem else dataclasses.replace(drift, corrected=moved)
        return problem

    def set_magnification(self, magnification: float) -> float:
        """Look at another magnification, where the settings allow it; the loop puts it back.

        Raises
        ------
        AutofocusError
            When the settings do not allow it.
        OutOfRangeError
            When the instrument has no such magnification; nothing has changed.
        """
        if not self._settings.may_change_magnification:
            raise AutofocusError("the method may not change the magnification: may_change_magnification is False")
        self._check_cancelled()
        limits = self.magnification_range
        limits.check("magnification", self.start_magnification)  # to which it is put back
        magnification = limits.check("magnification", magnification)
        self._magnified = True
        self._microscope.magnification = magnification
        self.magnification = self._read_magnification()
        return self.magnification

    @property
    def may_change_magnification(self) -> bool:
        """Whether `set_magnification` is allowed."""
        return self._settings.may_change_magnification

    @property
    def magnification_range(self) -> Range:
        """Magnifications that the instrument offers."""
        return self._microscope.capabilities.magnification

    def restore(self, *, lens: bool = True) -> None:
        """Put all back to the start, the working distance only if `lens`; each is tried, whatever fails."""
        values = {**self._exposure.start, **self._magnification_to_put_back()}
        if lens:
            values["working_distance"] = self.start_working_distance
        try:
            self._put_back(values)
        finally:
            try:
                if self.stigmator is not None:
                    self.stigmator.restore()
            finally:
                if self._field is not None:
                    self._field.restore()
        self._exposure.restored()

    def restore_magnification(self) -> None:
        """Put the magnification back to the start."""
        self._put_back(self._magnification_to_put_back())

    def _magnification_to_put_back(self) -> dict[str, float]:
        return {"magnification": self.start_magnification} if self._magnified else {}

    def _put_back(self, values: dict[str, float]) -> None:
        for failure in put_back(self._microscope, values).values():
            raise failure
        self.magnification = self._read_magnification()
        if "working_distance" in values:
            self.working_distance = self._read_working_distance()

    def _read_working_distance(self) -> float:
        return read_number(self._microscope, "working_distance", "mm")

    def _read_magnification(self) -> float:
        magnification = read_number(self._microscope, "magnification")
        if magnification <= 0:
            raise AutofocusError(f"the instrument reads back a magnification of {magnification:g}; check its driver")
        return magnification

    def _check_next(self) -> None:
        self._check_cancelled()
        self._check_time()
        if self.max_frames <= len(self._steps):
            raise BudgetSpent(f"within {counted(self.max_frames, 'frame')}")
        if self.remaining <= 0:
            raise BudgetSpent(f"within max_dose {self._settings.max_dose:g} electrons/µm²")

    def _check_time(self) -> None:
        if self._is_late():
            raise BudgetSpent(f"within max_seconds {self._settings.max_seconds:g} s")

    def _is_late(self) -> bool:
        deadline = self._settings.max_seconds
        return deadline is not None and time.perf_counter() - self._began >= deadline

    def _check_cancelled(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled

    def _tolerance(self) -> float:
        return max(self.limits.step, 0.25 * self.depth_of_field)

    def _check_place(self, before: float, target: float) -> None:
        tolerance = self._tolerance()
        low, high = self.limits.minimum - tolerance, self.limits.maximum + tolerance
        if not low <= self.working_distance <= high:
            raise AutofocusError(
                f"the instrument was sent to a working distance of {target:.3f} mm and stands at "
                f"{self.working_distance:.3f} mm, beyond the limits {self.limits.minimum:.3f} to "
                f"{self.limits.maximum:.3f} mm; check the lens before focusing again"
            )
        missed = abs(self.working_distance - target)
        if missed > max(self.limits.step, self.depth_of_field, 0.5 * abs(target - before)):
            raise AutofocusError(
                f"working_distance was set to {target:.6g} mm from {before:.6g} mm and reads "
                f"{self.working_distance:.6g} mm: the instrument cut the value or ignored it; give its limits as "
                "bounds, or check that it takes commands"
            )

    def _check_grid(self, target: float) -> None:
        """Give up the grid of whole steps where the lens reads back another place: only its readings count then."""
        step = self.limits.step
        if self._on_grid and step > 0 and 1e-3 * step < abs(self.working_distance - target) <= step:
            capability = self._microscope.capabilities.working_distance
            free = limits_of(Range(capability.minimum, capability.maximum), self._settings, self.start_working_distance)
            self._on_grid, self.limits = False, Range(free.minimum, free.maximum, step)

    def _check_frame(self, image: object) -> None:
        """Refuse a frame that cannot be what was asked for."""
        if not isinstance(image, Image):
            raise AutofocusError(f"acquire() returned {type(image).__name__}, not a semdrivers.Image")
        try:
            check_pixels(image.pixels, "the frame")
            check_conditions(image)
        except SemDriversError as error:
            raise AutofocusError(f"acquire() returned a frame that cannot be scored: {error}") from error
        place = self._read_working_distance()
        if abs(place - self.working_distance) > self._tolerance():
            raise AutofocusError(
                f"the working distance went from {self.working_distance:.3f} to {place:.3f} mm while a frame "
                "was acquired; somebody else is at the instrument"
            )
        magnification = self._read_magnification()
        if not math.isclose(magnification, self.magnification, rel_tol=0.1):
            raise AutofocusError(
                f"the magnification went from {self.magnification:g} to {magnification:g} during autofocus; "
                "somebody else is at the instrument"
            )


def _blur_of(evaluation: Evaluation) -> dict[str, float | None]:
    """Return the radius of the blur and its standard deviation, pixels, as far as the network reports them."""
    if evaluation.log_blur is None:
        return {"blur": None, "blur_sigma": None}
    sigma = None if evaluation.log_sigma is None else math.exp(evaluation.log_blur + evaluation.log_sigma)
    return {"blur": max(math.expm1(evaluation.log_blur), 0.0), "blur_sigma": sigma}
