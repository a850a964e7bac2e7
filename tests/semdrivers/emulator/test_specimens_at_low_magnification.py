"""What makes specimens quick at low magnification changes nothing of how they look."""

from __future__ import annotations

import numpy as np
import pytest

from semdrivers.emulator.specimens import SPECIMENS, Window, make_specimen
from semdrivers.emulator.specimens import _fields as fields


def window(magnification: float, columns: int = 96, rows: int = 72, x: float = 0.0) -> Window:
    return Window(x, 0.0, 400.0 / magnification, columns, rows)


@pytest.mark.parametrize("cell", [0.55, 3.0, 30.0])
def test_noise_is_the_same_when_only_the_lattice_beside_the_pixels_is_computed(cell, monkeypatch):
    there = window(20)
    monkeypatch.setattr(fields, "_MOST_POINTS", np.inf)
    whole = fields.noise(there, cell, 1.3 * cell, 5)
    monkeypatch.setattr(fields, "_MOST_POINTS", 0.0)
    np.testing.assert_allclose(fields.noise(there, cell, 1.3 * cell, 5), whole, atol=1e-6)


def test_the_lattice_is_no_larger_than_the_picture(monkeypatch):
    computed = []
    uniform = fields.lattice_uniform

    def counted(ix, iy, seed):
        computed.append(ix.size)
        return uniform(ix, iy, seed)

    monkeypatch.setattr(fields, "lattice_uniform", counted)
    fields.noise(window(20, 360, 280), 0.55, 0.7, 1)
    assert max(computed) <= 4 * 360 * 280


@pytest.mark.parametrize("magnification", [100, 1000])
def test_no_frame_from_magnification_100_up_is_drawn_the_short_way(magnification, monkeypatch):
    """So that the same seed keeps giving the same bytes there."""
    weights, short = fields._weights, []

    def watched(*arguments, sparse):
        short.append(sparse)
        return weights(*arguments, sparse=sparse)

    monkeypatch.setattr(fields, "_weights", watched)
    for name in SPECIMENS:
        make_specimen(name, 1).render(window(magnification, 360, 280))
    assert short
    assert not any(short)


@pytest.mark.parametrize("magnification", [30, 400])
def test_a_wing_is_the_same_in_any_window(magnification):
    """Each scale is drawn on its own patch: what lies outside a window does not change what lies inside."""
    wing = make_specimen("butterfly-wing", 3)
    pixel = 400.0 / magnification
    tone, height = wing.render(window(magnification))
    part, part_height = wing.render(Window(40 * pixel, 30 * pixel, pixel, 40, 30))
    assert np.mean(np.abs(tone[30:60, 40:80] - part) < 1e-2) > 0.99
    assert np.mean(np.abs(height[30:60, 40:80] - part_height) < 1e-2) > 0.99
