"""Limits that leave no room out of focus, and lenses with coarse steps."""

from __future__ import annotations

import pytest

from semdrivers import AutofocusSettings, Range
from semfocus_plugin import methods
from semfocus_plugin import run as loop
from semfocus_plugin.lab.benchmark.runs import run_trial
from semfocus_plugin.lab.benchmark.trials import TRACKS, draw_trials


def focus(simulate, seed, half, offset=0.0, **changes):
    microscope, networks = simulate(seed, blur_range=60.0, peak=8.8, **changes)
    unit = microscope.depth_of_field
    microscope.working_distance_now = round(microscope.best + offset * unit, 3)
    chosen = AutofocusSettings(bounds=(microscope.best - half * unit, microscope.best + half * unit))
    return microscope, loop.run(methods.find("defocus-pair"), microscope, chosen, networks=networks)


@pytest.mark.parametrize("half", [1.0, 2.0, 5.0])
def test_a_lens_at_the_focus_is_focused_within_any_limits(simulate, half):
    for seed in range(3):
        microscope, result = focus(simulate, seed, half, 0.3)
        assert result.focused, result
        assert microscope.error <= 1.0


@pytest.mark.parametrize("side", [1, -1])
def test_a_focus_beyond_the_limits_is_never_called_the_focus_within(simulate, side):
    for seed in range(3):
        microscope, networks = simulate(seed, blur_range=60.0, peak=8.8)
        unit = microscope.depth_of_field
        middle = microscope.best + side * 9 * unit
        microscope.working_distance_now = round(middle, 3)
        chosen = AutofocusSettings(bounds=(middle - 2 * unit, middle + 2 * unit))
        result = loop.run(methods.find("defocus-pair"), microscope, chosen, networks=networks)
        assert not result.focused, result
        assert "limit" in result.reason


def test_a_lens_with_coarse_steps_is_not_sent_to_one_place_twice(simulate):
    microscope, networks = simulate(1, blur_range=60.0, peak=8.8)
    unit = microscope.depth_of_field
    planes = [microscope.best + (k + 0.3) * 2 * unit for k in range(-8, 8)]
    kind = type(microscope)

    class Stepped(kind):
        @property
        def working_distance(self):
            return self.working_distance_now

        @working_distance.setter
        def working_distance(self, value):
            self.working_distance_now = min(planes, key=lambda plane: abs(plane - value))

    microscope.__class__ = Stepped
    microscope.capabilities = type(microscope.capabilities)(Range(planes[0], planes[-1], 2 * unit), Range(20, 150_000))
    microscope.working_distance_now = planes[1]
    result = loop.run(methods.find("defocus-pair"), microscope, AutofocusSettings(), networks=networks)
    places = [step.working_distance for step in result.trace]
    assert len(set(places)) == len(places), places
    assert result.focused, result
    assert abs(result.working_distance - microscope.best) <= unit


def test_a_step_two_depths_of_field_away_that_shows_more_is_the_focus(data_folder):
    # opt_scorpion, whose parts lie at several distances: the estimate lies between two steps, and a third one shows most.
    trial = draw_trials(TRACKS["series"], 4, 12, (), data_folder)[3]
    record = run_trial(trial, "dual-network")
    assert record.status == "focused", record.reason
    assert abs(record.error) <= 1.0
