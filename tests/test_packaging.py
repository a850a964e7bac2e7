"""What stands beside the packages agrees with them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_citation_names_the_version_and_the_licence():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(version|license): (\S+)$", text, re.MULTILINE))
    assert found == {"version": PROJECT["version"], "license": PROJECT["license"]}


def test_the_workflow_runs_what_a_developer_runs():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "- run: .ci/run\n" in text
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f'"{oldest}"' in text


def test_the_conda_recipe_asks_for_what_the_package_does():
    """The same names and least versions, but for matplotlib, whose package without a window is matplotlib-base."""
    text = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    assert f'version: "{PROJECT["version"]}"' in text
    asked = text.partition("  run:\n")[2].partition("\n\n")[0]
    expected = {
        each.replace(">=", " >=").replace("matplotlib ", "matplotlib-base ") for each in PROJECT["dependencies"]
    }
    expected.add(f"python {PROJECT['requires-python']}")
    assert set(re.findall(r"^    - (.+)$", asked, re.MULTILINE)) == expected
    for program, place in PROJECT["scripts"].items():
        assert f"- {program} = {place}\n" in text


def test_the_manifest_for_napari_names_what_there_is():
    module, name = PROJECT["entry-points"]["napari.manifest"][PROJECT["name"]].split(":")
    text = (ROOT.joinpath(*module.split(".")) / name).read_text(encoding="utf-8")
    assert text.startswith(f"name: {PROJECT['name']}\n")
    places = re.findall(r"python_name: (\S+):(\S+)", text)
    assert len(places) == 2
    assert all(callable(getattr(import_module(module), name)) for module, name in places)
    commands = re.findall(r"- id: (\S+)", text)
    assert set(re.findall(r"- command: (\S+)", text)) == set(commands)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_set_up_lines_bring_no_cuda(tmp_path):
    """What pip would install on this machine for the second of them; the first asks for less."""
    report = tmp_path / "report.json"
    asked = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report), ".[test]"]
    subprocess.run([sys.executable, "-m", "pip", *asked], cwd=ROOT, check=True)
    names = {item["metadata"]["name"].lower() for item in json.loads(report.read_text())["install"]}
    assert {"semdrivers", "torch"} <= names
    assert [name for name in names if re.match("nvidia|cuda|triton", name)] == []


def test_the_changes_name_the_version():
    latest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert latest is not None
    assert latest[1] == PROJECT["version"]
