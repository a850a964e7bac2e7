"""The scan generator of the emulated instrument: frames, one after the other, while a scan is running."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from firmware_protocol.messages import Event, Parameter, ScanEnded, ScanStarted, Status
from firmware_protocol.profile import InstrumentProfile, ScanModeProfile
from semdrivers.emulator.instrument._clock import InstrumentClock
from semdrivers.emulator.instrument._exposures import Exposures
from semdrivers.emulator.instrument._parameters import PARAMETERS, refuse
from semdrivers.emulator.physics import Column, ScanConditions


@dataclass(frozen=True, slots=True, eq=False)
class ScannedFrame:
    """One frame, with what was in force when its scan began.

    Parameters
    ----------
    frame_id : int
        Counts up from 1 over the life of the instrument.
    start_time, end_time : float
        Seconds on the instrument's clock.
    width, height, bits : int
        Shape and depth of the pixels.
    working_distance : float
        mm; where the lens really was, to the quantum.
    magnification : float
        Plain number.
    pixel_size : float
        nm.
    pixels : ndarray of shape (height, width), uint8 or uint16
        Grey levels.
    aborted : bool
        Whether a setting changed while it was scanned.
    """

    frame_id: int
    start_time: float
    end_time: float
    width: int
    height: int
    bits: int
    working_distance: float
    magnification: float
    pixel_size: float
    pixels: NDArray[Any]
    aborted: bool = False


@dataclass(slots=True, eq=False)
class _Scan:
    mode: ScanModeProfile
    bits: int
    left: int | None
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when it was stopped or replaced: nobody waits for the frame under way."""


@dataclass(slots=True, eq=False)
class ScanGenerator:
    """Draws the frames of the scan that is running.

    Column, profile, clock and lock are those of the instrument, whose lock is held in all calls but `next_frame`.
    """

    _column: Column
    _profile: InstrumentProfile
    _clock: InstrumentClock
    _lock: threading.RLock
    _conditions: Callable[[int, int, int], ScanConditions]  # what a frame of (width, height, bits) is scanned under
    _emit: Callable[[Event], None]
    _changes: Callable[[], int]  # counts the changes of settings
    _meanwhile: Callable[[NDArray[Any]], NDArray[Any]]  # called with the pixels, without the lock; returns them
    exposures: Exposures = field(init=False)
    next_id: int = field(default=1, init=False)
    rest: float = field(default=0.0, init=False)
    _scan: _Scan | None = field(default=None, init=False)
    _one_frame: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self.exposures = Exposures(self._profile.field_width_at_unity)

    @property
    def scanning(self) -> bool:
        """Whether a scan is running."""
        return self._scan is not None

    def mode(self, width: int, height: int, bits: int) -> ScanModeProfile:
        """Return the mode of a frame size, or raise `Refused` with INVALID_PARAMETER."""
        mode = self._profile.scan_mode(width, height)
        if mode is None or bits not in (8, 16):
            offer = ", ".join(f"{m.width}x{m.height}" for m in self._profile.scan_modes)
            raise refuse(
                Status.INVALID_PARAMETER,
                f"no scan of {width}x{height} pixels at {bits} bit; there are {offer} at 8 and 16 bit",
            )
        return mode

    def start(self, mode: ScanModeProfile, bits: int, frames: int, now: float) -> ScanStarted:
        """Start a scan, in place of one under way."""
        if self._scan is not None:
            self._scan.ended.set()
        self._scan = _Scan(mode, bits, frames or None)
        self.rest = now
        return ScanStarted(self.next_id, mode.frame_time, mode.dwell_time, now)

    def stop(self, now: float) -> None:
        """Stop the scan, if there is one."""
        if self._scan is not None:
            self._scan.ended.set()
            self._scan = None
            self.rest = now
            self._emit(ScanEnded(self.next_id, now))

    def next_frame(self) -> ScannedFrame | None:
        """Scan one frame to its end; None when no scan is running, it was stopped or replaced, or the clock closed."""
        with self._one_frame:
            with self._lock:
                scan = self._scan
                if scan is None:
                    return None
                conditions = self._conditions(scan.mode.width, scan.mode.height, scan.bits)
                changes = self._changes()
                end = self.rest = conditions.start_time + scan.mode.frame_time
            pixels = self._meanwhile(self._column.render(conditions))
            if not self._clock.wait_until(end, scan.ended):
                return None
            with self._lock:
                if conditions.beam_on:
                    self.exposures.add(conditions)
                if self._scan is not scan:
                    return None
                self._finish(scan, end)
                return self._frame(conditions, end, pixels, self._changes() != changes)

    def _finish(self, scan: _Scan, end: float) -> None:
        self.next_id += 1
        if scan.left is not None:
            scan.left -= 1
            if scan.left == 0:
                self.stop(end)

    def _frame(self, conditions: ScanConditions, end: float, pixels: NDArray[Any], aborted: bool) -> ScannedFrame:
        return ScannedFrame(
            frame_id=conditions.frame_id,
            start_time=conditions.start_time,
            end_time=end,
            width=conditions.width,
            height=conditions.height,
            bits=conditions.bits,
            working_distance=PARAMETERS[Parameter.WORKING_DISTANCE].quantise(
                self._profile, conditions.working_distance
            ),
            magnification=conditions.magnification,
            pixel_size=self._profile.pixel_size(conditions.magnification, conditions.width),
            pixels=pixels,
            aborted=aborted,
        )
