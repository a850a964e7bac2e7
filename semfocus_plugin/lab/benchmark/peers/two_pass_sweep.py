"""Two sweeps on Tenengrad, coarse and fine, with a parabola through the best three frames."""

from __future__ import annotations

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Peer
from semfocus_plugin.lab.benchmark.peers.sharpness import vertex

__all__ = ["COARSE_STEP", "FINE_FRAMES", "PEER", "WIDE_STEP", "find"]

COARSE_STEP = 4.0
"""Depths of field; …"""

WIDE_STEP = 7.0
"""… and in a wide window."""

FINE_FRAMES = 5
"""Over two coarse steps, of which the middle and the ends are frames of the coarse sweep."""


def find(bench: Bench) -> Answer:
    """Sweep the window, then the surroundings of its best frame."""
    coarse = WIDE_STEP if bench.wide else COARSE_STEP
    low, high = bench.ends
    bench.sweep(low, high, coarse)
    best = bench.sharpest
    fine = bench.sweep(max(best - coarse, low), min(best + coarse, high), 2 * coarse / (FINE_FRAMES - 1))
    return Answer(bench.place(vertex(fine[:, 1], fine[:, 0])), True, "the vertex of the fine sweep")


PEER = Peer("two-pass-sweep", "coarse and fine sweep on Tenengrad", find)
"""The method, as the benchmark runs it."""
