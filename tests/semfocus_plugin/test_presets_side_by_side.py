"""The same runs under several presets of the emulator, in one table."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from semdrivers import InvalidParameterError
from semfocus_plugin.lab import benchmark as evaluation
from semfocus_plugin.lab.benchmark.presets import LEGEND, checked, markdown_side_by_side, side_by_side
from semfocus_plugin.lab.cli import app


def semfocus(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def summary(**changes):
    fields = {
        "specimen": "fabric",
        "runs": 4,
        "within_two": 0.75,
        "within_one": 0.5,
        "median_error": 0.5,
        "p90_error": 1.0,
        "median_frames": 6.5,
        "p90_frames": 9.0,
        "median_control_frames": 3.0,
        "median_instrument_seconds": 2.0,
        "mean_score": 8.0,
        "refused": 1,
        "false_focus": 0,
        "errors": 0,
        "restored": 1,
    }
    return evaluation.Summary(**(fields | changes))


def test_a_line_has_a_cell_for_each_preset():
    found = side_by_side({"ideal": [summary()], "hostile": [summary(within_two=0.0, false_focus=2, errors=1)]})
    assert found == (
        ("specimen", "ideal", "hostile"),
        ("fabric", "75% / 50%, 6.5 / 9, 1, 0", "0% / 50%, 6.5 / 9, 1, 2, 1 errors"),
    )
    text = markdown_side_by_side({"ideal": [summary()], "hostile": [summary()]})
    assert LEGEND in text
    assert "| specimen | ideal | hostile |" in text


@pytest.mark.parametrize(("names", "words"), [(["kind"], "ideal, typical, hostile"), (["ideal"] * 2, "more than once")])
def test_presets_are_checked(names, words):
    with pytest.raises(InvalidParameterError, match=words):
        checked(names)


def test_evaluate_puts_presets_side_by_side(tiny_models, tmp_path):
    options = ["--runs", 1, "--specimen", "tin-balls", "--method", "dual-network", "--workers", 1]
    options += ["--preset", "ideal", "--preset", "hostile", "--max-frames", 12]
    found = semfocus("evaluate", *options, "--json", "-o", tmp_path / "table.md")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert list(told["presets"]) == ["ideal", "hostile"]
    one, other = (told["presets"][name]["records"] for name in told["presets"])
    assert [(r["seed"], r["magnification"]) for r in one] == [(r["seed"], r["magnification"]) for r in other]
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| specimen | ideal | hostile |" in text
    assert "method dual-network, runs 1, seed 1" in text


def test_what_cannot_be_is_refused_before_any_run():
    found = semfocus("evaluate", "--preset", "kind")
    assert (found.exit_code, "ideal, typical, hostile" in found.stderr) == (1, True)
    found = semfocus("evaluate", "--table", "1", "--preset", "ideal", "--preset", "hostile")
    assert (found.exit_code, "--preset cannot be used here" in found.stderr) == (1, True)
