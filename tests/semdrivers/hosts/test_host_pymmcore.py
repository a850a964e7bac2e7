"""pymmcore-plus itself, without Micro-Manager's device adapters: real acquisitions over the emulator."""

from __future__ import annotations

import threading

import pytest

import semdrivers

pytest.importorskip("pymmcore_plus", reason="pymmcore-plus is not installed: pip install '.[pymmcore]'")

import useq
from pymmcore_plus.experimental.unicore import UniMMCore
from pymmcore_plus.mda._runner import FinishReason

from semdrivers.hosts.pymmcore import autofocus_before

PLAN = useq.AxesBasedAF(axes=("p",))


def over(places, **more) -> useq.MDASequence:
    return useq.MDASequence(stage_positions=[(1000 * x, 1000 * y) for x, y in places], **more)


def test_the_devices_are_the_microscope(core, microscope):
    assert core.getPosition() == pytest.approx(microscope.working_distance * 1000)
    core.setPosition(15000.0)
    assert microscope.working_distance == 15.0
    core.setXYPosition(1000.0, -2000.0)
    assert microscope.stage_position == (1.0, -2.0)
    core.setProperty("Camera", "Magnification", 2000)
    core.setProperty("Camera", "ScanMode", "STANDARD")
    assert core.snap().shape == (480, 640)
    assert microscope.magnification == 2000
    assert core.getShutterOpen() is True
    core.setShutterOpen(False)
    assert microscope.beam_on is False
    with pytest.raises(semdrivers.OutOfRangeError):
        core.setPosition(1e9)
    assert microscope.working_distance == 15.0


@pytest.mark.parametrize("emulator", ["tin-balls"], indirect=True)
def test_four_positions_of_differing_height_are_sharp_and_say_so(
    core, microscope, emulator, frames, places, error, told, best_method
):
    errors = []
    core.mda.events.frameReady.connect(lambda pixels, event, meta: errors.append(error(microscope.working_distance)))
    with autofocus_before(core, microscope, method=best_method):
        core.mda.run(over(places, autofocus_plan=PLAN))
    assert len(frames) == 4
    assert max(errors) < 2
    heights = [meta["semdrivers"]["working_distance"] for _, _, meta in frames]
    assert max(heights) - min(heights) > 5 * emulator.truth.depth_of_field
    for _, _, meta in frames:
        assert meta["autofocus"]["status"] == "focused"
        assert meta["autofocus"]["working_distance"] == pytest.approx(
            meta["semdrivers"]["working_distance"], abs=0.0011
        )
        assert meta["pixel_size_um"] > 0


def test_without_a_plan_the_cadence_decides(core, microscope, frames, places, told):
    with autofocus_before(core, microscope, every=2, method="told"):
        core.mda.run(over(places))
    assert told.runs == 2
    assert [meta["autofocus"]["frames_since"] for _, _, meta in frames] == [0, 1, 0, 1]


def test_a_grid_plan_follows_a_focus_map_without_frames_for_it(core, microscope, frames, known, error, told):
    errors = []
    core.mda.events.frameReady.connect(lambda *_: errors.append(error(microscope.working_distance)))
    grid = {"rows": 2, "columns": 3, "fov_width": 100, "fov_height": 100}
    sequence = useq.MDASequence(stage_positions=[(200, 200)], grid_plan=grid)
    with autofocus_before(core, microscope, stage_travel=0, map=known, method="told"):
        core.mda.run(sequence)
    assert [meta["autofocus"]["method"] for _, _, meta in frames] == ["focus-map"] * 6
    assert max(errors) < 0.5
    assert told.runs == 0


@pytest.mark.parametrize("emulator", ["gold-nanoparticles"], indirect=True)
def test_the_pictures_of_a_grid_plan_keep_the_map_up_to_date(core, microscope, frames, known, error, told):
    pytest.importorskip("skimage", reason="scikit-image is not installed: pip install '.[tiles]'")
    errors = []
    core.mda.events.frameReady.connect(lambda *_: errors.append(error(microscope.working_distance)))
    grid = {"rows": 2, "columns": 3, "overlap": (30, 25)}
    sequence = useq.MDASequence(stage_positions=[(200, 200)], grid_plan=grid)
    with autofocus_before(core, microscope, map=known, track=True, method="told"):
        core.mda.run(sequence)
    assert {meta["autofocus"]["method"] for _, _, meta in frames} == {"focus-map"}
    assert [point.source for point in known.points[5:]].count("joint") >= 3
    assert max(errors) < 0.5
    assert told.runs == 0


def test_every_run_of_one_sequence_focuses_and_the_old_engine_is_back(core, microscope, told):
    engine, sequence = core.mda.engine, over([(0, 0)], autofocus_plan=PLAN)
    with autofocus_before(core, microscope, method="told"):
        assert core.mda.engine is not engine
        for run in (1, 2, 3):
            core.mda.run(sequence)
            assert told.runs == run
    assert core.mda.engine is engine
    core.mda.run(sequence)
    assert told.runs == 3


def test_planned_heights_are_corrected_by_the_focus_found(core, microscope, emulator, frames, told, error):
    """Positions with a z, and a stack around it: the stack is centred on the focus, not on the plan."""
    planned = microscope.working_distance * 1000
    sequence = useq.MDASequence(
        stage_positions=[(0, 0, planned)], z_plan={"range": 40, "step": 20}, autofocus_plan=PLAN
    )
    with autofocus_before(core, microscope, method="told"):
        core.mda.run(sequence)
    heights = [meta["semdrivers"]["working_distance"] for _, _, meta in frames]
    assert heights == pytest.approx([told.sent[0] - 0.02, told.sent[0], told.sent[0] + 0.02], abs=0.0011)
    assert told.runs == 1


def test_a_run_started_on_a_thread_is_waited_for(core, microscope, frames, places, told):
    with autofocus_before(core, microscope, method="told"):
        core.run_mda(over(places, autofocus_plan=PLAN))
    assert (len(frames), told.runs) == (4, 4)


@pytest.mark.parametrize(("on_failure", "runs"), [("skip", 1), ("retry", 3)])
def test_a_position_without_focus_is_left_out(core, microscope, frames, places, told, on_failure, runs):
    told.refuse = lambda: microscope.stage_position == (9.0, 0.0)
    with autofocus_before(core, microscope, on_failure=on_failure, method="told"):
        core.mda.run(over(places, time_plan={"interval": 0, "loops": 2}, axis_order="pt", autofocus_plan=PLAN))
    assert [event.index["p"] for _, event, _ in frames] == [0, 0, 2, 2, 3, 3]
    assert told.runs == 3 + runs


def test_under_continue_the_frame_is_taken_and_says_so(core, microscope, frames, places, told):
    told.refuse = lambda: microscope.stage_position == (9.0, 0.0)
    with autofocus_before(core, microscope, on_failure="continue", method="told"):
        core.mda.run(over(places, autofocus_plan=PLAN))
    assert [meta["autofocus"]["status"] for _, _, meta in frames] == ["focused", "refused", "focused", "focused"]


@pytest.mark.parametrize("plan", [PLAN, None])
def test_under_abort_the_run_ends_and_the_lens_is_back(core, microscope, frames, places, told, plan):
    engine = core.mda.engine
    told.refuse = lambda: microscope.stage_position == (9.0, 0.0)
    with (
        pytest.raises(semdrivers.NotFocusedError, match="told to refuse"),
        autofocus_before(core, microscope, every=1 if plan is None else None, method="told"),
    ):
        core.mda.run(over(places, autofocus_plan=plan))
    assert len(frames) == 1
    assert microscope.working_distance == told.sent[0], "back where it was before the failed focusing"
    assert core.mda.engine is engine


@pytest.mark.parametrize("plan", [PLAN, None])
def test_a_cancel_reaches_inside_and_is_obeyed_before_the_next_frame(core, microscope, frames, places, told, plan):
    start, at = microscope.working_distance, []

    def cancel(taken: int) -> None:
        at.append(taken)
        if taken == 2:
            core.mda.cancel()

    told.at_frame = cancel
    with autofocus_before(core, microscope, method="told") as keeper:
        core.mda.run(over(places, autofocus_plan=plan))
    assert at == [1, 2]
    assert frames == []
    assert keeper.result.status == "cancelled"
    assert microscope.working_distance == start
    assert core.mda.status.finish_reason is FinishReason.CANCELED


def test_leaving_the_block_by_an_exception_cancels_what_runs(core, microscope, places, told):
    began, engine = threading.Event(), core.mda.engine
    told.at_frame = lambda taken: began.set()

    def interrupted() -> None:
        with autofocus_before(core, microscope, method="told"):
            core.run_mda(over(places * 50, autofocus_plan=PLAN))
            assert began.wait(30)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not core.mda.is_running()
    assert core.mda.engine is engine
    assert told.runs < 50


def test_a_configuration_file_connects_by_address(tmp_path, emulator, told):
    devices = {"Camera": "MicroscopeCamera", "WD": "WorkingDistanceDrive", "XY": "MicroscopeStage"}
    lines = [f"#py pyDevice,{label},semdrivers.hosts.pymmcore,{name}" for label, name in devices.items()]
    lines += [f"#py Property,{label},Address,{emulator.url}" for label in devices]
    lines += ["Property,Core,Initialize,1", "Property,Core,AutoShutter,0"]
    lines += ["#py Property,Core,Camera,Camera", "#py Property,Core,Focus,WD", "#py Property,Core,XYStage,XY"]
    path = tmp_path / "sem.cfg"
    path.write_text("\n".join(lines) + "\n")
    core = UniMMCore()
    core.loadSystemConfiguration(path)
    assert core.snap().shape == (240, 320)
    assert 1000 < core.getPosition() < 50000
    core.unloadAllDevices()
    with semdrivers.connect(emulator.url) as free_again:
        assert free_again.acquire().pixels.shape == (240, 320)
