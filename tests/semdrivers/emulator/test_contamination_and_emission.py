"""What hours of scanning do to a picture: contamination darkens the field, the beam current wanders."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers.emulator import Emulator
from semdrivers.emulator.instrument import Exposures
from semdrivers.emulator.physics import PRESETS, ColumnPreset, ElectronColumn, Exposure, ScanConditions
from semdrivers.emulator.specimens import make_specimen

QUIET = ColumnPreset(noise=False, tilt=0.0)
EVEN = make_specimen("featureless", 1)
AT = ScanConditions(15.0, 2000.0, 320, 240, bits=16, contrast=0.4)
FIELD = 64.0, 48.0
"""µm; at magnification 2000."""


def column(**strengths):
    preset = dataclasses.replace(QUIET, **strengths)
    return ElectronColumn(EVEN, seed=1, preset=preset, best_working_distance=15.0)


def signal(column, **changes):
    """The noise-free signal in units of an even field's."""
    at = dataclasses.replace(AT, **changes)
    dark = column.render(dataclasses.replace(at, beam_on=False)).mean()
    return (column.render(at) - dark) / 0.7 / (110 * 4.0 ** (2 * at.contrast - 1) * 257)


def scanned(dose, x=0.0, y=0.0, size=FIELD, rotation=0.0):
    return Exposure(x, y, *size, rotation, dose)


# Contamination


@pytest.mark.parametrize("dose", [3.0, 30.0, 300.0])
def test_a_scanned_field_darkens_with_its_dose(dose):
    left = signal(column(contamination=0.4), exposures=(scanned(dose),))[2:-2, 2:-2]
    np.testing.assert_allclose(left, 1 - 0.4 * (1 - math.exp(-dose / EM30.contamination_dose)), atol=2e-3)


def test_doses_of_fields_that_overlap_add_up():
    once, twice = scanned(20.0), (scanned(12.0), scanned(8.0, size=(100.0, 100.0)))
    np.testing.assert_allclose(
        signal(column(contamination=0.4), exposures=(once,))[5:-5, 5:-5],
        signal(column(contamination=0.4), exposures=twice)[5:-5, 5:-5],
        atol=1e-3,
    )


def test_zoomed_out_the_field_is_a_dark_rectangle_where_it_was_scanned():
    burnt = scanned(1e4, x=8e-3, y=-4e-3)
    frame = signal(column(contamination=0.4), magnification=1000.0, exposures=(burnt,))
    rows, columns = np.nonzero(frame < 0.8)
    assert (columns.min(), columns.max()) == pytest.approx((160 + 20 - 80, 160 + 20 + 79), abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((120 - 10 - 60, 120 - 10 + 59), abs=1)
    assert frame[100, 180] == pytest.approx(0.6, abs=1e-3)
    assert frame[200, 300] == pytest.approx(1.0, abs=1e-3)


def test_the_rectangle_lies_on_the_sample_and_turns_and_tilts_with_it():
    burnt = scanned(1e4)
    turned = signal(column(contamination=0.4), magnification=1000.0, stage_rotation=90.0, exposures=(burnt,)) < 0.8
    rows, columns = np.nonzero(turned)
    assert (np.ptp(columns), np.ptp(rows)) == pytest.approx((120, 160), abs=3)
    tilted = signal(column(contamination=0.4), magnification=1000.0, stage_tilt=40.0, exposures=(burnt,))
    rows, columns = np.nonzero(tilted < 0.8 / math.cos(math.radians(40)))
    assert (np.ptp(columns), np.ptp(rows)) == pytest.approx((160, 120 * math.cos(math.radians(40))), abs=3)


def test_its_edge_is_as_blurred_as_the_picture():
    def edge(distance):
        frame = signal(
            column(contamination=0.4), magnification=1000.0, working_distance=distance, exposures=(scanned(1e4),)
        )
        return int(((frame[120] > 0.65) & (frame[120] < 0.95)).sum())

    assert edge(15.0) <= 4
    assert edge(17.0) > 12


def test_the_instrument_counts_the_dose_of_the_frames_it_scanned():
    exposures = Exposures(EM30.field_width_at_unity)
    for _ in range(3):
        exposures.add(AT)
    exposures.add(dataclasses.replace(AT, stage_x=1.0, stage_tilt=60.0))
    first, second = exposures.all
    frame = AT.beam_current * AT.dwell_time * 320 * 240
    assert first.dose == pytest.approx(3 * frame / math.prod(FIELD))
    assert (first.width, first.height) == FIELD
    assert (second.x, second.height) == pytest.approx((1.0, 2 * FIELD[1]))
    for place in range(1200):
        exposures.add(dataclasses.replace(AT, stage_x=place * 0.01))
    assert len(exposures.all) == 1000


def test_looking_for_long_leaves_a_mark_that_the_driver_sees():
    profile = dataclasses.replace(EM30, contamination_dose=1.0)
    preset = dataclasses.replace(QUIET, contamination=0.4)
    with (
        Emulator("featureless", magnification=20_000, preset=preset, profile=profile) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        fresh = microscope.acquire()
        for _ in range(3):
            microscope.acquire(semdrivers.ScanMode.STANDARD)
        marked = microscope.acquire()
        microscope.move_stage(0.1, 0.0)
        moved = microscope.acquire()
    assert marked.pixels[10:-10, 10:-10].mean() < 0.8 * fresh.pixels.mean()
    assert np.array_equal(moved.pixels, fresh.pixels)


# Emission


def test_the_brightness_of_frames_wanders_with_the_beam_current():
    wandering = column(emission=0.1)
    times = np.arange(0, 1200, 7.0)
    means = np.array([signal(wandering, start_time=time, frame_id=1).mean() for time in times])
    assert means[0] == pytest.approx(1.0, abs=0.002)
    assert 0.05 < means.std() < 0.2
    assert np.abs(np.diff(means)).max() < 0.1
    assert np.array_equal(means[:5], [signal(column(emission=0.1), start_time=time).mean() for time in times[:5]])


def test_it_wanders_line_by_line_in_a_slow_frame():
    frame = signal(column(emission=0.1), width=1280, height=960, dwell_time=8e-6)
    lines = frame.mean(axis=1)
    assert np.ptp(lines) > 0.02
    assert np.ptp(frame, axis=1).max() < 1e-3


@pytest.mark.parametrize("strength", ["contamination", "emission"])
def test_each_has_a_strength_in_the_presets_and_can_be_switched_off(strength):
    assert getattr(PRESETS["ideal"], strength) == 0
    assert 0 < getattr(PRESETS["typical"], strength) < getattr(PRESETS["hostile"], strength)
    old = {"exposures": (scanned(1e4),), "start_time": 200.0}
    np.testing.assert_allclose(signal(column(), **old), 1.0, atol=1e-3)
    assert np.abs(signal(column(**{strength: 0.1}), **old) - 1).mean() > 0.005
