"""The gun's emission: the beam current of a tungsten filament wanders, and the brightness of the picture with it."""

from __future__ import annotations

import math

import numpy as np

from semdrivers.emulator.specimens import Array

_PERIODS = 11.0, 67.0, 541.0  # s (assumed); no two are in step, so the current does not repeat
_SHARES = 0.3, 0.5, 1.0


class Emission:
    """The beam current at any instant, relative to that at switching on; `random` gives the phases.

    `strength` is the relative amplitude of the slowest wave; the quicker ones are weaker.
    """

    def __init__(self, strength: float, random: np.random.Generator) -> None:
        self.strength = strength
        self._phases = (2 * math.pi * random.random(len(_PERIODS))).tolist()

    def at(self, time: Array) -> Array:
        """Return the relative current at instants in seconds."""
        wander: Array = np.zeros(time.shape)
        for period, share, phase in zip(_PERIODS, _SHARES, self._phases, strict=True):
            wander += share * (np.sin(2 * math.pi / period * time + phase) - math.sin(phase))
        return np.maximum(1 + self.strength * wander, 0.0).astype(np.float32)
