"""What autofocus computes for a frame of a run, part by part, beside one inference of its network in the same run.

Processor time of the run's thread is measured, with one thread for the network, so a busy computer is no excuse and a
second core no help. What the instrument's calls compute, emulator and driver, is left out.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any
from unittest import mock

from semdrivers.focus import AutofocusSettings
from semfocus_plugin import networks
from semfocus_plugin.lab.benchmark.runs import CountedMicroscope, focus, prepared
from semfocus_plugin.lab.benchmark.trials import TRACKS, draw_trials

__all__ = ["INFERENCE", "PARTS", "frame_compute", "tables"]

INFERENCE = "network, its inference"
"""Name of the part that the others are compared with."""

_REST, _INSTRUMENT = "the rest: method, loop, what becomes of a frame", "instrument"

PARTS = {
    INFERENCE: ("networks._models:AENet.maps",),
    "network, its input and the metrics": (
        "networks._preprocessing:preprocess",
        "networks._metrics:variance",
        "networks._metrics:entropy",
    ),
    "data bar": ("run._focus_run:bar_rows_of",),
    "saturation": ("networks._metrics:clipped_share",),
    "spoiled check": ("run._spoiled:spoiled",),
    "fine structure, correlation of lines": (
        "networks._metrics:fine_structure",
        "networks._metrics:line_correlation",
        "networks._metrics:border_share",
    ),
    "spectra": ("optics._spectra:spectrum",),
    "periods": ("optics._periodic:period_of",),
    "posterior": ("optics._posterior:Posterior.__init__",),
    "tables of the comparisons": ("optics._spectra:Pair.__init__", "optics._spectra:SectorPair.__init__"),
    "sampling of the astigmatism": ("optics._elliptic:sample",),
    "checks of the frames against each other": (
        "run._focus_run:FrameChecks.late",
        "run._frame_checks:lens_stands_still",
        "run._frame_checks:contradiction",
        "run._mixtures:mixture",
    ),
    "drift": ("optics._drift:drift_of",),
    "diagnosis": ("optics._findings:finding",),
    "events": ("run._focus_run:FocusRun._record",),
    _INSTRUMENT: tuple(f"lab.benchmark.runs:CountedMicroscope.{name}" for name in ("_read", "_write", "_call")),
}
"""What is computed where; a function within another one counts for its own part alone."""


def frame_compute(runs: int, seed: int, track: str = "near") -> tuple[int, dict[str, float]]:
    """Return the frames of some runs, and the milliseconds of a frame by part.

    Parameters
    ----------
    runs : int
        Runs of the default method, on the emulator and its own clock; another one goes before, for what is read once.
    seed : int
        Of the runs.
    track : str
        A track of the benchmark on the emulator.
    """
    networks.use_threads(1)
    frames = 0
    with _timed() as spent:
        for number, trial in enumerate(draw_trials(TRACKS[track], runs + 1, seed)):
            if number == 1:
                spent.clear()
                frames = 0
            with prepared(trial) as (_, microscope):
                counted = CountedMicroscope(microscope)
                with spent.part(_REST):
                    focus(counted, AutofocusSettings())
                frames += counted.frames
    return frames, {name: 1e3 * spent[name] / frames for name in (*PARTS, _REST) if name != _INSTRUMENT}


def tables(runs: int, seed: int, track: str = "near") -> Iterator[tuple[str, ...]]:
    """Yield ms of a frame by part, and the same in inferences, the largest first and their sum last; headings first."""
    frames, spent = frame_compute(runs, seed, track)
    one = spent[INFERENCE]
    yield "part", f"ms a frame, over {frames} frames", "in inferences"
    for name in sorted(spent, key=lambda name: -spent[name]):
        yield name, f"{spent[name]:.2f}", f"{spent[name] / one:.2f}"
    whole = sum(spent.values())
    yield "whole frame", f"{whole:.2f}", f"{whole / one:.2f}"


class _Spent(defaultdict[str, float]):
    """Seconds by part, of which one at a time counts."""

    def __init__(self) -> None:
        super().__init__(float)
        self._at_work: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is computed in the block for a part, and for no other."""
        self._switch()
        self._at_work.append(name)
        try:
            yield
        finally:
            self._switch()
            self._at_work.pop()

    def _switch(self) -> None:
        now = time.thread_time()
        if self._at_work:
            self[self._at_work[-1]] += now - self._since
        self._since = now


@contextmanager
def _timed() -> Iterator[_Spent]:
    """Have every function of `PARTS` counted while the block runs, wherever it was imported to."""
    spent = _Spent()
    with ExitStack() as patches:
        for name, functions in PARTS.items():
            for function in functions:
                module, _, path = function.partition(":")
                owner: Any = sys.modules[f"semfocus_plugin.{module}"]
                original = attrgetter(path)(owner)
                timed = _counting(spent, name, original)
                if "." in path:
                    of, _, attribute = path.rpartition(".")
                    patches.enter_context(mock.patch.object(attrgetter(of)(owner), attribute, timed))
                    continue
                for other in [m for key, m in sys.modules.items() if key.startswith("semfocus_plugin.")]:
                    for attribute in [key for key, value in vars(other).items() if value is original]:
                        patches.enter_context(mock.patch.object(other, attribute, timed))
        yield spent


def _counting(spent: _Spent, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        with spent.part(name):
            return function(*arguments, **named)

    return timed
