"""A piece of a specimen that is drawn once, for a field that is scanned many times."""

from __future__ import annotations

import dataclasses

import numpy as np

from semdrivers.emulator.specimens import Array, Picture, Specimen, Window

__all__ = ["Drawn"]


class Drawn:
    """A specimen around one field, drawn when it is first needed, and mirrored at its edges.

    A column draws a wide blur on coarser grids, each of which covers a wider piece of the specimen. Here those pieces
    are the one that was drawn, averaged and mirrored, so that a field costs one drawing at any blur.

    Parameters
    ----------
    specimen : Specimen
        What to draw.
    window : Window
        The field with its margin, on the pixels of a frame.
    """

    def __init__(self, specimen: Specimen, window: Window) -> None:
        self._specimen, self._window = specimen, window
        width, height = window.size
        self._x, self._y = window.x + (width - window.pixel) / 2, window.y + (height - window.pixel) / 2
        self._layers: tuple[tuple[Picture, float, float], ...] = ()

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm), each (height, width) float32."""
        if not self._layers:
            self._layers = tuple(map(self._laid, self._specimen.render(self._window)))
        moved = dataclasses.replace(window, x=window.x - self._x, y=window.y - self._y)
        tone, relief = (
            picture.render(moved)[0] * np.float32(scale) + np.float32(low) for picture, scale, low in self._layers
        )
        return tone, relief

    def _laid(self, surface: Array) -> tuple[Picture, float, float]:
        """Return a surface as a picture, and the scale and offset that undo what `Picture` does to the levels."""
        low = float(surface.min())
        picture = Picture(surface - np.float32(low), self._window.pixel * 1e3)
        centred = dataclasses.replace(self._window, x=self._window.x - self._x, y=self._window.y - self._y)
        shown = float(picture.render(centred)[0].mean())
        return picture, (float(surface.mean()) - low) / shown if shown else 0.0, low
