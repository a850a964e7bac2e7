"""A plugin distribution, really installed by pip and found through its entry points in another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder into which pip installed the fixture distribution."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "tests" / "fixtures" / "plugin", folder / "source")
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run_python(code: str, installed: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SEMDRIVERS_")}
    path = os.pathsep.join([str(ROOT), str(installed)])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env={**inherited, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environment},
    )


RECORDS = """
import json, semdrivers
from semdrivers.files import plain
print(json.dumps({record.name: plain(record) for record in semdrivers.get_plugin_manager().records}))
"""


def records(installed: Path, **environment: str) -> dict[str, dict[str, object]]:
    done = run_python(RECORDS, installed, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_entry_point_leaves_a_record(installed):
    found = records(installed)
    assert {"builtin", "semfocus", "example", "example-broken-hook", "example-broken-import"} <= set(found)
    example = found["example"]
    assert (example["distribution"], example["version"]) == ("semdrivers-example", "1.2.3")
    assert example["value"] == "semdrivers_example.plugin"
    assert example["error"] is None
    assert set(example["hooks"]) == {
        "semdrivers_schemes",
        "semdrivers_connect",
        "semdrivers_autofocus",
        "semdrivers_autofocus_methods",
        "semdrivers_specimens",
        "semdrivers_frame",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("example-broken-import", "SystemExit: the vendor's library is not installed"),
        ("example-broken-hook", "password"),
        ("example-unknown-hook", "unknown hook 'semdrivers_conect'"),
    ],
)
def test_a_broken_entry_point_is_recorded_with_its_error(installed, name, words):
    record = records(installed)[name]
    assert words in record["error"]
    assert record["hooks"] == []


def test_broken_plugins_do_not_stop_the_host_and_the_good_one_works(installed):
    done = run_python(
        "import semdrivers\n"
        "microscope = semdrivers.connect('example://one')\n"
        "result = semdrivers.autofocus(microscope, method='example-contrast')\n"
        "print(result.status, result.working_distance, result.frames)\n"
        "print('example-grid' in semdrivers.get_plugin_manager().specimens())\n",
        installed,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["focused 10.0 5", "True"]


def test_an_unknown_scheme_names_the_known_and_the_plugins_that_failed(installed):
    done = run_python("import semdrivers; semdrivers.connect('exmaple://one')", installed)
    message = done.stderr.split("InvalidParameterError")[-1]
    assert done.returncode == 1
    assert "did you mean 'example'?" in message
    assert "em30, em30+serial, emulator" in message
    assert "example-broken-import (semdrivers-example 1.2.3): SystemExit" in message


def test_the_allow_list_keeps_the_others_out_and_says_so(installed):
    found = records(installed, SEMDRIVERS_PLUGINS="builtin, example")
    assert found["example"]["error"] is None
    assert found["builtin"]["error"] is None
    assert found["semfocus"]["error"] == "left out by SEMDRIVERS_PLUGINS"
    assert found["example-broken-import"]["error"] == "left out by SEMDRIVERS_PLUGINS"


@pytest.mark.slow
def test_an_empty_allow_list_means_none(installed):
    found = records(installed, SEMDRIVERS_PLUGINS="")
    assert {record["error"] for record in found.values()} == {"left out by SEMDRIVERS_PLUGINS"}
    done = run_python("import semdrivers; semdrivers.connect('em30://localhost')", installed, SEMDRIVERS_PLUGINS="")
    assert "no plugin offers any" in done.stderr
    assert "plugin builtin (semdrivers 0.1.0): left out by SEMDRIVERS_PLUGINS" in done.stderr


def test_an_allow_list_with_an_unknown_name_is_refused(installed):
    done = run_python(RECORDS, installed, SEMDRIVERS_PLUGINS="builtin,exampel")
    assert done.returncode == 1
    assert "unknown plugin 'exampel' (did you mean 'example'?)" in done.stderr


@pytest.mark.slow
def test_tracing_writes_every_hook_call_to_stderr(installed):
    code = "import semdrivers; semdrivers.connect('example://one')"
    done = run_python(code, installed, SEMDRIVERS_TRACE="1")
    assert "semdrivers_connect(url='example://one', options={}) asks" in done.stderr
    assert "semdrivers_connect -> <semdrivers_example.plugin.ExampleMicroscope" in done.stderr
    assert "semdrivers.trace" not in run_python(code, installed, SEMDRIVERS_TRACE="0").stderr


def test_the_conformance_checks_pass_on_the_foreign_driver(installed):
    done = run_python(
        "import semdrivers, semdrivers.conformance as conformance\n"
        "for check in conformance.CHECKS:\n"
        "    if 'autofocus' in check.__name__: continue\n"
        "    outcome = conformance.run_check(check, semdrivers.connect('example://one'))\n"
        "    print(outcome.status, outcome.name, outcome.detail)\n",
        installed,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout, done.stdout
    assert done.stdout.count("passed") >= 17, done.stdout
