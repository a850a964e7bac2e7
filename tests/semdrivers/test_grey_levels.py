"""Full scale of grey levels, named or detected."""

from __future__ import annotations

import numpy as np
import pytest

from semdrivers import Capabilities, Image, Range, ScanMode, autobrightness
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.grey_levels import check_bit_depth, full_scale, in_unit, native, saturation
from semfocus_plugin.networks import clipped_share


def noise(bits: int, mean: float = 0.5, spread: float = 0.1, shape=(240, 320)) -> np.ndarray:
    top = 2**bits - 1
    levels = np.random.default_rng(bits).normal(mean * top, spread * top, shape)
    return np.clip(np.rint(levels), 0, top).astype(np.uint16)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_good_picture_and_a_saturated_one_have_the_full_scale_of_the_detector(bits):
    assert full_scale(noise(bits)) == 2**bits - 1
    saturated = noise(bits, 0.95)
    assert full_scale(saturated) == 2**bits - 1
    assert clipped_share(saturated) == pytest.approx(np.mean(saturated == 2**bits - 1))
    assert 0.2 < clipped_share(saturated) < 0.4


@pytest.mark.parametrize("bits", [11, 13, 15])
def test_a_saturated_picture_of_any_depth_is_known_by_its_highest_level(bits):
    assert full_scale(noise(bits, 0.95)) == 2**bits - 1


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_left_aligned_levels(bits):
    shifted = noise(bits, 0.95) << (16 - bits)
    top = (2**bits - 1) << (16 - bits)
    assert full_scale(shifted) == full_scale(shifted, bits) == top
    assert clipped_share(shifted) == clipped_share(noise(bits, 0.95))


def test_what_is_named_counts_before_what_is_detected():
    assert full_scale(noise(10), 12) == 4095
    assert full_scale(noise(16), 12) == 65535
    assert full_scale(np.full((4, 4), 255, np.uint8)) == 255
    assert full_scale(np.zeros((4, 4), np.uint16)) == 65535
    assert full_scale(np.ones((4, 4), np.float32)) == 1


def test_levels_in_a_unit_keep_their_ends():
    pixels = noise(12, 0.95)
    unit = in_unit(pixels, full_scale(pixels))
    assert unit.dtype == np.float32
    assert unit.max() == 1.0
    assert clipped_share(unit) == clipped_share(pixels)
    whole = noise(16)
    assert in_unit(whole, 65535) is whole


def test_the_other_byte_order_reads_the_same():
    pixels = noise(12)
    foreign = pixels.astype(">u2")
    assert full_scale(foreign) == full_scale(pixels)
    assert np.array_equal(native(foreign), pixels)
    assert native(foreign).dtype.isnative


@pytest.mark.parametrize(
    ("value", "error"),
    [("12", InvalidParameterError), (True, InvalidParameterError), (0, OutOfRangeError), (17, OutOfRangeError)],
)
def test_a_bit_depth_is_a_whole_number_of_bits(value, error):
    with pytest.raises(error, match="bit_depth"):
        check_bit_depth(value)
    assert check_bit_depth(np.int64(12)) == 12


class Detector:
    """A microscope of `bits` in uint16 whose brightness shifts the mean and whose contrast widens the spread."""

    def __init__(self, bits: int, brightness: float, named: bool) -> None:
        self.bits, self.brightness, self.contrast = bits, brightness, 0.5
        self.capabilities = Capabilities(Range(5, 30), Range(50, 5e4), bit_depth=bits if named else None)

    def acquire(self, mode: ScanMode) -> Image:
        pixels = noise(self.bits, self.brightness, 0.12 * 2 ** (4 * (self.contrast - 0.5)))
        return Image(pixels, 15.0, 5000.0, 80.0)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_autobrightness_leaves_a_good_picture_alone_and_mends_a_bad_one(bits, named):
    good = Detector(bits, 0.5, named)
    result = autobrightness(good)
    assert (result.reached, result.frames, good.brightness, good.contrast) == (True, 1, 0.5, 0.5)
    for start in (0.0, 1.2):
        bad = Detector(bits, start, named)
        result = autobrightness(bad)
        assert result.reached
        assert 0.35 <= result.mean <= 0.65


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (10, np.uint16), (12, np.uint16), (16, np.uint16)])
def test_a_plateau_below_full_scale_is_saturated_and_a_bright_part_of_a_sample_is_not(bits, kind):
    random, most = np.random.default_rng(bits), 2**bits - 1
    scene = np.clip(random.normal(0.7, 0.4, (240, 320)), 0, 1)
    full = np.mean(scene >= 1)
    dark = random.normal(0.03, 0.001, scene.shape)
    hot = np.where(random.random(scene.shape) < 1e-4, 1.0, 0.8 * scene)
    for changed in (scene, scene - 0.03, 0.8 * scene, 0.9 * (scene - 0.03), hot, scene - dark if bits > 8 else scene):
        pixels = np.rint(np.clip(changed, 0, 1) * most).astype(kind)
        assert np.mean(pixels >= saturation(pixels, full_scale(pixels))) == pytest.approx(full, abs=0.03)
    halves = np.where(random.random(scene.shape) < 0.5, 0.2, 0.7)
    for sound in (random.normal(0.5, 0.1, scene.shape), halves + random.normal(0, 0.02, scene.shape)):
        pixels = np.rint(np.clip(sound, 0, 1) * most).astype(kind)
        assert np.mean(pixels >= saturation(pixels, full_scale(pixels))) < 0.01
    unit = (0.9 * scene).astype(np.float32)
    assert np.mean(unit >= saturation(unit, full_scale(unit))) == pytest.approx(full, abs=0.03)
