"""The posterior with astigmatism, on frames that are blurred by independent code."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from semdrivers.focus import AutofocusSettings
from semfocus_plugin import methods
from semfocus_plugin import run as runs
from semfocus_plugin.lab.benchmark import instruments
from semfocus_plugin.lab.benchmark.column import MARGIN, SimulatedColumn
from semfocus_plugin.lab.benchmark.runs import run_trial
from semfocus_plugin.lab.benchmark.textures import periodic, random_texture
from semfocus_plugin.lab.benchmark.trials import TRACKS, draw_trials
from semfocus_plugin.optics import Beam, Posterior, Sighting, spectrum

SHAPE = 240 + 2 * MARGIN, 320 + 2 * MARGIN


def column(seed: int, x: float, y: float, sample=None) -> SimulatedColumn:
    """Return a column with the nominal aperture and astigmatism (x, y) in depths of field."""
    random = np.random.default_rng(seed)
    sample = random_texture(SHAPE, random) if sample is None else sample
    made = SimulatedColumn(sample, pixel=2e-4, focus=15.0, aperture=0.045, core=36e-6, position=15.0, seed=seed)
    made.astigmatism = x * made.depth_of_field, y * made.depth_of_field
    return made


def sight(microscope: SimulatedColumn, defocus: float) -> Sighting:
    """Return a frame at a defocus in depths of field, with the mean of both radii as a network would report it."""
    unit = microscope.depth_of_field
    microscope.working_distance = microscope.focus + defocus * unit
    image = microscope.acquire()
    amount = math.hypot(*microscope.astigmatism) / unit
    larger, smaller = abs(defocus) + amount, abs(abs(defocus) - amount)
    blur = 0.5 * (math.log1p(larger) + math.log1p(smaller))
    return Sighting(microscope.working_distance, 2e-4, blur, math.log(0.15), True, spectrum(image.pixels))


def posterior_of(microscope: SimulatedColumn, places: tuple[float, ...]) -> Posterior:
    unit = microscope.depth_of_field
    sightings = [sight(microscope, place) for place in places]
    return Posterior(sightings, 15.0 - 60 * unit, 15.0 + 60 * unit, 2e-4, Beam(), 36e-6)


@pytest.mark.parametrize(("x", "y"), [(2.0, 0.0), (0.0, -3.0), (-3.5, 3.5)])
def test_three_frames_determine_the_focus_and_both_components(x, y):
    microscope = column(3, x, y)
    unit = microscope.depth_of_field
    posterior = posterior_of(microscope, (8.0, -9.0, 1.0))
    best = posterior.best(posterior.unit(15.0))
    assert posterior.astigmatic > 0.9
    assert abs(best.working_distance - 15.0) < unit
    found = posterior.astigmatism()
    assert found is not None
    assert math.hypot(found[0] / unit - x, found[1] / unit - y) < 0.3 * math.hypot(x, y)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_stigmates_compares_each_frame_with_every_other(seed):
    microscope = column(seed, 1.0, -0.5)
    unit = microscope.depth_of_field
    sightings = [sight(microscope, place) for place in (-5.0, 0.5, 5.0, -8.0)]
    alone, all_pairs = (
        Posterior(sightings, 15.0 - 60 * unit, 15.0 + 60 * unit, 2e-4, Beam(), 36e-6, stigmates).astigmatism()
        for stigmates in (False, True)
    )
    assert all_pairs[2] < 0.9 * alone[2]
    assert math.hypot(all_pairs[0] / unit - 1.0, all_pairs[1] / unit + 0.5) < 3 * all_pairs[2] / unit


def test_without_astigmatism_none_is_claimed():
    posterior = posterior_of(column(4, 0.0, 0.0), (8.0, -9.0, 1.0))
    assert posterior.astigmatic < 0.5


def test_stripes_do_not_show_astigmatism():
    across = np.arange(SHAPE[1]) * 26 / SHAPE[1] % 1.0 < 0.4
    stripes = np.broadcast_to(0.3 + 0.5 * across, SHAPE).astype(np.float32)
    posterior = posterior_of(column(5, 3.0, 0.0, stripes), (4.0, -5.0, 1.0))
    assert posterior.astigmatism() is None


def test_the_same_frames_give_the_same_posterior():
    first, second = (posterior_of(column(6, 2.0, 1.0), (8.0, -9.0)) for _ in range(2))
    assert np.array_equal(first.probability, second.probability)


def test_a_periodic_frame_out_of_focus_is_known_by_its_one_wave():
    mesh = periodic("mesh", SHAPE, np.random.default_rng(1))
    seen = sight(column(7, 0.0, 0.0, mesh), 9.0)
    texture = sight(column(7, 0.0, 0.0), 9.0)
    assert seen.spectrum is not None
    assert texture.spectrum is not None
    assert seen.spectrum.peak > 2 * texture.spectrum.peak
    assert not texture.misled


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_search_keeps_its_resolution_with_astigmatism(seed):
    """All frames on one side: without astigmatism nothing explains them, and what is left is spread widely."""
    microscope = column(seed, 2.0, 0.1)
    unit = microscope.depth_of_field
    sightings = [sight(microscope, place) for place in (-5.6, -4.6, -2.6, -1.5, -0.5, 0.0)]
    posterior = Posterior(sightings, 3.0, 30.0, 2e-4, Beam(), 36e-6)
    assert posterior.places[1] - posterior.places[0] < 0.5 * unit
    assert abs(posterior.best(unit).working_distance - 15.0) < unit


def test_a_cell_wider_than_a_piece_is_not_claimed_whole():
    posterior = posterior_of(column(8, 0.0, 0.0), (8.0,))
    step = posterior.places[1] - posterior.places[0]
    assert posterior.best(step / 20).mass <= 0.11 * posterior.best(step / 2).mass


def test_frames_before_the_stigmator_moved_still_count():
    before, after = column(9, 4.0, -2.0), column(9, 1.0, 0.5)
    unit = before.depth_of_field
    added = (complex(-3.0, 2.5) * unit,)
    sightings = [sight(before, place) for place in (8.0, -7.0)]
    sightings.append(dataclasses.replace(sight(after, 0.5), added=added))
    posterior = Posterior(sightings, 15.0 - 60 * unit, 15.0 + 60 * unit, 2e-4, Beam(), 36e-6)
    x, y, sigma = posterior.astigmatism()
    assert abs(posterior.best(unit).working_distance - 15.0) < 0.7 * unit
    assert math.hypot(x / unit - 1.0, y / unit - 0.5) < 0.7
    assert sigma < unit


@pytest.mark.parametrize("places", [(4.2, -1.0), (7.5, 1.0)])
@pytest.mark.parametrize("seed", range(2))
def test_astigmatism_is_met_though_nearly_every_point_is_an_outlier_to_a_sharp_pair(seed, places):
    microscope = column(seed, -1.6, 2.5)
    microscope.electrons = 250.0
    posterior = posterior_of(microscope, places)
    x, y, sigma = (value / microscope.depth_of_field for value in posterior.astigmatism())
    assert math.hypot(x + 1.6, y - 2.5) < 0.6
    assert sigma < 0.6


@pytest.mark.parametrize(("number", "seed"), [(14, 11), (7, 21)])
def test_a_run_ends_at_the_circle_of_least_confusion(number, seed):
    # Of 3 and 5 depths of field: one ended near a line focus, the other was refused for showing more at the line foci.
    drawn = instruments.station("astigmatic", number, seed)
    result = runs.run(methods.find("defocus-pair"), drawn.microscope, AutofocusSettings(bounds=drawn.bounds))
    assert result.focused, result.reason
    assert abs(drawn.defocus()) < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [23, 34, 51, 54])
def test_line_foci_that_show_more_of_a_sample_that_seems_to_repeat_itself_cost_no_focus(seed):
    record = run_trial(draw_trials(TRACKS["stigmator"], 4, seed)[3], "defocus-pair")
    assert record.focused, record.reason
    assert abs(record.error) < 1
