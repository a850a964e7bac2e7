"""The instrument's clock, virtual and real."""

from __future__ import annotations

import threading
import time

from semdrivers.emulator.instrument import InstrumentClock


def test_virtual_time_moves_only_by_waiting_and_never_back() -> None:
    clock = InstrumentClock()
    assert clock.now() == 0.0
    assert clock.wait_until(1e6)
    assert clock.now() == 1e6
    assert clock.wait_until(5.0)
    assert clock.now() == 1e6


def test_real_time_waits() -> None:
    clock = InstrumentClock(realtime=True)
    start = time.monotonic()
    assert clock.wait_until(clock.now() + 0.1)
    assert time.monotonic() - start >= 0.09
    assert clock.wait_until(0.0)


def test_closing_ends_every_wait() -> None:
    clock = InstrumentClock(realtime=True)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(clock.wait_until(1e6)))
    thread.start()
    clock.close()
    thread.join(20)
    assert results == [False]
    assert not clock.wait_until(0.0)


def test_a_closed_virtual_clock_says_so() -> None:
    clock = InstrumentClock()
    clock.close()
    assert not clock.wait_until(1.0)
