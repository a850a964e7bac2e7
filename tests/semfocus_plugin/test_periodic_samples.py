"""Samples that repeat themselves: they are known by their pictures, and mislead no run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semdrivers.focus import AutofocusSettings
from semfocus_plugin import methods
from semfocus_plugin import run as runs
from semfocus_plugin.lab.benchmark import instruments
from semfocus_plugin.optics import faint_wave, period_of

ROWS, COLUMNS = np.mgrid[:240, :320]


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 8.0, (240, 320))


def grating(period: float, direction: float) -> np.ndarray:
    turn = math.radians(direction)
    phase = (COLUMNS * math.cos(turn) + ROWS * math.sin(turn)) / period
    return np.where(phase % 1 < 0.4, 160.0, 90.0)


@pytest.mark.parametrize("direction", [0.0, 35.0, 90.0])
@pytest.mark.parametrize("period", [7.0, 21.0, 60.0])
def test_a_grating_has_its_period(period, direction):
    assert period_of(grating(period, direction) + noise()) == pytest.approx(period, abs=1.0)


@pytest.mark.parametrize("period", [12, 34])
def test_dots_have_that_of_their_nearest_neighbours(period):
    away = np.hypot((ROWS + 3) % period - period / 2, (COLUMNS + 5) % period - period / 2)
    assert period_of((np.where(away < period / 4, 150, 100) + noise()).astype(np.uint8)) == period


def test_a_slope_of_grey_levels_hides_no_period():
    assert period_of(grating(21.0, 35.0) + 0.3 * COLUMNS + noise()) == pytest.approx(21.0, abs=1.0)


@pytest.mark.parametrize("size", [1, 4, 16])
@pytest.mark.parametrize("seed", range(4))
def test_textures_noise_and_single_edges_have_none(size, seed):
    cells = np.random.default_rng(seed).normal(size=(240 // size, 320 // size))
    assert period_of(120 + 20 * np.kron(cells, np.ones((size, size)))) is None
    assert period_of(np.where(100 + seed + ROWS * 0.2 > COLUMNS, 60, 180) + noise(seed)) is None


def test_a_flat_picture_has_none():
    assert period_of(np.full((240, 320), 120, np.uint8)) is None


def focused_within_a_depth_of_field(number, seed):
    """Run on an instrument of the track and return the result."""
    drawn = instruments.station("periodic", number, seed)
    result = runs.run(methods.find("defocus-pair"), drawn.microscope, AutofocusSettings(bounds=drawn.bounds))
    assert result.focused, result.reason
    assert abs(drawn.defocus()) < 1.0
    return result


@pytest.mark.parametrize(("number", "seed"), [(6, 12), (11, 12), (14, 13)])
def test_what_a_network_misreads_of_coarse_patterns_contradicts_no_focus(number, seed):
    focused_within_a_depth_of_field(number, seed)


@pytest.mark.parametrize(("number", "seed"), [(23, 13), (29, 12)])
def test_frames_that_contradict_each_other_on_one_side_get_one_on_the_other(number, seed):
    focused_within_a_depth_of_field(number, seed)


@pytest.mark.parametrize(("number", "seed"), [(3, 13), (6, 13)])
def test_a_pattern_too_faint_for_a_network_leads_to_the_focus(number, seed):
    focused_within_a_depth_of_field(number, seed)


def test_blur_read_off_reversed_contrast_keeps_no_run_far_from_the_focus():
    focused_within_a_depth_of_field(20, 21)


@pytest.mark.parametrize("direction", [0.0, 35.0, 70.0])
def test_a_grating_far_below_the_noise_is_a_wave_of_its_period(direction):
    period, power = faint_wave(120 + 0.02 * grating(7.0, direction) + noise())
    assert period == pytest.approx(7.0, abs=0.1)
    assert power > 20


@pytest.mark.parametrize("seed", range(4))
def test_noise_a_slope_and_lines_of_uneven_brightness_are_no_wave(seed):
    random = np.random.default_rng(seed)
    assert faint_wave(120 + noise(seed) + 0.1 * COLUMNS + random.normal(0.0, 2.0, (240, 1))) is None


@pytest.mark.parametrize(("number", "seed"), [(3, 15), (37, 15)])
def test_frames_that_look_alike_for_their_pattern_are_no_lens_that_stands_still(number, seed):
    focused_within_a_depth_of_field(number, seed)


@pytest.mark.parametrize(("number", "seed"), [(4, 13), (18, 15)])
def test_the_sharpest_frame_is_the_focus_though_a_network_reads_a_large_blur_off_it(number, seed):
    assert focused_within_a_depth_of_field(number, seed).score < 3.0


@pytest.mark.parametrize(("number", "seed"), [(4, 11), (46, 21)])
def test_a_pattern_that_shows_only_near_the_focus_is_met_there(number, seed):
    focused_within_a_depth_of_field(number, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seed"), [(7, 14), (35, 14), (14, 15)])
def test_a_reversed_contrast_that_looks_sharp_is_no_focus(number, seed):
    drawn = instruments.station("periodic", number, seed)
    result = runs.run(methods.find("defocus-pair"), drawn.microscope, AutofocusSettings(bounds=drawn.bounds))
    assert not result.focused or abs(drawn.defocus()) < 1.0, result


def test_what_repeats_itself_in_noise_is_no_sample():
    """A mesh out of reach, too faint for any frame: noise alone seemed to repeat itself, and to show most at one place."""
    drawn = instruments.station("periodic", 26, 2026)
    reach = 0.3 * abs(drawn.defocus()) * drawn.depth_of_field
    result = runs.run(methods.find("defocus-pair"), drawn.microscope, AutofocusSettings(max_travel=reach))
    assert not result.focused


def test_the_same_mesh_is_met_where_it_is_within_reach():
    focused_within_a_depth_of_field(26, 2026)
