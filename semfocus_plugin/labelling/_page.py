"""The page to label pictures on: one HTML file that holds the pictures, or one that a server feeds."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers import read_image
from semdrivers.data_bar import without_bar
from semfocus_plugin.labelling._sheet import COLUMNS, Row

_WINDOW = (320, 240)
_FINER = 4
_QUALITY = 80


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture as the page shows it.

    Parameters
    ----------
    whole : str
        All of it, reduced, as a data URI.
    width, height : int
        Of the picture, pixels.
    pixel_size : float or None
        nm; None where the file does not hold it.
    size : tuple of int
        Width and height of a crop, pixels.
    crops : tuple of mapping
        Up to nine parts of it, pixel by pixel: ``x`` and ``y`` of the upper left corner, and ``src``, a data URI.
    """

    whole: str
    width: int
    height: int
    pixel_size: float | None
    size: tuple[int, int]
    crops: tuple[Mapping[str, Any], ...]


def page(rows: Iterable[Row], previews: Mapping[str, Preview], name: str) -> str:
    """Return the page as one file that holds everything.

    Parameters
    ----------
    rows : iterable of Row
        In the order to show.
    previews : mapping of str to Preview
        By name of file. Lines without one are shown without pictures.
    name : str
        File name that the page proposes for the sheet.
    """
    listed = list(rows)
    shown = [previews.get(row.file) for row in listed]
    pictures = [None if each is None else asdict(each) for each in shown]
    return _filled({**rows_of(listed), "pictures": pictures, "name": name}, "")


def served_page() -> str:
    """Return the page that asks its server for rows and pictures, and gives it every label."""
    return _filled(None, "; connect-src 'self'")


def rows_of(rows: Iterable[Row]) -> dict[str, Any]:
    """Return the columns and rows as the page takes them."""
    listed = [{column: _rounded(getattr(row, column)) for column in COLUMNS} for row in rows]
    return {"columns": COLUMNS, "rows": listed}


def preview_of(row: Row, base: Path) -> Preview:
    """Return the picture of a row whose sheet lies in `base`; raises as `semdrivers.read_image` does."""
    image = read_image(base / row.file)
    return preview(without_bar(image.pixels, row.bar_rows or 0, row.file), image.pixel_size)


def preview(pixels: NDArray[Any], pixel_size: float = math.nan) -> Preview:
    """Return a picture of shape (H, W): all of it, and up to nine crops of 320×240 pixels unscaled.

    All are stretched to the same grey levels, one pixel in two hundred being left out at either end.
    """
    from PIL import Image as Pillow

    height, width = pixels.shape
    step = max(1, min(height // (_FINER * _WINDOW[1]), width // (_FINER * _WINDOW[0])))
    low, high = np.percentile(pixels[::step, ::step], [0.5, 99.5])

    def stretched(part: NDArray[Any]) -> Any:
        grey = (part.astype(np.float32) - low) * (255 / max(high - low, 1e-9))
        return Pillow.fromarray(np.clip(grey, 0, 255).astype(np.uint8))

    columns, lines = min(width, _WINDOW[0]), min(height, _WINDOW[1])
    whole = stretched(pixels[::step, ::step])
    whole.thumbnail((2 * _WINDOW[0], 2 * _WINDOW[1]))
    places = [(x, y) for y in _places(height, lines) for x in _places(width, columns)]
    crops = [{"x": x, "y": y, "src": _data_uri(stretched(pixels[y : y + lines, x : x + columns]))} for x, y in places]
    known = pixel_size if 0 < pixel_size < math.inf else None
    return Preview(_data_uri(whole), width, height, known, (columns, lines), tuple(crops))


def _places(extent: int, window: int) -> list[int]:
    """Return where crops begin along one side: at both ends and in the middle, where there is room for as many."""
    spare = extent - window
    return [round(spare * share) for share in ((0.0, 0.5, 1.0) if spare > window // 2 else (0.5,))]


@cache
def _template() -> tuple[str, str]:
    """Return the page and its policy: what is written in it may run, by its hash, and nothing else."""
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    allowed = "; ".join(
        f"{kind}-src '{_hash(re.findall(rf'<{kind}>(.*?)</{kind}>', text, re.DOTALL)[0])}'"
        for kind in ("style", "script")
    )
    return text, f"default-src 'none'; img-src data:; {allowed}"


def _filled(data: Any, more: str) -> str:
    text, policy = _template()
    # Within a script element only "</" could end it; JSON may write that otherwise.
    content = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return text.replace("@POLICY@", policy + more).replace("@DATA@", content)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _data_uri(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
