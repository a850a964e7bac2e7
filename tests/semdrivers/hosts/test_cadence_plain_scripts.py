"""Focusing in a plain script: when it is done, what happens without it, and what the frames say of it."""

from __future__ import annotations

import threading

import pytest

import semdrivers
from semdrivers.hosts import FocusedMicroscope, FocusKeeper, FocusPolicy, focused


def test_any_driver_s_picture_says_how_it_was_taken(foreign, offer_method):
    """A driver of five members and a stage; one whose stage fails loses no picture."""

    class Staged(type(foreign)):
        position = 1.0, 2.0

        @property
        def stage_position(self):
            if self.position is None:
                raise semdrivers.TransportError("the stage does not answer")
            return self.position

        def move_stage(self, x, y):
            self.position = x, y
            return self.position

    offer_method(lambda *_: {})
    staged = Staged()
    with focused(staged, method="test-method") as held:
        about = held.acquire().metadata
        assert (about["stage_x"], about["stage_y"], about["autofocus"]["status"]) == (1.0, 2.0, "focused")
        staged.position = None
        assert "stage_x" not in held.acquire().metadata


@pytest.mark.slow
@pytest.mark.parametrize("emulator", ["tin-balls"], indirect=True)
def test_four_places_of_differing_height_are_sharp_and_say_so(microscope, emulator, places, error, told, best_method):
    heights, images = [], []
    with focused(microscope, every=1, method=best_method) as held:
        for place in places:
            held.move_stage(*place)
            heights.append(emulator.truth.working_distance)
            image = held.acquire(semdrivers.ScanMode.STANDARD)
            assert error(image.working_distance) < 2
            images.append(image)
    assert max(heights) - min(heights) > 5 * emulator.truth.depth_of_field
    for image in images:
        record = image.metadata["autofocus"]
        assert (record["status"], record["frames_since"]) == ("focused", 0)
        assert record["working_distance"] == pytest.approx(image.working_distance, abs=0.0011)


def test_once_focuses_the_first_frame_of_each_run_alone(microscope, told):
    keeper = focused(microscope, method="told")
    for run in (1, 2):
        with keeper as held:
            ages = [held.acquire().metadata["autofocus"]["frames_since"] for _ in range(3)]
        assert (told.runs, ages) == (run, [0, 1, 2])


def test_every_n_frames(microscope, told):
    with focused(microscope, every=3, method="told") as held:
        runs = [(held.acquire(), told.runs)[1] for _ in range(7)]
    assert runs == [1, 1, 1, 2, 2, 2, 3]


def test_the_stigmator_is_corrected_at_first_and_every_n_frames(microscope, emulator, told):
    keeper = FocusKeeper(microscope, every=2, stigmate_every=3, method="told")
    stigmated = []
    for _ in range(7):
        reason = keeper.before_frame()
        keeper.after_frame(microscope.acquire())
        stigmated.append(None if not reason else keeper.result.stigmator is not None)
    assert stigmated == [True, None, False, True, None, False, True]


def test_stigmate_every_needs_a_stigmator(microscope):
    class Bare:
        """A microscope without one."""

        capabilities, close, acquire = microscope.capabilities, microscope.close, microscope.acquire
        working_distance = magnification = 15.0

    with pytest.raises(semdrivers.errors.InvalidParameterError, match="stigmator"):
        FocusKeeper(Bare(), stigmate_every=2)
    with pytest.raises(semdrivers.errors.OutOfRangeError, match="stigmate_every"):
        FocusPolicy(stigmate_every=0)


def test_when_the_score_of_the_last_frame_dropped(microscope, told):
    scores = iter([7.0, 6.8, 5.4, 7.2, 7.1])
    with focused(microscope, score_drop=1.5, score=lambda image: next(scores), method="told") as held:
        runs = [(held.acquire(), told.runs)[1] for _ in range(5)]
    assert runs == [1, 1, 1, 2, 2]
    assert "dropped" not in held.keeper.due()


def test_when_the_stage_moved(microscope, told):
    with focused(microscope, stage_travel=1.0, method="told") as held:
        for x, runs in ((0.0, 1), (0.9, 1), (1.1, 2), (1.2, 2), (0.0, 3)):
            held.move_stage(x, 0.0)
            held.acquire()
            assert told.runs == runs, x


def test_when_magnification_or_temperature_changed(microscope, told):
    room = [21.0]
    policy = FocusPolicy(magnification_change=0.1, temperature=lambda: room[0], temperature_change=0.5)
    with focused(microscope, policy, method="told") as held:
        for magnification, degrees, runs in ((3000, 21, 1), (3100, 21.4, 1), (3400, 21, 2), (3400, 21.5, 3)):
            held.magnification, room[0] = magnification, degrees
            held.acquire()
            assert told.runs == runs, (magnification, degrees)


def test_abort_raises_before_the_frame_and_the_lens_is_back(microscope, emulator, told):
    told.refuse = lambda: True
    start = microscope.working_distance
    with focused(microscope, method="told") as held:
        with pytest.raises(semdrivers.NotFocusedError, match="told to refuse") as raised:
            held.acquire()
        assert held.keeper.frames == 0
        told.refuse = lambda: False
        held.acquire()
    assert raised.value.result.status == "refused"
    assert raised.value.result.working_distance == start
    assert told.runs == 2, "after a failure the next frame wants focus again"


@pytest.mark.parametrize(("on_failure", "runs"), [("skip", 1), ("retry", 3)])
def test_skip_and_retry_leave_the_frame_out(microscope, told, on_failure, runs):
    told.refuse = lambda: True
    start = microscope.working_distance
    with focused(microscope, every=5, on_failure=on_failure, method="told") as held:
        with pytest.raises(semdrivers.FrameSkippedError):
            held.acquire()
        assert (told.runs, held.working_distance) == (runs, start)
        told.refuse = lambda: False
        assert held.acquire().metadata["autofocus"]["status"] == "focused"


def test_retry_goes_on_at_the_first_success(microscope, told):
    told.refuse = lambda: told.runs < 2
    with focused(microscope, on_failure="retry", method="told") as held:
        assert held.acquire().metadata["autofocus"]["status"] == "focused"
    assert told.runs == 2


def test_continue_takes_the_frame_where_it_was_and_the_frame_says_so(microscope, told):
    told.refuse = lambda: True
    start = microscope.working_distance
    with focused(microscope, on_failure="continue", method="told") as held:
        image = held.acquire()
    assert image.working_distance == pytest.approx(start, abs=0.001)
    assert image.metadata["autofocus"]["status"] == "refused"


@pytest.mark.parametrize("on_failure", ["retry", "skip", "continue", "abort"])
def test_a_cancel_is_obeyed_before_the_next_frame_under_every_policy(microscope, told, on_failure):
    cancel = threading.Event()
    start = microscope.working_distance
    told.at_frame = lambda frames: frames == 2 and cancel.set()
    with (
        focused(microscope, every=1, on_failure=on_failure, cancel=cancel, method="told") as held,
        pytest.raises(semdrivers.NotFocusedError) as raised,
    ):
        held.acquire()
    assert raised.value.result.frames == 2
    assert microscope.working_distance == start
    with held.keeper and pytest.raises(semdrivers.NotFocusedError, match="before the frame"):
        held.acquire()
    assert told.runs == 1


def test_an_exception_of_the_instrument_ends_the_run_and_the_lens_is_back(microscope, told):
    def fail(frames: int) -> None:
        if frames == 3:
            raise semdrivers.HardwareFault("the filament is broken")

    told.at_frame = fail
    start = microscope.working_distance
    with (
        focused(microscope, on_failure="continue", method="told") as held,
        pytest.raises(semdrivers.HardwareFault),
    ):
        held.acquire()
    assert microscope.working_distance == start


def test_a_function_is_focused_before_it_is_called(microscope, told):
    @focused(microscope, every=2, on_failure="skip", method="told")
    def picture(mode: semdrivers.ScanMode) -> semdrivers.Image:
        """Take one."""
        return microscope.acquire(mode)

    images = [picture(semdrivers.ScanMode.FAST) for _ in range(3)]
    assert [image.metadata["autofocus"]["frames_since"] for image in images] == [0, 1, 0]
    assert picture.__doc__ == "Take one."
    picture(semdrivers.ScanMode.FAST)
    told.refuse = lambda: True
    assert picture(semdrivers.ScanMode.FAST) is None


def test_a_microscope_without_a_record_of_its_own_has_one_in_its_frames(foreign, told):
    told.truth = lambda: 13.0
    with focused(foreign, method="told") as held:
        image = held.acquire()
    assert image.metadata["autofocus"]["working_distance"] == 13.0


def test_what_is_kept_in_focus_is_still_the_microscope(microscope, told):
    with focused(microscope, method="told") as held:
        assert isinstance(held, FocusedMicroscope)
        assert isinstance(held, semdrivers.Microscope)
        held.contrast = 0.4
        held.working_distance = 15.0
        assert microscope.contrast == pytest.approx(0.4, abs=0.01)
        assert held.working_distance == microscope.working_distance == 15.0
        assert held.capabilities == microscope.capabilities
        assert "kept in focus" in repr(held)
        held.acquire()


def test_forgetting_the_as_is_told(microscope, told):
    with pytest.warns(RuntimeWarning, match="nothing was focused"), focused(microscope, method="told"):
        microscope.acquire()


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"every": True},
        {"every": 2.0},
        {"attempts": 0},
        {"stage_travel": -1.0},
        {"magnification_change": 0.0},
        {"score_drop": 1.0},
        {"score": len},
        {"temperature_change": 1.0, "temperature": 21.0},
        {"on_failure": "ignore"},
        {"settings": {}},
        {"evrey": 10},
        {"track": True},
        {"max_frames": 0},
    ],
)
def test_nonsense_is_refused_before_anything_moves(foreign, wrong):
    with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError)):
        FocusKeeper(foreign, **wrong)
    assert (foreign.moves, foreign.frames) == ([], 0)


def test_a_comparison_that_fails_loses_no_picture(microscope, known, caplog):
    """Pictures of a blank sample say nothing either: the map has its own points, and no more."""
    pytest.importorskip("skimage")

    class Broken:
        @semdrivers.hookimpl(tryfirst=True)
        def semdrivers_focus_between(self, microscope, first, second, row, column, depth_of_field):
            raise RuntimeError("the comparison broke")

    manager, plugin = semdrivers.get_plugin_manager(), Broken()
    manager.register(plugin, "broken-comparison")
    try:
        with focused(microscope, map=known, track=True) as held:
            heights = [held.acquire().working_distance for _ in range(3)]
    finally:
        manager.unregister(plugin)
    assert heights[0] == heights[2] > heights[1]
    assert "the comparison broke" in caplog.text
    assert len(known.points) == 5


def test_stage_travel_needs_a_stage(foreign):
    with pytest.raises(semdrivers.InvalidParameterError, match="ForeignMicroscope has no stage_position"):
        focused(foreign, stage_travel=1.0)
