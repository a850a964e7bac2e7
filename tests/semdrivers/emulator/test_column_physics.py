"""The physics of the emulated column, measured in its pixels."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import ndimage, special

from firmware_protocol.profile import EM30
from semdrivers.emulator import physics as optics
from semdrivers.emulator.physics import PRESETS, ColumnPreset, ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import PERIODIC, SPECIMENS, Picture, Window, make_specimen
from semdrivers.errors import InvalidParameterError, OutOfRangeError

QUIET = ColumnPreset(noise=False, tilt=0.0)
NAMED = [name for name in SPECIMENS if name != "featureless" and name not in PERIODIC]


def dots(pitch: int = 64, size: int = 512) -> np.ndarray:
    picture = np.full((size, size), 10.0)
    picture[pitch // 2 :: pitch, pitch // 2 :: pitch] = 40.0
    return picture


def bare_column(picture: np.ndarray, pixel_size: float, preset: ColumnPreset = QUIET) -> ElectronColumn:
    """A column without a probe core to speak of, focused at 15 mm."""
    profile = dataclasses.replace(
        EM30, gun_brightness=1e15, spherical_aberration=0.0, chromatic_aberration=0.0, energy_spread=0.0
    )
    return ElectronColumn(Picture(picture, pixel_size), preset=preset, profile=profile, best_working_distance=15.0)


def conditions(**changes: float) -> ScanConditions:
    return dataclasses.replace(ScanConditions(15.0, 2000.0, 320, 240), **changes)


@pytest.mark.parametrize(
    ("voltage", "current", "nanometres"), [(15.0, 100.0, 78.0), (15.0, 20.0, 36.0), (30.0, 5.0, 13.0)]
)
def test_probe_core_matches_the_textbook_figures(voltage: float, current: float, nanometres: float) -> None:
    assert optics.probe_core(3e-3, voltage, current) == pytest.approx(nanometres, rel=0.05)


@pytest.mark.parametrize(("magnification", "micrometres"), [(1000, 134), (10_000, 18), (30_000, 13)])
def test_depth_of_field_matches_the_notes(magnification: float, micrometres: float) -> None:
    depth = optics.depth_of_field(optics.pixel_size(magnification, 320), 36.0, 3e-3)
    assert depth * 1e3 == pytest.approx(micrometres, rel=0.03)


def test_disc_transfer_is_the_jinc_function() -> None:
    grid = optics.frequency_grid((64, 64))
    x = np.hypot(grid.kx, grid.ky) * 5.0
    expected = np.where(x > 0, 2 * special.j1(x) / np.where(x > 0, x, 1), 1.0)
    np.testing.assert_allclose(grid.disc(5.0, 5.0, 0.0), expected, atol=0.006)


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0, 10.0, 14.0, 20.0])
def test_blur_radius_follows_defocus(radius: float) -> None:
    """The second moment of a uniform disc is r²/2; a Gaussian over both frames stills the ringing of the pixel grid."""
    column = bare_column(dots(96, 1056), optics.pixel_size(2000, 320))
    pixel = optics.pixel_size(2000, 320) * 1e-6
    distance = 15.0 + radius * pixel / 3e-3
    for _ in range(5):
        distance = 15.0 + radius * pixel / optics.half_angle(distance, EM30.aperture_radius)
    sharp = column.render(conditions(bits=16, contrast=0.3)).astype(float)
    blurred = column.render(conditions(working_distance=distance, bits=16, contrast=0.3)).astype(float)
    half = math.ceil(radius) + 10
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    inside = np.hypot(x, y) <= half

    def second_moment(frame: np.ndarray) -> float:
        moments = []
        frame = ndimage.gaussian_filter(frame, 2.0)
        for row, column_ in np.argwhere(sharp > 0.5 * sharp.max()):
            if half <= row < 240 - half and half <= column_ < 320 - half:
                patch = frame[row - half : row + half + 1, column_ - half : column_ + half + 1]
                patch = (patch - patch[~inside].mean()) * inside
                moments.append(float((patch * (x**2 + y**2)).sum() / patch.sum()))
        assert moments
        return float(np.mean(moments))

    measured = math.sqrt(2 * (second_moment(blurred) - second_moment(sharp)))
    assert measured == pytest.approx(radius, rel=0.05)
    assert column.truth(conditions(working_distance=distance)).blur_radius == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize(("current", "dwell"), [(100.0, 1.3e-6), (20.0, 1.3e-6), (100.0, 5e-6)])
def test_noise_follows_the_formula(current: float, dwell: float) -> None:
    column = ElectronColumn(Picture(np.ones((64, 64)), 200.0), preset=ColumnPreset())
    frame = column.render(conditions(bits=16, beam_current=current, dwell_time=dwell)).astype(float)
    offset = column.render(conditions(bits=16, beam_on=False, beam_current=1e4, dwell_time=1e-3)).astype(float).mean()
    measured = frame.std() / (frame.mean() - offset)
    secondary = EM30.secondary_yield
    signal = 0.8  # a picture is laid on the stage with a mean of 0.8 of the nominal yield
    expected = math.sqrt((1 + secondary) / (optics.electrons_per_pixel(current, dwell) * secondary * signal))
    assert measured == pytest.approx(expected, rel=0.05)


def test_score_curve_is_half_at_four_and_a_half_depths_of_field() -> None:
    column = ElectronColumn(make_specimen("fabric", 1), seed=1)
    truth = column.truth(conditions())
    assert optics.ideal_score(0) == 9
    at = conditions(working_distance=truth.working_distance + 4.5 * truth.depth_of_field)
    assert column.truth(at).score == pytest.approx(4.5, abs=1e-6)


def test_astigmatism_turns_over_through_focus() -> None:
    column = bare_column(dots(128, 1024), optics.pixel_size(2000, 320))

    def elongation(defocus: float) -> float:
        frame = column.render(
            conditions(working_distance=15.0 + defocus, stigmator_x=150.0, bits=16, contrast=0.3)
        ).astype(float)
        centre = frame - np.median(frame)
        power = np.abs(np.fft.fft2(centre)) ** 2
        return float(power[0, 8:40].sum() / power[8:40, 0].sum())

    assert elongation(0.15) < 0.7
    assert elongation(-0.15) > 1 / 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_specimen_has_structure_at_every_magnification_of_its_range(name: str) -> None:
    """Sharp frames hold much more detail at the scale of a pixel than frames ten depths of field away."""
    column = ElectronColumn(make_specimen(name, 5), seed=5, preset=QUIET)
    low, high = (8_000, 30_000) if "gold" in name else (500, 10_000)
    for magnification in (low, math.sqrt(low * high), high):
        at = conditions(magnification=magnification, stage_x=1.7)
        truth = column.truth(at)

        def detail(defocus: float, at: ScanConditions = at, truth: object = truth) -> float:
            place = truth.working_distance + defocus * truth.depth_of_field  # type: ignore[attr-defined]
            frame = column.render(dataclasses.replace(at, working_distance=place)).astype(float)
            return float(np.abs(np.diff(frame, axis=1)).mean())

        assert detail(0) > 1.8 * detail(10)


@pytest.mark.parametrize("name", NAMED)
def test_brightness_does_not_depend_on_focus(name: str) -> None:
    column = ElectronColumn(make_specimen(name, 6), seed=6, preset=QUIET)
    at = conditions(magnification=9000.0)
    truth = column.truth(at)
    means = [
        column.render(
            dataclasses.replace(at, working_distance=truth.working_distance + u * truth.depth_of_field)
        ).mean()
        for u in (0, 5, 15, 40)
    ]
    assert max(means) / min(means) < 1.08


@pytest.mark.parametrize("name", SPECIMENS)
def test_same_seed_same_bytes(name: str) -> None:
    def frame(seed: int) -> bytes:
        column = ElectronColumn(make_specimen(name, seed), seed=seed, preset="hostile")
        return column.render(conditions(frame_id=3, start_time=1.25)).tobytes()

    assert frame(4) == frame(4)
    assert frame(4) != frame(5)


def test_noise_of_two_frames_is_independent() -> None:
    column = ElectronColumn(make_specimen("featureless", 1), seed=1)
    first, second = (column.render(conditions(frame_id=k)).astype(float).ravel() for k in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_a_new_stage_position_is_a_new_field() -> None:
    column = ElectronColumn(make_specimen("tin-balls", 1), seed=1, preset=QUIET)
    here, there = (column.render(conditions(stage_x=x)).astype(float).ravel() for x in (0.0, 3.0))
    assert abs(np.corrcoef(here, there)[0, 1]) < 0.3


def test_moving_the_stage_by_half_a_field_moves_the_picture_by_half_a_frame() -> None:
    column = ElectronColumn(make_specimen("tem-grid", 1), seed=1, preset=QUIET)
    field = optics.pixel_size(2000, 320) * 1e-6 * 320
    here = column.render(conditions()).astype(float)
    there = column.render(conditions(stage_x=field / 2)).astype(float)
    assert np.corrcoef(here[:, 170:310].ravel(), there[:, 10:150].ravel())[0, 1] > 0.98


def test_beam_off_is_dark() -> None:
    column = ElectronColumn(make_specimen("tin-balls", 1), seed=1)
    assert column.render(conditions(beam_on=False)).mean() < 12


def test_frames_of_all_modes_show_the_same_field() -> None:
    column = ElectronColumn(make_specimen("tem-grid", 2), seed=2, preset=QUIET)
    place = column.truth(conditions()).working_distance
    fast = column.render(conditions(working_distance=place)).astype(float)
    standard = column.render(conditions(working_distance=place, width=640, height=480)).astype(float)
    binned = standard.reshape(240, 2, 320, 2).mean(axis=(1, 3))
    assert np.corrcoef(fast.ravel(), binned.ravel())[0, 1] > 0.95


def test_sixteen_bits_span_the_same_grey_range() -> None:
    column = ElectronColumn(make_specimen("fabric", 2), seed=2, preset=QUIET)
    eight, sixteen = (column.render(conditions(bits=b)) for b in (8, 16))
    assert (eight.dtype, sixteen.dtype) == (np.uint8, np.uint16)
    np.testing.assert_allclose(sixteen / 257.0, eight, atol=1.5)


@pytest.mark.parametrize("strength", ["line_jitter", "hum", "drift", "detector_lag", "row_gain", "charging"])
def test_every_artefact_shows_and_can_be_switched_off(strength: str) -> None:
    specimen = make_specimen("tem-grid", 3)
    place = ElectronColumn(specimen, seed=3, preset=QUIET).truth(conditions(magnification=9000.0)).working_distance
    at = conditions(magnification=9000.0, working_distance=place, dwell_time=2e-5)
    clean = ElectronColumn(specimen, seed=3, preset=QUIET).render(at).astype(float)
    amount = getattr(PRESETS["hostile"], strength)
    marred = ElectronColumn(specimen, seed=3, preset=dataclasses.replace(QUIET, **{strength: amount})).render(at)
    assert np.abs(marred - clean).mean() > 0.2
    assert np.array_equal(ElectronColumn(specimen, seed=3, preset=QUIET).render(at).astype(float), clean)


def test_picture_is_mirrored_at_its_edges() -> None:
    picture = np.arange(64.0).reshape(8, 8)
    specimen = Picture(picture, 1000.0)
    tone, _ = specimen.render(Window(-11.5, -3.5, 1.0, 24, 8))
    np.testing.assert_allclose(tone[:, :8], tone[:, 15:7:-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("picture", "pixel_size", "error"),
    [
        (np.zeros((20, 20, 3)), 10.0, InvalidParameterError),
        (np.zeros((4, 4)), 10.0, InvalidParameterError),
        (np.full((20, 20), np.nan), 10.0, InvalidParameterError),
        (np.ones((20, 20)), 0.0, OutOfRangeError),
        (np.ones((20, 20)), "10", InvalidParameterError),
    ],
)
def test_pictures_that_are_none_are_refused(picture: np.ndarray, pixel_size: object, error: type) -> None:
    with pytest.raises(error):
        Picture(picture, pixel_size)  # type: ignore[arg-type]


def test_unknown_specimen_and_preset_name_the_known_ones() -> None:
    with pytest.raises(InvalidParameterError, match="did you mean 'tin-balls'"):
        make_specimen("tin-ball", 1)
    with pytest.raises(InvalidParameterError, match="ideal, typical, hostile"):
        ElectronColumn(make_specimen("fabric", 1), preset="nice")
