"""AENet and ACNet as ONNX models: the manifest, the checks, the sessions.

A manifest is ``manifest.json`` beside the models::

    {"format": 1,
     "models": [{"name": "aenet", "file": "aenet.onnx", "sha256": "…", "role": "aenet",
                 "inputs": ["frames"], "outputs": ["score", "log_blur", "log_sigma", "log_larger", "log_sigma_larger",
                 "log_smaller", "log_sigma_smaller", "cos2", "sin2", "log_sigma_direction"], "blur_range": 60.0,
                 "training": {…}, "seeds": {…}, "metrics": {…}, "specimens": […]},
                {"name": "acnet", "file": "acnet.onnx", "sha256": "…", "role": "acnet",
                 "inputs": ["state"], "outputs": ["action"], "action_law": "depth-of-field", …}]}

``inputs`` and ``outputs`` are lists of names, or objects whose keys are the names. The first model of a role
is the one in use. ``blur_range`` is the largest blur radius, in pixels, that AENet was trained to report. An AENet may
report the score alone, or with it the radius of the round blur most like the frame's (``log_blur``, ``log_sigma``), or
the ellipse of the blur beside both.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import semfocus_plugin.networks._metrics as metrics
from semdrivers.errors import ModelError
from semdrivers.files import read_json
from semfocus_plugin.networks._preprocessing import Prepared, preprocess
from semfocus_plugin.networks._state import STATE_SIZE, MaximumAction, maximum_action, maximum_action_paper
from semfocus_plugin.optics import BlurEllipse

MODELS_VARIABLE = "SEMFOCUS_MODELS"
"""Environment variable that names another folder of models, for people who train their own."""

SMALLEST = (240, 320)
"""Height and width of the smallest picture that AENet reads."""

LAWS: Mapping[str, MaximumAction] = MappingProxyType({"depth-of-field": maximum_action, "paper": maximum_action_paper})
"""Laws of the largest step, by the name that a manifest gives them."""

_AT_ONCE = 6
"""Windows of a large picture that are scored together: more take memory, and save no time."""

_NOTICED = 0.3
"""Length of a direction above which the mean of four mirror images counts: half the scatter of one."""

ELLIPSE_OUTPUTS = (
    "log_larger",
    "log_sigma_larger",
    "log_smaller",
    "log_sigma_smaller",
    "cos2",
    "sin2",
    "log_sigma_direction",
)
"""What an AENet reports of an elliptical blur; all of them or none."""

_RADIUS_OUTPUTS = ("log_blur", "log_sigma")
_AENET_OUTPUTS = ("score", *_RADIUS_OUTPUTS, *ELLIPSE_OUTPUTS)
_CONTRACTS = {"aenet": ("frames", "score"), "acnet": ("state", "action")}
_LARGEST_FILE = 2**28
_MOST_NODES = 10_000
"""Nodes of the largest graph; the networks that ship have some hundreds."""
_GRAPH, _NODE = 7, 1
"""Numbers of the fields ModelProto.graph and GraphProto.node."""
_EXTERNAL_DATA = b"\x0a\x08location"
"""How every reference to another file begins in an ONNX model."""
_lock = threading.Lock()
_loaded: dict[tuple[Path, int], Networks] = {}
_threads = 2


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known of one frame.

    Parameters
    ----------
    score : float
        AENet's score, 0 (out of focus) to 9; of a model that reports an ellipse, the score of its larger radius.
    variance, entropy : float
        Equations 3 and 4, of the median-filtered picture.
    log_blur : float or None
        ln(1 + blur radius in pixels), where the model reports it; of an ellipse, that of the round blur most like it.
    log_sigma : float or None
        ln of the standard deviation of `log_blur`.
    ellipse : BlurEllipse or None
        Both radii and the direction, where the model reports them.
    """

    score: float
    variance: float
    entropy: float
    log_blur: float | None = None
    log_sigma: float | None = None
    ellipse: BlurEllipse | None = None

    @property
    def log_larger(self) -> float | None:
        """ln(1 + radius in pixels) that the score is of: the larger one of an ellipse, else `log_blur`."""
        return self.log_blur if self.ellipse is None else self.ellipse.log_larger


class Evaluator(Protocol):
    """Scores frames. `AENet` does; tests may bring their own."""

    @property
    def blur_range(self) -> float | None:
        """Largest blur radius in pixels that ``log_blur`` reports, or None where the score is all there is."""
        ...

    def __call__(self, pixels: NDArray[Any], magnification: float) -> Evaluation:
        """Return what is known of a frame, shape (H, W), or of windows of one, (N, H, W); uint8, uint16 or 0..1."""
        ...


class Controller(Protocol):
    """Chooses steps. `ACNet` does; tests may bring their own."""

    @property
    def maximum(self) -> MaximumAction:
        """Largest step in mm as a function of magnification."""
        ...

    def __call__(self, state: NDArray[np.float32]) -> float:
        """Return the step as a share of the largest, −1 to 1, for a state of shape (80,)."""
        ...


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of a manifest.

    Parameters
    ----------
    name, role : str
        Name of the model; ``"aenet"`` or ``"acnet"``.
    path : Path
        The ONNX file.
    sha256 : str
        Its hash, in hexadecimal.
    inputs, outputs : tuple of str
        Names of the tensors.
    action_law : str
        Key of `LAWS`, for ``"acnet"``.
    blur_range : float or None
        Largest blur radius in pixels that the model was trained to report, for ``"aenet"``.
    details : mapping
        The whole entry: training configuration, seeds, metrics, specimens.
    """

    name: str
    role: str
    path: Path
    sha256: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    action_law: str = "depth-of-field"
    blur_range: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def verify(self) -> None:
        """Check that the file is there and unaltered.

        Raises
        ------
        ModelError
            When it is not.
        """
        if not self.path.is_file():
            raise ModelError(f"model {self.name!r}: {self.path} is missing; reinstall the package")
        if self.path.stat().st_size > _LARGEST_FILE:
            raise ModelError(f"model {self.name!r}: {self.path} is larger than {_LARGEST_FILE >> 20} MB")
        content = self.path.read_bytes()
        if _EXTERNAL_DATA in content:
            raise ModelError(
                f"model {self.name!r}: {self.path} takes weights from other files, which the manifest does not cover; "
                "export it with its weights inside"
            )
        actual = hashlib.sha256(content).hexdigest()
        if actual != self.sha256:
            raise ModelError(
                f"model {self.name!r}: {self.path} has SHA-256 {actual[:12]}…, the manifest says "
                f"{self.sha256[:12]}…; the file was altered or cut short: reinstall the package"
            )
        nodes = _nodes_of(content)
        if nodes > _MOST_NODES:
            raise ModelError(f"model {self.name!r}: {self.path} has {nodes} nodes, the limit is {_MOST_NODES}")


def _nodes_of(content: bytes) -> int:
    """Count the nodes of an ONNX model's graph, without onnx; what cannot be read is left to onnxruntime."""
    count = 0
    with suppress(IndexError):
        for field, graph in _fields(content):
            if field == _GRAPH:
                count += sum(field == _NODE for field, _ in _fields(graph))
    return count


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and contents of the fields of a protobuf message that have a length; it may end in `IndexError`."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        field, kind = divmod(varint(), 8)
        if kind == 2:
            length = varint()
            yield field, message[position : position + length]
            position += length
        elif kind == 0:
            varint()
        else:
            position += {1: 8, 5: 4}.get(kind, len(message))


class AENet:
    """The evaluation network: frames in, scores out."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self._session = _open(card)
        self._outputs = [name for name in _AENET_OUTPUTS if name in card.outputs]

    @property
    def blur_range(self) -> float | None:
        """Largest blur radius in pixels that ``log_blur`` can report, or None."""
        return self.card.blur_range

    def __call__(self, pixels: NDArray[Any], magnification: float) -> Evaluation:
        """Return what is known of a frame, shape (H, W), or of windows of one, (N, H, W).

        It is the median of the map. An ellipse is read in all four mirror images, and the mean of it, and of its score,
        is returned: a sample has no side that it prefers.

        Raises
        ------
        ModelError
            When the network gives something else than one finite score map.
        """
        prepared = preprocess(pixels, magnification)
        return _evaluation(prepared, in_mirror_images(self._medians, prepared.frames))

    def at_once(self, pixels: NDArray[Any], magnification: float) -> Evaluation:
        """Return what one view of a frame shows, as a run takes it; arguments and errors as of a call."""
        prepared = preprocess(pixels, magnification)
        return _evaluation(prepared, self._medians(prepared.frames))

    def _medians(self, frames: NDArray[np.float32]) -> dict[str, float]:
        parts = [self.maps(frames[k : k + _AT_ONCE]) for k in range(0, len(frames), _AT_ONCE)]
        medians = {name: _median(np.concatenate([part[name].ravel() for part in parts])) for name in self._outputs}
        if not all(map(math.isfinite, medians.values())):
            raise ModelError(f"model {self.card.name!r} answered {medians}; {self.card.path} is not usable")
        return medians

    def maps(self, frames: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Return the output maps, each (N, 1, h, w), for prepared frames (N, 2, H, W)."""
        values = self._session.run(self._outputs, {"frames": frames})
        maps = dict(zip(self._outputs, values, strict=True))
        for name, value in maps.items():
            if value.ndim != 4 or value.shape[:2] != (len(frames), 1) or value.size == 0:
                raise ModelError(
                    f"model {self.card.name!r}: output {name!r} has shape {value.shape} for frames of "
                    f"{frames.shape}; expected ({len(frames)}, 1, h, w)"
                )
        return maps


class ACNet:
    """The control network: state in, step out."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self._session = _open(card)

    @property
    def maximum(self) -> MaximumAction:
        """Largest step in mm as a function of magnification."""
        return LAWS[self.card.action_law]

    def __call__(self, state: NDArray[np.float32]) -> float:
        """Return the step as a share of the largest, −1 to 1, for a state of shape (80,).

        Raises
        ------
        ModelError
            When the network gives something else than one finite number.
        """
        (action,) = self._session.run(["action"], {"state": state[None]})
        if action.size != 1 or not math.isfinite(value := float(action.ravel()[0])):
            raise ModelError(f"model {self.card.name!r} answered {action}; {self.card.path} is not usable")
        return min(max(value, -1.0), 1.0)


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks that a method works with.

    Parameters
    ----------
    evaluator : Evaluator
        Scores frames.
    controllers : mapping of str to Controller
        By law of the largest step, the preferred first.
    """

    evaluator: Evaluator
    controllers: Mapping[str, Controller] = field(default_factory=dict)

    def controller(self, law: str) -> Controller:
        """Return the controller of a law, or the preferred one where none was trained for that law.

        Raises
        ------
        ModelError
            When there is no controller at all.
        """
        if not self.controllers:
            raise ModelError("no ACNet is installed; reinstall the package, or choose a method without one")
        return self.controllers.get(law) or next(iter(self.controllers.values()))


def in_mirror_images(
    look: Callable[[NDArray[np.float32]], dict[str, float]], frames: NDArray[np.float32]
) -> dict[str, float]:
    """Return what is seen in prepared frames, (N, 2, H, W); of an ellipse the mean of what all mirror images show.

    Parameters
    ----------
    look : callable
        Returns numbers by the names of an AENet's outputs, for frames.
    frames : ndarray of shape (N, 2, H, W)
        As `prepare` returns them.
    """
    seen = look(frames)
    if math.hypot(seen.get("cos2", 0.0), seen.get("sin2", 0.0)) <= _NOTICED:
        return seen
    views = [seen]
    for down, along in ((1, -1), (-1, 1), (-1, -1)):
        view = look(np.ascontiguousarray(frames[:, :, ::down, ::along]))
        views.append(view | {name: down * along * view[name] for name in view.keys() & {"sin2"}})
    return seen | {name: fmean(view[name] for view in views) for name in seen if name not in _RADIUS_OUTPUTS}


def _evaluation(prepared: Prepared, seen: Mapping[str, float]) -> Evaluation:
    return Evaluation(
        score=min(max(seen["score"], 0.0), 9.0),
        variance=metrics.variance(prepared.unit),
        entropy=metrics.entropy(prepared.unit),
        log_blur=max(seen["log_blur"], 0.0) if "log_blur" in seen else None,
        log_sigma=seen.get("log_sigma"),
        ellipse=_ellipse(seen) if seen.keys() >= set(ELLIPSE_OUTPUTS) else None,
    )


def _median(values: NDArray[np.float32]) -> float:
    """Return what `numpy.median` does, at a fifth of its price for so few; NaN where any is."""
    ordered = np.sort(values)
    middle = float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)
    return middle if math.isfinite(ordered[-1]) else math.nan


def _ellipse(medians: Mapping[str, float]) -> BlurEllipse:
    larger = max(medians["log_larger"], 0.0)
    length = max(math.hypot(medians["cos2"], medians["sin2"]), 1.0)
    return BlurEllipse(
        log_larger=larger,
        log_smaller=min(max(medians["log_smaller"], 0.0), larger),
        cos2=medians["cos2"] / length,
        sin2=medians["sin2"] / length,
        sigma_larger=math.exp(medians["log_sigma_larger"]),
        sigma_smaller=math.exp(medians["log_sigma_smaller"]),
        sigma_direction=math.exp(medians["log_sigma_direction"]),
    )


def models_directory() -> Path:
    """Return the folder of models in use: `MODELS_VARIABLE`, or the one inside the package."""
    override = os.environ.get(MODELS_VARIABLE)
    return Path(override) if override else Path(__file__).parents[1] / "models"


def read_manifest(directory: Path | None = None) -> tuple[ModelCard, ...]:
    """Return the entries of a manifest, in its order; the files are not opened.

    Raises
    ------
    ModelError
        When there is no manifest, or it is malformed.
    """
    directory = models_directory() if directory is None else directory
    path = directory / "manifest.json"
    try:
        manifest = read_json(path)
    except OSError as error:
        raise ModelError(f"no models in {directory} ({error.strerror}: {path.name}); reinstall the package") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON ({error}); reinstall the package") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("models"), list):
        raise ModelError(f'{path} must be an object with a list "models"; reinstall the package')
    return tuple(_card(path, number, entry) for number, entry in enumerate(manifest["models"]))


def load(directory: Path | None = None) -> Networks:
    """Return the networks of a folder, verified and opened once per process.

    Raises
    ------
    ModelError
        When a file is missing, altered or of another shape than its manifest says.
    """
    directory = (models_directory() if directory is None else directory).resolve()
    with _lock:
        key = (directory, _threads)
        if key not in _loaded:
            cards = read_manifest(directory)
            for card in cards:
                card.verify()
            evaluators = [card for card in cards if card.role == "aenet"]
            if not evaluators:
                raise ModelError(f"{directory / 'manifest.json'} names no model of role 'aenet'")
            controllers: dict[str, Controller] = {}
            for card in cards:
                if card.role == "acnet" and card.action_law not in controllers:
                    controllers[card.action_law] = ACNet(card)
            _loaded[key] = Networks(AENet(evaluators[0]), controllers)
        return _loaded[key]


def use_threads(count: int) -> None:
    """Set the threads of sessions opened from now on (2 by default; 1 where processes run side by side)."""
    global _threads
    with _lock:
        _threads = count


def _open(card: ModelCard) -> Any:
    """Open a session and check its tensors against the card and the contract of its role."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(_threads, os.cpu_count() or 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(card.path), sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"model {card.name!r}: {card.path} cannot be opened: {error}") from error
    for kind, wanted, seen in (
        ("input", card.inputs, {tensor.name for tensor in session.get_inputs()}),
        ("output", card.outputs, {tensor.name for tensor in session.get_outputs()}),
    ):
        if set(wanted) != seen:
            raise ModelError(
                f"model {card.name!r}: {card.path.name} has {kind}s {sorted(seen)}, the manifest says {sorted(wanted)}"
            )
    size = {"aenet": (4, 2), "acnet": (2, STATE_SIZE)}[card.role]
    shape = session.get_inputs()[0].shape
    if len(shape) != size[0] or shape[1] != size[1]:
        raise ModelError(
            f"model {card.name!r}: input {card.inputs[0]!r} has shape {shape}; role {card.role} needs "
            f"{size[0]} axes, the second of {size[1]}"
        )
    return session


def _card(path: Path, number: int, entry: object) -> ModelCard:
    where = f"{path}: model {number}"
    if not isinstance(entry, dict):
        raise ModelError(f"{where} must be an object, not {type(entry).__name__}")
    for key in ("name", "file", "sha256", "role"):
        if not isinstance(entry.get(key), str):
            raise ModelError(f"{where} lacks the text {key!r}")
    if Path(entry["file"]).name != entry["file"]:
        raise ModelError(f"{where}: file {entry['file']!r} must be a plain name beside the manifest")
    if entry["role"] not in _CONTRACTS:
        raise ModelError(f"{where}: role {entry['role']!r} is not one of {', '.join(_CONTRACTS)}")
    tensors = {}
    for key, needed in zip(("inputs", "outputs"), _CONTRACTS[entry["role"]], strict=True):
        names = entry.get(key, [needed])
        if not isinstance(names, list | dict) or needed not in names or not all(isinstance(n, str) for n in names):
            raise ModelError(f"{where}: {key} must name {needed!r} among text names, not {names!r}")
        tensors[key] = tuple(names)
    law = entry.get("action_law", "depth-of-field")
    if law not in LAWS:
        raise ModelError(f"{where}: action_law {law!r} is not one of {', '.join(LAWS)}")
    blur_range = entry.get("blur_range")
    if blur_range is None and "log_blur" in tensors["outputs"]:
        blur_range = 20.0
    if blur_range is not None and (not isinstance(blur_range, int | float) or not blur_range > 0):
        raise ModelError(f"{where}: blur_range must be a number of pixels above 0, not {blur_range!r}")
    return ModelCard(
        name=entry["name"],
        role=entry["role"],
        path=path.parent / entry["file"],
        sha256=entry["sha256"].lower(),
        inputs=tensors["inputs"],
        outputs=tensors["outputs"],
        action_law=law,
        blur_range=blur_range,
        details=entry,
    )
