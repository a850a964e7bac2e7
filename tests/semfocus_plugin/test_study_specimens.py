"""The measures by which emulated specimens are compared with real micrographs, on pictures of known statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semfocus_plugin.lab.studies import specimens

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "specimens.md").read_text(encoding="utf-8")


def measured(pixels: np.ndarray) -> dict[str, float]:
    return dict(zip(specimens.HEADINGS, specimens.measures(pixels), strict=True))


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
def test_the_slope_of_a_power_law_is_its_exponent(slope):
    frequency = np.hypot(np.fft.fftfreq(480)[:, None], np.fft.rfftfreq(640))
    frequency[0, 0] = 1.0
    slopes = []
    for seed in range(8):
        white = np.random.default_rng(seed).standard_normal((480, 640))
        slopes.append(
            specimens.spectral_slopes(np.fft.irfft2(np.fft.rfft2(white) * frequency ** (slope / 2), white.shape))
        )
    assert np.mean(slopes, axis=0) == pytest.approx([slope, slope], abs=0.15)


def test_the_histogram_of_a_known_picture():
    pixels = np.zeros((100, 100), np.uint8)
    pixels[:25] = 100
    pixels[25:50] = 255
    values = measured(pixels)
    assert values["mean"] == pytest.approx(88.75)
    assert values["spread"] == pytest.approx(pixels.std())
    assert values["clipped %"] == pytest.approx(75.0)
    assert values["entropy"] == pytest.approx(1.5)
    assert values["skewness"] > 0


def test_a_bell_has_neither_skewness_nor_kurtosis():
    pixels = np.random.default_rng(1).normal(120, 20, (400, 400)).round().astype(np.uint8)
    values = measured(pixels)
    assert (values["skewness"], values["kurtosis"]) == pytest.approx((0, 0), abs=0.05)


def test_an_even_picture_is_measured_too():
    assert np.isfinite(specimens.measures(np.full((480, 640), 9, np.uint8))).all()


@pytest.mark.parametrize(("value", "word"), [(50.0, "inside"), (1.0, "edge"), (99.5, "edge"), (101.0, "outside")])
def test_inside_is_the_middle_and_outside_is_beyond_all(value, word):
    assert specimens.verdict(value, np.arange(101.0)) == word


def test_real_windows_leave_out_what_is_not_sharp(data_folder):
    windows = list(specimens.real_windows(data_folder))
    assert len(windows) >= 24
    assert {window.dtype for window in windows} == {np.dtype(np.uint8)}
    assert max(window.shape for window in windows) == (480, 640)


def test_an_emulated_field_is_measured():
    values = dict(zip(specimens.HEADINGS, specimens.emulated("featureless", 1000.0, 1), strict=True))
    assert values["slope, fine"] == pytest.approx(0, abs=0.3)
    assert values["clipped %"] == 0


def test_the_document_has_every_specimen_at_every_magnification():
    for name in specimens.SPECIMENS:
        for magnification in specimens.MAGNIFICATIONS.get(name, specimens.DEFAULT_MAGNIFICATIONS):
            assert f"| {name}, {magnification}× |" in PAGE
