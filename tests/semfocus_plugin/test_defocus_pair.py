"""The default method on a microscope that is all truth and noise."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdrivers import AutofocusSettings, ModelError, Range
from semfocus_plugin import methods
from semfocus_plugin import run as loop

slow = pytest.mark.slow
"""Further seeds of the same check."""

METHOD = methods.find("defocus-pair")


def focus(simulate, seed, settings=None, progress=None, cancel=None, **changes):
    microscope, networks = simulate(seed, blur_range=60.0, **changes)
    start = microscope.working_distance
    chosen = settings or AutofocusSettings()
    result = loop.run(METHOD, microscope, chosen, progress, cancel, networks=networks)
    return microscope, result, start


def test_it_is_the_default():
    assert methods.find(None) is METHOD


@pytest.mark.parametrize("runs", [4, pytest.param(30, marks=slow)])
@pytest.mark.parametrize("magnification", [1000.0, 4000.0, 20_000.0])
def test_it_focuses_in_few_frames_and_never_falsely(simulate, magnification, runs):
    frames, good = [], 0
    for seed in range(runs):
        microscope, result, _ = focus(simulate, seed, magnification=magnification, peak=8.8)
        assert result.status == "refused" or microscope.error <= 2.0
        assert result.frames == len(result.trace) <= METHOD.max_frames
        good += result.focused
        frames.append(result.frames)
    assert good >= 0.9 * runs
    assert np.median(frames) <= 7


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 6), marks=slow)], ids=["few", "more"])
@pytest.mark.parametrize("surface", ["uniform", "noise", "black"])
@pytest.mark.parametrize("peak", [0.5, pytest.param(4.0, marks=slow), 7.0])
def test_it_refuses_what_has_no_focus(simulate, surface, peak, seeds):
    for seed in seeds:
        microscope, result, start = focus(simulate, seed, surface=surface, peak=peak)
        assert result.status == "refused", result
        assert microscope.working_distance == start
        assert result.confidence == 0.0


@pytest.mark.parametrize("runs", [3, pytest.param(20, marks=slow)])
def test_it_finds_focus_from_anywhere_when_the_magnification_may_change(simulate, runs):
    good = 0
    for seed in range(runs):
        start = round(float(np.random.default_rng(seed).uniform(5, 30)), 3)
        microscope, result, _ = focus(
            simulate,
            seed,
            AutofocusSettings(may_change_magnification=True),
            magnification=5000.0,
            working_distance_now=start,
            peak=8.8,
        )
        assert microscope.magnification == 5000.0
        assert result.status == "refused" or microscope.error <= 2.0
        good += result.focused
    assert good >= 0.8 * runs - 1


def test_the_magnification_stays_where_it_may_not_change(simulate):
    _, result, _ = focus(simulate, 3, magnification=5000.0, working_distance_now=28.0)
    assert {step.magnification for step in result.trace} == {5000.0}


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 500), low=st.floats(0.05, 4), high=st.floats(0.05, 4), travel=st.floats(0.02, 3))
def test_it_never_leaves_the_limits(simulate, seed, low, high, travel):
    microscope, networks = simulate(seed, blur_range=60.0)
    start = microscope.working_distance
    chosen = AutofocusSettings(bounds=(start - low, start + high), max_travel=travel)
    result = loop.run(METHOD, microscope, chosen, networks=networks)
    assert all(start - low - 1e-9 <= place <= start + high + 1e-9 for place in microscope.sent)
    assert all(abs(place - start) <= travel + 1e-9 for place in microscope.sent)
    assert result.focused or microscope.working_distance == start


def test_a_focus_beyond_the_limits_is_refused(simulate):
    for seed in range(3):
        microscope, result, start = focus(
            simulate, seed, best=15.0, magnification=3000.0, working_distance_now=14.0, limits=Range(1.0, 14.2, 0.001)
        )
        assert result.status == "refused", result
        assert microscope.working_distance == start


def test_a_cancel_is_obeyed_before_the_next_frame(simulate):
    cancel = threading.Event()
    microscope, result, start = focus(simulate, 1, progress=lambda step: cancel.set(), cancel=cancel)
    assert (result.status, result.frames) == ("cancelled", 1)
    assert microscope.working_distance == start


def test_the_final_place_is_approached_from_below(simulate):
    microscope, result, _ = focus(simulate, 4, magnification=3000.0, peak=8.8, best=15.0, working_distance_now=15.4)
    assert result.focused
    assert microscope.sent[-1] == result.working_distance
    before = microscope.sent[-2] if len(microscope.sent) > 1 else -np.inf
    assert before < result.working_distance


def test_it_asks_for_a_network_that_tells_blur(simulate):
    microscope, networks = simulate(1)
    with pytest.raises(ModelError, match="dual-network"):
        loop.run(METHOD, microscope, AutofocusSettings(), networks=networks)
    assert microscope.sent == []
