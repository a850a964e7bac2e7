"""The drift of a run's picture: measured by its frames, and followed by the beam shift or the stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from semdrivers.focus import Drift
from semdrivers.microscope import HasBeamShift, put_back
from semfocus_plugin.optics import Frame, drift_of, shift_between
from semfocus_plugin.run._measurement import Measurement

_MOST_FRAMES = 8
_LEAST_ON_STAGE = 1e3
"""nm; a stage that moves by less comes no nearer."""
_CERTAIN = 2.0
_MISSED = 0.5
"""Of a move; a picture that is further from where it should lie has not followed."""


def drift_shown_by(measurements: Sequence[Measurement]) -> Drift | None:
    """Return the drift that the frames like the last one show; None where they do not."""
    if not measurements:
        return None
    last = measurements[-1]
    alike = [
        m
        for m in measurements
        if m.setting == last.setting
        and m.image.pixels.shape == last.image.pixels.shape
        and math.isclose(m.pixel, last.pixel, rel_tol=1e-3)
    ][-_MOST_FRAMES:]
    times = _times(alike)
    frames = [Frame(m.image.pixels, time, m.working_distance, _blur(m)) for m, time in zip(alike, times, strict=True)]
    found = drift_of(frames, last.pixel * 1e6)
    return None if found is None else Drift(*found, seconds=times[-1] - times[0])


def _times(measurements: Sequence[Measurement]) -> list[float]:
    """Return when frames were taken, s: by the instrument, where it says so of all of them."""
    stated = [m.image.timestamp for m in measurements]
    times = [float(time) for time in stated if time is not None and math.isfinite(time)]
    if len(times) == len(stated) and all(a < b for a, b in itertools.pairwise(times)):
        return times
    return [m.time for m in measurements]


def _blur(measurement: Measurement) -> float:
    """Return the radius of the blur, pixels."""
    log_blur = measurement.evaluation.log_blur
    return 0.0 if log_blur is None else max(math.expm1(log_blur), 0.0)


class Field:
    """What moves the scanned field over the sample: the beam shift, or else the stage.

    Parameters
    ----------
    microscope : Microscope
        `HasBeamShift` or `HasStage`; read once.
    """

    def __init__(self, microscope: Any) -> None:
        self._microscope = microscope
        self._by = "beam_shift" if isinstance(microscope, HasBeamShift) else "stage_position"
        self._start: tuple[float, float] = tuple(getattr(microscope, self._by))
        self._moved = False

    def should_follow(self, drift: Drift) -> bool:
        """Return whether a drift is certain enough, and large enough for what moves the field."""
        far = math.hypot(*drift.shift)
        least = 0.0 if self._by == "beam_shift" else _LEAST_ON_STAGE
        return far > _CERTAIN * drift.shift_sigma and far >= least

    def move(self, x: float, y: float) -> tuple[float, float]:
        """Move from the start to the right and downwards, nm; returns by how much, as read back."""
        place = self._start[0] + x * 1e-6, self._start[1] + y * 1e-6
        self._moved = True
        if self._by == "beam_shift":
            self._microscope.beam_shift = place
        else:
            self._microscope.move_stage(*place)
        now = getattr(self._microscope, self._by)
        return (now[0] - self._start[0]) * 1e6, (now[1] - self._start[1]) * 1e6

    def restore(self) -> None:
        """Move back to the start, where it was moved."""
        if self._moved:
            self._moved = False
            for failure in put_back(self._microscope, {self._by: self._start}).values():
                raise failure

    def followed(self, before: Measurement, after: Measurement, drift: Drift, moved: tuple[float, float]) -> str:
        """Return an empty text where the picture went back by what the field moved, else what it did."""
        shift = shift_between(before.image.pixels, after.image.pixels, max(_blur(before), _blur(after)))
        if shift is None:
            return "the frames before and after do not show the same"
        earlier, later = _times([before, after])
        went = shift.x * before.pixel * 1e6, shift.y * before.pixel * 1e6
        due = [speed * (later - earlier) - by for speed, by in zip((drift.x, drift.y), moved, strict=True)]
        if math.dist(went, due) <= _MISSED * math.hypot(*moved) + _CERTAIN * drift.sigma * (later - earlier):
            return ""
        return (
            f"moving the {self._by.partition('_')[0]} by ({moved[0]:.0f}, {moved[1]:.0f}) nm moved the picture by "
            f"({went[0]:.0f}, {went[1]:.0f}) nm: check scan rotation and the axes of the driver"
        )
