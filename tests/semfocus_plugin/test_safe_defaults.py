"""What a first user relies on: a stated travel, files that are kept, a schema that holds, scores by the right size."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

import semdrivers
from semdrivers import instruments
from semfocus_plugin.lab.cli import app

URL = "emulator://featureless?seed=1&magnification=1000&working_distance=12"
RANDOM = np.random.default_rng(1).integers(0, 256, (240, 320)).astype(np.uint8)


def semfocus(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def travels(foreign_settings):
    """Return what a run is configured to travel, by its options."""

    def travel(*options):
        foreign_settings.clear()
        semfocus("run", URL, "--method", "test-travel", *options)
        return foreign_settings[0]

    return travel


@pytest.fixture
def foreign_settings(offer_method):
    seen = []

    def focus(microscope, settings, progress, cancel):
        seen.append(settings.max_travel)
        return {"status": "refused"}

    offer_method(focus, "test-travel")
    return seen


def test_the_default_travel_is_the_larger_of_3_mm_and_60_depths_of_field(travels):
    assert travels("--magnification", 20000) == 3.0
    depth_of_field = np.hypot(0.4 / 1000, 10e-6) / (0.045 / 12)
    assert travels("--magnification", 1000) == pytest.approx(60 * depth_of_field, rel=1e-3)
    assert travels("--max-travel", 1.5) == 1.5
    assert travels("--anywhere") is None
    found = semfocus("run", URL, "--anywhere", "--max-travel", 1)
    assert found.exit_code == 2
    assert "--anywhere and --max-travel" in found.stderr


def test_a_featureless_field_never_drives_the_lens_beyond_the_default_travel(tiny_models):
    found = semfocus("run", URL, "--magnification", 10000, "--json")
    told = json.loads(found.stdout)
    assert told["status"] == "refused"
    assert max(abs(step["working_distance"] - told["start_working_distance"]) for step in told["trace"]) <= 3.001


def test_help_says_the_default_travel():
    text = " ".join(semfocus("run", "--help").stdout.replace("│", " ").split())
    assert "the larger of 3 mm and 60 depths of field" in text


@pytest.mark.parametrize("option", ["--save a.ome.tif", "--record a.json", "--plot a.png"])
def test_a_run_never_replaces_a_file_and_says_so_before_the_lens_moves(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / option.split()[1]
    path.write_bytes(b"precious")
    found = semfocus("run", "em30://nowhere.invalid", *option.split())
    assert found.exit_code == 2  # 4 would be the link, which was not tried
    assert "exists already and is kept" in found.stderr
    assert path.read_bytes() == b"precious"


def test_the_schema_describes_every_field_of_the_answer(tiny_models):
    schema = json.loads(semfocus("run", "--json-schema").stdout)
    told = json.loads(semfocus("run", URL, "--max-frames", 3, "--json").stdout)
    steps = schema["properties"]["trace"]["items"]
    assert list(schema["properties"]) == list(told)
    assert all(list(steps["properties"]) == list(step) for step in told["trace"])
    described = [*schema["properties"].values(), *steps["properties"].values()]
    assert all(each["description"] for each in described)
    assert "mm" in steps["properties"]["working_distance"]["description"]
    times = [step["time"] for step in told["trace"]]
    assert times == sorted(times)
    assert times[0] >= 0


def test_no_link_is_exit_code_4_and_an_object():
    found = semfocus("run", "em30://127.0.0.1:1", "--json")
    assert found.exit_code == 4
    assert json.loads(found.stdout)["error"]["type"] == "NotConnectedError"


def scores(*arguments):
    found = semfocus("score", *arguments, "--json")
    return found, json.loads(found.stdout)["pictures"]


def test_a_pictures_own_magnification_is_never_overridden_in_silence(tiny_models, tmp_path):
    path = semdrivers.Image(RANDOM, 12.0, 4000.0, 100.0).save(tmp_path / "own.ome.tif")
    found, (row,) = scores(path, "--magnification", 1000)
    assert row["magnification"] == 4000.0
    assert "the file says 4000×, which is used" in found.stderr
    found, (row,) = scores(path, "--magnification", 1000, "--override")
    assert row["magnification"] == 1000.0
    assert found.stderr == ""


def test_a_picture_without_a_size_takes_pixel_size_or_field_width(tiny_models, tmp_path):
    path = tmp_path / "bare.png"
    Pillow.fromarray(RANDOM).save(path)
    assert scores(path, "--pixel-size", 100)[1][0]["magnification"] == pytest.approx(4000)
    assert scores(path, "--hfw", 32)[1][0]["magnification"] == pytest.approx(4000)
    assert semfocus("score", path, "--hfw", 32, "--pixel-size", 100).exit_code == 2
    assert semfocus("score", path, "--hfw", 0).exit_code == 2
    assert "--pixel-size or --hfw" in semfocus("score", path).stderr


def test_a_picture_that_is_too_small_is_named(tiny_models, tmp_path):
    path = tmp_path / "small.png"
    Pillow.fromarray(RANDOM[:100]).save(path)
    assert "small.png" in semfocus("score", path, "--magnification", 1000).stderr


def test_config_shows_instruments_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv(instruments.SETTINGS_VARIABLE, str(tmp_path))
    instruments.add_instrument("lab-sem", instruments.Instrument("em30://192.168.1.30", max_travel=2.0))
    told = json.loads(semfocus("config", "show", "--json").stdout)
    assert told["instruments"]["lab-sem"]["max_travel"] == 2.0
    assert told["variables"][instruments.SETTINGS_VARIABLE] == str(tmp_path)
    assert "em30://192.168.1.30, travel up to 2 mm" in semfocus("config", "show").stdout
    monkeypatch.setenv("SEMFOCUS_TOKEN", "a secret")
    shown = semfocus("config", "show").stdout
    assert "SEMFOCUS_TOKEN" in shown
    assert "a secret" not in shown


def test_config_knows_every_variable():
    root = Path(__file__).parents[2]
    source = "".join(
        path.read_text() for folder in ("semdrivers", "semfocus_plugin") for path in (root / folder).rglob("*.py")
    )
    named = set(re.findall(r'"(SEM(?:DRIVERS|FOCUS)_[A-Z]+)"', source))
    assert set(json.loads(semfocus("config", "show", "--json").stdout)["variables"]) == named


def test_a_pipe_gets_a_line_a_frame_and_a_last_line_end(tmp_path):
    command = [sys.executable, "-c", "from semfocus_plugin.lab.cli import main; main()"]
    done = subprocess.run(
        [*command, "run", URL, "--max-frames", "3", "--log-file", "night.log"],
        capture_output=True, text=True, encoding="utf-8", timeout=60, cwd=tmp_path,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert lines[0].split() == ["frame", "phase", "working", "distance", "magnification", "score"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert all(len(line) <= 80 for line in lines[:4])
    assert done.stderr.endswith("\n")
    assert done.stdout.count("\n") == 1
    log = (tmp_path / "night.log").read_text(encoding="utf-8")
    assert "INFO semdrivers.connection: connected to emulator://featureless" in log
    assert "INFO semdrivers.autofocus: autofocus refused at" in log
