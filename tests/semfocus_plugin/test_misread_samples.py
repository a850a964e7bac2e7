"""Samples that a network misreads, and line foci: the frames together say where the focus is, or that nobody knows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import semdrivers
from semfocus_plugin.lab.benchmark.column import MARGIN, SimulatedColumn
from semfocus_plugin.optics import Posterior, Sighting, spectrum

SHAPE = 240 + 2 * MARGIN, 320 + 2 * MARGIN


def scratches(seed):
    """Straight bright scratches, all about one way, on an even ground."""
    random = np.random.default_rng(seed)
    y, x = (np.arange(size) - size / 2 for size in SHAPE)
    sample = np.full(SHAPE, 0.3, np.float32)
    for turn, at, half in zip(
        random.normal(0.7, 0.08, 25), random.uniform(-250, 250, 25), random.uniform(0.5, 2, 25), strict=True
    ):
        away = np.abs(y[:, None] * math.cos(turn) - x * math.sin(turn) - at)
        sample += 0.12 * np.clip(half + 0.5 - away, 0, 1).astype(np.float32)
    return sample.clip(0, 1)


def particles(seed):
    """A few round particles on an even ground."""
    random = np.random.default_rng(seed)
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    sample = np.full(SHAPE, 0.3, np.float32)
    for _ in range(7):
        at = random.uniform(MARGIN + 20, [size - MARGIN - 20 for size in SHAPE])
        sample += 0.4 * np.clip(random.uniform(2, 9) + 0.5 - np.hypot(y - at[0], x - at[1]), 0, 1).astype(np.float32)
    return sample.clip(0, 1)


def column(sample, away, **more):
    """An instrument with a pixel of 100 nm and 3 mrad, some depths of field from its focus."""
    made = SimulatedColumn(
        sample=sample, pixel=1e-4, focus=12.0, aperture=0.036, core=2e-5, position=12.0, limits=(8.0, 16.0), **more
    )
    made.working_distance = made.focus + away * made.depth_of_field
    return made


@pytest.mark.parametrize(("seed", "away"), [(1, 9.0), (2, 6.0)])
def test_scratches_that_the_network_takes_for_a_blur_are_focused(seed, away):
    microscope = column(scratches(seed), away, seed=seed)
    result = semdrivers.autofocus(microscope, learn_aperture=False)
    assert result.status == "focused", result.reason
    assert "misreads" in result.reason
    assert 0.3 < result.confidence <= 0.8
    assert abs(microscope.in_focus - microscope.focus) < microscope.depth_of_field


def test_whoever_asks_for_a_score_gets_no_focus_that_the_network_misreads():
    microscope = column(scratches(1), 9.0, seed=1)
    result = semdrivers.autofocus(microscope, learn_aperture=False, accept_score=6.0)
    assert result.status == "refused"
    assert "below 6" in result.reason


def test_a_line_focus_of_few_particles_is_named():
    microscope = column(particles(5), 1.0, seed=5)
    amount = 4.5 * microscope.depth_of_field
    microscope.astigmatism = amount * math.cos(5), amount * math.sin(5)
    result = semdrivers.autofocus(microscope, learn_aperture=False)
    assert result.status == "refused"
    assert "line focus" in result.reason


def test_frames_that_are_all_misread_are_compared():
    microscope = column(scratches(4), 0.0, seed=4)
    sightings = []
    for away in (-9.0, 6.0, 0.5, -4.0):
        microscope.working_distance = place = 12.0 + away * microscope.depth_of_field
        seen = spectrum(microscope.acquire().pixels)
        sightings.append(
            Sighting(place, microscope.pixel, math.log1p(100.0), -0.6, True, seen, float(seen.power.sum()))
        )
    contradicted = [dataclasses.replace(s, misread=True, log_sigma=1.0) for s in sightings]
    found = Posterior(contradicted, 8.0, 16.0, microscope.pixel).best(microscope.depth_of_field)
    assert abs(found.working_distance - 12.0) < microscope.depth_of_field
    assert found.mass > 0.3
    first = [Posterior(each[:1], 8.0, 16.0, microscope.pixel).unread for each in (sightings, contradicted)]
    assert first[0] == 0.0
    assert first[1] > 0.05
