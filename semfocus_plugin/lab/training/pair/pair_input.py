"""What a pair network sees of two frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.networks import MAGNIFICATION_SCALE

__all__ = ["TEST_DEFOCUS", "prepared"]

TEST_DEFOCUS = 5.0
"""Of the two frames, to either side, in nominal depths of field: neither aperture nor working distance is used."""


def prepared(pairs: NDArray[Any], magnification: NDArray[Any]) -> NDArray[np.float32]:
    """Return what the network sees of pairs of frames.

    Both frames of a pair are divided by one standard deviation, so that the sharper stays the stronger.

    Parameters
    ----------
    pairs : ndarray of shape (N, 2, H, W)
        Grey levels; first the frame at the shorter working distance.
    magnification : ndarray of shape (N,)
        Magnification of the whole frames.

    Returns
    -------
    ndarray of shape (N, 3, H, W), float32
        The two frames, and the mag-image.
    """
    frames = np.asarray(pairs, dtype=np.float32)
    frames = frames - frames.mean(axis=(2, 3), keepdims=True)
    spread = np.sqrt(np.square(frames).mean(axis=(1, 2, 3), keepdims=True))
    mag_image = np.asarray(magnification, dtype=np.float32)[:, None, None, None] / MAGNIFICATION_SCALE
    planes = np.broadcast_to(mag_image, (len(frames), 1, *frames.shape[2:]))
    return np.concatenate([frames / np.maximum(spread, 1e-3), planes], axis=1, dtype=np.float32)
