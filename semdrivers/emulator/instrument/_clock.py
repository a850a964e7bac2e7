"""The instrument's clock: the seconds that an instrument would have taken."""

from __future__ import annotations

import threading
import time

_LOOK = 0.1
"""Seconds between two looks whether the clock was closed, while something else may end a wait."""


class InstrumentClock:
    """Seconds since the instrument was switched on.

    By default the clock is virtual: it stands still until something waits, and a wait moves it on at once. With
    `realtime` it runs with the computer's clock, and a wait really waits. Thread safe.
    """

    def __init__(self, realtime: bool = False) -> None:
        self.realtime = realtime
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._virtual = 0.0
        self._origin = time.monotonic()

    def now(self) -> float:
        """Return the time in seconds."""
        if self.realtime:
            return time.monotonic() - self._origin
        return self._virtual

    def wait_until(self, instant: float, ended: threading.Event | None = None) -> bool:
        """Let the time pass until `instant`, or until `ended` is set; returns False when the clock was closed."""
        if not self.realtime:
            with self._lock:
                self._virtual = max(self._virtual, instant)
            return not self._closed.is_set()
        while (left := instant - self.now()) > 0 and not (ended is not None and ended.is_set()):
            if ended is None:
                self._closed.wait(left)
            else:
                ended.wait(min(left, _LOOK))
            if self._closed.is_set():
                return False
        return not self._closed.is_set()

    def close(self) -> None:
        """End all waits, now and in future."""
        self._closed.set()
