"""A Dask cluster in the place of local processes: the same bytes, and nothing lost with a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

import pytest

from semdrivers import AutofocusError
from semfocus_plugin.lab.parallel import run_all
from semfocus_plugin.lab.training import datasets
from semfocus_plugin.lab.training.datasets import DatasetConfig

distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
DATA = DatasetConfig(kind="series", mixture="paper", count=8, series_frames=2, seed=3)


@pytest.fixture(scope="module")
def cluster():
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_worker_loses_nothing_and_changes_no_byte(cluster, tmp_path):
    datasets.build(DATA, tmp_path / "here", workers=1)
    worker = cluster.workers[0].pid
    killed = threading.Event()

    def kill(done: int, _: int) -> None:
        if done >= 2 and not killed.is_set():
            killed.set()
            os.kill(worker, signal.SIGKILL)

    seen = []
    datasets.build(
        DATA,
        tmp_path / "there",
        workers=cluster.scheduler_address,
        progress=lambda done, of: (seen.append(done), kill(done, of)),
    )
    assert killed.is_set()
    assert seen == list(range(1, 9))
    here, there = (json.loads((tmp_path / name / "manifest.json").read_text())["files"] for name in ("here", "there"))
    assert here == there
    assert {path.name for path in (tmp_path / "there").iterdir()} == {*there, "config.json", "manifest.json"}


@pytest.mark.slow
def test_what_a_call_raises_comes_back_from_the_cluster(cluster):
    with pytest.raises(ValueError, match="invalid literal"):
        run_all(int, [("1",), ("x",), ("3",)], workers=cluster.scheduler_address)


@pytest.mark.slow
def test_workers_of_several_threads_and_addresses_without_a_scheduler_are_refused():
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as busy,
        pytest.raises(AutofocusError, match="--nthreads 1"),
    ):
        run_all(time.sleep, [(0.0,)], workers=busy.scheduler_address)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(AutofocusError, match="dask scheduler"),
    ):
        run_all(time.sleep, [(0.0,)], workers="tcp://127.0.0.1:9")
