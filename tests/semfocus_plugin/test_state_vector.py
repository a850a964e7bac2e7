"""The 80 elements, and the largest step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semfocus_plugin.networks import State, encode, maximum_action, maximum_action_paper, paper_factor
from semfocus_plugin.optics import trained_depth_of_field


def test_first_state_holds_no_differences():
    state = State(maximum_action).update(15.0, 4.0, 0.3, 6.0, 5000.0)
    assert state.shape == (80,)
    assert state.dtype == np.float32
    expected = np.zeros(80)
    expected[19], expected[39], expected[59], expected[79] = 0.4, 0.3, 0.06, 0.05
    np.testing.assert_allclose(state, expected, rtol=1e-6)


def test_elements_lie_where_the_notes_say():
    state = State(maximum_action)
    for frame in range(25):
        vector = state.update(15 + 0.01 * frame, 0.2 * frame, 0.1 + 0.01 * frame, 5 + 0.1 * frame, 2000.0)
    back = np.arange(1, 20)
    np.testing.assert_allclose(vector[0:19], 0.01 * back / maximum_action(2000.0), rtol=1e-4)
    np.testing.assert_allclose(vector[19], 0.48, rtol=1e-6)
    np.testing.assert_allclose(vector[20:39], 0.02 * back, rtol=1e-5)
    np.testing.assert_allclose(vector[39], 0.34, rtol=1e-6)
    np.testing.assert_allclose(vector[40:59], 0.01 * back, rtol=1e-5)
    np.testing.assert_allclose(vector[59], 0.074, rtol=1e-6)
    np.testing.assert_allclose(vector[60:79], 0.001 * back, rtol=1e-4)
    np.testing.assert_allclose(vector[79], 0.02, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(shift=st.floats(-20, 20), steps=st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=30))
def test_absolute_working_distance_is_not_in_the_state(shift, steps):
    here, there = State(maximum_action), State(maximum_action)
    place = 25.0
    for step in steps:
        place += step
        a = here.update(place, 3.0, 0.2, 6.0, 1000.0)
        b = there.update(place + shift, 3.0, 0.2, 6.0, 1000.0)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_reset_forgets():
    state = State()
    state.update(15.0, 4.0, 0.3, 6.0, 5000.0)
    state.reset()
    vector = state.update(16.0, 2.0, 0.1, 5.0, 5000.0)
    assert np.count_nonzero(vector) == 4


def test_many_runs_are_encoded_at_once():
    random = np.random.default_rng(1)
    histories = random.random((4, 7, 20))
    magnifications = random.uniform(500, 30_000, 7)
    maxima = np.array([maximum_action(m) for m in magnifications])
    together = encode(*histories, magnification=magnifications, maximum=maxima)
    assert together.shape == (7, 80)
    for row in range(7):
        alone = encode(*histories[:, row], magnification=magnifications[row], maximum=maxima[row])
        np.testing.assert_array_equal(together[row], alone)


def test_equation_5_has_the_papers_ends():
    assert maximum_action_paper(500) == pytest.approx(1.2, abs=1e-3)
    assert maximum_action_paper(30_000) == pytest.approx(0.036, abs=1e-6)
    assert paper_factor(9000) == pytest.approx(0.515)


@given(st.floats(100, 100_000))
def test_our_law_follows_the_depth_of_field(magnification):
    assert maximum_action(magnification) == pytest.approx(9 * trained_depth_of_field(magnification))
    assert maximum_action(magnification) >= 9 * 50e-6 / 0.003
    assert trained_depth_of_field(1000) == pytest.approx(0.134, abs=0.001)
