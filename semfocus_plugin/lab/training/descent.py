"""One step downhill, the same for every network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["LARGEST_GRADIENT", "descend"]

LARGEST_GRADIENT = 5.0
"""Norm to which larger gradients are scaled."""


def descend(optimizer: torch.optim.Optimizer, value: Tensor, largest: float = LARGEST_GRADIENT) -> float:
    """Step against the gradient of a loss, no longer than `largest` in norm, and return the loss."""
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(value)
    if largest < math.inf:
        nn.utils.clip_grad_norm_([each for group in optimizer.param_groups for each in group["params"]], largest)
    optimizer.step()
    return float(value.detach())
