"""The filter over working distance, fed with the blur of frames whose focus is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semfocus_plugin.optics import NOMINAL_APERTURE, TUNGSTEN, Beam, Posterior, Sighting

PIXEL = 0.4 / 3000


def sight(place: float, focus: float, *, pixel=PIXEL, aperture=NOMINAL_APERTURE, floor=0.0, error=0.0) -> Sighting:
    radius = math.hypot(aperture / place * abs(place - focus) / pixel, floor)
    return Sighting(place, pixel, math.log1p(min(radius, 150)) + error, math.log(0.08))


def unit(focus: float, aperture=NOMINAL_APERTURE) -> float:
    return math.hypot(PIXEL, TUNGSTEN) / (aperture / focus)


def test_one_frame_leaves_two_places():
    posterior = Posterior([sight(15.0, 16.0)], 1.0, 50.0, PIXEL)
    above, below = posterior.mass_between(15.2, 17.5), posterior.mass_between(12.5, 14.8)
    assert above > 0.25
    assert below > 0.25
    assert posterior.mass_between(14.8, 15.2) < 0.1


def test_two_frames_leave_one():
    posterior = Posterior([sight(15.0, 16.0), sight(15.9, 16.0)], 1.0, 50.0, PIXEL)
    best = posterior.best(2 * unit(16.0))
    assert best.mass > 0.7
    assert posterior.mass_between(16.0 - 5 * unit(16.0), 16.0 + 5 * unit(16.0)) > 0.95
    assert posterior.mass_between(15.0, 50.0) > 0.95


@settings(max_examples=40)
@given(
    focus=st.floats(10, 20),
    offsets=st.lists(st.floats(-12, 12), min_size=5, max_size=8),
    floor=st.sampled_from([0.0, 1.0, 2.0]),
    scale=st.floats(0.6, 1.7),
)
def test_frames_on_both_sides_find_the_focus_whatever_aperture_and_floor(focus, offsets, floor, scale):
    aperture = NOMINAL_APERTURE * scale
    places = [focus + u * unit(focus, aperture) for u in (*offsets, -5.0, 5.0)]
    posterior = Posterior([sight(p, focus, aperture=aperture, floor=floor) for p in places], 1.0, 50.0, PIXEL)
    best = posterior.best(2 * unit(focus, aperture))
    assert abs(best.working_distance - focus) < 1.2 * unit(focus, aperture)


def test_one_wild_frame_does_not_mislead():
    sightings = [sight(15 + d, 15.3) for d in (-0.5, -0.1, 0.6)] + [sight(15.3, 19.0)]
    best = Posterior(sightings, 1.0, 50.0, PIXEL).best(2 * unit(15.3))
    assert abs(best.working_distance - 15.3) < 1.5 * unit(15.3)


def test_noise_says_that_the_focus_is_elsewhere():
    noise = Sighting(15.0, PIXEL, 4.0, 0.0, structure=False)
    silence = Sighting(15.0, PIXEL, 4.0, 4.0)
    told, untold = (Posterior([s], 1.0, 50.0, PIXEL).mass_between(14.75, 15.25) for s in (noise, silence))
    assert told < 0.15 * untold


def test_frames_at_different_magnifications_combine():
    wide = 0.4 / 500
    sightings = [sight(10.0, 18.0, pixel=wide), sight(17.0, 18.0, pixel=wide), sight(17.9, 18.0)]
    best = Posterior(sightings, 1.0, 50.0, PIXEL).best(2 * unit(18.0))
    assert abs(best.working_distance - 18.0) < 1.5 * unit(18.0)


@given(taken=st.lists(st.floats(2, 49), min_size=1, max_size=6), low=st.floats(1, 20), width=st.floats(0.5, 29))
@settings(max_examples=60)
def test_the_next_place_is_within_the_limits(taken, low, width):
    posterior = Posterior([sight(taken[0], 15.0)], 1.0, 50.0, PIXEL)
    step = float(np.diff(posterior.places)[0])
    place = posterior.likeliest_gap(taken, low, low + width)
    assert low - step <= place <= low + width + step


def test_probabilities_add_up():
    posterior = Posterior([sight(15.0, 16.0)], 1.0, 50.0, PIXEL)
    assert posterior.probability.sum() == pytest.approx(1.0, abs=1e-3)
    assert posterior.narrowest(0.9).mass >= 0.9


def test_a_calibrated_aperture_tells_the_distance_from_one_frame():
    aperture = 1.5 * NOMINAL_APERTURE
    sightings = [sight(15.0, 16.5, aperture=aperture)]
    told = Posterior(sightings, 1.0, 50.0, PIXEL, Beam.of_aperture(aperture))
    assert told.mass_between(16.2, 16.8) > 1.5 * Posterior(sightings, 1.0, 50.0, PIXEL).mass_between(16.2, 16.8)


def test_a_wrong_calibration_is_overruled_by_frames():
    places = [16.5 + u * unit(16.5) for u in (-12.0, 9.0, 0.3, -5.0, 5.0)]
    posterior = Posterior([sight(p, 16.5) for p in places], 1.0, 50.0, PIXEL, Beam.of_aperture(2.0 * NOMINAL_APERTURE))
    assert abs(posterior.best(unit(16.5)).working_distance - 16.5) < unit(16.5)


@pytest.mark.parametrize("at", [15.0, None])
def test_in_the_dark_each_frame_goes_where_none_has_looked(at):
    beam = Beam(0.003, at)
    dark = [dataclasses.replace(sight(15.0, 15.0), structure=False)]
    for _ in range(8):
        place = Posterior(dark, 1.0, 50.0, PIXEL, beam).in_the_dark(dark, 14.0, 50.0)
        assert 14.0 <= place <= 50.0
        assert min(abs(place - s.working_distance) * beam.angle(place) / PIXEL for s in dark) > 1.5
        dark.append(dataclasses.replace(dark[0], working_distance=place))
    assert min(s.working_distance for s in dark) < 14.5
    assert Posterior(dark, 1.0, 50.0, PIXEL, beam).in_the_dark(dark, 14.99, 15.01) is None
