"""What a run computes for a frame, part by part: every part is met, and the parts are the whole."""

from __future__ import annotations

import pytest

from semfocus_plugin.lab.studies import frame_compute


def test_the_parts_of_a_frame_are_compared_with_one_inference():
    _, *rows, whole = frame_compute.tables(1, 3)
    spent = {name: float(ms) for name, ms, _ in rows}
    assert [name for name, ms in spent.items() if ms <= 0] == []
    assert float(whole[1]) == pytest.approx(sum(spent.values()), abs=0.1)
    assert float(whole[1]) == pytest.approx(float(whole[2]) * spent[frame_compute.INFERENCE], rel=0.01)
