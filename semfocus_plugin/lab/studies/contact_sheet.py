"""Draw every specimen of the emulator at four magnifications and five defoci, on one sheet to look at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from semdrivers.emulator.physics import ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import SPECIMENS, make_specimen

__all__ = ["TILE", "draw", "frame"]

# Magnifications of a specimen that differs from the others
_MAGNIFICATIONS = {"gold-nanoparticles": (8_000, 12_000, 20_000, 30_000)}
_DEFAULT_MAGNIFICATIONS = (500, 1_500, 4_000, 10_000)  # Magnifications of every other specimen
_DEFOCI = (-12, -4, 0, 4, 12)  # Depths of field from best focus
TILE = 160, 120
"""Width and height of a picture on the sheet, pixels."""
_GAP, _LABEL, _GREYS = 2, 12, 22  # pixels between pictures, pixels of a label, grey levels of the palette


def frame(name: str, magnification: float, defocus: float, seed: int, preset: str) -> Image.Image:
    """Return one tile: a FAST frame, averaged down."""
    column = ElectronColumn(make_specimen(name, seed), seed=seed, preset=preset)
    conditions = ScanConditions(15.0, magnification, 320, 240)
    truth = column.truth(conditions)
    place = truth.working_distance + defocus * truth.depth_of_field
    pixels = column.render(dataclasses.replace(conditions, working_distance=place))
    return Image.fromarray(pixels).resize(TILE, Image.Resampling.BOX)


def _sheet(seed: int, preset: str) -> Image.Image:
    """Return the sheet: a block a specimen, a line a magnification, a column a defocus."""
    width, height = TILE[0] + _GAP, TILE[1] + _GAP
    block = len(_DEFAULT_MAGNIFICATIONS) * height + 2 * _LABEL, len(_DEFOCI) * width + 44
    across = 2
    down = -(-len(SPECIMENS) // across)
    picture = Image.new("L", (across * block[1] + _GAP, down * block[0] + _GAP), 255)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(10)
    for index, name in enumerate(SPECIMENS):
        left, top = index % across * block[1] + _GAP, index // across * block[0] + _GAP
        draw.text((left + 44, top - 1), name, 0, font)
        for column, defocus in enumerate(_DEFOCI):
            draw.text(
                (left + 44 + column * width + TILE[0] // 2 - 8, top + _LABEL - 1),
                f"{defocus:+d}".replace("+0", "0"),
                96,
                font,
            )
        for line, magnification in enumerate(_MAGNIFICATIONS.get(name, _DEFAULT_MAGNIFICATIONS)):
            y = top + 2 * _LABEL + line * height
            draw.text((left + 2, y + TILE[1] // 2), f"{magnification}x", 0, font)
            for column, defocus in enumerate(_DEFOCI):
                tile = frame(name, magnification, defocus, seed, preset)
                picture.paste(tile, (left + 44 + column * width, y))
    return picture


def draw(path: Path, seed: int, preset: str) -> str:
    """Write the sheet as an 8-bit grey PNG, and return a line about it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = _sheet(seed, preset)
    levels = np.rint(np.asarray(picture) / 255 * (_GREYS - 1)) * (255 / (_GREYS - 1))
    Image.fromarray(np.rint(levels).astype(np.uint8)).save(path, optimize=True)
    return f"{path}: {picture.width}×{picture.height}, {path.stat().st_size / 1e3:.0f} kB"
