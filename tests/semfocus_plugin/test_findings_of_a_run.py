"""A run says what keeps its best picture from being sharp, and says nothing where nothing does."""

from __future__ import annotations

import pytest

import semdrivers
from semdrivers.emulator import Emulator


@pytest.mark.parametrize("seed", [4, 5])
def test_a_stigmator_that_is_set_wrong_is_reported_and_not_chased(seed):
    with (
        Emulator("gold-nanoparticles", magnification=20_000, seed=seed, preset="ideal") as running,
        semdrivers.connect(running.url) as microscope,
    ):
        microscope.stigmator = (45.0, 0.0)
        assert 2.0 < 0.045 / running.truth.depth_of_field < 4.0
        result = microscope.autofocus()
        assert "correct the stigmator" in result.reason, result
        assert result.frames <= 9
        unit = running.truth.depth_of_field
        assert abs(result.working_distance - running.truth.working_distance) < 0.3 * unit, result
        assert result.astigmatism.amount == pytest.approx(45.0, rel=0.15), result
        assert microscope.stigmator == pytest.approx((45.0, 0.0), abs=0.1)


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("specimen", ["tin-balls", "butterfly-wing", "fabric"])
def test_without_astigmatism_or_relief_the_reason_has_neither(specimen, seed):
    with (
        Emulator(specimen, magnification=3000, seed=seed) as running,
        semdrivers.connect(running.url) as microscope,
    ):
        reason = microscope.autofocus().reason
        assert "stigmat" not in reason
        assert "no single working distance" not in reason
