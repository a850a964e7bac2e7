"""Beam and chamber of the emulated instrument, as a client commands them and as the operator handles them."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from firmware_protocol.messages import BeamSet, VacuumSet
from semdrivers.emulator.instrument._chamber import Chamber


class ChamberControls(ABC):
    """Thread safe; what ends the beam ends the scan first.

    Parameters
    ----------
    chamber : Chamber
        What is commanded.
    """

    def __init__(self, chamber: Chamber) -> None:
        self._chamber = chamber
        self._lock = threading.RLock()

    @abstractmethod
    def _update(self) -> float:
        """Let what was due by now happen, and return the time; called with the lock held."""

    @abstractmethod
    def stop_scan(self) -> None:
        """Stop scanning; the frame under way is lost. Nothing happens when nothing is scanned."""

    def set_beam(self, on: bool) -> BeamSet:
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

    def pump(self) -> VacuumSet:
        """Start to evacuate the chamber. Raises `Refused` with INTERLOCK (door) or BUSY."""
        with self._lock:
            return self._chamber.pump(self._update())

    def vent(self) -> VacuumSet:
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
