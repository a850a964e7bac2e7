"""Runs on frames as instruments deliver them: with a data bar, of 10 to 14 bits, of another byte order, read back loosely."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

import semdrivers
from semdrivers import Range, ScanMode
from semdrivers.emulator import Emulator
from semdrivers.errors import InvalidParameterError, OutOfRangeError


class Through:
    """Another maker's microscope: the emulator's, each frame and each number changed on its way."""

    def __init__(self, microscope, pixels=lambda pixels: pixels, number=float, **capabilities) -> None:
        self._microscope, self._pixels, self._number = microscope, pixels, number
        self.capabilities = dataclasses.replace(microscope.capabilities, **capabilities)

    @property
    def working_distance(self):
        return self._number(self._microscope.working_distance)

    @working_distance.setter
    def working_distance(self, value) -> None:
        self._microscope.working_distance = float(value)

    @property
    def magnification(self):
        return self._number(self._microscope.magnification)

    @magnification.setter
    def magnification(self, value) -> None:
        self._microscope.magnification = float(value)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> semdrivers.Image:
        if mode not in self.capabilities.scan_modes:
            raise InvalidParameterError(f"no mode {mode}")
        image = self._microscope.acquire(mode)
        numbers = {name: self._number(getattr(image, name)) for name in ("working_distance", "magnification")}
        return dataclasses.replace(image, pixels=self._pixels(image.pixels), **numbers)

    def close(self) -> None:
        """The emulator is closed by the test."""


class WithDetector(Through):
    """The same, with brightness and contrast."""

    @property
    def brightness(self):
        return self._number(self._microscope.brightness)

    @brightness.setter
    def brightness(self, value) -> None:
        self._microscope.brightness = float(value)

    @property
    def contrast(self):
        return self._number(self._microscope.contrast)

    @contrast.setter
    def contrast(self, value) -> None:
        self._microscope.contrast = float(value)


def bar(rows: int, width: int, background: int) -> np.ndarray:
    picture = Pillow.new("L", (width, rows), background)
    draw = ImageDraw.Draw(picture)
    draw.text((4, 2), "15.0kV WD9.7mm x2,000 SE 10um", fill=255, font=ImageFont.load_default(max(8, rows // 2)))
    draw.rectangle((width * 3 // 4, rows // 2, width - 8, rows // 2 + 3), fill=255)
    return np.asarray(picture)


def over(pixels):
    drawn = pixels.copy()
    drawn[-26:] = bar(26, pixels.shape[1], 0)
    return drawn


def at_the_top(pixels):
    drawn = pixels.copy()
    drawn[:26] = bar(26, pixels.shape[1], 0)
    return drawn


def white(pixels):
    drawn = pixels.copy()
    drawn[-26:] = 255 - bar(26, pixels.shape[1], 0)
    return drawn


def compressed(pixels):
    file = io.BytesIO()
    Pillow.fromarray(over(pixels)).save(file, "JPEG", quality=75)
    return np.asarray(Pillow.open(file))


def on_a_ramp(pixels):
    drawn = pixels.copy()
    ramp = np.linspace(0, 60, pixels.shape[1])
    drawn[-26:] = np.clip(bar(26, pixels.shape[1], 40) * 0.75 + ramp, 0, 255).astype(np.uint8)
    return drawn


def below(pixels):
    return np.vstack([pixels, bar(26, pixels.shape[1], 50)])


def written(pixels):
    picture = Pillow.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    draw.text((6, len(pixels) - 22), "15.0kV WD9.7mm x5,000 10um", fill=255, font=ImageFont.load_default(13))
    draw.rectangle((240, len(pixels) - 16, 310, len(pixels) - 14), fill=255)
    return np.asarray(picture)


def at_both_ends(pixels):
    return over(at_the_top(pixels))


def deeper(bits: int, gain: float = 1.0, shift: int = 0):
    random = np.random.default_rng(bits)

    def changed(pixels):
        levels = (pixels + random.random(pixels.shape) - 0.5) * (2 ** (bits - 8) * gain)
        return np.clip(np.rint(levels), 0, 2**bits - 1).astype(np.uint16) << shift

    return changed


def run(kind=Through, *, seed=1, settings=None, **changes):
    """Return the result, its error in depths of field, and the brightness at the end."""
    with (
        Emulator("tin-balls", seed=seed, magnification=5000) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        changed = kind(microscope, **changes)
        result = semdrivers.autofocus(changed, **(settings or {}))
        error = abs(result.working_distance - emulator.truth.working_distance) / emulator.truth.depth_of_field
        return result, error, microscope.brightness


@pytest.mark.parametrize(
    ("drawn", "seed"),
    [
        (over, 21),
        (below, 22),
        (over, 23),
        (white, 21),
        (compressed, 22),
        (on_a_ramp, 23),
        (at_the_top, 21),
        (written, 22),
        (at_both_ends, 23),
    ],
)
def test_a_bar_in_every_frame_costs_nothing(drawn, seed):
    result, error, _ = run(seed=seed, pixels=drawn)
    assert result.focused, result.reason
    assert error <= 1.5


def test_the_user_may_name_the_rows_of_the_bar():
    result, error, _ = run(seed=24, pixels=over, settings={"bar_rows": 26})
    assert result.focused
    assert error <= 1.5
    result, error, _ = run(seed=24, pixels=at_the_top, settings={"bar_rows": -26})
    assert result.focused
    assert error <= 1.5
    with pytest.raises(InvalidParameterError, match="bar_rows"):
        semdrivers.AutofocusSettings(bar_rows=1.5)


@pytest.mark.parametrize(("bits", "shift"), [(10, 0), (12, 0), (12, 4), (14, 0)])
def test_a_saturated_picture_of_few_bits_is_not_focused_on(bits, shift):
    result, _, _ = run(seed=25, pixels=deeper(bits, 2.5, shift))
    assert not result.focused
    assert "black or white" in result.reason or "saturated" in result.reason


@pytest.mark.parametrize(("bits", "shift"), [(10, 0), (12, 0), (12, 4), (14, 0)])
def test_brightness_is_mended_for_few_bits_and_left_alone_where_it_is_good(bits, shift):
    result, error, brightness = run(WithDetector, seed=26, pixels=deeper(bits, 1.0, shift))
    assert result.focused
    assert error <= 1.5
    assert brightness == 0.5
    assert "brightness" not in result.reason
    result, error, _ = run(WithDetector, seed=26, pixels=deeper(bits, 2.5, shift))
    assert result.focused, result.reason
    assert error <= 1.5
    assert "brightness" in result.reason


@pytest.mark.parametrize("number", [np.float32, np.array, lambda value: np.array(value, np.float32)])
def test_numbers_of_any_type_are_read_back(number, tmp_path):
    result, error, _ = run(WithDetector, seed=27, number=number)
    assert result.focused
    assert error <= 1.5
    told = json.loads(json.dumps(result.to_dict()))
    assert told["working_distance"] == pytest.approx(result.working_distance)
    assert told["trace"][0]["index"] == 0
    image = semdrivers.Image(np.zeros((240, 320), np.uint8), number(9.5), number(5000.0), number(80.0))
    read = semdrivers.read_image(image.save(tmp_path / "x.tif"))
    assert (read.working_distance, read.magnification, read.pixel_size) == (9.5, 5000.0, 80.0)


def test_frames_of_the_other_byte_order():
    result, error, _ = run(seed=28, pixels=lambda pixels: (pixels * np.uint16(257)).astype(">u2"))
    assert result.focused
    assert error <= 1.5


def test_an_instrument_without_the_fast_mode_is_focused_in_its_fastest():
    modes = (ScanMode.SLOW, ScanMode.STANDARD)
    result, error, _ = run(seed=29, scan_modes=modes)
    assert result.focused
    assert error <= 1.5
    with pytest.raises(InvalidParameterError, match="scan_mode STANDARD is not offered; the instrument has SLOW"):
        run(seed=29, scan_modes=(ScanMode.SLOW,), settings={"scan_mode": ScanMode.STANDARD})


def test_limits_that_the_start_misses_by_rounding():
    with (
        Emulator("tin-balls", seed=30, working_distance=15.0) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        limits = Range(15.0, 20.0, 0.001)
        changed = Through(microscope, number=lambda value: value - 2e-7, working_distance=limits)
        assert semdrivers.autofocus(changed).status in ("focused", "refused")
        assert semdrivers.autofocus(microscope, bounds=(15.0004, 19.0)).status in ("focused", "refused")
        beyond = microscope.working_distance + 0.5
        with pytest.raises(OutOfRangeError, match="outside"):
            semdrivers.autofocus(microscope, bounds=(beyond, beyond + 2))
    assert Range(5.0, 30.0).check("working_distance", np.float32(30.000002), "mm") == 30.0
    with pytest.raises(OutOfRangeError):
        Range(5.0, 30.0).check("working_distance", 30.001, "mm")
