"""The report of a run of tiles: one HTML file that holds its pictures itself."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.files import replacing
from semdrivers.image import read_image
from semfocus_plugin.tiles._mosaic import halved
from semfocus_plugin.tiles._plan import Plan
from semfocus_plugin.tiles._run import TileRecord

_WIDEST = 1200
_MOST_SHOWN = 60
_STYLE = """body { font: 15px system-ui, sans-serif; margin: 1rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
img { max-width: 100%; background: #000 } table { border-collapse: collapse } td, th { padding: .15rem .5rem }
.grid td { font-size: 11px; text-align: center; min-width: 1.9rem; padding: .2rem } .none { outline: 2px solid #d55e00 }
figure { display: inline-block; margin: .4rem; width: 20rem; vertical-align: top } figcaption { font-size: 13px }"""


def write_report(
    path: Path,
    plan: Plan,
    records: Mapping[int, TileRecord],
    look: Mapping[int, str],
    facts: Mapping[str, str],
    pictures: Mapping[str, bytes],
    *,
    overwrite: bool = False,
) -> Path:
    """Write the report.

    Parameters
    ----------
    path : Path
        ``.html``.
    plan : Plan
        What was to be taken.
    records : mapping of int to TileRecord
        What was, by index.
    look : mapping of int to str
        From `second_look`.
    facts : mapping of str to str
        Lines of the summary.
    pictures : mapping of str to bytes
        PNG files, by their titles.
    overwrite : bool
        Whether the file may take the place of another.
    """
    lines = "".join(f"<tr><th align=left>{html.escape(k)}<td>{html.escape(v)}" for k, v in facts.items())
    shown = "".join(f"<h2>{html.escape(title)}</h2><img src='{_data(png)}'>" for title, png in pictures.items())
    worst = sorted(look, key=lambda index: (records[index].focus != "none", records[index].score))
    doubtful = "".join(_figure(records[index], look[index]) for index in worst[:_MOST_SHOWN])
    more = f"<p>and {len(worst) - _MOST_SHOWN} more" if len(worst) > _MOST_SHOWN else ""
    text = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Tiles</title>"
        "<meta http-equiv=Content-Security-Policy "
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style><h1>Tiles</h1><table>{lines}</table>"
        f"<h2>Score of every tile, the darker the better</h2><table class=grid>{_grid(plan, records, look)}</table>"
        f"<h2>Tiles that need a second look: {len(look)}</h2>{doubtful or '<p>none'}{more}{shown}</html>\n"
    )
    with replacing(path, overwrite) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def preview(picture: NDArray[Any]) -> bytes:
    """Return a picture as PNG, at most 2400 pixels wide, stretched to 8 bit."""
    from PIL import Image

    while max(picture.shape) > 2 * _WIDEST:
        picture = halved(picture)
    low, high = (float(q) for q in np.percentile(picture, (0.5, 99.5)))
    grey = np.clip((picture - low) * (255 / max(high - low, 1)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _grid(plan: Plan, records: Mapping[int, TileRecord], look: Mapping[int, str]) -> str:
    by_place = {(tile.row, tile.column): tile.index for tile in plan.tiles}
    rows = []
    for row in range(plan.rows):
        cells = []
        for column in range(plan.columns):
            record = records.get(by_place[row, column])
            if record is None:
                cells.append("<td>")
                continue
            known = math.isfinite(record.score)
            share = max(min(record.score / 9, 1.0), 0.0) if known else 0.0
            colour = f"hsl(205 70% {100 - 45 * share:.0f}%)" if known else "#eee"
            title = html.escape(f"{record.path.name}: {look.get(record.tile.index, record.reason)}", quote=True)
            mark = " class=none" if record.tile.index in look else ""
            cells.append(f'<td{mark} style="background:{colour}" title="{title}">{record.score:.1f}')
        rows.append("<tr>" + "".join(cells))
    return "".join(rows)


def _figure(record: TileRecord, reason: str) -> str:
    pixels = read_image(record.path).pixels
    while pixels.shape[1] > 640:
        pixels = halved(pixels)
    caption = html.escape(f"{record.path.name} at ({record.x:.3f}, {record.y:.3f}) mm: {reason}")
    return f"<figure><img src='{_data(preview(pixels))}'><figcaption>{caption}</figcaption></figure>"
