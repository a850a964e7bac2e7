"""What a dataset, a benchmark and a training cost on more workers, projected from parts that are measured.

Work that divides is divided; to it comes what does not: the last file of each worker, the network to shared storage,
the scheduler, the gradients that processes exchange. Each is a bound of its own, and the largest decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from semfocus_plugin.lab.training.datasets import DatasetConfig

__all__ = ["Parts", "Projection", "benchmark", "dataset", "table", "training"]

_SCHEDULING = 1e-3
"""Seconds of the scheduler a task (documentation of Dask, "Best practices": about a millisecond)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Measured parts, and what is paid for them.

    Parameters
    ----------
    frame : float
        Core seconds of a training frame.
    run : float
        Core seconds of a run of autofocus on the emulator.
    step : float
        GPU seconds of a training step.
    batch : int
        Frames of a step.
    weights : float
        Bytes of gradients that a step exchanges.
    storage, link : float
        Bytes a second to shared storage, of all workers together; and between GPUs.
    core_price, gpu_price : float
        Of an hour.
    """

    frame: float
    run: float
    step: float = 0.155
    batch: int = 90
    weights: float = 51.6e6 * 4
    storage: float = 500e6
    link: float = 10e9
    core_price: float = 0.04
    gpu_price: float = 3.0


@dataclass(frozen=True, slots=True)
class Projection:
    """A piece of work on a number of workers: seconds, worker hours, and what bounds it."""

    seconds: float
    hours: float
    bound: str


def _projected(workers: int, bounds: dict[str, float]) -> Projection:
    bound = max(bounds, key=lambda name: bounds[name])
    return Projection(bounds[bound], workers * bounds[bound] / 3600, bound)


def dataset(parts: Parts, frames: int, workers: int) -> Projection:
    """Project a dataset of FAST frames; a file is made by one worker."""
    config = DatasetConfig(count=frames)
    rounds = math.ceil(config.shards / workers)
    bounds = {
        "drawing, file by file": rounds * min(config.shard_size, frames) * parts.frame,
        "shared storage": frames * 320 * 240 / parts.storage,
        "scheduler": config.shards * _SCHEDULING,
    }
    return _projected(workers, bounds)


def benchmark(parts: Parts, runs: int, workers: int) -> Projection:
    """Project a benchmark; a run is a task."""
    longest = math.ceil(runs / workers) * parts.run
    return _projected(workers, {"runs": longest, "scheduler": runs * _SCHEDULING})


def training(parts: Parts, frames: int, passes: int, workers: int) -> Projection:
    """Project the training of a network on so many GPUs that share every batch."""
    steps = passes * math.ceil(frames / parts.batch)
    own = math.ceil(parts.batch / workers) / parts.batch * parts.step
    exchange = 2 * parts.weights * (workers - 1) / workers / parts.link
    # The exchange goes on beside the computing of the step, so that the longer of the two counts.
    return _projected(workers, {"computing": steps * own, "exchange of gradients": steps * exchange})


def table(parts: Parts, workers: Sequence[int], frames: int, runs: int, passes: int) -> Iterator[tuple[str, ...]]:
    """Yield the projections; headings first."""
    yield "work", "workers", "time", "worker hours", "price", "bound by"
    kinds: tuple[tuple[str, Callable[[int], Projection], float], ...] = (
        (f"dataset of {frames} frames, cores", lambda n: dataset(parts, frames, n), parts.core_price),
        (f"benchmark of {runs} runs, cores", lambda n: benchmark(parts, runs, n), parts.core_price),
        (f"published network, {passes} passes, GPUs", lambda n: training(parts, frames, passes, n), parts.gpu_price),
    )
    for name, project, price in kinds:
        for count in workers:
            made = project(count)
            yield name, str(count), _time(made.seconds), f"{made.hours:.2f}", f"{made.hours * price:.2f}", made.bound


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.0f} s"
    )
