"""The study of tiles: every strategy runs, and what it says of a small sample is right."""

from __future__ import annotations

import pytest

from semfocus_plugin.lab.studies import tiles


@pytest.mark.slow
def test_a_map_keeps_a_tilted_sample_sharp_where_a_fixed_focus_does_not(tmp_path):
    picture = tmp_path / "map.png"
    by_map = tiles.run_scene("spread", "map", 2, 1, 20.0, 3, picture)
    fixed = tiles.run_scene("spread", "fixed", 6, 4, 20.0, 3, None)
    assert len(by_map.errors) == 2
    assert max(by_map.errors) < 1
    assert max(fixed.errors) > 1
    assert by_map.seconds > 0
    assert sum(fixed.frames[1:]) == 0 < fixed.frames[0]
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_map_keeps_a_tilted_sample_sharp_in_an_instrument_unlike_the_emulator():
    by_map, fixed = (tiles.run_scene("foreign", way, 4, 2, 20.0, 4, None) for way in ("map", "fixed"))
    assert max(by_map.errors) < 1 < max(fixed.errors)
