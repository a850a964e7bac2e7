"""A microscope that counts: every frame, where it was taken, and the computing done in the instrument's own calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities, Microscope


class CountedMicroscope:
    """The five members of a microscope, passed on and counted; what every method of the comparison works on.

    Parameters
    ----------
    microscope : Microscope
        The instrument.

    Attributes
    ----------
    visits : list of tuple of float
        Working distance (mm, as read back) and magnification of every frame, oldest first.
    seconds_inside : float
        Seconds that this thread computed in the instrument's calls; the rest of a run is the method's own.
    """

    def __init__(self, microscope: Microscope) -> None:
        self._microscope = microscope
        self.visits: list[tuple[float, float]] = []
        self.seconds_inside = 0.0

    @contextmanager
    def _inside(self) -> Iterator[None]:
        began = time.thread_time()
        try:
            yield
        finally:
            self.seconds_inside += time.thread_time() - began

    @property
    def frames(self) -> int:
        """Frames acquired so far."""
        return len(self.visits)

    @property
    def capabilities(self) -> Capabilities:
        """As the instrument reports them."""
        with self._inside():
            return self._microscope.capabilities

    @property
    def working_distance(self) -> float:
        """Working distance in mm."""
        with self._inside():
            return self._microscope.working_distance

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        with self._inside():
            self._microscope.working_distance = value

    @property
    def magnification(self) -> float:
        """Magnification."""
        with self._inside():
            return self._microscope.magnification

    @magnification.setter
    def magnification(self, value: float) -> None:
        with self._inside():
            self._microscope.magnification = value

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Acquire a frame and count it."""
        with self._inside():
            image = self._microscope.acquire(mode)
        self.visits.append((image.working_distance, image.magnification))
        return image

    def close(self) -> None:
        """Close the instrument."""
        self._microscope.close()
