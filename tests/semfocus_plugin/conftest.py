"""A simulated microscope whose frames carry their defocus, an evaluator that reads it, and tiny real models."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import j1

from semdrivers import Capabilities, Image, Range, ScanMode
from semfocus_plugin.networks import Evaluation, Networks, maximum_action, paper_factor, use_threads

use_threads(1)
"""Tests run in more processes than there are cores."""


@dataclass
class Simulated:
    """The five members of a microscope, and a list of every place the lens was sent to."""

    best: float = 15.0
    magnification: float = 3000.0
    working_distance_now: float = 15.0
    limits: Range = field(default_factory=lambda: Range(1.0, 50.0, 0.001))
    surface: str = "sample"
    seed: int = 0
    sent: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        noise, more = self.random.normal(size=(2, 240, 320))
        self.noise = 30 * more
        self.frames = np.random.default_rng([self.seed, 2])
        self.fine = 25 * (noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1))
        self.coarse = np.kron(self.random.normal(0, 15, (6, 8)), np.ones((40, 40)))
        self.capabilities = Capabilities(self.limits, Range(20, 150_000))

    @property
    def convergence(self) -> float:
        return 0.045 / self.best

    @property
    def pixel(self) -> float:
        return 0.4 / self.magnification

    @property
    def depth_of_field(self) -> float:
        return math.hypot(self.pixel, 60e-6) / self.convergence

    @property
    def error(self) -> float:
        return abs(self.working_distance - self.best) / self.depth_of_field

    @property
    def working_distance(self) -> float:
        return self.working_distance_now

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        assert self.limits.minimum <= value <= self.limits.maximum
        self.sent.append(value)
        self.working_distance_now = value

    def blurred(self, field):
        """Under the disc of the present defocus, and a probe core."""
        if self.surface != "sample":
            return field
        k = 2 * np.pi * np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320))
        radius = self.convergence * abs(self.working_distance - self.best) / self.pixel
        disc = 2 * j1(k * radius + 1e-9) / (k * radius + 1e-9)
        core = np.exp(-0.5 * (0.5 * k * 60e-6 / self.pixel) ** 2)
        return np.fft.irfft2(np.fft.rfft2(field) * disc * core, field.shape)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        if self.surface == "black":
            pixels = np.zeros((240, 320), np.uint8)
        elif self.surface == "noise":
            pixels = self.random.integers(0, 256, (240, 320)).astype(np.uint8)
        else:
            seen = self.blurred(self.fine + self.coarse)
            # No frame of an instrument has the noise of the frame before it; a frozen picture would be an error.
            noise = np.roll(self.noise, self.frames.integers(1, 240, 2), (0, 1))
            if self.surface != "sample":
                noise = 30 * self.random.normal(size=(240, 320))
            pixels = np.clip(128 + seen + noise, 1, 254).astype(np.uint8)
        if self.surface != "black":
            defocus = np.float64(self.working_distance - self.best)
            pixels.ravel()[:8] = np.frombuffer(defocus.tobytes(), np.uint8)
        return Image(pixels, self.working_distance, self.magnification, self.pixel * 1e6)

    def close(self) -> None: ...


@dataclass
class ToldDefocus:
    """Scores a simulated frame by the defocus written into it: a bell with noise, and the blur if asked for."""

    microscope: Simulated
    blur_range: float | None = None
    peak: float = 8.5
    score_noise: float = 0.35
    blur_noise: float = 0.12

    def __call__(self, pixels: np.ndarray, magnification: float) -> Evaluation:
        m, random = self.microscope, self.microscope.random
        if m.surface == "black":
            return Evaluation(0.0, 0.0, 0.0, 0.0, 0.0)
        defocus = float(np.frombuffer(pixels.ravel()[:8].tobytes(), np.float64)[0])
        score = self.peak / (1 + (defocus / (4.5 * m.depth_of_field)) ** 2)
        blur = abs(defocus) * m.convergence / m.pixel
        if m.surface != "sample":
            score, blur = self.peak, 5.0
        score = float(np.clip(score + random.normal(0, self.score_noise), 0, 9))
        if self.blur_range is None:
            return Evaluation(score, 0.3, 5.0)
        told = math.log1p(min(blur, self.blur_range)) + random.normal(0, self.blur_noise)
        return Evaluation(score, 0.3, 5.0, max(told, 0.0), math.log(self.blur_noise))


class Climber:
    """A controller that goes on while the score rises and turns round when it falls."""

    maximum = staticmethod(maximum_action)

    def __call__(self, state: np.ndarray) -> float:
        moved, gained, score = float(state[0]), float(state[20]), 10 * float(state[19])
        step = 0.5 * (9 - score) / 9 + 0.05
        return step if moved * gained >= 0 else -step


def simulate(
    seed: int, surface: str = "sample", blur_range: float | None = None, **changes: Any
) -> tuple[Simulated, Networks]:
    """A microscope and networks for it, started anywhere within 3 mm × the factor of equation 5."""
    random = np.random.default_rng([seed, 1])
    magnification = changes.pop("magnification", float(np.exp(random.uniform(*np.log([500, 10_000])))))
    best = float(random.uniform(11, 20))
    start = round(best + random.uniform(-3, 3) * paper_factor(magnification), 3)
    peak = changes.pop("peak", float(random.uniform(6.5, 9)))
    changes = {"best": best, "magnification": magnification, "working_distance_now": start} | changes
    microscope = Simulated(surface=surface, seed=seed, **changes)
    return microscope, Networks(ToldDefocus(microscope, blur_range, peak), {"depth-of-field": Climber()})


@pytest.fixture(name="simulate", scope="session")
def simulate_fixture() -> Any:
    """The function `simulate`."""
    return simulate


def write_models(
    folder: Path,
    *,
    channels: int = 2,
    weight: float = 0.5,
    blur: bool = True,
    ellipse: dict[str, float] | None = None,
) -> Path:
    """Write an AENet that scores gradient energy over windows of 320×240 and an ACNet that steps by a fixed share.

    `ellipse` adds outputs that are the same of every frame.
    """
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT

    def tensor(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def save(name: str, nodes: list[Any], given: Any, answers: list[Any], values: dict[str, Any]) -> dict[str, Any]:
        initial = [onnx.numpy_helper.from_array(np.asarray(value, np.float32), key) for key, value in values.items()]
        graph = helper.make_graph(nodes, name, [given], answers, initial)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return {
            "name": name,
            "file": path.name,
            "role": name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "inputs": [given.name],
            "outputs": [answer.name for answer in answers],
        }

    edges = np.zeros((1, 2, 3, 3))
    edges[0, 0, 1, :2] = -1, 1
    nodes = [
        helper.make_node("Conv", ["frames", "edges"], ["gradient"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["gradient", "gradient"], ["energy"]),
        helper.make_node("AveragePool", ["energy"], ["mean"], kernel_shape=[240, 320], strides=[60, 80]),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["score"]),
    ]
    values = {"edges": edges, "scale": [20.0], "low": 0.0, "high": 9.0}
    answers = ["score"]
    if blur:
        answers += ["log_blur", "log_sigma"]
        values |= {"slope": [-0.4], "top": [3.6], "nothing": [0.0], "sigma": [-0.7]}
        nodes += [
            helper.make_node("Mul", ["score", "slope"], ["falling"]),
            helper.make_node("Add", ["falling", "top"], ["log_blur"]),
            helper.make_node("Mul", ["score", "nothing"], ["zero"]),
            helper.make_node("Add", ["zero", "sigma"], ["log_sigma"]),
        ]
    for name, value in (ellipse or {}).items():
        answers.append(name)
        values[f"always_{name}"] = [value]
        nodes.append(helper.make_node("Add", ["zero", f"always_{name}"], [name]))
    steps = [
        helper.make_node("MatMul", ["state", "weights"], ["raw"]),
        helper.make_node("Tanh", ["raw"], ["action"]),
    ]
    weights = np.zeros((80, 1))
    weights[19] = weight
    folder.mkdir(parents=True, exist_ok=True)
    frames = tensor("frames", "n", channels, "h", "w")
    maps = [tensor(name, "n", 1, "rows", "columns") for name in answers]
    entries = [
        save("aenet", nodes, frames, maps, values),
        save("acnet", steps, tensor("state", "n", 80), [tensor("action", "n", 1)], {"weights": weights}),
    ]
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "models": entries}))
    return folder


@pytest.fixture(name="write_models", scope="session")
def write_models_fixture() -> Any:
    """The function `write_models`."""
    return write_models


@pytest.fixture
def tiny_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tiny models, in use for the test."""
    folder = write_models(tmp_path / "models")
    monkeypatch.setenv("SEMFOCUS_MODELS", str(folder))
    return folder
