"""The tables of the emulator's physics: what the pixels show is what was set, and the document says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from semfocus_plugin.lab.studies import frame_times, physics

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "physics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("title", physics.TABLES)
def test_every_figure_is_within_its_limit_and_in_the_document(title):
    rows = list(physics.TABLES[title]())
    assert rows
    assert [f"{row.what}: {row.measured:g} for {row.expected:g}" for row in rows if not row.holds] == []
    section = PAGE.split(f"### {title}\n")[1].split("\n### ")[0]
    assert [row.what for row in rows if f"| {row.what} | {row.expected:.4g} " not in section] == []


def test_blur_is_required_to_hold_from_one_to_twenty_pixels():
    assert (min(physics.RADII), max(physics.RADII)) == (1.0, 20.0)


def test_a_figure_beyond_its_limit_fails():
    row = physics.Row
    assert row("blur", 4.0, 4.19, "px").holds
    assert not row("blur", 4.0, 4.21, "px").holds
    assert not row("blur", 4.0, 3.79, "px").holds


def test_a_tenth_more_blur_reads_a_tenth_wider():
    """The measure sees the pixels, not the setting."""
    column_over, dots, scan = physics.column_over, physics.dots, physics.scan
    column = column_over(dots(), 2000.0)
    sharp = physics.smoothed(physics.dithered(column, scan()))
    widths = []
    for defocus in (0.4, 0.44):
        distance = 15.0 + defocus
        blurred = physics.smoothed(physics.dithered(column, scan(working_distance=distance)))
        before, after = (physics.spots(column.render(scan()), frame, 20)[1] for frame in (sharp, blurred))
        widths.append((2 * (after - before).sum()) ** 0.5 * distance)
    assert widths[1] / widths[0] == pytest.approx(1.1, abs=0.003)


def test_frame_times_are_measured_at_every_mode():
    for mode in frame_times.AIMS:
        each, first = frame_times.frame_times("featureless", mode, frames=2)
        assert each >= 0
        assert first >= 0
        assert mode in PAGE
    assert frame_times.processor()
