"""A Dask cluster in the place of local processes: the same bytes, and nothing lost with a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from semdrivers import AutofocusError
from semfocus_plugin.lab.parallel import run_all
from semfocus_plugin.lab.studies.cluster import WORK, table
from semfocus_plugin.lab.training import datasets
from semfocus_plugin.lab.training.datasets import DatasetConfig

distributed, dask = pytest.importorskip("distributed"), pytest.importorskip("dask")
from semfocus_plugin.networks import models_directory

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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("work", WORK)
def test_every_command_has_the_result_of_one_process_though_a_worker_is_killed(work):
    heads, *rows = table([2], 1, [work])
    assert [row[1] for row in rows] == ["one process", "2 workers", "2 workers, one killed"]
    assert len({row[heads.index("SHA-256")] for row in rows}) == 1


@contextmanager
def started(*words: str, **environment: str):
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *words], env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_worker_with_other_networks_is_refused_though_it_joins_later(cluster, tmp_path):
    made = json.loads((models_directory() / "manifest.json").read_text())
    made["models"] = made["models"][:1]
    (tmp_path / "manifest.json").write_text(json.dumps(made))
    address, late = cluster.scheduler_address, []
    words = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    with ExitStack() as stack:

        def join(_: object) -> None:
            if not late:
                late.append(stack.enter_context(started(*words, SEMFOCUS_MODELS=str(tmp_path))))

        for count in (400, 1):
            with pytest.raises(AutofocusError, match="SEMFOCUS_MODELS"):
                run_all(time.sleep, [(0.3,)] * count, workers=address, progress=join)


@pytest.mark.slow
def test_a_task_that_every_worker_dies_of_is_named(cluster):
    with pytest.raises(AutofocusError, match="died of it"):
        run_all(os._exit, [(1,)], workers=cluster.scheduler_address)


@pytest.mark.slow
def test_a_scheduler_that_is_lost_is_named(tmp_path):
    file = tmp_path / "scheduler.json"
    scheduler = started(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
    )
    worker = started("worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard")
    with scheduler as process, worker, dask.config.set({"distributed.comm.timeouts.connect": "2s"}):
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        with pytest.raises(AutofocusError, match="was lost with"):
            run_all(
                time.sleep,
                [(0.2,)] * 600,
                workers=json.loads(file.read_text())["address"],
                progress=lambda _: process.kill(),
            )
