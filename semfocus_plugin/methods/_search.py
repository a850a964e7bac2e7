"""Finding a place from which the sample can be recognised."""

from __future__ import annotations

from collections.abc import Iterator

from semdrivers.microscope import Range


def zigzag(start: float, stride: float, limits: Range, reach: float = float("inf"), first: int = 1) -> Iterator[float]:
    """Yield working distances alternately on both sides of the start, each a stride further out.

    Parameters
    ----------
    start : float
        mm; not yielded itself.
    stride : float
        mm between neighbours.
    limits : Range
        The side that has reached its limit is left alone; the limit itself is the last place on it.
    reach : float
        Furthest distance from the start, in mm.
    first : int
        Side of the first place: 1 upwards, −1 downwards.
    """
    low, high = max(limits.minimum, start - reach), min(limits.maximum, start + reach)
    open_sides = [first, -first]
    count = 0
    while open_sides:
        count += 1
        for side in tuple(open_sides):
            place = start + side * count * stride
            edge = high if side > 0 else low
            if (place - edge) * side >= 0:
                open_sides.remove(side)
                if abs(edge - (start + side * (count - 1) * stride)) < 1e-9:
                    continue
                place = edge
            yield place
