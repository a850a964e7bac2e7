"""How the lens moves: where it is at any instant of the instrument's clock."""

from __future__ import annotations

import math

from firmware_protocol.profile import InstrumentProfile


class Lens:
    """The objective lens. It approaches a new working distance exponentially, and its iron remembers the direction.

    Going up the focus is at the reading; going down it stays behind, by the hysteresis at most. After a turn it stays
    where it was until that play is used up. Lengths are in mm; the start is as if the lens had come from below.
    """

    def __init__(self, profile: InstrumentProfile, working_distance: float, hysteresis: float = 0.0) -> None:
        self._profile = profile
        self._hysteresis = hysteresis
        self._from = working_distance
        self._behind = 0.0
        self._since = 0.0
        self.target = working_distance
        self.rest = 0.0

    def move(self, target: float, now: float) -> float:
        """Start towards `target` (mm) and return the seconds until the lens has settled."""
        self._behind = self.focus_offset(now)
        self._from, self._since, self.target = self.position(now), now, target
        settling = self._profile.lens_settling(target - self._from)
        self.rest = now + settling
        return settling

    def position(self, now: float) -> float:
        """Return the working distance in force, mm: exactly the target once settled."""
        if now >= self.rest:
            return self.target
        decay = math.exp(-(now - self._since) / self._profile.lens_time_constant)
        return self.target + (self._from - self.target) * decay

    def focus_offset(self, now: float) -> float:
        """Return by how much the focus lies beyond the working distance in force, mm."""
        return min(max(self._behind + self._from - self.position(now), 0.0), self._hysteresis)
