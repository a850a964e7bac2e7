"""The EM-30 driver on the emulator, over its wires: what the protocols of `semdrivers.microscope` promise."""

from __future__ import annotations

import logging
import math
import socket
import threading
import time

import numpy as np
import pytest

import semdrivers
from firmware_protocol.messages import Parameter
from semdrivers.em30 import WaitingTimes
from semdrivers.emulator import Emulator
from semdrivers.emulator.wires import frame_transfers
from semdrivers.errors import (
    BusyError,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    TransportError,
)
from semdrivers.focus import RecordsFocus
from semdrivers.image import SCAN_MODES, ScanMode
from semdrivers.microscope import HasBeam, HasDetector, HasStage, HasStigmator, HasVacuum, Microscope

PICTURE = np.random.default_rng(5).integers(0, 256, (200, 300), np.uint8)


@pytest.fixture
def emulator():
    """A picture is the specimen, since it is the quickest to draw."""
    with Emulator(PICTURE, pixel_size=50.0, magnification=5000, seed=1, working_distance=14.0) as running:
        yield running


@pytest.fixture
def microscope(emulator):
    with semdrivers.connect(emulator.url) as opened:
        yield opened


def test_it_has_every_protocol(microscope):
    for protocol in (Microscope, HasStage, HasStigmator, HasDetector, HasBeam, HasVacuum, RecordsFocus):
        assert isinstance(microscope, protocol)


def test_its_limits_are_those_of_the_instrument(emulator, microscope):
    told, profile = microscope.capabilities, emulator.instrument.profile
    assert (told.working_distance.minimum, told.working_distance.maximum) == (
        profile.working_distance_minimum,
        profile.working_distance_maximum,
    )
    assert told.magnification.maximum == profile.magnification_maximum
    assert told.scan_modes == SCAN_MODES
    assert (told.model, told.serial, told.firmware) == (
        profile.model,
        emulator.instrument.serial,
        profile.firmware,
    )


def test_settings_reach_the_instrument_and_read_back(emulator, microscope):
    microscope.working_distance = 13.25
    microscope.magnification = 2000
    microscope.brightness, microscope.contrast = 0.25, 0.75
    microscope.stigmator = (1.5, -2.5)
    assert microscope.move_stage(0.5, -0.25) == microscope.stage_position == (0.5, -0.25)
    now = emulator.instrument.conditions()
    assert (now.working_distance, now.magnification) == (13.25, 2000)
    assert (now.brightness, now.contrast, now.stigmator_x, now.stigmator_y) == (0.25, 0.75, 1.5, -2.5)
    assert (microscope.working_distance, microscope.magnification) == (13.25, 2000)
    assert (microscope.brightness, microscope.contrast, microscope.stigmator) == (0.25, 0.75, (1.5, -2.5))


def test_a_set_returns_once_the_lens_has_settled(emulator, microscope):
    microscope.working_distance = 18.0
    assert emulator.instrument.conditions().working_distance == pytest.approx(18.0, abs=1e-3)


@pytest.mark.parametrize("mode", SCAN_MODES)
@pytest.mark.parametrize("bits", [8, 16])
def test_frames_carry_what_was_in_force(emulator, mode, bits):
    with semdrivers.connect(emulator.url, bits=bits) as microscope:
        image = microscope.acquire(mode)
    assert image.pixels.shape == (mode.height, mode.width)
    assert image.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert (image.working_distance, image.magnification) == (14.0, 5000)
    assert image.pixel_size == pytest.approx(128e6 / 5000 / mode.width)
    assert (image.frame_id, image.scan_mode) == (1, mode)
    assert image.metadata["serial"] == "EMU000001"
    assert image.timestamp > 1.7e9


def test_the_pixels_are_those_of_the_column(emulator, microscope):
    conditions = emulator.instrument.conditions()
    image = microscope.acquire()
    assert np.array_equal(image.pixels, emulator.column.render(conditions))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("working_distance", 0.5, OutOfRangeError, "working_distance 0.5 mm is outside 1 to 50 mm"),
        ("working_distance", 50.001, OutOfRangeError, "outside 1 to 50 mm"),
        ("working_distance", math.nan, OutOfRangeError, "finite"),
        ("working_distance", "12", InvalidParameterError, "must be a number"),
        ("working_distance", None, InvalidParameterError, "must be a number"),
        ("magnification", 1e9, OutOfRangeError, "magnification 1e\\+09 is outside 20 to 150000"),
        ("magnification", True, InvalidParameterError, "must be a number"),
        ("brightness", 1.5, OutOfRangeError, "brightness 1.5 is outside 0 to 1"),
        ("contrast", -0.1, OutOfRangeError, "contrast -0.1 is outside 0 to 1"),
        ("stigmator", (1.0, 1e6), OutOfRangeError, "stigmator_y 1e\\+06 µm is outside"),
        ("stigmator", 3.0, InvalidParameterError, r"must be \(x, y\) in µm"),
        ("stigmator", (1.0, "2"), InvalidParameterError, "must be a number"),
        ("beam_on", 1, InvalidParameterError, "must be True or False"),
    ],
)
def test_what_cannot_be_set_raises_before_anything_is_sent(emulator, microscope, name, value, error, message):
    before = emulator.instrument.conditions()
    sent = []
    stop = emulator.instrument.listen(sent.append)
    with pytest.raises(error, match=message) as raised:
        setattr(microscope, name, value)
    stop()
    assert "EM-30 at 127.0.0.1" in str(raised.value)
    assert sent == []
    assert emulator.instrument.conditions() == before


@pytest.mark.parametrize("target", [(0.0, 1e3), (math.inf, 0.0), ("a", 0.0)])
def test_a_stage_move_that_cannot_be_moves_neither_axis(microscope, target):
    with pytest.raises((OutOfRangeError, InvalidParameterError)):
        microscope.move_stage(*target)
    assert microscope.stage_position == (0.0, 0.0)


@pytest.mark.parametrize("mode", ["FAST", (320, 240), None, 1])
def test_a_scan_mode_must_be_one(microscope, mode):
    with pytest.raises(InvalidParameterError, match=r"mode must be a semdrivers\.ScanMode"):
        microscope.acquire(mode)


def test_beam_and_chamber_with_their_interlocks(microscope):
    assert microscope.beam_on is True
    assert microscope.vacuum == "ready"
    with pytest.raises(InterlockError, match="beam"):
        microscope.vent()
    microscope.beam_on = False
    assert microscope.beam_on is False
    with pytest.raises(InterlockError, match="beam"):
        microscope.acquire()
    microscope.vent()
    assert microscope.vacuum == "vented"
    with pytest.raises(InterlockError, match="vacuum"):
        microscope.beam_on = True
    microscope.pump()
    assert microscope.vacuum == "ready"
    microscope.beam_on = True
    assert microscope.acquire().pixels.std() > 0


def test_a_picture_says_how_the_instrument_stood(microscope, tmp_path):
    microscope.move_stage(1.5, -2.25)
    microscope.orient_stage(5.0, 30.0)
    microscope.stigmator = 3.0, -4.0
    microscope.brightness = 0.4
    path = microscope.acquire(ScanMode.STANDARD).save(tmp_path / "a.ome.tif")
    about = semdrivers.read_image(path).metadata
    assert (about["stage_x"], about["stage_y"]) == pytest.approx((1.5, -2.25), abs=0.01)
    assert (about["stage_tilt"], about["stage_rotation"]) == pytest.approx((5.0, 30.0), abs=0.1)
    assert (about["stigmator_x"], about["stigmator_y"]) == pytest.approx((3.0, -4.0), abs=0.1)
    assert about["brightness"] == pytest.approx(0.4, abs=0.01)
    assert about["voltage"] == microscope.voltage == 15.0
    modes = microscope.capabilities
    assert about["dwell_time"] == modes.dwell_times[modes.scan_modes.index(ScanMode.STANDARD)]


def test_a_setting_that_cannot_be_read_costs_no_picture(emulator, microscope, monkeypatch):
    value = emulator.instrument.value
    monkeypatch.setattr(emulator.instrument, "value", lambda of: math.nan if of is Parameter.BRIGHTNESS else value(of))
    about = microscope.acquire(ScanMode.STANDARD).metadata
    assert about["stigmator_y"] == 0.0
    assert not about.keys() & {"brightness", "voltage", "dwell_time"}
    monkeypatch.undo()
    assert {"brightness", "voltage", "dwell_time"} <= microscope.acquire(ScanMode.STANDARD).metadata.keys()
    assert not {"brightness", "voltage", "dwell_time"} & microscope.acquire(ScanMode.FAST).metadata.keys()


def test_a_frame_of_before_a_set_is_never_returned(emulator, microscope):
    """Frames already in the pipe are thrown away, whatever was set in between."""
    device = emulator.usb.device
    for step in range(6):
        emulator.instrument.start_scan(320, 240, 8, 1)
        stale = emulator.instrument.next_frame()
        device.encode = lambda frame, stale=stale: (*frame_transfers(stale), *frame_transfers(frame))
        if step % 2:
            microscope.working_distance = 14.0 + 0.1 * step
        else:
            microscope.magnification = 4000 + 100 * step
        image = microscope.acquire()
        assert image.frame_id > stale.frame_id
        assert (image.working_distance, image.magnification) == (
            microscope.working_distance,
            microscope.magnification,
        )


def test_a_scan_of_another_kind_left_running_does_no_harm(emulator, microscope):
    emulator.instrument.start_scan(640, 480, 16, 0)
    microscope._images._device.read(0x81, 512, 2000)
    image = microscope.acquire()
    assert image.pixels.shape == (240, 320)
    assert image.pixels.dtype == np.uint8


def test_damaged_frames_are_replaced(emulator, microscope):
    good = emulator.usb.device.encode
    damaged = iter([1, 2])

    def encode(frame):
        leader, payload, trailer = good(frame)
        if next(damaged, None):
            payload = bytes(payload)[:-1] + b"\x01"
            return leader, bytes(b ^ 1 for b in payload[:1]) + payload[1:], trailer
        return leader, payload, trailer

    emulator.usb.device.encode = encode
    image = microscope.acquire()
    assert image.frame_id == 3
    assert microscope.frames_lost == 2
    assert microscope.acquire().frame_id == 4


def test_a_frame_that_is_late_because_it_is_still_scanned_is_waited_for(emulator):
    """As on a computer that has little time for the emulator."""
    draw, begun = emulator.column.render, []

    def slowly(conditions):
        begun.append(conditions.frame_id)
        time.sleep(0.8)
        return draw(conditions)

    emulator.column.render = slowly
    with semdrivers.connect(emulator.url, waiting=WaitingTimes(frame=0.6)) as microscope:
        assert microscope.acquire().frame_id == 1
    assert begun == [1]  # another order would have begun it anew


def test_unplugged_and_plugged_in_again(emulator, microscope):
    microscope.acquire()
    emulator.usb.unplug()
    threading.Timer(0.2, emulator.usb.plug).start()
    assert microscope.acquire().frame_id > 1


def test_unplugged_for_good_is_a_named_error_and_control_goes_on(emulator):
    with semdrivers.connect(emulator.url, waiting=WaitingTimes(replug=0.2)) as microscope:
        emulator.usb.unplug()
        with pytest.raises(TransportError, match=r"EM-30 at 127.0.0.1: no frame over USB .* unplugged"):
            microscope.acquire()
        microscope.working_distance = 13.0
        assert microscope.working_distance == 13.0


def test_an_instrument_that_goes_away_is_a_named_error(emulator):
    with semdrivers.connect(emulator.url, waiting=WaitingTimes(reconnect=0.3)) as microscope:
        emulator.close()
        with pytest.raises(TransportError):
            microscope.acquire()
        with pytest.raises(TransportError):
            microscope.working_distance = 13.0


MEMBERS = {
    "capabilities": lambda m: m.capabilities,
    "working_distance": lambda m: m.working_distance,
    "working_distance set": lambda m: setattr(m, "working_distance", 12.0),
    "magnification": lambda m: m.magnification,
    "magnification set": lambda m: setattr(m, "magnification", 1000),
    "acquire": lambda m: m.acquire(),
    "stage_position": lambda m: m.stage_position,
    "move_stage": lambda m: m.move_stage(0, 0),
    "stigmator": lambda m: m.stigmator,
    "stigmator set": lambda m: setattr(m, "stigmator", (0, 0)),
    "brightness": lambda m: m.brightness,
    "contrast set": lambda m: setattr(m, "contrast", 0.5),
    "beam_on": lambda m: m.beam_on,
    "beam_on set": lambda m: setattr(m, "beam_on", False),
    "vacuum": lambda m: m.vacuum,
    "pump": lambda m: m.pump(),
    "vent": lambda m: m.vent(),
    "focus_record": lambda m: m.focus_record,
    "focus_record set": lambda m: setattr(m, "focus_record", {}),
    "frames_lost": lambda m: m.frames_lost,
    "autofocus": lambda m: m.autofocus(),
    "with": lambda m: m.__enter__(),
}


def test_closed_every_member_says_so(emulator):
    microscope = semdrivers.connect(emulator.url)
    assert "open" in repr(microscope)
    microscope.close()
    microscope.close()
    assert "closed" in repr(microscope)
    for name, use in MEMBERS.items():
        with pytest.raises(NotConnectedError, match="closed"):
            pytest.fail(f"{name} gave {use(microscope)}")
    assert emulator.instrument.status().beam_on


def test_closing_may_switch_the_beam_off(emulator):
    semdrivers.connect(emulator.url, keep_beam=False).close()
    assert not emulator.instrument.status().beam_on


def test_the_next_client_gets_the_instrument(emulator):
    with semdrivers.connect(emulator.url) as first:
        first.acquire()
        with pytest.raises(BusyError):
            semdrivers.connect(emulator.url)
        assert first.acquire().frame_id == 2
    with semdrivers.connect(emulator.url) as second:
        assert second.acquire().frame_id == 3


def test_many_threads_share_one_microscope(microscope):
    """Each thread's frames are what it asked for; nothing is mixed up or lost."""
    failures = []

    def work(mode):
        try:
            for _ in range(6):
                assert microscope.acquire(mode).pixels.shape == (mode.height, mode.width)
                microscope.stigmator = (1.0, 1.0)
                assert microscope.magnification == 5000
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(mode,)) for mode in (ScanMode.FAST, ScanMode.STANDARD) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert microscope.frames_lost == 0


def test_the_focus_record_travels_with_the_frames_that_follow(microscope, offer_method, tmp_path):
    def focus(microscope, settings, progress, cancel):
        microscope.working_distance = 14.159
        return {}

    offer_method(focus)
    assert "autofocus" not in microscope.acquire().metadata
    result = microscope.autofocus(method="test-method")
    image = microscope.acquire()
    assert result.focused
    assert image.metadata["autofocus"]["score"] == 8.5
    assert image.metadata["autofocus"] == {**microscope.focus_record, "lens_offset": 0.0}
    microscope.working_distance = 15.159
    assert microscope.acquire().metadata["autofocus"]["lens_offset"] == pytest.approx(1.0, abs=0.002)
    again = semdrivers.read_image(image.save(tmp_path / "focused.ome.tif"))
    assert again.metadata["autofocus"]["status"] == "focused"
    assert again.metadata["autofocus"]["lens_offset"] == 0.0


def test_two_autofocus_runs_at_once_are_one_too_many(microscope, offer_method):
    inside, leave = threading.Event(), threading.Event()

    def focus(microscope, settings, progress, cancel):
        inside.set()
        leave.wait(10)
        return {"status": "refused", "frames": 0}

    offer_method(focus)
    first = threading.Thread(target=microscope.autofocus, kwargs={"method": "test-method"})
    first.start()
    assert inside.wait(10)
    with pytest.raises(BusyError, match="under way"):
        microscope.autofocus(method="test-method")
    leave.set()
    first.join()


def test_watchers_see_every_frame_and_one_that_raises_is_logged_alone(microscope, caplog):
    seen = []

    class Watcher:
        @semdrivers.hookimpl
        def semdrivers_frame(self, microscope, image):
            seen.append((microscope, image))

    class Broken:
        @semdrivers.hookimpl
        def semdrivers_frame(self, microscope, image):
            raise RuntimeError("I cannot bear to look")

    manager = semdrivers.get_plugin_manager()
    watchers = [Watcher(), Broken()]
    for watcher in watchers:
        manager.register(watcher)
    try:
        with caplog.at_level(logging.ERROR):
            image = microscope.acquire()
    finally:
        for watcher in watchers:
            manager.unregister(watcher)
    assert seen == [(microscope, image)]
    assert "I cannot bear to look" in caplog.text


def test_the_operators_hand_is_seen(emulator, microscope):
    emulator.instrument.set_parameter(Parameter.WORKING_DISTANCE, 17.0)
    assert microscope.working_distance == 17.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_both_links_are_tried_and_told_of(emulator):
    usb = emulator.url.partition("?")[2]
    port = free_port()
    with pytest.raises(NotConnectedError) as failed:
        semdrivers.connect(f"em30://127.0.0.1:{port}?{usb}")
    assert str(failed.value).splitlines()[0] == "could not connect to the EM-30 at 127.0.0.1"
    assert f"TCP 127.0.0.1:{port}: refused" in str(failed.value)
    assert "images" not in failed.value.failures
    with pytest.raises(NotConnectedError) as failed:
        semdrivers.connect(f"em30://127.0.0.1:{port}?usb=tcp://127.0.0.1:{free_port()}")
    assert set(failed.value.failures) == {"control", "images"}
    assert "no USB bridge at" in str(failed.value)


def test_without_images_the_control_link_is_given_back(emulator):
    control = emulator.url.partition("?")[0]
    for _ in range(2):
        with pytest.raises(NotConnectedError, match="images"):
            semdrivers.connect(f"{control}?usb=tcp://127.0.0.1:{free_port()}")
    with semdrivers.connect(emulator.url) as microscope:
        assert microscope.acquire().frame_id == 1


def test_images_of_another_instrument_are_refused(emulator):
    with Emulator(seed=2) as other:
        mixed = f"{emulator.url.partition('?')[0]}?{other.url.partition('?')[2]}"
        with pytest.raises(NotConnectedError, match="its serial number is EMU000002, not EMU000001"):
            semdrivers.connect(mixed)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("em30://", {}, "names no host"),
        ("em30://host/path", {}, r"write em30://HOST\[:PORT\]"),
        ("em30://host:99999", {}, "out of range"),
        ("em30://host:0", {}, r"write em30://HOST"),
        ("em30://host:abc", {}, "em30://host:abc"),
        ("em30://host?usb=printer", {}, "names no USB device"),
        ("em30://host?usb=", {}, "names no USB device"),
        ("em30://host?usb=1209:0001:", {}, "names no USB device"),
        ("em30://host?usb=tcp://host", {}, "names no USB device"),
        ("em30://host?usb=tcp://host:99999", {}, "names no USB device"),
        ("em30://host", {"usb": 5}, "usb must be a string"),
        ("em30://host?bits=12", {}, "bits must be 8 or 16, not 12"),
        ("em30://host?bits=many", {}, "bits must be a whole number"),
        ("em30://host", {"bits": 8.0}, "bits must be a whole number"),
        ("em30://host?keep_beam=perhaps", {}, "keep_beam must be true or false"),
        ("em30://host?client=", {}, "client must be a name"),
        ("em30://host?baudrate=9600", {}, "no option 'baudrate'"),
        ("em30://host?wd=5", {}, "no option 'wd'; an EM-30 takes usb, bits"),
        ("em30://host?usb", {}, "bad query field"),
        ("em30://host", {"on_close": 5}, "on_close must be callable"),
        ("em30://host", {"waiting": 5.0}, "waiting must be a semdrivers.em30.WaitingTimes"),
        ("em30+serial://", {}, "names no serial line"),
        ("em30+serial:///dev/ttyNO?baudrate=fast", {}, "baudrate must be a whole number"),
    ],
)
def test_malformed_addresses(url, options, message):
    with pytest.raises(InvalidParameterError, match=message):
        semdrivers.connect(url, **options)


def test_an_emulator_of_another_process_is_not_found_here():
    with pytest.raises(NotConnectedError, match=r"another process \(then use usb=tcp://HOST:PORT\)"):
        semdrivers.connect("em30://127.0.0.1?usb=emulated:1-1")
