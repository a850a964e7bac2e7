"""Contamination: the beam cracks hydrocarbons onto what it scans, and the scanned field darkens with its dose.

Zoom out, and the fields scanned before stand there as dark rectangles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from semdrivers.emulator.physics._scan import Exposure, ScanConditions
from semdrivers.emulator.specimens import Array


@dataclass(frozen=True, slots=True)
class Film:
    """What a film of contamination takes from the signal."""

    darkening: float  # Share of the signal that is lost in the end
    dose: float  # pC/µm² after which 63 % of that is lost

    def transmission(self, conditions: ScanConditions, pixel: float, blur: float) -> Array | float:
        """Return what is left of the signal on the pixels (µm) of a frame; 1.0 where nothing was scanned before.

        `blur` is the radius of the beam at the sample in pixels; the edge of a field is as soft.
        """
        soft = pixel * max(1.0, 2 * blur)
        clean: Array | float = 1.0
        for field, inside in _covered(conditions, pixel, soft):
            clean = clean * (1 - inside * np.float32(1 - math.exp(-field.dose / self.dose)))
        return 1 - self.darkening * (1 - clean)


def _covered(conditions: ScanConditions, pixel: float, soft: float) -> Iterable[tuple[Exposure, Array]]:
    """The fields scanned before that reach into a frame, and how much of each of its pixels they cover."""
    across = (np.arange(conditions.width) - (conditions.width - 1) / 2)[None, :] * pixel
    down = (np.arange(conditions.height) - (conditions.height - 1) / 2)[:, None] * pixel
    along = down / math.cos(math.radians(conditions.stage_tilt))
    reach = math.hypot(across.max(), along.max()) + soft
    for field in conditions.exposures:
        x, y = (conditions.stage_x - field.x) * 1e3, (conditions.stage_y - field.y) * 1e3
        if math.hypot(x, y) > reach + math.hypot(field.width, field.height) / 2:
            continue
        x, y = _turned(x, y, field.rotation)
        u, v = across, along
        if field.rotation != conditions.stage_rotation:
            u, v = _turned(across, along, field.rotation - conditions.stage_rotation)
        yield field, _inside(u + x, field.width, soft) * _inside(v + y, field.height, soft)


def _turned(x: Any, y: Any, degrees: float) -> tuple[Any, Any]:
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    return x * cosine - y * sine, x * sine + y * cosine


def _inside(place: Array, size: float, soft: float) -> Array:
    """1 within `size` of length about 0, 0 outside, and a ramp of length `soft` at its ends."""
    return np.clip((size / 2 - np.abs(place)) / soft + 0.5, 0, 1).astype(np.float32)
