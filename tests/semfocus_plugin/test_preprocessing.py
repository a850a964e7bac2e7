"""What the networks see of a picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import ndimage, stats

from semdrivers import InvalidParameterError
from semfocus_plugin.networks import (
    clipped_share,
    entropy,
    fine_structure,
    line_correlation,
    median3,
    normalise,
    prepare,
    preprocess,
    to_unit,
    variance,
)

shapes = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)


@settings(max_examples=100, deadline=None)
@given(npst.arrays(st.sampled_from([np.uint8, np.uint16]), shapes))
def test_median_is_scipys_with_replicated_edges(pixels):
    found = median3(pixels)
    assert found.dtype == pixels.dtype
    np.testing.assert_array_equal(found, ndimage.median_filter(pixels, 3, mode="nearest"))


def test_median_works_on_a_stack_of_pictures():
    stack = np.random.default_rng(1).integers(0, 256, (3, 20, 30)).astype(np.uint8)
    np.testing.assert_array_equal(median3(stack), np.stack([median3(picture) for picture in stack]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_levels_span_zero_to_one(dtype):
    ends = np.array([[0, np.iinfo(dtype).max]], dtype)
    np.testing.assert_allclose(to_unit(ends), [[0.0, 1.0]])


def test_unknown_grey_levels_are_named():
    with pytest.raises(InvalidParameterError, match="int32"):
        to_unit(np.zeros((2, 2), np.int32))


def test_flat_picture_becomes_zeros():
    np.testing.assert_array_equal(normalise(np.full((5, 5), 0.7, np.float32)), np.zeros((5, 5)))


def test_input_has_zero_mean_unit_deviation_and_the_magnification():
    pixels = np.random.default_rng(2).integers(0, 256, (240, 320)).astype(np.uint8)
    frames = prepare(pixels, 5000.0)
    assert frames.shape == (1, 2, 240, 320)
    assert frames.dtype == np.float32
    assert abs(float(frames[0, 0].mean())) < 1e-5
    assert float(frames[0, 0].std()) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(frames[0, 1], 0.05)


def test_a_frame_of_twice_the_width_is_told_the_magnification_of_its_pixels():
    pixels = np.random.default_rng(2).integers(0, 256, (480, 640)).astype(np.uint8)
    np.testing.assert_allclose(prepare(pixels, 5000.0)[0, 1], 0.1)


@settings(max_examples=30, deadline=None)
@given(gain=st.floats(0.2, 0.9), offset=st.floats(0.0, 0.1), seed=st.integers(0, 100))
def test_input_does_not_depend_on_gain_and_offset(gain, offset, seed):
    unit = np.random.default_rng(seed).random((24, 32)).astype(np.float32)
    np.testing.assert_allclose(normalise(unit), normalise(gain * unit + np.float32(offset)), atol=2e-4)


def test_median_and_metrics_share_one_picture():
    pixels = np.random.default_rng(3).integers(0, 256, (240, 320)).astype(np.uint8)
    prepared = preprocess(pixels, 1000.0)
    np.testing.assert_allclose(prepared.unit, ndimage.median_filter(pixels, 3, mode="nearest") / 255.0, rtol=1e-6)
    assert variance(prepared.unit) == pytest.approx(stats.variation(prepared.unit, axis=None), rel=1e-5)


def test_entropy_counts_every_grey_level_of_8_bits_apart():
    every_level = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(16, 16)
    assert entropy(every_level) == pytest.approx(8.0)
    assert entropy(np.full((8, 8), 0.5, np.float32)) == 0.0


def test_metrics_of_a_black_picture_are_zero():
    black = np.zeros((8, 8), np.float32)
    assert variance(black) == 0.0
    assert entropy(black) == 0.0


def test_noise_has_no_correlation_between_lines_and_structure_has():
    random = np.random.default_rng(4)
    noise = random.integers(0, 256, (240, 320)).astype(np.uint8)
    assert abs(line_correlation(noise)) < 0.012
    blurred = ndimage.gaussian_filter(random.normal(size=(240, 320)), 2.0)
    structure = np.clip(128 + 300 * blurred, 0, 255).astype(np.uint8)
    assert line_correlation(structure) > 0.8
    assert line_correlation(np.full((10, 10), 7, np.uint8)) == 0.0


def test_detail_sees_fine_structure_and_neither_noise_nor_an_uneven_background():
    random = np.random.default_rng(5)
    rows, columns = np.mgrid[:240, :320]
    background = 60 + 0.3 * columns + 15 * np.sin(rows / 40)
    noise = random.normal(0, 20, (240, 320))
    uneven = np.clip(background + noise, 0, 255).astype(np.uint8)
    assert line_correlation(uneven) > 0.5
    assert abs(fine_structure(uneven)[1]) < 0.02
    sharp = ndimage.gaussian_filter(random.normal(size=(240, 320)), 1.2)
    fine = np.clip(background + 60 * sharp / sharp.std() / 2 + noise, 0, 255).astype(np.uint8)
    assert fine_structure(fine)[1] > 0.1
    values = [fine_structure(random.integers(0, 256, (240, 320)).astype(np.uint8))[1] for _ in range(20)]
    assert abs(np.mean(values)) < 0.003
    assert max(map(abs, values)) < 0.015
    for level in (0, 9):
        assert fine_structure(np.full((40, 40), level, np.uint8)) == (0.0, 0.0)


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_structure_falls_with_blur_whatever_the_noise(noise):
    random = np.random.default_rng(6)
    scene = random.normal(size=(240, 320))
    found = []
    for blur in (0.8, 1.5, 3.0, 6.0, 12.0):
        picture = 128 + 60 * ndimage.gaussian_filter(scene, blur) + random.normal(0, noise, scene.shape)
        found.append(fine_structure(np.clip(picture, 0, 255).astype(np.uint8))[0])
    assert found[0] > 1.5 * found[1] > 0
    assert sorted(found, reverse=True)[:3] == found[:3]
    assert max(found[3:]) < 0.05 * found[0]


def test_clipped_share_counts_both_ends():
    pixels = np.full((10, 10), 100, np.uint8)
    pixels[0], pixels[1] = 0, 255
    assert clipped_share(pixels) == pytest.approx(0.2)
