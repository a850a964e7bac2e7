"""The nominal physics of the autofocus and that of the emulator, written independently of each other, agree."""

from __future__ import annotations

import math

import numpy as np
import pytest

from firmware_protocol.profile import EM30
from semdrivers.emulator import physics
from semfocus_plugin import optics

WORKING_DISTANCE = 15.0
"""mm; the half-angle of the beam is 3 mrad there."""
CORE = 50.0
"""nm"""


def test_field_and_aperture() -> None:
    assert EM30.field_width_at_unity == 128.0
    assert EM30.aperture_radius * 1e-3 == pytest.approx(optics.NOMINAL_APERTURE)
    for magnification in (200.0, 30_000.0):
        pixel = optics.NOMINAL_PIXEL / magnification * 1e6
        assert physics.pixel_size(magnification, 320) == pytest.approx(pixel)
        assert EM30.pixel_size(magnification, 320) == pytest.approx(pixel)


def test_depth_of_field() -> None:
    alpha = physics.half_angle(WORKING_DISTANCE, EM30.aperture_radius)
    for magnification in (200.0, 1000.0, 5000.0, 30_000.0):
        expected = physics.depth_of_field(physics.pixel_size(magnification, 320), CORE, alpha)
        computed = optics.depth_of_field(optics.NOMINAL_PIXEL / magnification, CORE * 1e-6, alpha)
        assert computed == pytest.approx(expected)


def test_ideal_score() -> None:
    """The score of a blur is that of its defocus, whatever pixel and probe are."""
    alpha = physics.half_angle(WORKING_DISTANCE, EM30.aperture_radius)
    for pixel, core in ((400.0, 36.0), (13.0, 36.0), (80.0, 10.0)):
        half = optics.half_blur(pixel * 1e-6, core * 1e-6)
        depth = physics.depth_of_field(pixel, core, alpha)
        for defocus in (0.0, 0.5, 1.0, 4.5, 30.0):
            blur = defocus * depth * alpha * 1e6 / pixel
            assert optics.ideal_score(math.log1p(blur), half) == pytest.approx(physics.ideal_score(defocus))


def test_transfer_of_the_disc() -> None:
    """The autofocus keeps the power, smoothed over a small range of radii; the emulator the amplitude."""
    radius = 5.0
    grid = physics.frequency_grid((128, 128))
    argument = radius * np.hypot(grid.kx, grid.ky)
    amplitude = grid.disc(radius, radius, 0.0).astype(float)
    np.testing.assert_allclose(optics.transfer(argument), amplitude**2, atol=0.02)
    wide = argument < 2
    np.testing.assert_allclose(optics.transfer(argument)[wide], (amplitude**2)[wide], rtol=0.02)
