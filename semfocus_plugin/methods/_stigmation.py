"""Correct the stigmator on the way to the focus: both components are read off the frames that the focus takes."""

from __future__ import annotations

import math

from semfocus_plugin.optics import Estimate, Posterior
from semfocus_plugin.run import FocusRun, Measurement

_LEFT = 0.3
"""Depths of field of astigmatism that are left alone."""
_SIGMA = 0.22
"""Depths of field to which what remains must be known."""
_SURE = 0.6
"""Probability of the place from which the stigmator is moved."""
_FLANK = 5.0
"""Depths of field from the focus to a frame that tells what remains."""
_MOST_MOVES, _MOST_LOOKS = 4, 5


class Stigmation:
    """The stigmator's part in a run.

    Parameters
    ----------
    run : FocusRun
        With a stigmator, or without, when it has no part.
    """

    def __init__(self, run: FocusRun) -> None:
        self._run = run
        self._moves = self._looks = 0
        self._limited = False

    @property
    def added(self) -> tuple[float, float]:
        """Astigmatism that the present setting adds to that of the start, mm."""
        return (0.0, 0.0) if self._run.stigmator is None else self._run.stigmator.added

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
        if self._run.stigmator is None or len(here) < 2 or near.mass < _SURE or self._limited:
            return None
        found = posterior.astigmatism()
        if found is None:
            return None
        x, y, sigma = found
        amount = math.hypot(x, y)
        if amount > max(_LEFT * near.unit, 1.5 * sigma) and self._moves < _MOST_MOVES:
            before = self.added
            after = self._run.stigmate(before[0] - x, before[1] - y)
            self._moves += 1
            if math.hypot(after[0] - before[0], after[1] - before[1]) >= 0.3 * amount:
                return near.working_distance
            self._limited = True
            return None
        if sigma > _SIGMA * near.unit and self._looks < _MOST_LOOKS:
            return self._flank(near, [m for m in here if m.added == self.added])
        return None

    def _flank(self, near: Estimate, here: list[Measurement]) -> float | None:
        """Return a place beside the estimate on the side with fewer frames of the present setting."""
        limits = self._run.limits
        offsets = [(m.working_distance - near.working_distance) / near.unit for m in here]
        sides = sorted((1, -1), key=lambda side: sum(side * offset > 1.5 for offset in offsets))
        for side in sides:
            for away in (_FLANK, 1.6 * _FLANK):
                place = near.working_distance + side * away * near.unit
                if limits.minimum <= place <= limits.maximum and all(
                    abs(side * away - offset) > 1.0 for offset in offsets
                ):
                    self._looks += 1
                    return place
        return None

    def trim(self, posterior: Posterior) -> None:
        """Take off what the last frames show to remain: too little to be worth a frame of its own."""
        found = posterior.astigmatism()
        if self._run.stigmator is not None and found is not None and math.hypot(found[0], found[1]) > found[2]:
            self._run.stigmate(self.added[0] - found[0], self.added[1] - found[1])

    def refusal(self, posterior: Posterior, near: Estimate) -> str:
        """Return why the stigmator is not corrected, by all frames in hand, or an empty text."""
        if self._run.stigmator is None:
            return ""
        found = posterior.astigmatism()
        if found is None:
            return "the sample shows too few directions to correct the stigmator by: move the stage"
        if self._limited:
            return "the stigmator is at its limit; widen stigmator_bounds or max_stigmator_travel"
        amount, sigma = math.hypot(found[0], found[1]) / near.unit, found[2] / near.unit
        if sigma > 2 * _SIGMA or amount > 1.0:
            return (
                f"the stigmator could not be corrected: {amount:.1f} ± {sigma:.1f} depths of field of astigmatism "
                "remain; move the stage to a field with detail in all directions"
            )
        return ""

    def note(self, posterior: Posterior, near: Estimate) -> str:
        """Return what was corrected, for a person, or an empty text."""
        found = posterior.astigmatism()
        if self._run.stigmator is None or found is None:
            return ""
        amount = math.hypot(*self.added) * 1e3
        left, sigma = math.hypot(found[0], found[1]) / near.unit, found[2] / near.unit
        return f"stigmator corrected by {amount:.3g} µm, {left:.1f} ± {sigma:.1f} depths of field remain"
