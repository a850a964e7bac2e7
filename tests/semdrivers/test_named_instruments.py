"""Named instruments: kept in the user's settings, opened by name, within their limits whatever a script passes."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers import instruments
from semdrivers._cli import app
from semdrivers.doctor import examine
from semdrivers.instruments import Instrument, LimitedMicroscope

URL = "emulator://featureless?seed=1&working_distance=12"


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv(instruments.SETTINGS_VARIABLE, str(tmp_path / "settings"))
    return tmp_path / "settings"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_instrument_is_added_listed_opened_and_removed(settings):
    done = run("instrument", "add", "lab-sem", URL, "--max-travel", 2, "--bounds", 11, 13)
    assert done.exit_code == 0, done.stderr
    assert str(settings) in done.stdout
    listed = json.loads(run("instrument", "list", "--json").stdout)
    assert listed == {"instruments": {"lab-sem": {"url": URL, "max_travel": 2.0, "bounds": [11.0, 13.0]}}}
    assert "travel up to 2 mm, working distance 11 to 13 mm" in run("instrument", "list").stdout
    with semdrivers.connect("lab-sem") as microscope:
        allowed = microscope.capabilities.working_distance
        assert (allowed.minimum, allowed.maximum) == (11.0, 13.0)
        with pytest.raises(semdrivers.OutOfRangeError, match="14 mm is outside 11 to 13 mm"):
            microscope.working_distance = 14.0
        microscope.working_distance = 12.5
        assert microscope.working_distance == pytest.approx(12.5, abs=1e-3)
    assert run("instrument", "remove", "lab-sem").exit_code == 0
    assert run("instrument", "remove", "lab-sem").exit_code == 2
    with pytest.raises(semdrivers.InvalidParameterError, match="no address of a microscope"):
        semdrivers.connect("lab-sem")


def test_an_address_is_opened_whatever_the_file_of_names_holds(settings):
    settings.mkdir()
    (settings / "instruments.json").write_text("{")
    done = run("info", URL, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["url"] == URL
    listed = run("info")
    assert (listed.exit_code, "instruments.json does not hold" in listed.stderr) == (2, True)
    (settings / "instruments.json").unlink()
    listed = run("info")
    assert listed.stdout.splitlines()[0].startswith("named instruments")
    assert not [line for line in listed.stdout.splitlines() if line.endswith(" ")]  # the cells of a table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lab sem", URL], "a name must consist of"),
        (["lab", "tin-balls"], "must be an address"),
        (["lab", URL, "--max-travel", 0], "above 0 mm"),
        (["lab", URL, "--bounds", 13, 11], "low < high"),
    ],
)
def test_what_cannot_be_is_not_kept(settings, arguments, words):
    done = run("instrument", "add", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not settings.exists()


def test_an_instrument_is_kept_unless_configured_otherwise():
    assert run("instrument", "add", "lab", URL).exit_code == 0
    done = run("instrument", "add", "lab", "em30://192.168.1.30")
    assert done.exit_code == 2
    assert instruments.read_instruments()["lab"].url == URL
    assert run("instrument", "add", "lab", "em30://192.168.1.30", "--overwrite").exit_code == 0
    assert instruments.read_instruments()["lab"].url == "em30://192.168.1.30"


def test_settings_that_cannot_be_read_are_named(settings):
    settings.mkdir()
    (settings / "instruments.json").write_text('{"lab": {"address": 1}}', encoding="utf-8")
    with pytest.raises(semdrivers.InvalidParameterError, match=r"instruments\.json does not hold instruments"):
        semdrivers.connect("lab")
    done = run("doctor", "--json")
    assert done.exit_code == 1
    findings = {finding["what"]: finding["status"] for finding in json.loads(done.stdout)["findings"]}
    assert findings["settings"] == "bad"
    assert findings["picture from the emulator"] == "good"


@pytest.mark.parametrize("asked", [None, 1.0, 5.0])
def test_the_travel_of_an_instrument_holds_whatever_a_script_passes(foreign, offer_method, asked):
    seen = []

    def focus(microscope, settings, progress, cancel):
        seen.append(settings.max_travel)
        return {"status": "refused"}

    offer_method(focus, "test-travel")
    microscope = LimitedMicroscope(LimitedMicroscope(foreign, Instrument(URL, max_travel=2.0)), Instrument(URL))
    semdrivers.autofocus(microscope, method="test-travel", max_travel=asked)
    microscope.autofocus(method="test-travel", max_travel=asked, cancel=threading.Event())
    assert seen == [min(asked or 2.0, 2.0)] * 2


def test_doctor_looks_at_every_part():
    findings = {finding.what: finding for finding in examine()}
    assert findings["picture from the emulator"].status == "good"
    assert {"versions", "plugins", "autofocus methods", "USB", "serial lines", "settings"} <= set(findings)
    assert all(finding.detail for finding in findings.values())
    spoken, told = run("doctor"), run("doctor", "--json")
    assert all(what in spoken.stdout for what in findings)
    assert "all is well" in spoken.stdout
    assert json.loads(told.stdout)["bad"] == 0
    assert spoken.exit_code == told.exit_code == 0
