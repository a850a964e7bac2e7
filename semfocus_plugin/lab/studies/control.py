"""Two control networks under the same method, on the same runs: success and frames."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from unittest import mock

import numpy as np

from semdrivers.errors import AutofocusError
from semfocus_plugin.lab.benchmark.runs import Record, run_trial
from semfocus_plugin.lab.benchmark.trials import TRAINED, UNSEEN, Trial, draw_online
from semfocus_plugin.lab.parallel import Workers, run_all

__all__ = ["METHOD", "focus", "table"]

METHOD = "dual-network"
"""Autofocus method that takes the steps of the control network."""


def focus(trial: Trial, models: str) -> Record:
    """Focus once with the networks of a folder; with those that ship where it is empty."""
    with mock.patch.dict(os.environ, {"SEMFOCUS_MODELS": models} if models else {}):
        if not models:
            os.environ.pop("SEMFOCUS_MODELS", None)
        return run_trial(trial, METHOD)


def table(folders: Mapping[str, str], runs: int, seed: int, workers: Workers = None) -> Iterator[tuple[str, ...]]:
    """Yield the figures of every folder of networks on trained and on unseen samples; headings first.

    Parameters
    ----------
    folders : mapping
        Folder by the name it is shown under; an empty folder stands for the networks that ship.
    runs : int
        Runs of each kind of sample and folder; every folder gets the same.

    Raises
    ------
    AutofocusError
        When a run raised: its folder of networks cannot be compared.
    """
    yield (
        "samples",
        "control network",
        "runs",
        "within 1 DoF",
        "within 2 DoF",
        "false",
        "refused",
        "frames, median / p90",
    )
    kinds = {"trained": TRAINED, "unseen": UNSEEN}
    tasks = [
        (trial, folder)
        for names in kinds.values()
        for folder in folders.values()
        for trial in _first(names, runs, seed)
    ]
    records = iter(run_all(focus, tasks, workers=workers))
    for kind in kinds:
        for name in folders:
            ended = [next(records) for _ in range(runs)]
            raised = [record for record in ended if record.status == "error"]
            if raised:
                raise AutofocusError(
                    f"{name}: {len(raised)} of {runs} runs on {kind} samples raised: {raised[0].reason}"
                )
            yield kind, name, str(runs), *_figures(ended)


def _first(names: tuple[str, ...], runs: int, seed: int) -> list[Trial]:
    """Return so many trials, the specimens in turn."""
    drawn = draw_online(names, -(-runs // len(names)), seed)
    by_specimen = [list(trials) for _, trials in groupby(drawn, key=lambda trial: trial.specimen)]
    return [trial for turn in zip(*by_specimen, strict=True) for trial in turn][:runs]


def _figures(records: list[Record]) -> tuple[str, ...]:
    errors = np.array([record.error if record.focused else np.inf for record in records])
    frames = [record.frames for record in records]
    false = sum(record.focused and record.error > 2 for record in records)
    refused = sum(not record.focused for record in records)
    share = [f"{(errors <= limit).mean():.0%}" for limit in (1, 2)]
    return (*share, str(false), str(refused), f"{np.median(frames):g} / {np.percentile(frames, 90):g}")
