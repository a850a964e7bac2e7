"""The same work in one process and on Dask workers of this computer: what comes out, and what it takes.

A result is compared by a SHA-256: of the files of a dataset, of the records of runs without the processor time that
they took, of everything that a table of the paper comes to.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from semdrivers.errors import AutofocusError
from semdrivers.files import counted, plain
from semfocus_plugin.lab.benchmark.reproduction import TABLES, Request
from semfocus_plugin.lab.benchmark.runs import run_trial, run_trials
from semfocus_plugin.lab.benchmark.trials import MAGNIFICATIONS, Trial, draw_online, draw_trials, tracks_named
from semfocus_plugin.lab.parallel import Workers, required, run_all
from semfocus_plugin.lab.training import datasets
from semfocus_plugin.methods import METHODS

__all__ = ["WORK", "Work", "table"]

Work = Callable[[int, Workers, Callable[[object], object]], str]
"""Does work of a size somewhere, calling a function after every part of it, and returns the hash of what came out."""

_SEED = 7
_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": 128 << 20, "MALLOC_MMAP_THRESHOLD_": 32 << 20}
"""Of the workers: Dask has them hand freed memory back at once, and every frame then costs its pages again."""
_METHODS = METHODS[0].name, "brent"


def table(
    counts: Sequence[int], size: int, work: Sequence[str], progress: Callable[[str], object] | None = None
) -> Iterator[tuple[str, ...]]:
    """Yield hash, time and efficiency of every kind of work, in one process and on so many workers; headings first.

    A last row of each kind has a worker killed (SIGKILL) in the middle. Workers have drawn a frame and focused before
    they are measured, so that the import of libraries does not count. The efficiency is the core seconds of one process
    over those here, which are of all workers, the scheduler and the client.

    Parameters
    ----------
    counts : sequence of int
        Workers of each row.
    size : int
        How much work: so many runs of each track or specimen, twice as many files of a dataset.
    work : sequence of str
        Names of `WORK`.
    progress : callable, optional
        Called with what is measured next.

    Raises
    ------
    AutofocusError
        When a worker was to be killed and none was.
    """
    yield "work", "where", "SHA-256", "s", "speed-up", "core s", "efficiency"
    for name in work:
        alone: tuple[float, float] | None = None
        for count, kill in ((0, False), *((count, False) for count in counts), (max(counts), True)):
            where = f"{counted(count, 'worker')}{', one killed' if kill else ''}" if count else "one process"
            if progress is not None:
                progress(f"{name}, {where}")
            made, seconds, core = _on_workers(WORK[name], size, count, kill) if count else _here(WORK[name], size)
            alone = alone or (seconds, core)
            cells = (seconds, 1), (alone[0] / seconds, 2), (core, 1), (alone[1] / core, 2)
            yield (
                name,
                where,
                made[:16],
                *("" if math.isnan(value) else f"{value:.{digits}f}" for value, digits in cells),
            )


def _here(work: Work, size: int) -> tuple[str, float, float]:
    """Measure in a process of its own, as a worker is: this one may have drawn with other threads, and keeps that."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as process:
        return process.submit(_alone, work, size).result()


def _alone(work: Work, size: int) -> tuple[str, float, float]:
    run_all(_warm, [()], workers=1)  # on one thread, as the work: a network keeps the threads that it was opened with
    began = time.monotonic(), time.process_time()
    made = work(size, 1, lambda _: None)
    return made, time.monotonic() - began[0], time.process_time() - began[1]


def _on_workers(work: Work, size: int, count: int, kill: bool) -> tuple[str, float, float]:
    """Return the hash, the seconds, and processor seconds of workers, scheduler and client together."""
    dask, distributed = (required(name, "computing on a Dask cluster", "dask") for name in ("dask", "distributed"))
    dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": str(value) for name, value in _ENVIRONMENT.items()})
    options = {"n_workers": count, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        client.run(_warm)
        victim, done = cluster.workers[0].pid, 0

        def step(_: object) -> None:
            nonlocal done
            done += 1
            if kill and done == size:
                os.kill(victim, getattr(signal, "SIGKILL", signal.SIGTERM))

        before = sum(client.run(time.process_time).values())
        began = time.monotonic(), time.process_time()
        made = work(size, cluster.scheduler_address, step)
        seconds, own = time.monotonic() - began[0], time.process_time() - began[1]
        if not kill:
            return made, seconds, own + sum(client.run(time.process_time).values()) - before
        if victim in client.run(os.getpid, on_error="ignore").values():
            raise AutofocusError("no worker was killed: there were too few results")
        return made, seconds, math.nan


def _warm() -> None:
    """Import and open what work of any kind needs."""
    datasets.DatasetConfig(count=1).arrays(0)
    for method in _METHODS:
        run_trial(draw_trials(tracks_named(["near"])[0], 1, _SEED)[0], method)


def _hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def _dataset(size: int, workers: Workers, step: Callable[[object], object]) -> str:
    config = datasets.DatasetConfig(count=128 * 2 * size, seed=_SEED, shard_size=128)
    with tempfile.TemporaryDirectory() as folder:
        datasets.build(config, folder, workers=workers, progress=lambda done, _: step(done))
        return _hashed(json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))["files"])


def _records(
    trials: Sequence[Trial], methods: Sequence[str], scored: bool, workers: Workers, step: Callable[[object], object]
) -> str:
    records = run_trials(trials, methods, scored=scored, workers=workers, progress=step)
    return _hashed([dataclasses.replace(record, compute_ms=None) for record in records])


def _benchmark(size: int, workers: Workers, step: Callable[[object], object]) -> str:
    trials = [trial for track in tracks_named(["near", "wild"]) for trial in draw_trials(track, size, _SEED)]
    return _records(trials, _METHODS, False, workers, step)


def _evaluate(size: int, workers: Workers, step: Callable[[object], object]) -> str:
    return _records(draw_online(tuple(MAGNIFICATIONS), size, _SEED), _METHODS[:1], True, workers, step)


def _reproduce(size: int, workers: Workers, step: Callable[[object], object]) -> str:
    request = Request(size, _SEED, workers=workers)
    return _hashed(TABLES["1"](request, lambda title, steps: step).record({}))


WORK: dict[str, Work] = {
    "dataset": _dataset,
    "benchmark": _benchmark,
    "evaluate": _evaluate,
    "reproduce --table 1": _reproduce,
}
"""Kinds of work, by the command that does it."""
