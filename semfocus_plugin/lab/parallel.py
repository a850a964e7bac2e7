"""Independent calls side by side, in processes or on a Dask cluster, and packages that only the laboratory needs.

The same tasks give the same results, in the same order, wherever they run: a task draws from its own seed, and computes
on one thread.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, TypeVarTuple

from semdrivers.errors import AutofocusError, installation
from semfocus_plugin import networks

__all__ = ["Workers", "required", "run_all"]

Workers = int | str | None
"""Where to compute: a number of processes, all cores (None), or the address of a Dask scheduler."""

_PATIENCE = 60.0
"""Seconds to wait for the first worker of a cluster."""

_Arguments = TypeVarTuple("_Arguments")
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
        raise AutofocusError(f"{purpose} needs {absent}, which is not installed: {installation(extra)}") from None


def _usual_workers(tasks: int) -> int:
    """Return as many processes as there are cores or tasks; 1 where joblib is not installed."""
    if importlib.util.find_spec("joblib") is None:
        return 1
    return max(min(os.cpu_count() or 1, tasks), 1)


def run_all(
    call: Callable[[*_Arguments], _Result],
    tasks: Sequence[tuple[*_Arguments]],
    *,
    workers: Workers = None,
    progress: Callable[[_Result], object] | None = None,
) -> tuple[_Result, ...]:
    """Call a function with the arguments of every task.

    Parameters
    ----------
    call : callable
        A function of a module: processes find it by its name.
    tasks : sequence of tuple
        Arguments of each call.
    workers : int or str, optional
        Processes, by default as many as there are cores or tasks, and 1 stays in this one; or the address of a Dask
        scheduler, such as ``"tcp://scheduler:8786"``, whose workers compute. A worker that dies loses nothing: what it
        held is computed again.
    progress : callable, optional
        Called with every result, in the order of the tasks.

    Returns
    -------
    tuple
        In the order of the tasks, which does not depend on `workers`.

    Raises
    ------
    AutofocusError
        When several processes are asked for and joblib is not installed; when no cluster answers, or one that would
        compute otherwise than this computer; when the cluster is lost, or kills whatever works on a task.
    """
    results = []
    for result in _engine(call, tasks, workers):
        results.append(result)
        if progress is not None:
            progress(result)
    return tuple(results)


def _engine(
    call: Callable[[*_Arguments], _Result], tasks: Sequence[tuple[*_Arguments]], workers: Workers
) -> Iterator[_Result]:
    if isinstance(workers, str):
        return _on_cluster(call, tasks, workers)
    count = _usual_workers(len(tasks)) if workers is None else min(workers, len(tasks))
    return _in_processes(call, tasks, count) if count > 1 else (_on_one_thread(call, *each) for each in tasks)


def _on_cluster(
    call: Callable[[*_Arguments], _Result], tasks: Sequence[tuple[*_Arguments]], address: str
) -> Iterator[_Result]:
    distributed = required("distributed", "computing on a Dask cluster", "dask")
    try:
        client = distributed.Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise AutofocusError(
            f"no Dask scheduler answers at {address} ({error}); start one with: dask scheduler"
        ) from None
    with client:
        _check_cluster(client, address)
        here, name = _decisive(), getattr(call, "__name__", "task")
        futures = [client.submit(_as_here, here, call, *arguments, key=f"{name}-{uuid.uuid4()}") for arguments in tasks]
        futures.reverse()
        try:
            while futures:
                # The reference goes with the result: what is not held is not computed again when a worker dies.
                yield futures.pop().result()
        except (concurrent.futures.CancelledError, distributed.comm.CommClosedError) as error:
            raise AutofocusError(
                f"the Dask scheduler at {address} was lost with {len(futures) + 1} of {len(tasks)} tasks not handed "
                f"over ({error}); start it, and call again"
            ) from None
        except distributed.KilledWorker as error:
            raise AutofocusError(
                f"every worker of the cluster at {address} that began a task died of it ({error}): they may lack "
                "memory; see their logs"
            ) from None
        finally:
            client.cancel(futures)


def _check_cluster(client: Any, address: str) -> None:
    """Raise AutofocusError where the cluster has no worker, or one that might compute something else."""
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise AutofocusError(
            f"the Dask scheduler at {address} has no worker; start one with: dask worker {address} --nthreads 1"
        ) from None
    for name, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        if worker["nthreads"] != 1:
            raise AutofocusError(
                f"the Dask worker {name} computes {worker['nthreads']} tasks at once in one process, where they would "
                "change each other's settings; start it with --nthreads 1"
            )
    here = _decisive()
    closed = importlib.import_module("distributed.comm").CommClosedError
    for name, there in client.run(_decisive, on_error="return").items():
        if not isinstance(there, closed):  # of a worker that died meanwhile; whoever follows it is checked by its tasks
            _check_same(name, there, here)


def _check_same(worker: str, there: object, here: str) -> None:
    if there != here:
        raise AutofocusError(
            f"the Dask worker {worker} has {there}, and this computer {here}: install the same on both, and start the "
            "worker with the same SEMFOCUS_MODELS, so that both compute the same"
        )


@cache
def _decisive() -> str:
    """Return what decides the bytes of a result: source, networks, and the libraries that compute."""
    source = hashlib.sha256()
    for package in ("firmware_protocol", "semdrivers", "semfocus_plugin"):
        root = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(root.rglob("*.py")):
            source.update(path.read_bytes())
    cards = ", ".join(f"{card.name} {card.sha256[:8]}" for card in networks.read_manifest())
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "onnxruntime"))
    return f"semdrivers of source {source.hexdigest()[:12]}, networks {cards}, {libraries}"


def _as_here(here: str, call: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
    """Call on a worker, which may have joined the cluster after it was checked."""
    _check_same(importlib.import_module("distributed").get_worker().address, _decisive(), here)
    return _on_one_thread(call, *arguments)


def _in_processes(
    call: Callable[[*_Arguments], _Result], tasks: Sequence[tuple[*_Arguments]], workers: int
) -> Iterator[_Result]:
    joblib = required("joblib", "computing in several processes", "benchmark")
    # One thread each: several threads a process would wait for one another.
    with _workers_end(), joblib.parallel_config("loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator", batch_size=1)
        yield from parallel(joblib.delayed(_on_one_thread)(call, *arguments) for arguments in tasks)


def _on_one_thread(call: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
    """Call on one thread: BLAS shares sums among threads, and the last bits with them."""
    networks.use_threads(1)
    if importlib.util.find_spec("threadpoolctl") is None:
        return call(*arguments)
    with importlib.import_module("threadpoolctl").threadpool_limits(1):
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
