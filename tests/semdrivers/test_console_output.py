"""What the command lines share: JSON that every reader takes, errors that end in an exit code."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers.console import application, print_json


def test_json_goes_to_stdout_whole(capsys):
    print_json({"name": "Schärfe", "score": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"name": "Schärfe", "score": None}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (semdrivers.BusyError("another client"), 1, "error: another client"),
        (
            semdrivers.NotConnectedError("em30://x", {"control": "refused"}),
            1,
            "error: em30://x\n  control: refused",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a.onnx"),
            1,
            "error: a.onnx: No such file or directory",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (semdrivers.InvalidParameterError("[brackets] stay"), 1, "error: [brackets] stay"),
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
