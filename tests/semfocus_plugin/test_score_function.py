"""The score of any picture."""

from __future__ import annotations

import math

import numpy as np
import pytest

import semfocus_plugin
from semdrivers import Image, InvalidParameterError, OutOfRangeError
from semfocus_plugin import networks

GOOD = np.random.default_rng(1).integers(0, 256, (240, 320)).astype(np.uint8)


def test_image_and_array_agree(tiny_models):
    image = Image(GOOD, 15.0, 5000.0, 80.0)
    assert semfocus_plugin.score(image) == semfocus_plugin.score(GOOD, magnification=5000.0)
    unit = GOOD.astype(np.float32) / 255
    assert semfocus_plugin.score(unit, magnification=5000.0) == pytest.approx(semfocus_plugin.score(image), abs=1e-3)
    wide = GOOD.astype(np.uint16) * 257
    assert semfocus_plugin.score(wide, magnification=5000.0) == pytest.approx(semfocus_plugin.score(image), abs=1e-3)


def test_a_fine_probe_makes_the_same_blur_score_less():
    """At low magnification the pixel decides, whatever the probe; at high magnification the probe does."""
    soft = np.cumsum(np.cumsum(np.random.default_rng(2).normal(size=(240, 320)), 0), 1)
    soft = ((soft - soft.min()) / np.ptp(soft)).astype(np.float32)
    scores = {
        core: semfocus_plugin.score(soft, magnification=40_000, probe_diameter=core)
        for core in (2.0, 36.0, 100.0, None)
    }
    assert scores[2.0] < scores[36.0] < scores[100.0]
    assert scores[None] == pytest.approx(scores[36.0], abs=1e-4)
    low = [semfocus_plugin.score(soft, magnification=100, probe_diameter=core) for core in (2.0, 36.0)]
    assert low[0] == pytest.approx(low[1], abs=1e-3)
    told = Image(soft, 15.0, 40_000.0, 80.0)
    assert (
        semfocus_plugin.score(told, probe_diameter=2.0)
        < semfocus_plugin.score(soft, magnification=40_000, probe_diameter=2.0) + 1e-3
    )


def blurred(larger: float, smaller: float, degrees: float, shape: tuple[int, int] = (240, 320)) -> np.ndarray:
    """Grains of several sizes under an elliptical Gaussian of these radii, in pixels, with noise."""
    random = np.random.default_rng(7)
    down, along = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    turn = math.radians(degrees)
    first, second = along * math.cos(turn) + down * math.sin(turn), down * math.cos(turn) - along * math.sin(turn)
    grains = np.fft.fft2(random.normal(size=shape)) / (np.hypot(along, down) + 0.01)
    probe = np.exp(-0.5 * math.pi**2 * ((larger * first) ** 2 + (smaller * second) ** 2))
    picture = np.fft.ifft2(grains * probe).real
    picture = (picture - picture.mean()) / picture.std() + random.normal(0, 0.05, shape)
    return np.clip(128 + 40 * picture, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("degrees", [-60.0, 0.0, 35.0, 90.0])
def test_a_line_focus_scores_as_its_larger_radius_not_as_its_sharp_edges(degrees):
    sharp, line, wide = (
        networks.evaluate(blurred(*radii, degrees), magnification=3000) for radii in ((0.7, 0.7), (10, 0.7), (10, 10))
    )
    assert sharp.score > 7
    assert line.score < 5
    assert line.score == pytest.approx(wide.score, abs=2)
    assert abs((line.ellipse.direction - degrees + 90) % 180 - 90) < 15
    assert line.ellipse.log_larger > line.ellipse.log_smaller + 0.5


@pytest.mark.parametrize("shape", [(241, 333), (250, 327), (480, 640), (884, 1024)])
def test_a_picture_of_any_size_has_a_score(shape):
    assert semfocus_plugin.score(blurred(0.7, 0.7, 0, shape), magnification=3000) > 6


@pytest.mark.parametrize(
    ("picture", "options", "error", "words"),
    [
        (GOOD, {}, InvalidParameterError, "magnification"),
        (GOOD, {"magnification": "5k"}, InvalidParameterError, "magnification"),
        (GOOD, {"magnification": 0}, OutOfRangeError, "above 0"),
        (GOOD, {"magnification": 5000, "probe_diameter": 0}, OutOfRangeError, "probe_diameter"),
        (GOOD, {"magnification": 5000, "probe_diameter": "fine"}, InvalidParameterError, "probe_diameter"),
        (GOOD, {"magnification": float("nan")}, OutOfRangeError, "finite"),
        (GOOD, {"magnification": 5000, "bar_rows": 150}, OutOfRangeError, "leaves 90 of 240"),
        (GOOD[:200], {"magnification": 1000}, OutOfRangeError, "320×200"),
        (np.stack([GOOD] * 3, -1), {"magnification": 1000}, InvalidParameterError, "colours"),
        (GOOD[None], {"magnification": 1000}, InvalidParameterError, "two axes"),
        (GOOD.astype(np.int32), {"magnification": 1000}, InvalidParameterError, "int32"),
        (np.full((240, 320), np.nan), {"magnification": 1000}, InvalidParameterError, "NaN"),
        (GOOD.astype(float), {"magnification": 1000}, InvalidParameterError, r"0\.\.1"),
        ("picture.tif", {"magnification": 1000}, InvalidParameterError, "str"),
        (Image(GOOD, 15.0, float("nan"), 80.0), {}, OutOfRangeError, "finite"),
    ],
)
def test_bad_pictures_are_named(tiny_models, picture, options, error, words):
    with pytest.raises(error, match=words):
        semfocus_plugin.score(picture, **options)


@pytest.mark.parametrize("pixel_size", [0, -80.0])
def test_a_pixel_without_a_size_has_no_magnification(pixel_size):
    with pytest.raises(OutOfRangeError, match="pixel_size must be above 0 nm"):
        networks.magnification_from_pixel(pixel_size, 320)
