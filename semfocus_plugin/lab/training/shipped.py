"""The AENet in use, read out of its ONNX file so that training can go on from it.

An exported network has its batch norms folded into the convolutions; the one read from it has none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semdrivers.errors import ModelError
from semfocus_plugin.lab.training.architecture import CompactAENet
from semfocus_plugin.networks import ELLIPSE_OUTPUTS, AENet, ModelCard

__all__ = ["read_compact", "with_ellipse"]

_HEADS = 5, 9
"""Convolutions after the body, without and with an ellipse: the gate, two of the head, four of the second, two of the
correction."""

_TOLERANCE = 1e-3
"""Largest difference allowed between the file and the network read from it, in scores and in ln(1 + blur radius)."""


def read_compact(card: ModelCard) -> tuple[CompactAENet, dict[str, Any]]:
    """Return the network of a compact AENet's file, in evaluation mode, and its shape (arguments of `CompactAENet`).

    Raises
    ------
    ModelError
        When the file is no compact AENet, or answers otherwise than what was read from it.
    """
    import onnx

    card.verify()
    graph = onnx.load(str(card.path)).graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    values |= {
        n.output[0]: values[n.input[0]].astype(np.float32)
        for n in graph.node
        if n.op_type == "Cast" and n.input[0] in values
    }
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    try:
        weights = [(values[node.input[1]], values[node.input[2]]) for node in convolutions]
        strides = [next(a.ints[0] for a in node.attribute if a.name == "strides") for node in convolutions]
        shape = _shape([weight for weight, _ in weights], strides, ELLIPSE_OUTPUTS[0] in card.outputs)
        network = CompactAENet(**shape)
        _fill(network, weights)
    except (KeyError, IndexError, StopIteration, ValueError, RuntimeError) as error:
        raise ModelError(
            f"model {card.name!r}: {card.path} is no compact AENet ({error}); training can go on from a run of its "
            "own: --start FOLDER"
        ) from error
    network.eval()
    _check(network, card)
    return network, shape


def with_ellipse(
    network: CompactAENet, shape: dict[str, Any], anew: bool = False
) -> tuple[CompactAENet, dict[str, Any]]:
    """Return a network that reports an ellipse, and its shape: an untrained head where it has none, or `anew`.

    What the network reports of the round blur and of its score stays as it was.
    """
    if network.ellipse is not None and not anew:
        return network, shape
    shape = shape | {"ellipse": True}
    grown = CompactAENet(**shape)
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("ellipse.")}
    grown.load_state_dict(kept, strict=False)
    return grown, shape


def _shape(weights: list[NDArray[Any]], strides: list[int], ellipse: bool) -> dict[str, Any]:
    """Return channels and blocks: every stride of two but the stem's begins a stage, two convolutions make a block."""
    body = [(weight.shape[0], stride) for weight, stride in zip(weights[: -_HEADS[ellipse]], strides, strict=False)]
    first = [k for k, (_, stride) in enumerate(body) if stride == 2]
    ends = [*first[2:], len(body)]
    return {
        "channels": tuple(int(body[k][0]) for k in first),
        "blocks": tuple((end - begin - 1) // 2 for begin, end in zip(first[1:], ends, strict=True)),
        "norms": False,
        "ellipse": ellipse,
    }


def _fill(network: nn.Module, weights: list[tuple[NDArray[Any], NDArray[Any]]]) -> None:
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, weights, strict=True):
            if layer.weight.shape != weight.shape or layer.bias is None:
                raise ValueError(f"a kernel of shape {weight.shape} where {tuple(layer.weight.shape)} belongs")
            layer.weight.copy_(torch.from_numpy(weight.copy()))
            layer.bias.copy_(torch.from_numpy(bias.copy()))


def _check(network: CompactAENet, card: ModelCard) -> None:
    random = np.random.default_rng(0)
    frames = random.normal(size=(4, 2, 240, 320)).astype(np.float32)
    frames[2:, 0] = np.cumsum(frames[2:, 0], axis=-1) / 10
    frames[:, 1] = np.array([0.005, 0.03, 0.1, 0.3])[:, None, None]
    with torch.no_grad():
        reported = dict(zip(network.outputs, network(torch.from_numpy(frames)), strict=True))
    for name, expected in AENet(card).maps(frames).items():
        difference = float(np.abs(reported[name].numpy() - expected).max())
        if not difference <= _TOLERANCE:
            raise ModelError(
                f"model {card.name!r}: what was read from {card.path} gives a {name} that differs by {difference:.2g}; "
                "training cannot go on from this file"
            )
