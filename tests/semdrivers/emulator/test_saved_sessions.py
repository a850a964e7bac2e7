"""``semdrivers emulate --save-session``: what goes over the emulator's wires, in a folder that can be replayed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import semdrivers
from firmware_protocol.messages import GetParameter, Parameter
from semdrivers._cli import app
from semdrivers.em30 import ControlLink, open_tcp
from semdrivers.emulator import Emulator
from semdrivers.errors import (
    DeviceError,
    HardwareFault,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
)

COMMAND = [sys.executable, "-c", "from semdrivers._cli import main; main()", "emulate", "--json"]


def vented(microscope):
    """Vent, try the beam, pump, and switch it on; returns what came of it."""
    microscope.vent()
    vacuum = microscope.vacuum
    with pytest.raises(InterlockError, match="evacuated") as caught:
        microscope.beam_on = True
    microscope.pump()
    microscope.beam_on = True
    return [vacuum, type(caught.value)]


def night(microscope):
    """Everything that an instrument hears of; returns what came of it."""
    seen = [microscope.working_distance, microscope.magnification, microscope.stage_position]
    microscope.working_distance = 14.5
    seen.append(microscope.acquire())
    microscope.magnification = np.float64(3000)
    seen += [microscope.move_stage(0.5, -0.25), microscope.orient_stage(10, 45)]
    microscope.stigmator = (1.0, 2.0)
    microscope.brightness = 0.45
    seen += [microscope.stigmator, microscope.brightness, microscope.contrast, microscope.stage_orientation]
    microscope.beam_on = False
    seen += [microscope.beam_on, microscope.vacuum]
    with pytest.raises(InterlockError, match="needs the beam") as caught:
        microscope.acquire()
    seen.append(type(caught.value))
    seen += vented(microscope)
    seen.append(microscope.acquire(semdrivers.ScanMode.STANDARD))
    return seen


def assert_same(one, other):
    if not isinstance(one, semdrivers.Image):
        assert one == other
        return
    assert np.array_equal(one.pixels, other.pixels)
    for name in ("working_distance", "magnification", "pixel_size", "frame_id", "scan_mode"):
        assert getattr(one, name) == getattr(other, name)
    assert one.timestamp == pytest.approx(other.timestamp, abs=30)


def replay(folder):
    return semdrivers.connect(f"replay://{folder.as_posix()}")


def lines(folder):
    return [json.loads(line) for line in (folder / "session.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_a_night_on_an_emulator_in_another_process_comes_home_as_a_folder(tmp_path):
    folder = tmp_path / "night"
    arguments = ["--specimen", "featureless", "--seed", "3", "--magnification", "2000", "--save-session", str(folder)]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            with semdrivers.connect(json.loads(process.stdout.readline())["url"]) as microscope:
                seen = night(microscope)
                capabilities = microscope.capabilities
        finally:
            process.send_signal(signal.SIGTERM)
    with replay(folder) as microscope:
        assert microscope.capabilities == capabilities
        again = night(microscope)
    for one, other in zip(seen, again, strict=True):
        assert_same(one, other)


def test_an_autofocus_is_replayed_to_the_same_result(tmp_path, climbing):
    with (
        Emulator("tin-balls", seed=2, save_session=tmp_path / "s") as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        first = microscope.autofocus(method=climbing)
    with replay(tmp_path / "s") as microscope:
        second = microscope.autofocus(method=climbing)
    assert (first.working_distance, first.frames) == (second.working_distance, second.frames)


def test_the_messages_stand_beside_the_calls(tmp_path):
    with (
        Emulator("featureless", save_session=tmp_path / "s") as emulator,
        semdrivers.connect(emulator.url, client="night watch") as microscope,
    ):
        microscope.working_distance = 14.25
        microscope.acquire()
    head, *entries = lines(tmp_path / "s")
    assert head["microscope"] == "EM-30"
    wire = [entry for entry in entries if entry["kind"] == "wire"]
    opcodes = [entry["result"]["opcode"] for entry in wire if entry["name"] == "received"]
    assert opcodes == ["HELLO", "SUBSCRIBE", "SET_PARAMETER", "START_SCAN", "BYE"]
    assert {entry["arguments"] for entry in wire[2:]} == {"night watch"}
    replies = {e["result"]["opcode"]: e["result"] for e in wire if e["name"] == "sent"}
    assert replies["SET_PARAMETER"]["status"] == "OK"
    assert replies["SET_PARAMETER"]["payload"]["value"] == 14.25
    assert replies["PARAMETER_CHANGED"]["kind"] == "EVENT"
    assert [entry["name"] for entry in entries if entry["kind"] != "wire"] == ["working_distance", "acquire"]


@pytest.mark.parametrize(
    "faults", ["usb-drop@1", "usb-flip@1", "usb-duplicate@1", "knob-turned@1", "control-lose@3", "control-corrupt@3"]
)
def test_what_the_driver_recovers_from_is_no_call_of_its_own(tmp_path, faults):
    with (
        Emulator("featureless", faults=faults, seed=1, save_session=tmp_path / "s") as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        microscope.magnification = 3000
        seen = [microscope.acquire(), microscope.acquire()]
        assert sum(emulator.faults.happened.values()) == 1
    with replay(tmp_path / "s") as microscope:
        microscope.magnification = 3000
        for one in seen:
            assert_same(one, microscope.acquire())


def test_what_the_instrument_refuses_is_refused_again(tmp_path):
    with (
        Emulator("featureless", faults="refuse-fault@1,filament-dies@1", save_session=tmp_path / "s") as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        told = []
        for act in (lambda m: setattr(m, "contrast", 0.4), lambda m: m.acquire()):
            with pytest.raises(HardwareFault) as caught:
                act(microscope)
            told.append(str(caught.value))
    with replay(tmp_path / "s") as microscope:
        with pytest.raises(HardwareFault, match="lens supply"):
            microscope.contrast = 0.4
        with pytest.raises(HardwareFault, match="filament"):
            microscope.acquire()
    assert all("refused" in text for text in told)


def test_an_observer_is_heard_but_does_not_speak_for_the_owner(tmp_path):
    with (
        Emulator("featureless", save_session=tmp_path / "s") as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        port = int(emulator.url.split(":")[2].split("?")[0])
        with ControlLink(open_tcp("127.0.0.1", port), client_name="watcher", name="EM-30", observer=True) as link:
            link.request(GetParameter(Parameter.CONTRAST))
        microscope.acquire()
    entries = lines(tmp_path / "s")[1:]
    assert [entry["name"] for entry in entries if entry["kind"] != "wire"] == ["acquire"]
    assert any(entry["arguments"] == "watcher" for entry in entries)


def test_another_way_is_told_with_the_line_of_the_file(tmp_path):
    with (
        Emulator("featureless", save_session=tmp_path / "s") as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        microscope.working_distance = 14.0
    number = 1 + [entry.get("kind") for entry in lines(tmp_path / "s")].index("set")
    with replay(tmp_path / "s") as microscope, pytest.raises(DeviceError, match=f"in line {number} of"):
        microscope.acquire()


def test_the_folder_is_checked_before_anything_starts_and_left_alone_when_nothing_was_said(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InvalidParameterError, match="in use already"):
        Emulator("featureless", save_session=tmp_path)
    done = CliRunner().invoke(app, ["emulate", "--save-session", str(tmp_path)])
    assert done.exit_code == 2
    assert "new or empty folder" in done.stderr
    with Emulator("featureless") as emulator:
        port = int(emulator.url.split(":")[2].split("?")[0])
        with pytest.raises(NotConnectedError):
            Emulator("featureless", control_port=port, save_session=tmp_path / "s").start()
    assert not (tmp_path / "s").exists()
    with pytest.raises(OutOfRangeError):
        Emulator("featureless", magnification=1e9, save_session=tmp_path / "s")


def without_frames(microscope):
    """What a night asks of stage, stigmator, beam and chamber; returns what came of it."""
    seen = [microscope.move_stage(0.5, -0.25), microscope.orient_stage(10, 45)]
    microscope.stigmator = (1.0, 2.0)
    microscope.beam_on = False
    seen += [microscope.stage_position, microscope.stage_orientation, microscope.stigmator, microscope.beam_on]
    seen += vented(microscope)
    return [*seen, microscope.vacuum]


def test_commands_of_every_part_are_replayed_as_they_were(tmp_path):
    with (
        Emulator("featureless", save_session=tmp_path / "s") as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        seen = without_frames(microscope)
    with replay(tmp_path / "s") as microscope:
        assert without_frames(microscope) == seen
