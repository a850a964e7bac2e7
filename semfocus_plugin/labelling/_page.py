"""A page to label pictures on: one HTML file that holds the pictures themselves and asks no network for anything."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semfocus_plugin.labelling._sheet import COLUMNS, Row

_WINDOW = (320, 240)
_FINER = 4
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Labels</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
body { font: 15px system-ui, sans-serif; margin: 0 1rem 4rem; background: #16181d; color: #e6e6e6 }
header { position: sticky; top: 0; background: #16181d; padding: .7rem 0; border-bottom: 1px solid #444 }
section { display: flex; flex-wrap: wrap; gap: 1rem; padding: .8rem; border-bottom: 1px solid #333 }
section:focus { outline: 2px solid #6cf } img { width: 320px; height: 240px; object-fit: contain; background: #000 }
button { font: inherit; min-width: 2rem; padding: .3rem .5rem; margin: .1rem; border: 1px solid #666;
 border-radius: 4px; background: #262a33; color: inherit }
button.on { background: #2b7; color: #000 } input { font: inherit; width: 5rem }
.file { font-weight: 600; overflow-wrap: anywhere } .apart { color: #fb6 } p { margin: .3rem 0 }
</style></head><body>
<header><button id="save">Download CSV</button> <span id="count"></span>
<p>Left the whole picture, right its middle pixel by pixel. 9 is in focus, 0 out of focus. With a picture chosen, the
keys 0 to 9 label it and go on, Delete clears, Enter accepts the network's score.</p></header>
<main></main>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const { columns, rows, pictures, name } = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
let changed = false;
const make = (tag, parent, text, className) => {
  const element = parent.appendChild(document.createElement(tag));
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const count = () => {
  const labelled = rows.filter(row => row.label !== null).length;
  const state = changed ? ", not saved" : "";
  document.getElementById("count").textContent = `${labelled} of ${rows.length} labelled${state}`;
};
rows.forEach((row, k) => {
  const section = make("section", main);
  section.tabIndex = 0;
  for (const source of pictures[k]) make("img", section).src = source;
  const side = make("div", section);
  make("p", side, row.file, "file");
  const said = make("p", side);
  const buttons = make("p", side);
  const exact = make("input", make("p", side, "exactly: "));
  exact.type = "number"; exact.min = 0; exact.max = 9; exact.step = 0.1;
  const show = () => {
    const score = row.score === null ? "no score" : `the network says ${row.score.toFixed(1)}`;
    const apart = row.score !== null && row.label !== null ? Math.abs(row.score - row.label) : 0;
    said.textContent = (row.magnification ? `${row.magnification}×, ` : "") + score
      + (row.label !== null ? `; label ${row.label}` : "");
    said.className = apart > 1 ? "apart" : "";
    [...buttons.children].forEach((button, n) => button.classList.toggle("on", row.label === n));
    exact.value = row.label === null ? "" : row.label;
  };
  const set = value => { row.label = value; changed = true; show(); count(); };
  for (let n = 0; n < 10; n++) make("button", buttons, String(n)).onclick = () => set(n);
  make("button", buttons, "clear").onclick = () => set(null);
  exact.onchange = () => set(exact.value === "" ? null : Math.min(9, Math.max(0, Number(exact.value))));
  section.onkeydown = event => {
    if (event.target !== section || event.ctrlKey || event.altKey || event.metaKey) return;
    if (/^[0-9]$/.test(event.key)) set(Number(event.key));
    else if (event.key === "Delete") { set(null); return; }
    else if (event.key === "Enter" && row.score !== null) set(Math.round(10 * row.score) / 10);
    else return;
    event.preventDefault();
    if (section.nextElementSibling) section.nextElementSibling.focus();
  };
  show();
});
count();
document.getElementById("save").onclick = () => {
  const text = value => typeof value === "string" ? value.replace(/^('*[=+\\-@\\t\\r])/, "'$1") : value;
  const quoted = value => /[",\\r\\n]/.test(value) ? `"${String(value).replace(/"/g, '""')}"` : value;
  const ordered = [...rows].sort((a, b) => a.file < b.file ? -1 : 1);
  const table = [columns, ...ordered.map(row => columns.map(column => row[column] === null ? "" : row[column]))];
  const lines = table.map(line => line.map(text).map(quoted).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\\ufeff" + lines.join("\\r\\n") + "\\r\\n"], { type: "text/csv" }));
  link.download = name;
  link.click();
  changed = false;
  count();
};
addEventListener("beforeunload", event => { if (changed) event.preventDefault(); });
</script></body></html>
"""


def page(rows: Iterable[Row], thumbnails: Mapping[str, tuple[str, str]], name: str) -> str:
    """Return the page.

    Parameters
    ----------
    rows : iterable of Row
        In the order to show.
    thumbnails : mapping of str to (str, str)
        By name of file: see `thumbnail`. Lines without one are shown without pictures.
    name : str
        File name that the page proposes for the sheet.
    """
    listed = list(rows)
    data = {
        "columns": COLUMNS,
        "rows": [{column: _rounded(getattr(row, column)) for column in COLUMNS} for row in listed],
        "pictures": [thumbnails.get(row.file, ()) for row in listed],
        "name": name,
    }
    # Within a script element only "</" could end it; JSON may write that otherwise.
    return _PAGE.replace("@DATA@", json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))


def thumbnail(pixels: NDArray[Any]) -> tuple[str, str]:
    """Return a picture of shape (H, W) as two data URIs: all of it, and its middle 320×240 pixels unscaled.

    Both are stretched to the same grey levels, one pixel in two hundred being left out at either end.
    """
    from PIL import Image as Pillow

    height, width = pixels.shape
    step = max(1, min(height // (_FINER * _WINDOW[1]), width // (_FINER * _WINDOW[0])))
    left, top = max(0, (width - _WINDOW[0]) // 2), max(0, (height - _WINDOW[1]) // 2)
    low, high = np.percentile(pixels[::step, ::step], [0.5, 99.5])

    def stretched(part: NDArray[Any]) -> Any:
        grey = (part.astype(np.float32) - low) * (255 / max(high - low, 1e-9))
        return Pillow.fromarray(np.clip(grey, 0, 255).astype(np.uint8))

    whole, middle = (
        stretched(pixels[::step, ::step]),
        stretched(pixels[top : top + _WINDOW[1], left : left + _WINDOW[0]]),
    )
    whole.thumbnail(_WINDOW)
    return _data_uri(whole), _data_uri(middle)


def _data_uri(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
