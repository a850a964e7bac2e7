"""The same runs under several presets of the emulator, in one table."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from semfocus_plugin.lab.cli import app


def semfocus(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.slow
def test_evaluate_puts_presets_side_by_side(tiny_models, tmp_path):
    options = ["--runs", 1, "--specimen", "tin-balls", "--method", "dual-network", "--workers", 1]
    options += ["--preset", "ideal", "--preset", "hostile", "--max-frames", 12]
    ran = semfocus("evaluate", *options, "--json", "-o", tmp_path / "table.md")
    assert ran.exit_code == 0, ran.stderr
    one, other = json.loads(ran.stdout)["records"]
    assert (one["preset"], other["preset"]) == ("ideal", "hostile")
    assert (one["seed"], one["magnification"]) == (other["seed"], other["magnification"])
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| specimen | ideal | hostile |" in text
    assert "method dual-network, runs 1, preset ideal, hostile, seed 1" in text


@pytest.mark.parametrize(
    ("presets", "words"), [(["kind"], "ideal, typical, hostile"), (["ideal", "ideal"], "more than once")]
)
def test_presets_are_checked_before_any_run(presets, words):
    ran = semfocus("evaluate", *(text for preset in presets for text in ("--preset", preset)))
    assert ran.exit_code == 2
    assert words in " ".join(ran.stderr.split())
