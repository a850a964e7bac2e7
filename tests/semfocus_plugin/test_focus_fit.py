"""Locating the focus from frames around it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semfocus_plugin.methods import fit_focus
from semfocus_plugin.networks import Evaluation
from semfocus_plugin.run import Measurement

UNIT, PIXEL = 0.05, 0.04


def frames(places, focus=0.0, *, scale=1.0, floor=0.0, flat=False, noise=0.0, seed=0, blur=True):
    random = np.random.default_rng(seed)
    found = []
    for place in places:
        z = 0.0 if flat else (place - focus) / scale
        score = 8 / (1 + (z / (4.5 * UNIT)) ** 2) + random.normal(0, noise)
        told = math.log1p(math.hypot(z / PIXEL, floor)) + random.normal(0, 0.3 * noise)
        detail = 0.5 / (1 + (z / (7 * UNIT)) ** 2) ** 2
        evaluation = Evaluation(score, 0.3, 6.0, told if blur else None, math.log(0.2) if blur else None)
        found.append(Measurement(15 + place, 1000.0, evaluation, 0.5, 0.02 * detail, detail, 0.0, None))
    return found


def fit(found, blur_range=60.0):
    return fit_focus(found, found[0].working_distance, UNIT, PIXEL, blur_range)


@pytest.mark.parametrize("blur_range", [None, 60.0])
@pytest.mark.parametrize("scale", [0.6, 1.0, 1.6])
@pytest.mark.parametrize("floor", [0.0, 3.0])
def test_focus_between_the_frames_is_found_at_any_aperture(blur_range, scale, floor):
    for seed in range(10):
        found = frames([0.02, -0.2, 0.25], 0.06, scale=scale, floor=floor, noise=0.3, seed=seed)
        result = fit(found, blur_range)
        assert abs(result.working_distance - 15.06) < 1.5 * UNIT
        assert result.evidence > 0


def test_one_sided_frames_are_uncertain_and_two_sided_ones_are_not():
    one = fit(frames([-0.15, -0.3], 0.0))
    both = fit(frames([-0.15, 0.15, 0.01], 0.0))
    assert both.sigma < 0.8 * UNIT < 2 * one.sigma
    assert both.sigma < one.sigma


def test_sample_that_looks_the_same_everywhere_gives_no_evidence():
    result = fit(frames([0.0, 0.2, -0.2, 0.7, -0.7], flat=True, noise=0.3))
    assert result.evidence < 0


def test_single_wild_frame_does_not_carry_the_fit_away():
    found = frames([0.0, 0.2, -0.2, 0.1, -0.1], 0.0)
    wild = frames([0.3], 0.3)
    assert abs(fit(found + wild).working_distance - 15.0) < 0.6 * UNIT


def test_frames_far_away_are_left_out():
    near = frames([0.0, 0.2, -0.2])
    far = frames([5.0, -5.0], focus=5.0)
    assert fit(near + far).working_distance == pytest.approx(fit(near).working_distance)
