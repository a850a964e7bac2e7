"""A pair network in the manner of DeepFocus (Schubert, Saxena, Kornfeld, Nature Communications 15, 948, 2024).

Two frames at a fixed step to either side of the present working distance go through one small network, which reports
the signed defocus in between; the lens goes there, and again, a fixed number of times. Written anew from the paper, for
focus alone: no stigmators, no code and no weights of theirs. The network beside this file is trained on this project's
emulator by `semfocus_plugin.lab.training.pair.pair_network`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Peer
from semfocus_plugin.lab.training.pair.pair_input import TEST_DEFOCUS, prepared
from semfocus_plugin.optics import trained_depth_of_field

__all__ = ["ITERATIONS", "NETWORK", "PEER", "defocus", "find"]

NETWORK = Path(__file__).parent / "networks" / "deepfocus-like.onnx"
"""File of the network that ships beside the method."""


# Depths of field between the frames of the Tenengrad sweep that finds the capture range in a wide window
_BRACKETING_STEP = 10.0
ITERATIONS = 3
"""Pairs of frames; the paper's practice is one to three."""


def find(bench: Bench) -> Answer:
    """Correct a fixed number of times; where the last correction leads is not looked at."""
    low, high = bench.window
    step = TEST_DEFOCUS * trained_depth_of_field(bench.magnification)
    bench.bracket(_BRACKETING_STEP)
    here = bench.place(bench.sharpest) if bench.wide else bench.start
    moved = 0.0
    for _ in range(ITERATIONS):
        frames = np.stack([bench.look(_on_grid(bench, here + offset)) for offset in (-step, step)])
        moved = -defocus(frames, bench.magnification)
        here = min(max(here + moved * trained_depth_of_field(bench.magnification), low), high)
    return Answer(_on_grid(bench, here), True, f"the last correction was {abs(moved):.2f} nominal depths of field")


def defocus(frames: NDArray[np.float64], magnification: float) -> float:
    """Return the defocus midway between two frames, in nominal depths of field; positive beyond the focus.

    Parameters
    ----------
    frames : ndarray of shape (2, H, W)
        Grey levels, at `TEST_DEFOCUS` below and above.
    magnification : float
        Magnification of the frames.
    """
    answered = _session().run(None, {"pairs": prepared(frames[None], np.array([magnification]))})
    return float(np.sinh(answered[0][0, 0]))


@functools.cache
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(NETWORK), options, providers=["CPUExecutionProvider"])


def _on_grid(bench: Bench, working_distance: float) -> float:
    """Return the nearest place that the lens can take; test frames may lie outside the window."""
    step = bench.limits.step
    snapped = round(working_distance / step) * step if step > 0 else working_distance
    return bench.limits.clip(round(snapped, 9))


PEER = Peer("deepfocus-like", f"pair network after DeepFocus: {ITERATIONS} corrections, two frames each", find)
"""The method, as the benchmark runs it."""
