"""``semdrivers emulate`` in a process of its own, and the shipped driver connected to it from this one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers._cli import app

COMMAND = [sys.executable, "-c", "from semdrivers._cli import main; main()", "emulate"]


@contextmanager
def emulator(*arguments: str):
    """Run the command and yield what it printed; end it as a user or a service manager would."""
    process = subprocess.Popen(
        [*COMMAND, "--json", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield json.loads(line), process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_another_process_is_a_microscope_like_any():
    with emulator("--specimen", "tin-balls", "--seed", "3", "--magnification", "2000") as (told, _):
        assert told["serial_url"] is None
        with semdrivers.connect(told["url"]) as microscope:
            assert microscope.magnification == 2000
            microscope.working_distance = 14.5
            image = microscope.acquire()
    assert image.working_distance == 14.5
    assert image.pixels.shape == (240, 320)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_in_another_process():
    with (
        emulator("--seed", "3", "--magnification", "2000") as (told, _),
        semdrivers.connect(told["url"]) as microscope,
    ):
        there = microscope.acquire().pixels
    with semdrivers.connect("emulator://tin-balls?seed=3&magnification=2000") as microscope:
        here = microscope.acquire().pixels
    assert np.array_equal(there, here)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_control_over_a_serial_line():
    with emulator("--serial") as (told, _):
        assert told["serial_url"].startswith("em30+serial:///dev/")
        with semdrivers.connect(told["serial_url"]) as microscope:
            microscope.working_distance = 15.25
            assert microscope.acquire().working_distance == 15.25


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_when_told_to(number):
    with emulator() as (told, process):
        process.send_signal(number)
        assert process.wait(20) == 0
        with pytest.raises(semdrivers.NotConnectedError):
            semdrivers.connect(told["url"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_emulator_of_another_make_is_a_microscope_like_any_until_it_is_told_to_end():
    with emulator("--make", "tescan", "--magnification", "2000") as (told, process):
        assert told["url"].startswith("tescan://")
        with semdrivers.connect(told["url"]) as microscope:
            microscope.working_distance = 14.5
            assert microscope.acquire().working_distance == pytest.approx(14.5, abs=1e-3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    process = subprocess.Popen(
        [*COMMAND, "--make", "tescan"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "Ctrl-C ends it" in process.stdout.readline()
    assert process.stdout.readline().strip().startswith("tescan://")
    process.send_signal(signal.SIGINT)
    assert "the emulator has ended" in process.communicate(timeout=20)[1]


def test_stop_says_what_it_did_to_the_microscope_of_another_program():
    with emulator("--magnification", "2000") as (told, _), semdrivers.connect(told["url"]) as microscope:
        done = CliRunner().invoke(app, ["stop", told["url"], "--json"])
        assert json.loads(done.stdout) == {"url": told["url"], "stopped": True}
        assert not microscope.beam_on
        assert "the beam is off" in CliRunner().invoke(app, ["stop", told["url"]]).stdout


def test_a_taken_port_is_one_clear_error():
    with emulator() as (told, _):
        port = told["url"].split(":")[2].split("?")[0]
        done = CliRunner().invoke(app, ["emulate", "--control-port", port])
    assert done.exit_code == 4
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_an_exposed_emulator_asks_for_the_token_and_says_so_loudly(tmp_path, monkeypatch):
    monkeypatch.delenv("SEMFOCUS_TOKEN", raising=False)
    (tmp_path / "token").write_text("correct horse battery staple\n")
    with emulator("--expose", "--token-file", str(tmp_path / "token")) as (told, process):
        with pytest.raises(semdrivers.NotConnectedError, match="asks for a token"):
            semdrivers.connect(told["url"])
        with semdrivers.connect(told["url"], token="correct horse battery staple") as microscope:
            assert microscope.magnification == 5000
        process.send_signal(signal.SIGTERM)
        assert "EXPOSED" in process.communicate(timeout=20)[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--expose"], "needs a token of at least 16 characters"),
        (["--expose", "--token-file", "no-such-file"], "no-such-file"),
        (["--certificate", "no-such.pem"], "no-such.pem"),
        (["--key", "no-such.pem"], "certificate"),
        (["--make", "tescan", "--expose"], "--expose belongs to the emulator of an EM-30"),
        (["--specimen", "tin-bals"], "did you mean 'tin-balls'"),
        (["--specimen", "no-such-picture.tif", "--pixel-size", "10"], "no-such-picture.tif"),
        (["--specimen", __file__, "--pixel-size", "10"], "no picture"),
        (["--magnification", "1e9"], "magnification"),
        (["--preset", "evil"], "evil"),
        (["--seed", "-1"], "seed"),
        (["--control-port", "99999"], "control_port"),
    ],
)
def test_bad_input_is_one_error_before_anything_starts(arguments, words):
    done = CliRunner().invoke(app, ["emulate", *arguments])
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("error: ") == 1
