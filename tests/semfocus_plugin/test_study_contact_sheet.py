"""The contact sheet of the documents, and the script that draws it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from semfocus_plugin.lab.studies import contact_sheet

ROOT = Path(__file__).parents[2]


def test_the_sheet_is_there_and_light():
    path = ROOT / "docs" / "images" / "contact_sheet.png"
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as picture:
        assert picture.mode == "L"
        assert len(picture.getcolors()) > 2


def test_a_tile_can_be_drawn_anew():
    one, two = (contact_sheet.frame("featureless", 4000, 0, seed, "typical") for seed in (1, 2))
    assert one.size == contact_sheet.TILE
    assert one.tobytes() != two.tobytes()
