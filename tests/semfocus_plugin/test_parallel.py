"""Processes side by side: the same results in the same order, and none left when the parent is terminated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from semdrivers import AutofocusError
from semfocus_plugin.lab.parallel import required, run_all

PARENT = """
import os, sys, time
from semfocus_plugin.lab.parallel import run_all

def announce(_):
    print("ready", flush=True)

run_all(os.getpid, [()] * 2, workers=2, progress=lambda pid: print(pid, flush=True))
run_all(time.sleep, [(0.0,), (600.0,), (600.0,)], workers=2, progress=announce)
"""


def test_the_order_does_not_depend_on_the_number_of_processes():
    tasks, seen = [(np.arange(3), number) for number in range(4)], []
    alone = run_all(np.roll, tasks, workers=1, progress=lambda result: seen.append(result.tolist()))
    assert seen == [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 1, 2]]
    for one, other in zip(alone, run_all(np.roll, tasks, workers=2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_a_call_raises_reaches_the_caller():
    with pytest.raises(ValueError, match="invalid literal"):
        run_all(int, [("1",), ("x",)], workers=2)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(getattr(signal, "SIGHUP", 1), marks=pytest.mark.slow)])
def test_a_terminated_parent_leaves_no_process_behind(number):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        lines = [parent.stdout.readline().strip() for _ in range(3)]
        assert lines[2] == "ready"
        parent.send_signal(number)
        assert parent.wait(30) == 128 + number
    until = time.monotonic() + 30
    alive = {int(pid) for pid in lines[:2]}
    while alive and time.monotonic() < until:
        time.sleep(0.1)
        alive = {pid for pid in alive if os.path.exists(f"/proc/{pid}")} if sys.platform == "linux" else set()
    assert not alive


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    "command",
    ["evaluate --runs 40 --specimen featureless", "dataset frames --count 4000", "benchmark --tracks near --runs 40"],
)
def test_a_terminated_command_leaves_no_process_behind(command, tmp_path):
    program = [sys.executable, "-c", "from semfocus_plugin.lab.cli import main; main()", *command.split()]
    with subprocess.Popen([*program, "--workers", "2"], cwd=tmp_path, stderr=subprocess.DEVNULL) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until = time.monotonic() + 120
        while len(started := children.read_text().split()) < 3 and time.monotonic() < until:  # and a tracker
            time.sleep(0.1)
        assert len(started) >= 3
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == 128 + signal.SIGTERM
    until = time.monotonic() + 60
    while (left := [pid for pid in started if is_running(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_absent_package_names_its_extra():
    with pytest.raises(AutofocusError, match=r"a_module_that_nobody_has.*'\.\[benchmark\]'"):
        required("a_module_that_nobody_has", "this", "benchmark")
