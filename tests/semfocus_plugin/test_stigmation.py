"""Focus and stigmator corrected together, on the emulator's wires and on columns of independent code."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers.base import WrappedMicroscope
from semdrivers.emulator import Emulator
from semdrivers.errors import AutofocusError, InvalidParameterError, OutOfRangeError
from semdrivers.focus import AutofocusSettings
from semdrivers.microscope import Range
from semfocus_plugin.calibration import (
    StigmatorCalibration,
    calibrate_stigmator,
    keep_stigmator,
    stigmator_for,
)
from semfocus_plugin.cli import app
from semfocus_plugin.lab.benchmark.column import MARGIN, SimulatedColumn
from semfocus_plugin.lab.benchmark.textures import random_texture
from semfocus_plugin.lab.studies.stigmation import StigmatedColumn, run_once
from semfocus_plugin.methods import find
from semfocus_plugin.run import Method, Outcome, StigmatorEffect
from semfocus_plugin.run import run as run_method


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


@pytest.mark.parametrize("last", ["frames", "correction"])
def test_what_the_frames_before_the_last_correction_show_is_no_advice(emulator, last):
    """They show astigmatism that has been taken off since; where nothing has moved, it is named."""
    with semdrivers.connect(emulator.url) as microscope:
        unit = misset(emulator, microscope, 2.5, 0.0, 0.0)
        place, setting = microscope.working_distance, microscope.stigmator

        def focus(run, accept):
            for offset in (0.0, 4.0, -4.0, 8.0):
                run.measure(place + offset * unit, "search")
            run.stigmate((0.0, 0.0) if last == "correction" else setting)
            return Outcome(True, "claimed", place, 5.0, 1.0)

        method = Method("claims", "claims a focus", bind=lambda networks: focus, max_frames=8, stigmates=True)
        result = run_method(method, microscope, AutofocusSettings(stigmate=True))
    assert ("correct the stigmator, then focus again" in result.reason) == (last == "frames"), result


@pytest.mark.slow
def test_the_command_shows_the_ellipse_while_it_corrects(emulator, tmp_path):
    with semdrivers.connect(emulator.url) as microscope:
        misset(emulator, microscope, -2.5, 4.5, -9.0)
    plot = tmp_path / "run.png"
    shown = CliRunner().invoke(app, ["run", emulator.url, "--stigmate", "--plot", str(plot)])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"astigmatism \S+ \S+ ±\S+ µm [●━╲┃╱]", shown.output)
    assert plot.stat().st_size > 10_000


def test_both_are_corrected_and_reported(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        unit = misset(emulator, microscope, 4.0, -3.0, 7.0)
        before = microscope.stigmator
        result = microscope.autofocus(stigmate=True)
        assert result.focused, result
        assert result.frames <= 8
        assert (result.start_stigmator, result.stigmator) == (before, microscope.stigmator)
        assert max(map(abs, emulator.truth.astigmatism)) < 0.6 * unit * 1e3
        assert abs(microscope.working_distance - emulator.truth.working_distance) < 0.6 * unit
        assert "stigmator corrected" in result.reason
        written = json.loads(json.dumps(result.to_dict()))
        assert written["stigmator"] == list(microscope.stigmator)
        assert len(written["trace"][-1]["astigmatism"]) == 3
        assert semdrivers.AutofocusResult.from_dict(written) == result


@pytest.mark.parametrize(("x", "y", "away"), [(4.0, -3.0, 7.0), (1.0, 3.0, 5.0)])
def test_what_is_reported_to_remain_is_what_remains_after_the_last_correction(x, y, away):
    with Emulator("tin-balls", seed=5, magnification=3000) as running, semdrivers.connect(running.url) as microscope:
        misset(running, microscope, x, y, away)
        left = microscope.autofocus(stigmate=True).astigmatism
        assert (left.x, left.y) == pytest.approx(running.truth.astigmatism, abs=3 * left.sigma)


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
            microscope.autofocus(stigmate=True, method="paper")
        with pytest.raises(AutofocusError, match="outside"):
            microscope.autofocus(stigmate=True, stigmator_bounds=(50.0, 60.0))
        assert microscope.working_distance == place


@pytest.mark.parametrize("kind", ["textures", "wave"])
def test_columns_of_their_own_whose_stigmator_is_turned(kind):
    run = run_once(1, 31, kind, "")
    assert run.status == "focused"
    assert run.worst <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("number", "seed", "kind"), [(2, 11, "emulator-unknown"), (1, 31, "micrographs-unknown")])
def test_what_the_stigmator_does_need_not_be_known(number, seed, kind):
    run = run_once(number, seed, kind, "")
    assert run.status == "focused", run
    assert run.worst <= 0.5
    assert run.frames <= 12


@pytest.mark.slow
def test_what_was_corrected_is_not_advised():
    found = run_once(3, 32, "emulator", "")
    assert found.status == "focused", found
    assert "correct the stigmator" not in found.reason


def test_frames_between_the_line_foci_are_alike_and_no_lens_is_blamed():
    run = run_once(3, 12, "emulator-unknown", "")
    assert run.status == "focused", run
    assert run.worst <= 1.0


class Noted(StigmatedColumn):
    """A column that keeps what its stigmator is set to."""

    @property
    def stigmator(self):
        return self._setting

    @stigmator.setter
    def stigmator(self, value):
        self.sets = [*getattr(self, "sets", []), tuple(value)]
        StigmatedColumn.stigmator.fset(self, value)


@pytest.mark.parametrize("end", [pytest.param("refused", marks=pytest.mark.slow), "cancelled", "fault"])
def test_an_end_without_focus_puts_the_stigmator_back_once_and_the_rest_too(end):
    sample = random_texture((240 + 2 * MARGIN, 320 + 2 * MARGIN), np.random.default_rng(5))
    column = Noted(sample, pixel=2e-4, focus=15.0, aperture=0.045, core=36e-6, position=15.0, seed=3)
    unit = column.depth_of_field
    column = dataclasses.replace(column, astigmatism=(4.0 * unit, 3.0 * unit), position=15.0 + 5.0 * unit)
    column.effect = 0.2 * unit * np.eye(2)
    column.reports = {"stigmator": Range(-100.0, 100.0, 0.01), "stigmator_matrix": (column.effect * 1e3).tolist()}
    start, magnification, cancel = column.working_distance, column.magnification, threading.Event()

    def progress(_: object) -> None:
        if end == "cancelled" and column.stigmator != (0.0, 0.0):
            cancel.set()
        if end == "fault" and column.stigmator != (0.0, 0.0):
            raise RuntimeError("the display broke")

    if end == "fault":
        with pytest.raises(RuntimeError, match="display"):
            semdrivers.autofocus(column, stigmate=True, progress=progress)
    else:
        result = semdrivers.autofocus(column, stigmate=True, progress=progress, cancel=cancel, accept_score=8.99)
        assert result.status == end, result
        assert (result.stigmator, result.start_stigmator) == ((0.0, 0.0), (0.0, 0.0))
    moved = [k for k, value in enumerate(column.sets) if value != (0.0, 0.0)]
    assert column.sets[moved[-1] + 1 :] == [(0.0, 0.0)]
    assert (column.working_distance, column.magnification) == (start, magnification)


def test_a_featureless_sample_is_refused():
    assert run_once(3, 8, "featureless", "").status == "refused"


def lines_seen_by_a_column(x, y, away):
    """Return a column of upright lines whose stigmator is off by (x, y), in depths of field; along x nothing is seen."""
    across = np.arange(320 + 2 * MARGIN) * 22 / (320 + 2 * MARGIN) % 1.0 < 0.4
    lines = np.broadcast_to(0.3 + 0.5 * across, (240 + 2 * MARGIN, 320 + 2 * MARGIN)).astype(np.float32)
    column = StigmatedColumn(lines, pixel=2e-4, focus=15.0, aperture=0.045, core=36e-6, position=15.0, seed=3)
    unit = column.depth_of_field
    column = dataclasses.replace(column, astigmatism=(x * unit, y * unit), position=15.0 + away * unit)
    column.effect = 0.2 * unit * np.eye(2)
    column.reports = {"stigmator": Range(-100.0, 100.0, 0.01), "stigmator_matrix": (column.effect * 1e3).tolist()}
    return column, unit


def test_lines_show_one_component_which_is_corrected_and_the_other_is_named_and_left():
    column, unit = lines_seen_by_a_column(2.0, 3.0, 5.0)
    result = semdrivers.autofocus(column, stigmate=True)
    assert result.focused, result
    assert result.astigmatism.unseen in (0.0, 90.0)
    assert "invisible" in result.reason
    assert column.astigmatism[0] == pytest.approx(2.0 * unit, abs=0.1 * unit)
    assert abs(column.astigmatism[1]) < 0.5 * unit
    # Upright lines are sharp at their own line focus, not at the circle of least confusion.
    assert column.working_distance == pytest.approx(15.0 - 2.0 * unit, abs=0.5 * unit)
    assert semdrivers.AutofocusResult.from_dict(result.to_dict()).astigmatism == result.astigmatism


class Unreported(WrappedMicroscope):
    """A microscope that does not report what its stigmator does."""

    @property
    def capabilities(self):
        return dataclasses.replace(super().capabilities, stigmator_matrix=None)


def test_an_unknown_matrix_is_measured_by_the_first_moves_and_kept(emulator, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMFOCUS_CALIBRATION", str(tmp_path))
    monkeypatch.setenv("SEMFOCUS_LEARNING", str(tmp_path))
    with semdrivers.connect(emulator.url) as connected:
        unit = misset(emulator, connected, 3.0, -2.0, 5.0)
        result = semdrivers.autofocus(Unreported(connected), stigmate=True)
        assert result.focused, result
        assert result.frames <= 10
        assert "was measured on the way" in result.reason
        assert math.hypot(*emulator.truth.astigmatism) < unit * 1e3
        kept = stigmator_for(connected.capabilities)
        assert kept is not None
        assert np.linalg.norm(np.array(kept.matrix) - np.eye(2), 2) < 0.35
        assert kept.working_distance == connected.working_distance


@pytest.mark.parametrize("texture", [5, 6, 7])
def test_axes_that_are_turned_at_another_working_distance_are_measured_on_the_way(texture):
    sample = random_texture((240 + 2 * MARGIN, 320 + 2 * MARGIN), np.random.default_rng(texture))
    column = StigmatedColumn(sample, pixel=2e-4, focus=15.0, aperture=0.045, core=36e-6, position=15.0, seed=3)
    unit, turn = column.depth_of_field, math.radians(30.0)
    column = dataclasses.replace(column, astigmatism=(4.0 * unit, -4.0 * unit), position=15.0 + 5.0 * unit)
    column.effect = 0.2 * unit * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    column.reports = {"stigmator": Range(-100.0, 100.0, 0.01)}
    straight = (200.0 * unit, 0.0), (0.0, 200.0 * unit)
    effect = StigmatorEffect(straight, 0.05, working_distance=8.0)
    result = run_method(find(None), column, AutofocusSettings(stigmate=True), effect=effect)
    assert result.focused, result
    assert math.hypot(*column.astigmatism) < 0.5 * unit
    assert abs(column.in_focus - 15.0) < 0.5 * unit


def test_a_focus_that_rests_on_a_nominal_aperture_is_seen_from_both_sides():
    sample = random_texture((240 + 2 * MARGIN, 320 + 2 * MARGIN), np.random.default_rng(6))
    column = StigmatedColumn(sample, pixel=2e-4, focus=15.0, aperture=0.045, core=36e-6, position=15.0, seed=3)
    unit = column.depth_of_field
    column = dataclasses.replace(column, astigmatism=(2.0 * unit, -1.0 * unit), position=15.0 - 6.0 * unit)
    column.effect = 0.2 * unit * np.eye(2)
    column.reports = {"stigmator": Range(-100.0, 100.0, 0.01), "stigmator_matrix": (column.effect * 1e3).tolist()}
    result = run_method(find(None), column, AutofocusSettings(stigmate=True))
    assert result.focused, result
    away = [(step.working_distance - 15.0) / unit for step in result.trace]
    assert min(away) < -1.0 < 1.0 < max(away)
    assert math.hypot(*column.astigmatism) < 0.3 * unit


@pytest.mark.slow
def test_coils_that_turn_shift_the_picture_and_remember():
    done = run_once(19, 22, "emulator-coils", "")
    assert done.status == "focused", done
    assert done.worst <= 0.5


def test_an_unknown_matrix_without_limits_or_on_lines_is_not_guessed():
    column, _ = lines_seen_by_a_column(2.0, 3.0, 5.0)
    column.reports = {}
    with pytest.raises(AutofocusError, match="stigmator_bounds"):
        semdrivers.autofocus(column, stigmate=True)
    column.reports = {"stigmator": Range(-100.0, 100.0, 0.01)}
    start = column.working_distance
    result = semdrivers.autofocus(column, stigmate=True)
    assert (result.status, result.working_distance, result.stigmator) == ("refused", start, (0.0, 0.0))


def test_the_coils_are_approached_from_below():
    with (
        Emulator("tin-balls", seed=4, magnification=3000, stigmator_hysteresis=20.0) as running,
        semdrivers.connect(running.url) as microscope,
    ):
        unit = misset(running, microscope, 3.0, 3.0, 5.0)
        result = microscope.autofocus(stigmate=True)
        assert result.focused, result
        assert max(map(abs, running.truth.astigmatism)) < 0.6 * unit * 1e3
        # What is read back is what is in force: no axis stays behind.
        conditions = running.instrument.conditions()
        assert (conditions.stigmator_x, conditions.stigmator_y) == pytest.approx(microscope.stigmator)


@pytest.mark.parametrize("peer", ["mapfost", "simplex"])
def test_a_peer_corrects_all_three(peer):
    if peer == "mapfost":
        pytest.importorskip("mapfost")
    run = run_once(1, 11, "textures", "", peer)
    assert run.status == "focused"
    assert run.worst <= 1.0


def test_the_matrix_is_measured_kept_and_used(emulator, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMFOCUS_CALIBRATION", str(tmp_path))
    with semdrivers.connect(emulator.url) as microscope:
        before = microscope.stigmator
        found = calibrate_stigmator(microscope)
        assert microscope.stigmator == before
        assert found.frames <= 18
        assert np.linalg.norm(np.array(found.matrix) - np.eye(2), 2) < 0.3
        assert found.working_distance == pytest.approx(emulator.truth.working_distance, abs=0.1)
        keep_stigmator(found)
        assert stigmator_for(microscope.capabilities) == found
        other = dataclasses.replace(microscope.capabilities, serial="another")
        assert stigmator_for(other) is None
        unit = misset(emulator, microscope, 3.0, -3.0, 5.0)
        assert microscope.autofocus(stigmate=True).focused
        assert math.hypot(*emulator.truth.astigmatism) < unit * 1e3


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"matrix": [[1, 0], [0, 1]], "sigma": -1}', '{"sigma": 0.1}']
)
def test_what_is_kept_of_a_stigmator_and_cannot_be_read_is_passed_over(tmp_path, monkeypatch, text):
    monkeypatch.setenv("SEMFOCUS_CALIBRATION", str(tmp_path))
    info = semdrivers.Capabilities(semdrivers.Range(1, 50), semdrivers.Range(20, 1e5), model="EM", serial="1")
    kept = StigmatorCalibration("EM", "1", "2026-01-01", ((1.0, 0.0), (0.0, 1.0)), 0.1, 9)
    path = keep_stigmator(kept)
    assert stigmator_for(info) == kept
    path.write_text(text)
    assert stigmator_for(info) is None


def test_a_stigmator_of_unknown_limits_is_not_measured():
    class Unlimited(WrappedMicroscope):
        @property
        def capabilities(self):
            return dataclasses.replace(super().capabilities, stigmator=None)

    with Emulator("tin-balls", seed=1) as emulator, semdrivers.connect(emulator.url) as connected:
        with pytest.raises(InvalidParameterError, match="no stigmator whose limits it reports"):
            calibrate_stigmator(Unlimited(connected))
        assert connected.stigmator == (0.0, 0.0)


@pytest.mark.parametrize(("sigma", "place"), [(-0.1, 15.0), (math.nan, 15.0), (0.1, math.inf), (0.1, "15 mm")])
def test_a_stigmator_is_known_by_numbers(sigma, place):
    with pytest.raises((InvalidParameterError, OutOfRangeError), match=r"sigma|working_distance"):
        StigmatorCalibration("m", "s", "2026-01-01", ((1.0, 0.0), (0.0, 1.0)), sigma, 9, place)


@pytest.mark.parametrize("matrix", [((1.0, 1.0), (1.0, 1.0)), ((1.0,),), ((math.nan, 0.0), (0.0, 1.0)), "text"])
def test_a_matrix_without_an_inverse_is_none(matrix):
    with pytest.raises(InvalidParameterError, match="matrix"):
        StigmatorCalibration("m", "s", "2026-01-01", matrix, 0.1, 9)
