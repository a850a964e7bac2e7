"""What the lens does besides focusing: hysteresis, motion during a scan, shift, rotation and size of the image."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

import semdrivers
from firmware_protocol.messages import Parameter
from firmware_protocol.profile import EM30
from semdrivers.emulator import Emulator
from semdrivers.emulator import physics as optics
from semdrivers.emulator.instrument import Lens
from semdrivers.emulator.physics import PRESETS, ColumnPreset, ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import Picture, make_specimen

QUIET = ColumnPreset(noise=False, tilt=0.0)
COUPLINGS = ("image_shift", "image_rotation", "magnification_change")
PIXEL = optics.pixel_size(2000, 320)
CONDITIONS = ScanConditions(15.0, 2000.0, 320, 240, bits=16, contrast=0.3)


def with_only(**strength: float) -> ColumnPreset:
    return dataclasses.replace(QUIET, **strength)


def dots(preset: ColumnPreset) -> ElectronColumn:
    picture = np.full((1024, 1024), 10.0)
    for line, column in itertools.product(range(8), repeat=2):
        picture[60 + line :: 128, 60 + column :: 128] = 60.0
    return ElectronColumn(Picture(picture, PIXEL), seed=4, preset=preset, best_working_distance=15.0)


def places(frame: np.ndarray) -> np.ndarray:
    """Centres of the dots in a frame, shape (n, 2), as (x, y) from its middle."""
    smooth = ndimage.gaussian_filter(frame.astype(float), 3.0)
    smooth -= np.median(smooth)
    labels, count = ndimage.label(smooth > 0.5 * smooth.max())
    centres = np.array(ndimage.center_of_mass(np.where(labels, smooth, 0), labels, range(1, count + 1)))
    inside = (np.abs(centres - (119.5, 159.5)) < (100, 140)).all(axis=1)
    return centres[inside][:, ::-1] - (159.5, 119.5)


def mapping(preset: ColumnPreset, away: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit p' = A p + b between the dots in focus and `away` mm from it."""
    column = dots(preset)
    here = places(column.render(CONDITIONS))
    there = places(column.render(dataclasses.replace(CONDITIONS, working_distance=15.0 + away)))
    near = [int(np.argmin(np.hypot(*(there - point).T))) for point in here]
    pairs = [(p, there[n]) for p, n in zip(here, near, strict=True) if math.dist(p, there[n]) < 30]
    assert len(pairs) >= 4
    source = np.array([[*p, 1.0] for p, _ in pairs])
    solution, *_ = np.linalg.lstsq(source, np.array([q for _, q in pairs]), rcond=None)
    return solution[:2].T, solution[2]


@pytest.mark.parametrize("away", [0.3, -0.3, 1.0])
def test_the_image_shifts_with_the_working_distance(away: float) -> None:
    matrix, offset = mapping(with_only(image_shift=1.0), away)
    assert np.hypot(*offset) == pytest.approx(EM30.shift_coupling * abs(away) * 1e3 / PIXEL, abs=0.3)
    np.testing.assert_allclose(matrix, np.eye(2), atol=0.004)
    _, other = mapping(with_only(image_shift=1.0), away / 2)
    np.testing.assert_allclose(other, offset / 2, atol=0.3)


@pytest.mark.parametrize("away", [1.0, -1.0])
def test_the_image_turns_with_the_working_distance(away: float) -> None:
    matrix, offset = mapping(with_only(image_rotation=1.0), away)
    angle = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    assert angle == pytest.approx(EM30.rotation_coupling * away, abs=0.1)
    np.testing.assert_allclose(offset, 0, atol=0.5)


@pytest.mark.parametrize("away", [2.0, -2.0])
def test_the_image_grows_with_the_working_distance(away: float) -> None:
    matrix, _ = mapping(with_only(magnification_change=4.0), away)
    scale = math.sqrt(np.linalg.det(matrix))
    assert scale == pytest.approx(1 + 4 * EM30.magnification_coupling * away, abs=0.003)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tin-balls", "gold-nanoparticles", "fabric"])
def test_in_focus_nothing_is_shifted_so_the_truth_stays(name: str) -> None:
    at = dataclasses.replace(CONDITIONS, magnification=9000.0)
    clean = ElectronColumn(make_specimen(name, 3), seed=3, preset=QUIET)
    coupled = ElectronColumn(make_specimen(name, 3), seed=3, preset=with_only(**dict.fromkeys(COUPLINGS, 1.7)))
    assert clean.truth(at) == coupled.truth(at)
    at = dataclasses.replace(at, working_distance=clean.truth(at).working_distance)
    assert np.array_equal(clean.render(at), coupled.render(at))


@pytest.mark.parametrize("name", ["tem-grid", "butterfly-wing"])
def test_brightness_does_not_depend_on_focus_with_coupling_either(name: str) -> None:
    column = ElectronColumn(make_specimen(name, 6), seed=6, preset=with_only(**dict.fromkeys(COUPLINGS, 1.0)))
    at = dataclasses.replace(CONDITIONS, magnification=5000.0, bits=8, contrast=0.5)
    truth = column.truth(at)
    means = [
        column.render(
            dataclasses.replace(at, working_distance=truth.working_distance + u * truth.depth_of_field)
        ).mean()
        for u in (0, 4, 9, 15)
    ]
    assert max(means) / min(means) < 1.1


def test_only_the_ideal_column_is_without() -> None:
    strengths = (*COUPLINGS, "lens_hysteresis", "lens_motion")
    assert not any(getattr(PRESETS["ideal"], name) for name in strengths)
    for preset in ("typical", "hostile"):
        assert all(getattr(PRESETS[preset], name) for name in strengths)


def test_turning_by_nothing_and_by_a_right_angle() -> None:
    image = np.random.default_rng(1).random((64, 64)).astype(np.float32)
    assert optics.turn(image, 0.001, 1.001) is image
    np.testing.assert_allclose(
        optics.turn(image, math.pi / 2, 1.0)[1:-1, 1:-1], np.rot90(image, -1)[1:-1, 1:-1], atol=0.01
    )


# Hysteresis


def settled(lens: Lens, *targets: float) -> tuple[float, float]:
    now = lens.rest
    for target in targets:
        lens.move(target, now)
        now = lens.rest
    return lens.position(now), lens.focus_offset(now)


def test_focus_stays_behind_going_down_and_not_going_up() -> None:
    assert settled(Lens(EM30, 15.0, 0.004), 16.0) == (16.0, 0.0)
    assert settled(Lens(EM30, 15.0, 0.004), 14.0) == (14.0, 0.004)
    assert settled(Lens(EM30, 15.0, 0.004), 14.0, 14.5) == (14.5, 0.0)
    assert settled(Lens(EM30, 15.0, 0.0), 14.0) == (14.0, 0.0)


def test_within_the_play_the_focus_does_not_move() -> None:
    lens = Lens(EM30, 15.0, 0.004)
    reading, behind = settled(lens, 14.0, 14.002)
    assert reading + behind == pytest.approx(14.004)
    reading, behind = settled(lens, 14.001)
    assert reading + behind == pytest.approx(14.004)


@given(st.lists(st.floats(5.0, 25.0), min_size=1, max_size=8), st.floats(0, 0.02))
def test_the_focus_is_never_further_behind_than_the_hysteresis(targets: list[float], hysteresis: float) -> None:
    lens = Lens(EM30, 15.0, hysteresis)
    now = 0.0
    for target in targets:
        lens.move(target, now)
        for share in (0.0, 0.3, 1.0):
            assert 0 <= lens.focus_offset(now + share * (lens.rest - now)) <= hysteresis
        now = lens.rest


def test_a_frame_from_above_is_that_of_another_reading_from_below() -> None:
    preset = with_only(lens_hysteresis=1.0)
    with (
        Emulator("gold-nanoparticles", magnification=30_000, seed=2, preset=preset, working_distance=12.0) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        best = round(emulator.truth.working_distance, 3)
        frames = {}
        for way, start, reading in (("below", 1, best), ("above", 30, best), ("above", 30, best - 0.004)):
            microscope.working_distance = start
            microscope.working_distance = reading
            frames[way, reading] = microscope.acquire().pixels
            if (way, reading) == ("above", best):
                assert emulator.truth.score < 8.99
            else:
                assert emulator.truth.score == pytest.approx(9, abs=0.001)
        assert np.array_equal(frames["below", best], frames["above", best - 0.004])
        assert not np.array_equal(frames["below", best], frames["above", best])


def test_the_instrument_reads_what_was_set_whatever_the_hysteresis() -> None:
    with Emulator("featureless", seed=1, preset="hostile") as emulator, semdrivers.connect(emulator.url) as microscope:
        for distance in (20.0, 13.0, 13.001):
            microscope.working_distance = distance
            assert microscope.working_distance == distance
            assert microscope.acquire().working_distance == distance
        assert emulator.instrument.conditions().focus_offset > 0


# Settling


def sharpness(frame: np.ndarray) -> list[float]:
    """Of five bands, top to bottom."""
    lines = frame.astype(float).reshape(5, -1, frame.shape[1])
    return [float(np.abs(np.diff(band, axis=1)).mean()) for band in lines]


@pytest.fixture
def emulator():
    with Emulator("fabric", magnification=3000, seed=1, preset=with_only(lens_motion=True)) as running:
        yield running


def test_a_frame_scanned_before_the_lens_has_settled_shows_it(emulator) -> None:
    instrument = emulator.instrument
    best = round(emulator.truth.working_distance, 3)
    instrument.set_parameter(Parameter.WORKING_DISTANCE, best + 0.6)
    instrument.clock.wait_until(10.0)
    instrument.set_parameter(Parameter.WORKING_DISTANCE, best)
    instrument.start_scan(320, 240)
    early = instrument.next_frame()
    instrument.clock.wait_until(20.0)
    late = instrument.next_frame()
    bands, settled_bands = sharpness(early.pixels), sharpness(late.pixels)
    ratio = [a / b for a, b in zip(bands, settled_bands, strict=True)]
    assert ratio == sorted(ratio)
    assert ratio[0] < 0.9 * ratio[-1]
    assert early.working_distance == pytest.approx(best + 0.6)
    assert (late.working_distance, instrument.conditions().lens_travel) == (best, 0.0)


def test_motion_can_be_switched_off() -> None:
    column = dots(QUIET)
    moving = dataclasses.replace(CONDITIONS, working_distance=15.4, lens_travel=-0.4)
    still = dataclasses.replace(moving, lens_travel=0.0)
    assert np.array_equal(column.render(moving), column.render(still))
    assert not np.array_equal(dots(with_only(lens_motion=True)).render(moving), column.render(still))


def test_the_driver_never_returns_a_frame_of_a_moving_lens(emulator) -> None:
    with semdrivers.connect(emulator.url) as microscope:
        for distance in (13.0, 16.0, 14.2):
            microscope.working_distance = distance
            before = emulator.instrument.conditions()
            assert before.lens_travel == 0
            assert np.array_equal(microscope.acquire().pixels, emulator.column.render(before))
