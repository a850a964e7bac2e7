"""Print what a score costs: the shipped AENet beside the paper's architecture at several widths, in one run.

The paper's networks have random weights, which cost as much as trained ones; how well they score is not asked here.
Needs torch and onnx (``pip install 'semdrivers[train]'``).

Usage: python benchmarks/network_size.py [--seconds 5] [--threads 2] [--widths 1.0,0.5,0.25,0.125]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from semfocus_plugin.lab.training.architecture import PaperAENet
from semfocus_plugin.networks import _models as networks


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


def main() -> None:
    """Export, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--widths", default="1.0,0.5,0.25,0.125")
    chosen = parser.parse_args()
    card = next(card for card in networks.read_manifest() if card.role == "aenet")
    with tempfile.TemporaryDirectory() as folder:
        paths, sizes = {"shipped": card.path}, {}
        for width in map(float, chosen.widths.split(",")):
            name = f"paper, width {width:g}"
            paths[name] = Path(folder) / f"{width:g}.onnx"
            sizes[name] = export(width, paths[name])
        sessions = {name: open_session(path, chosen.threads) for name, path in paths.items()}
        megabytes = {name: path.stat().st_size / 1e6 for name, path in paths.items()}
        times = milliseconds(sessions, chosen.seconds)
    print(f"One FAST frame on {chosen.threads} threads, median of the run:\n")
    print("| AENet | parameters, millions | MB | ms | times the shipped one |\n| --- | --- | --- | --- | --- |")
    for name, value in times.items():
        parameters = f"{sizes[name] / 1e6:.2f}" if name in sizes else ""
        print(f"| {name} | {parameters} | {megabytes[name]:.2f} | {value:.1f} | {value / times['shipped']:.1f} |")


if __name__ == "__main__":
    main()
