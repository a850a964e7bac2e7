"""A lens that is no longer where focus was found, and an instrument that is busy: what a keeper does, and says."""

from __future__ import annotations

import logging
import math
import threading

import pytest

import semdrivers
from semdrivers.focus import record_of_frame
from semdrivers.hosts import FocusKeeper, focused


@pytest.fixture
def told(told):
    told.truth = lambda: 13.0
    return told


@pytest.fixture
def resetting(foreign_type):
    """A microscope whose stage puts the lens at 20 mm with every move, as some makers' do."""

    class Resetting(foreign_type):
        _place = (0.0, 0.0)

        @property
        def stage_position(self):
            return self._place

        def move_stage(self, x, y):
            self._place, self._working_distance = (x, y), 20.0
            return self._place

    return Resetting()


def offset(image) -> float | None:
    return image.metadata["autofocus"]["lens_offset"]


def test_a_stage_move_that_resets_the_lens_is_focused_again(resetting, told):
    with focused(resetting, method="told") as held:
        for x in (0.0, 1.0, 2.0):
            held.move_stage(x, 0.0)
            image = held.acquire()
            assert (image.working_distance, offset(image)) == (13.0, 0.0)
    assert told.runs == 3


@pytest.mark.parametrize("wrap", [lambda microscope, folder: microscope, semdrivers.Recorder], ids=["bare", "recorded"])
def test_a_hand_on_the_knob_between_frames_is_focused_again(microscope, told, tmp_path, caplog, wrap):
    with focused(wrap(microscope, tmp_path / "session"), method="told") as held, caplog.at_level(logging.INFO):
        held.acquire()
        microscope.working_distance = 13.1
        image = held.acquire()
    assert told.runs == 2
    assert image.working_distance == pytest.approx(13.0, abs=0.001)
    assert offset(image) == pytest.approx(0.0, abs=0.001)
    assert any("the lens stands +0.1" in record.getMessage() for record in caplog.records)


def test_under_skip_the_disturbed_frame_is_left_out_and_the_next_is_focused(foreign, told):
    with focused(foreign, on_disturbance="skip", method="told") as held:
        held.acquire()
        foreign.working_distance = 14.0
        frames = foreign.frames
        with pytest.raises(semdrivers.FrameSkippedError, match=r"the lens stands \+1.0000 mm from where it was left"):
            held.acquire()
        assert (foreign.frames, told.runs) == (frames, 1)
        assert offset(held.acquire()) == 0.0
    assert told.runs == 2


def test_under_abort_a_disturbance_ends_the_run(foreign, told):
    with focused(foreign, on_disturbance="abort", method="told") as held:
        held.acquire()
        foreign.working_distance = 14.0
        with pytest.raises(semdrivers.NotFocusedError, match="disturbed"):
            held.acquire()
    assert told.runs == 1


@pytest.fixture
def nudged(foreign_type):
    """A microscope whose knob is turned while the frames of given numbers are scanned."""

    class Nudged(foreign_type):
        nudges = ()
        reports_place = True

        def acquire(self, mode=semdrivers.ScanMode.FAST):
            image = super().acquire(mode)
            if self.frames in self.nudges:
                self._working_distance += 0.5
            place = self._working_distance if self.reports_place else math.nan
            return semdrivers.Image(image.pixels, place, 2000.0, 200.0, image.frame_id)

    return Nudged()


def test_a_frame_that_says_it_is_of_another_place_is_taken_again(nudged, told):
    nudged.nudges = (7,)
    with focused(nudged, method="told") as held:
        image = held.acquire()
    assert (image.working_distance, offset(image), told.runs) == (13.0, 0.0, 2)


def test_a_knob_that_is_turned_all_the_time_ends_in_no_picture(nudged, told):
    nudged.nudges = (7, 14, 21)
    with focused(nudged, method="told") as held:
        with pytest.raises(semdrivers.FrameSkippedError, match="3 frames one after another"):
            held.acquire()
        assert offset(held.acquire()) == 0.0


@pytest.mark.parametrize("policy", ["skip", "abort"])
def test_a_disturbed_frame_is_no_picture_under(nudged, told, policy):
    nudged.nudges = (7,)
    error = {"skip": semdrivers.FrameSkippedError, "abort": semdrivers.NotFocusedError}[policy]
    with (
        focused(nudged, on_disturbance=policy, method="told") as held,
        pytest.raises(error, match="frame and lens report"),
    ):
        held.acquire()


def test_a_knob_turned_while_a_frame_is_scanned_that_reports_no_place_is_seen(nudged, told):
    nudged.nudges = (7,)
    nudged.reports_place = False
    with focused(nudged, method="told") as held:
        held.acquire()
    assert (nudged.working_distance, told.runs) == (13.0, 2)


@pytest.mark.parametrize(("moved", "runs"), [(0.0019, 1), (-0.0019, 1), (0.0021, 2), (-0.0021, 2)])
def test_two_steps_of_the_lens_are_no_disturbance(foreign, told, moved, runs):
    keeper = FocusKeeper(foreign, method="told")
    keeper.acquire()
    foreign.working_distance = 13.0 + moved
    assert offset(keeper.acquire()) == pytest.approx(moved if runs == 1 else 0.0)
    assert told.runs == runs


def test_how_far_is_a_disturbance_can_be_chosen(foreign, told):
    keeper = FocusKeeper(foreign, lens_travel=0.5, method="told")
    for moved, runs in ((0.5, 1), (0.501, 2)):
        keeper.acquire()
        foreign.working_distance = 13.0 + moved
        keeper.acquire()
        assert told.runs == runs


def test_a_lens_moved_on_purpose_stays_and_the_record_says_how_far(foreign, told):
    with focused(foreign, method="told") as held:
        offsets = []
        for defocus in (0.0, -0.2, 0.2):
            held.acquire() if defocus == 0 else None
            held.working_distance = 13.0 + defocus
            held.keeper.accept_lens()
            offsets.append(offset(held.acquire()))
    assert offsets == pytest.approx([0.0, -0.2, 0.2])
    assert told.runs == 1


def test_without_focus_the_record_names_no_offset(foreign, told):
    told.refuse = lambda: True
    with focused(foreign, on_failure="continue", method="told") as held:
        assert offset(held.acquire()) is None


def test_an_autofocus_by_hand_shows_in_the_frames_of_the_driver(microscope, told):
    semdrivers.autofocus(microscope, method="told")
    assert offset(microscope.acquire()) == pytest.approx(0.0, abs=0.001)
    microscope.working_distance = 12.0
    assert offset(microscope.acquire()) == pytest.approx(-1.0, abs=0.001)
    told.refuse = lambda: True
    semdrivers.autofocus(microscope, method="told")
    assert offset(microscope.acquire()) is None


@pytest.mark.parametrize(
    ("record", "place", "expected"),
    [
        ({"status": "focused", "working_distance": 12.0}, 12.5, 0.5),
        ({"status": "focused", "working_distance": 12.0}, float("nan"), None),
        ({"status": "refused", "working_distance": 12.0}, 12.5, None),
    ],
)
def test_the_record_of_a_frame(record, place, expected):
    assert record_of_frame(record, place) == {**record, "lens_offset": expected}


def test_a_record_without_a_place_stays_as_it_is():
    assert record_of_frame({"status": "focused"}, 12.0) == {"status": "focused"}


@pytest.fixture
def busy(foreign_type):
    """A microscope that is busy the first times it is set or asked for a frame."""

    class Busy(foreign_type):
        times = 0

        def acquire(self, mode=semdrivers.ScanMode.FAST):
            if self.times:
                self.times -= 1
                raise semdrivers.BusyError("another client is scanning")
            return super().acquire(mode)

    return Busy()


@pytest.mark.parametrize("times", [1, 2])
def test_a_busy_instrument_is_waited_for(busy, told, times):
    busy.times = times
    with focused(busy, busy_timeout=5.0, method="told") as held:
        assert offset(held.acquire()) == 0.0
        busy.times = times
        assert offset(held.acquire()) == 0.0
    assert told.runs == times + 1, "a run that the instrument cut short is done again as a whole"


def test_an_instrument_that_stays_busy_ends_the_run_and_the_lens_is_back(busy, told):
    busy.times = 1000
    with focused(busy, busy_timeout=0.1, method="told") as held, pytest.raises(semdrivers.BusyError, match="scanning"):
        held.acquire()
    assert busy.working_distance == 12.0


def test_a_busy_instrument_under_skip_and_abort(busy, told):
    busy.times = 2
    with focused(busy, on_disturbance="skip", method="told") as held:
        with pytest.raises(semdrivers.FrameSkippedError, match="busy: another client"):
            held.acquire()
        held.keeper.policy = held.keeper.policy.changed(on_disturbance="abort")
        with pytest.raises(semdrivers.BusyError, match="another client"):
            held.acquire()
        assert offset(held.acquire()) == 0.0


def test_a_cancel_ends_the_wait_for_a_busy_instrument(busy, told):
    busy.times, cancel = 1000, threading.Event()
    told.at_frame = lambda frames: None
    threading.Timer(0.2, cancel.set).start()
    with (
        focused(busy, cancel=cancel, method="told") as held,
        pytest.raises(semdrivers.NotFocusedError, match="cancelled"),
    ):
        held.acquire()
    assert busy.working_distance == 12.0


@pytest.mark.parametrize("wrong", [{"on_disturbance": "ignore"}, {"lens_travel": -1.0}, {"busy_timeout": "long"}])
def test_nonsense_is_refused_before_anything_moves(foreign, wrong):
    with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError)):
        FocusKeeper(foreign, **wrong)
    assert (foreign.moves, foreign.frames) == ([], 0)
