"""Training AENet: the paper's recipe, or the one that made the shipped weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.microscope import whole_number
from semfocus_plugin import networks
from semfocus_plugin.lab.training import checkpoint, datasets
from semfocus_plugin.lab.training.architecture import STRIDE, WINDOW, CompactAENet, PaperAENet, implied_score
from semfocus_plugin.lab.training.descent import Progress, Step, cosine, learn
from semfocus_plugin.lab.training.processes import Processes, joined
from semfocus_plugin.lab.training.shipped import read_compact, with_ellipse
from semfocus_plugin.networks import MAGNIFICATION_SCALE, mag_image_value, median3

__all__ = [
    "AENetConfig", "Frames", "OnDisk", "evaluate", "hash_field", "loss", "read_frames", "score_error", "split", "train",
]  # fmt: skip

_HEIGHT, _WIDTH = 240, 320
_WIDEST_BLUR = 150.0
"""Pixels; half a frame. Wider blurs cannot be distinguished."""

_NARROW = 3.3
"""Log larger radius, 26 pixels, below which mirror images of a window must agree: a wider blur hardly fits into one."""

_ROUND = 0.15
"""Difference of ln(1 + radius) of both semi-axes below which a blur is round."""

_AT_ONCE = 32
"""Frames that a network looks at together without learning; at its size the published one takes 80 MB for each."""

_CLEARLY_ELLIPTICAL = 0.5
"""Difference of ln(1 + radius) above which the direction of an ellipse is judged."""


@dataclass(frozen=True, slots=True)
class AENetConfig:
    """A training run. The defaults are the recipe of the shipped weights; `paper()` is the paper's.

    Parameters
    ----------
    data : tuple of str
        Folders of finished datasets of kind ``"frames"``; split 85/15 by field into training and validation.
    width : float or None
        Width of the paper's architecture; None for the compact one.
    epochs, batch : int
        Passes over the data, and frames a step.
    learning_rate, weight_decay : float
        Of Adam (paper) or AdamW (cosine).
    schedule : str
        ``"cosine"`` with a short warm-up, or ``"plateau"``: ×0.1 after 10 epochs without improvement.
    seed : int
        Random seed; fixes initial weights, order and augmentation.
    window : int
        Side in pixels of the square windows to train on, a multiple of 16; 0 for whole FAST frames. Windows are
        cheaper, and those without artefacts along the lines are transposed at random; the last pass should see whole
        frames.
    mirrored : bool
        Show every window beside its mirror image and penalise what the radii of the two differ by: a pass takes twice
        as long. The paper's architecture, which reports no radii, is trained without.
    start : str
        Folder of a finished run, or of models such as the shipped ones, whose weights to go on from with a schedule of
        its own; empty for random weights.
    ellipse_only : bool
        Keep what `start` reads of round blurs, and train the head that reads the ellipse alone, from random weights.
        What that head sees of every frame and a mirror image is computed once, so that a hundred passes cost little
        more than one.
    teacher : str
        Folder of a finished run whose network's score of a frame counts as much as the label; empty for labels alone.
    """

    data: tuple[str, ...]
    width: float | None = None
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    seed: int = 1
    window: int = 0
    mirrored: bool = True
    start: str = ""
    ellipse_only: bool = False
    teacher: str = ""

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidParameterError("data must name at least one dataset folder; see: semfocus dataset --help")
        if self.width is not None and not 0 < self.width <= 4:
            raise OutOfRangeError(f"width must be above 0 and at most 4, not {self.width:g}")
        for name in ("epochs", "batch"):
            whole_number(name, getattr(self, name), 1)
        if self.window and (self.window % 16 or not 16 <= self.window <= _HEIGHT):
            raise OutOfRangeError(f"window must be 0 or a multiple of 16 up to {_HEIGHT} pixels, not {self.window}")
        if self.window and self.width is not None:
            raise InvalidParameterError("window: the paper's architecture reads whole frames only; pass 0")
        if self.ellipse_only and (not self.start or self.window or self.width is not None):
            raise InvalidParameterError(
                "ellipse_only: the rest of the network is that of start, a compact AENet, and reads whole frames: pass "
                "start, and neither window nor width"
            )
        if self.teacher and (self.window or self.ellipse_only):
            raise InvalidParameterError("teacher: it scores whole frames: pass neither window nor ellipse_only")
        if self.schedule not in ("cosine", "plateau"):
            raise InvalidParameterError(f"schedule must be 'cosine' or 'plateau', not {self.schedule!r}")

    @classmethod
    def paper(cls, data: tuple[str, ...], **changes: Any) -> AENetConfig:
        """Return the paper's recipe: Adam, 0.01, plateau, batch 90, 200 epochs, MSE, weight decay 5e-4."""
        recipe = cls(data, 1.0, 200, 90, 0.01, 5e-4, "plateau")
        return dataclasses.replace(recipe, **changes)

    def network(self) -> nn.Module:
        """Return the untrained network."""
        return CompactAENet() if self.width is None else PaperAENet(self.width)


class OnDisk:
    """Frames of many files, read when they are indexed; ten million need no memory.

    Parameters
    ----------
    files : sequence of ndarray of shape (n, H, W), uint8
        Usually mapped (`semfocus_plugin.lab.training.datasets.mapped`).
    """

    def __init__(self, files: Sequence[NDArray[np.uint8]]) -> None:
        self._files = files
        self._ends = np.cumsum([len(each) for each in files])
        self.shape = (int(self._ends[-1]), *files[0].shape[1:])

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the median-filtered frames of these indices, shape (len(index), H, W)."""
        numbers = np.searchsorted(self._ends, index, side="right")
        rows = index - self._ends[numbers] + np.array([len(self._files[k]) for k in numbers], np.int64)
        frames = np.empty((len(index), *self.shape[1:]), np.uint8)
        for k, (number, row) in enumerate(zip(numbers, rows, strict=True)):
            frames[k] = self._files[number][row]
        return median3(frames)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A dataset: its labels in memory, and its frames where they are until a batch takes them.

    Parameters
    ----------
    pixels : OnDisk, or ndarray of shape (N, H, W), uint8
        The frames, median-filtered.
    mag_image : Tensor of shape (N,)
        Values of the mag-image.
    score : Tensor of shape (N,)
        Label.
    ellipse : Tensor of shape (N, 4)
        Labels: ln(1 + radius in pixels) of the larger and the smaller semi-axis; cosine and sine of twice the angle
        from the lines (towards the next line) to the larger.
    half_blur : Tensor of shape (N,)
        Blur radius in pixels at which the frame's ideal score would be half of 9.
    plain : ndarray of shape (N,), bool
        Whether nothing in the frame goes along the lines.
    specimen, field : ndarray of shape (N,)
        Name; number of the field, to split by.
    """

    pixels: OnDisk | NDArray[np.uint8]
    mag_image: Tensor
    score: Tensor
    ellipse: Tensor
    half_blur: Tensor
    plain: NDArray[np.bool_]
    specimen: NDArray[Any]
    field: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.score)

    def chosen(self, index: NDArray[np.int64]) -> Frames:
        """Return the frames of these indices alone."""
        return Frames(*(getattr(self, each.name)[index] for each in fields(self)))

    def batch(self, index: NDArray[np.int64], device: torch.device) -> Tensor:
        """Return network input (N, 2, 240, 320) of the middle of the frames."""
        height, width = self.pixels.shape[1:]
        top, left = (height - _HEIGHT) // 2, (width - _WIDTH) // 2
        return self._input(self.pixels[index][:, top : top + _HEIGHT, left : left + _WIDTH], index, device)

    def drawn(
        self,
        index: NDArray[np.int64],
        random: np.random.Generator,
        device: torch.device,
        window: int = 0,
        mirrored: bool = False,
        share: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Return network input of windows at random places, mirrored at random, and the ellipses as they lie there.

        Parameters
        ----------
        window : int
            Side of square windows, which are transposed at random where the frame allows it; 0 for 320 × 240.
        mirrored : bool
            Add a mirror image of every window, in the same order behind all windows, so that 2 N come back: left to
            right or top to bottom, or transposed where the frame allows it.
        share : slice
            Which of the frames to return; what is drawn of them does not depend on it.

        Returns
        -------
        Tensor of shape (N, 2, h, w)
        Tensor of shape (N, 4)
            As `ellipse`.
        """
        rows, columns = (window, window) if window else (_HEIGHT, _WIDTH)
        height, width = self.pixels.shape[1:]
        turning = self.plain[index] & bool(window)
        top, left = (
            random.integers(height - rows + 1, size=len(index)),
            random.integers(width - columns + 1, size=len(index)),
        )
        down, right = random.choice((1, -1), (2, len(index)))
        turned = turning & (random.random(len(index)) < 0.5)
        kind = random.integers(np.where(turning, 3, 2))
        own = np.arange(len(index))[share]
        whole = self.pixels[index[own]]
        shown = np.tile(index[own], 2) if mirrored else index[own]
        crops = np.empty((len(shown), rows, columns), np.uint8)
        ellipse = self.ellipse[shown].clone()
        for k, drawn in enumerate(own):
            crop = whole[k, top[drawn] : top[drawn] + rows, left[drawn] : left[drawn] + columns]
            crop = crop[:: down[drawn], :: right[drawn]]
            ellipse[k, 3] *= float(down[drawn] * right[drawn])
            if turned[drawn]:
                crop = crop.T
                ellipse[k, 2] *= -1.0
            crops[k] = crop
            if mirrored:
                images = [crop[:, ::-1], crop[::-1], crop.T]
                crops[len(own) + k], ellipse[len(own) + k] = images[kind[drawn]], ellipse[k]
                ellipse[len(own) + k, 2 if kind[drawn] == 2 else 3] *= -1.0
        return self._input(crops, shown, device), ellipse.to(device)

    def _input(self, pixels: NDArray[np.uint8], index: NDArray[np.int64], device: torch.device) -> Tensor:
        images = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).float()
        images = images - images.mean((1, 2), keepdim=True)
        images = images / images.std((1, 2), correction=0, keepdim=True).clamp_min(1e-6 * 255)
        mag_image = self.mag_image[index].to(device)[:, None, None].expand_as(images)
        return torch.stack([images, mag_image], 1).contiguous(memory_format=torch.channels_last)


def read_frames(folders: tuple[str, ...]) -> Frames:
    """Read the labels of datasets; their frames stay on disk where the datasets are on this computer.

    Raises
    ------
    InvalidParameterError
        When a folder holds no finished dataset of frames, or the frames differ in size.
    """
    shards = []
    for number, folder in enumerate(folders):
        for arrays in datasets.load(folder):
            if "larger" not in arrays:
                raise InvalidParameterError(
                    f"{folder} holds no frames labelled with the ellipse of their blur (focal series, or frames of an "
                    "earlier version); make them with: semfocus dataset"
                )
            arrays["field"] = arrays["field"].astype(np.int64) + (number << 32)
            shards.append(arrays)
    if len({shard["pixels"].shape[1:] for shard in shards}) != 1:
        raise InvalidParameterError("the datasets hold frames of different sizes; train on one size")
    pixels = OnDisk([shard.pop("pixels") for shard in shards])
    joined = {key: np.concatenate([shard.pop(key) for shard in shards]) for key in list(shards[0])}
    width = pixels.shape[2]
    mag_image = joined["magnification"] * np.float32(mag_image_value(1.0, width) / MAGNIFICATION_SCALE)
    radii = [torch.from_numpy(np.log1p(np.minimum(joined[name], _WIDEST_BLUR))) for name in ("larger", "smaller")]
    direction = [torch.from_numpy(joined[name]) for name in ("cos2", "sin2")]
    return Frames(
        pixels,
        torch.from_numpy(mag_image),
        torch.from_numpy(joined["score"]),
        torch.stack([*radii, *direction], 1),
        torch.from_numpy(joined["half_blur"]),
        joined["plain"],
        joined["specimen"],
        joined["field"],
    )


def split(frames: Frames) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices for training and validation, 85/15 by field."""
    held_out = np.array([hash_field(int(f)) % 100 < 15 for f in frames.field])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def hash_field(field: int) -> int:
    """Scatter field numbers, so that a split does not depend on their order."""
    return (field * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 40


def loss(
    outputs: tuple[Tensor, ...],
    score: Tensor,
    ellipse: Tensor,
    half_blur: Tensor,
    paper: bool,
    mirrored: bool = False,
) -> Tensor:
    """Mean square error of the score; for the compact network also the likelihood of the ellipse it saw.

    The compact network's score is judged with the probe core that the frame was taken with (`half_blur`). The direction
    is a pair of cosine and sine with one standard deviation: where nothing in a frame shows it, the best answer is
    (0, 0) ± 0.7. Where the blur is round, 2 (log larger − log blur)² is added: an ellipse that nobody asked for.

    With `mirrored` the second half of the batch holds mirror images of the first (see `Frames.drawn`), and what the
    radii of the two differ by adds 3 (Δ log larger)² + (Δ log smaller)², where the blur is narrow enough for a window.
    """
    if paper:
        return functional.mse_loss(outputs[0].flatten(), score)
    correction, rounded, sigma_rounded, larger, sigma_larger, smaller, sigma_smaller, cosine, sine, sigma_direction = (
        output.flatten() for output in outputs
    )
    error = score_error(correction, larger, half_blur, score)
    true_larger, true_smaller, true_cosine, true_sine = ellipse.unbind(1)
    surprise = (
        _surprise((0.5 * (true_larger + true_smaller) - rounded).square(), sigma_rounded)
        + _surprise((true_larger - larger).square(), sigma_larger)
        + 0.5 * _surprise((true_smaller - smaller).square(), sigma_smaller)
        + _surprise(((true_cosine - cosine).square() + (true_sine - sine).square()) / 2, sigma_direction)
    )
    stays = (larger - rounded).square() * (true_larger - true_smaller < _ROUND)
    error = error + 2 * stays.mean()
    if not mirrored:
        return error + surprise.mean()
    apart = 3 * _between_halves(larger).square() + _between_halves(smaller).square()
    narrow = true_larger[: len(apart)] < _NARROW
    return error + surprise.mean() + (apart * narrow).mean()


def _between_halves(values: Tensor) -> Tensor:
    first, second = values.chunk(2)
    return first - second


def _surprise(squared: Tensor, log_sigma: Tensor) -> Tensor:
    """Return the negative logarithm of a Gaussian's likelihood, weighted, for squared errors.

    The factor σ, half of the σ² that would undo the weighting of the likelihood, keeps hard frames from being explained
    away by a large σ (Seitzer et al., ICLR 2022).
    """
    return torch.exp(log_sigma.detach()) * (log_sigma + 0.5 * squared * torch.exp(-2 * log_sigma))


def score_error(correction: Tensor, log_blur: Tensor, half_blur: Tensor, score: Tensor) -> Tensor:
    """Return the smooth L1 error of the score that a blur implies, corrected; all of shape (N,)."""
    return functional.smooth_l1_loss(implied_score(log_blur, half_blur) + correction, score, beta=0.5)


def train(
    config: AENetConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Train, with a checkpoint after every epoch.

    Processes that ``torchrun`` started share the frames of every step, and the first of them writes and reports. What
    is drawn does not depend on their number, so that one process may go on where several stopped.

    The correction of the compact network's score stays as it is: fine-tuning alone teaches it.

    Parameters
    ----------
    config : AENetConfig
        The recipe.
    folder : path
        For ``checkpoint.pt`` and ``history.jsonl``.
    resume : bool
        Go on from the folder's checkpoint.
    progress : callable, optional
        Called during and after every epoch with its figures.

    Returns
    -------
    Path
        The checkpoint of the last epoch; `semfocus_plugin.lab.training.export` makes ONNX of it.
    """
    with joined() as processes:
        return _train(config, Path(folder), resume, progress, processes)


def _train(config: AENetConfig, folder: Path, resume: bool, progress: Progress | None, processes: Processes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    device, first = processes.device, processes.rank == 0
    torch.manual_seed(config.seed)
    network, shape = _begun(config)
    if resume:
        saved = checkpoint.load(folder, device)
        network, shape = _network_of(saved)
    layout = _layout(config, device)
    network = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    if isinstance(network, CompactAENet):
        network.requires_grad_(not config.ellipse_only)
        network.correction.requires_grad_(False)
        if config.ellipse_only:
            assert network.ellipse is not None
            network.ellipse[1:].requires_grad_(True)
    decoupled = torch.optim.AdamW if config.schedule == "cosine" else torch.optim.Adam
    learned = [each for each in network.parameters() if each.requires_grad]
    optimizer = decoupled(learned, config.learning_rate, weight_decay=config.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
    first_epoch = 0
    if resume:
        first_epoch = checkpoint.restore(saved, network, optimizer)
        plateau.load_state_dict(saved["plateau"])
    frames = read_frames(config.data)
    training, validation = split(frames)
    if config.teacher:
        _mix_in(_teacher(Path(config.teacher), device), frames, training, device)
    steps = math.ceil(len(training) / config.batch)
    narrow = _bfloat16_pays(device)
    mirrored = config.mirrored and config.width is None
    recalled = _Recalled(network, frames, training, validation, config, device) if config.ellipse_only else None
    shared = processes.shared(network if recalled is None else recalled)

    def begin(epoch: int) -> tuple[int, Step]:
        random = np.random.default_rng([config.seed, epoch])
        order = random.permutation(training)
        network.train()
        if isinstance(network, CompactAENet) and config.window:
            network.window = (config.window // STRIDE, config.window // STRIDE)

        def step_loss(step: int) -> Tensor:
            index = np.sort(order[step * config.batch : (step + 1) * config.batch])
            share = processes.share if len(index) >= processes.count else slice(None)
            shown = np.tile(index[share], 2) if mirrored else index[share]
            if recalled is None:
                inputs, ellipse = frames.drawn(index, random, device, config.window, mirrored, share)
                inputs = inputs.contiguous(memory_format=layout)
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=narrow):
                    outputs = shared(inputs)
            else:
                outputs, ellipse = shared(index[share])
            score, half_blur = frames.score[shown].to(device), frames.half_blur[shown].to(device)
            paper = config.width is not None
            weight = processes.weight(len(index)) if len(index) >= processes.count else 1.0
            return weight * loss(tuple(o.float() for o in outputs), score, ellipse, half_blur, paper, mirrored)

        return steps, step_loss

    def end(_: int, figures: dict[str, float]) -> None:
        judged = evaluate(network, frames, validation, device, recalled) if first else {}
        figures = processes.agreed(judged | figures if first else None)
        plateau.step(figures["mse"])
        if not first:
            return
        checkpoint.save(folder, config, network, optimizer, figures, plateau=plateau.state_dict(), shape=shape)
        if progress:
            progress(figures)

    def rate(epoch: int, step: int, steps: int) -> float:
        return _warm_cosine(epoch * steps + step, config.epochs * steps) * config.learning_rate

    learn(
        optimizer,
        range(first_epoch, config.epochs),
        begin,
        end,
        rate=rate if config.schedule == "cosine" else None,
        progress=progress if first else None,
    )
    return folder / checkpoint.CHECKPOINT


class _Recalled(nn.Module):
    """The heads of a network, on what its body has seen of every frame and of a mirror image of it."""

    def __init__(
        self,
        network: nn.Module,
        frames: Frames,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        config: AENetConfig,
        device: torch.device,
    ) -> None:
        super().__init__()
        assert isinstance(network, CompactAENet)
        self.network = network.eval()
        self._mag_image = frames.mag_image.to(device)
        self._row = np.zeros(len(frames), np.int64)
        self._row[np.concatenate([training, validation])] = np.arange(len(training) + len(validation))
        random = np.random.default_rng([config.seed])
        parts: list[list[Tensor]] = []
        with torch.no_grad():
            for index in (
                some[k : k + _AT_ONCE] for some in (training, validation) for k in range(0, len(some), _AT_ONCE)
            ):
                inputs, ellipse = frames.drawn(index, random, device, 0, config.mirrored)
                seen, around = network.seen(inputs)
                images = len(inputs) // len(index)
                parts.append([torch.stack(each.flatten(1).chunk(images)) for each in (seen, around, ellipse)])
            self._seen, self._around, self._ellipse = (torch.cat(each, 1) for each in zip(*parts, strict=True))
            network.standardise(self._seen[0, : len(training)], self._around[0, : len(training)])

    def forward(self, index: NDArray[np.int64], images: slice = slice(None)) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return what the network reports of both images of each frame, or of these, and the true ellipses."""
        rows = self._row[index]
        seen, around, ellipse = (each[images, rows].flatten(0, 1) for each in (self._seen, self._around, self._ellipse))
        mag_image = self._mag_image[index].repeat(len(seen) // len(index))[:, None, None, None]
        return self.network.reported(seen[..., None, None], around[..., None, None], mag_image), ellipse


def _begun(config: AENetConfig) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network to begin with, and its shape (arguments of `CompactAENet`; empty for the defaults)."""
    if not config.start:
        return config.network(), {}
    if checkpoint.there(Path(config.start)):
        saved = checkpoint.load(Path(config.start))
        if saved["config"]["width"] != config.width:
            raise InvalidParameterError(
                f"start: the network in {config.start} has width {saved['config']['width']}, not {config.width}"
            )
        network, shape = _network_of(saved)
        if not isinstance(network, CompactAENet):
            return network, shape
        return with_ellipse(network, shape, config.ellipse_only)
    card = next((card for card in networks.read_manifest(Path(config.start)) if card.role == "aenet"), None)
    if card is None or config.width is not None:
        raise InvalidParameterError(f"start: {config.start} holds neither a checkpoint nor a compact AENet")
    return with_ellipse(*read_compact(card), config.ellipse_only)


def _network_of(saved: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a checkpoint, and its shape."""
    width, shape = saved["config"]["width"], saved.get("shape", {})
    network = CompactAENet(**shape) if width is None else PaperAENet(width)
    try:
        network.load_state_dict(saved["network"])
    except RuntimeError:
        raise InvalidParameterError(
            f"{checkpoint.CHECKPOINT} is of an earlier version, with another network: go on from a folder that holds "
            "its exported models alone"
        ) from None
    return network, shape


def _teacher(folder: Path, device: torch.device) -> nn.Module:
    """Return the network of a finished run."""
    if not checkpoint.there(folder):
        raise InvalidParameterError(f"teacher: {folder} holds no {checkpoint.CHECKPOINT}; name a finished run")
    return _network_of(checkpoint.load(folder, device))[0].eval().to(device)


def _mix_in(teacher: nn.Module, frames: Frames, index: NDArray[np.int64], device: torch.device) -> None:
    """Replace labels by their mean with a teacher's scores of the middle of the frames."""
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=_bfloat16_pays(device)):
        for some in (index[start : start + _AT_ONCE] for start in range(0, len(index), _AT_ONCE)):
            scores = teacher(frames.batch(some, device))[0].flatten().float().cpu()
            frames.score[some] = (frames.score[some] + scores) / 2


def _layout(config: AENetConfig, device: torch.device) -> torch.memory_format:
    """Return the order in memory in which a step costs least.

    On a CPU the gradients of the published network's kernels cost three times as much with channels last.
    """
    plain = config.width is not None and device.type == "cpu"
    return torch.contiguous_format if plain else torch.channels_last


def _bfloat16_pays(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16 itself; other CPUs emulate it, at a fraction of the speed."""
    mag_image: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cuda" or bool(mag_image.get("avx512_bf16") or mag_image.get("amx_bf16"))


def evaluate(
    network: nn.Module,
    frames: Frames,
    index: NDArray[np.int64],
    device: torch.device,
    recalled: Callable[[NDArray[np.int64], slice], tuple[tuple[Tensor, ...], Tensor]] | None = None,
) -> dict[str, float]:
    """Return the paper's figures (MSE, accuracy within ±1, precision, correlation) and those of the ellipse.

    With `recalled` nothing is computed again of what the body of the network has seen.
    """
    network.eval()
    if isinstance(network, CompactAENet):
        network.window = WINDOW
    parts, ellipses = [], []
    with torch.no_grad():
        for some in (index[start : start + _AT_ONCE] for start in range(0, len(index), _AT_ONCE)):
            if recalled is None:
                outputs, ellipse = network(frames.batch(some, device)), frames.ellipse[some]
            else:
                outputs, ellipse = recalled(some, slice(1))
            parts.append(torch.stack([output.flatten().cpu() for output in outputs]))
            ellipses.append(ellipse.cpu())
    reported, true = torch.cat(parts, 1), torch.cat(ellipses)
    error = reported[0] - frames.score[index]
    figures = {
        "mse": float(error.square().mean()),
        "accuracy": float((error.abs() <= 1).float().mean()),
        "precision": float((1 - error.abs() / 10).mean()),
        "correlation": float(np.corrcoef(reported[0], frames.score[index])[0, 1]),
    }
    if len(reported) > 1:
        figures |= _of_radius("log_blur", reported[1], reported[2], true[:, :2].mean(1))
    if len(reported) > 3:
        figures |= _of_radius("log_larger", reported[3], reported[4], true[:, 0])
        figures |= _of_radius("log_smaller", reported[5], reported[6], true[:, 1])
        larger, smaller, cosine, sine = true.unbind(1)
        apart = torch.atan2(reported[8] * cosine - reported[7] * sine, reported[7] * cosine + reported[8] * sine) / 2
        clear = larger - smaller > _CLEARLY_ELLIPTICAL
        figures["direction_median_error_degrees"] = float(torch.rad2deg(apart[clear].abs()).median())
    return figures


def _of_radius(name: str, reported: Tensor, log_sigma: Tensor, true: Tensor) -> dict[str, float]:
    residual = reported - true
    return {
        f"{name}_median_error": float(residual.abs().median()),
        f"{name}_rms_error": float(residual.square().mean().sqrt()),
        f"{name}_rms_error_over_sigma": float((residual * torch.exp(-log_sigma)).square().mean().sqrt()),
    }


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, min(300, steps // 20))
    if step < warm:
        return (step + 1) / warm
    return cosine(step - warm, max(1, steps - warm)) + 1e-3
