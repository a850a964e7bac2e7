"""Independent runs in processes side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

from semfocus_plugin import networks

Result = TypeVar("Result")


def run_all(
    call: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int = 1,
    progress: Callable[[Result], object] | None = None,
) -> tuple[Result, ...]:
    """Call a function with the arguments of every task.

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
    for index, result in _each(call, tasks, workers):
        results[index] = result
        if progress is not None:
            progress(result)
    return tuple(results[index] for index in range(len(tasks)))


def _each(call: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, Result]]:
    if workers <= 1 or len(tasks) <= 1:
        for index, arguments in enumerate(tasks):
            yield index, call(*arguments)
        return
    # Spawned, not forked: onnxruntime and the emulator keep threads that a fork would lose.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=networks.use_threads, initargs=(1,))
    with pool:
        futures = {pool.submit(call, *arguments): index for index, arguments in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
