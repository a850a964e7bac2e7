"""Correct the stigmator on the way to the focus: both components are read off the frames that the focus takes."""

from __future__ import annotations

import math
from dataclasses import replace

from semfocus_plugin.optics import Estimate, Posterior, Residual, Sighting
from semfocus_plugin.run import FocusRun, Measurement, Outcome, posterior_of

_LEFT = 0.8
"""Depths of field of astigmatism that are not worth a frame: they are taken off at the end."""
_CLEAR = 1.6
"""Standard deviations from which astigmatism is corrected."""
_SIGMA = 0.3
"""Depths of field to which what remains must be known."""
_LEAST_KNOWN, _SHARE = 1.5, 0.3
"""The same, in depths of field or as a share of it, before the stigmator is moved to see what it does."""
_WORTH = 0.35
"""Depths of field of astigmatism that are worth such a move."""
_BOTH_SIGNS = 1.3
"""Ratio of the standard deviation to that of the likelier half from which only a move shows the sign of a component."""
_VAGUE = 1.0
"""Depths of field from which a frame in focus shows more of the astigmatism than one beside it."""
_GAIN_ERROR = 0.1
"""Relative error of a move by what was measured on the way."""
_SURE = 0.6
"""Probability of the place from which the stigmator is moved."""
_FLANK = 3.5
"""Depths of field from the focus to a frame that shows what remains."""
_MOST = 8
"""Corrections, frames beside the focus, and moves to see what the stigmator does: of each, in a run."""


class Stigmation:
    """The stigmator's part in a run.

    Parameters
    ----------
    run : FocusRun
        With a stigmator, or without, when it has no part.
    """

    def __init__(self, run: FocusRun) -> None:
        self._run = run
        self._moves = self._looks = self._trials = 0
        self._refusal = ""
        self._before: Posterior | None = None
        self._lost: set[tuple[float, float]] = set()
        self._tries: set[tuple[float, float]] = set()
        self._left = self.setting

    @property
    def setting(self) -> tuple[float, float]:
        """Of the stigmator."""
        return (0.0, 0.0) if self._run.stigmator is None else self._run.stigmator.setting

    def posterior(self, sightings: list[Sighting], pixel: float) -> Posterior:
        """Return what all frames say; `pixel` (mm) is that of the magnification to focus for."""
        stigmator = self._run.stigmator
        if stigmator is None:
            return posterior_of(self._run, sightings, pixel)
        settings = [m.setting for m in self._run.measurements]
        here = [s for s, setting in zip(sightings, settings, strict=True) if setting == self.setting]
        if self.setting in self._tries and not any(s.structure for s in here):
            self._tries.discard(self.setting)
            self._lost.add(self.setting)
            stigmator.lost()
            self._run.stigmate(self._left)
        kept = [
            replace(s, added=stigmator.added(setting))
            for s, setting in zip(sightings, settings, strict=True)
            if setting not in self._lost
        ]
        self._before = posterior_of(self._run, kept, pixel, self._before)
        stigmator.learn(*self._before.unknowns())
        return self._before

    def residual(self, posterior: Posterior) -> Residual | None:
        """Return what remains at the present setting, which may have been corrected since the last frame."""
        found, stigmator = posterior.residual(), self._run.stigmator
        if found is None or stigmator is None:
            return found
        x, y = stigmator.added_by(self._run.measurements[-1].setting, stigmator.setting)
        return replace(found, x=found.x + x, y=found.y + y)

    def next(self, posterior: Posterior, near: Estimate, here: list[Measurement]) -> float | None:
        """Return where the next frame tells more of the astigmatism, mm, or None where it is known and corrected.

        The stigmator is moved where the frames show what to correct.

        Parameters
        ----------
        posterior : Posterior
            Of all frames.
        near : Estimate
            Of the focus.
        here : list of Measurement
            Frames of this magnification.
        """
        stigmator = self._run.stigmator
        if stigmator is None or len(here) < 2 or near.mass < _SURE or self._refusal:
            return None
        every = here
        found = self.residual(posterior)
        self._run.astigmatism = None if found is None else (found.x * 1e3, found.y * 1e3, found.sigma * 1e3)
        if found is None:
            return None
        here = [m for m in here if m.setting == self.setting]
        worth, clear = _LEFT if stigmator.known else _WORTH, _CLEAR
        if found.sigma > _BOTH_SIGNS * found.mode:
            worth, clear = 0.0, 1.0
        if found.amount > max(worth * near.unit, clear * found.mode):
            if stigmator.known:
                if self._moves < _MOST:
                    self._moves += 1
                    return self._moved(self._against(found), near, found)
            elif found.unseen is not None:
                return None
            elif self._trials < _MOST and found.sigma <= max(_LEAST_KNOWN * near.unit, _SHARE * found.amount):
                self._trials += 1
                return self._tried(stigmator.trial(found.x, found.y, near.unit), near)
        unsure = math.hypot(found.sigma, self._unverified(near, here))
        from_one_side = self._run.beam.sigma is None and _from_one_side(near, every)
        if (unsure > _SIGMA * near.unit or from_one_side) and self._looks < _MOST:
            away = min((abs(m.working_distance - near.working_distance) for m in here), default=math.inf)
            if unsure > _VAGUE * near.unit and away > near.unit and self._run.limits.minimum <= near.working_distance:
                self._looks += 1
                return min(near.working_distance, self._run.limits.maximum)
            return self._flank(near, here, every)
        return None

    def _unverified(self, near: Estimate, here: list[Measurement]) -> float:
        """Return the error (mm) of the last correction by what was measured on the way, until a flank shows it."""
        stigmator = self._run.stigmator
        assert stigmator is not None
        if stigmator.given or any(abs(m.working_distance - near.working_distance) > 2 * near.unit for m in here):
            return 0.0
        return _GAIN_ERROR * math.hypot(*stigmator.added_by(self._left, self.setting))

    def _against(self, found: Residual) -> tuple[float, float]:
        stigmator = self._run.stigmator
        assert stigmator is not None
        return stigmator.towards(found.x, found.y, as_given=found.unseen is not None)

    def _moved(self, setting: tuple[float, float], near: Estimate, found: Residual) -> float | None:
        """Correct, and return where to look: the focus, which the last frame verifies."""
        self._set(setting)
        stigmator = self._run.stigmator
        assert stigmator is not None
        if math.hypot(*stigmator.added_by(self._left, self.setting)) < 0.3 * found.amount:
            self._refusal = "the stigmator is at its limit; widen stigmator_bounds or max_stigmator_travel"
            return None
        return near.working_distance

    def _tried(self, setting: tuple[float, float], near: Estimate) -> float | None:
        """Move an axis to see what it does, and return where that shows: beside the focus, with its sign."""
        before = self.setting
        self._set(setting)
        self._tries.add(self.setting)
        if self.setting == before:
            self._refusal = (
                "the limits of the stigmator leave no room to measure what it does; widen stigmator_bounds or "
                "max_stigmator_travel"
            )
            return None
        last = 1 if self._run.working_distance > near.working_distance else -1
        places = (near.working_distance - side * _FLANK * near.unit for side in (last, -last))
        limits = self._run.limits
        return next((place for place in places if limits.minimum <= place <= limits.maximum), near.working_distance)

    def _set(self, setting: tuple[float, float]) -> None:
        self._left = self.setting
        self._run.stigmate(setting)

    def _flank(self, near: Estimate, here: list[Measurement], every: list[Measurement]) -> float | None:
        """Return a place beside the estimate on the side with fewer frames: of the present setting, then of all."""
        limits = self._run.limits
        offsets, others = (
            [(m.working_distance - near.working_distance) / near.unit for m in frames] for frames in (here, every)
        )
        sides = sorted(
            (1, -1), key=lambda side: [sum(side * offset > 1.5 for offset in each) for each in (offsets, others)]
        )
        for side in sides:
            for away in (_FLANK, 1.6 * _FLANK):
                place = near.working_distance + side * away * near.unit
                if limits.minimum <= place <= limits.maximum and all(
                    abs(side * away - offset) > 1.0 for offset in offsets
                ):
                    self._looks += 1
                    return place
        return None

    def ended(self, outcome: Outcome, posterior: Posterior, near: Estimate) -> Outcome:
        """Return a focus with what became of the stigmator: without it, it is none that was asked for.

        What the last frames show to remain, too little to be worth a frame of its own, is taken off.
        """
        stigmator = self._run.stigmator
        if stigmator is None:
            return outcome
        found = self.residual(posterior)
        refusal = self._refused(found, near)
        if found is None or refusal:
            return replace(outcome, focused=False, reason=refusal, confidence=0.0, retry=False)
        if stigmator.known and found.amount > found.sigma:
            self._run.stigmate(self._against(found))
        return replace(outcome, reason=f"{outcome.reason}; {self._note(posterior, near)}")

    def _refused(self, found: Residual | None, near: Estimate) -> str:
        """Return why the stigmator is not corrected, by all frames in hand, or an empty text."""
        if found is None:
            return "the sample shows too few directions to correct the stigmator by: move the stage"
        if self._refusal:
            return self._refusal
        stigmator = self._run.stigmator
        assert stigmator is not None
        if found.unseen is not None and not stigmator.known:
            return (
                "it is not known what the stigmator does, and a sample of one direction does not show it: "
                "semfocus calibrate URL --stigmator, or move the stage to detail in all directions"
            )
        amount, sigma = found.amount / near.unit, found.sigma / near.unit
        if sigma > 1.7 * _SIGMA or amount > 1.0:
            return (
                f"the stigmator could not be corrected: {amount:.1f} ± {sigma:.1f} depths of field of astigmatism "
                "remain; move the stage to a field with detail in all directions"
            )
        return ""

    def _note(self, posterior: Posterior, near: Estimate) -> str:
        """Return what was corrected, for a person."""
        found, stigmator = self.residual(posterior), self._run.stigmator
        assert stigmator is not None
        assert found is not None
        amount = math.hypot(*stigmator.added_by(stigmator.start, stigmator.setting)) * 1e3
        left, sigma = found.amount / near.unit, found.sigma / near.unit
        note = f"stigmator corrected by {amount:.3g} µm, {left:.1f} ± {sigma:.1f} depths of field remain"
        if self._trials:
            note += f"; what it does was measured on the way, to {stigmator.error:.0%}"
        if found.unseen is None:
            return note
        return (
            f"{note}; the sample shows one direction alone: astigmatism along {found.unseen:.0f}° and "
            f"{found.unseen + 90:.0f}° is invisible on it and was left as it was, and the lens stands where the "
            "pattern is sharp"
        )


def _from_one_side(near: Estimate, frames: list[Measurement]) -> bool:
    """Return whether all frames out of focus are on one side: the place rests on a likely aperture."""
    offsets = [(m.working_distance - near.working_distance) / near.unit for m in frames]
    return not min(offsets) < -1.0 < 1.0 < max(offsets)
