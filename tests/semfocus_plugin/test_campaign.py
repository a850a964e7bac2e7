"""The campaign of runs under faults: what it counts, and some of its runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import pytest

from semfocus_plugin.lab.campaign import FORBIDDEN, LINKS, Run, carry_out, table
from semfocus_plugin.lab.campaign.__main__ import main


def test_a_table_counts_what_must_never_happen_by_link():
    runs = [Run(0, "tcp", "", "focused", 1.0, ("false focus",)), Run(1, "bridge", "", "BusyError", 1.0, ())]
    lines = table(runs).splitlines()
    assert lines[0] == "| forbidden | tcp | bridge |"
    assert "| false focus | 1 | 0 |" in lines
    assert "| runs | 1 | 1 |" in lines
    assert len(lines) == len(FORBIDDEN) + 5


@pytest.mark.parametrize("link", [link for link in ("killed", "lying") if link in LINKS])
def test_nothing_forbidden_happens_in_a_run(link):
    run = carry_out(LINKS.index(link))
    assert (run.link, run.forbidden) == (link, ())


def test_a_campaign_goes_on_where_it_ended(tmp_path, capsys):
    out = tmp_path / "campaign.jsonl"
    assert main(["--out", str(out), "--runs", "1"]) == 0
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(out), "--runs", "2"])
    capsys.readouterr()
    assert main(["--out", str(out), "--runs", "2", "--resume"]) == 0
    assert [json.loads(line)["number"] for line in out.read_text().splitlines()] == [0, 1]
    assert "| runs | 1 | 1 |" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("number", [LINKS.index("tcp"), LINKS.index("killed")] if "killed" in LINKS else [])
def test_a_campaign_that_is_asked_to_end_ends_and_leaves_nothing_running(number, tmp_path, capsys):
    out = tmp_path / "campaign.jsonl"
    earlier = [Run(each, LINKS[each], "", "focused", 1.0, ()) for each in range(number)]
    out.write_text("".join(json.dumps(asdict(run)) + "\n" for run in earlier))
    carry_out(0)  # so that all is loaded that is loaded once
    before = threading.active_count()

    def ask() -> None:
        while threading.active_count() <= before + 1 or (number and not multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    asks = threading.Thread(target=ask, daemon=True)
    asks.start()
    assert main(["--out", str(out), "--runs", str(number + 50), "--resume"]) == 128 + signal.SIGTERM
    asks.join()
    assert (multiprocessing.active_children(), signal.getsignal(signal.SIGTERM)) == ([], signal.SIG_DFL)
    done = len(out.read_text().splitlines())
    assert main(["--out", str(out), "--runs", str(done + 1), "--resume"]) == 0
    assert json.loads(out.read_text().splitlines()[-1])["number"] == done


@pytest.mark.slow
def test_runs_side_by_side_are_those_of_one_after_the_other(tmp_path, capsys):
    for jobs in ("2", "1"):
        assert main(["--out", str(tmp_path / jobs), "--runs", "14", "--jobs", jobs]) == 0
    kinds = [
        sorted((run["number"], run["link"], run["faults"].split()[0]) for run in map(json.loads, out.open()))
        for out in tmp_path.iterdir()
    ]
    assert kinds[0] == kinds[1]
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "none"), "--jobs", "0"])
    assert "--jobs must be 1 or more, not 0" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
def test_runs_side_by_side_that_are_interrupted_end_in_order(tmp_path):
    out = tmp_path / "campaign.jsonl"
    command = [sys.executable, "-m", "semfocus_plugin.lab.campaign", "--out", str(out), "--runs", "200", "--jobs", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (out.exists() and out.read_text()):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=240)
    assert (process.returncode, "Traceback" in errors) == (128 + signal.SIGINT, False), errors
    done = len(out.read_text().splitlines())
    time.sleep(1.0)
    assert len(out.read_text().splitlines()) == done < 200


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 120, 20))
def test_nothing_forbidden_happens_in_many_runs(first):
    runs = [carry_out(number) for number in range(first, first + 20)]
    assert [run for run in runs if run.forbidden] == [], table(runs)


@pytest.mark.slow
@pytest.mark.skipif("starved" not in LINKS, reason="no signals")
def test_a_knob_that_is_turned_at_the_limit_of_a_run_is_no_move_of_the_run():
    assert carry_out(208, seed=15).forbidden == ()
