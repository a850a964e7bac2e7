"""`FocusTracker`: the pictures that are taken anyway keep a focus map up to date.

Each is taken a quarter of a depth of field above or below the focus, in turn. Two that follow each other and overlap
show the same at two working distances, and a plugin reads off them where the focus is (hook
``semdrivers_focus_between``): a point of the map that has cost no frame.
"""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from typing import Any

from semdrivers.errors import InvalidParameterError, installation
from semdrivers.focus import AutofocusResult, AutofocusSettings
from semdrivers.image import Image
from semdrivers.maps import FocusMap
from semdrivers.microscope import LimitsTravel, Range, approach, read_pair
from semdrivers.plugins import get_plugin_manager

__all__ = ["ASIDE", "SOURCE", "FocusTracker", "limits_from"]

ASIDE = 0.25
"""Depths of field from the focus at which pictures are taken that track it."""
SOURCE = "joint"
"""Source of a point of the map that two pictures gave."""

_log = logging.getLogger(__name__)


class FocusTracker:
    """Steps aside before each picture, and makes points of a map of what they show.

    Parameters
    ----------
    microscope : Microscope
        With a stage.
    map : FocusMap
        What to keep up to date.

    Raises
    ------
    InvalidParameterError
        When no installed plugin compares pictures, or scikit-image is not installed.
    """

    def __init__(self, microscope: Any, map: FocusMap) -> None:
        if find_spec("skimage") is None:
            raise InvalidParameterError(f"tracking needs scikit-image: {installation('tiles')}")
        if not get_plugin_manager().hook.semdrivers_focus_between.get_hookimpls():
            raise InvalidParameterError("no installed plugin compares pictures; leave track out, or load semfocus")
        self._microscope, self._map, self._side = microscope, map, 1
        self.restart()

    def restart(self) -> None:
        """Compare the next picture with none before it."""
        self._place: tuple[float, float] | None = None
        self._last: tuple[Image, float, float] | None = None

    def step_aside(self, result: AutofocusResult, settings: AutofocusSettings) -> None:
        """Move the lens beside the focus for the next picture, where that is within the limits of the focusing.

        Parameters
        ----------
        result : AutofocusResult
            Focused at the present stage position.
        settings : AutofocusSettings
            Those of the focusing.
        """
        self._place = read_pair(self._microscope, "stage_position", "mm")
        aim, away = result.working_distance, ASIDE * self._map.depth_of_field(self._microscope.magnification)
        limits = limits_from(self._microscope, settings, result.start_working_distance)
        places = [aim + self._side * away, aim - self._side * away]
        for place in (place for place in places if math.isfinite(place) and place in limits):
            approach(self._microscope, place, limits)
            break
        self._side = -self._side

    def add(self, image: Image) -> bool:
        """Compare a picture with the one before it; return whether that gave a point of the map.

        Pictures before which `step_aside` was not called are not compared: they may be out of focus on purpose.
        """
        place, self._place = self._place, None
        before, self._last = self._last, None if place is None else (image, *place)
        if before is None or place is None:
            return False
        earlier, x0, y0 = before
        x, y = (place[0] + x0) / 2, (place[1] + y0) / 2
        depth, aim = self._map.depth_of_field(image.magnification), self._map.predict(x, y)[0]
        alike = earlier.pixels.shape == image.pixels.shape
        alike = alike and math.isclose(earlier.pixel_size, image.pixel_size, rel_tol=1e-3)
        if not alike or any(not abs(each.working_distance - aim) < depth for each in (earlier, image)):
            return False
        found = _between(
            microscope=self._microscope,
            first=earlier,
            second=image,
            row=(place[1] - y0) / (image.pixel_size * 1e-6),
            column=(place[0] - x0) / (image.pixel_size * 1e-6),
            depth_of_field=depth,
        )
        if found is None or not found[1] < depth:
            return False
        return self._map.add(
            x,
            y,
            found[0],
            sigma=found[1],
            depth_of_field=depth,
            magnification=image.magnification,
            source=SOURCE,
        )


def limits_from(microscope: Any, settings: AutofocusSettings, start: float) -> Range:
    """Return the working distances of a focusing that started at `start` (mm)."""
    limits: Range = microscope.capabilities.working_distance
    if settings.bounds is not None:
        limits = limits.intersect(*settings.bounds)
    named = microscope.max_travel if isinstance(microscope, LimitsTravel) else None
    for travel in (settings.max_travel, named):
        if travel is not None:
            limits = limits.intersect(start - travel, start + travel)
    return limits


def _between(**arguments: Any) -> tuple[float, float] | None:
    """Ask the plugins; one that raises is logged, for a picture must not be lost by what it says of the focus."""
    for plugin, answer in get_plugin_manager().each("semdrivers_focus_between", **arguments):
        if not isinstance(answer, Exception):
            return float(answer[0]), float(answer[1])
        _log.error("plugin %s raised while comparing two pictures", plugin, exc_info=answer)
    return None
