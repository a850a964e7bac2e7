"""The aperture, learned in use: every confident run measures it, and the next run on the instrument starts from that.

The posterior of a run over the aperture is the prior of the next, a little wider, since an aperture may be changed.
Where it was changed, the run says so: its posterior lies outside what was known, which then counts for nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from semdrivers.microscope import Capabilities
from semfocus_plugin.optics._nominal import Beam

SURE = 0.9
"""Confidence of a run whose aperture is kept."""

_DRIFT, _LEAST, _WIDEST = 0.04, 0.07, 0.35
"""ln: by how much an aperture is less certain a run later, and the least and largest standard deviation kept."""

_CHANGED = 3.0
"""Standard deviations by which a measurement may differ before the aperture counts as changed."""


@dataclass(frozen=True, slots=True)
class LearnedAperture:
    """What earlier runs measured.

    Parameters
    ----------
    half_angle : float
        rad.
    at : float or None
        Working distance of that angle, mm, for a beam behind a fixed aperture; None where the angle is constant.
    sigma : float
        Standard deviation of ln half-angle.
    runs : int
        That it rests on.
    """

    half_angle: float
    at: float | None
    sigma: float
    runs: int

    @property
    def beam(self) -> Beam:
        """As a run starts from it."""
        return Beam(self.half_angle, self.at, math.hypot(self.sigma, _DRIFT))

    def after(self, measured: Beam) -> LearnedAperture:
        """Return what is known after a run that measured `measured`, starting from this."""
        return learned(measured, self)


def learned(measured: Beam, before: LearnedAperture | None = None) -> LearnedAperture:
    """Return what is known after a run.

    Parameters
    ----------
    measured : Beam
        Half-angle and standard deviation of the run's posterior, which has what was known in it.
    before : LearnedAperture, optional
        What was known.
    """
    assert measured.sigma is not None
    sigma = min(max(measured.sigma, _LEAST), _WIDEST)
    runs = 1
    if before is not None and before.at == measured.at:
        moved = abs(math.log(measured.half_angle / before.half_angle))
        if moved <= _CHANGED * math.hypot(before.sigma, _LEAST):
            runs = before.runs + 1
        else:
            sigma = max(sigma, 0.15)
    elif before is not None and measured.at is not None and before.at is not None:
        scaled = LearnedAperture(before.half_angle * before.at / measured.at, measured.at, before.sigma, before.runs)
        return learned(measured, scaled)
    return LearnedAperture(measured.half_angle, measured.at, sigma, runs)


class Apertures(Protocol):
    """A store of learned apertures, by instrument."""

    def get(self, instrument: str) -> LearnedAperture | None:
        """Return what is known of an instrument, or None."""
        ...

    def put(self, instrument: str, aperture: LearnedAperture) -> None:
        """Keep what is known of an instrument."""
        ...


def instrument_of(microscope: Any, capabilities: Capabilities) -> str | None:
    """Return a key for an instrument: model and serial number, else its address, else None."""
    if capabilities.model or capabilities.serial:
        return f"{capabilities.model or 'unnamed'}_{capabilities.serial or 'unnumbered'}"
    address = getattr(microscope, "address", None)
    return address if isinstance(address, str) and address else None


def beam_of(
    capabilities: Capabilities,
    working_distance: float,
    calibrated: Beam | None = None,
    known: LearnedAperture | None = None,
) -> Beam:
    """Return the beam that a run starts from: as calibrated, as learned, as the instrument reports it, or nominal.

    Parameters
    ----------
    capabilities : Capabilities
        Of the instrument.
    working_distance : float
        Present one, mm.
    calibrated : Beam, optional
        What a focal series measured.
    known : LearnedAperture, optional
        What earlier runs measured.
    """
    if calibrated is not None:
        return calibrated
    reported = _reported(capabilities, working_distance)
    if known is not None and (reported is None or _agree(known.beam, reported, working_distance)):
        return known.beam
    if reported is not None:
        return reported
    return Beam() if capabilities.working_distance.minimum > 0 else Beam(at=None)


def _reported(capabilities: Capabilities, working_distance: float) -> Beam | None:
    if capabilities.numerical_aperture is not None:
        return Beam(math.asin(min(capabilities.numerical_aperture, 0.999)), None, 0.1)
    if capabilities.half_angle is None:
        return None
    behind_aperture = capabilities.working_distance.minimum > 0
    return Beam(capabilities.half_angle * 1e-3, working_distance if behind_aperture else None, 0.1)


def _agree(known: Beam, reported: Beam, working_distance: float) -> bool:
    """Return whether what was learned may be of the aperture that the instrument reports now."""
    apart = math.log(float(known.angle(working_distance)) / float(reported.angle(working_distance)))
    return abs(apart) <= _CHANGED * math.hypot(known.sigma or _WIDEST, reported.sigma or _WIDEST)
