"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.main import get_command
from typer.testing import CliRunner

import semdrivers
from semdrivers._cli import app as semdrivers_app
from semdrivers.emulator import Emulator
from semfocus_plugin.cli import bar
from semfocus_plugin.lab.cli import app

COMMANDS = ("demo", "run", "score", "models", "calibrate", "label")
NOWHERE = "em30://nowhere.invalid"
LABORATORY = ("evaluate", "benchmark", "reproduce", "speed", "dataset", "train", "lab")


def semfocus(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("command", [*COMMANDS, *LABORATORY])
def test_every_command_has_help_with_an_example(command):
    found = semfocus(command, "--help")
    assert found.exit_code == 0
    if command not in ("train", "lab"):
        assert "Example" in found.stdout


def test_models_are_listed_and_verified(tiny_models):
    told = json.loads(semfocus("models", "--verify", "--json").stdout)
    assert [model["name"] for model in told["models"]] == ["aenet", "acnet"]
    assert {"dual-network", "paper"} <= set(told["methods"])
    assert "2 models verified" in semfocus("models", "--verify").stdout
    (tiny_models / "aenet.onnx").write_bytes(b"")
    found = semfocus("models", "--verify")
    assert found.exit_code == 1
    assert "SHA-256" in found.stderr


def test_pictures_are_scored_and_bad_ones_named(tiny_models, tmp_path):
    good, small, no_picture = tmp_path / "good.png", tmp_path / "small.png", tmp_path / "text.png"
    pixels = np.random.default_rng(1).integers(0, 256, (240, 320)).astype(np.uint8)
    Pillow.fromarray(pixels).save(good)
    Pillow.fromarray(pixels[:100]).save(small)
    no_picture.write_text("hello")
    found = semfocus("score", good, "--magnification", 1000, "--json")
    assert found.exit_code == 0
    assert 0 <= json.loads(found.stdout)["pictures"][0]["score"] <= 9
    found = semfocus("score", good, small, no_picture, tmp_path / "none.png", "--magnification", 1000)
    assert found.exit_code == 1
    assert "good" in "".join(found.stdout.split())
    for words in ("320×100", "no picture", "no such file"):
        assert words in found.stderr
    found = semfocus("score", good)
    assert found.exit_code == 1
    assert "--magnification" in found.stderr


def test_run_tells_status_by_exit_code_and_files(tiny_models, tmp_path):
    record, plot = tmp_path / "run.json", tmp_path / "run.png"
    url = "emulator://featureless?seed=1"
    found = semfocus("run", url, "--method", "dual-network", "--record", record, "--plot", plot, "--json")
    told = json.loads(found.stdout)
    assert told["status"] == "refused"
    assert found.exit_code == 3
    assert told["working_distance"] == told["start_working_distance"]
    assert json.loads(record.read_text())["frames"] == len(told["trace"])
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nope://x"], "unknown scheme"),
        (["emulator://tinballs"], "tin-balls"),
        (["emulator://fabric", "--method", "guess"], "guess"),
        (["em30://127.0.0.1:1", "--method", "guess"], "guess"),  # nobody is there, and nobody is asked
        (["emulator://fabric", "--bounds", "20", "10"], "low < high"),
        (["emulator://fabric", "--max-travel", "-1"], "max_travel"),
        (["emulator://fabric", "--max-frames", "0"], "max_frames"),
        (["emulator://fabric", "--magnification", "1e9"], "agnification"),
        (["emulator://fabric", "--save", "picture.png"], "must end in"),
        (["emulator://fabric", "--record", "no/such/folder/a.json"], "there is no folder"),
    ],
)
def test_run_names_what_is_wrong_in_one_message(tiny_models, options, words):
    found = semfocus("run", *options)
    assert found.exit_code == 2
    assert words in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_recorded_run_gives_the_same_result_again(tiny_models, tmp_path):
    options = ("--method", "dual-network", "--max-frames", 6, "--json")
    first = semfocus("run", "emulator://featureless?seed=1", *options, "--save-session", tmp_path / "session")
    again = semfocus("run", f"replay://{tmp_path.as_posix()}/session", *options)
    first, again = json.loads(first.stdout), json.loads(again.stdout)
    for told in (first, again):
        del told["elapsed"], told["provenance"]["time"]
        assert all(step.pop("time") >= 0 for step in told["trace"])
    assert first == again
    assert len(list((tmp_path / "session").glob("*.ome.tif"))) == first["frames"]
    found = semfocus("run", "emulator://featureless", "--save-session", tmp_path / "session")
    assert found.exit_code == 2
    assert "in use already" in found.stderr


def test_ctrl_c_cancels_and_puts_the_lens_back(tiny_models):
    script = (
        "import os, signal, sys, semdrivers\n"
        "from semfocus_plugin import cli\n"
        "add = cli.FrameTable.add\n"
        "def interrupting(table, step):\n"
        "    add(table, step)\n"
        "    if step.index == 1: os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.FrameTable.add = interrupting\n"
        "cli.app(['run', 'emulator://fabric?seed=1', '--method', 'dual-network'])\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert found.returncode == 130, found.stderr
    assert "cancelled" in found.stdout
    place, start = found.stdout.split(" at ")[1].split(" mm (from ")
    assert place == start.split(" mm")[0]


@pytest.mark.slow
def test_demo_writes_its_files_and_one_object(tiny_models, tmp_path):
    found = semfocus("demo", "--json", "--out", tmp_path / "demo", "--seed", 2)
    told = json.loads(found.stdout)
    keys = {
        "status",
        "working_distance",
        "true_working_distance",
        "error_depths_of_field",
        "score",
        "frames",
        "specimen",
        "magnification",
        "seed",
    }
    assert keys <= set(told)
    assert "trace" not in told
    good = told["status"] == "focused" and told["error_depths_of_field"] <= 2
    assert found.exit_code == (0 if good else 1 if told["status"] == "focused" else 3)
    for path in told["files"]:
        assert os.path.getsize(path) > 100
    names = {os.path.basename(path) for path in told["files"]}
    assert {"result.json", "score.png", "before-after.png"} <= names
    before = {path: path.read_bytes() for path in (tmp_path / "demo").iterdir()}
    found = semfocus("demo", "--out", tmp_path / "demo", "--seed", 3)
    assert found.exit_code == 2
    assert "exists already and is kept" in found.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "demo").iterdir()} == before
    stale = tmp_path / "demo" / "sharp.ome.tif"
    stale.write_bytes(b"of an earlier demonstration")
    found = semfocus("demo", "--out", tmp_path / "demo", "--seed", 3, "--max-frames", 1, "--overwrite", "--json")
    assert json.loads(found.stdout)["status"] == "refused"
    assert found.exit_code == 3
    assert not stale.exists()


@pytest.mark.slow
def test_evaluate_writes_table_and_json(tiny_models, tmp_path):
    table = tmp_path / "table.md"
    options = ["--runs", 1, "--specimen", "tin-balls", "--method", "dual-network", "--workers", 1]
    found = semfocus("evaluate", *options, "--out", table, "--json")
    told = json.loads(found.stdout)
    assert found.exit_code == 0
    assert told["rows"][0]["runs"] == 1
    assert len(told["records"]) == 1
    assert "| tin-balls | 1 |" in table.read_text(encoding="utf-8")
    found = semfocus("evaluate", *options, "--out", table)
    assert found.exit_code == 2
    assert "exists already and is kept" in found.stderr
    found = semfocus("evaluate", "--specimen", "tinballs")
    assert found.exit_code == 2
    assert "neither a specimen" in found.stderr


@pytest.mark.slow
def test_benchmark_measures_every_part(tiny_models):
    told = json.loads(semfocus("speed", "--seconds", 0.01, "--json").stdout)
    names = " ".join(figure["name"] for figure in told["figures"])
    for part in ("preprocessing", "AENet", "ACNet", "state", "ping", "control", "USB", "FAST"):
        assert part in names
    assert all(figure["median"] > 0 for figure in told["figures"])


def test_training_without_torch_says_what_to_install(tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from semfocus_plugin.lab.cli import app\n"
        f"app(['train', 'aenet', {str(tmp_path)!r}, '-o', {str(tmp_path / 'out')!r}])\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert "pip install '.[train]'" in found.stderr


def test_dataset_checks_its_options(tmp_path):
    found = semfocus("dataset", tmp_path / "data", "--kind", "paintings")
    assert found.exit_code == 2
    assert "paintings" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "a.png", "--hfw", "32", "--magnification", "1000"], "--magnification and --hfw say the same"),
        (["score", "a.png", "--override"], "--override needs --magnification, --pixel-size or --hfw"),
        (["score", "a.png", "--pixel-size", "-1"], "--pixel-size must be above 0"),
        (["view", NOWHERE, "--shortcut", "a.txt"], "must end in .desktop, or on Windows in .cmd"),
        (["view", "em30://a\nb", "--shortcut", "a.desktop"], "a shortcut cannot hold"),
        (["serve", NOWHERE, "--labels", "none.csv"], "there is no such file"),
        (["report", ".", "-o", "report.txt"], "the name of a report ends in .html"),
        (["report", "."], "there is no result of an autofocus run"),
        (["report", "none.json"], "none.json"),
        (["report", "none.json", "--json"], "none.json"),
        (["calibrate", NOWHERE, "--stigmator", "--magnification", "1000"], "leave the others out"),
        (["calibrate", NOWHERE, "--plot", "a.gif"], "--plot a.gif: the name must end in"),
        (["report", "list.json"], "it is no result of an autofocus run"),
        (["tile", NOWHERE, "-o", "night", "--grid", "2x2", "--method", "guess"], "guess"),
        (
            ["tile", NOWHERE, "-o", "night", "--grid", "2x2", "--focus-region", "0,0,1"],
            "--focus-region must be 4 numbers",
        ),
        (
            ["tile", NOWHERE, "-o", "night", "--grid", "2x2", "--focus-offset", "near,by"],
            "--focus-offset must be 2 numbers",
        ),
        (["tile", NOWHERE, "-o", "night", "--grid", "2x2", "--overlap", "1"], "overlap"),
    ],
)
def test_what_cannot_be_is_named_before_anything_is_opened_or_written(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[]")
    Pillow.fromarray(np.zeros((240, 320), np.uint8)).save(tmp_path / "a.png")
    found = semfocus(*arguments)
    assert found.exit_code in (1, 2)  # 4 would be the link, which was not tried
    assert words in " ".join(found.stderr.split())
    assert {path.name for path in tmp_path.iterdir()} == {"list.json", "a.png"}


def test_bar_is_full_for_one_and_empty_for_nothing():
    assert bar(0.0) == ""
    assert set(bar(1.0)) == {"█"}
    assert len(bar(2.0)) == len(bar(1.0)) > len(bar(0.5)) > 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("evaluate --table 1", "semfocus reproduce"),
        ("evaluate --figure=3 --history folder", "semfocus reproduce"),
        ("benchmark --speed --seconds 1", "semfocus speed"),
        ("train aenet --finetune --data labels.csv -o tuned", "semfocus train finetune"),
        ("label night --disagreements --threshold 2", "semfocus label compare"),
    ],
)
def test_an_option_that_became_a_command_names_it(old, new):
    ran = semfocus(*old.split())
    assert ran.exit_code == 2
    assert f"is a command now: {new}" in " ".join(ran.stderr.replace("│", " ").split())


def test_help_names_the_products_commands_first_and_says_what_values_are():
    text = semfocus("--help").stdout
    places = [text.index(f" {name} ") for name in ("demo", "run", "calibrate")]
    assert places == sorted(places)
    assert max(places) < text.index("Laboratory") < min(text.index(f"│ {name} ") for name in LABORATORY)


def commands(group):
    for name, command in group.commands.items():
        yield name, command
        yield from commands(command) if hasattr(command, "commands") else ()


def test_no_help_text_begins_in_the_middle_of_a_sentence():
    for name, command in commands(get_command(app)):
        for parameter in command.params:
            text = getattr(parameter, "help", None) or ""
            assert not text.startswith(("Of ", "With ")), f"{name} {parameter.name}: {text}"
            assert text.endswith((".", ")")) or parameter.name == "help", f"{name} {parameter.name}: {text}"


@pytest.mark.parametrize("url", ["em30://192.168.1.30", 'emulator://tin-balls?seed=1&faults=usb%2Ddrop@2 $`"\\'])
def test_a_shortcut_runs_the_same_command_whatever_its_address_holds(tmp_path, url):
    path = tmp_path / "lab sem.desktop"
    assert semfocus("view", url, "--tiles", tmp_path / "night", "--shortcut", path).exit_code == 0
    entry = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    # A key file first takes one of two backslashes; of an Exec line, the rules of a shell within double quotes.
    line = entry["Exec"].replace("\\\\", "\\").replace("%%", "%").replace("\\$", "$").replace("\\`", "`")
    words = shlex.split(line)
    assert words[0].endswith("semfocus")
    assert words[1:] == ["view", url, "--port", "8765", "--tiles", str(tmp_path / "night")]
    assert entry["Name"] == "lab sem"
    assert os.access(path, os.X_OK) or os.name == "nt"
    assert semfocus("view", url, "--shortcut", path).exit_code == 2  # nothing is replaced


def test_a_shortcut_for_windows_is_a_batch_file(tmp_path):
    path = tmp_path / "sem.cmd"
    assert semfocus("view", "emulator://tin-balls?faults=usb%2Ddrop", "--shortcut", path).exit_code == 0
    text = path.read_bytes().decode()
    assert '"emulator://tin-balls?faults=usb%%2Ddrop"' in text
    assert text.endswith("\r\npause\r\n")
    assert semfocus("view", 'em30://a"b', "--shortcut", tmp_path / "other.cmd").exit_code == 2
    assert semfocus("view", "em30://a", "--shortcut", tmp_path / "sem.lnk").exit_code == 2


def test_a_value_that_is_refused_leaves_the_beam_to_whoever_works_there(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("a")
    with Emulator("tin-balls", seed=3, magnification=5000) as emulator:
        for product, words in (
            (app, ["run", emulator.url, "--magnification", "0"]),
            (app, ["run", emulator.url, "--save-session", tmp_path / "kept"]),
            (app, ["tile", emulator.url, "--no-mosaic", "--grid", "2x2", "-o", tmp_path / "t", "--overlap", "1.5"]),
            (app, ["tile", emulator.url, "--no-mosaic", "--grid", "2x2", "-o", tmp_path / "t", "--mode", "quick"]),
            (semdrivers_app, ["snap", emulator.url, "-o", tmp_path / "a.tif", "--working-distance", "999"]),
            (app, ["tile", emulator.url, "--no-mosaic", "--grid", "2x2", "-o", tmp_path / "kept"]),
            (semdrivers_app, ["snap", emulator.url, "-o", tmp_path / "a.tif", "--mode", "quick"]),
            (semdrivers_app, ["record-series", emulator.url, "-o", tmp_path / "s", "--mode", "quick"]),
            (semdrivers_app, ["record-series", emulator.url, "-o", tmp_path / "s", "--planes", "1"]),
            (semdrivers_app, ["record-series", emulator.url, "-o", tmp_path / "kept"]),
        ):
            assert CliRunner().invoke(product, [str(word) for word in words]).exit_code == 2, words
            with semdrivers.connect(emulator.url) as microscope:
                assert microscope.beam_on, words
        assert not (tmp_path / "t").exists()
        with pytest.raises(ZeroDivisionError), semdrivers.opened(emulator.url):
            raise ZeroDivisionError
        with semdrivers.connect(emulator.url) as microscope:
            assert not microscope.beam_on
