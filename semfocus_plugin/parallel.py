"""Independent runs in processes side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from semfocus_plugin import networks
from semfocus_plugin.calibration_file import CALIBRATION_VARIABLE
from semfocus_plugin.learning import LEARNING_VARIABLE

Result = TypeVar("Result")

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that a process reads when it first computes."""


def run_all(
    call: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int = 1,
    progress: Callable[[Result], object] | None = None,
) -> tuple[Result, ...]:
    """Call a function with the arguments of every task; calibrations that the user keeps do not reach it.

    Parameters
    ----------
    call : callable
        A function of a module: processes find it by its name.
    tasks : sequence of tuple
        Arguments of each call.
    workers : int
        Processes; 1 stays in this one.
    progress : callable, optional
        Called with every result as it comes.

    Returns
    -------
    tuple
        In the order of the tasks, which does not depend on `workers`.
    """
    results: dict[int, Result] = {}
    with _uncalibrated():
        for index, result in _each(call, tasks, workers):
            results[index] = result
            if progress is not None:
                progress(result)
    return tuple(results[index] for index in range(len(tasks)))


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes that compute on one thread each: several threads each would wait for one another."""
    with ExitStack() as stack:
        for name in _THREADS:
            stack.enter_context(_environment(name, "1"))
        # Spawned, not forked: onnxruntime and the emulator keep threads that a fork would lose.
        context = get_context("spawn")
        pool = ProcessPoolExecutor(workers, context, initializer=networks.use_threads, initargs=(1,))
        yield stack.enter_context(pool)


@contextmanager
def _uncalibrated() -> Iterator[None]:
    """Figures must not depend on whether this user has calibrated an emulator of the same serial number, or used it."""
    with _environment(CALIBRATION_VARIABLE, os.devnull), _environment(LEARNING_VARIABLE, "off"):
        yield


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _each(call: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, Result]]:
    if workers <= 1 or len(tasks) <= 1:
        for index, arguments in enumerate(tasks):
            yield index, call(*arguments)
        return
    with _processes(workers) as pool:
        futures = {pool.submit(call, *arguments): index for index, arguments in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
