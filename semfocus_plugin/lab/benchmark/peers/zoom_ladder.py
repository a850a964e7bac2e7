"""From anywhere: a peer carried up a ladder of magnifications, each rung narrowing the window of the next."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from semdrivers.microscope import Microscope
from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Optics
from semfocus_plugin.optics import NOMINAL_PIXEL

__all__ = ["FACTOR", "climb"]

_WINDOW = 9.0  # Half-width of the window of every rung, in depths of field
_RESIDUAL = 1.5  # Depths of field by which a rung may be wrong; the window of the next rung reaches this far
FACTOR = _WINDOW / _RESIDUAL
"""Largest step in magnification from rung to rung."""


def climb(
    find: Callable[[Bench], Answer], microscope: Microscope, optics: Optics, window: tuple[float, float]
) -> Answer:
    """Find focus at the present magnification, by way of lower ones at which the whole window is in reach.

    Parameters
    ----------
    find : callable
        The peer.
    microscope : Microscope
        At the magnification to focus at; it is put back there whatever happens.
    optics : Optics
        The nominal beam.
    window : tuple of float
        mm.
    """
    target = microscope.magnification
    lowest = microscope.capabilities.magnification.minimum
    first = NOMINAL_PIXEL / (optics.aperture_radius * math.log(window[1] / window[0]) / (2 * _WINDOW))
    first = min(max(first, lowest), target)
    count = max(math.ceil(math.log(target / first) / math.log(FACTOR)), 0)
    rungs = [first * (target / first) ** (k / count) for k in range(count)] if count else []
    answer = Answer(math.sqrt(window[0] * window[1]))
    try:
        for rung in rungs:
            microscope.magnification = round(rung)
            bench = Bench(microscope, optics, window, answer.working_distance, tolerance=_RESIDUAL)
            answer = find(bench)
            if not answer.claimed:
                return dataclasses.replace(answer, reason=f"at {rung:.0f}×: {answer.reason}")
            reach = _RESIDUAL * bench.scale
            window = answer.working_distance * math.exp(-reach), answer.working_distance * math.exp(reach)
    finally:
        microscope.magnification = target
    return find(Bench(microscope, optics, window, answer.working_distance))
