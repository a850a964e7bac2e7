"""From a checkpoint to an ONNX file and its entry in the manifest of models."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import semfocus_plugin.lab.training.datasets as datasets
from semdrivers.errors import ModelError
from semfocus_plugin.lab.training.architecture import ACNet, CompactAENet, PaperAENet
from semfocus_plugin.lab.training.sampling import TRAINED
from semfocus_plugin.networks import STATE_SIZE

__all__ = [
    "BLUR_RANGE", "TOLERANCE", "enter", "export_acnet", "export_aenet", "to_onnx", "write_control", "write_model",
]  # fmt: skip

TOLERANCE = 1e-4
"""Largest difference allowed between torch and onnxruntime on the same input."""

BLUR_RANGE = 60.0
"""Pixels of blur radius up to which the compact AENet is trusted."""


def export_aenet(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write ``aenet.onnx`` from a checkpoint of `semfocus_plugin.lab.training.aenet` and enter it in the manifest.

    Returns
    -------
    Path
        The ONNX file.

    Raises
    ------
    ModelError
        When onnxruntime answers otherwise than torch.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    width = saved["config"]["width"]
    network = CompactAENet(**saved.get("shape", {})) if width is None else PaperAENet(width)
    network.load_state_dict(saved["network"])
    example = torch.randn(1, 2, 240, 320)
    example[:, 1] = 0.05
    outputs = list(network.outputs)
    halved = not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    if halved:
        _round(network)
    axes = {"frames": {0: "n", 2: "height", 3: "width"}} | {o: {0: "n", 2: "h", 3: "w"} for o in outputs}
    more: dict[str, Any] = {"specimens": [*TRAINED, "textures"]}
    if "log_blur" in outputs:
        more["blur_range"] = BLUR_RANGE
    return write_model(network, example, Path(folder) / "aenet.onnx", axes, "aenet", saved, more, halved=halved)


def export_acnet(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write ``acnet.onnx`` from a checkpoint of `semfocus_plugin.lab.training.acnet`; as `export_aenet`."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network = ACNet(hidden=saved["config"]["hidden"])
    network.load_state_dict(saved["network"])
    return write_control(network, Path(folder) / "acnet.onnx", saved)


def write_control(network: nn.Module, path: Path, saved: Mapping[str, Any]) -> Path:
    """Write a control network, from a state to a step, as `write_model` does."""
    axes = {"state": {0: "n"}, "action": {0: "n"}}
    more = {"action_law": saved["config"]["action_law"], "specimens": [*TRAINED]}
    return write_model(network, torch.randn(1, STATE_SIZE) * 0.3, path, axes, "acnet", saved, more)


def write_model(
    network: nn.Module,
    example: torch.Tensor,
    path: Path,
    axes: dict[str, dict[int, str]],
    role: str,
    saved: Mapping[str, Any],
    more: Mapping[str, Any],
    *,
    halved: bool = False,
) -> Path:
    """Write a network as an ONNX file and enter it in the manifest beside it; returns the path.

    Parameters
    ----------
    network : Module
        Trained.
    example : Tensor
        Input that onnxruntime and torch are compared on.
    path : Path
        Of the file, which has the name of the model.
    axes : dict
        Axes of any length by name, of the input first, then of every output.
    role : str
        Of the model.
    saved : mapping
        The checkpoint: ``config`` and ``figures``.
    more : mapping
        Further fields of the entry.
    halved : bool
        As in `to_onnx`.

    Raises
    ------
    ModelError
        When onnxruntime answers otherwise than torch.
    """
    name, *outputs = axes
    difference = to_onnx(network, example, path, name, outputs, axes, halved=halved)
    enter(path, {"name": path.stem, "role": role, "inputs": [name], "outputs": outputs, **more}, saved, difference)
    return path


def enter(path: Path, entry: dict[str, Any], saved: Mapping[str, Any], difference: float) -> None:
    """Put or replace a model's entry in the ``manifest.json`` beside it."""
    manifest_path = path.parent / "manifest.json"
    manifest: dict[str, Any] = {"format": 1, "models": []}
    if manifest_path.exists():
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    entry |= {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "training": {
            key: value for key, value in saved["config"].items() if key not in ("data", "start", "sheets", "teacher")
        },
        "data": [datasets.recipe(folder) for folder in saved["config"]["data"]],
        "metrics": saved["figures"],
        "torch_difference": difference,
    }
    start = saved["config"].get("start")
    before = _recipe_of(Path(start), entry["role"]) if start else {}
    if before:
        entry["before"] = before
    others = [model for model in manifest["models"] if model["name"] != entry["name"]]
    manifest["models"] = sorted([*others, entry], key=lambda model: model["name"])
    manifest_path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _recipe_of(folder: Path, role: str) -> dict[str, Any]:
    """Return what the manifest of the folder that a training began from says of its model; empty without one."""
    path = folder / "manifest.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else []
    began: dict[str, Any] = next((model for model in models if model["role"] == role), {})
    return {key: began[key] for key in ("sha256", "training", "data", "before") if key in began}


def to_onnx(
    network: nn.Module,
    example: torch.Tensor,
    path: Path,
    name: str,
    outputs: list[str],
    axes: dict[str, dict[int, str]],
    *,
    halved: bool = False,
) -> float:
    """Export, compare with torch on the example, and return the largest difference.

    With `halved` the file holds kernels in half precision, which the network's must be without loss.
    """
    import onnxruntime

    network.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=[name],
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    _compact(path, halved)
    with torch.no_grad():
        expected = network(example)
    expected = expected if isinstance(expected, tuple) else (expected,)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answered = session.run(outputs, {name: example.numpy()})
    difference = max(float(np.abs(a - e.numpy()).max()) for a, e in zip(answered, expected, strict=True))
    if not difference <= TOLERANCE:
        raise ModelError(f"{path.name}: onnxruntime and torch differ by {difference:.2g}, more than {TOLERANCE:g}")
    return difference


def _round(network: nn.Module) -> None:
    """Round all kernels to half precision; no score changes by more than 0.01."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(layer.weight.half().float())


def _compact(path: Path, halved: bool) -> None:
    """Rename what lies between a model's inputs and outputs, and halve its kernels.

    The exporter's names are a hundredth of the file. Half precision is in the file alone: onnxruntime makes single
    precision of the kernels when it opens it.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    names = {each.name: each.name for each in (*graph.input, *graph.output)} | {"": ""}
    for node in graph.node:
        node.name = node.doc_string = ""
        for tensors in (node.input, node.output):
            tensors[:] = [names.setdefault(name, f"t{len(names)}") for name in tensors]
    for weights in graph.initializer:
        weights.name = names.setdefault(weights.name, f"t{len(names)}")
        values = onnx.numpy_helper.to_array(weights)
        if halved and values.ndim == 4:
            name = f"{weights.name}h"
            graph.node.insert(0, onnx.helper.make_node("Cast", [name], [weights.name], to=onnx.TensorProto.FLOAT))
            weights.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name))
    del graph.value_info[:]
    onnx.save(model, str(path))
