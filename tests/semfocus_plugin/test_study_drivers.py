"""The study of all drivers: what is right, false and refused, and that a run of a driver ends in a row."""

from __future__ import annotations

import pytest

from semfocus_plugin.lab.studies import drivers
from semfocus_plugin.lab.studies.drivers import DRIVERS, run_once, table


@pytest.mark.slow
def test_a_run_has_a_sample_a_start_and_an_error_of_its_own():
    first, again, other = (run_once("tescan, 10 mrad", number, 5) for number in (2, 2, 3))
    assert first == again
    assert first.start != other.start
    assert (first.status, first.error < 1, 5 <= first.start <= 31) == ("focused", True, True)


def test_a_row_counts_what_is_right_false_refused_and_raised(monkeypatch):
    outcomes = [("focused", 0.5), ("focused", 1.5), ("focused", 3.0), ("refused", 9.0), ("error", 9.0)]

    def run(name, number, seed):
        return drivers.Run(name, number, outcomes[number][0], "", number, 9.0, outcomes[number][1])

    monkeypatch.setattr(drivers, "run_once", run)
    runs, (heads, em30, noise) = table(5, 1, ["em30", "fibsem, noise"], workers=1)
    assert len(runs) == 10
    assert dict(zip(heads, em30, strict=True)) == {
        "driver": "em30", "runs": "5", "right": "20%", "false": "1", "refused": "1", "raised": "1",
        "frames, median / p90": "2 / 3.6", "error, DoF, median / p90": "1.50 / 2.70",
    }  # fmt: skip
    assert noise[2:6] == ("20%", "3", "1", "1")
    assert DRIVERS["fibsem, noise"].refuses
