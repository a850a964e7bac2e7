"""The TESCAN driver against the emulated server, over its two sockets; every fault is a named outcome."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading

import numpy as np
import pytest

import semdrivers
from firmware_protocol import sharksem
from firmware_protocol.sharksem import Flags, Reader
from semdrivers.emulator import TescanEmulator

SURVEY = semdrivers.ScanMode("SURVEY", 200, 300, 1e-6)


@pytest.fixture
def emulator(request):
    with TescanEmulator(seed=4, magnification=2000, **getattr(request, "param", {})) as running:
        yield running


HASTY = "timeout=0.6"
"""For tests in which a time is waited out; a busy computer has all others for itself."""


def opened(emulator, query="timeout=60"):
    return semdrivers.connect(f"{emulator.url}?{query}")


@pytest.fixture
def microscope(emulator):
    with opened(emulator) as one:
        yield one


@pytest.fixture
def hasty(emulator):
    with opened(emulator, HASTY) as one:
        yield one


def faulty(faults):
    return pytest.mark.parametrize("emulator", [{"faults": faults}], indirect=True)


def test_it_reports_its_beam(microscope, emulator):
    told = microscope.capabilities
    assert told.half_angle == pytest.approx(45 / microscope.working_distance, rel=1e-4)
    assert told.probe_diameter == pytest.approx(36, rel=0.3)
    assert told.bit_depth == 8
    microscope.working_distance = 10.0
    assert microscope.capabilities.half_angle == pytest.approx(4.5, rel=1e-4)
    assert (told.model, told.firmware) == ("TESCAN, SharkSEM 2.0.25", "4.2.30")


@pytest.mark.parametrize("emulator", [{"version": "2.0.2"}], indirect=True)
def test_an_old_server_that_ignores_newer_calls_is_no_obstacle(emulator):
    with opened(emulator, "timeout=0.3") as microscope:
        assert microscope.capabilities.serial == ""
        assert not isinstance(microscope, semdrivers.HasStageOrientation)
        assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize("emulator", [{"firewall": True}], indirect=True)
def test_behind_a_firewall_the_server_takes_one_client(emulator):
    with opened(emulator) as microscope:
        assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize("bits", [8, 16])
def test_frames_have_any_size_and_depth(emulator, bits):
    with opened(emulator, f"bits={bits}&timeout=60") as microscope:
        image = microscope.acquire(SURVEY)
        assert image.pixels.shape == (300, 200)
        assert image.pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
        assert image.pixel_size == pytest.approx(128e6 / microscope.magnification / 300)
        assert image.pixels.std() > 0
        assert image.scan_mode == SURVEY


def test_a_frame_larger_than_the_scan_is_refused(microscope):
    with pytest.raises(semdrivers.OutOfRangeError, match="8192"):
        microscope.acquire(semdrivers.ScanMode("HUGE", 9000, 100))


def test_a_value_that_the_server_cuts_is_named_with_both_numbers(emulator):
    with opened(emulator, "working_distance=3:90&view_field=0.001:20&timeout=60") as microscope:
        with pytest.raises(semdrivers.DeviceError, match=r"working_distance was set to 80 mm and reads 60 mm"):
            microscope.working_distance = 80
        with pytest.raises(semdrivers.DeviceError, match=r"magnification was set to 8 and reads 16"):
            microscope.magnification = 8


@faulty("lens-ignored")
def test_a_value_that_the_server_ignores_is_named(microscope):
    with pytest.raises(semdrivers.DeviceError, match="was set to 20 mm and reads"):
        microscope.working_distance = 20
    microscope.working_distance = 20
    assert microscope.working_distance == 20


def test_the_limits_of_the_url_are_checked_before_any_command(emulator):
    with opened(emulator, "working_distance=5:25") as microscope:
        before = emulator.working_distance
        with pytest.raises(semdrivers.OutOfRangeError, match="30 mm is outside 5 to 25 mm"):
            microscope.working_distance = 30
        assert emulator.working_distance == before


@faulty("stage-busy")
def test_a_move_that_the_stage_ignores_is_named(microscope):
    with pytest.raises(semdrivers.DeviceError, match="stage x was set to 1 mm and reads 0 mm"):
        microscope.move_stage(1, 2)
    assert microscope.move_stage(1, 2) == (1, 2)
    assert microscope.orient_stage(5, 10) == (5, 10)
    assert microscope.stage_axes == {"x": 1, "y": 2, "z": 0, "rotation": 10, "tilt": 5}


def test_the_stigmator_is_a_centering_found_by_its_name(microscope, emulator):
    microscope.stigmator = (3.0, -2.0)
    assert emulator.stigmator == (3.0, -2.0)
    with pytest.raises(semdrivers.DeviceError, match="stigmator x was set to 500 and reads 100"):
        microscope.stigmator = (500, 0)


def test_brightness_and_contrast_are_black_and_gain(microscope, emulator):
    microscope.brightness, microscope.contrast = 0.25, 0.75
    assert (emulator.black, emulator.gain) == (25, 75)
    assert (microscope.brightness, microscope.contrast) == (0.25, 0.75)


@faulty("no-vacuum")
def test_a_beam_that_stays_off_is_named_and_no_frame_is_scanned(hasty, emulator):
    hasty.beam_on = False
    with pytest.raises(semdrivers.InterlockError, match="the beam is off"):
        hasty.acquire()
    with pytest.raises(semdrivers.InterlockError, match="the beam stays off; pump the chamber"):
        hasty.beam_on = True
    assert emulator.operator_scans
    hasty.beam_on = True
    assert hasty.acquire().pixels.std() > 0


@faulty("data-repeated:2,data-lost")
def test_lost_data_are_scanned_again_and_repeated_data_are_taken_once(hasty):
    image = hasty.acquire()
    assert (image.pixels.min(axis=1) < image.pixels.max(axis=1)).all()
    assert image.frame_id == 2


@faulty("data-lost:2")
def test_a_frame_that_stays_incomplete_is_named_and_the_scan_handed_back(hasty, emulator):
    with pytest.raises(semdrivers.TransportError, match=r"frame 2 lacks \d+ of 76800 pixels"):
        hasty.acquire()
    _ = hasty.working_distance
    assert emulator.operator_scans
    assert hasty.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize("emulator", [{"faults": f} for f in ("connection-lost", "client-dropped")], indirect=True)
def test_a_connection_lost_in_a_frame_is_named_and_opened_again(emulator):
    with opened(emulator, "timeout=60") as microscope:
        with pytest.raises(semdrivers.TransportError, match=r"the connection is lost.*the next call connects again"):
            microscope.acquire()
        _ = microscope.working_distance
        assert emulator.operator_scans
        assert microscope.acquire().pixels.shape == (240, 320)


@faulty("scan-busy")
def test_a_server_that_is_busy_is_named_and_the_scan_handed_back(microscope, emulator):
    with pytest.raises(semdrivers.BusyError, match="does not start the scan"):
        microscope.acquire()
    _ = microscope.working_distance
    assert emulator.operator_scans
    assert microscope.acquire().pixels.shape == (240, 320)


def test_the_exclusive_lock_is_taken_before_anything_changes_and_given_back(emulator):
    locks = "lock=ExclusiveLock&unlock=ExclusiveFree&timeout=1"
    with opened(emulator, locks) as first, opened(emulator, locks) as second:
        first.working_distance = 15.0
        with pytest.raises(semdrivers.BusyError, match="another client has exclusive control"):
            second.working_distance = 16.0
        with pytest.raises(semdrivers.BusyError, match="another client has exclusive control"):
            second.acquire()
        assert emulator.working_distance == 15.0
        first.close()
        second.working_distance = 16.0


def test_the_scan_is_the_operators_again_after_close(emulator):
    with opened(emulator) as microscope:
        microscope.acquire()
        assert not emulator.operator_scans
    assert emulator.operator_scans
    with pytest.raises(semdrivers.NotConnectedError, match="is closed; connect again"):
        microscope.acquire()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_leaves_no_beam_on_and_an_ordinary_end_does(emulator, error):
    with opened(emulator):
        pass
    with opened(emulator) as microscope:
        assert microscope.beam_on
    with pytest.raises(error), opened(emulator):
        raise error
    with opened(emulator) as microscope:
        assert not microscope.beam_on
        microscope.beam_on = True
    with pytest.raises(error), semdrivers.opened(emulator.url):
        raise error
    with opened(emulator) as microscope:
        assert not microscope.beam_on


class Interrupted(BaseException):
    """What a signal handler raises, as Ctrl-C does."""


def until_interrupted(work, microscope, seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while True:
        work(microscope)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer")
@pytest.mark.parametrize("work", [lambda one: one.working_distance, lambda one: one.acquire()], ids=["read", "frame"])
def test_an_interrupt_between_any_two_calls_leaves_the_connections_usable(microscope, work):
    """What had just come is lost with it: the rest of a message would be taken for the beginning of one."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    place = microscope.working_distance
    random = np.random.default_rng(1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(60):
            with pytest.raises(Interrupted):
                until_interrupted(work, microscope, random.uniform(2e-5, 3e-3))
            assert microscope.working_distance == place
    finally:
        signal.signal(signal.SIGALRM, before)
    assert microscope.acquire().pixels.shape == (240, 320)


def test_a_microscope_that_cannot_be_stopped_loses_its_beam(emulator):
    semdrivers.stop(emulator.url)
    with opened(emulator) as microscope:
        assert not microscope.beam_on


def test_no_server_is_named():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(semdrivers.NotConnectedError, match="control connection"):
        semdrivers.connect(f"tescan://127.0.0.1:{port}?timeout=0.5")


@pytest.mark.parametrize(
    ("answer", "error"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3, semdrivers.NotConnectedError), (b"", OSError)]
)
def test_a_server_of_another_kind_or_a_silent_one_is_named_in_time(answer, error):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.recv(100)
                client.sendall(answer)
                client.recv(100)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(error, match="could not connect"):
            semdrivers.connect(f"tescan://127.0.0.1:{server.getsockname()[1]}?timeout=0.3")


def test_the_emulator_ignores_what_it_does_not_know_and_answers_when_asked(emulator):
    with socket.create_connection(("127.0.0.1", emulator.port), 2) as client:
        client.sendall(sharksem.encode("NoSuchCommand", [1], number=1, flags=Flags.ANSWER))
        client.sendall(sharksem.encode("SetWD", [20.0], number=2))
        client.sendall(sharksem.encode("SetWD", [21.0], number=3, flags=Flags.ANSWER))
        client.sendall(sharksem.encode("GetWD", number=4, flags=Flags.WAIT_OPTICS))
        heads, values = [], []
        for _ in range(2):
            head = sharksem.decode_head(client.recv(32, socket.MSG_WAITALL))
            heads.append((head.name, head.number))
            values.append(client.recv(head.size, socket.MSG_WAITALL) if head.size else b"")
    assert heads == [("SetWD", 3), ("GetWD", 4)]
    assert Reader(values[1]).number() == 21.0


def test_a_scan_is_started_for_a_data_connection_that_comes_while_it_is_asked_for(emulator):
    with (
        socket.create_connection(("127.0.0.1", emulator.port), 10) as client,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as data,
    ):
        data.bind(("127.0.0.1", 0))
        client.sendall(sharksem.encode("TcpRegDataPort", [data.getsockname()[1]], number=1, flags=Flags.ANSWER))
        client.recv(36, socket.MSG_WAITALL)
        client.sendall(sharksem.encode("GUISetScanning", [0], number=2, flags=Flags.ANSWER))
        client.recv(32, socket.MSG_WAITALL)
        numbers = [1, 64, 64, 0, 0, 63, 63, 1]
        client.sendall(sharksem.encode("ScScanXY", numbers, number=3, flags=Flags.ANSWER))
        data.connect(("127.0.0.1", emulator.port + 1))
        assert sharksem.decode_head(client.recv(32, socket.MSG_WAITALL)).number == 3
        assert Reader(client.recv(4, socket.MSG_WAITALL)).integer() == 0


def test_the_field_changes_a_little_with_the_working_distance_and_the_magnification_is_put_back(microscope, emulator):
    microscope.magnification = 3000
    microscope.working_distance = microscope.working_distance + 2
    assert microscope.magnification != 3000
    assert microscope.magnification == pytest.approx(3000, rel=0.01)
    microscope.magnification = 3000
    assert microscope.magnification == 3000


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("bits=12", "bits must be 8 or 16"),
        ("working_distance=9:4", "working_distance must be LOW:HIGH in mm"),
        ("view_field=wide", "view_field must be LOW:HIGH in mm"),
        ("timeout=0", "timeout must be within 0.05 to 600 s"),
        ("lock=ANameOfSixteenCh", "lock must be the name of a call"),
        ("detektor=SE", "there is no option 'detektor'"),
    ],
)
def test_options_are_checked_before_any_connection(query, message):
    with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError), match=message):
        semdrivers.connect(f"tescan://192.0.2.1?{query}")


def test_a_detector_that_there_is_not_is_named(emulator):
    with pytest.raises(semdrivers.InvalidParameterError, match=r"no detector 'InBeam'; it has SE \(0\), BSE \(1\)"):
        opened(emulator, "detector=InBeam")
    with opened(emulator, "detector=BSE") as microscope:
        assert microscope.acquire().pixels.shape == (240, 320)


def test_the_emulator_in_this_process_is_a_url_of_its_own():
    with semdrivers.connect("tescan-emulator://gold-nanoparticles?seed=2&magnification=10000&bits=16") as microscope:
        assert microscope.magnification == pytest.approx(10000)
        assert microscope.acquire().pixels.dtype == np.uint16
    with pytest.raises(semdrivers.InvalidParameterError, match="there is no fault 'fire'"):
        semdrivers.connect("tescan-emulator://tin-balls?faults=fire")


@pytest.mark.parametrize("angle", [1.2, 8.0, 20.0])
def test_a_wide_beam_comes_with_a_lens_to_match(angle):
    """A sharp picture is sharp: the probe that is reported is near the pixel, at every half-angle that is emulated."""
    url = f"tescan-emulator://gold-nanoparticles?seed=1&magnification=20000&half_angle={angle}&working_distance=15"
    with semdrivers.connect(url) as microscope:
        about = microscope.capabilities
        assert about.half_angle == pytest.approx(angle, rel=1e-3)
        assert about.probe_diameter < (100 if angle < 3 else 35)


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("beam_on", 1, "beam_on must be True or False, not 1"),
        ("stigmator", 3, "stigmator must be (x, y) in the units of the instrument, not 3"),
        ("stigmator", (1.0, "2"), "stigmator must be a number, not '2'"),
    ],
)
def test_what_is_no_value_never_reaches_the_server(microscope, emulator, member, value, words):
    before = emulator.stigmator
    with pytest.raises(semdrivers.InvalidParameterError, match=re.escape(words)):
        setattr(microscope, member, value)
    assert (microscope.beam_on, emulator.stigmator) == (True, before)


def test_a_detector_has_a_number_too(emulator):
    with opened(emulator, "detector=1&timeout=60") as microscope:
        assert microscope.acquire().pixels.shape == (240, 320)
