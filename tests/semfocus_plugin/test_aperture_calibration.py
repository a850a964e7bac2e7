"""Calibration: the emulator's aperture found, the instrument put back, the file kept and read."""

from __future__ import annotations

import dataclasses
import json
import re
import threading

import numpy as np
import pytest
from typer.testing import CliRunner

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers.emulator import Emulator
from semdrivers.errors import AutofocusError, InvalidParameterError, ModelError, OutOfRangeError
from semfocus_plugin import calibration
from semfocus_plugin.calibration import RADII, blur, fit_aperture
from semfocus_plugin.lab.cli import app
from semfocus_plugin.optics import UNKNOWN, LearnedAperture, depth_of_field

FOUND = calibration.Calibration(
    model="EM-30",
    serial="EMU000003",
    firmware="1.0.0",
    date="2026-01-01T00:00:00+00:00",
    aperture=0.045,
    aperture_sigma=0.002,
    working_distance=15.0,
    magnification=3000.0,
    pixel=400e3 / 3000,
    residual=0.05,
    frames=21,
)


@pytest.fixture(autouse=True)
def kept_apart(tmp_path, monkeypatch):
    """A folder of calibrations of the test's own."""
    monkeypatch.setenv(calibration.CALIBRATION_VARIABLE, str(tmp_path / "calibrations"))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_the_aperture_is_found_within_a_tenth_and_the_start_restored(scale):
    profile = dataclasses.replace(EM30, aperture_radius=EM30.aperture_radius * scale)
    with (
        Emulator("tin-balls", magnification=3000, seed=12, profile=profile) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        start, best = microscope.working_distance, emulator.truth.working_distance
        found = calibration.calibrate(microscope, magnification=1500)
        assert microscope.working_distance == start
        assert microscope.magnification == 3000
    assert found.aperture == pytest.approx(0.045 * scale, rel=0.1)
    assert found.half_angle == pytest.approx(45 * scale / found.working_distance, rel=0.1)
    assert found.working_distance == pytest.approx(best, abs=found.depth_of_field)
    assert 0.02 < found.aperture_sigma / found.aperture < 0.1
    assert found.serial == "EMU000012"
    assert found.magnification == 1500


def test_a_featureless_field_is_refused_and_the_start_restored():
    with semdrivers.connect("emulator://featureless?seed=1") as microscope:
        start = microscope.working_distance
        with pytest.raises(AutofocusError, match="without focus"):
            calibration.calibrate(microscope, magnification=2000)
        assert (microscope.working_distance, microscope.magnification) == (start, 5000)


def test_limits_hold_for_the_series_and_too_tight_ones_are_refused():
    places = []
    with semdrivers.connect("emulator://fabric?seed=3&magnification=3000") as microscope:
        start = microscope.working_distance
        settings = semdrivers.AutofocusSettings(bounds=(start - 0.5, start + 0.6), max_travel=0.55)
        with pytest.raises(AutofocusError, match="widen bounds"):
            calibration.calibrate(
                microscope,
                magnification=1000,
                settings=dataclasses.replace(settings, max_travel=0.5),
                progress=lambda step: places.append(step.working_distance),
            )
        assert (microscope.working_distance, microscope.magnification) == (start, 3000)
        assert start - 0.5 <= min(places) <= max(places) <= start + 0.5


def test_a_cancel_between_two_frames_puts_everything_back():
    cancel = threading.Event()
    with semdrivers.connect("emulator://fabric?seed=3&magnification=3000") as microscope:
        start = microscope.working_distance

        def after_a_while(step):
            if step.phase == "series":
                cancel.set()

        with pytest.raises(calibration.CalibrationCancelled):
            calibration.calibrate(microscope, magnification=2500, progress=after_a_while, cancel=cancel)
        assert (microscope.working_distance, microscope.magnification) == (start, 3000)


def test_what_cannot_work_is_refused_before_anything_moves(simulate):
    microscope, networks = simulate(1)
    with pytest.raises(ModelError, match="reports no blur"):
        calibration.calibrate(microscope, networks=networks)
    _, networks = simulate(1, blur_range=60.0)
    with pytest.raises(OutOfRangeError, match="magnification"):
        calibration.calibrate(microscope, magnification=1e9, networks=networks)
    with pytest.raises(OutOfRangeError, match=r"probe_diameter must be within 0\.1 to 1000 nm"):
        calibration.calibrate(microscope, probe_diameter=0.0, networks=networks)
    assert microscope.sent == []


def test_a_probe_core_that_was_told_scales_score_and_depth_of_field():
    fine = dataclasses.replace(EM30, gun_brightness=1e8, energy_spread=0.7, chromatic_aberration=2.0)
    results = {}
    with (
        Emulator("gold-nanoparticles", magnification=40_000, seed=5, profile=fine) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        info = microscope.capabilities
        for core in (None, 3.0):
            kept = dataclasses.replace(FOUND, model=info.model, serial=info.serial, probe_diameter=core)
            calibration.save(kept)
            microscope.working_distance = emulator.truth.working_distance + 6 * emulator.truth.depth_of_field
            results[core] = microscope.autofocus(max_frames=1).trace[0].score, emulator.truth.score
    assert results[None][0] > results[None][1] + 2
    assert results[3.0][0] == pytest.approx(results[3.0][1], abs=1)
    pixel = 400e3 / 40_000
    known = dataclasses.replace(FOUND, probe_diameter=3.0, pixel=pixel)
    unknown = dataclasses.replace(known, probe_diameter=None)
    for kept, core in ((known, 3e-6), (unknown, UNKNOWN)):
        assert kept.depth_of_field == pytest.approx(depth_of_field(pixel * 1e-6, core, kept.half_angle * 1e-3))


def test_a_series_of_exact_blurs_gives_the_exact_aperture():
    pixel, aperture, best = 1e-4, 0.08, 12.3
    places = best + np.linspace(-0.3, 0.3, 14)
    told = np.log1p(aperture * np.abs(places - best) / (places * pixel))
    told[3] += 2.0
    found = fit_aperture(places, told, pixel)
    assert found.aperture == pytest.approx(aperture, rel=0.02)
    assert found.working_distance == pytest.approx(best, abs=1e-3)
    assert fit_aperture(places, 1.2 * told, pixel, 1.2 * np.log1p(RADII)).aperture == pytest.approx(aperture, rel=0.03)


@pytest.mark.parametrize("radius", [1.5, 4.0, 11.0])
def test_a_disc_has_its_radius(radius):
    point = np.zeros((81, 81))
    point[40, 40] = 1.0
    seen = blur(point, radius)
    across = np.arange(81) - 40
    assert seen.sum() == pytest.approx(1)
    assert float((seen * (across**2 + across[:, None] ** 2)).sum()) == pytest.approx(radius**2 / 2, rel=0.02)


def test_a_calibration_is_kept_under_its_instrument():
    info = semdrivers.Capabilities(
        semdrivers.Range(1, 50), semdrivers.Range(20, 1e5), model="EM-30", serial="EMU000003"
    )
    assert calibration.aperture_for(info) is None
    path = calibration.save(FOUND)
    assert calibration.load(path) == FOUND
    assert calibration.aperture_for(info) == 0.045
    assert calibration.aperture_for(dataclasses.replace(info, serial="EMU000004")) is None
    assert calibration.aperture_for(dataclasses.replace(info, model="", serial="")) is None
    assert list(path.parent.iterdir()) == [path]


def test_one_file_may_be_named_and_is_not_lent_to_another_instrument(tmp_path, monkeypatch):
    nameless = dataclasses.replace(FOUND, model="", serial="")
    info = semdrivers.Capabilities(semdrivers.Range(1, 50), semdrivers.Range(20, 1e5))
    with pytest.raises(InvalidParameterError, match="neither model nor serial"):
        calibration.save(nameless)
    with pytest.raises(InvalidParameterError, match=r"\.json"):
        calibration.save(nameless, tmp_path / "mine.txt")
    path = calibration.save(nameless, tmp_path / "mine.json")
    monkeypatch.setenv(calibration.CALIBRATION_VARIABLE, str(path))
    assert calibration.aperture_for(info) == 0.045
    assert calibration.aperture_for(dataclasses.replace(info, serial="7")) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 2}',
        '{"format": 1}',
        json.dumps({"format": 1, **dataclasses.asdict(FOUND), "aperture": 45.0}),
        json.dumps({"format": 1, **dataclasses.asdict(FOUND), "aperture": "0.045"}),
        json.dumps({"format": 1, **dataclasses.asdict(FOUND), "working_distance": 0}),
        json.dumps({"format": 1, **dataclasses.asdict(FOUND), "probe_diameter": -2}),
    ],
)
def test_a_broken_file_raises_on_load_and_only_warns_in_autofocus(text):
    path = calibration.save(FOUND)
    path.write_text(text)
    with pytest.raises(InvalidParameterError, match="semfocus calibrate"):
        calibration.load(path)
    with pytest.warns(RuntimeWarning, match="without calibration"):
        assert calibration.aperture_for(FOUND) is None


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        calibration.load(tmp_path / "none.json")


NOWHERE = "em30://nowhere.invalid"  # exit code 4 would be the link, which was not tried


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "none/here.json"], "its folder must be there"),
        (["--out", "here.txt"], "must end in .json"),
        (["--plot", "series.bmp"], "must end in .png, .pdf or .svg"),
        (["--out", "kept.json"], "exists already and is kept"),
        (["--stigmator", "--magnification", "3000"], "leave the others out"),
        (["--stigmator", "--plot", "series.png"], "leave the others out"),
        (["--max-travel", "-1"], "max_travel"),
    ],
)
def test_the_command_refuses_what_cannot_be_before_it_connects(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.json").write_text("precious")
    ran = CliRunner().invoke(app, ["calibrate", NOWHERE, *options])
    assert ran.exit_code == 2
    assert words in " ".join(ran.stderr.split())
    assert (tmp_path / "kept.json").read_text() == "precious"


def test_the_command_shows_from_which_beam_the_next_run_starts(tmp_path, monkeypatch):
    with Emulator("tin-balls", magnification=3000, seed=1) as emulator:

        def shown(*options):
            ran = CliRunner().invoke(app, ["calibrate", emulator.url, "--show", *options])
            assert ran.exit_code == 0, ran.output
            return ran.stdout

        def told():
            return json.loads(shown("--json"))

        with semdrivers.connect(emulator.url) as microscope:
            info, place = microscope.capabilities, microscope.working_distance
        nominal = told()
        assert (nominal["source"], nominal["sigma"], nominal["learning"]) == ("nominal", None, False)
        assert nominal["working_distance"] == place
        monkeypatch.setenv(calibration.LEARNING_VARIABLE, str(tmp_path / "learned"))
        store = calibration.apertures_in_use()
        store.put(nominal["instrument"], LearnedAperture(60e-3 / place, place, 0.1, 3))
        learned = told()
        assert (learned["source"], learned["learning"]) == ("learned in 3 runs", True)
        assert learned["half_angle"] == pytest.approx(60.0 / place, rel=0.01)
        calibration.save(dataclasses.replace(FOUND, model=info.model, serial=info.serial))
        line = rf"half-angle +{45.0 / place:.2f} ± \d\.\d\d mrad at {place:.3f} mm, calibrated"
        assert re.search(line, shown())


@pytest.mark.slow
def test_the_command_keeps_a_file_and_prints_one_object(tmp_path):
    out = tmp_path / "here.json"
    url = "emulator://tin-balls?seed=12&magnification=1500"
    asked = ["calibrate", url, "--out", str(out), "--probe-diameter", "36", "--json", "--plot", str(tmp_path / "a.png")]
    ran = CliRunner().invoke(app, asked)
    told = json.loads(ran.stdout)
    assert ran.exit_code == 0
    assert told["file"] == str(out)
    assert told["probe_diameter"] == 36.0
    assert calibration.load(out).aperture == told["aperture"] == pytest.approx(0.045, rel=0.1)
    assert told["depth_of_field"] == pytest.approx(0.0885, rel=0.25)
    kept = calibration.load(out)
    assert len(kept.series) == 14
    for place, radius in kept.series:
        cone = kept.aperture * abs(place - kept.working_distance) / place / (kept.pixel * 1e-6)
        assert radius == pytest.approx(cone, abs=0.25 * cone + 1)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    ran = CliRunner().invoke(app, ["calibrate", url, "--plot", str(tmp_path / "a.png")])
    assert (ran.exit_code, "a.png" in ran.stderr) == (2, True)
    ran = CliRunner().invoke(app, ["calibrate", url, "--out", str(tmp_path / "here.txt")])
    assert ran.exit_code == 2
    assert ".json" in ran.stderr


@pytest.mark.slow
def test_the_command_prints_what_was_measured_and_where_it_is_kept(tmp_path):
    url = "emulator://tin-balls?seed=12&magnification=1500"
    aperture, matrix = tmp_path / "aperture.json", tmp_path / "stigmator.json"
    ran = CliRunner().invoke(app, ["calibrate", url, "--out", str(aperture)])
    assert ran.exit_code == 0, ran.output
    radius = calibration.load(aperture).aperture * 1e3
    assert re.search(rf"aperture radius +{radius:.1f} ± ", ran.stdout)
    assert "aperture.json" in "".join(ran.stdout.split())
    ran = CliRunner().invoke(app, ["calibrate", url, "--stigmator", "--out", str(matrix)])
    assert ran.exit_code == 0, ran.output
    turns = [
        float(each) for each in re.findall(r"a unit of axis [xy] +adds .* µm of astigmatism at (\d+)°", ran.stdout)
    ]
    assert len(turns) == 2
    (a, _), (c, _) = json.loads(matrix.read_text())["matrix"]
    assert turns[0] == pytest.approx(np.degrees(0.5 * np.arctan2(c, a)) % 180, abs=1)
