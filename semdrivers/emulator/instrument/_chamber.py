"""Chamber, door, gun and beam of the emulated instrument, and the interlocks between them."""

from __future__ import annotations

from collections.abc import Callable

from firmware_protocol import messages
from firmware_protocol.messages import Event, Reason, Status, Subsystem, VacuumSet, VacuumState
from firmware_protocol.profile import InstrumentProfile
from semdrivers.emulator.instrument._parameters import refuse

_ENDS_AS = {VacuumState.PUMPING: VacuumState.READY, VacuumState.VENTING: VacuumState.VENTED}


class Chamber:
    """State of vacuum, door and beam; `emit` takes the events. Not thread safe: the instrument holds its lock."""

    def __init__(self, profile: InstrumentProfile, emit: Callable[[Event], None]) -> None:
        self._profile = profile
        self._emit = emit
        self.beam_on = True
        self.beam_stable = 0.0
        self.vacuum = VacuumState.READY
        self.vacuum_settled = 0.0
        self.door_closed = True
        self.fault = ""

    def update(self, now: float) -> None:
        """End pumping or venting whose time has come."""
        if self.vacuum in _ENDS_AS and now >= self.vacuum_settled:
            self._become(_ENDS_AS[self.vacuum], self.vacuum_settled)

    def set_beam(self, on: bool, now: float) -> messages.BeamSet:
        """Switch the beam; raises `Refused` as `Instrument.set_beam` does."""
        if on == self.beam_on:
            return messages.BeamSet(on, max(0.0, self.beam_stable - now), max(now, self.beam_stable))
        if on:
            self._check_beam()
        settling = self._profile.beam_on_time if on else 0.0
        self.beam_on, self.beam_stable = on, now + settling
        self._emit(messages.BeamChanged(on, now))
        return messages.BeamSet(on, settling, now + settling)

    def _check_beam(self) -> None:
        if self.fault:
            raise refuse(Status.HARDWARE_FAULT, self.fault)
        reasons = Reason.NONE if self.vacuum is VacuumState.READY else Reason.VACUUM_NOT_READY
        reasons |= Reason.NONE if self.door_closed else Reason.DOOR_OPEN
        if reasons:
            door = "closed" if self.door_closed else "open"
            raise refuse(
                Status.INTERLOCK,
                "the beam needs an evacuated chamber and a closed door: "
                f"the chamber is {self.vacuum.name.lower()}, the door {door}",
                reasons=reasons,
            )

    def check_scan(self, now: float) -> None:
        """Raise `Refused` without a stable beam: HARDWARE_FAULT, INTERLOCK when it is off, BUSY until it is stable."""
        if self.fault:
            raise refuse(Status.HARDWARE_FAULT, self.fault)
        if not self.beam_on:
            raise refuse(
                Status.INTERLOCK, "scanning needs the beam, which is off: switch it on", reasons=Reason.BEAM_OFF
            )
        if now < self.beam_stable:
            raise refuse(
                Status.BUSY,
                f"the beam will be stable in {self.beam_stable - now:.1f} s: wait",
                subsystem=Subsystem.BEAM,
            )

    def pump(self, now: float) -> VacuumSet:
        """Start to evacuate; raises `Refused`: INTERLOCK with an open door, BUSY while pumping or venting."""
        if not self.door_closed:
            raise refuse(Status.INTERLOCK, "pumping needs a closed door: close it", reasons=Reason.DOOR_OPEN)
        self._check_idle()
        if self.vacuum is VacuumState.READY:
            return VacuumSet(VacuumState.READY, 0.0, now)
        return self._start(VacuumState.PUMPING, self._profile.pump_time, now)

    def vent(self, now: float) -> VacuumSet:
        """Start to let air in; raises `Refused`: INTERLOCK with the beam on, BUSY while pumping or venting."""
        if self.beam_on:
            raise refuse(Status.INTERLOCK, "venting needs the beam off: switch it off", reasons=Reason.BEAM_ON)
        self._check_idle()
        if self.vacuum is VacuumState.VENTED:
            return VacuumSet(VacuumState.VENTED, 0.0, now)
        return self._start(VacuumState.VENTING, self._profile.vent_time, now)

    def _check_idle(self) -> None:
        if self.vacuum in _ENDS_AS:
            state, end = self.vacuum.name.lower(), _ENDS_AS[self.vacuum].name.lower()
            raise refuse(Status.BUSY, f"the chamber is {state}: wait until it is {end}", subsystem=Subsystem.VACUUM)

    def _start(self, state: VacuumState, duration: float, now: float) -> VacuumSet:
        self.vacuum_settled = now + duration
        self._become(state, now)
        return VacuumSet(_ENDS_AS[state], duration, self.vacuum_settled)

    def _become(self, state: VacuumState, now: float) -> None:
        self.vacuum = state
        self._emit(messages.VacuumChanged(state, now))

    def open_door(self, now: float) -> None:
        """The operator opens the door: the beam goes off, and the chamber is full of air."""
        if self.door_closed:
            self.door_closed = False
            self.set_beam(False, now)
            self._emit(messages.InterlockTripped(Reason.DOOR_OPEN, now, "the door was opened: the beam is off"))
            if self.vacuum is not VacuumState.VENTED:
                self.vacuum_settled = now
                self._become(VacuumState.VENTED, now)

    def close_door(self) -> None:
        """The operator closes the door."""
        self.door_closed = True

    def break_filament(self, now: float) -> None:
        """The filament burns through: the beam goes off and stays off until `repair`."""
        self.fault = "the filament is broken: replace it"
        self.set_beam(False, now)

    def repair(self) -> None:
        """The operator replaces the filament."""
        self.fault = ""
