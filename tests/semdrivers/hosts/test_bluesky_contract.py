"""What Bluesky asks of any device and any document, asked of ours: by its own protocols and event-model's schemas."""

from __future__ import annotations

import json

import numpy as np
import pytest

import semdrivers

pytest.importorskip("bluesky", reason="Bluesky is not installed: pip install '.[bluesky]'")

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import event_model
from bluesky.protocols import (
    Checkable,
    Configurable,
    HasHints,
    HasParent,
    Locatable,
    Movable,
    Readable,
    Stageable,
    Stoppable,
    Triggerable,
)
from bluesky.simulators import check_limits

from semdrivers.hosts.bluesky import autofocus_per_step, autofocus_preprocessor, autofocus_wrapper, devices

KINDS = {"number": (int, float), "integer": int, "string": str}


@pytest.fixture
def documents(RE):
    """Every document, checked against its schema and as JSON the moment it is emitted."""
    kept: list[tuple[str, dict]] = []

    def check(name, document):
        event_model.schema_validators[event_model.DocumentNames[name]].validate(event_model.sanitize_doc(document))
        json.dumps(event_model.sanitize_doc(document), allow_nan=False)
        kept.append((name, document))

    RE.subscribe(check)
    return kept


def events(documents):
    """Data of the events of the primary stream, each checked against the descriptor in force."""
    primary, found = {}, []
    for name, document in documents:
        if name == "descriptor" and document["name"] == "primary":
            primary[document["uid"]] = document["data_keys"]
        elif name == "event" and document["descriptor"] in primary:
            keys = primary[document["descriptor"]]
            assert set(keys) == set(document["data"])
            check_values(keys, document["data"])
            found.append(document["data"])
    return found


def check_values(keys, data):
    for field, key in keys.items():
        value = data[field]
        if key["dtype"] == "array":
            assert list(value.shape) == list(key["shape"]), field
            assert np.dtype(key.get("dtype_numpy", value.dtype.str)) == value.dtype, field
        else:
            assert value is None or isinstance(value, KINDS[key["dtype"]]), (field, value)
            assert key["shape"] == []


def all_of(sem):
    return (sem.detector, sem.working_distance, sem.magnification, sem.autofocus, sem.stage_x, sem.stage_y)


def test_every_device_keeps_the_protocols(sem):
    for device in all_of(sem):
        for protocol in (Readable, HasParent, HasHints):
            assert isinstance(device, protocol), (device, protocol)
    for device in all_of(sem)[1:]:
        for protocol in (Movable, Stoppable, Checkable):
            assert isinstance(device, protocol), (device, protocol)
    for device in (sem.working_distance, sem.magnification, sem.stage_x, sem.stage_y):
        assert isinstance(device, Locatable)
    for protocol in (Triggerable, Configurable, Stageable):
        assert isinstance(sem.detector, protocol)


def test_readings_and_descriptions_have_the_same_fields_and_types(sem):
    sem.detector.trigger().exception(timeout=20)
    for device in all_of(sem):
        reading, description = device.read(), device.describe()
        assert list(reading) == list(description), device
        check_values(description, {field: entry["value"] for field, entry in reading.items()})
        assert all(isinstance(entry["timestamp"], float) for entry in reading.values())
        assert set(device.hints.get("fields", [])) <= set(reading)
    assert list(sem.detector.read_configuration()) == list(sem.detector.describe_configuration())


def test_no_two_devices_share_a_key(RE, sem, documents, told):
    fields = [field for device in all_of(sem) for field in device.describe()]
    assert len(fields) == len(set(fields))
    RE(bp.count(list(all_of(sem))))
    RE(autofocus_wrapper(bp.count(list(all_of(sem))), sem, method="told"))
    before, after = events(documents)
    assert before["sem_autofocus_score"] is before["sem_focus_lens_offset"] is None
    assert (after["sem_autofocus_score"], after["sem_focus_score"]) == (8.0, 8.0)


@pytest.mark.parametrize(("axis", "low", "high"), [("working_distance", 12.0, 14.0), ("magnification", 1000, 3000)])
def test_an_axis_is_scanned_with_the_detector(RE, sem, documents, axis, low, high):
    RE(bp.scan([sem.detector], getattr(sem, axis), low, high, 3))
    frames = events(documents)
    places = [low, (low + high) / 2, high]
    assert [frame[f"sem_{axis}"] for frame in frames] == pytest.approx(places, rel=1e-3)
    assert [frame[f"sem_frame_{axis}"] for frame in frames] == pytest.approx(places, rel=1e-3)
    RE(bp.rel_scan([sem.detector], getattr(sem, axis), -0.5, 0.5, 2))
    assert len(events(documents)) == 5


def test_a_scan_of_the_lens_is_left_to_the_plan(RE, sem, documents, told):
    RE.preprocessors.append(autofocus_preprocessor(sem, every=1, method="told"))
    RE(bp.scan([sem.detector], sem.working_distance, 12.0, 14.0, 3))
    RE.preprocessors.clear()
    RE(bp.scan([sem.detector], sem.working_distance, 12.0, 14.0, 3, per_step=autofocus_per_step(sem, method="told")))
    assert told.runs == 0
    assert [frame["sem_working_distance"] for frame in events(documents)] == pytest.approx([12.0, 13.0, 14.0] * 2)


def test_a_lens_that_a_plan_moves_is_no_disturbance_and_one_that_a_hand_moves_is(RE, sem, documents, told, microscope):
    @bpp.run_decorator()
    def plan(move):
        yield from bps.trigger_and_read([sem.detector])
        yield from move()
        yield from bps.trigger_and_read([sem.detector])

    def by_hand():
        microscope.working_distance = 15.0
        yield from bps.null()

    RE(autofocus_wrapper(plan(lambda: bps.mv(sem.working_distance, 15.0)), sem, method="told"))
    assert told.runs == 1
    assert events(documents)[1]["sem_focus_lens_offset"] == pytest.approx(15.0 - told.sent[0])
    RE(autofocus_wrapper(plan(by_hand), sem, method="told"))
    assert told.runs == 3
    assert events(documents)[3]["sem_focus_lens_offset"] == pytest.approx(0.0, abs=0.001)
    RE(autofocus_wrapper(plan(by_hand), sem, on_disturbance="skip", method="told"))
    assert (told.runs, len(events(documents))) == (4, 5)
    with pytest.raises(semdrivers.NotFocusedError, match="disturbed"):
        RE(autofocus_wrapper(plan(by_hand), sem, on_disturbance="abort", method="told"))


def sizes(documents):
    return [tuple(document["data_keys"]["sem_image"]["shape"]) for name, document in documents if name == "descriptor"]


def test_the_descriptor_has_the_size_of_the_mode(RE, sem, documents, monkeypatch):
    RE(bp.count([sem.detector]))
    sem.detector.mode = semdrivers.ScanMode.STANDARD
    RE(bp.count([sem.detector]))

    @bpp.stage_decorator([sem.detector])
    @bpp.run_decorator()
    def declared():
        yield from bps.declare_stream(sem.detector, name="primary")
        yield from bps.trigger_and_read([sem.detector])

    sem.detector.mode = semdrivers.ScanMode.FAST
    RE(declared())
    assert sizes(documents) == [(240, 320), (480, 640), (240, 320)]
    assert [frame["sem_image"].shape for frame in events(documents)] == sizes(documents)


def test_a_stream_can_be_declared_before_the_first_frame(RE, sem, documents):
    @bpp.run_decorator()
    def plan():
        yield from bps.declare_stream(sem.detector, sem.autofocus, name="primary")
        yield from bps.trigger_and_read([sem.detector, sem.autofocus])

    RE(plan())
    assert len(events(documents)) == 1


def test_the_mode_changes_inside_a_run_by_configure_with_a_new_descriptor(RE, sem, documents):
    @bpp.stage_decorator([sem.detector])
    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([sem.detector])
        yield from bps.configure(sem.detector, {"mode": "STANDARD"})
        yield from bps.trigger_and_read([sem.detector])
        with pytest.raises(semdrivers.InvalidParameterError, match=r"bps\.configure"):
            sem.detector.mode = semdrivers.ScanMode.FAST
        yield from bps.configure(sem.detector, {"mode": semdrivers.ScanMode.FAST})
        yield from bps.trigger_and_read([sem.detector])

    RE(plan())
    assert sizes(documents) == [(240, 320), (480, 640), (240, 320)]
    assert [frame["sem_image"].shape for frame in events(documents)] == sizes(documents)
    modes = [doc["configuration"]["sem"]["data"]["sem_mode"] for name, doc in documents if name == "descriptor"]
    assert modes == ["FAST", "STANDARD", "FAST"]


@pytest.mark.parametrize("wrong", [{"mode": "HUGE"}, {"dwell": 1}, {"mode": 3}])
def test_a_setting_that_makes_no_sense_is_refused(sem, wrong):
    with pytest.raises(semdrivers.InvalidParameterError):
        sem.detector.configure(wrong)
    assert sem.detector.mode is semdrivers.ScanMode.FAST


def test_what_a_microscope_does_not_know_is_null(RE, documents, foreign_type, told):
    class Unsure(foreign_type):
        def acquire(self, mode=semdrivers.ScanMode.FAST):
            image = super().acquire(mode)
            return semdrivers.Image(image.pixels, image.working_distance, image.magnification, float("nan"))

    sem = devices(Unsure())
    told.refuse = lambda: True
    RE(bp.count([sem.detector, sem.autofocus]))
    RE(autofocus_wrapper(bp.count([sem.detector]), sem, on_failure="continue", method="told"))
    for frame in events(documents):
        assert frame["sem_frame_pixel_size"] is frame["sem_focus_lens_offset"] is None


@pytest.mark.parametrize("axis", ["working_distance", "magnification"])
def test_limits_are_checked_without_moving(RE, sem, microscope, axis):
    start, limits = getattr(microscope, axis), getattr(microscope.capabilities, axis)
    within = bp.scan([sem.detector], getattr(sem, axis), limits.minimum, limits.maximum, 3)
    check_limits(autofocus_wrapper(within, sem))
    with pytest.raises(semdrivers.OutOfRangeError):
        check_limits(bp.scan([sem.detector], getattr(sem, axis), limits.minimum, 2 * limits.maximum, 3))
    with pytest.raises((semdrivers.OutOfRangeError, semdrivers.InvalidParameterError)):
        check_limits(bps.abs_set(sem.stage_x, float("nan")))
    assert getattr(microscope, axis) == start
