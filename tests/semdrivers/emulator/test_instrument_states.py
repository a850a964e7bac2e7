"""The emulated instrument: motion, interlocks, frames and their times, on the virtual clock."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_protocol.messages import (
    BeamChanged,
    Event,
    FrameDropped,
    InterlockTripped,
    Parameter,
    ParameterChanged,
    Reason,
    ScanEnded,
    StageIdle,
    Status,
    Subsystem,
    VacuumChanged,
    VacuumState,
    Wait,
)
from firmware_protocol.profile import EM30
from semdrivers.emulator.instrument import Instrument, Refused
from semdrivers.emulator.physics import ScanConditions, Truth
from semdrivers.emulator.wires import still_holds
from semdrivers.errors import InvalidParameterError, OutOfRangeError


class FlatColumn:
    """Grey of the frame's number; keeps the conditions."""

    def __init__(self) -> None:
        self.seen: list[ScanConditions] = []

    def render(self, conditions: ScanConditions) -> Any:
        self.seen.append(conditions)
        depth = np.uint8 if conditions.bits == 8 else np.uint16
        return np.full((conditions.height, conditions.width), conditions.frame_id % 256, depth)

    def truth(self, conditions: ScanConditions) -> Truth:
        return Truth(15.0, 0.1, 0.0, 9.0)


@pytest.fixture
def instrument() -> Instrument:
    return Instrument(FlatColumn())


@pytest.fixture
def events(instrument: Instrument) -> list[Event]:
    heard: list[Event] = []
    instrument.listen(heard.append)
    return heard


def refusal(status: Status, call: Any, *arguments: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.status is status
    assert caught.value.refusal.text
    return caught.value


def pass_time(instrument: Instrument, seconds: float) -> None:
    instrument.clock.wait_until(instrument.clock.now() + seconds)
    instrument.update()


def test_the_working_distance_lands_on_the_quantum_and_settles(instrument: Instrument) -> None:
    applied = instrument.set_parameter(Parameter.WORKING_DISTANCE, 16.00049)
    assert applied.value == 16.0
    assert applied.settling == pytest.approx(EM30.lens_time_constant * np.log(1 / EM30.lens_settled_within))
    pass_time(instrument, EM30.lens_time_constant)
    assert instrument.conditions().working_distance == pytest.approx(16 - np.exp(-1))
    pass_time(instrument, applied.settling)
    assert instrument.conditions().working_distance == 16.0


@given(st.floats(1.0, 50.0), st.floats(1.0, 50.0))
@settings(max_examples=50)
def test_a_settled_lens_is_where_it_was_sent(first: float, second: float) -> None:
    instrument = Instrument(FlatColumn())
    instrument.set_parameter(Parameter.WORKING_DISTANCE, first)
    pass_time(instrument, 0.05)
    applied = instrument.set_parameter(Parameter.WORKING_DISTANCE, second)
    assert abs(applied.value - second) <= 0.0005 + 1e-9
    instrument.clock.wait_until(applied.time)
    assert instrument.conditions().working_distance == applied.value == instrument.value(Parameter.WORKING_DISTANCE)


def test_a_frame_before_the_lens_has_settled_says_where_the_lens_was(instrument: Instrument) -> None:
    instrument.start_scan(320, 240)
    applied = instrument.set_parameter(Parameter.WORKING_DISTANCE, 16.0)
    frame = instrument.next_frame()
    assert frame is not None
    assert frame.start_time < applied.time
    assert frame.working_distance == 15.0
    second = instrument.next_frame()
    assert second is not None
    assert 15.0 < second.working_distance < 16.0


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Parameter.WORKING_DISTANCE, 0.999),
        (Parameter.WORKING_DISTANCE, 50.001),
        (Parameter.WORKING_DISTANCE, float("nan")),
        (Parameter.MAGNIFICATION, 19.0),
        (Parameter.MAGNIFICATION, float("inf")),
        (Parameter.BRIGHTNESS, -0.1),
        (Parameter.CONTRAST, 1.1),
        (Parameter.STIGMATOR_X, 4001.0),
    ],
)
def test_values_out_of_range_change_nothing(
    instrument: Instrument, events: list[Event], parameter: Parameter, value: float
) -> None:
    before = instrument.value(parameter)
    caught = refusal(Status.OUT_OF_RANGE, instrument.set_parameter, parameter, value)
    assert (caught.refusal.minimum, caught.refusal.maximum) == instrument.limits(parameter)
    assert parameter.name.lower() in caught.refusal.text
    assert instrument.value(parameter) == before
    assert events == []


def test_a_stigmator_is_set_on_both_axes_or_on_none(instrument: Instrument) -> None:
    refusal(Status.OUT_OF_RANGE, instrument.set_stigmator, 1.0, 4001.0)
    assert instrument.value(Parameter.STIGMATOR_X) == 0.0
    applied = instrument.set_stigmator(1.04, -2.0)
    assert (applied.x, applied.y) == (1.0, -2.0)
    conditions = instrument.conditions()
    assert (conditions.stigmator_x, conditions.stigmator_y) == (1.0, -2.0)


@pytest.mark.parametrize(
    "parameter", [Parameter.STAGE_Z, Parameter.STAGE_X, Parameter.BEAM_CURRENT, Parameter.ACCELERATING_VOLTAGE]
)
def test_what_is_read_only_says_so(instrument: Instrument, parameter: Parameter) -> None:
    refusal(Status.READ_ONLY, instrument.set_parameter, parameter, instrument.value(parameter))


def test_the_detector_and_the_magnification_reach_the_column(instrument: Instrument) -> None:
    instrument.set_parameter(Parameter.BRIGHTNESS, 0.25)
    instrument.set_parameter(Parameter.CONTRAST, 0.75)
    instrument.set_parameter(Parameter.MAGNIFICATION, 2000.4)
    conditions = instrument.conditions(640, 480, 16)
    assert (conditions.brightness, conditions.contrast, conditions.magnification) == (0.25, 0.75, 2000)
    assert (conditions.width, conditions.height, conditions.bits, conditions.dwell_time) == (640, 480, 16, 3.2e-6)


def test_the_stage_travels_arrives_and_says_so(instrument: Instrument, events: list[Event]) -> None:
    moved = instrument.move_stage(7.0, 0.0)
    assert moved.settling == pytest.approx(4.2)
    assert instrument.status().stage_moving
    pass_time(instrument, 0.1)
    assert instrument.conditions().stage_x == pytest.approx(3.5)
    busy = refusal(Status.BUSY, instrument.move_stage, 0.0, 0.0)
    assert busy.refusal.subsystem is Subsystem.STAGE
    pass_time(instrument, 4.2)
    assert events == [StageIdle(7.0, 0.0, moved.time)]
    assert not instrument.status().stage_moving
    assert (instrument.value(Parameter.STAGE_X), instrument.value(Parameter.STAGE_Y)) == (7.0, 0.0)
    refusal(Status.OUT_OF_RANGE, instrument.move_stage, 0.0, 18.0)


def test_a_high_stage_shrinks_the_envelope_of_lens_and_stage() -> None:
    instrument = Instrument(FlatColumn(), stage_height=30.0)
    assert instrument.limits(Parameter.WORKING_DISTANCE) == (11.0, 50.0)
    caught = refusal(Status.INTERLOCK, instrument.set_parameter, Parameter.WORKING_DISTANCE, 10.0)
    assert caught.refusal.reasons == Reason.COLLISION
    assert "30 mm" in caught.refusal.text
    caught = refusal(Status.INTERLOCK, instrument.move_stage, 8.0, 8.0)
    assert caught.refusal.reasons == Reason.COLLISION
    assert instrument.value(Parameter.STAGE_X) == 0.0
    instrument.move_stage(6.0, 6.0)
    with pytest.raises(OutOfRangeError, match="collision"):
        Instrument(FlatColumn(), stage_height=30.0, working_distance=5.0)


def test_frames_count_up_and_take_their_time(instrument: Instrument, events: list[Event]) -> None:
    assert instrument.next_frame() is None
    started = instrument.start_scan(320, 240, 8, 2)
    first, second = instrument.next_frame(), instrument.next_frame()
    assert first is not None
    assert second is not None
    assert (started.first_frame, first.frame_id, second.frame_id) == (1, 1, 2)
    assert (first.start_time, first.end_time) == (started.time, pytest.approx(started.frame_time))
    assert second.start_time == first.end_time
    assert first.pixels.shape == (240, 320)
    assert first.pixel_size == pytest.approx(400.0)
    assert instrument.next_frame() is None
    assert events == [ScanEnded(3, second.end_time)]
    assert instrument.start_scan(1280, 960, 16).first_frame == 3
    third = instrument.next_frame()
    assert third is not None
    assert (third.pixels.dtype, third.pixels.shape, third.bits) == (np.uint16, (960, 1280), 16)


@pytest.mark.parametrize("size", [(321, 240, 8), (320, 240, 12), (0, 0, 8)])
def test_sizes_that_are_not_on_offer_are_refused(instrument: Instrument, size: tuple[int, int, int]) -> None:
    caught = refusal(Status.INVALID_PARAMETER, instrument.start_scan, *size)
    assert "1280x960" in caught.refusal.text


def test_a_frame_that_a_new_scan_cuts_off_never_comes_out() -> None:
    column = FlatColumn()
    instrument = Instrument(column)
    instrument.start_scan(320, 240)
    plain = column.render

    def interrupted(conditions: ScanConditions) -> Any:
        column.render = plain  # type: ignore[method-assign]
        instrument.start_scan(640, 480)
        return plain(conditions)

    column.render = interrupted  # type: ignore[method-assign]
    assert instrument.next_frame() is None
    frame = instrument.next_frame()
    assert frame is not None
    assert (frame.width, frame.frame_id) == (640, 1)


def test_a_stopped_scan_loses_the_frame_under_way() -> None:
    column = FlatColumn()
    instrument = Instrument(column)
    instrument.start_scan(320, 240)

    def stopped(conditions: ScanConditions) -> Any:
        instrument.stop_scan()
        return np.zeros((240, 320), np.uint8)

    column.render = stopped  # type: ignore[method-assign]
    assert instrument.next_frame() is None


def test_the_beam_needs_vacuum_and_a_closed_door(instrument: Instrument, events: list[Event]) -> None:
    assert refusal(Status.INTERLOCK, instrument.vent).refusal.reasons == Reason.BEAM_ON
    instrument.set_beam(False)
    assert refusal(Status.INTERLOCK, instrument.start_scan, 320, 240).refusal.reasons == Reason.BEAM_OFF
    vented = instrument.vent()
    assert vented.settling == EM30.vent_time
    assert refusal(Status.INTERLOCK, instrument.set_beam, True).refusal.reasons == Reason.VACUUM_NOT_READY
    assert refusal(Status.BUSY, instrument.pump).refusal.subsystem is Subsystem.VACUUM
    pass_time(instrument, EM30.vent_time)
    assert instrument.status().vacuum is VacuumState.VENTED
    instrument.open_door()
    assert refusal(Status.INTERLOCK, instrument.pump).refusal.reasons == Reason.DOOR_OPEN
    assert (
        refusal(Status.INTERLOCK, instrument.set_beam, True).refusal.reasons
        == Reason.DOOR_OPEN | Reason.VACUUM_NOT_READY
    )
    instrument.close_door()
    assert instrument.pump().settling == EM30.pump_time
    assert refusal(Status.BUSY, instrument.vent).refusal.subsystem is Subsystem.VACUUM
    pass_time(instrument, EM30.pump_time)
    assert instrument.pump().settling == 0.0
    on = instrument.set_beam(True)
    assert refusal(Status.BUSY, instrument.start_scan, 320, 240).refusal.subsystem is Subsystem.BEAM
    pass_time(instrument, on.settling)
    instrument.start_scan(320, 240)
    states = [event.state for event in events if isinstance(event, VacuumChanged)]
    assert states == [VacuumState.VENTING, VacuumState.VENTED, VacuumState.PUMPING, VacuumState.READY]
    assert [event.on for event in events if isinstance(event, BeamChanged)] == [False, True]


def test_switching_the_beam_off_stops_the_scan(instrument: Instrument, events: list[Event]) -> None:
    instrument.start_scan(320, 240)
    instrument.set_beam(False)
    assert instrument.next_frame() is None
    assert events == [ScanEnded(1, 0.0), BeamChanged(False, 0.0)]
    assert not instrument.conditions().beam_on


def test_an_opened_door_takes_beam_scan_and_vacuum(instrument: Instrument, events: list[Event]) -> None:
    instrument.start_scan(320, 240)
    instrument.open_door()
    instrument.open_door()
    status = instrument.status()
    assert (status.beam_on, status.scanning, status.door_closed) == (False, False, False)
    assert status.vacuum is VacuumState.VENTED
    assert [event.reasons for event in events if isinstance(event, InterlockTripped)] == [Reason.DOOR_OPEN]


def test_a_broken_filament_is_a_fault_until_it_is_replaced(instrument: Instrument) -> None:
    instrument.break_filament()
    assert "filament" in instrument.status().fault
    refusal(Status.HARDWARE_FAULT, instrument.set_beam, True)
    refusal(Status.HARDWARE_FAULT, instrument.start_scan, 320, 240)
    instrument.repair()
    assert instrument.set_beam(True).on
    assert instrument.status().fault == ""


def test_safe_stops_and_blanks_and_never_vents(instrument: Instrument) -> None:
    instrument.start_scan(320, 240)
    instrument.safe()
    status = instrument.status()
    assert (status.beam_on, status.scanning, status.vacuum) == (False, False, VacuumState.READY)


def test_rest_times_are_those_of_what_is_asked(instrument: Instrument) -> None:
    moved = instrument.move_stage(1.0, 1.0)
    applied = instrument.set_parameter(Parameter.WORKING_DISTANCE, 20.0)
    assert instrument.rest_time(Wait.STAGE) == moved.time
    assert instrument.rest_time(Wait.OPTICS) == applied.time
    assert instrument.rest_time(Wait.ALL) == max(moved.time, applied.time)
    assert instrument.rest_time(Wait.NOTHING) == 0.0


def test_a_later_change_ends_what_a_reply_announced(instrument: Instrument) -> None:
    applied = instrument.set_parameter(Parameter.WORKING_DISTANCE, 20.0)
    stigmator = instrument.set_stigmator(1.0, 1.0)
    beam = instrument.set_beam(False)
    venting = instrument.vent()
    moved = instrument.move_stage(1.0, 0.0)
    assert all(still_holds(instrument, r) for r in (applied, stigmator, beam, venting, moved, object()))
    instrument.set_parameter(Parameter.WORKING_DISTANCE, 21.0)
    instrument.set_parameter(Parameter.STIGMATOR_Y, 2.0)
    pass_time(instrument, 100)
    instrument.move_stage(2.0, 0.0)
    pumping = instrument.pump()
    assert still_holds(instrument, pumping)
    assert not any(still_holds(instrument, r) for r in (applied, stigmator, venting, moved))
    instrument.open_door()
    assert not still_holds(instrument, pumping)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"working_distance": 60.0}, OutOfRangeError),
        ({"magnification": float("nan")}, OutOfRangeError),
        ({"working_distance": "15"}, InvalidParameterError),
    ],
)
def test_start_values_are_checked(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Instrument(FlatColumn(), **values)


def test_events_end_with_the_listening(instrument: Instrument) -> None:
    heard: list[Event] = []
    unlisten = instrument.listen(heard.append)
    instrument.report_dropped(4)
    unlisten()
    instrument.report_dropped(5)
    assert heard == [FrameDropped(4, 0.0)]


def test_the_operator_and_the_client_are_heard_alike(instrument: Instrument, events: list[Event]) -> None:
    instrument.set_parameter(Parameter.WORKING_DISTANCE, 12.5)
    assert events == [ParameterChanged(Parameter.WORKING_DISTANCE, 12.5, 0.0)]


def test_closing_ends_a_real_time_frame() -> None:
    profile = dataclasses.replace(EM30, scan_modes=(dataclasses.replace(EM30.scan_modes[0], dwell_time=1.0),))
    instrument = Instrument(FlatColumn(), profile=profile, realtime=True)
    instrument.start_scan(320, 240)
    frames: list[object] = []
    thread = threading.Thread(target=lambda: frames.append(instrument.next_frame()))
    thread.start()
    instrument.close()
    thread.join(10)
    assert not thread.is_alive()
    assert frames == [None]


def test_frames_and_commands_from_many_threads_stay_consistent() -> None:
    instrument = Instrument(FlatColumn())
    instrument.start_scan(320, 240)
    frames: list[Any] = []
    applied: list[Any] = []

    def scan() -> None:
        for _ in range(50):
            frames.append(instrument.next_frame())

    def focus() -> None:
        for step in range(50):
            reply = instrument.set_parameter(Parameter.WORKING_DISTANCE, 10.0 + step / 10)
            instrument.clock.wait_until(reply.time)
            applied.append(reply)

    threads = [threading.Thread(target=scan), threading.Thread(target=scan), threading.Thread(target=focus)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(frame.frame_id for frame in frames) == list(range(1, 101))
    last = applied[-1]
    for frame in frames:
        if frame.start_time >= last.time:
            assert frame.working_distance == last.value
