"""What a score costs: the shipped AENet beside the paper's architecture at several widths, in one run.

The paper's networks have random weights, which cost as much as trained ones; how well they score is not asked here.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from semfocus_plugin import networks
from semfocus_plugin.lab.training.architecture import PaperAENet

__all__ = ["export", "milliseconds", "open_session", "table"]


def export(width: float, path: Path) -> int:
    """Write the paper's network at a width as ONNX; returns its parameters."""
    torch.manual_seed(1)
    network = PaperAENet(width).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.randn(1, 2, 240, 320),),
            str(path),
            input_names=["frames"],
            opset_version=17,
            dynamo=False,
        )
    return sum(each.numel() for each in network.parameters())


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a network on a number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(sessions: dict[str, onnxruntime.InferenceSession], seconds: float) -> dict[str, float]:
    """Return the median time of a frame, the networks taking turns so that a busy moment meets them all."""
    frames = np.random.default_rng(1).normal(size=(1, 2, 240, 320)).astype(np.float32)
    frames[:, 1] = 0.05
    times: dict[str, list[float]] = {name: [] for name in sessions}
    end = time.perf_counter() + seconds * len(sessions)
    while time.perf_counter() < end or min(map(len, times.values())) < 6:
        for name, session in sessions.items():
            for _ in range(1 if times[name] and times[name][-1] > 0.05 else 10):
                began = time.perf_counter()
                session.run(None, {"frames": frames})
                times[name].append(time.perf_counter() - began)
    return {name: 1e3 * float(np.median(values[1:])) for name, values in times.items()}


def table(widths: Sequence[float], seconds: float, threads: int) -> Iterator[tuple[str, ...]]:
    """Export, time, and yield the rows, headings first."""
    card = next(card for card in networks.read_manifest() if card.role == "aenet")
    with tempfile.TemporaryDirectory() as folder:
        paths, sizes = {"shipped": card.path}, {}
        for width in widths:
            name = f"paper, width {width:g}"
            paths[name] = Path(folder) / f"{width:g}.onnx"
            sizes[name] = export(width, paths[name])
        sessions = {name: open_session(path, threads) for name, path in paths.items()}
        megabytes = {name: path.stat().st_size / 1e6 for name, path in paths.items()}
        times = milliseconds(sessions, seconds)
    yield "AENet", "parameters, millions", "MB", "ms", "times the shipped one"
    for name, value in times.items():
        parameters = f"{sizes[name] / 1e6:.2f}" if name in sizes else ""
        yield name, parameters, f"{megabytes[name]:.2f}", f"{value:.1f}", f"{value / times['shipped']:.1f}"
