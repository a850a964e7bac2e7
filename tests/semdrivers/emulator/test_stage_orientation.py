"""A stage that tilts and rotates: its motion and envelope, over the wire, and what it does to the picture."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

import semdrivers
from firmware_protocol.messages import Parameter, Reason, StageIdle, Status, Wait
from firmware_protocol.profile import EM30
from semdrivers.emulator import Emulator
from semdrivers.emulator import physics as optics
from semdrivers.emulator.instrument import Instrument, Refused
from semdrivers.emulator.physics import ColumnPreset, ElectronColumn, ScanConditions
from semdrivers.emulator.specimens import Picture, make_specimen
from semdrivers.errors import BusyError, InterlockError, InvalidParameterError, OutOfRangeError

QUIET = ColumnPreset(noise=False, tilt=0.0)
PIXEL = optics.pixel_size(2000, 320)
CONDITIONS = ScanConditions(15.0, 2000.0, 320, 240, bits=16, contrast=0.3)
WIDE = dataclasses.replace(EM30, aperture_radius=210.0)
"""14 mrad at 15 mm, the widest half-angle published for such instruments: a short depth of field."""


class NoColumn:
    def render(self, conditions):
        return np.zeros((conditions.height, conditions.width), np.uint8)


def refused(status, call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.status is status
    return caught.value.refusal


def arrive(instrument, applied):
    instrument.clock.wait_until(applied.time)
    instrument.update()


# Motion and envelope


def test_tilt_and_rotation_travel_together_then_settle():
    instrument = Instrument(NoColumn())
    heard = []
    instrument.listen(heard.append)
    done = instrument.orient_stage(10.004, 100.0)
    assert (done.tilt, done.rotation) == (10.0, 100.0)
    assert done.settling == pytest.approx(100 / EM30.stage_rotation_speed + EM30.stage_settling)
    instrument.clock.wait_until(2.5)
    halfway = instrument.conditions()
    assert (halfway.stage_tilt, halfway.stage_rotation) == pytest.approx((5.0, 50.0))
    assert instrument.status().stage_moving
    refused(Status.BUSY, instrument.move_stage, 1.0, 1.0)
    refused(Status.BUSY, instrument.orient_stage, 0.0, 0.0)
    assert instrument.rest_time(Wait.STAGE) == done.time
    arrive(instrument, done)
    assert heard == [StageIdle(0.0, 0.0, done.time)]
    assert instrument.value(Parameter.STAGE_TILT) == 10.0
    assert instrument.value(Parameter.STAGE_ROTATION) == 100.0
    moved = instrument.move_stage(2.0, 1.0)
    arrive(instrument, moved)
    assert instrument.conditions().stage_tilt == 10.0


@pytest.mark.parametrize("pose", [(-0.1, 0), (45.1, 0), (0, -0.1), (0, 360.1), (math.nan, 0), (0, math.inf)])
def test_beyond_its_range_neither_axis_moves(pose):
    instrument = Instrument(NoColumn())
    refused(Status.OUT_OF_RANGE, instrument.orient_stage, *pose)
    assert not instrument.status().stage_moving


def test_a_tilt_that_would_reach_the_lens_is_refused_and_says_how_far_it_can_go():
    instrument = Instrument(NoColumn(), working_distance=3.0, stage_height=15.0)
    told = refused(Status.INTERLOCK, instrument.orient_stage, 45.0, 0.0)
    assert told.reasons is Reason.COLLISION
    assert told.maximum == pytest.approx(math.degrees(math.asin(7.0 / EM30.stage_holder_radius)))
    assert instrument.value(Parameter.STAGE_TILT) == 0.0
    instrument.orient_stage(math.floor(told.maximum), 0.0)


def test_a_tilted_stage_narrows_the_lens_from_the_first_instant_to_the_last():
    instrument = Instrument(NoColumn(), stage_height=15.0)
    up = instrument.orient_stage(45.0, 0.0)
    lowest = 1.0 + 15.0 + EM30.stage_holder_radius * math.sin(math.radians(45)) - EM30.stage_free_height
    for instant in (0.0, up.time / 2, up.time):
        instrument.clock.wait_until(instant)
        told = refused(Status.INTERLOCK, instrument.set_parameter, Parameter.WORKING_DISTANCE, 4.5)
        assert told.minimum == pytest.approx(lowest)
    instrument.update()
    down = instrument.orient_stage(0.0, 0.0)
    refused(Status.INTERLOCK, instrument.set_parameter, Parameter.WORKING_DISTANCE, 4.5)
    arrive(instrument, down)
    assert instrument.set_parameter(Parameter.WORKING_DISTANCE, 4.5).value == 4.5


def test_a_lens_on_its_way_up_does_not_free_the_tilt_yet():
    instrument = Instrument(NoColumn(), working_distance=3.0, stage_height=15.0)
    applied = instrument.set_parameter(Parameter.WORKING_DISTANCE, 10.0)
    refused(Status.INTERLOCK, instrument.orient_stage, 45.0, 0.0)
    arrive(instrument, applied)
    instrument.orient_stage(45.0, 0.0)


def test_far_from_the_axis_a_tilt_that_rises_above_the_free_height_is_refused():
    instrument = Instrument(NoColumn(), stage_height=15.0)
    arrive(instrument, instrument.move_stage(12.0, 0.0))
    assert refused(Status.INTERLOCK, instrument.orient_stage, 40.0, 0.0).maximum == EM30.stage_free_radius
    arrive(instrument, instrument.move_stage(2.0, 0.0))
    arrive(instrument, instrument.orient_stage(40.0, 0.0))
    refused(Status.INTERLOCK, instrument.move_stage, 12.0, 0.0)


# Over the wire


def test_the_driver_tilts_and_rotates_over_the_wire():
    with (
        Emulator("tin-balls", seed=1, magnification=2000) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        assert isinstance(microscope, semdrivers.HasStageOrientation)
        assert microscope.stage_orientation == (0.0, 0.0)
        assert microscope.orient_stage(30, 90) == microscope.stage_orientation == (30.0, 90.0)
        assert emulator.instrument.conditions().stage_tilt == 30.0
        microscope.acquire()
        for bad, error in (((46, 0), OutOfRangeError), ((0, 361), OutOfRangeError), (("5", 0), InvalidParameterError)):
            with pytest.raises(error, match="stage_"):
                microscope.orient_stage(*bad)
        assert microscope.stage_orientation == (30.0, 90.0)
        microscope.working_distance = 1.0
        emulator.instrument.orient_stage(0.0, 0.0)
        with pytest.raises(BusyError, match="tilting the stage to 10° and rotating it to 0°"):
            microscope.orient_stage(10, 0)


def test_the_drivers_caller_hears_of_the_envelope():
    profile = dataclasses.replace(EM30, stage_height=18.0)
    with (
        Emulator("featureless", working_distance=3.0, profile=profile) as emulator,
        semdrivers.connect(emulator.url) as microscope,
        pytest.raises(InterlockError, match=r"at working distance 3 mm it can be 18\.7° at most.*collision"),
    ):
        microscope.orient_stage(30, 0)


def test_a_stage_without_tilt_is_told():
    with Emulator("featureless") as emulator, semdrivers.connect(emulator.url) as microscope:
        del microscope._limits["stage_tilt"]
        with pytest.raises(InvalidParameterError, match="has no stage tilt"):
            microscope.orient_stage(1, 1)
        with pytest.raises(InvalidParameterError, match="has no stage tilt"):
            _ = microscope.stage_orientation


# In the picture


def dots(pitch: int) -> ElectronColumn:
    picture = np.full((1024, 1024), 10.0)
    for line, column in itertools.product(range(6), repeat=2):
        picture[pitch // 2 - 3 + line :: pitch, pitch // 2 - 3 + column :: pitch] = 60.0
    return ElectronColumn(Picture(picture, PIXEL), seed=4, preset=QUIET, best_working_distance=15.0)


def places(frame):
    smooth = ndimage.gaussian_filter(frame.astype(float), 2.0)
    smooth -= np.median(smooth)
    labels, count = ndimage.label(smooth > 0.5 * smooth.max())
    centres = np.array(ndimage.center_of_mass(np.where(labels, smooth, 0), labels, range(1, count + 1)))
    inside = (np.abs(centres - (119.5, 159.5)) < (105, 145)).all(axis=1)
    return centres[inside][:, ::-1] - (159.5, 119.5)


def oriented(column, tilt, rotation, **changes):
    return column.render(dataclasses.replace(CONDITIONS, stage_tilt=tilt, stage_rotation=rotation, **changes))


@pytest.mark.parametrize(("tilt", "rotation"), [(0.0, 20.0), (0.0, 90.0), (30.0, 0.0), (45.0, 35.0), (15.0, 300.0)])
def test_every_point_of_the_sample_is_where_geometry_puts_it(tilt, rotation):
    """Rotation about the beam, clockwise in the picture; then the lines closer together by the cosine of the tilt."""
    pitch = 64
    found = places(oriented(dots(pitch), tilt, rotation))
    grid = np.array(list(itertools.product(np.arange(-8, 8) * pitch, repeat=2)), float)
    turn = math.radians(rotation)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    squeezed = np.diag([1.0, math.cos(math.radians(tilt))]) @ matrix
    expected = (grid + places(dots(pitch).render(CONDITIONS))[0] % pitch) @ squeezed.T
    assert len(found) >= 6
    for point in found:
        assert np.hypot(*(expected - point).T).min() < 0.35


def sharp_lines(column, tilt, distance):
    """Detail of each eighth of the frame, top to bottom."""
    at = dataclasses.replace(CONDITIONS, width=640, height=480, magnification=1000.0, working_distance=distance)
    frame = column.render(dataclasses.replace(at, stage_tilt=tilt)).astype(float)
    return np.abs(np.diff(frame, axis=1)).reshape(8, 60, -1).mean(axis=(1, 2))


def test_focus_is_a_band_of_lines_that_travels_with_the_working_distance():
    picture = np.random.default_rng(3).random((1600, 1600)) * 100
    pixel = optics.pixel_size(1000, 640)
    column = ElectronColumn(Picture(picture, pixel), preset=QUIET, profile=WIDE, best_working_distance=15.0)
    level = sharp_lines(column, 0.0, 15.0)
    assert level.min() > 0.9 * level.max()
    reach = 240 * pixel * 1e-6 * math.tan(math.radians(45))
    middle, low, high = (sharp_lines(column, 45.0, 15.0 + share * reach) for share in (0.0, 0.75, -0.75))
    assert np.argmax(middle) in (3, 4)
    assert middle[[0, -1]].max() < 0.6 * middle.max()
    assert np.argmax(low) >= 6
    assert np.argmax(high) <= 1


def test_the_best_working_distance_of_the_middle_stays():
    column = ElectronColumn(make_specimen("tin-balls", 1), seed=1, preset=QUIET)
    level = column.truth(CONDITIONS)
    tilted = column.truth(dataclasses.replace(CONDITIONS, stage_tilt=30.0, stage_rotation=45.0))
    assert abs(tilted.working_distance - level.working_distance) < 0.25 * level.depth_of_field


def test_a_tilted_surface_is_brighter_by_the_secant():
    column = ElectronColumn(make_specimen("featureless", 1), preset=QUIET)
    dark = column.render(dataclasses.replace(CONDITIONS, beam_on=False)).mean()
    level, tilted = (oriented(column, tilt, 0.0).mean() - dark for tilt in (0.0, 40.0))
    assert tilted / level == pytest.approx(1 / math.cos(math.radians(40)), rel=0.01)


def test_a_turned_picture_is_as_sharp_as_a_straight_one():
    column = ElectronColumn(make_specimen("tem-grid", 2), seed=2, preset=QUIET)
    at = dataclasses.replace(CONDITIONS, working_distance=column.truth(CONDITIONS).working_distance)

    line, pixel = np.mgrid[:240, :320]
    always_seen = np.hypot(line - 119.5, pixel - 159.5) < 115

    def detail(rotation):
        frame = column.render(dataclasses.replace(at, stage_rotation=rotation)).astype(float)
        return float(np.hypot(*np.gradient(frame))[always_seen].mean())

    straight = detail(0.0)
    for rotation in (30.0, 90.0, 180.0):
        assert detail(rotation) == pytest.approx(straight, rel=0.1)


def test_blur_does_not_move_a_tilted_picture():
    """Far from focus the picture is drawn on a coarser grid; it must show the same lines there."""
    column = ElectronColumn(make_specimen("tem-grid", 2), seed=2, preset=QUIET)
    best = column.truth(dataclasses.replace(CONDITIONS, stage_tilt=40.0, stage_rotation=25.0))
    sharp, blurred = (
        oriented(column, 40.0, 25.0, working_distance=best.working_distance + away).astype(float) for away in (0, 2.0)
    )
    radius = column.truth(dataclasses.replace(CONDITIONS, working_distance=best.working_distance + 2.0)).blur_radius
    assert radius > 12
    assert np.corrcoef(ndimage.gaussian_filter(sharp, radius / 2).ravel(), blurred.ravel())[0, 1] > 0.97
