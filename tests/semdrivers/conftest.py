"""A foreign microscope, a few lines, not of this distribution."""

from __future__ import annotations

import numpy as np
import pytest

import semdrivers


class ForeignMicroscope:
    """The five members of the contract over a pair of numbers; keeps what was set and what was acquired."""

    capabilities = semdrivers.Capabilities(semdrivers.Range(5.0, 30.0, 0.001), semdrivers.Range(100, 50000))

    def __init__(self, working_distance: float = 12.0, magnification: float = 2000.0) -> None:
        self._working_distance = working_distance
        self._magnification = magnification
        self.moves: list[float] = []
        self.frames = 0
        self.closed = False

    @property
    def working_distance(self) -> float:
        return self._working_distance

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        value = self.capabilities.working_distance.check("working distance", value, "mm")
        self.moves.append(value)
        self._working_distance = value

    @property
    def magnification(self) -> float:
        return self._magnification

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._magnification = self.capabilities.magnification.check("magnification", value)

    def acquire(self, mode: semdrivers.ScanMode = semdrivers.ScanMode.FAST) -> semdrivers.Image:
        if not isinstance(mode, semdrivers.ScanMode):
            raise semdrivers.InvalidParameterError(f"no scan mode: {mode!r}")
        self.frames += 1
        pixels = np.full((mode.height, mode.width), self.frames % 256, np.uint8)
        return semdrivers.Image(
            pixels, self._working_distance, self._magnification, 400e3 / self._magnification, self.frames
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def foreign() -> ForeignMicroscope:
    return ForeignMicroscope()


@pytest.fixture
def foreign_type() -> type[ForeignMicroscope]:
    return ForeignMicroscope


@pytest.fixture
def climbing(offer_method) -> str:
    """The name of a method that takes the place of five, 0.01 mm apart, whose picture has the largest contrast."""

    def climb(microscope, settings, progress, cancel):
        start, scores = microscope.working_distance, {}
        for step in range(5):
            microscope.working_distance = start + step * 0.01
            scores[microscope.working_distance] = float(microscope.acquire().pixels.std())
        microscope.working_distance = max(scores, key=scores.get)
        return {"frames": 5}

    offer_method(climb, "climb")
    return "climb"
