"""Several processes that train one network together, as ``torchrun`` starts them: gloo on CPUs, nccl on GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed, nn

__all__ = ["Processes", "average", "joined"]

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training, as one of them sees them.

    Parameters
    ----------
    rank : int
        Number of this one; 0 writes and reports.
    count : int
        How many there are.
    device : torch.device
        Where this one computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def share(self) -> slice:
        """What this process takes of the frames of a step."""
        return slice(self.rank, None, self.count)

    def weight(self, frames: int) -> float:
        """Return the factor on the mean loss of this share, so that the processes' average is that of all `frames`."""
        own = len(range(frames)[self.share])
        return own * self.count / frames

    def shared(self, network: nn.Module) -> nn.Module:
        """Return the network whose gradients are averaged over the processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network)

    def agreed(self, value: _Value | None) -> _Value:
        """Return what the first process says; the others pass None."""
        values = [value]
        if self.count > 1:
            distributed.broadcast_object_list(values)
        assert values[0] is not None
        return values[0]


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; without it there is this one alone."""
    cuda = torch.cuda.is_available()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
        return
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        yield Processes(distributed.get_rank(), count, device)
    finally:
        distributed.destroy_process_group()


def average(value: float) -> float:
    """Return the average of a number over the processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor([value], dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return float(total.item() / distributed.get_world_size())
