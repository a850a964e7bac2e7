"""Where the focus lies, from all frames near it at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.probe import Measurement

HALF_WIDTH = 4.5
"""Depths of field from the focus at which the score is half its peak."""

SCORE_SIGMA = 0.6
"""Scatter of AENet's score between frames, model misfit included."""

BLUR_SIGMA = 0.08
"""Least scatter of ln(1 + blur radius), whatever the network says of its own certainty."""

WIDTH_SIGMA = 0.4
"""Scatter of ln(actual / nominal depth of field): aperture and working distance are not known."""

_CENTRES = np.arange(-160, 161) / 10.0
_WIDTHS = np.geomspace(0.4, 2.5, 17)


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
        How much better the frames agree with a focus than with a sample that looks the same everywhere: twice
        the logarithm of the ratio of likelihoods.
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
    """Return where score and blur together place the focus.

    Score is modelled as a bell of known shape whose height, width and centre are free, blur as α|z|; both
    widths scale with the one unknown, the beam's convergence. The posterior is summed over a grid of centre
    and width, with a long-tailed likelihood so that a single wild frame cannot carry the result away.

    Parameters
    ----------
    measurements : sequence of Measurement
        Frames at one magnification; those within 16 depths of field of `around` are used.
    around : float
        A working distance near the focus, mm.
    depth_of_field, distance_per_pixel : float
        Nominal, mm; see `Probe`.
    blur_range : float, optional
        Largest blur radius in pixels that the frames tell.
    """
    near = [m for m in measurements if abs(m.working_distance - around) <= 16.0 * depth_of_field]
    places = np.array([(m.working_distance - around) / depth_of_field for m in near])
    scores = np.array([m.score for m in near])
    distance = np.abs(_CENTRES[:, None, None] - places) / _WIDTHS[None, :, None]
    bell = 1.0 / (1.0 + np.square(distance / HALF_WIDTH))
    height = np.clip((bell * scores).sum(-1) / np.square(bell).sum(-1), 1.0, 9.0)
    cost = _long_tailed((height[..., None] * bell - scores) / SCORE_SIGMA).sum(-1)
    cost += np.square(np.log(_WIDTHS) / WIDTH_SIGMA)[None, :]
    flat = float(_long_tailed((scores - np.median(scores)) / SCORE_SIGMA).sum())
    if blur_range is not None:
        told = np.array([_told_blur(m) for m in near])
        sigma = np.array([_blur_sigma(m) for m in near])
        pixels = np.minimum(distance * (depth_of_field / distance_per_pixel), blur_range)
        cost += _long_tailed((np.log1p(pixels) - told) / sigma).sum(-1)
        flat += float(_long_tailed((told - np.median(told)) / sigma).sum())
    weight = np.exp(-0.5 * (cost - cost.min())).sum(axis=1)
    weight /= weight.sum()
    mean = float((weight * _CENTRES).sum())
    spread = math.sqrt(max(float((weight * np.square(_CENTRES - mean)).sum()), 1e-4))
    return Fit(around + mean * depth_of_field, spread * depth_of_field, flat - float(cost.min()))


def _long_tailed(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(5.0 * np.log1p(np.square(deviation) / 4.0))


def _told_blur(measurement: Measurement) -> float:
    value = measurement.evaluation.log_blur
    return 0.0 if value is None else value


def _blur_sigma(measurement: Measurement) -> float:
    value = measurement.evaluation.log_sigma
    return BLUR_SIGMA + (0.2 if value is None else math.exp(min(value, 1.0)))
