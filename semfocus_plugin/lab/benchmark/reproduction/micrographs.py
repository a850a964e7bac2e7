"""Real micrographs, blurred by an implementation that is not the emulator's: a sampled disc, convolved by SciPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.files import read_pixels
from semdrivers.grey_levels import full_scale
from semfocus_plugin import networks
from semfocus_plugin.lab.benchmark.pictures import Picture
from semfocus_plugin.lab.parallel import required
from semfocus_plugin.networks import score

__all__ = ["BlurredPicture", "disc", "in_bytes", "score_picture", "score_triplet"]

_RADII = (0.0, 0.7, 1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 18.0, 24.0, 32.0)  # Pixels
_MAGNIFICATION = 3000.0
_NOISE = 0.08
_LARGE = 1000
_TRIPLET = ("pert5000", "base", "pert-5000")
_TRIPLET_MAGNIFICATION = 12_500.0  # That of 10 nm a pixel, 1024 pixels wide, on the EM-30's ruler
_TRIPLET_PROBE = 2.0  # nm; of the field-emission instrument that took it


@dataclass(frozen=True, slots=True, eq=False)
class BlurredPicture:
    """A picture at growing blur.

    Parameters
    ----------
    name : str
        Name of the file.
    label, score : ndarray of shape (11,)
        Score that the blur implies, and AENet's.
    rank_correlation : float
        Spearman's, of score with sharpness.
    """

    name: str
    label: NDArray[Any]
    score: NDArray[Any]
    rank_correlation: float


def score_picture(picture: Picture) -> BlurredPicture:
    """Blur the middle of a picture, halved in size where it is large, add noise, and score it.

    Raises
    ------
    AutofocusError
        When SciPy is not installed.
    """
    signal = required("scipy.signal", "the independent blur", "benchmark")
    stats = required("scipy.stats", "the independent blur", "benchmark")
    sharp = in_bytes(picture.pixels)
    top, left = (sharp.shape[0] - 240) // 2, (sharp.shape[1] - 320) // 2
    random = np.random.default_rng(0)
    evaluator = networks.load().evaluator
    scores = []
    for radius in _RADII:
        blurred = sharp
        if radius:
            padded = np.pad(sharp, 40, mode="reflect")
            blurred = signal.fftconvolve(padded, disc(radius), mode="same")[40:-40, 40:-40]
        window = blurred[top : top + 240, left : left + 320]
        window = window + random.normal(0, _NOISE * max(window.mean(), 30), window.shape)
        scores.append(evaluator(np.clip(window, 0, 255).astype(np.uint8), _MAGNIFICATION).score)
    label = 9 / (1 + (np.array(_RADII) / 4.5) ** 2)
    return BlurredPicture(picture.name, label, np.array(scores), float(stats.spearmanr(label, scores)[0]))


def disc(radius: float, fine: int = 8) -> NDArray[np.float64]:
    """Return a disc of `radius` pixels of sum 1, each pixel the mean of `fine`² samples."""
    half = math.ceil(radius) + 1
    place = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
    inside = (np.hypot(place[:, None], place[None, :]) <= radius).astype(float)
    kernel = inside.reshape(2 * half + 1, fine, 2 * half + 1, fine).mean(axis=(1, 3))
    return np.asarray(kernel / kernel.sum())


def score_triplet(folder: Path) -> tuple[float, ...]:
    """Return the scores of the real focal series in a folder, nearest to focus first; empty where it is not there."""
    files = [next(folder.glob(f"series_0_*_{name}.png"), None) for name in _TRIPLET]
    return tuple(
        score(read_pixels(path), magnification=_TRIPLET_MAGNIFICATION, probe_diameter=_TRIPLET_PROBE)
        for path in files
        if path is not None
    )


def in_bytes(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the picture in 0..255, at half its size where it is `_LARGE` pixels wide or more."""
    picture = pixels.astype(np.float64) * (255.0 / full_scale(pixels))
    if picture.shape[1] >= _LARGE:
        even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        picture = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))
    return picture
