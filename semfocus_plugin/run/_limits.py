"""Where a run may drive the lens."""

from __future__ import annotations

import math

from semdrivers.focus import AutofocusSettings
from semdrivers.microscope import Range, allowed_range


def limits_of(capability: Range, settings: AutofocusSettings, start: float) -> Range:
    """Return capabilities ∩ bounds ∩ travel, on the instrument's own grid.

    The start itself is always within: an instrument that stands off the grid is scored where it stands.

    Parameters
    ----------
    capability : Range
        Of the instrument, mm.
    settings : AutofocusSettings
        With ``bounds`` and ``max_travel``.
    start : float
        Where the instrument stands, mm.

    Raises
    ------
    OutOfRangeError
        When the start is outside the bounds.
    """
    limits = allowed_range(capability, settings.bounds, start)
    if settings.max_travel is not None:
        limits = limits.intersect(start - settings.max_travel, start + settings.max_travel)
    step = limits.step
    if step > 0 and math.isfinite(limits.minimum) and math.isfinite(limits.maximum):
        low = round(math.ceil(limits.minimum / step - 1e-6) * step, 9)
        high = round(math.floor(limits.maximum / step + 1e-6) * step, 9)
        limits = Range(max(low, limits.minimum), min(high, limits.maximum), step)
        if limits.minimum > limits.maximum:
            limits = Range(start, start, step)
    return limits
