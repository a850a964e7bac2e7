"""Conventional image quality metrics that accompany AENet's score in the state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.grey_levels import full_scale, saturation

BINS = 256
_TILE = 16


def variance(unit: NDArray[np.float32]) -> float:
    """Return σ/μ (equation 3) of a median-filtered picture in 0..1; 0 for a black one."""
    mean = float(unit.mean(dtype=np.float64))
    return float(unit.std(dtype=np.float64)) / mean if mean > 0 else 0.0


def entropy(unit: NDArray[np.float32]) -> float:
    """Return −Σ p log₂ p (equation 4) over 256 grey levels of a median-filtered picture in 0..1, in bits."""
    levels = np.minimum(unit * np.float32(BINS), np.float32(BINS - 1)).astype(np.uint8)
    counts = np.bincount(levels.ravel(), minlength=BINS)
    share = counts[counts > 0] / levels.size
    return float(-(share * np.log2(share)).sum()) + 0.0


def line_correlation(pixels: NDArray[Any]) -> float:
    """Return the correlation of a raw frame with itself one line down, −1 to 1; 0 for a flat frame.

    Noise of an SEM is independent from line to line (detector lag and row gain act along a line), so pure
    noise gives 0 ± 0.004 in a 320×240 frame, and any structure of the sample more.
    """
    centred = pixels.astype(np.float32)
    centred -= centred.mean(dtype=np.float64)
    power = float(np.mean(np.square(centred), dtype=np.float64))
    if power < 1e-12:
        return 0.0
    product = float(np.mean(centred[1:] * centred[:-1], dtype=np.float64))
    return min(max(product / power, -1.0), 1.0)


def fine_structure(pixels: NDArray[Any]) -> tuple[float, float]:
    """Return how much fine structure a raw frame holds, and the share of the fine contrast that it makes up.

    Taking the mean off every tile of 16×16 pixels leaves neither charging nor gradients. What neighbouring lines then
    have in common is structure of the sample, for noise is independent from line to line.

    Returns
    -------
    structure : float
        Covariance of neighbouring lines over the squared mean grey level. Falls with blur, whatever the noise; to be
        compared between frames of one sample at one magnification.
    detail : float
        The same over the whole fine contrast, noise included, −1 to 1: above 0.1 in focus, some 0.02 at eight depths
        of field, 0 ± 0.004 for noise alone, however uneven the background.
    """
    product, power, brightness = _by_tile(pixels)
    whole, total = float(product.mean()), float(power.mean())
    if total < 1e-12 or brightness <= 0:
        return 0.0, 0.0
    return whole / brightness**2, min(max(whole / total, -1.0), 1.0)


def structure_beside(pixels: NDArray[Any], drawn: NDArray[np.bool_]) -> float:
    """Return what `fine_structure` does, of the tiles that hold none of the `drawn` pixels; 0 where there are none.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        Grey levels.
    drawn : ndarray of bool, of shape (H, W)
        Pixels that show no sample.
    """
    product, _, brightness = _by_tile(pixels)
    height, width = product.shape
    free = ~drawn[: height * _TILE, : width * _TILE].reshape(height, _TILE, width, _TILE).any(axis=(1, 3))
    return float(product[free].mean()) / brightness**2 if free.any() and brightness > 0 else 0.0


def border_share(pixels: NDArray[Any]) -> float:
    """Return the share of the fine structure of a raw frame that lies within 16 pixels of its border, 0 to 1.

    Some 0.2 where the whole frame shows a sample. Near 1 where it shows an edge at its border alone: defocus blurs what
    lies beyond into the frame, so that such a frame shows more out of focus than in focus.
    """
    product = _by_tile(pixels)[0]
    whole, inside = float(product.sum()), float(product[1:-1, 1:-1].sum())
    return min(max(1.0 - inside / whole, 0.0), 1.0) if whole > 0 else 0.0


def _by_tile(pixels: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return covariance of neighbouring lines and variance in every tile of 16×16 pixels, and the mean grey level."""
    height, width = (size // _TILE for size in pixels.shape)
    tiles = pixels[: height * _TILE, : width * _TILE].astype(np.float32).reshape(height, _TILE, width, _TILE)
    mean = _tile_sums(tiles) / _TILE**2
    tiles -= mean.astype(np.float32)[:, None, :, None]
    power = _tile_sums(np.square(tiles)) / _TILE**2
    # Around the mean of its tile, noise is correlated by −1/256; that is taken out.
    product = _tile_sums(tiles[:, 1:] * tiles[:, :-1]) / (_TILE * (_TILE - 1)) + power / _TILE**2
    return product, power, float(mean.mean())


def _tile_sums(tiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum of every tile, of shape (tiles down, lines, tiles along, columns)."""
    by_line = tiles.reshape(-1, _TILE) @ np.ones(_TILE, np.float32)
    return np.asarray(by_line.reshape(tiles.shape[:3]).sum(axis=1, dtype=np.float64))


def clipped_share(pixels: NDArray[Any], top: int | None = None) -> float:
    """Return the share of pixels that are black or saturated, 0 to 1.

    Parameters
    ----------
    pixels : ndarray of shape (H, W)
        Grey levels; in floating point black is 0 and full scale 1.
    top : int, optional
        Full scale, detected by `semdrivers.grey_levels.full_scale` by default; a plateau below it counts as saturated.
    """
    top = full_scale(pixels) if top is None else top
    return float(np.mean((pixels <= 0) | (pixels >= saturation(pixels, top))))
