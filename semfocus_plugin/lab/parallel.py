"""Independent calls in processes side by side, and packages that only the laboratory needs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from semdrivers.errors import AutofocusError
from semfocus_plugin import networks

__all__ = ["required", "run_all"]

_Result = TypeVar("_Result")
_TERMINATIONS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def required(module: str, purpose: str, extra: str) -> Any:
    """Return a module that needs packages of an extra.

    Parameters
    ----------
    module : str
        Full name.
    purpose : str
        Begins the message of the error.
    extra : str
        Extra of this distribution that installs the packages.

    Raises
    ------
    AutofocusError
        When a package is not installed; the message names it, and the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = (error.name or module).partition(".")[0]
        if absent == "semfocus_plugin":
            raise
        raise AutofocusError(
            f"{purpose} needs {absent}, which is not installed: pip install 'semdrivers[{extra}]'"
        ) from None


def _usual_workers(tasks: int) -> int:
    """Return as many processes as there are cores or tasks; 1 where joblib is not installed."""
    if importlib.util.find_spec("joblib") is None:
        return 1
    return max(min(os.cpu_count() or 1, tasks), 1)


def run_all(
    call: Callable[..., _Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int | None = None,
    progress: Callable[[_Result], object] | None = None,
) -> tuple[_Result, ...]:
    """Call a function with the arguments of every task.

    Parameters
    ----------
    call : callable
        A function of a module: processes find it by its name.
    tasks : sequence of tuple
        Arguments of each call.
    workers : int, optional
        Processes; by default as many as there are cores or tasks. 1 stays in this one.
    progress : callable, optional
        Called with every result, in the order of the tasks.

    Returns
    -------
    tuple
        In the order of the tasks, which does not depend on `workers`.

    Raises
    ------
    AutofocusError
        When several processes are asked for and joblib is not installed.
    """
    count = _usual_workers(len(tasks)) if workers is None else min(workers, len(tasks))
    results = []
    for result in _in_processes(call, tasks, count) if count > 1 else (call(*arguments) for arguments in tasks):
        results.append(result)
        if progress is not None:
            progress(result)
    return tuple(results)


def _in_processes(call: Callable[..., _Result], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[_Result]:
    joblib = required("joblib", "computing in several processes", "benchmark")
    # One thread each: several threads a process would wait for one another.
    with _workers_end(), joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator", batch_size=1)
        yield from parallel(joblib.delayed(_on_one_thread)(call, *arguments) for arguments in tasks)


def _on_one_thread(call: Callable[..., _Result], *arguments: Any) -> _Result:
    networks.use_threads(1)
    return call(*arguments)


@contextmanager
def _workers_end() -> Iterator[None]:
    """End the processes at once when this one is interrupted, terminated (SIGTERM, SIGHUP) or fails."""
    loky = required("joblib.externals.loky", "computing in several processes", "benchmark")
    previous: dict[int, Any] = {}

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, terminate) for number in _TERMINATIONS}
    try:
        yield
    except BaseException:
        loky.get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
