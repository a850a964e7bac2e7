"""What the command lines share: JSON that every reader takes, errors that end in an exit code."""

from __future__ import annotations

import json
import logging

import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers.console import application, output, print_json


def test_json_goes_to_stdout_whole(capsys):
    print_json({"name": "Schärfe", "score": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"name": "Schärfe", "score": None}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (semdrivers.BusyError("another client"), 1, "error: another client"),
        (
            semdrivers.NotConnectedError("em30://x", {"control": "refused"}),
            4,
            "error: em30://x\n  control: refused",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a.onnx"),
            1,
            "error: a.onnx: No such file or directory",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (semdrivers.TransportError("the cable is out"), 4, "error: the cable is out"),
        (semdrivers.OutOfRangeError("too far"), 2, "error: too far"),
        (semdrivers.NotFocusedError("no focus"), 3, "error: no focus"),
        (semdrivers.HardwareFault("filament"), 1, "error: filament"),
        (semdrivers.InvalidParameterError("[brackets] stay"), 2, "error: [brackets] stay"),
    ],
)
def test_an_error_ends_in_a_message_and_an_exit_code(error, code, words):
    app = application("test", "for the test")

    @app.command()
    def fail() -> None:
        raise error

    done = CliRunner().invoke(app, ["fail"])
    assert done.exit_code == code
    assert done.stderr.strip() == words
    assert done.stdout == ""


def test_a_defect_is_not_hidden():
    app = application("test", "for the test")

    @app.command()
    def fail() -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(app, ["fail"]).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (semdrivers.BusyError("another client"), 1),
        (semdrivers.InvalidParameterError("a name"), 2),
        (semdrivers.NotFocusedError("no focus"), 3),
        (semdrivers.NotConnectedError("em30://x"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_a_json_object_for_a_program(error, code):
    app = application("test", "for the test")

    @app.command()
    def fail(json: bool = False) -> None:
        raise error

    done = CliRunner().invoke(app, ["fail", "--json"])
    assert done.exit_code == code
    told = json.loads(done.stdout)["error"]
    assert told["type"] == type(error).__name__
    assert told["exit_code"] == code
    assert told["message"] in done.stderr


def test_wrong_usage_is_a_json_object_for_a_program():
    app = application("test", "for the test")

    @app.command()
    def work(json: bool = False) -> None:
        raise AssertionError("not reached")

    @app.command()
    def other() -> None:
        raise AssertionError("not reached")

    done = CliRunner().invoke(app, ["work", "--json", "--nonsense"])
    assert done.exit_code == 2
    assert "--nonsense" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_log_of_the_product_goes_where_it_is_configured_to(tmp_path, place):
    app = application("test", "for the test")
    level = logging.getLogger("semdrivers").level

    @app.command()
    def work() -> None:
        logging.getLogger("semdrivers.part").info("saved %s", "a.tif")
        logging.getLogger("semfocus_plugin.part").debug("a detail")

    @app.command()
    def other() -> None:
        raise AssertionError("not reached")

    path = tmp_path / "night.log"
    path.write_text("an earlier night\n", encoding="utf-8")
    options = ["-v", "--log-file", str(path)]
    done = CliRunner().invoke(app, [*options, "work"] if place == "before" else ["work", *options])
    assert done.exit_code == 0, done.stderr
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "an earlier night"
    assert lines[1].endswith("INFO semdrivers.part: saved a.tif")
    assert len(lines) == 2
    assert lines[1] in done.stderr
    assert done.stdout == ""
    assert logging.getLogger("semdrivers").level == level
    assert "a detail" in CliRunner().invoke(app, ["-vv", "work"]).stderr


def test_a_pipe_gets_every_line_in_one_piece():
    app = application("test", "for the test")
    long = "word " * 60

    @app.command()
    def work() -> None:
        output.print(long)

    @app.command()
    def other() -> None:
        raise AssertionError("not reached")

    assert CliRunner().invoke(app, ["work"]).stdout == long + "\n"
