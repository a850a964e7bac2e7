"""The fields that were scanned, and the dose that each received."""

from __future__ import annotations

import math
from collections import OrderedDict

from semdrivers.emulator.physics import Exposure, ScanConditions

_REMEMBERED = 1000  # fields; older ones are forgotten


class Exposures:
    """The latest fields that were scanned, and their doses; `field_width` is in mm, at magnification 1."""

    def __init__(self, field_width: float) -> None:
        self._field_width = field_width
        self._doses: OrderedDict[tuple[float, ...], Exposure] = OrderedDict()
        self.all: tuple[Exposure, ...] = ()  # each field once, with what it received

    def add(self, conditions: ScanConditions) -> None:
        """Take note of one whole frame."""
        width = self._field_width * 1e3 / conditions.magnification
        height = width * conditions.height / conditions.width / math.cos(math.radians(conditions.stage_tilt))
        charge = conditions.beam_current * conditions.dwell_time * conditions.width * conditions.height
        key = conditions.stage_x, conditions.stage_y, width, height, conditions.stage_rotation
        before = self._doses.pop(key).dose if key in self._doses else 0.0
        self._doses[key] = Exposure(*key, dose=before + charge / (width * height))
        if len(self._doses) > _REMEMBERED:
            self._doses.popitem(last=False)
        self.all = tuple(self._doses.values())
