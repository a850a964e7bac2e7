"""Two frames of one field against the blurs that they were made with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j1

from semfocus_plugin.optics import Pair, spectrum

RADII = np.geomspace(0.5, 60, 60)


def field(seed, shape=(240, 320)):
    random = np.random.default_rng(seed)
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    rough = np.fft.rfft2(random.normal(size=shape)) / (0.01 + k)
    sample = np.fft.irfft2(rough, shape)
    return sample / sample.std(), k


def frame(seed, radius, *, noise=0.1, shift=0, gain=1.0, shape=(240, 320)):
    sample, k = field(seed, shape)
    phase = 2 * np.pi * k * max(radius, 1e-6) + 1e-9
    seen = np.fft.irfft2(np.fft.rfft2(sample) * 2 * j1(phase) / phase, shape)
    grain = np.random.default_rng([seed, round(radius * 1000)]).normal(size=shape)
    levels = 120 * gain * (1 + 0.15 * np.roll(seen, shift, 1) + noise * grain)
    return np.clip(levels, 0, 255).astype(np.uint8)


def likeliest(pair):
    table = pair(RADII[:, None], RADII[None, :])
    i, j = np.unravel_index(np.argmax(table), table.shape)
    return RADII[i], RADII[j]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    wide=st.floats(5, 25),
    share=st.floats(0.1, 0.7),
    shift=st.integers(0, 10),
    noise=st.floats(0.02, 0.2),
)
def test_the_ratio_tells_how_the_blurs_differ(seed, wide, share, shift, noise):
    narrow = wide * share
    pair = Pair(spectrum(frame(seed, wide, noise=noise)), spectrum(frame(seed, narrow, noise=noise, shift=shift)))
    first, second = likeliest(pair)
    assert np.sqrt(first**2 - second**2) == pytest.approx(np.sqrt(wide**2 - narrow**2), rel=0.3)


def test_it_knows_which_of_the_two_is_sharper():
    pair = Pair(spectrum(frame(1, 2.0)), spectrum(frame(1, 9.0)))
    assert pair(np.array([2.0]), np.array([9.0])) > pair(np.array([9.0]), np.array([2.0])) + 2


def test_sharp_frames_say_that_both_are_sharp_and_no_more():
    pair = Pair(spectrum(frame(2, 0.3)), spectrum(frame(2, 0.3)))
    both = pair(np.array([0.0, 0.5, 20.0]), np.array([0.0, 0.5, 0.5]))
    assert both[0] == pytest.approx(both[1], abs=0.5)
    assert both[2] < both[0] - 2


def test_noise_alone_says_nothing():
    random = np.random.default_rng(3)
    pair = Pair(*(spectrum(random.integers(80, 160, (240, 320)).astype(np.uint8)) for _ in range(2)))
    assert np.ptp(pair(RADII[:, None], RADII[None, :])) < 3.0


def test_two_different_fields_rule_nothing_out():
    pair = Pair(spectrum(frame(4, 3.0)), spectrum(frame(5, 12.0)))
    assert np.ptp(pair(RADII[:, None], RADII[None, :])) <= np.log(1 / 0.01) + 0.1


def test_grey_level_and_bit_depth_do_not_matter():
    pixels = frame(6, 4.0)
    eight, sixteen, unit = (
        spectrum(pixels),
        spectrum(pixels.astype(np.uint16) * 257),
        spectrum(pixels / np.float32(255)),
    )
    assert sixteen.power == pytest.approx(eight.power, rel=1e-3, abs=1e-9)
    assert unit.power == pytest.approx(eight.power, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("shape", [(480, 640), (1200, 1600)])
def test_larger_frames_are_read_as_well(shape):
    pair = Pair(*(spectrum(frame(7, radius, shape=shape)) for radius in (10.0, 4.0)))
    first, second = likeliest(pair)
    assert np.sqrt(first**2 - second**2) == pytest.approx(np.sqrt(84), rel=0.3)


def test_a_black_frame_does_not_divide_by_zero():
    black = spectrum(np.zeros((240, 320), np.uint8))
    assert np.isfinite(Pair(black, spectrum(frame(8, 2.0)))(RADII, RADII)).all()
