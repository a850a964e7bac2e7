"""The command line over a foreign microscope: answers on stdout, errors in one line, exit codes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers._cli import app
from semdrivers.plugins import get_plugin_manager

URL = "command-line-test://here"


@pytest.fixture
def microscope(foreign):
    """Make `connect` hand out the foreign microscope, and an autofocus that ends as the test wants."""
    foreign.ending = "focused"

    class Plugin:
        @semdrivers.hookimpl
        def semdrivers_connect(self, url, options):
            return foreign if url == URL else None

        @semdrivers.hookimpl(tryfirst=True)
        def semdrivers_autofocus(self, microscope, settings, progress, cancel):
            if isinstance(foreign.ending, BaseException):
                raise foreign.ending
            microscope.working_distance = 13.0
            image = microscope.acquire()
            progress(semdrivers.FocusStep(0, "search", 13.0, image.magnification, 8.0, 0.1, 5.0))
            return semdrivers.AutofocusResult(
                status=foreign.ending, reason="as the test wants", working_distance=13.0, start_working_distance=12.0,
                score=8.0, confidence=0.9, frames=1, elapsed=0.1, method="test",
            )  # fmt: skip

    plugin = Plugin()
    get_plugin_manager().register(plugin, "command-line-test")
    yield foreign
    get_plugin_manager().unregister(plugin)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_info_for_people(microscope):
    done = run("info", URL)
    assert done.exit_code == 0
    assert "12 mm" in done.stdout
    assert "5 to 30 mm" in done.stdout
    assert "fast 320×240" in done.stdout
    assert microscope.closed


@pytest.mark.parametrize("url", ["emulator://tin-balls?seed=1", "tescan-emulator://tin-balls?seed=1"])
def test_info_prints_every_value_that_an_instrument_reports(url):
    done = run("info", url)
    assert done.exit_code == 0, done.exception
    shown, told = " ".join(done.stdout.split()), json.loads(run("info", url, "--json").stdout)
    limits = told["stigmator"]
    expected = "not reported" if limits is None else f"{limits['minimum']:g} to {limits['maximum']:g}"
    assert f"stigmator {expected}" in shown
    assert ("stigmator matrix not reported" in shown) == (told["stigmator_matrix"] is None)


def test_info_for_programs(microscope):
    told = json.loads(run("info", URL, "--json").stdout)
    assert told["working_distance"] == 12.0
    assert told["limits"]["working_distance"] == {"minimum": 5.0, "maximum": 30.0, "step": 0.001}
    assert told["scan_modes"] == [{"name": "fast", "width": 320, "height": 240}]
    assert told["offers"] == []
    assert told["verified_on"] is None


def test_info_without_an_address_lists_what_could_be_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMDRIVERS_SETTINGS", str(tmp_path))
    assert "none yet" in run("info").stdout
    assert run("instrument", "add", "lab-sem", "em30://192.168.1.30", "--max-travel", 2).exit_code == 0
    told = " ".join(run("info").stdout.split())
    assert "lab-sem em30://192.168.1.30, travel up to 2 mm" in told
    assert "emulator://tin-balls?seed=1" in told
    listed = json.loads(run("info", "--json").stdout)
    assert listed["instruments"]["lab-sem"]["max_travel"] == 2
    assert listed["schemes"]["em30"].startswith("em30://")


def test_info_reports_what_nobody_has_run_yet():
    from semdrivers.emulator import TescanEmulator

    with TescanEmulator(seed=1) as emulator:
        assert "its emulator; not run on an instrument" in " ".join(run("info", emulator.url).stdout.split())


def test_snap_writes_the_picture(microscope, tmp_path):
    path = tmp_path / "a.ome.tif"
    done = run("snap", URL, "-o", path, "--mode", "fast", "--magnification", 4000, "--working-distance", 14, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["path"] == str(path)
    assert told["shape"] == [240, 320]
    image = semdrivers.read_image(path)
    assert (image.working_distance, image.magnification) == (14.0, 4000.0)
    assert microscope.closed


def test_snap_focuses_first(microscope, tmp_path):
    path = tmp_path / "a.ome.tif"
    done = run("snap", URL, "-o", path, "--mode", "fast", "--autofocus")
    assert done.exit_code == 0, done.stderr
    assert "AutofocusResult focused" in done.stdout
    image = semdrivers.read_image(path)
    assert image.working_distance == 13.0
    assert image.metadata["autofocus"]["status"] == "focused"
    assert image.metadata["autofocus"]["lens_offset"] == 0.0


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_refused_autofocus_takes_no_picture(microscope, tmp_path, extra):
    microscope.ending = "refused"
    path = tmp_path / "a.ome.tif"
    done = run("snap", URL, "-o", path, "--autofocus", *extra)
    assert done.exit_code == 3
    assert "autofocus refused: as the test wants; no picture was taken" in " ".join(done.stderr.split())
    assert not path.exists()
    assert microscope.working_distance == 12.0
    assert microscope.closed
    if extra:
        assert json.loads(done.stdout)["autofocus"]["status"] == "refused"


def test_ctrl_c_in_the_middle_restores_and_closes(microscope, tmp_path):
    microscope.ending = KeyboardInterrupt()
    done = run("snap", URL, "-o", tmp_path / "a.ome.tif", "--autofocus")
    assert done.exit_code == 130
    assert microscope.working_distance == 12.0
    assert microscope.closed


def test_an_existing_picture_is_kept_unless_asked(microscope, tmp_path):
    path = tmp_path / "a.ome.tif"
    path.write_bytes(b"precious")
    done = run("snap", URL, "-o", path)
    assert done.exit_code == 2
    assert "exists already and is kept" in done.stderr
    assert path.read_bytes() == b"precious"
    assert microscope.frames == 0
    assert run("snap", URL, "-o", path, "--mode", "fast", "--overwrite").exit_code == 0


@pytest.mark.parametrize("name", ["a.png", "no-such-folder/a.tif"])
def test_a_picture_that_cannot_be_saved_is_known_before_anything_moves(microscope, tmp_path, name):
    done = run("snap", URL, "-o", tmp_path / name, "--magnification", 4000)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --out")
    assert microscope.magnification == 2000.0


def test_a_value_out_of_range_is_one_line_and_the_microscope_is_closed(microscope, tmp_path):
    done = run("snap", URL, "-o", tmp_path / "a.tif", "--working-distance", 99)
    assert done.exit_code == 2
    assert done.stderr == "error: working distance 99 mm is outside 5 to 30 mm\n"
    assert microscope.closed


@pytest.mark.parametrize("command", [["info"], ["check"], ["snap", "-o", "a.tif"]])
def test_a_wrong_address_is_one_error_and_exit_code_2(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(command[0], "tin-balls", *command[1:])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: 'tin-balls' is no address of a microscope")


def test_a_wrong_option_is_exit_code_2():
    assert run("info", "--nonsense").exit_code == 2
    assert run("snap", URL).exit_code == 2
    assert run("nonsense").exit_code == 2


def test_plugins_for_people_and_programs():
    done = run("plugins")
    assert done.exit_code == 0
    assert "builtin" in done.stdout
    assert "semdrivers_connect" in done.stdout
    told = json.loads(run("plugins", "--json").stdout)
    builtin = next(record for record in told["plugins"] if record["name"] == "builtin")
    assert builtin["error"] is None
    assert "tin-balls" in told["specimens"]
    assert "emulator" in told["schemes"]


def test_check_reports_every_check(microscope):
    done = run("check", URL, "--json")
    told = json.loads(done.stdout)
    statuses = {outcome["name"]: outcome["status"] for outcome in told["checks"]}
    assert statuses["working distance moves"] == "passed"
    assert statuses["stage"] == "skipped"
    assert told["failed"] == sum(status == "failed" for status in statuses.values())
    assert done.exit_code == (1 if told["failed"] else 0)
    assert "checks, " in run("check", URL).stdout


@pytest.mark.parametrize("command", [[], ["info"], ["snap"], ["plugins"], ["check"]])
def test_help_has_an_example(command):
    done = run(*command, "--help")
    assert done.exit_code == 0
    if command:
        assert "Example: " in done.stdout


def test_the_version():
    assert run("--version").stdout.strip() == semdrivers.__version__
