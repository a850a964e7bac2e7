"""On which side of the focus a picture was taken, by a small astigmatism that is set on purpose.

With astigmatism `a` along θ the disc of a picture at a defocus z has r² = α² (z² + a² + 2 z a cos 2(φ − θ)) in the
direction φ: the logarithm of the power has a second harmonic that is proportional to z, sign included. Of two pictures
with opposite astigmatism the difference holds that alone: what the sample and the column have of a direction drops out.
The pictures need not overlap, and the sample must look alike in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from semdrivers.errors import InvalidParameterError
from semdrivers.focus import AutofocusSettings
from semdrivers.image import Image
from semdrivers.maps import FocusMap
from semdrivers.microscope import has_member, restoring
from semfocus_plugin.calibration import apertures_in_use, calibration_for, stigmator_for
from semfocus_plugin.optics import Beam, beam_of, instrument_of, oblique_slope
from semfocus_plugin.run import Stigmator

SIDES = "astigmatism"
"""Source of a point of the map that two pictures with opposite astigmatism gave."""
_EXCESS = 1.5  # Fields differ in what they have of a direction: beyond the scatter within each
_LEAST_SIGMA = 0.2  # Depths of field
_REACHED = 0.8  # Share of the astigmatism that the limits of the stigmator must leave


class AstigmaticTracker:
    """Has each picture taken with a small astigmatism, of the other sign in turn, and makes points of a map of them.

    Parameters
    ----------
    microscope : Microscope
        With a stage, and a stigmator of which it is known what it does.
    map : FocusMap
        What to keep up to date.
    amount : float
        Depths of field.

    Raises
    ------
    InvalidParameterError
        When there is no such stigmator.
    """

    def __init__(self, microscope: Any, map: FocusMap, amount: float) -> None:
        kept = stigmator_for(microscope.capabilities)
        self._effect = None if kept is None else kept.effect
        known = kept is not None or microscope.capabilities.stigmator_matrix is not None
        if not has_member(microscope, "stigmator") or not known:
            raise InvalidParameterError(
                "tracking by astigmatism needs a stigmator whose effect is known: measure it with `semfocus calibrate "
                "--stigmator`, or leave it out"
            )
        self._microscope, self._map, self._amount, self._side = microscope, map, amount, 1
        self.restart()

    def restart(self) -> None:
        """Compare the next picture with none before it."""
        self._last: tuple[Image, float, float, float] | None = None
        self._now: tuple[float, float, float] | None = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Set the astigmatism for a picture; the stigmator is back at the end, whatever ends the block."""
        depth = self._map.depth_of_field(self._microscope.magnification)
        amount, self._side = self._side * self._amount * depth, -self._side
        with restoring(self._microscope, "stigmator"):
            stigmator = Stigmator(self._microscope, AutofocusSettings(), self._effect)
            setting = stigmator.towards(0.0, -amount)
            if math.hypot(*stigmator.added_by(stigmator.start, setting)) < _REACHED * abs(amount):
                raise InvalidParameterError(
                    f"an astigmatism of {self._amount:g} depths of field is beyond the limits of the stigmator, which "
                    f"stands at {stigmator.start}; take less"
                )
            stigmator.move(setting)
            self._now = (*self._microscope.stage_position, amount)
            yield
            stigmator.restore()

    def add(self, image: Image) -> bool:
        """Compare a picture with the one before it; return whether that gave a point of the map.

        Each is compared once. One that was not taken within `aside` is not compared.
        """
        now, self._now = self._now, None
        before, self._last = self._last, None if now is None else (image, *now)
        if before is None or now is None:
            return False
        earlier, *last, opposite = before
        x, y = ((a + b) / 2 for a, b in zip(now[:2], last, strict=True))
        depth, aim = self._map.depth_of_field(image.magnification), self._map.predict(x, y)[0]
        alike = earlier.pixels.shape == image.pixels.shape and now[2] * opposite < 0
        alike = alike and math.isclose(earlier.pixel_size, image.pixel_size, rel_tol=1e-3)
        if not alike or any(not abs(each.working_distance - aim) < depth for each in (earlier, image)):
            return False
        self._last = None
        slopes = oblique_slope(image.pixels), oblique_slope(earlier.pixels)
        if slopes[0] is None or slopes[1] is None:
            return False
        middle = 0.5 * (earlier.working_distance + image.working_distance)
        per_mm = float(beam_at(self._microscope, middle).angle(middle)) / (image.pixel_size * 1e-6)
        scale = -2 * math.pi**2 * per_mm**2 * (now[2] - opposite)
        away = (slopes[0][0] - slopes[1][0]) / scale
        sigma = math.hypot(_EXCESS * math.hypot(slopes[0][1], slopes[1][1]) / scale, _LEAST_SIGMA * depth)
        if not sigma < depth or not abs(away) < 2 * depth:
            return False
        return self._map.add(
            x, y, middle - away, sigma=sigma, depth_of_field=depth, magnification=image.magnification, source=SIDES
        )


def beam_at(microscope: Any, working_distance: float) -> Beam:
    """Return the beam of an instrument as calibrated, learned, reported or nominal, for a working distance in mm."""
    capabilities, store = microscope.capabilities, apertures_in_use()
    kept, instrument = calibration_for(capabilities), instrument_of(microscope, capabilities)
    known = store.get(instrument) if store is not None and instrument is not None else None
    return beam_of(capabilities, working_distance, None if kept is None else kept.beam, known)
