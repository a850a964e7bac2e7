"""``semdrivers new-driver``: the package that it writes passes its own tests at once."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers._cli import app
from semdrivers.conformance import Wire
from semdrivers.scaffold import new_driver

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_what_is_written_passes_its_tests(tmp_path, monkeypatch):
    done = CliRunner().invoke(app, ["new-driver", "bench-sem", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    folder = tmp_path / "bench-sem"
    assert sum(1 for _ in (folder / "src" / "bench_sem" / "fake.py").open()) < 60
    monkeypatch.syspath_prepend(str(folder / "src"))
    arguments = ["-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "-c", str(folder / "pyproject.toml")]
    assert pytest.main([*arguments, str(folder / "tests")]) == 0


def test_its_plugin_opens_its_addresses_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(new_driver("shed-sem", tmp_path) / "src"))
    from shed_sem import plugin
    from shed_sem.fake import Fake

    manager = semdrivers.get_plugin_manager()
    manager.register(plugin, "shed-sem")
    try:
        with Fake() as fake, semdrivers.connect(fake.url) as microscope:
            microscope.working_distance = 11.5
            assert (fake.state["WD"], microscope.working_distance) == (11.5, 11.5)
        with pytest.raises(semdrivers.NotConnectedError, match=r"shed-sem at 127\.0\.0\.1"):
            semdrivers.connect(fake.url)
    finally:
        manager.unregister(plugin)


@pytest.mark.parametrize("name", ["em30", "My SEM", "../up", "", "two--hyphens", "test"])
def test_a_name_that_cannot_be_is_refused(name, tmp_path):
    with pytest.raises(semdrivers.InvalidParameterError):
        new_driver(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(tmp_path):
    (tmp_path / "bench-sem").mkdir()
    with pytest.raises(semdrivers.InvalidParameterError, match="exists already"):
        new_driver("bench-sem", tmp_path)


def test_a_script_of_the_wire_is_kept_to_the_letter():
    with (
        pytest.raises(AssertionError, match=r"'MAG\?' was sent, and the script has 'WD\?'"),
        Wire([("WD?", "1")]) as wire,
    ):
        wire.ask("MAG?")
    with pytest.raises(AssertionError, match="never sent"), Wire([("WD?", "1"), ("MAG?", "2")]) as wire:
        assert wire.ask("WD?") == "1"
    with pytest.raises(AssertionError, match="after the end"):
        Wire([]).ask("WD?")
    with pytest.raises(AssertionError, match="3 bytes are read, and 2 are left"):
        Wire([], data=b"12").read(3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_an_empty_environment(tmp_path):
    """A fresh environment, this distribution and the new package installed by pip, and pytest run in it."""
    folder = new_driver("bench-sem", tmp_path)
    venv.create(tmp_path / "fresh", with_pip=True)
    python = str(tmp_path / "fresh" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SEMDRIVERS_PLUGINS")}

    def run(*command: str) -> str:
        done = subprocess.run(
            [python, "-m", *command], capture_output=True, text=True, check=False, cwd=folder, env=clean
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT), f"{folder}[test]")
    assert "failed" not in run("pytest", "-q")
    code = "import semdrivers; print('bench-sem' in semdrivers.get_plugin_manager().schemes())"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, env=clean).stdout == "True\n"
