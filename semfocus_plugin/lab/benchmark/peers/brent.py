"""Brent's method on Tenengrad, as SciPy has it (``minimize_scalar(method="bounded")``)."""

from __future__ import annotations

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Peer

__all__ = ["BRACKETING_STEP", "PEER", "XATOL", "find"]

BRACKETING_STEP = 12.0
"""Depths of field between the frames that bracket the peak in a wide window."""


XATOL = 1.5
"""Tolerance of the minimiser, in units of the accuracy wanted; its errors are a tenth of this and less."""


def find(bench: Bench) -> Answer:
    """Bracket where the window is wide, then minimise; ends when the bracket is within the tolerance."""
    from scipy.optimize import minimize_scalar

    low, high = bench.bracket(BRACKETING_STEP)
    result = minimize_scalar(
        lambda coordinate: -bench.sharpness(coordinate),
        bounds=(low, high),
        method="bounded",
        options={"xatol": XATOL * bench.tolerance, "maxiter": 40},
    )
    return Answer(bench.place(float(result.x)), bool(result.success), str(result.message))


PEER = Peer("brent", "Brent's method (SciPy) on Tenengrad", find, ("scipy",))
"""The method, as the benchmark runs it."""
