"""A soak: what its table and its verdict hold, and some hours of one."""

from __future__ import annotations

import dataclasses

import pytest
from typer.testing import CliRunner

from semfocus_plugin.lab.cli import app
from semfocus_plugin.lab.studies.soak import HEADINGS, Cycle, growth, rows

SOUND = [Cycle(hour / 2, "focused", 0.5, 100.0 + (hour % 3), 12, 9) for hour in range(48)]


def test_what_grows_is_named():
    assert growth(SOUND) == []
    assert growth([dataclasses.replace(each, memory=100 + each.hours) for each in SOUND]) == ["memory"]
    assert growth([dataclasses.replace(each, descriptors=12 + int(each.hours)) for each in SOUND]) == ["descriptors"]
    assert growth([dataclasses.replace(each, threads=9 + int(each.hours / 10)) for each in SOUND]) == ["threads"]


def test_a_table_has_all_runs_and_the_largest_error():
    done = [*SOUND[:-1], Cycle(24.0, "TransportError", None, 300.0, 13, 9)]
    heads, *lines = rows(done)
    assert heads == HEADINGS
    assert sum(int(line[1]) for line in lines) == len(done)
    assert [line[3] for line in lines] == ["0"] * 7 + ["1"]
    assert lines[-1][5:7] == ("300", "13")


@pytest.mark.slow
def test_half_an_hour_of_the_instrument(tmp_path):
    figure = tmp_path / "soak.png"
    ended = CliRunner().invoke(app, ["lab", "soak", "--hours", "0.5", "--every", "10", "-o", str(figure)])
    assert ended.exit_code == 0, ended.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "| hours | runs | focused |" in ended.output
