"""The probe: limits, budget, cancellation, trace."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semdrivers import AutofocusError, AutofocusSettings, Image, InvalidParameterError, OutOfRangeError, Range
from semfocus_plugin.run import BudgetSpent, Cancelled, FocusRun


def probe_of(simulate, settings=None, frames=100, progress=None, cancel=None, **changes):
    microscope, networks = simulate(1, magnification=3000.0, **changes)
    settings = settings or AutofocusSettings()
    return microscope, FocusRun(microscope, settings, networks.evaluator, frames, progress, cancel)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    start=st.floats(10, 20),
    low=st.floats(0.1, 5),
    high=st.floats(0.1, 5),
    travel=st.none() | st.floats(0.01, 5),
    step=st.sampled_from([0.0, 0.001, 0.025, 0.7]),
    wanted=st.lists(st.floats(-100, 100), min_size=1, max_size=6),
)
def test_never_outside_the_limits(simulate, start, low, high, travel, step, wanted):
    chosen = AutofocusSettings(bounds=(start - low, start + high), max_travel=travel)
    limits = Range(5.0, 25.0, step)
    microscope, run = probe_of(simulate, chosen, working_distance_now=start, limits=limits)
    for place in wanted:
        run.measure(place, "evaluate")
    for place in microscope.sent:
        assert max(5.0, start - low) - 1e-9 <= place <= min(25.0, start + high) + 1e-9
        assert travel is None or abs(place - start) <= travel + 1e-9
        if step and run.limits.maximum > run.limits.minimum and place != start:
            assert math.isclose(place / step, round(place / step), abs_tol=1e-5)


def test_start_outside_the_bounds_is_refused_before_anything_moves(simulate):
    with pytest.raises(OutOfRangeError, match=r"15 mm is outside .*16 to 18"):
        probe_of(simulate, AutofocusSettings(bounds=(16.0, 18.0)), working_distance_now=15.0)


@pytest.mark.parametrize(
    ("step", "chosen", "start", "low", "high"),
    [
        (0.5, {"bounds": (10.2, 12.3)}, 11.0, 10.5, 12.0),
        (0.5, {"bounds": (10.5, 12.0)}, 11.0, 10.5, 12.0),
        (0.1, {"bounds": (10.3, 12.7)}, 11.0, 10.3, 12.7),  # 12.7 / 0.1 is less than 127
        (0.5, {"bounds": (0.0, 30.0)}, 11.0, 5.0, 25.0),
        (0.5, {"bounds": (10.2, 12.3), "max_travel": 1.0}, 11.4, 10.5, 12.0),
        (0.5, {"max_travel": 0.2}, 11.3, 11.5, 11.5),
        (0.5, {"max_travel": 0.1}, 11.25, 11.25, 11.25),  # No place of the grid: it is scored where it stands
        (0.0, {"bounds": (10.2, 12.3)}, 11.0, 10.2, 12.3),
    ],
)
def test_limits_are_on_the_grid_of_the_instrument(simulate, step, chosen, start, low, high):
    limits = Range(5.0, 25.0, step)
    _, run = probe_of(simulate, AutofocusSettings(**chosen), working_distance_now=start, limits=limits)
    assert (run.limits.minimum, run.limits.maximum) == (low, high)


@pytest.mark.parametrize(
    ("limits", "chosen", "low", "high"),
    [
        ((-math.inf, math.inf), {"max_travel": 1.2}, 10.0, 12.0),
        ((-math.inf, math.inf), {}, -math.inf, math.inf),
        ((5.0, math.inf), {}, 5.0, math.inf),
        ((-math.inf, 25.0), {}, -math.inf, 25.0),
    ],
)
def test_a_lens_without_limits_has_those_that_were_chosen(simulate, limits, chosen, low, high):
    _, run = probe_of(simulate, AutofocusSettings(**chosen), working_distance_now=11.0, limits=Range(*limits, 0.5))
    assert (run.limits.minimum, run.limits.maximum) == (low, high)


def test_not_a_number_is_never_sent(simulate):
    microscope, run = probe_of(simulate)
    with pytest.raises(AutofocusError, match="nan"):
        run.measure(math.nan, "evaluate")
    assert microscope.sent == []


def test_budget_ends_before_the_lens_moves(simulate):
    microscope, run = probe_of(simulate, frames=2)
    run.measure(15.0, "search")
    run.measure(15.1, "search")
    sent = list(microscope.sent)
    with pytest.raises(BudgetSpent):
        run.measure(15.2, "search")
    assert microscope.sent == sent
    assert run.frames == 2
    assert run.remaining == 0


def test_cancel_is_obeyed_before_the_next_move(simulate):
    cancel = threading.Event()
    microscope, run = probe_of(simulate, cancel=cancel)
    run.measure(15.0, "search")
    sent = list(microscope.sent)
    cancel.set()
    with pytest.raises(Cancelled):
        run.measure(15.2, "search")
    with pytest.raises(Cancelled):
        run.move(15.2)
    assert microscope.sent == sent


def test_trace_tells_the_move_after_every_frame(simulate):
    shown = []
    _, run = probe_of(simulate, progress=shown.append, working_distance_now=15.0)
    run.measure(15.0, "search")
    run.measure(15.25, "control")
    run.measure(15.125, "verify")
    assert [step.action for step in run.trace] == pytest.approx([0.25, -0.125, None])
    assert [step.phase for step in run.trace] == ["search", "control", "verify"]
    assert [step.index for step in shown] == [0, 1, 2]
    assert all(step.magnification == 3000.0 for step in shown)


def test_a_place_already_taken_is_not_sent_again(simulate):
    microscope, run = probe_of(simulate, working_distance_now=15.0)
    run.measure(15.0, "search")
    run.measure(15.0, "verify")
    assert microscope.sent == []


def test_magnification_changes_only_where_allowed(simulate):
    microscope, run = probe_of(simulate)
    with pytest.raises(AutofocusError, match="may_change_magnification"):
        run.set_magnification(500.0)
    microscope, run = probe_of(simulate, AutofocusSettings(may_change_magnification=True))
    start = run.working_distance
    run.set_magnification(500.0)
    run.move(start + 1.0)
    assert run.depth_of_field > 0.2
    run.restore()
    assert (microscope.magnification, microscope.working_distance) == (3000.0, start)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((240, 319), np.uint8), "319×240"),
        (np.zeros((240, 320, 3), np.uint8), "colours"),
        (np.zeros((240, 320), np.int64), "int64"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_unreadable_frames_are_named(simulate, monkeypatch, pixels, words):
    microscope, run = probe_of(simulate)
    monkeypatch.setattr(microscope, "acquire", lambda mode: Image(pixels, 15.0, 3000.0, 100.0))
    with pytest.raises(AutofocusError, match=words):
        run.measure(run.working_distance, "search")


def test_something_else_than_an_image_is_named(simulate, monkeypatch):
    microscope, run = probe_of(simulate)
    monkeypatch.setattr(microscope, "acquire", lambda mode: None)
    with pytest.raises(AutofocusError, match="NoneType"):
        run.measure(run.working_distance, "search")


@pytest.mark.parametrize(("member", "value"), [("working_distance_now", 16.0), ("magnification", 9000.0)])
def test_somebody_else_at_the_instrument_ends_the_run(simulate, monkeypatch, member, value):
    microscope, run = probe_of(simulate)
    acquire = microscope.acquire

    def disturbed(mode):
        image = acquire(mode)
        setattr(microscope, member, value)
        return image

    monkeypatch.setattr(microscope, "acquire", disturbed)
    with pytest.raises(AutofocusError, match="somebody else"):
        run.measure(15.0, "search")


def test_a_lens_that_overshoots_its_limits_ends_the_run(simulate):
    microscope, run = probe_of(simulate, AutofocusSettings(max_travel=1.0), working_distance_now=15.0)
    kind = type(microscope)

    class Overshooting(kind):
        @property
        def working_distance(self):
            return self.working_distance_now

        @working_distance.setter
        def working_distance(self, value):
            self.working_distance_now = value + 1.5

    microscope.__class__ = Overshooting
    with pytest.raises(AutofocusError, match=r"stands at 17\.400 mm, beyond the limits 14\.000 to 16\.000"):
        run.move(15.9)


def test_settings_are_checked_by_the_contract():
    with pytest.raises(InvalidParameterError):
        AutofocusSettings(max_frames=1.5)
