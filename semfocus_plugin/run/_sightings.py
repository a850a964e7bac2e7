"""What the frames of a run say of the focus: from measurements to the posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence

from semfocus_plugin.optics import PLAIN, TUNGSTEN, Posterior, Sighting, faint_wave, half_blur, spectrum
from semfocus_plugin.run._focus_run import FocusRun
from semfocus_plugin.run._measurement import (
    DETAIL,
    NOISE,
    Measurement,
    falsely_sharp,
    misleading_period,
    misread,
    shows_nothing,
)

_BEYOND = 60.0
"""Pixels of blur that the interval of possible places extends beyond the limits."""

_SCORE_SIGMA = 0.6
"""Scatter of AENet's score between frames, misfit of the bell included."""

_LEAST_SCORE = 0.3
"""Distance from either end of the scale within which a score does not depend on the blur."""

_LEAST_SIGMA = 0.15
"""Least standard deviation of ln(1 + blur radius) as a score implies it."""

_ANY = 1.0
"""ln of the standard deviation of a blur that is misread."""

_PERIODS = 1.2
"""Blur radius, in periods, at which a sample that repeats itself is faint: it is so from half of that to twice that."""

_PLAINLY = 0.5
"""Blur radius, in periods, up to which it is plain."""

_CERTAIN = math.log(0.25)
"""The same from which the network sees the sample, few particles on a plain ground; of noise alone it is above 0.38."""


def sighting_of(m: Measurement) -> Sighting:
    """Return what a frame says of the focus, for a posterior.

    Parameters
    ----------
    m : Measurement
        By a network that reports the score alone, the blur is the one that the score implies.
    """
    blur, sigma = m.evaluation.log_blur, m.evaluation.log_sigma
    if blur is None:
        blur, sigma = _implied(m)
    sigma = -1.5 if sigma is None else sigma
    seen = spectrum(m.image.pixels)
    # A wave is the sample's, whatever its lines share, and whatever a network reads off them.
    shown = seen.wave or sigma <= _CERTAIN or (m.correlation > NOISE and not falsely_sharp(m))
    nothing = shows_nothing(m)
    period = misleading_period(m) if shown and not nothing else None
    if period is None and seen.wave and not nothing:
        period = seen.period
    wave = None if nothing or (shown and period is None) else faint_wave(m.image.pixels)
    if wave is not None and not shown:
        period = wave[0]
    structure = (shown or wave is not None) and not nothing
    if period is not None and m.detail < DETAIL:
        blur = math.log1p(_PERIODS * period)
    elif period is not None and m.detail >= PLAIN:
        if math.expm1(blur) > _PLAINLY * period:
            blur, sigma = math.log1p(0.5 * _PLAINLY * period), _ANY
        period = None  # So plain a frame shows no reversed contrast.
    contradicted = period is None and misread(m)
    if contradicted:
        sigma = _ANY
    return Sighting(
        m.working_distance,
        m.pixel,
        blur,
        sigma,
        structure,
        seen,
        detail=m.structure,
        period=period,
        power=0.0 if wave is None else wave[1],
        misread=contradicted,
    )


def _implied(m: Measurement) -> tuple[float, float]:
    """Return ln(1 + blur radius) that a score implies, and ln of its standard deviation: the inverse of a bell."""
    score = min(max(m.score, _LEAST_SCORE), 9.0 - _LEAST_SCORE)
    half = half_blur(m.pixel, TUNGSTEN)
    radius = half * math.sqrt(9.0 / score - 1.0)
    slope = half * half * 4.5 / (score * score * radius * (1.0 + radius))
    return math.log1p(radius), math.log(min(max(_SCORE_SIGMA * slope, _LEAST_SIGMA), 1.0))


def posterior_of(
    run: FocusRun,
    sightings: Sequence[Sighting],
    pixel: float,
    previous: Posterior | None = None,
    *,
    stigmates: bool | None = None,
) -> Posterior:
    """Return the posterior over the limits of a run and a little beyond: the focus need not lie within.

    Parameters
    ----------
    run : FocusRun
        With its limits, and what is known of the beam.
    sightings : sequence of Sighting
        The frames.
    pixel : float
        At the magnification to focus for, mm.
    previous : Posterior, optional
        Before the last frame, in a run that corrects the stigmator.
    stigmates : bool, optional
        Whether the astigmatism is what the frames are for: each is then compared with every other. By default in a run
        that corrects the stigmator.
    """
    beam, low, high = run.beam, run.limits.minimum, run.limits.maximum
    beyond = _BEYOND * pixel / float(beam.angle(high))
    low = low - beyond if beam.at is None else max(0.2, low - beyond)
    stigmates = run.stigmator is not None if stigmates is None else stigmates
    return Posterior(list(sightings), low, high + beyond, pixel, beam, run.core, stigmates, previous)
