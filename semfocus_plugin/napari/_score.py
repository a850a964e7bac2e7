"""The score of a layer."""

# No `from __future__ import annotations` here: magicgui reads the limits of a parameter from its annotation.

import math
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from semdrivers.errors import InvalidParameterError
from semfocus_plugin.networks import magnification_from_pixel, score

if TYPE_CHECKING:
    import napari


def score_active_layer(viewer: "napari.Viewer", magnification: Annotated[float, {"max": 1e7}] = 0.0) -> None:
    """Score the active layer, show the result in the status line, and keep it in the layer's metadata.

    Parameters
    ----------
    viewer : napari.Viewer
        Where the layer is.
    magnification : float
        Of a layer that does not hold it; 0 takes what the layer holds.

    Raises
    ------
    InvalidParameterError
        When no image is active, or its magnification is not known.
    """
    layer = viewer.layers.selection.active
    if layer is None:
        raise InvalidParameterError("no layer is active: click on one in the list of layers")
    value = score_of(layer, viewer.dims.current_step, magnification or None)
    layer.metadata["score"] = value
    viewer.status = f"{layer.name}: score {value:.2f} of 9"


def score_of(layer: Any, step: tuple[int, ...] = (), magnification: float | None = None) -> float:
    """Return the score of a layer, 0 (out of focus) to 9: of the plane that is shown, where it has several.

    Parameters
    ----------
    layer : napari.layers.Image
        With two dimensions, or three for a stack.
    step : tuple of int
        Which plane is shown: `viewer.dims.current_step`.
    magnification : float, optional
        By default that of the picture that was read, or what goes with the scale of the layer in µm.

    Raises
    ------
    InvalidParameterError
        When the layer is no grey picture, or its magnification is not known.
    """
    pixels = np.asarray(layer.data)
    while pixels.ndim > 2 and not getattr(layer, "rgb", False):
        pixels, step = pixels[step[0] if step else 0], step[1:]
    if pixels.ndim != 2:
        raise InvalidParameterError(f"{layer.name} is no grey picture: its data have the shape {pixels.shape}")
    factor = magnification or _magnification(layer, pixels.shape[1])
    if math.isnan(factor):
        raise InvalidParameterError(f"{layer.name} does not hold its magnification: enter it")
    return score(pixels, magnification=factor, bar_rows=layer.metadata.get("metadata", {}).get("bar_rows"))


def _magnification(layer: Any, width: int) -> float:
    stated = layer.metadata.get("magnification", math.nan)
    pixel_size = layer.metadata.get("pixel_size", math.nan)
    if 0 < pixel_size < math.inf:
        return magnification_from_pixel(pixel_size, width)
    if not math.isnan(stated):
        return float(stated)
    in_micrometres = [str(unit) in ("µm", "um", "micrometer") for unit in getattr(layer, "units", ())[-1:]]
    return magnification_from_pixel(float(layer.scale[-1]) * 1e3, width) if any(in_micrometres) else math.nan
