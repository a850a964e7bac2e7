"""QCoDeS itself: real measurements into a real database over the emulator."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

import semdrivers

pytest.importorskip("qcodes", reason="QCoDeS is not installed: pip install '.[qcodes]'")

from qcodes.dataset import (
    LinSweep,
    Measurement,
    dond,
    initialise_or_create_database_at,
    load_or_create_experiment,
)
from qcodes.station import Station

from semdrivers.hosts.qcodes import MicroscopeInstrument


@pytest.fixture(autouse=True)
def experiment(tmp_path):
    initialise_or_create_database_at(tmp_path / "night.db")
    experiment = load_or_create_experiment("focus", "sample")
    yield experiment
    experiment.conn.close()


@pytest.fixture
def instrument(microscope):
    made = []

    def make(name="sem", **options) -> MicroscopeInstrument:
        made.append(MicroscopeInstrument(name, microscope, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def sweep(sem, *actions):
    return LinSweep(sem.stage_x, 0.0, 12.0, 4, post_actions=actions)


def column(dataset, name) -> np.ndarray:
    data = dataset.get_parameter_data(f"sem_{name}")[f"sem_{name}"][f"sem_{name}"]
    return np.asarray(data)


def test_parameters_are_the_microscope_with_units_and_limits(instrument, microscope):
    sem = instrument()
    sem.working_distance(15.0)
    sem.magnification(2000)
    sem.stage_x(1.0)
    sem.stage_y(-2.0)
    sem.scan_mode("STANDARD")
    assert (microscope.working_distance, microscope.magnification) == (15.0, 2000.0)
    assert microscope.stage_position == (1.0, -2.0)
    assert sem.frame().shape == (480, 640)
    assert (sem.working_distance.unit, sem.stage_x.unit) == ("mm", "mm")
    sem.beam(False)
    assert microscope.beam_on is False
    for wrong in (1e9, "12", float("inf")):
        with pytest.raises((ValueError, TypeError)):
            sem.working_distance(wrong)
    assert microscope.working_distance == 15.0
    assert sem.get_idn()["serial"] == microscope.capabilities.serial


@pytest.mark.parametrize("emulator", ["tin-balls"], indirect=True)
def test_four_positions_of_differing_height_are_sharp_and_say_so(instrument, emulator, error, told, best_method):
    sem, errors = instrument(method=best_method), []

    def note() -> None:
        errors.append(error(sem.working_distance()))

    dataset, _, _ = dond(sweep(sem, sem.autofocus, note), sem.frame, *sem.focus, show_progress=False)
    assert len(errors) == 4
    assert max(errors) < 2
    heights = column(dataset, "frame_working_distance")
    assert np.ptp(heights) > 5 * emulator.truth.depth_of_field
    assert column(dataset, "frame").shape[-3:] == (4, 240, 320)
    assert list(column(dataset, "focus_status")) == ["focused"] * 4
    assert column(dataset, "focus_working_distance") == pytest.approx(heights, abs=0.0011)
    assert list(column(dataset, "frames_since_focus")) == [0, 0, 0, 0]


def test_once_a_run_and_the_snapshot_holds_the_record(instrument, told):
    sem = instrument(method="told")
    Station(sem)
    dataset, _, _ = dond(sweep(sem), sem.frame, *sem.focus, enter_actions=[sem.autofocus], show_progress=False)
    assert told.runs == 1
    assert list(column(dataset, "frames_since_focus")) == [0, 1, 2, 3]
    told_by = dataset.snapshot["station"]["instruments"]["sem"]["parameters"]["focus_record"]["value"]
    assert told_by["status"] == "focused"
    assert told_by["working_distance"] == pytest.approx(told.sent[0])


def test_before_a_measurement_written_by_hand(instrument, told):
    sem = instrument(method="told")
    measurement = Measurement()
    measurement.register_parameter(sem.focus_working_distance)
    measurement.add_before_run(sem.autofocus, ())
    with measurement.run() as saver:
        saver.add_result((sem.focus_working_distance, sem.focus_working_distance()))
    assert told.runs == 1


def test_a_cadence_focuses_frames_by_itself(instrument, told):
    sem = instrument(every=2, method="told")
    dataset, _, _ = dond(sweep(sem), sem.frame, *sem.focus, show_progress=False)
    assert told.runs == 2
    assert list(column(dataset, "frames_since_focus")) == [0, 1, 0, 1]


def test_without_a_policy_a_frame_does_not_move_the_lens(instrument, told):
    sem = instrument(method="told")
    sem.frame()
    assert told.runs == 0
    assert sem.focus_status() == "none"


@pytest.mark.parametrize(("on_failure", "runs"), [("skip", 1), ("retry", 3)])
@pytest.mark.parametrize("by", ["action", "cadence"])
def test_a_point_without_focus_has_no_picture(instrument, microscope, told, on_failure, runs, by):
    told.refuse = lambda: microscope.stage_position == (4.0, 0.0)
    more = {"every": 1} if by == "cadence" else {}
    sem = instrument(on_failure=on_failure, method="told", **more)
    actions = [sem.autofocus] if by == "action" else []
    dataset, _, _ = dond(sweep(sem, *actions), sem.frame, *sem.focus, show_progress=False)
    pictures = column(dataset, "frame").reshape(4, 240, 320)
    assert [bool(np.isnan(picture).all()) for picture in pictures] == [False, True, False, False]
    assert list(column(dataset, "focus_status")) == ["focused", "refused", "focused", "focused"]
    assert told.runs == 3 + runs


def test_under_continue_the_frame_is_taken_and_says_so(instrument, microscope, told):
    told.refuse = lambda: microscope.stage_position == (4.0, 0.0)
    sem = instrument(on_failure="continue", method="told")
    dataset, _, _ = dond(sweep(sem, sem.autofocus), sem.frame, *sem.focus, show_progress=False)
    assert list(column(dataset, "focus_status")) == ["focused", "refused", "focused", "focused"]
    assert not np.isnan(column(dataset, "frame")).any()


def test_under_abort_the_run_ends_and_the_lens_is_back(instrument, microscope, told):
    told.refuse = lambda: microscope.stage_position == (4.0, 0.0)
    sem = instrument(method="told")
    with pytest.raises(semdrivers.NotFocusedError, match="told to refuse"):
        dond(sweep(sem, sem.autofocus), sem.frame, show_progress=False)
    assert microscope.working_distance == told.sent[0], "back where it was before the failed focusing"


@pytest.mark.parametrize("how", ["cancel", "ctrl-c"])
def test_an_abort_is_obeyed_within_one_frame(instrument, microscope, told, how):
    sem, taken, start = instrument(method="told"), [], microscope.working_distance

    def interrupt(frames: int) -> None:
        taken.append(frames)
        if frames == 2 and how == "ctrl-c":
            raise KeyboardInterrupt
        if frames == 2:
            thread = threading.Thread(target=sem.cancel)
            thread.start()
            thread.join()

    told.at_frame = interrupt
    with pytest.raises(KeyboardInterrupt if how == "ctrl-c" else semdrivers.NotFocusedError):
        dond(sweep(sem), sem.frame, enter_actions=[sem.autofocus], show_progress=False)
    assert taken == [1, 2]
    assert microscope.working_distance == start
    told.at_frame = lambda frames: None
    assert sem.autofocus().focused, "a cancel that was obeyed does not meet the next run"


def test_a_cancel_between_frames_is_obeyed_before_the_next(instrument, told):
    sem = instrument(method="told")
    sem.frame()
    sem.cancel()
    with pytest.raises(semdrivers.NotFocusedError, match="before the frame"):
        sem.frame()
    sem.frame()


def test_an_address_is_opened_and_closed(emulator, told):
    sem = MicroscopeInstrument("own", emulator.url)
    assert sem.frame().shape == (240, 320)
    sem.close()
    with semdrivers.connect(emulator.url) as free_again:
        assert free_again.acquire().pixels.shape == (240, 320)


def test_an_instrument_that_cannot_be_made_leaves_no_connection(emulator, instrument):
    taken = instrument()
    taken.microscope.close()
    with pytest.raises(semdrivers.InvalidParameterError, match="sem"):
        MicroscopeInstrument("sem", emulator.url)
    with pytest.raises(semdrivers.OutOfRangeError):
        MicroscopeInstrument("other", emulator.url, every=0)
    with semdrivers.connect(emulator.url) as free:
        assert free.acquire().pixels.shape == (240, 320)


def test_what_is_no_microscope_is_refused():
    with pytest.raises(semdrivers.InvalidParameterError, match="no Microscope"):
        MicroscopeInstrument("none", object())


@pytest.mark.parametrize("by_address", [True, False])
def test_closing_twice_does_nothing(emulator, by_address):
    microscope = None if by_address else semdrivers.connect(emulator.url)
    sem = MicroscopeInstrument("twice", microscope or emulator.url)
    for _ in range(2):
        sem.close()
        assert not MicroscopeInstrument.exist("twice")
    if microscope is not None:
        assert microscope.working_distance > 0, "a microscope that was given stays open"
        microscope.close()


def test_a_sweep_of_the_lens_is_no_disturbance_and_the_frames_say_how_far(instrument, microscope, told):
    sem = instrument(every=100, method="told")
    sem.frame()
    place = told.sent[0]
    dataset, _, _ = dond(
        LinSweep(sem.working_distance, place - 0.2, place + 0.2, 3), sem.frame, *sem.focus, show_progress=False
    )
    assert told.runs == 1
    assert column(dataset, "lens_offset") == pytest.approx([-0.2, 0.0, 0.2], abs=0.002)
    microscope.working_distance = 15.0
    sem.frame()
    assert told.runs == 2, "a hand on the knob is one"


def test_every_parameter_is_read_and_named_once_and_the_snapshot_is_json(instrument):
    sem = instrument()
    sem.frame()
    json.dumps(sem.snapshot(update=True), default=str)
    names = [parameter.full_name for parameter in sem.parameters.values()]
    assert len(names) == len(set(names))
    for name, parameter in sem.parameters.items():
        if parameter.gettable and name != "IDN":
            parameter.validate(parameter.get()) if name not in ("focus_record",) else parameter.get()
        if not parameter.settable and name not in ("frame", "row", "column", "IDN"):
            with pytest.raises(Exception, match=r"set|settable"):
                parameter.set(1)
    assert sem.print_readable_snapshot() is None


def test_an_address_is_served_from_every_thread(emulator):
    sem, shapes = MicroscopeInstrument("own", emulator.url), []
    threads = [threading.Thread(target=lambda: shapes.append(sem.frame().shape)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    sem.close()
    assert shapes == [(240, 320)] * 3
