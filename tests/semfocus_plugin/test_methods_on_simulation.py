"""The methods as pure functions over move and measure, on a microscope that is all truth and noise."""

from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semdrivers import AutofocusSettings, ModelError, Range
from semfocus_plugin import methods
from semfocus_plugin import run as loop
from semfocus_plugin.methods import zigzag
from semfocus_plugin.networks import Networks

RUNS = pytest.mark.parametrize("runs", [3, pytest.param(40, marks=pytest.mark.slow)])
"""The slow tests see more seeds."""
NAMES = ("dual-network", "paper")


def focus(simulate, seed, name="dual-network", settings=None, progress=None, cancel=None, **changes):
    microscope, networks = simulate(seed, **changes)
    start = microscope.working_distance
    result = loop.run(
        methods.find(name), microscope, settings or AutofocusSettings(), progress, cancel, networks=networks
    )
    return microscope, result, start


@pytest.mark.slow
@RUNS
@pytest.mark.parametrize("blur_range", [None, 24.0, 100.0])
@pytest.mark.parametrize("magnification", [None, 20_000.0])
def test_dual_network_focuses_within_two_depths_of_field(simulate, blur_range, magnification, runs):
    changes = {} if magnification is None else {"magnification": magnification}
    good = 0
    for seed in range(runs):
        microscope, result, _ = focus(simulate, seed, blur_range=blur_range, **changes)
        assert result.status == "refused" or microscope.error <= 2.0
        good += result.focused
        assert result.frames == len(result.trace) <= 40
    assert good >= 0.95 * runs


@RUNS
def test_paper_focuses_where_its_controller_can(simulate, runs):
    errors = []
    for seed in range(runs):
        microscope, result, _ = focus(simulate, seed, "paper")
        errors.append(microscope.error if result.focused else 99.0)
        control = [step for step in result.trace if step.phase == "control"]
        assert len(control) <= 40
        assert {step.phase for step in result.trace[:-2]} <= {"search", "control"}
    assert sum(error <= 2.0 for error in errors) >= 0.9 * runs


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 8), marks=pytest.mark.slow)], ids=["few", "more"])
@pytest.mark.parametrize("surface", ["uniform", "noise", "black"])
@pytest.mark.parametrize("peak", [0.5, *(pytest.param(peak, marks=pytest.mark.slow) for peak in (2.5, 4.0)), 7.0])
def test_dual_network_refuses_what_has_no_focus(simulate, surface, peak, seeds):
    for seed in seeds:
        settings = AutofocusSettings(max_frames=12) if len(seeds) == 1 else None
        microscope, result, start = focus(
            simulate, seed, settings=settings, surface=surface, peak=peak, blur_range=24.0
        )
        assert result.status == "refused"
        assert result.confidence == 0.0
        assert microscope.working_distance == start == result.working_distance


def test_black_picture_is_refused_after_two_frames(simulate):
    _, result, _ = focus(simulate, 1, surface="black")
    assert result.frames == 2
    assert "flat" in result.reason


@pytest.mark.parametrize("runs", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_focus_beyond_the_bounds_is_not_claimed(simulate, runs):
    for seed in range(runs):
        microscope, networks = simulate(seed, magnification=2000.0)
        away = 10 * microscope.depth_of_field
        microscope.working_distance_now = round(microscope.best - away, 3)
        bounds = (microscope.best - 2 * away, microscope.best - 0.3 * away)
        result = loop.run(methods.find("dual-network"), microscope, AutofocusSettings(bounds=bounds), networks=networks)
        assert result.status == "refused"
        assert all(bounds[0] - 1e-9 <= place <= bounds[1] + 1e-9 for place in microscope.sent)


def test_cancel_and_budget_put_the_lens_back(simulate):
    for frames in (1, 2, 3):
        cancel = threading.Event()

        def stop(step, frames=frames, cancel=cancel):
            if step.index + 1 == frames:
                cancel.set()

        microscope, result, start = focus(simulate, 3, progress=stop, cancel=cancel)
        assert (result.status, result.frames) == ("cancelled", frames)
        assert microscope.working_distance == start
        microscope, result, start = focus(simulate, 3, settings=AutofocusSettings(max_frames=frames))
        assert result.status == "refused"
        assert result.frames <= frames
        assert microscope.working_distance == start


def test_a_display_that_breaks_puts_the_lens_back_and_is_heard(simulate):
    microscope, networks = simulate(3)
    start = microscope.working_distance

    def broken(step):
        if step.index == 3:
            raise RuntimeError("no display")

    with pytest.raises(RuntimeError, match="no display"):
        loop.run(methods.find("dual-network"), microscope, AutofocusSettings(), broken, networks=networks)
    assert microscope.working_distance == start


def test_failed_run_can_leave_the_lens_where_it_is(simulate):
    microscope, result, _ = focus(
        simulate, 2, settings=AutofocusSettings(restore_on_failure=False), surface="noise", peak=7.0
    )
    assert result.status == "refused"
    assert result.working_distance == microscope.working_distance
    assert len(microscope.sent) > 0


def test_accept_score_of_the_caller_counts(simulate):
    _, result, _ = focus(simulate, 5, settings=AutofocusSettings(accept_score=9.0), peak=7.0)
    assert result.status == "refused"


def test_paper_stops_at_score_nine(simulate):
    microscope, networks = simulate(1, magnification=2000.0, peak=30.0)
    microscope.working_distance_now = round(microscope.best, 3)
    result = loop.run(methods.find("paper"), microscope, AutofocusSettings(), networks=networks)
    assert (result.status, result.frames, result.score) == ("focused", 1, 9.0)


def test_paper_ends_after_five_frames_without_a_better_one(simulate):
    class Still:
        maximum = staticmethod(lambda magnification: 0.001)

        def __call__(self, state):
            return 0.0

    microscope, networks = simulate(1, magnification=2000.0, peak=5.0)
    networks.evaluator.score_noise = 0.0
    microscope.working_distance_now = round(microscope.best, 3)
    networks = Networks(networks.evaluator, {"paper": Still()})
    result = loop.run(methods.find("paper"), microscope, AutofocusSettings(), networks=networks)
    assert result.frames == 6
    assert result.focused


def test_method_without_its_network_fails_before_the_instrument_is_touched(simulate):
    microscope, networks = simulate(1)
    with pytest.raises(ModelError, match="no ACNet"):
        loop.run(methods.find("paper"), microscope, AutofocusSettings(), networks=Networks(networks.evaluator))
    assert microscope.sent == []


@given(
    start=st.floats(1, 50),
    stride=st.floats(0.05, 5),
    reach=st.floats(0.1, 60),
    first=st.sampled_from([1, -1]),
)
def test_zigzag_covers_its_reach_without_gaps(start, stride, reach, first):
    limits = Range(1.0, 50.0)
    places = list(itertools.islice(zigzag(start, stride, limits, reach, first), 5000))
    assert all(place in limits and abs(place - start) <= reach + 1e-9 for place in places)
    covered = sorted([start, *places])
    assert covered[0] <= max(1.0, start - reach) + 1e-6
    assert covered[-1] >= min(50.0, start + reach) - 1e-6
    assert all(b - a <= stride + 1e-6 for a, b in itertools.pairwise(covered))
    assert len(set(places)) == len(places)


def test_methods_have_names_and_descriptions():
    names = [method.name for method in methods.METHODS]
    assert set(NAMES) <= set(names)
    assert len(set(names)) == len(names)
    assert all(method.description for method in methods.METHODS)
    assert methods.find(None) is methods.METHODS[0]
    assert methods.find("no such method") is None
