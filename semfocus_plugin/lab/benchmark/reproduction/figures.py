"""Figures 3 and 4: how training went, and how score, variance and entropy go with the working distance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError
from semfocus_plugin.lab.benchmark.reproduction.drawing import draw_evaluation, draw_histories
from semfocus_plugin.lab.benchmark.reproduction.estimates import Estimate, estimate, median
from semfocus_plugin.lab.benchmark.reproduction.exhibit import Exhibit, Line
from semfocus_plugin.lab.benchmark.reproduction.offline import aenet_lines, measured_series, scored_fields
from semfocus_plugin.lab.benchmark.reproduction.published import AENET_TRAINING_ACCURACY
from semfocus_plugin.lab.benchmark.reproduction.request import Request, Stage
from semfocus_plugin.lab.benchmark.trials import TRAINED
from semfocus_plugin.lab.training.curves import MeasuredSeries, smooth

__all__ = ["figure_3", "figure_4"]

_FIELDS = 20
_SERIES = 8
_History = list[dict[str, float]]  # Figures of every epoch that was written down


def figure_3(request: Request, stage: Stage) -> Exhibit:
    """Show the course of training runs, from the ``history.jsonl`` that each leaves behind."""
    if not request.history:
        raise InvalidParameterError(
            "Figure 3 shows training runs: name their folders with --history, such as those that "
            "`semfocus train aenet` and `semfocus train acnet` wrote"
        )
    aenet: _History = []
    acnet: _History = []
    for folder in request.history:
        for entry in _read(folder):
            history = acnet if "selected_score" in entry else aenet
            # A run that goes on from another counts on from its last epoch.
            last = int(history[-1]["step"]) if history else -1
            first = not history or entry["epoch"] <= history[-1]["epoch"]
            step = last + 1 + int(entry["epoch"]) if first else last + int(entry["epoch"] - history[-1]["epoch"])
            history.append(entry | {"step": step})
    notes = [f"From {', '.join(str(folder) for folder in request.history)}."]
    if aenet:
        notes.append(
            f"AENet ends at an accuracy of {aenet[-1]['accuracy']:.3f} on its validation split, after "
            f"{len(aenet)} epochs; the paper's at about {AENET_TRAINING_ACCURACY}, after 200."
        )
    if acnet:
        accuracy = f"{acnet[-1]['accuracy']:.3f}" if "accuracy" in acnet[-1] else "not recorded"
        notes.append(
            f"ACNet: share of steps within 5 µm of their target at the end {accuracy}; the paper gives a curve only."
        )
    draw = partial(draw_histories, aenet, acnet)
    data = {"aenet": aenet, "acnet": acnet}
    return Exhibit("Figure 3", "training of AENet and ACNet", (), (), tuple(notes), draw, data)


def figure_4(request: Request, stage: Stage) -> Exhibit:
    """Show score against label, and score, variance and entropy against the working distance."""
    fields = scored_fields(TRAINED, request.count(_FIELDS), request, stage)
    series = measured_series(request.count(_SERIES), request.seed, request, stage)
    correlation = next(line for line in aenet_lines(fields) if line.measure == "Correlation")
    lines = (Line("AENet", correlation.measure, correlation.ours, correlation.published), *_peaks(series))
    notes = (
        f"Score against label: held-out fields, {request.count(_FIELDS)} of each sample, 8 frames each. Curves: "
        f"held-out focal series, {request.count(_SERIES)} of each.",
        "Spread of the maxima: standard deviation of the highest value of each series, all samples and magnifications "
        "together, over the mean fall from there to the lowest. An absolute criterion has a small one.",
        "The working distance is counted from the true focus in depths of field: one axis for all magnifications.",
    )
    columns, draw = (*TRAINED, "all samples"), partial(draw_evaluation, fields, series)
    data = {"fields": fields, "series": series}
    return Exhibit("Figure 4", "focus evaluation by AENet", columns, lines, notes, draw, data)


def _peaks(series: Sequence[MeasuredSeries]) -> list[Line]:
    """Return, for score, variance and entropy, where the peak lies and how much its height varies."""
    curves = smooth(series)
    lines = []
    for index, name in enumerate(("score", "variance", "entropy")):
        values = curves.values[:, index]
        distance = np.abs(curves.defocus[np.argmax(values, axis=1)])
        by_specimen: Mapping[str, Estimate | None] = {
            specimen: median(distance[[name == specimen for name in curves.specimen]]) for specimen in TRAINED
        }
        heights = np.column_stack([values.max(axis=1), values.min(axis=1)])
        spread = {"all samples": estimate(heights, _relative_spread)}
        lines.append(Line(name, "peak from the true focus, DoF, median", by_specimen, digits=2))
        lines.append(Line(name, "spread of the maxima", spread))
    return lines


def _relative_spread(heights: NDArray[Any]) -> float:
    """Return how much the maxima differ, against the fall of a curve from its maximum to its minimum."""
    highest, lowest = heights.T
    return float(highest.std() / max((highest - lowest).mean(), 1e-9))


def _read(folder: Path) -> _History:
    path = folder / "history.jsonl"
    if not path.is_file():
        raise InvalidParameterError(f"--history {folder}: no history.jsonl there; name a folder that training wrote")
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise InvalidParameterError(f"--history {folder}: {path} is not JSON, line by line ({error})") from None
