"""The campaign of runs under faults: what it counts, and some of its runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from semfocus_plugin.lab.campaign import FORBIDDEN, LINKS, Run, carry_out, table


def test_a_table_counts_what_must_never_happen_by_link():
    runs = [Run(0, "tcp", "", "focused", 1.0, ("false focus",)), Run(1, "bridge", "", "BusyError", 1.0, ())]
    lines = table(runs).splitlines()
    assert lines[0] == "| forbidden | tcp | bridge |"
    assert "| false focus | 1 | 0 |" in lines
    assert "| runs | 1 | 1 |" in lines
    assert len(lines) == len(FORBIDDEN) + 5


def test_nothing_forbidden_happens_in_one_run_of_every_link():
    first = 497 - 497 % len(LINKS)
    runs = [carry_out(first + number) for number in range(len(LINKS))]
    assert [run.link for run in runs] == list(LINKS)
    assert [run for run in runs if run.forbidden] == []


def test_a_campaign_goes_on_where_it_ended(tmp_path):
    out = tmp_path / "campaign.jsonl"
    command = [sys.executable, "-m", "semfocus_plugin.lab.campaign", "--out", str(out)]
    subprocess.run([*command, "--runs", "1"], check=True, capture_output=True)
    assert subprocess.run([*command, "--runs", "2"], check=False, capture_output=True).returncode == 2
    more = subprocess.run([*command, "--runs", "2", "--resume"], check=True, capture_output=True, text=True)
    assert [json.loads(line)["number"] for line in out.read_text().splitlines()] == [0, 1]
    assert "| runs | 1 | 1 |" in more.stdout


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 120, 20))
def test_nothing_forbidden_happens_in_many_runs(first):
    runs = [carry_out(number) for number in range(first, first + 20)]
    assert [run for run in runs if run.forbidden] == [], table(runs)
