"""The score of any picture."""

from __future__ import annotations

import numpy as np
import pytest

import semfocus_plugin
from semdrivers import Image, InvalidParameterError, OutOfRangeError

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


@pytest.mark.parametrize(
    ("picture", "options", "error", "words"),
    [
        (GOOD, {}, InvalidParameterError, "magnification"),
        (GOOD, {"magnification": "5k"}, InvalidParameterError, "magnification"),
        (GOOD, {"magnification": 0}, OutOfRangeError, "above 0"),
        (GOOD, {"magnification": 5000, "probe_diameter": 0}, OutOfRangeError, "probe_diameter"),
        (GOOD, {"magnification": 5000, "probe_diameter": "fine"}, InvalidParameterError, "probe_diameter"),
        (GOOD, {"magnification": float("nan")}, OutOfRangeError, "finite"),
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
