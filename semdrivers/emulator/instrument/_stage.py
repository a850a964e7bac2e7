"""The stage of the emulated instrument: where it stands, how it lies, how it moves, and what it must not hit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace

from firmware_protocol.messages import Event, Reason, StageIdle, StageMoved, StageOriented, Status, Subsystem
from firmware_protocol.profile import InstrumentProfile
from semdrivers.emulator.instrument._parameters import refuse


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a stage stands (mm, in the plane of the sample) and how it lies (degrees).

    Tilt and rotation leave the point under the beam where it is, and at its height.
    """

    x: float = 0.0
    y: float = 0.0
    tilt: float = 0.0
    rotation: float = 0.0


class Stage:
    """A stage of four driven axes, which travel at constant speed, together, then settle.

    The height (mm) is set by hand; `emit` takes the events. Not thread safe: the instrument holds its lock.
    """

    def __init__(self, profile: InstrumentProfile, height: float, emit: Callable[[Event], None]) -> None:
        self._profile = profile
        self._emit = emit
        self._from = Pose()
        self._since = 0.0
        self._travel = 0.0
        self.height = height
        self.target = Pose()
        self.rest = 0.0
        self.arrived = True

    def update(self, now: float) -> None:
        """End a motion whose time has come."""
        if not self.arrived and now >= self.rest:
            self.arrived = True
            self._emit(StageIdle(self.target.x, self.target.y, self.rest))

    def pose(self, now: float) -> Pose:
        """Return where the stage stands and how it lies."""
        passed = now - self._since
        if passed >= self._travel:
            return self.target
        share = passed / self._travel
        start, end = astuple(self._from), astuple(self.target)
        return Pose(*(low + share * (high - low) for low, high in zip(start, end, strict=True)))

    def lowest_working_distance(self, now: float) -> float:
        """Return the lower edge of the collision envelope, mm; in a motion, that of the worse end."""
        worst = max(self.pose(now).tilt, self.target.tilt)
        return self._profile.lowest_working_distance(self._top(worst))

    def move(self, x: float, y: float, now: float) -> StageMoved:
        """Start towards (x, y), mm; raises `Refused` as `Instrument.move_stage` does."""
        pose = replace(self.target, x=x, y=y)
        self._check_axis(pose)
        self._check_idle()
        travel = self._go(pose, now)
        return StageMoved(x, y, travel, now + travel)

    def orient(self, tilt: float, rotation: float, working_distance: float, now: float) -> StageOriented:
        """Start to tilt and rotate, degrees, with the lens at `working_distance` (mm); raises as `move` does."""
        pose = replace(self.target, tilt=tilt, rotation=rotation)
        self._check_axis(pose)
        self._check_lens(pose, working_distance)
        self._check_idle()
        travel = self._go(pose, now)
        return StageOriented(tilt, rotation, travel, now + travel)

    def _top(self, tilt: float) -> float:
        """How high the highest point reaches, mm: a tilt lifts the edge of the sample holder."""
        return self.height + self._profile.stage_holder_radius * math.sin(math.radians(tilt))

    def _check_axis(self, pose: Pose) -> None:
        radius, top = self._profile.stage_free_radius, self._top(pose.tilt)
        if top > self._profile.stage_free_height and math.hypot(pose.x, pose.y) > radius:
            raise refuse(
                Status.INTERLOCK,
                f"stage ({pose.x:g}, {pose.y:g}) mm, tilted by {pose.tilt:g}°, would be {top:.3g} mm high and hit the "
                f"pole piece; stay within {radius:g} mm of the axis, tilt less, or lower the stage",
                reasons=Reason.COLLISION,
                maximum=radius,
            )

    def _check_lens(self, pose: Pose, working_distance: float) -> None:
        lowest = self._profile.lowest_working_distance(self._top(pose.tilt))
        if working_distance < lowest:
            room = self._profile.stage_free_height - self.height
            room += working_distance - self._profile.working_distance_minimum
            most = math.degrees(math.asin(min(max(room / self._profile.stage_holder_radius, 0.0), 1.0)))
            raise refuse(
                Status.INTERLOCK,
                f"stage_tilt {pose.tilt:g}° would bring the sample holder into the pole piece: at working distance "
                f"{working_distance:g} mm it can be {most:.1f}° at most; go to {lowest:.3f} mm first, or lower the "
                "stage",
                reasons=Reason.COLLISION,
                maximum=most,
            )

    def _check_idle(self) -> None:
        if not self.arrived:
            raise refuse(Status.BUSY, "the stage is moving", subsystem=Subsystem.STAGE)

    def _go(self, pose: Pose, now: float) -> float:
        """Start, and return the seconds until the stage is at rest."""
        profile, start = self._profile, self.pose(now)
        self._from, self._since, self.target = start, now, pose
        self._travel = max(
            math.dist((start.x, start.y), (pose.x, pose.y)) / profile.stage_speed,
            abs(pose.tilt - start.tilt) / profile.stage_tilt_speed,
            abs(pose.rotation - start.rotation) / profile.stage_rotation_speed,
        )
        duration = self._travel + profile.stage_settling if self._travel else 0.0
        self.rest, self.arrived = now + duration, False
        return duration
