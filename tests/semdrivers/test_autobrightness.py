"""`autobrightness` on the emulator over its wires, and on detectors that answer otherwise."""

from __future__ import annotations

import numpy as np
import pytest

import semdrivers
from semdrivers.brightness import autobrightness
from semdrivers.emulator import Emulator
from semdrivers.errors import InterlockError, InvalidParameterError, OutOfRangeError

PICTURE = np.random.default_rng(5).integers(0, 256, (64, 96), np.uint8).repeat(8, 0).repeat(8, 1)


def is_good(pixels: np.ndarray) -> bool:
    top = np.iinfo(pixels.dtype).max
    clipped = np.mean((pixels == 0) | (pixels == top))
    return bool(clipped <= 0.015 and 0.33 <= pixels.mean() / top <= 0.67)


@pytest.fixture(scope="module", params=["picture", "featureless"])
def emulator(request):
    options = {"specimen": "featureless"} if request.param == "featureless" else {"specimen": PICTURE, "pixel_size": 50}
    with Emulator(**options, magnification=5000, seed=1) as running:
        yield running


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("start", [(0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.2, 0.8), (0.9, 0.3)])
def test_from_anywhere_a_picture_comes_into_the_middle(emulator, start, bits):
    with semdrivers.connect(emulator.url, bits=bits) as microscope:
        microscope.brightness, microscope.contrast = start
        result = autobrightness(microscope)
        assert result.reached, result
        assert result.frames <= 10
        assert (microscope.brightness, microscope.contrast) == (result.brightness, result.contrast)
        assert is_good(microscope.acquire().pixels)


def test_a_picture_that_is_good_costs_one_frame(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        first = autobrightness(microscope)
        again = autobrightness(microscope)
    assert first.reached
    assert (again.brightness, again.contrast) == (first.brightness, first.contrast)
    assert again.frames <= 2


def test_without_a_beam_everything_is_back(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        microscope.brightness, microscope.contrast = 0.3, 0.7
        microscope.beam_on = False
        with pytest.raises(InterlockError):
            autobrightness(microscope)
        assert (microscope.brightness, microscope.contrast) == (0.3, 0.7)
        microscope.beam_on = True


def detector(foreign_type, gain, offset):
    """A foreign microscope with a detector of another response."""

    class WithDetector(foreign_type):
        brightness = 0.9
        contrast = 0.9

        def acquire(self, mode=semdrivers.ScanMode.FAST):
            image = super().acquire(mode)
            signal = np.random.default_rng(self.frames).normal(1.0, 0.2, image.pixels.shape)
            grey = gain(self.contrast) * (signal - 1) + offset(self.brightness)
            pixels = np.clip(np.rint(255 * grey), 0, 255).astype(np.uint8)
            return semdrivers.Image(pixels, image.working_distance, image.magnification, image.pixel_size)

    return WithDetector()


@pytest.mark.parametrize("gain", [lambda c: 2 * c, lambda c: 8 ** (2 * c - 1), lambda c: 3 * c**2])
@pytest.mark.parametrize("offset", [lambda b: b, lambda b: 2 * b - 0.5, lambda b: b**2, lambda b: 0.5 * b + 0.2])
def test_other_detectors(foreign_type, gain, offset):
    microscope = detector(foreign_type, gain, offset)
    result = autobrightness(microscope)
    assert result.reached, result
    assert is_good(microscope.acquire().pixels)


def test_what_cannot_be_reached_is_told_and_the_best_is_set(foreign_type):
    microscope = detector(foreign_type, lambda c: 1.0, lambda b: 0.1 + 0.1 * b)
    result = autobrightness(microscope, max_frames=5)
    assert not result.reached
    assert result.frames == 5
    assert microscope.brightness == result.brightness == 1.0


def test_a_microscope_without_detector_is_refused(foreign):
    with pytest.raises(InvalidParameterError, match="needs a microscope with brightness and contrast"):
        autobrightness(foreign)
    assert foreign.frames == 0


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (0, OutOfRangeError, "max_frames must be at least 1, not 0"),
        (-1, OutOfRangeError, "max_frames must be at least 1, not -1"),
        *((value, InvalidParameterError, "max_frames must be a whole number") for value in (2.5, "3", None, True)),
    ],
)
def test_the_budget_must_be_a_number(foreign_type, frames, error, message):
    microscope = detector(foreign_type, lambda c: c, lambda b: b)
    with pytest.raises(error, match=message):
        autobrightness(microscope, max_frames=frames)
    assert microscope.frames == 0
