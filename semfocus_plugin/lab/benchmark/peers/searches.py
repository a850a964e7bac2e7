"""Searches on Tenengrad: Brent's method, golden section (Kiefer 1953), and a sweep in two passes."""

from __future__ import annotations

import math

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Peer
from semfocus_plugin.lab.benchmark.peers.sharpness import vertex

__all__ = ["BRENT", "GOLDEN_SECTION", "TWO_PASS_SWEEP"]

_BRACKETING_STEP = 12.0  # depths of field between the frames that bracket the peak in a wide window
_XATOL = 1.5  # tolerance of Brent's method over the accuracy asked for; its errors are a tenth of this and less
_RATIO = (math.sqrt(5) - 1) / 2
_COARSE_STEP, _WIDE_STEP = 4.0, 7.0  # depths of field between the frames of the first sweep, near and in a wide window
_FINE_FRAMES = 5  # over two coarse steps, of which the middle and the ends are frames of the coarse sweep


def _brent(bench: Bench) -> Answer:
    """Bracket where the window is wide, then minimise; ends when the bracket is within the tolerance."""
    from scipy.optimize import minimize_scalar

    result = minimize_scalar(
        lambda coordinate: -bench.sharpness(coordinate),
        bounds=bench.bracket(_BRACKETING_STEP),
        method="bounded",
        options={"xatol": _XATOL * bench.tolerance, "maxiter": 40},
    )
    return Answer(bench.place(float(result.x)), bool(result.success), str(result.message))


def _golden_section(bench: Bench) -> Answer:
    """Bracket where the window is wide, then narrow it to twice the accuracy; the answer is the sharpest frame."""
    low, high = bench.bracket(_BRACKETING_STEP)
    left, right = high - _RATIO * (high - low), low + _RATIO * (high - low)
    while high - low > 2 * bench.tolerance:
        if bench.sharpness(left) >= bench.sharpness(right):
            high, right = right, left
            left = high - _RATIO * (high - low)
        else:
            low, left = left, right
            right = low + _RATIO * (high - low)
    return Answer(bench.place(bench.sharpest), True, "the bracket is narrower than the accuracy asked for")


def _two_pass_sweep(bench: Bench) -> Answer:
    """Sweep the window, then the surroundings of its best frame."""
    coarse = _WIDE_STEP if bench.wide else _COARSE_STEP
    low, high = bench.ends
    bench.sweep(low, high, coarse)
    best = bench.sharpest
    fine = bench.sweep(max(best - coarse, low), min(best + coarse, high), 2 * coarse / (_FINE_FRAMES - 1))
    return Answer(bench.place(vertex(fine[:, 1], fine[:, 0])), True, "the vertex of the fine sweep")


BRENT = Peer("brent", "Brent's method (SciPy) on Tenengrad", _brent, ("scipy",))
"""Brent's method as SciPy has it (``minimize_scalar(method="bounded")``)."""
GOLDEN_SECTION = Peer("golden-section", "golden section on Tenengrad", _golden_section)
"""Golden section."""
TWO_PASS_SWEEP = Peer("two-pass-sweep", "coarse and fine sweep on Tenengrad", _two_pass_sweep)
"""Two sweeps, with a parabola through the best three frames."""
