"""Gratings, meshes, arrays of dots, brick walls and chips: their period, direction and defects."""

from __future__ import annotations

import math

import numpy as np
import pytest

from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import PERIODIC, Periodic, Window
from semdrivers.errors import InvalidParameterError, OutOfRangeError


def window(x: float = 0.0, y: float = 0.0, pixel: float = 0.08) -> Window:
    return Window(x, y, pixel, 200, 150)


@pytest.mark.parametrize("direction", [0.0, 30.0, 117.0])
@pytest.mark.parametrize("pattern", PERIODIC)
def test_a_perfect_pattern_repeats_itself_along_its_direction(pattern: str, direction: float) -> None:
    specimen = Periodic(pattern, seed=4, period=2.5, direction=direction, defects=False)
    turn = math.radians(direction)
    here = specimen.render(window())
    there = specimen.render(window(2.5 * math.cos(turn), 2.5 * math.sin(turn)))
    for one, other in zip(here, there, strict=True):
        assert one.dtype == np.float32
        assert one.shape == (150, 200)
        np.testing.assert_allclose(one, other, atol=1e-4)
    half = specimen.render(window(1.25 * math.cos(turn), 1.25 * math.sin(turn)))[0]
    assert np.abs(here[0] - half).mean() > 0.02


@pytest.mark.parametrize("pattern", PERIODIC)
def test_defects_break_the_pattern_in_some_places(pattern: str) -> None:
    perfect, spoiled = (Periodic(pattern, 4, 2.5, 30.0, defects).render(window())[0] for defects in (False, True))
    changed = np.abs(perfect - spoiled) > 0.05
    assert 0.001 < changed.mean() < 0.5


def test_the_seed_draws_what_is_not_given() -> None:
    drawn = [Periodic("grating", seed) for seed in range(200)]
    periods = np.array([specimen.period for specimen in drawn])
    assert 0.5 <= periods.min() < 0.7
    assert 6 < periods.max() <= 8
    assert np.ptp([specimen.direction for specimen in drawn]) > 150
    assert {specimen.defects for specimen in drawn} == {False, True}
    assert drawn[3] == Periodic("grating", 3)


@pytest.mark.parametrize("pattern", PERIODIC)
def test_a_pattern_finer_than_the_pixels_does_not_alias(pattern: str) -> None:
    tone = Periodic(pattern, 4, 0.5, 30.0, False).render(window(pixel=5.0))[0]
    assert tone.std() < 0.02


def test_a_defocused_grating_reverses_its_contrast() -> None:
    """Beyond the first zero of the disc's transfer (argument 3.83) bright lines are dark."""
    specimen = Periodic("grating", 1, 2.0, 0.0, False)
    column = ElectronColumn(specimen, preset="ideal", best_working_distance=15.0)

    def frame(radius: float) -> np.ndarray:
        distance = 15.0 + radius * 1e-3 / 0.003
        conditions = ScanConditions(distance, 5000.0, 320, 240, dwell_time=1e-3)
        return column.render(conditions).astype(float).mean(axis=0)

    sharp, reversed_ = frame(0.0), frame(5.1 * 2.0 / (2 * math.pi))
    assert np.corrcoef(sharp, reversed_)[0, 1] < -0.8


def test_the_period_is_an_argument_of_the_emulator() -> None:
    assert Emulator("mesh", period=3.0).column.specimen.period == 3.0
    specimen = Periodic("mesh", 1, 3.0)
    assert Emulator(specimen).column.specimen is specimen
    with pytest.raises(InvalidParameterError, match="period belongs to a periodic specimen: grating"):
        Emulator("fabric", period=3.0)
    with pytest.raises(OutOfRangeError, match=r"period must be within 0.05 to 500 µm, not 0 µm"):
        Emulator("grating", period=0.0)
    with pytest.raises(InvalidParameterError, match="no pattern 'stripes'; there are grating"):
        Periodic("stripes", 1)
