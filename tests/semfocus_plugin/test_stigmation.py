"""Focus and stigmator corrected together, on the emulator's wires and on columns of independent code."""

from __future__ import annotations

import dataclasses
import json
import math
import threading

import numpy as np
import pytest

import semdrivers
from semdrivers.emulator import Emulator
from semdrivers.errors import AutofocusError, InvalidParameterError, OutOfRangeError
from semdrivers.focus import AutofocusSettings
from semfocus_plugin.calibration import (
    StigmatorCalibration,
    calibrate_stigmator,
    keep_stigmator,
    stigmator_for,
)
from semfocus_plugin.lab.benchmark.column import MARGIN, SimulatedColumn
from semfocus_plugin.lab.benchmark.textures import random_texture
from semfocus_plugin.lab.studies.stigmation import run_once


@pytest.fixture
def emulator():
    with Emulator("tin-balls", seed=4, magnification=3000) as running:
        yield running


def misset(emulator, microscope, x, y, away):
    """Set the stigmator off by (x, y), and the lens `away`, in depths of field; returns the depth of field in mm."""
    unit = emulator.truth.depth_of_field
    microscope.stigmator = round(x * unit * 1e3, 1), round(y * unit * 1e3, 1)
    microscope.working_distance = emulator.truth.working_distance + away * unit
    return unit


@pytest.mark.parametrize(("x", "y", "away"), [(4.0, -3.0, 7.0), (-2.5, 4.5, -9.0)])
def test_both_are_corrected_and_reported(emulator, x, y, away):
    with semdrivers.connect(emulator.url) as microscope:
        unit = misset(emulator, microscope, x, y, away)
        before = microscope.stigmator
        result = microscope.autofocus(stigmate=True)
        assert result.focused, result
        assert result.frames <= 8
        assert (result.start_stigmator, result.stigmator) == (before, microscope.stigmator)
        assert max(map(abs, emulator.truth.astigmatism)) < 0.6 * unit * 1e3
        assert abs(microscope.working_distance - emulator.truth.working_distance) < 0.6 * unit
        assert "stigmator corrected" in result.reason
        assert json.loads(json.dumps(result.to_dict()))["stigmator"] == list(microscope.stigmator)


def test_without_stigmate_the_stigmator_is_left_alone(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        misset(emulator, microscope, 1.0, 0.0, 3.0)
        before = microscope.stigmator
        result = microscope.autofocus()
        assert microscope.stigmator == before
        assert result.stigmator is None


def test_limits_hold_and_a_refusal_puts_all_back(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        misset(emulator, microscope, 4.0, 3.0, 6.0)
        (x, y), place = microscope.stigmator, microscope.working_distance
        seen = []
        result = microscope.autofocus(
            stigmate=True, max_stigmator_travel=5.0, progress=lambda _: seen.append(microscope.stigmator)
        )
        assert result.status == "refused"
        assert "stigmator" in result.reason
        assert (microscope.stigmator, microscope.working_distance) == ((x, y), place)
        assert all(abs(a - x) <= 5.0 and abs(b - y) <= 5.0 for a, b in seen)


def test_a_cancel_and_a_fault_put_the_stigmator_back(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        misset(emulator, microscope, 4.0, 3.0, 6.0)
        before, cancel = microscope.stigmator, threading.Event()

        def end(_: object) -> None:
            if microscope.stigmator != before:
                cancel.set()

        assert microscope.autofocus(stigmate=True, cancel=cancel, progress=end).status == "cancelled"
        assert microscope.stigmator == before

        def break_off(_: object) -> None:
            if microscope.stigmator != before:
                raise RuntimeError("the display broke")

        with pytest.raises(RuntimeError):
            microscope.autofocus(stigmate=True, progress=break_off)
        assert microscope.stigmator == before


def test_what_cannot_be_is_refused_before_anything_moves(emulator):
    with pytest.raises(InvalidParameterError, match="stigmate=True"):
        AutofocusSettings(stigmator_bounds=(-1.0, 1.0))
    with pytest.raises(OutOfRangeError, match="stigmator_bounds"):
        AutofocusSettings(stigmate=True, stigmator_bounds=(1.0, -1.0))
    with pytest.raises(OutOfRangeError, match="max_stigmator_travel"):
        AutofocusSettings(stigmate=True, max_stigmator_travel=0.0)
    sample = random_texture((240 + 2 * MARGIN, 320 + 2 * MARGIN), np.random.default_rng(1))
    bare = SimulatedColumn(sample, pixel=2e-4, focus=15.0, aperture=0.045, core=36e-6, position=15.2)
    with pytest.raises(InvalidParameterError, match="HasStigmator"):
        semdrivers.autofocus(bare, stigmate=True)
    assert bare.position == 15.2
    with semdrivers.connect(emulator.url) as microscope:
        place = microscope.working_distance
        with pytest.raises(AutofocusError, match="does not correct the stigmator"):
            microscope.autofocus(stigmate=True, method="dual-network")
        with pytest.raises(AutofocusError, match="outside"):
            microscope.autofocus(stigmate=True, stigmator_bounds=(50.0, 60.0))
        assert microscope.working_distance == place


@pytest.mark.parametrize("kind", ["textures", "wave"])
def test_columns_of_their_own_whose_stigmator_is_turned(kind):
    run = run_once(1, 31, kind, "")
    assert run.status == "focused"
    assert run.worst <= 0.5


@pytest.mark.parametrize("kind", ["stripes", "featureless"])
def test_a_sample_that_does_not_show_both_components_is_refused(kind):
    assert run_once(3, 8, kind, "").status == "refused"


def test_the_matrix_is_measured_kept_and_used(emulator, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMFOCUS_CALIBRATION", str(tmp_path))
    with semdrivers.connect(emulator.url) as microscope:
        before = microscope.stigmator
        found = calibrate_stigmator(microscope)
        assert microscope.stigmator == before
        assert found.frames <= 18
        assert np.linalg.norm(np.array(found.matrix) - np.eye(2), 2) < 0.3
        keep_stigmator(found)
        assert stigmator_for(microscope.capabilities) == found
        other = dataclasses.replace(microscope.capabilities, serial="another")
        assert stigmator_for(other) is None
        unit = misset(emulator, microscope, 3.0, -3.0, 5.0)
        assert microscope.autofocus(stigmate=True).focused
        assert math.hypot(*emulator.truth.astigmatism) < unit * 1e3


@pytest.mark.parametrize("matrix", [((1.0, 1.0), (1.0, 1.0)), ((1.0,),), ((math.nan, 0.0), (0.0, 1.0)), "text"])
def test_a_matrix_without_an_inverse_is_none(matrix):
    with pytest.raises(InvalidParameterError, match="matrix"):
        StigmatorCalibration("m", "s", "2026-01-01", matrix, 0.1, 9)
