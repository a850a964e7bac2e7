"""Strengths and frame sizes given to an emulator: column astigmatism, bands, line noise, automatic contrast, rasters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import semdrivers
from firmware_protocol.messages import Parameter
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import PRESETS, ColumnPreset, ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import make_specimen
from semdrivers.errors import InvalidParameterError, OutOfRangeError

HERE = ScanConditions(15.0, 5000.0, 320, 240, dwell_time=1e-4)
HERE_PIXEL = 80.0  # nm


def frame(name: str = "featureless", conditions: ScanConditions = HERE, **strengths: float | bool) -> np.ndarray:
    preset = dataclasses.replace(PRESETS["ideal"], **strengths)
    column = ElectronColumn(make_specimen(name, 1), seed=1, preset=preset, best_working_distance=15.0)
    return column.render(conditions).astype(float)


def test_the_column_has_an_astigmatism_of_its_own_that_the_stigmator_corrects() -> None:
    with Emulator("tin-balls", seed=3, preset="ideal", column_astigmatism=800.0) as emulator:
        a, b = emulator.truth.astigmatism
        assert 0 < np.hypot(a, b) <= 800
        low, high = emulator.instrument.limits(Parameter.STIGMATOR_X)
        assert -low == high >= 10 * 267, "ten depths of field at 500×"
        emulator.instrument.set_stigmator(-a, -b)
        assert np.hypot(*emulator.truth.astigmatism) < 0.2
    others = {Emulator("tin-balls", seed=seed, column_astigmatism=800.0).truth.astigmatism for seed in range(4)}
    assert len(others) == 4


def test_a_stigmator_moves_the_picture_and_leaves_it_as_sharp() -> None:
    # 4 µm to the right are 50 pixels; the 2 µm of astigmatism that come with them are a tenth of a depth of field.
    moved = frame("tin-balls", dataclasses.replace(HERE, stigmator_x=2.0), noise=False, stigmator_shift=2000.0)
    still = frame("tin-balls", dataclasses.replace(HERE, stigmator_x=2.0), noise=False)
    by = round(4000 / HERE_PIXEL)
    assert by > 40
    assert np.corrcoef(moved[:, by:].ravel(), still[:, :-by].ravel())[0, 1] > 0.99
    assert np.abs(np.diff(moved[:, by:])).mean() == pytest.approx(np.abs(np.diff(still[:, :-by])).mean(), rel=0.05)


def test_bands_change_the_brightness_from_line_to_line() -> None:
    assert frame(banding=0.1).mean(axis=1).std() > 10 * frame().mean(axis=1).std()


def test_line_noise_is_correlated_along_the_line_alone() -> None:
    noise = frame(line_noise=0.2, noise=False)
    noise -= noise.mean()

    def correlation(one: np.ndarray, other: np.ndarray) -> float:
        return float((one * other).mean() / noise.var())

    assert correlation(noise[:, 1:], noise[:, :-1]) == pytest.approx(7 / 8, abs=0.05)
    assert abs(correlation(noise[:, 12:], noise[:, :-12])) < 0.05
    assert abs(correlation(noise[1:], noise[:-1])) < 0.05


@pytest.mark.parametrize("bits", [8, 16])
def test_automatic_contrast_fills_the_grey_scale_whatever_is_set(bits: int) -> None:
    dim = dataclasses.replace(HERE, brightness=0.3, contrast=0.1, bits=bits)
    top = 2.0**bits - 1
    low, high = np.percentile(frame("tin-balls", dim, auto_brightness=True), [1, 99]) / top
    assert (low, high) == (pytest.approx(0.04, abs=0.01), pytest.approx(0.96, abs=0.01))
    flat = frame("featureless", dim, auto_brightness=True, noise=False)
    assert np.ptp(flat) == 0


@pytest.mark.slow
def test_the_scan_generator_offers_further_frame_sizes() -> None:
    with Emulator("tin-balls", seed=1, rasters="512x442, 1024x884") as emulator:
        for width, height, bits in ((512, 442, 8), (1024, 884, 16)):
            emulator.instrument.start_scan(width, height, bits, 1)
            scanned = emulator.instrument.next_frame()
            assert scanned.pixels.shape == (height, width)
            assert scanned.pixels.dtype.itemsize * 8 == bits
            assert scanned.pixel_size == pytest.approx(128e6 / 5000 / width)


def test_a_frame_scanned_while_the_lens_moves_is_drawn_to_its_last_line() -> None:
    moving = dataclasses.replace(HERE, height=244, lens_travel=0.2)
    assert frame("tin-balls", moving, lens_motion=True)[-4:].mean() == pytest.approx(
        frame("tin-balls", moving)[-4:].mean(), rel=0.2
    )


def test_strengths_are_options_of_the_address() -> None:
    url = "emulator://grating?seed=2&period=2.5&banding=0.1&auto_brightness=1&rasters=512x442"
    with semdrivers.connect(url) as microscope:
        assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bandage": 1.0}, InvalidParameterError, "no option or strength 'bandage'; strengths: astigmatism"),
        ({"banding": -1.0}, OutOfRangeError, "banding must be a finite number from 0"),
        ({"banding": "much"}, InvalidParameterError, "banding"),
        ({"auto_brightness": 2.0}, InvalidParameterError, "auto_brightness must be True or False"),
        ({"rasters": "10x10"}, InvalidParameterError, "'10x10' is no frame size"),
        ({"rasters": "wide"}, InvalidParameterError, "'wide' is no frame size"),
    ],
)
def test_what_is_no_strength_is_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Emulator("tin-balls", **options)


def test_a_strength_stands_above_the_preset() -> None:
    emulator = Emulator("tin-balls", preset="hostile", drift=0.0)
    assert emulator.column.preset == dataclasses.replace(PRESETS["hostile"], drift=0.0)
    assert isinstance(emulator.column.preset, ColumnPreset)
