"""Where the focus lies, from all frames near it at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.run import Measurement

HALF_WIDTH = 4.5
"""Depths of field from the focus at which the score is half its peak."""

SCORE_SIGMA = 0.6
"""Scatter of AENet's score between frames, model misfit included."""

BLUR_SIGMA = 0.08
"""Least scatter of ln(1 + blur radius), whatever the network says of its own certainty."""

STRUCTURE_SIGMA = (0.02, 0.12)
"""Scatter of the fine structure, as a share of the fine contrast and of its own peak."""

WIDTH_SIGMA = 0.4
"""Scatter of ln(actual / nominal depth of field): aperture and working distance are not known."""

SPAN = 16.0
"""Frames further than this many depths of field from the middle are left out."""

_CENTRES = np.arange(-160, 161) / 10.0
_WIDTHS = np.geomspace(0.4, 2.5, 17)
_BLUR_FLOORS = (0.0, 1.0, 2.0, 4.0)
_STRUCTURE_WIDTHS = np.array([2.5, 4.0, 6.5, 10.0])

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fit:
    """Posterior of the focus.

    Parameters
    ----------
    working_distance : float
        Its mean, mm.
    sigma : float
        Its standard deviation, mm.
    evidence : float
        How much better the frames agree with a focus than with a sample that looks the same everywhere: twice the
        logarithm of the ratio of likelihoods.
    """

    working_distance: float
    sigma: float
    evidence: float


def fit_focus(
    measurements: Sequence[Measurement],
    around: float,
    depth_of_field: float,
    distance_per_pixel: float,
    blur_range: float | None = None,
) -> Fit:
    """Return where score, blur and fine structure together place the focus.

    The score is modelled as a bell of known shape and the blur as α|z|; their widths scale with the one unknown, the
    beam's convergence. The fine structure is a bell of unknown width: it depends on the sample, not on what the network
    makes of it. Heights are free. The posterior is summed over a grid of centre and width, with a long-tailed
    likelihood so that a single wild frame cannot carry the result away.

    Parameters
    ----------
    measurements : sequence of Measurement
        Frames at one magnification; those within 16 depths of field of `around` are used.
    around : float
        A working distance near the focus, mm.
    depth_of_field, distance_per_pixel : float
        Nominal, mm; see `FocusRun`.
    blur_range : float, optional
        Largest blur radius in pixels that the frames can show.
    """
    near = [m for m in measurements if abs(m.working_distance - around) <= SPAN * depth_of_field]
    places = np.array([(m.working_distance - around) / depth_of_field for m in near])
    offset = np.abs(_CENTRES[:, None] - places)
    distance = offset[:, None, :] / _WIDTHS[None, :, None]
    cost = np.broadcast_to(np.square(np.log(_WIDTHS) / WIDTH_SIGMA), (len(_CENTRES), len(_WIDTHS)))
    added, flat = _score_cost(np.array([m.score for m in near]), distance)
    cost = cost + added
    if blur_range is not None:
        pixels = np.minimum(distance * (depth_of_field / distance_per_pixel), blur_range)
        added, alike = _blur_cost(near, pixels)
        cost, flat = cost + added, flat + alike
    added, alike = _structure_cost(near, offset)
    cost, flat = cost + added[:, None], flat + alike
    weight = np.exp(-0.5 * (cost - cost.min())).sum(axis=1)
    weight /= weight.sum()
    mean = float((weight * _CENTRES).sum())
    spread = math.sqrt(max(float((weight * np.square(_CENTRES - mean)).sum()), 1e-4))
    return Fit(around + mean * depth_of_field, spread * depth_of_field, flat - float(cost.min()))


def _score_cost(scores: Array, distance: Array) -> tuple[Array, float]:
    """Return the misfit of a bell at every centre and width, and that of one score for all frames."""
    bell = 1.0 / (1.0 + np.square(distance / HALF_WIDTH))
    height = np.clip((bell * scores).sum(-1) / np.square(bell).sum(-1), 1.0, 9.0)
    misfit = _long_tailed((height[..., None] * bell - scores) / SCORE_SIGMA)
    return misfit, float(_long_tailed((scores - np.median(scores)) / SCORE_SIGMA))


def _blur_cost(near: Sequence[Measurement], pixels: Array) -> tuple[Array, float]:
    """Return the misfit of α|z| at every centre and width, and that of one blur for all frames.

    A soft sample, or a wide probe core, looks blurred even in focus: the best of several floors is taken.
    """
    log_blurs = np.array([m.evaluation.log_blur or 0.0 for m in near])
    sigma = np.array([_blur_sigma(m) for m in near])
    misfit = [_long_tailed((np.log1p(np.hypot(pixels, floor)) - log_blurs) / sigma) for floor in _BLUR_FLOORS]
    return np.min(misfit, axis=0), float(_long_tailed((log_blurs - np.median(log_blurs)) / sigma))


def _structure_cost(near: Sequence[Measurement], offset: Array) -> tuple[Array, float]:
    """Return the misfit of the best of several bells at every centre, and that of one value for all frames."""
    structure = np.array([m.structure for m in near])
    richest = max(near, key=lambda m: m.structure)
    if richest.detail <= 0:
        return np.zeros(len(offset)), 0.0
    of_noise, of_peak = STRUCTURE_SIGMA
    sigma = of_noise * richest.structure / richest.detail + of_peak * richest.structure
    bell = np.square(1.0 / (1.0 + np.square(offset[:, None, :] / _STRUCTURE_WIDTHS[None, :, None])))
    height = np.maximum((bell * structure).sum(-1) / np.square(bell).sum(-1), 0.0)[..., None]
    misfit = _long_tailed((height * bell - structure) / sigma).min(axis=1)
    return misfit, float(_long_tailed((structure - np.median(structure)) / sigma))


def _long_tailed(deviation: Array) -> Array:
    """Return −2 ln of Student's t with four degrees of freedom, summed over the frames."""
    return np.asarray(5.0 * np.log1p(np.square(deviation) / 4.0).sum(axis=-1))


def _blur_sigma(measurement: Measurement) -> float:
    value = measurement.evaluation.log_sigma
    return BLUR_SIGMA + (0.2 if value is None else math.exp(min(value, 1.0)))
