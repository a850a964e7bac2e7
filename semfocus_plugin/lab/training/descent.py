"""The loop of a training, the same for every network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from semfocus_plugin.lab.training.processes import average

__all__ = ["LARGEST_GRADIENT", "Progress", "Step", "cosine", "descend", "learn"]

LARGEST_GRADIENT = 5.0
"""Norm to which larger gradients are scaled."""

Progress = Callable[[dict[str, float]], object]
"""Takes the figures of a training, during and after every epoch."""

Step = Callable[[int], Tensor]
"""Returns the loss of a step of an epoch, by the number of the step."""


def descend(optimizer: torch.optim.Optimizer, value: Tensor, largest: float = LARGEST_GRADIENT) -> float:
    """Step against the gradient of a loss, no longer than `largest` in norm, and return the loss."""
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(value)
    if largest < math.inf:
        nn.utils.clip_grad_norm_([each for group in optimizer.param_groups for each in group["params"]], largest)
    optimizer.step()
    return float(value.detach())


def learn(
    optimizer: torch.optim.Optimizer,
    epochs: range,
    begin: Callable[[int], tuple[int, Step]],
    end: Callable[[int, dict[str, float]], object],
    *,
    rate: Callable[[int, int, int], float] | None = None,
    progress: Progress | None = None,
    every: int = 20,
    largest: float = LARGEST_GRADIENT,
) -> None:
    """Run epochs of steps downhill.

    Parameters
    ----------
    optimizer : Optimizer
        Changes the network.
    epochs : range
        Numbers of the epochs.
    begin : callable
        From the number of an epoch to its number of steps, and the loss of each.
    end : callable
        Called after an epoch with its number and figures: ``epoch``, mean ``loss`` over steps and processes,
        ``seconds``.
    rate : callable, optional
        Learning rate, from the numbers of epoch and step and the steps of an epoch; left alone by default.
    progress : callable, optional
        Called after every so many steps.
    every : int
        Steps between two calls of `progress`.
    largest : float
        As for `descend`.
    """
    for epoch in epochs:
        started, total = time.monotonic(), 0.0
        steps, loss = begin(epoch)
        for step in range(steps):
            if rate is not None:
                optimizer.param_groups[0]["lr"] = rate(epoch, step, steps)
            total += descend(optimizer, loss(step), largest)
            if progress and step % every == every - 1:
                progress({"epoch": epoch, "step": step + 1, "steps": steps, "loss": total / (step + 1)})
        seconds = round(time.monotonic() - started, 1)
        end(epoch, {"epoch": epoch, "loss": average(total / steps), "seconds": seconds})


def cosine(done: float, total: float = 1.0) -> float:
    """Return the share of a learning rate that falls from 1 to 0 as half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * done / total))
