"""What a training run leaves behind after an epoch: a line of history, and a checkpoint that replaces the last."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["CHECKPOINT", "load", "restore", "save", "there"]

CHECKPOINT = "checkpoint.pt"
"""Name of the file of a checkpoint."""


def save(
    folder: Path,
    config: Any,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    figures: dict[str, float],
    **more: Any,
) -> Path:
    """Append `figures` (with ``epoch`` among them) to ``history.jsonl``, and write the checkpoint in one piece.

    Parameters
    ----------
    config : dataclass instance
        The recipe.
    **more
        Further state to go on with.
    """
    with (folder / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")
    state = {
        "config": dataclasses.asdict(config),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": figures["epoch"],
        "figures": figures,
        **more,
    }
    path = folder / CHECKPOINT
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)
    return path


def there(folder: Path) -> bool:
    """Return whether the folder holds a checkpoint."""
    return (folder / CHECKPOINT).exists()


def load(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the folder's checkpoint."""
    return dict(torch.load(folder / CHECKPOINT, map_location=device, weights_only=True))


def restore(saved: dict[str, Any], network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bring network and optimizer to where a checkpoint left them; returns the number of the next epoch."""
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["epoch"]) + 1
