"""What is known of an instrument's aperture from run to run."""

from __future__ import annotations

import math

import pytest

from semdrivers import AutofocusSettings, Capabilities, Range
from semfocus_plugin import calibration, methods
from semfocus_plugin import run as loop
from semfocus_plugin.calibration import FileApertures
from semfocus_plugin.optics import SURE, Beam, LearnedAperture, beam_of, learned


class Shelf(dict):
    """A store in memory."""

    put = dict.__setitem__


def capabilities(low: float = 1.0, **fields: object) -> Capabilities:
    return Capabilities(Range(low, 50.0), Range(20, 100_000), **fields)


def test_runs_that_agree_make_it_surer():
    known = learned(Beam(0.006, 15.0, 0.2))
    for _ in range(3):
        known = known.after(Beam(0.006, 15.0, max(0.7 * known.sigma, 0.02)))
    assert known.runs == 4
    assert known.sigma < 0.1
    assert known.half_angle == pytest.approx(0.006)


def test_a_changed_aperture_counts_at_once_and_starts_anew():
    known = LearnedAperture(0.006, 15.0, 0.07, 9)
    changed = known.after(Beam(0.003, 15.0, 0.05))
    assert changed.half_angle == pytest.approx(0.003)
    assert changed.runs == 1
    assert changed.sigma >= 0.15


def test_files_keep_it_and_what_cannot_be_read_is_passed_over(tmp_path):
    store = FileApertures(tmp_path / "learned")
    assert store.get("EM-30_1") is None
    store.put("EM-30_1", LearnedAperture(0.004, 15.0, 0.1, 2))
    assert store.get("EM-30_1") == LearnedAperture(0.004, 15.0, 0.1, 2)
    assert store.get("EM-30_2") is None


@pytest.mark.parametrize("change", [{"runs": "1e999"}, {"half_angle": "1" + "0" * 400}, {"half_angle": "2.0"},
                                    {"at": "0"}, {"at": "-15"}, {"at": "NaN"}, {"sigma": "0"}])  # fmt: skip
def test_a_file_that_states_no_aperture_is_passed_over(tmp_path, change):
    store = FileApertures(tmp_path)
    values = {"half_angle": "0.004", "at": "15.0", "sigma": "0.1", "runs": "2"}
    for changed, known in ((values, LearnedAperture(0.004, 15.0, 0.1, 2)), (values | change, None)):
        text = ", ".join(f'"{name}": {value}' for name, value in changed.items())
        (tmp_path / "EM-30_1.json").write_text(f"{{{text}}}")
        assert store.get("EM-30_1") == known
    (tmp_path / "EM-30_1.json").write_text("[" * 100_000)
    assert store.get("EM-30_1") is None


def test_learning_can_be_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv(calibration.LEARNING_VARIABLE, "OFF")
    assert calibration.apertures_in_use() is None
    monkeypatch.setenv(calibration.LEARNING_VARIABLE, str(tmp_path))
    assert calibration.apertures_in_use().folder == tmp_path


def test_what_the_instrument_reports_counts_where_nothing_was_measured():
    assert beam_of(capabilities(), 10.0) == Beam()
    assert beam_of(capabilities(half_angle=8.0), 10.0) == Beam(0.008, 10.0, 0.1)
    assert beam_of(capabilities(numerical_aperture=0.5), 10.0).half_angle == pytest.approx(math.asin(0.5))
    known = LearnedAperture(0.005, 15.0, 0.1, 3)
    assert beam_of(capabilities(half_angle=8.0), 10.0, None, known).half_angle == 0.005


def test_a_focus_drive_that_runs_below_zero_has_one_angle():
    beam = beam_of(capabilities(low=-5.0), -2.0)
    assert beam.at is None
    assert beam.angle(-3.0) == beam.angle(3.0)


@pytest.mark.parametrize("learn", [True, False])
def test_a_confident_run_keeps_what_it_measured(simulate, learn):
    store = Shelf()
    microscope, networks = simulate(3, blur_range=60.0, peak=8.8)
    microscope.capabilities = Capabilities(microscope.limits, Range(20, 150_000), model="simulated", serial="1")
    chosen = AutofocusSettings(learn_aperture=learn)
    result = loop.run(methods.find("defocus-pair"), microscope, chosen, networks=networks, apertures=store)
    assert result.focused
    assert list(store) == (["simulated_1"] if learn and result.confidence >= SURE else [])
    if store:
        assert store["simulated_1"].half_angle == pytest.approx(0.003, rel=0.5)


@pytest.mark.parametrize(("reported", "used"), [(3.2, 3.0), (1.2, 1.2), (20.0, 20.0)])
def test_what_was_learned_gives_way_to_an_angle_that_the_instrument_reports_otherwise(reported, used):
    known = LearnedAperture(half_angle=3.0e-3, at=10.0, sigma=0.1, runs=4)
    capabilities = Capabilities(Range(2.0, 40.0), Range(100.0, 1e5), half_angle=reported)
    beam = beam_of(capabilities, 10.0, known=known)
    assert float(beam.angle(10.0)) * 1e3 == pytest.approx(used)
