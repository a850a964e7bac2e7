"""Golden section on Tenengrad (Kiefer 1953)."""

from __future__ import annotations

import math

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Peer

__all__ = ["BRACKETING_STEP", "PEER", "find"]

BRACKETING_STEP = 12.0
"""Depths of field between the frames that bracket the peak in a wide window."""

_RATIO = (math.sqrt(5) - 1) / 2


def find(bench: Bench) -> Answer:
    """Bracket where the window is wide, then narrow it to twice the accuracy; the answer is the sharpest frame."""
    low, high = bench.bracket(BRACKETING_STEP)
    left, right = high - _RATIO * (high - low), low + _RATIO * (high - low)
    while high - low > 2 * bench.tolerance:
        if bench.sharpness(left) >= bench.sharpness(right):
            high, right = right, left
            left = high - _RATIO * (high - low)
        else:
            low, left = left, right
            right = low + _RATIO * (high - low)
    return Answer(bench.place(bench.sharpest), True, "the bracket is narrower than the accuracy wanted")


PEER = Peer("golden-section", "golden section on Tenengrad", find)
"""The method, as the benchmark runs it."""
