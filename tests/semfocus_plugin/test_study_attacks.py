"""The owner under attack: it keeps control and gets its answers and a frame, whatever others do."""

from __future__ import annotations

import sys

import pytest

from semfocus_plugin.lab.studies.attacks import ATTACKS, latencies

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="limits of descriptors of POSIX")]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_owner_keeps_control_and_gets_answers_and_a_frame(name):
    trips, frames = latencies(name, 0.2)
    assert len(trips) >= 50
    assert len(frames) >= 1
