"""Grids of settings, and projections of what work costs on more workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semdrivers.errors import AutofocusError, InvalidParameterError
from semfocus_plugin.lab import sweep
from semfocus_plugin.lab.studies.scaling import Parts, benchmark, dataset, table, training

SPECIFICATION = """
commands = ["speed --seconds 0 {option}"]
[grid]
option = ["--help", "--nonsense"]
[figures]
option = "done.json settings option"
"""


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(SPECIFICATION)
    return path


def test_every_point_of_the_grid_is_run_once(written, tmp_path):
    written.write_text(SPECIFICATION.replace(', "--nonsense"', ""))
    read = sweep.read(written)
    assert read.points == [{"option": "--help"}]
    points = sweep.run(read, tmp_path / "out", workers=1)
    assert list(sweep.table(points)) == [("option",), ("--help",)]
    log = tmp_path / "out" / "000" / "output.txt"
    assert "semfocus" in log.read_text()
    log.unlink()
    assert sweep.run(read, tmp_path / "out", workers=1) == points
    assert not log.exists()
    other = sweep.Sweep(("speed",), read.grid, {}, {})
    with pytest.raises(InvalidParameterError, match="holds another point"):
        sweep.run(other, tmp_path / "out", workers=1)


@pytest.mark.slow
def test_a_command_that_fails_is_named_with_its_message(written, tmp_path):
    with pytest.raises(AutofocusError, match="--nonsense"):
        sweep.run(sweep.read(written), tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "001" / "done.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{option}", "{optoin}"), "optoin"),
        (("[figures]", "[figure]"), "unknown key 'figure'"),
        (('["--help", "--nonsense"]', "[]"), "grid.option"),
        (("[grid]", "grid ="), "sweep.toml"),
    ],
)
def test_a_specification_with_a_mistake_is_refused(written, change, message):
    written.write_text(SPECIFICATION.replace(*change))
    with pytest.raises(InvalidParameterError, match=message):
        sweep.read(written)


def test_a_figure_that_is_not_there_is_named(written, tmp_path):
    folder = tmp_path / "out" / "000"
    folder.mkdir(parents=True)
    read = sweep.Sweep(("speed",), {"a": [1]}, {"focused": "report.json rows 3"}, {})
    (folder / "done.json").write_text(json.dumps({"settings": {"a": 1}, "commands": ["speed"], "environment": {}}))
    with pytest.raises(InvalidParameterError, match=r"report\.json"):
        sweep.run(read, tmp_path / "out", workers=1)


def test_work_divides_until_something_else_bounds_it():
    parts = Parts(frame=0.01, run=0.5, storage=1e9)
    alone, many = dataset(parts, 1_000_000, 1), dataset(parts, 1_000_000, 16)
    assert alone.seconds == pytest.approx(10_000, rel=0.01)
    assert many.seconds == pytest.approx(alone.seconds / 16, rel=0.02)
    assert dataset(parts, 1_000_000, 4096).bound == "shared storage"
    assert dataset(parts, 30_000, 256).seconds == dataset(parts, 30_000, 64).seconds
    assert benchmark(parts, 1000, 4000).seconds == pytest.approx(1.0)
    assert training(parts, 900_000, 1, 1).seconds == pytest.approx(1550)
    assert training(parts, 900_000, 1, 16).bound == "exchange of gradients"


def test_the_page_about_scaling_has_the_figures_of_the_command():
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "scaling.md").read_text(encoding="utf-8")
    assert "`semfocus lab scaling --frame-ms 12 --run-seconds 0.84`" in page
    for row in table(Parts(frame=12e-3, run=0.84), (1, 16, 256), 1_000_000, 10_000, 4):
        assert f"| {' | '.join(row)} |" in page
