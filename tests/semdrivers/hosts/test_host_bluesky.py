"""Bluesky itself: real plans in a real RunEngine over the emulator."""

from __future__ import annotations

import threading
import time

import pytest

import semdrivers

pytest.importorskip("bluesky", reason="Bluesky is not installed: pip install '.[bluesky]'")

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.protocols import Movable, Readable, Stoppable, Triggerable
from bluesky.run_engine import RunEngineInterrupted
from bluesky.utils import FailedStatus

from semdrivers.hosts.bluesky import (
    autofocus,
    autofocus_per_step,
    autofocus_preprocessor,
    autofocus_wrapper,
    devices,
)


@pytest.fixture
def documents(RE):
    """Everything the run tells: (name of the stream or document, document)."""
    streams: dict[str, str] = {}
    told: list[tuple[str, dict]] = []

    def keep(name, document):
        if name == "descriptor":
            streams[document["uid"]] = document["name"]
        told.append((streams[document["descriptor"]] if name == "event" else name, document))

    RE.subscribe(keep)
    return told


def events(documents, stream="primary"):
    return [document["data"] for name, document in documents if name == stream]


def over(sem, places):
    return bp.list_scan([sem.detector], sem.stage_x, [x for x, _ in places], sem.stage_y, [y for _, y in places])


def test_the_devices_keep_blueskys_protocols(RE, sem, microscope):
    for device in (sem.working_distance, sem.magnification, sem.autofocus, sem.stage_x):
        assert isinstance(device, Movable)
        assert isinstance(device, Stoppable)
        assert isinstance(device, Readable)
    assert isinstance(sem.detector, Triggerable)
    RE(bps.mv(sem.working_distance, 15.0, sem.magnification, 2000, sem.stage_x, 1.0, sem.stage_y, 2.0))
    assert (microscope.working_distance, microscope.magnification) == (15.0, 2000.0)
    assert microscope.stage_position == (1.0, 2.0)
    assert sem.working_distance.locate() == {"setpoint": 15.0, "readback": 15.0}
    with pytest.raises(semdrivers.OutOfRangeError):
        RE(bps.mv(sem.working_distance, 1e9))
    assert microscope.working_distance == 15.0
    with pytest.raises(FailedStatus):
        RE(bps.mv(sem.stage_x, 1e9))


@pytest.mark.parametrize("emulator", ["tin-balls"], indirect=True)
def test_four_positions_of_differing_height_are_sharp_and_say_so(
    RE, sem, emulator, documents, places, error, told, best_method
):
    errors = []
    RE.subscribe(
        lambda name, event: errors.append(error(event["data"].get("sem_frame_working_distance", float("nan")))), "event"
    )
    RE(autofocus_wrapper(over(sem, places), sem, every=1, method=best_method))
    frames = events(documents)
    assert len(frames) == 4
    assert max(value for value in errors if value == value) < 2
    heights = [frame["sem_frame_working_distance"] for frame in frames]
    assert max(heights) - min(heights) > 5 * emulator.truth.depth_of_field
    for frame in frames:
        assert (frame["sem_focus_status"], frame["sem_focus_frames_since"]) == ("focused", 0)
        assert frame["sem_image"].shape == (240, 320)
    focusings = events(documents, "autofocus")
    assert [focusing["sem_autofocus_status"] for focusing in focusings] == ["focused"] * 4
    assert [f["sem_autofocus_working_distance"] for f in focusings] == pytest.approx(heights, abs=0.0011)


def test_a_grid_scan_follows_a_focus_map_without_frames_for_it(RE, sem, microscope, documents, known, error, told):
    errors = []
    RE.subscribe(lambda name, event: errors.append(error(microscope.working_distance)), "event")
    grid = bp.grid_scan([sem.detector], sem.stage_y, 0.1, 0.3, 2, sem.stage_x, 0.1, 0.3, 3, snake_axes=True)
    RE(autofocus_wrapper(grid, sem, stage_travel=0, map=known, method="told"))
    assert len(events(documents)) == 6
    assert [f["sem_autofocus_status"] for f in events(documents, "autofocus")] == ["focused"] * 6
    assert max(errors) < 0.5
    assert told.runs == 0


@pytest.mark.parametrize("emulator", ["gold-nanoparticles"], indirect=True)
def test_the_pictures_of_a_grid_scan_keep_the_map_up_to_date(RE, sem, microscope, documents, known, error, told):
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install '.[tiles]'")
    errors = []
    RE.subscribe(lambda name, event: errors.append(error(microscope.working_distance)), "event")
    grid = bp.grid_scan([sem.detector], sem.stage_y, 0.2, 0.224, 2, sem.stage_x, 0.2, 0.26, 3, snake_axes=True)
    RE(autofocus_wrapper(grid, sem, map=known, track=True, method="told"))
    assert len(events(documents)) == 6
    assert [point.source for point in known.points[5:]].count("joint") >= 3
    assert max(errors) < 0.5
    assert told.runs == 0


def test_once_a_run_by_default_and_each_run_anew(RE, sem, documents, places, told):
    for runs in (1, 2):
        RE(autofocus_wrapper(over(sem, places), sem, method="told"))
        assert told.runs == runs
    assert [frame["sem_focus_frames_since"] for frame in events(documents)] == [0, 1, 2, 3] * 2


def test_as_preprocessor_it_is_in_every_plan(RE, sem, documents, places, told):
    RE.preprocessors.append(autofocus_preprocessor(sem, stage_travel=1.0, method="told"))
    RE(bp.count([sem.detector], num=3))
    assert told.runs == 1
    RE(over(sem, places))
    assert told.runs == 5


def test_point_by_point(RE, sem, documents, places, told, microscope):
    told.refuse = lambda: microscope.stage_position == (9.0, 0.0)
    xs, ys = zip(*places, strict=True)
    step = autofocus_per_step(sem, on_failure="skip", method="told")
    RE(bp.list_scan([sem.detector], sem.stage_x, list(xs), sem.stage_y, list(ys), per_step=step))
    assert told.runs == 4
    assert [(frame["sem_stage_x"], frame["sem_stage_y"]) for frame in events(documents)] == [(0, 0), (0, 9), (9, 9)]


def test_the_stub_returns_the_result_outside_a_run_too(RE, sem, microscope, told):
    results = []

    def plan(target):
        results.append((yield from autofocus(target, method="told")))

    RE(plan(sem))
    RE(plan(microscope))
    assert [result.status for result in results] == ["focused", "focused"]
    assert sem.autofocus.keeper.policy.settings.method is None


@pytest.mark.parametrize(("on_failure", "runs"), [("skip", 1), ("retry", 3)])
def test_a_point_without_focus_leaves_no_event(RE, sem, documents, places, told, microscope, on_failure, runs):
    told.refuse = lambda: microscope.stage_position == (9.0, 0.0)
    RE(autofocus_wrapper(over(sem, places), sem, every=1, on_failure=on_failure, method="told"))
    assert [(frame["sem_stage_x"], frame["sem_stage_y"]) for frame in events(documents)] == [(0, 0), (0, 9), (9, 9)]
    assert told.runs == 3 + runs
    statuses = [focusing["sem_autofocus_status"] for focusing in events(documents, "autofocus")]
    assert statuses == ["focused", "refused", "focused", "focused"]


def test_under_continue_the_frame_is_taken_and_says_so(RE, sem, documents, places, told, microscope):
    told.refuse = lambda: microscope.stage_position == (9.0, 0.0)
    RE(autofocus_wrapper(over(sem, places), sem, every=1, on_failure="continue", method="told"))
    statuses = [frame["sem_focus_status"] for frame in events(documents)]
    assert statuses == ["focused", "refused", "focused", "focused"]


def test_under_abort_the_run_ends_and_the_lens_is_back(RE, sem, documents, places, told, microscope):
    told.refuse = lambda: microscope.stage_position == (9.0, 0.0)
    with pytest.raises(semdrivers.NotFocusedError, match="told to refuse"):
        RE(autofocus_wrapper(over(sem, places), sem, every=1, method="told"))
    assert len(events(documents)) == 1
    assert microscope.working_distance == told.sent[0], "back where it was before the failed focusing"
    assert documents[-1][1]["exit_status"] == "fail"


def interrupting(told, sem, interrupt):
    """Interrupt from another thread after the second frame; go on when the device has heard of it."""
    taken: list[int] = []

    def at_frame(frames: int) -> None:
        taken.append(frames)
        if len(taken) == 2:
            threading.Thread(target=interrupt, daemon=True).start()
            deadline = time.monotonic() + 20
            while not sem.autofocus.keeper.cancel.is_set() and time.monotonic() < deadline:
                time.sleep(0.005)

    told.at_frame = at_frame
    return taken


@pytest.mark.parametrize("how", ["abort", "stop"])
def test_an_abort_is_obeyed_within_one_frame(RE, sem, documents, places, told, microscope, how):
    start = microscope.working_distance
    taken = interrupting(told, sem, getattr(RE, how))
    with pytest.raises(RunEngineInterrupted):
        RE(autofocus_wrapper(over(sem, places), sem, method="told"))
    assert taken == [1, 2]
    assert microscope.working_distance == start
    assert sem.autofocus.result.status == "cancelled"
    assert events(documents) == []
    assert documents[-1][1]["exit_status"] == {"abort": "abort", "stop": "success"}[how]


def test_a_pause_stops_the_lens_and_resuming_focuses_again(RE, sem, documents, places, told, microscope):
    start = microscope.working_distance
    taken = interrupting(told, sem, RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        RE(autofocus_wrapper(over(sem, places), sem, method="told"))
    assert RE.state == "paused"
    assert taken == [1, 2]
    assert microscope.working_distance == start
    RE.resume()
    assert told.runs == 2
    assert [frame["sem_focus_status"] for frame in events(documents)] == ["focused"] * 4


def test_a_fault_of_the_instrument_ends_the_run_and_the_lens_is_back(RE, sem, places, told, microscope):
    def fail(frames: int) -> None:
        raise semdrivers.HardwareFault("the filament is broken")

    told.at_frame, start = fail, microscope.working_distance
    with pytest.raises(semdrivers.HardwareFault):
        RE(autofocus_wrapper(over(sem, places), sem, on_failure="continue", method="told"))
    assert microscope.working_distance == start


def test_nonsense_is_refused_before_the_plan_runs(sem, foreign):
    with pytest.raises(semdrivers.OutOfRangeError):
        autofocus_preprocessor(sem, every=0)
    with pytest.raises(semdrivers.InvalidParameterError, match="no Microscope"):
        devices(object())
    assert devices(foreign).stage_x is None
