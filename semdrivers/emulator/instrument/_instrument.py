"""The state machine of the emulated EM-30: lens, scan, stage, beam, chamber, and the interlocks between them.

Nothing here waits, but for `Instrument.next_frame`: a command starts a motion and says when it will be at
rest. The interlocks are the instrument's own, so no client can get round them:

* the beam needs an evacuated chamber and a closed door; scanning needs a stable beam;
* the chamber is vented only with the beam off;
* lens and stage stay inside the collision envelope.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from firmware_protocol import messages
from firmware_protocol.control import VERSION
from firmware_protocol.messages import Event, HelloReply, Parameter, Reason, ScanModeInfo, Status, Wait
from firmware_protocol.profile import EM30, InstrumentProfile
from semdrivers.emulator.instrument._chamber import Chamber
from semdrivers.emulator.instrument._clock import InstrumentClock
from semdrivers.emulator.instrument._lens import Lens
from semdrivers.emulator.instrument._parameters import PARAMETERS, Refused, capabilities, check, refuse, require
from semdrivers.emulator.instrument._scan_generator import ScanGenerator, ScannedFrame
from semdrivers.emulator.instrument._stage import Stage
from semdrivers.emulator.physics import Column, ScanConditions
from semdrivers.errors import OutOfRangeError
from semdrivers.microscope import number


class Instrument:
    """An EM-30 in software. Thread safe.

    At start the chamber is evacuated, the door closed and the beam on, as an operator leaves it.

    Parameters
    ----------
    column : Column
        Draws the frames.
    profile : InstrumentProfile
        Its numbers.
    seed : int
        Distinguishes instruments: the serial number is made of it.
    working_distance : float
        mm, at start.
    magnification : float
        At start.
    realtime : bool
        Whether frames, moves and settling take real time; else a virtual clock counts their seconds.
    stage_height : float, optional
        mm, set by hand; the profile's by default.
    lens_hysteresis : float
        mm by which the focus differs with the direction of approach.
    stigmator_hysteresis : float
        µm by which an axis of the stigmator stays behind when it is turned down.
    meanwhile : callable, optional
        Called with the instrument and the pixels while a frame is scanned: what happens in the middle; returns the
        pixels.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When working distance or magnification at start are no numbers, or beyond the limits.
    """

    def __init__(
        self,
        column: Column,
        *,
        profile: InstrumentProfile = EM30,
        seed: int = 0,
        working_distance: float = 15.0,
        magnification: float = 1000.0,
        realtime: bool = False,
        stage_height: float | None = None,
        lens_hysteresis: float = 0.0,
        stigmator_hysteresis: float = 0.0,
        meanwhile: Callable[[Instrument, NDArray[Any]], NDArray[Any]] = lambda _, pixels: pixels,
    ) -> None:
        self.column = column
        self.profile = profile
        self._listeners: tuple[Callable[[Event], object], ...] = ()
        self.clock = InstrumentClock(realtime)
        self._stage = Stage(profile, profile.stage_height if stage_height is None else stage_height, self._emit)
        working_distance = self._start_value(Parameter.WORKING_DISTANCE, working_distance)
        magnification = self._start_value(Parameter.MAGNIFICATION, magnification)
        self.serial = f"EMU{seed:06d}"
        self._chamber = Chamber(profile, self._emit)
        self._lock = threading.RLock()
        self._values = {
            Parameter.MAGNIFICATION: magnification,
            Parameter.BRIGHTNESS: 0.5,
            Parameter.CONTRAST: 0.5,
            Parameter.STIGMATOR_X: 0.0,
            Parameter.STIGMATOR_Y: 0.0,
        }
        self._lens = Lens(profile, working_distance, lens_hysteresis)
        self._stigmator_hysteresis = stigmator_hysteresis
        self._behind = {Parameter.STIGMATOR_X: 0.0, Parameter.STIGMATOR_Y: 0.0}
        self._optics_rest = 0.0
        self._changes = 0
        self._generator = ScanGenerator(
            column,
            profile,
            self.clock,
            self._lock,
            self.conditions,
            self._emit,
            lambda: self._changes,
            lambda pixels: meanwhile(self, pixels),
        )

    # State and events

    def listen(self, listener: Callable[[Event], object]) -> Callable[[], None]:
        """Call `listener` with every event, from the thread that caused it; returns what ends that.

        The listener must neither block nor call the instrument.
        """
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unlisten() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return unlisten

    def value(self, parameter: Parameter) -> float:
        """Return a parameter; of a lens or stage in motion, where it is going."""
        with self._lock:
            if parameter is Parameter.WORKING_DISTANCE:
                return self._lens.target
            if parameter in self._values:
                return self._values[parameter]
            pose = self._stage.target
            return {
                Parameter.STAGE_X: pose.x,
                Parameter.STAGE_Y: pose.y,
                Parameter.STAGE_Z: self._stage.height,
                Parameter.STAGE_TILT: pose.tilt,
                Parameter.STAGE_ROTATION: pose.rotation,
                Parameter.ACCELERATING_VOLTAGE: self.profile.accelerating_voltage,
                Parameter.BEAM_CURRENT: self.profile.beam_current,
            }[parameter]

    def limits(self, parameter: Parameter) -> tuple[float, float]:
        """Return the least and the greatest value of a parameter, collision envelope included."""
        low, high = PARAMETERS[parameter].limits(self.profile)
        if parameter is Parameter.WORKING_DISTANCE:
            low = self._stage.lowest_working_distance(self.clock.now())
        return low, high

    def status(self, owner: str = "") -> messages.StatusReport:
        """Return the state of the whole instrument."""
        with self._lock:
            now = self._update()
            return messages.StatusReport(
                time=now,
                beam_on=self._chamber.beam_on,
                vacuum=self._chamber.vacuum,
                door_closed=self._chamber.door_closed,
                scanning=self._generator.scanning,
                stage_moving=not self._stage.arrived,
                next_frame=self._generator.next_id,
                owner=owner,
                fault=self._chamber.fault,
            )

    def rest_time(self, wait: Wait) -> float:
        """Return when everything named in `wait` will be at rest."""
        with self._lock:
            times = {
                Wait.OPTICS: self._optics_rest,
                Wait.SCAN: self._generator.rest,
                Wait.STAGE: self._stage.rest,
                Wait.BEAM: self._chamber.beam_stable,
                Wait.VACUUM: self._chamber.vacuum_settled,
            }
            return max((time for flag, time in times.items() if flag & wait), default=0.0)

    def hello(self) -> HelloReply:
        """Return what the instrument says of itself to a client that is not in control."""
        profile = self.profile
        return HelloReply(
            version=VERSION,
            owner=False,
            lease=profile.lease_time,
            time=self.clock.now(),
            model=profile.model,
            serial=self.serial,
            firmware=profile.firmware,
            capabilities=capabilities(profile, self.limits),
            scan_modes=tuple(
                ScanModeInfo(mode.name, mode.width, mode.height, mode.dwell_time, mode.frame_time)
                for mode in profile.scan_modes
            ),
        )

    def conditions(self, width: int = 320, height: int = 240, bits: int = 8) -> ScanConditions:
        """Return what a frame scanned now would be scanned under."""
        with self._lock:
            now = self._update()
            mode = self.profile.scan_mode(width, height)
            pose = self._stage.pose(now)
            distance = self._lens.position(now)
            return ScanConditions(
                working_distance=distance,
                magnification=self._values[Parameter.MAGNIFICATION],
                width=width,
                height=height,
                bits=bits,
                dwell_time=(mode or self.profile.scan_modes[0]).dwell_time,
                stage_x=pose.x,
                stage_y=pose.y,
                stage_tilt=pose.tilt,
                stage_rotation=pose.rotation,
                frame_id=self._generator.next_id,
                start_time=now,
                brightness=self._values[Parameter.BRIGHTNESS],
                contrast=self._values[Parameter.CONTRAST],
                beam_on=self._chamber.beam_on,
                accelerating_voltage=self.profile.accelerating_voltage,
                beam_current=self.profile.beam_current,
                stigmator_x=self._values[Parameter.STIGMATOR_X] + self._behind[Parameter.STIGMATOR_X],
                stigmator_y=self._values[Parameter.STIGMATOR_Y] + self._behind[Parameter.STIGMATOR_Y],
                focus_offset=self._lens.focus_offset(now),
                lens_travel=self._lens.target - distance,
                exposures=self._generator.exposures.all,
            )

    # Lens, detector, stigmator, stage

    def set_parameter(self, parameter: Parameter, value: float) -> messages.Applied:
        """Set a parameter, by a client's command or by the operator's hand.

        Raises
        ------
        Refused
            NOT_IMPLEMENTED, READ_ONLY, OUT_OF_RANGE, or INTERLOCK at the collision envelope; nothing has changed.
        """
        require(self.profile, parameter)
        if not PARAMETERS[parameter].writable:
            raise refuse(Status.READ_ONLY, f"{parameter.name.lower()} cannot be set")
        with self._lock:
            value = self._check(parameter, value)
            now = self._update()
            if parameter is Parameter.WORKING_DISTANCE:
                settling = self._lens.move(value, now)
            else:
                settling = PARAMETERS[parameter].settling(self.profile)
                if parameter in self._behind:
                    behind = self._behind[parameter] + self._values[parameter] - value
                    self._behind[parameter] = min(max(behind, 0.0), self._stigmator_hysteresis)
                self._values[parameter] = value
            self._changes += 1
            self._optics_rest = max(self._optics_rest, now + settling)
            self._emit(messages.ParameterChanged(parameter, value, now))
            return messages.Applied(parameter, value, settling, now + settling)

    def set_stigmator(self, x: float, y: float) -> messages.StigmatorApplied:
        """Set both axes of the stigmator, µm, or neither. Raises as `set_parameter` does."""
        require(self.profile, Parameter.STIGMATOR_X, Parameter.STIGMATOR_Y)
        with self._lock:
            self._check(Parameter.STIGMATOR_X, x)
            self._check(Parameter.STIGMATOR_Y, y)
            first = self.set_parameter(Parameter.STIGMATOR_X, x)
            second = self.set_parameter(Parameter.STIGMATOR_Y, y)
            return messages.StigmatorApplied(first.value, second.value, second.settling, second.time)

    def move_stage(self, x: float, y: float) -> messages.StageMoved:
        """Move the stage to (x, y), mm.

        Raises
        ------
        Refused
            OUT_OF_RANGE, INTERLOCK at the collision envelope, BUSY while it moves; it has not moved.
        """
        require(self.profile, Parameter.STAGE_X, Parameter.STAGE_Y)
        with self._lock:
            x, y = self._check(Parameter.STAGE_X, x), self._check(Parameter.STAGE_Y, y)
            moved = self._stage.move(x, y, self._update())
            self._changes += 1
            return moved

    def orient_stage(self, tilt: float, rotation: float) -> messages.StageOriented:
        """Tilt and rotate the stage, degrees. Raises as `move_stage` does."""
        require(self.profile, Parameter.STAGE_TILT, Parameter.STAGE_ROTATION)
        with self._lock:
            tilt = self._check(Parameter.STAGE_TILT, tilt)
            rotation = self._check(Parameter.STAGE_ROTATION, rotation)
            now = self._update()
            lens = min(self._lens.position(now), self._lens.target)
            oriented = self._stage.orient(tilt, rotation, lens, now)
            self._changes += 1
            return oriented

    # Scan

    def start_scan(self, width: int, height: int, bits: int = 8, frames: int = 0) -> messages.ScanStarted:
        """Scan `frames` frames, or without end when 0; a scan under way is replaced.

        Raises
        ------
        Refused
            INVALID_PARAMETER for a size not on offer, INTERLOCK without a beam, BUSY until it is stable.
        """
        mode = self._generator.mode(width, height, bits)
        with self._lock:
            now = self._update()
            self._chamber.check_scan(now)
            return self._generator.start(mode, bits, frames, now)

    def stop_scan(self) -> None:
        """Stop scanning; the frame under way is lost. Nothing happens when nothing is scanned."""
        with self._lock:
            self._generator.stop(self._update())

    def next_frame(self) -> ScannedFrame | None:
        """Scan one frame, and let its time pass; None when no scan is running, it was stopped or replaced, or
        the clock was closed.

        Only frames that were scanned to their end under one scan command come out.
        """
        return self._generator.next_frame()

    def report_dropped(self, frame_id: int) -> None:
        """Report to the listeners that a frame could not be delivered."""
        with self._lock:
            self._emit(messages.FrameDropped(frame_id, self.clock.now()))

    # Beam and chamber, as a client commands them and as the operator handles them

    def set_beam(self, on: bool) -> messages.BeamSet:
        """Switch the beam; switching it off stops the scan.

        Raises
        ------
        Refused
            INTERLOCK without vacuum or with an open door, HARDWARE_FAULT with a broken filament.
        """
        with self._lock:
            now = self._update()
            if not on:
                self.stop_scan()
            return self._chamber.set_beam(on, now)

    def pump(self) -> messages.VacuumSet:
        """Start to evacuate the chamber. Raises `Refused` with INTERLOCK (door) or BUSY."""
        with self._lock:
            return self._chamber.pump(self._update())

    def vent(self) -> messages.VacuumSet:
        """Start to let air in. Raises `Refused` with INTERLOCK (beam) or BUSY."""
        with self._lock:
            return self._chamber.vent(self._update())

    def safe(self) -> None:
        """Stop the scan and blank the beam, as when a controlling client is lost. Never vents."""
        with self._lock:
            self.set_beam(False)

    def open_door(self) -> None:
        """The operator opens the door."""
        with self._lock:
            now = self._update()
            self.stop_scan()
            self._chamber.open_door(now)

    def close_door(self) -> None:
        """The operator closes the door."""
        with self._lock:
            self._chamber.close_door()

    def break_filament(self) -> None:
        """The filament burns through."""
        with self._lock:
            now = self._update()
            self.stop_scan()
            self._chamber.break_filament(now)

    def repair(self) -> None:
        """The operator replaces the filament."""
        with self._lock:
            self._chamber.repair()

    # Life

    def close(self) -> None:
        """Switch off: frames and waits end. The state can still be read."""
        self.stop_scan()
        self.clock.close()

    def _start_value(self, parameter: Parameter, value: object) -> float:
        name = parameter.name.lower()
        try:
            return self._check(parameter, number(name, value, PARAMETERS[parameter].unit))
        except Refused as refusal:
            raise OutOfRangeError(f"emulated {self.profile.model}: {refusal.refusal.text}") from None

    def _check(self, parameter: Parameter, value: float) -> float:
        rule = PARAMETERS[parameter]
        low, high = rule.limits(self.profile)
        applied = check(self.profile, parameter, value, low, high)
        lowest, _ = self.limits(parameter)
        if applied < lowest:
            raise refuse(
                Status.INTERLOCK,
                f"working_distance {value:g} mm is inside the collision envelope: with the stage at "
                f"{self._stage.height:g} mm, tilted by {self._stage.target.tilt:g}°, it must be at least "
                f"{lowest:g} mm; tilt less, or lower the stage",
                reasons=Reason.COLLISION,
                minimum=lowest,
                maximum=high,
            )
        return applied

    def update(self) -> None:
        """Let what was due by now happen, with its events."""
        with self._lock:
            self._update()

    def _update(self) -> float:
        now = self.clock.now()
        self._stage.update(now)
        self._chamber.update(now)
        return now

    def _emit(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)
