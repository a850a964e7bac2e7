"""The focus over the stage: what the points say, where they say nothing, and what autofocus makes of it."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest

import semdrivers
from semdrivers import FocusMap
from semdrivers.emulator import Emulator
from semdrivers.hosts import FocusPolicy, focused

DEPTH = 0.027
REGION = (-2.0, -1.5, 2.0, 1.5)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def focus(x, y, seconds=0.0):
    """A sample tilted by 2 degrees, bowed, in a microscope that drifts by 20 nm/s; mm."""
    return 15 + 0.028 * x - 0.021 * y + 0.005 * (x * x + y * y) + 20e-6 * seconds


def measured(places, noise=0.0, **options):
    random = np.random.default_rng(1)
    known = FocusMap(**options)
    for x, y in places:
        known.add(x, y, focus(x, y) + noise * random.standard_normal(), depth_of_field=DEPTH, magnification=5000)
    return known


def grid(columns, rows):
    return [(x, y) for y in np.linspace(-1.5, 1.5, rows) for x in np.linspace(-2, 2, columns)]


def test_nothing_is_known_before_the_first_point_and_least_far_from_the_points():
    known = FocusMap()
    assert math.isnan(known.predict(0, 0)[0])
    assert known.predict(0, 0)[1] == math.inf
    assert not known.trusts(known.predict(0, 0)[1])
    known = measured([(0, 0)])
    sigmas = [known.predict(x, 0)[1] for x in (0, 0.1, 0.5, 2)]
    assert sigmas == sorted(sigmas)
    assert sigmas[0] < DEPTH / 4
    assert not known.trusts(sigmas[-1])


def test_a_bowed_and_tilted_sample_is_predicted_between_its_points():
    known = measured(grid(5, 4), 0.15 * DEPTH)
    errors = [abs(known.predict(x, y)[0] - focus(x, y)) / DEPTH for x, y in grid(9, 7)]
    assert max(errors) < 0.5
    assert known.trusts(known.predict(0.3, 0.3)[1])


@pytest.mark.parametrize("wrong", [0.3, -2.0])
def test_a_wild_point_neither_bends_the_map_nor_goes_unseen(wrong):
    known = measured(grid(4, 3), 0.1 * DEPTH)
    known.add(0.3, 0.2, focus(0.3, 0.2) + wrong, depth_of_field=DEPTH, magnification=5000)
    assert abs(known.predict(0.3, 0.2)[0] - focus(0.3, 0.2)) < 0.5 * DEPTH
    residuals = known.residuals()
    assert residuals[-1] == pytest.approx(wrong, abs=DEPTH)
    assert np.abs(residuals[:-1]).max() < DEPTH


def test_time_makes_a_map_uncertain_and_two_runs_make_it_certain_again():
    clock = Clock()
    known = measured(grid(5, 4), clock=clock)
    clock.now = 12 * 3600.0
    assert not known.trusts(known.predict(0, 0)[1])
    for x, y in ((1, 1), (-1, -1)):
        known.add(x, y, focus(x, y, clock.now), depth_of_field=DEPTH, magnification=5000)
    for x, y in grid(5, 4):
        mean, sigma = known.predict(x, y)
        assert known.trusts(sigma)
        assert mean == pytest.approx(focus(x, y, clock.now), abs=0.5 * DEPTH)


def test_a_steady_drift_is_learned():
    clock = Clock()
    known = FocusMap(clock=clock)
    for k, (x, y) in enumerate(np.random.default_rng(2).permutation(grid(6, 4))):
        clock.now = 60.0 * k
        known.add(x, y, focus(x, y, clock.now), depth_of_field=DEPTH, magnification=5000)
    clock.now += 300
    assert known.trusts(known.predict(0, 0)[1])
    assert known.predict(0, 0)[0] == pytest.approx(focus(0, 0, clock.now), abs=0.35 * DEPTH)


def test_what_was_measured_coarsely_is_not_trusted_at_a_higher_magnification():
    known = FocusMap()
    for x, y in grid(3, 3):
        known.add(x, y, focus(x, y), depth_of_field=0.27, magnification=500)
    sigma = known.predict(0, 0)[1]
    assert known.trusts(sigma, 500)
    assert not known.trusts(sigma, 20000)
    assert known.depth_of_field(5000) == pytest.approx(0.027)


def test_the_plan_makes_a_region_certain():
    known = measured([(0, 0)])
    places = known.plan(REGION)
    assert 4 <= len(places) <= 9
    assert len(set(places)) == len(places)
    assert {(abs(x), abs(y)) for x, y in places[:2]} == {(2.0, 1.5)}
    for x, y in places:
        known.add(x, y, focus(x, y), depth_of_field=DEPTH, magnification=5000)
    predicted = [(*known.predict(x, y), focus(x, y)) for x, y in grid(9, 7)]
    assert all(abs(mean - true) < 3 * sigma for mean, sigma, true in predicted)
    assert np.median([abs(mean - true) for mean, _, true in predicted]) < 0.5 * DEPTH
    assert FocusMap().plan(REGION, most=3)
    for region in ((0, 0, 1), "abcd", (1, 0, 0, 1)):
        with pytest.raises(semdrivers.SemDriversError, match="region"):
            known.plan(region)


def test_a_map_comes_back_from_its_file(tmp_path):
    clock = Clock()
    known = measured(grid(3, 2), clock=clock)
    known.add(0, 0, 15.0, depth_of_field=DEPTH, sigma=0.001, score=7.5, source="joint")
    path = known.save(tmp_path / "map.json")
    with pytest.raises(semdrivers.ExistingFileError):
        known.save(path)
    again = FocusMap.load(path, clock=clock)
    assert [point.source for point in again.points] == ["run"] * 6 + ["joint"]
    assert again.predict(0.5, 0.5) == pytest.approx(known.predict(0.5, 0.5))
    assert again.points[:6] == known.points[:6]
    path.write_text(json.dumps({"format": "other"}))
    with pytest.raises(semdrivers.InvalidParameterError, match=r"map\.json is no focus map"):
        FocusMap.load(path)
    with pytest.raises(semdrivers.InvalidParameterError, match="is no focus map"):
        FocusMap.load(tmp_path / "none.json")


@pytest.mark.slow
def test_a_map_is_drawn(tmp_path):
    with pytest.raises(semdrivers.InvalidParameterError, match="no point"):
        FocusMap().plot(tmp_path / "map.png")
    for places in ([(0, 0)], grid(4, 3)):
        path = measured(places).plot(tmp_path / "map.png", overwrite=True)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_values_that_make_no_sense_are_refused():
    for options in ({"tolerance": 0}, {"drift": -1}):
        with pytest.raises(semdrivers.OutOfRangeError, match="must be above 0"):
            FocusMap(**options)
    known = FocusMap()
    with pytest.raises(semdrivers.InvalidParameterError, match="depth_of_field"):
        known.add(0, 0, 15.0)
    with pytest.raises(semdrivers.OutOfRangeError, match="working distance"):
        known.add(0, 0, math.nan, depth_of_field=DEPTH)
    assert known.points == ()


def result(**changes):
    values = {
        "status": "focused", "reason": "", "working_distance": 15.0, "start_working_distance": 14.0, "score": 8.0,
        "confidence": 0.97, "frames": 3, "elapsed": 1.0, "method": "a", "depth_of_field": DEPTH,
    }  # fmt: skip
    return semdrivers.AutofocusResult(**{**values, **changes})


def test_a_run_that_does_not_stand_by_a_focus_is_no_point():
    known = FocusMap()
    for doubtful in ({"status": "refused"}, {"confidence": 0.0}, {"at_limit": True}):
        assert not known.add(0, 0, result(**doubtful), magnification=5000)
    assert known.points == ()
    assert known.add(0, 0, result(), magnification=5000)
    assert known.points[0].score == 8.0


def test_a_run_without_a_depth_of_field_counts_by_the_tolerance_of_the_map():
    step = semdrivers.FocusStep(0, "search", 15.0, 4000.0, 8.0, 0.1, 5.0)
    unknown = result(depth_of_field=None, trace=(step,))
    with pytest.raises(semdrivers.InvalidParameterError, match="make the map with a tolerance"):
        FocusMap().add(0, 0, unknown)
    known = FocusMap(tolerance=0.01)
    assert known.add(0, 0, unknown)
    (point,) = known.points
    assert (point.depth_of_field, point.magnification) == (0.02, 4000.0)
    with pytest.raises(semdrivers.OutOfRangeError, match="sigma must be above 0 mm"):
        known.add(0, 0, 15.0, sigma=0.0)
    assert known.points == (point,)


def test_a_map_without_points_has_nothing_to_draw_or_to_compare(tmp_path):
    known = FocusMap()
    assert known.residuals().shape == (0,)
    with pytest.raises(semdrivers.InvalidParameterError, match="focus somewhere first"):
        known.plot(tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []


def test_a_run_counts_by_what_it_says_of_its_error():
    """By its posterior and its confidence; without a posterior, by its confidence alone."""
    known = FocusMap()
    narrow, wide = ((15 - width, 15 - width / 3, 15 + width / 3, 15 + width) for width in (0.1 * DEPTH, 2 * DEPTH))
    for confidence, posterior in ((1.0, narrow), (0.5, narrow), (1.0, wide), (0.99, None), (0.6, None)):
        known.add(0, 0, result(confidence=confidence, posterior=posterior), magnification=5000)
    sure, doubtful, spread, said, unsaid = (point.sigma / DEPTH for point in known.points)
    assert sure == pytest.approx(0.2)
    assert doubtful == pytest.approx(0.2 * math.sqrt(2))
    assert spread == pytest.approx(1.0, rel=0.35)
    assert sure < said < unsaid
    assert unsaid > 1


def test_doubtful_runs_make_a_map_and_one_of_them_does_not_bend_it():
    random = np.random.default_rng(3)
    doubtful, sure = FocusMap(), FocusMap()
    for x, y in grid(6, 5):
        error = 0.3 * DEPTH * random.standard_normal()
        run = result(working_distance=focus(x, y) + error, confidence=0.6, posterior=None)
        doubtful.add(x, y, run, magnification=5000)
        sure.add(x, y, result(working_distance=focus(x, y) + 0.3 * error, confidence=0.99), magnification=5000)
    errors = [abs(doubtful.predict(x, y)[0] - focus(x, y)) / DEPTH for x, y in grid(9, 7)]
    assert np.median(errors) < 0.3
    assert max(errors) < 1
    before = sure.predict(0.3, 0.2)[0]
    off = result(working_distance=focus(0.3, 0.2) + DEPTH, confidence=0.5)
    sure.add(0.3, 0.2, off, magnification=5000)
    assert abs(sure.predict(0.3, 0.2)[0] - before) < 0.1 * DEPTH


@pytest.fixture(scope="module")
def scanned():
    """A tilted sample, and a map of five runs on it."""
    with (
        Emulator("gold-nanoparticles", magnification=5000, seed=3, tilt=40.0, bow=4.0) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        known = FocusMap(clock=emulator.instrument.clock.now)
        runs = []
        for x, y in ((-0.4, -0.3), (0.4, -0.3), (0.4, 0.3), (-0.4, 0.3), (0.0, 0.0)):
            microscope.move_stage(x, y)
            runs.append(microscope.autofocus(map=known, learn_aperture=False))
        yield emulator, microscope, known, runs


@pytest.mark.slow
def test_autofocus_measures_first_and_then_follows_the_map(scanned):
    emulator, microscope, known, runs = scanned
    assert all(run.focused and run.frames for run in runs)
    assert len(known.points) == 5
    assert known.points[0].depth_of_field == pytest.approx(emulator.truth.depth_of_field, rel=0.5)
    microscope.move_stage(0.05, -0.05)
    start = microscope.working_distance
    predicted = microscope.autofocus(map=known, learn_aperture=False)
    assert (predicted.method, predicted.frames) == ("focus-map", 0)
    assert predicted.focused
    assert predicted.confidence > 0.9
    assert predicted.start_working_distance == start
    truth = emulator.truth
    assert abs(microscope.working_distance - truth.working_distance) < truth.depth_of_field
    assert len(known.points) == 5
    assert microscope.acquire().metadata["autofocus"]["method"] == "focus-map"


def test_a_prediction_beyond_the_limits_moves_nothing(scanned):
    _, microscope, known, _ = scanned
    microscope.move_stage(0.0, 0.0)
    microscope.working_distance = known.predict(0, 0)[0] + 0.4
    before = microscope.working_distance
    cancel = threading.Event()
    refused = microscope.autofocus(map=known, max_travel=0.1, learn_aperture=False, max_frames=3)
    assert refused.method != "focus-map"
    assert abs(microscope.working_distance - before) <= 0.1
    cancel.set()
    assert microscope.autofocus(map=known, cancel=cancel).status == "cancelled"
    assert abs(microscope.working_distance - before) <= 0.1


def test_a_run_from_the_map_stays_within_the_travel_from_the_start(scanned):
    _, microscope, known, _ = scanned
    microscope.move_stage(1.5, 1.2)
    aim = known.predict(1.5, 1.2)[0]
    microscope.working_distance = aim - 0.25
    before = microscope.working_distance
    run = microscope.autofocus(map=known, max_travel=0.3, learn_aperture=False)
    assert run.start_working_distance == before
    assert run.method != "focus-map"
    assert all(abs(step.working_distance - before) <= 0.3 + 1e-9 for step in run.trace)
    if not run.focused:
        assert microscope.working_distance == before


def test_a_script_that_keeps_focus_takes_frames_where_the_map_asks_for_them(scanned):
    emulator, microscope, known, _ = scanned
    with focused(microscope, stage_travel=0, map=known, learn_aperture=False) as held:
        for x, y in ((-0.1, 0.1), (0.1, 0.1)):
            held.move_stage(x, y)
            before = microscope.acquire().frame_id
            image = held.acquire()
            assert image.frame_id == before + 1
            assert image.metadata["autofocus"]["method"] == "focus-map"
            truth = emulator.truth
            assert abs(microscope.working_distance - truth.working_distance) < truth.depth_of_field


def test_a_map_needs_a_stage(foreign):
    with pytest.raises(semdrivers.InvalidParameterError, match="map needs a stage"):
        focused(foreign, map=FocusMap())
    with pytest.raises(semdrivers.InvalidParameterError, match="map must be a FocusMap"):
        FocusPolicy(map="map.json")
    with pytest.raises(semdrivers.InvalidParameterError, match="map needs a stage"):
        semdrivers.autofocus(foreign, map=FocusMap())
    assert foreign.moves == []
