"""The contact sheet of the documents, and the script that draws it."""

from __future__ import annotations

import runpy
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]


def test_the_sheet_is_there_and_light():
    path = ROOT / "docs" / "images" / "contact_sheet.png"
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as picture:
        assert picture.mode == "L"
        assert len(picture.getcolors()) > 2


def test_a_tile_can_be_drawn_anew():
    script = runpy.run_path(str(ROOT / "scripts" / "contact_sheet.py"))
    one, two = (script["frame"]("featureless", 4000, 0, seed, "typical") for seed in (1, 2))
    assert one.size == script["TILE"]
    assert one.tobytes() != two.tobytes()
