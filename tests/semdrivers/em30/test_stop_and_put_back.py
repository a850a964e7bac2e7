"""Stopping in the middle of a frame, the beam after an exception, and settings put back whatever happens.

The emulator runs in real time here: a SLOW frame takes seconds, so a test that waited for it would show.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import semdrivers
from firmware_protocol.messages import Parameter, SetParameter
from firmware_protocol.profile import EM30
from semdrivers.base import WrappedMicroscope
from semdrivers.em30 import ControlLink, WaitingTimes, open_tcp
from semdrivers.emulator import Emulator
from semdrivers.errors import (
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    StoppedError,
    TransportError,
)
from semdrivers.image import ScanMode
from semdrivers.microscope import HasStop, restoring
from semdrivers.sessions import Recorder
from semdrivers.threads import on_one_thread

PICTURE = np.random.default_rng(5).integers(0, 256, (200, 300), np.uint8)
SLOWEST = dataclasses.replace(
    EM30,
    scan_modes=tuple(
        dataclasses.replace(mode, dwell_time=6e-5 if mode.width == 1280 else 1e-6) for mode in EM30.scan_modes
    ),
    lease_time=30.0,
    beam_on_time=0.1,
)
"""A SLOW frame of 74 s: far beyond every bound below."""
PATIENCE = 15.0


def emulated(**options: Any) -> Emulator:
    options = {"profile": SLOWEST, "realtime": True, "usb_port": 0, **options}
    return Emulator(PICTURE, pixel_size=50.0, magnification=5000, seed=1, working_distance=14.0, **options)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with emulated() as running:
        yield running


class InThread:
    """Runs something in a thread and keeps what became of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.outcome: object = None
        self._work = work
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._work()
        except BaseException as error:
            self.outcome = error

    def wait(self) -> object:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "it waited for the frame"
        return self.outcome


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def scanning(emulator: Emulator, microscope: Any) -> InThread:
    frame = InThread(lambda: microscope.acquire(ScanMode.SLOW))
    until(lambda: emulator.instrument.status().scanning)
    return frame


@pytest.mark.parametrize("address", ["url", "remote_url"])
def test_stop_ends_the_frame_and_blanks_the_beam(emulator, address):
    with semdrivers.connect(getattr(emulator, address)) as microscope:
        assert isinstance(microscope, HasStop)
        frame = scanning(emulator, microscope)
        microscope.stop()
        status = emulator.instrument.status()
        assert (status.scanning, status.beam_on) == (False, False)
        error = frame.wait()
        assert isinstance(error, StoppedError), error
        assert "ended by stop()" in str(error)
        with pytest.raises(InterlockError, match="beam"):
            microscope.acquire()
        microscope.stop()  # nothing is scanned: no error


def test_a_stop_may_keep_the_beam_and_the_next_frame_comes(emulator):
    with semdrivers.connect(emulator.remote_url) as microscope:
        frame = scanning(emulator, microscope)
        microscope.stop(keep_beam=True)
        assert isinstance(frame.wait(), StoppedError)
        status = emulator.instrument.status()
        assert (status.scanning, status.beam_on) == (False, True)
        image = microscope.acquire()
        assert image.pixels.shape == (240, 320)
        assert microscope.frames_lost == 0


def test_reading_and_switching_the_beam_off_wait_for_no_frame(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        frame = scanning(emulator, microscope)
        assert microscope.working_distance == 14.0
        assert (microscope.magnification, microscope.beam_on) == (5000, True)
        assert microscope.stage_position == (0.0, 0.0)
        assert emulator.instrument.status().scanning
        microscope.beam_on = False
        error = frame.wait()
        assert isinstance(error, InterlockError), error
        assert "beam" in str(error)


def test_closing_waits_for_no_frame(emulator):
    microscope = semdrivers.connect(emulator.remote_url)
    frame = scanning(emulator, microscope)
    assert InThread(microscope.close).wait() is None
    error = frame.wait()
    assert isinstance(error, NotConnectedError), error
    assert "closed" in str(error)
    assert not emulator.instrument.status().scanning
    with semdrivers.connect(emulator.remote_url) as again:
        assert again.acquire().pixels.shape == (240, 320)


def test_a_recorded_microscope_waits_for_no_frame_either(emulator, tmp_path):
    recorder = Recorder(semdrivers.connect(emulator.url), tmp_path / "session")
    frame = scanning(emulator, recorder)
    assert InThread(lambda: recorder.working_distance).wait() == 14.0
    assert InThread(lambda: setattr(recorder, "beam_on", False)).wait() is None
    assert isinstance(frame.wait(), InterlockError)
    recorder.beam_on = True
    frame = scanning(emulator, recorder)
    assert InThread(recorder.close).wait() is None
    assert isinstance(frame.wait(), NotConnectedError)


def test_a_microscope_on_one_thread_is_closed_in_the_middle_of_a_frame(emulator):
    microscope = on_one_thread(lambda: semdrivers.connect(emulator.url))
    frame = scanning(emulator, microscope)
    assert InThread(microscope.close).wait() is None
    assert isinstance(frame.wait(), StoppedError)


def test_a_second_client_stops_and_the_first_cannot_switch_the_beam_on_again(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        frame = scanning(emulator, microscope)
        semdrivers.stop(emulator.remote_url, client="the night watch")
        status = emulator.instrument.status()
        assert (status.scanning, status.beam_on) == (False, False)
        error = frame.wait()
        assert isinstance(error, StoppedError), error
        assert "'the night watch'" in str(error)
        with pytest.raises(InterlockError, match=r"'the night watch'.* connect again"):
            microscope.beam_on = True
        microscope.working_distance = 13.0  # the lens can be put back
    with semdrivers.connect(emulator.url) as again:
        again.beam_on = True
        assert again.beam_on


def test_a_script_that_stopped_itself_may_go_on(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        microscope.stop()
        assert not microscope.beam_on
        microscope.beam_on = True
        assert microscope.acquire().pixels.shape == (240, 320)


def test_the_command_stops_an_instrument_that_another_program_controls(emulator):
    with semdrivers.connect(emulator.url):
        command = [
            sys.executable,
            "-c",
            "from semdrivers._cli import main; main()",
            "stop",
            "--json",
            emulator.remote_url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"url": emulator.remote_url, "stopped": True}
    assert not emulator.instrument.status().beam_on


def test_over_a_serial_line_a_stop_needs_no_session():
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals")
    with emulated(serial=True) as emulator:
        semdrivers.stop(emulator.serial_url)
        assert not emulator.instrument.status().beam_on


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("emulator://tin-balls", InvalidParameterError),
        ("nonsense", InvalidParameterError),
        ("em30://127.0.0.1:1", NotConnectedError),
    ],
)
def test_what_cannot_be_stopped_says_so(url, error):
    with pytest.raises(error):
        semdrivers.stop(url)


def test_a_wrapped_microscope_is_stopped_past_its_own_locks(emulator):
    class Slow(WrappedMicroscope):
        lock = threading.Lock()

        def _call(self, name: str, *arguments: Any) -> Any:
            with self.lock:
                return super()._call(name, *arguments)

    with Slow(semdrivers.connect(emulator.url)) as microscope:
        assert isinstance(microscope, HasStop)
        frame = scanning(emulator, microscope)
        microscope.stop(keep_beam=True)
        assert isinstance(frame.wait(), StoppedError)


def test_an_exception_leaves_no_beam_on_and_an_ordinary_end_does(emulator):
    with pytest.raises(ZeroDivisionError), semdrivers.connect(emulator.url):
        raise ZeroDivisionError
    assert not emulator.instrument.status().beam_on
    emulator.instrument.set_beam(True)
    with semdrivers.connect(emulator.url):
        pass
    assert emulator.instrument.status().beam_on
    semdrivers.connect(emulator.url, keep_beam=False).close(keep_beam=True)
    assert emulator.instrument.status().beam_on
    semdrivers.connect(emulator.url).close(keep_beam=False)
    assert not emulator.instrument.status().beam_on


def test_a_script_that_makes_no_call_loses_the_beam(emulator):
    with semdrivers.connect(emulator.url, beam_off_after=0.5) as microscope:
        for _ in range(8):
            time.sleep(0.1)
            assert microscope.beam_on
        until(lambda: not emulator.instrument.status().beam_on)
        with pytest.raises(InterlockError, match=r"0\.5 s without a call of the script"):
            microscope.acquire()
        microscope.beam_on = True
        assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize("value", ["soon", -1, 0, True])
def test_the_watch_must_be_seconds(emulator, value):
    with pytest.raises((InvalidParameterError, OutOfRangeError), match="beam_off_after"):
        semdrivers.connect(emulator.url, beam_off_after=value)


def test_ctrl_c_stops_the_scan_and_the_next_frame_comes(emulator):
    with semdrivers.connect(emulator.remote_url) as microscope:
        interrupter = InThread(
            lambda: (until(lambda: emulator.instrument.status().scanning), os.kill(os.getpid(), signal.SIGINT))
        )
        with pytest.raises(KeyboardInterrupt):
            microscope.acquire(ScanMode.SLOW)
        interrupter.wait()
        assert not emulator.instrument.status().scanning
        assert microscope.acquire().pixels.shape == (240, 320)


def moves_and(then: Callable[[Any, Any], object]) -> Callable[..., Any]:
    """Return an autofocus that drives the lens away and then does something that ends it."""

    def focus(microscope: Any, settings: Any, progress: Any, cancel: Any) -> Any:
        microscope.magnification = 2000
        microscope.working_distance = 20.0
        return then(microscope, cancel)

    return focus


def test_a_lost_link_is_opened_again_to_put_everything_back(offer_method):
    offer_method(moves_and(lambda microscope, _: [microscope.working_distance for _ in range(20)]))
    faulty = emulated(faults="control-reset@6", realtime=False)
    with faulty as emulator, semdrivers.connect(emulator.remote_url) as microscope:
        with pytest.raises(TransportError) as raised:
            microscope.autofocus(method="test-method")
        assert emulator.faults.happened["control-reset"] == 1
        assert emulator.instrument.value(Parameter.WORKING_DISTANCE) == 14.0
        assert emulator.instrument.value(Parameter.MAGNIFICATION) == 5000
        assert "the link was opened again" in " ".join(raised.value.__notes__)
        assert microscope.working_distance == 14.0


def test_a_link_lost_for_good_reports_the_value_to_restore(offer_method):
    with emulated() as emulator:
        microscope = semdrivers.connect(emulator.url, waiting=WaitingTimes(reconnect=0.3))
        offer_method(moves_and(lambda microscope, _: (emulator.close(), microscope.working_distance)))
        with pytest.raises(TransportError) as raised:
            microscope.autofocus(method="test-method")
        assert any("working_distance could not be put back to 14.0" in note for note in raised.value.__notes__)
        microscope.close()


def test_closing_from_another_thread_reports_the_value_to_restore(emulator, offer_method):
    microscope = semdrivers.connect(emulator.url)

    def then(microscope: Any, _: Any) -> object:
        frame = threading.Timer(0.3, microscope.close)
        frame.start()
        return microscope.acquire(ScanMode.SLOW)

    offer_method(moves_and(then))
    with pytest.raises(NotConnectedError) as raised:
        microscope.autofocus(method="test-method")
    assert any("working_distance could not be put back to 14.0" in note for note in raised.value.__notes__)


def test_a_cancel_reaches_into_the_frame_and_the_start_is_back(emulator):
    with semdrivers.connect(emulator.remote_url) as microscope:
        cancel = threading.Event()
        run = InThread(lambda: microscope.autofocus(cancel=cancel, scan_mode=ScanMode.SLOW))
        until(lambda: emulator.instrument.status().scanning)
        cancel.set()
        result = run.wait()
        assert isinstance(result, semdrivers.AutofocusResult), result
        assert (result.status, result.frames) == ("cancelled", 0)
        assert result.working_distance == microscope.working_distance == 14.0
        assert microscope.beam_on
        assert microscope.acquire().pixels.shape == (240, 320)


def test_a_second_client_that_stops_ends_the_run_as_cancelled_and_is_named(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        run = InThread(lambda: microscope.autofocus(scan_mode=ScanMode.SLOW))
        until(lambda: emulator.instrument.status().scanning)
        semdrivers.stop(emulator.remote_url, client="the night watch")
        result = run.wait()
        assert isinstance(result, semdrivers.AutofocusResult), result
        assert result.status == "cancelled"
        assert "'the night watch'" in result.reason
        assert not microscope.beam_on


def test_a_signal_handler_may_close_in_the_middle_of_a_frame(emulator):
    microscope = semdrivers.connect(emulator.remote_url)
    before = signal.signal(signal.SIGTERM, lambda *_: microscope.close(keep_beam=False))
    try:
        killer = InThread(
            lambda: (until(lambda: emulator.instrument.status().scanning), os.kill(os.getpid(), signal.SIGTERM))
        )
        with pytest.raises(NotConnectedError, match="closed"):
            microscope.acquire(ScanMode.SLOW)
        killer.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    status = emulator.instrument.status()
    assert (status.scanning, status.beam_on) == (False, False)


NIGHT = """
import sys, time, semdrivers
class Method:
    @semdrivers.hookimpl
    def semdrivers_autofocus(self, microscope, settings, progress, cancel):
        microscope.working_distance = 20.0
        print("moved", flush=True)
        for _ in range(2000):
            {during}
            time.sleep(0.01)
semdrivers.get_plugin_manager().register(Method())
with semdrivers.connect(sys.argv[1]) as microscope:
    microscope.autofocus()
"""


def night(emulator: Emulator, during: str = "microscope.working_distance") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", NIGHT.format(during=during), emulator.remote_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "moved\n"
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("during", ["microscope.working_distance", "microscope.acquire(semdrivers.ScanMode.SLOW)"])
def test_a_signal_puts_the_lens_back_and_blanks_the_beam(emulator, name, during):
    if not hasattr(signal, name) or sys.platform == "win32":
        pytest.skip(f"no {name}")
    process = night(emulator, during)
    if "acquire" in during:
        until(lambda: emulator.instrument.status().scanning)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (128 + getattr(signal, name), -signal.SIGINT), errors
    assert emulator.instrument.value(Parameter.WORKING_DISTANCE) == 14.0
    status = emulator.instrument.status()
    assert (status.scanning, status.beam_on) == (False, False)


class Interrupted(BaseException):
    """What a signal handler raises, as Ctrl-C does."""


def read_until_interrupted(microscope, seconds):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while True:
        microscope.working_distance  # noqa: B018


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer")
def test_an_interrupt_between_any_two_calls_leaves_the_link_usable(emulator):
    def interrupt(*_: object) -> None:
        raise Interrupted

    random = np.random.default_rng(1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with semdrivers.connect(emulator.url) as microscope:
            for _ in range(500):
                with pytest.raises(Interrupted):
                    read_until_interrupted(microscope, random.uniform(2e-5, 1.2e-3))
                microscope.working_distance = 14.0
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer")
@pytest.mark.parametrize("wire", ["tcp", "serial"])
def test_a_signal_handler_may_stop_in_the_middle_of_any_call(wire):
    """In the middle of sending, too, where its own thread holds the line."""
    random = np.random.default_rng(2)
    with Emulator("tin-balls", usb_port=0, serial=wire == "serial") as emulator:
        with semdrivers.connect(emulator.serial_url if wire == "serial" else emulator.url) as microscope:
            stops: list[None] = []
            before = signal.signal(signal.SIGALRM, lambda *_: stops.append(microscope.stop()))
            try:
                for _ in range(20):
                    done = len(stops) + 1
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 1.2e-3))
                    while len(stops) < done:
                        assert microscope.working_distance > 0
            finally:
                signal.signal(signal.SIGALRM, before)
        assert len(stops) == 20


FORKS = """
import os, sys, semdrivers
from semdrivers.sessions import Recorder
url, kind, end, folder = sys.argv[1:]
make = {
    "plain": lambda: semdrivers.connect(url),
    "recorder": lambda: Recorder(semdrivers.connect(url), folder),
    "one thread": lambda: semdrivers.on_one_thread(lambda: semdrivers.connect(url)),
}
with make[kind]() as microscope:
    if (child := os.fork()) == 0:
        if end == "close":
            microscope.close()
            os._exit(0)
        sys.exit(0)  # an exception that leaves the block of the child
    _, status = os.waitpid(child, 0)
    print(status, microscope.beam_on, microscope.acquire().working_distance)
    microscope.working_distance = 15.0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    ("kind", "end"), [("plain", "exit"), ("plain", "close"), ("recorder", "exit"), ("one thread", "exit")]
)
def test_a_forked_child_ends_without_a_word_to_the_instrument(emulator, tmp_path, kind, end):
    command = [sys.executable, "-c", FORKS, emulator.remote_url, kind, end, str(tmp_path / "session")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "0 True 14.0\n"), done.stderr
    assert "control was lost" not in done.stderr


def test_ctrl_c_ends_a_frame_on_another_thread_and_the_next_frame_comes(emulator):
    microscope = on_one_thread(lambda: semdrivers.connect(emulator.url))
    threading.Thread(
        target=lambda: (until(lambda: emulator.instrument.status().scanning), os.kill(os.getpid(), signal.SIGINT))
    ).start()
    with pytest.raises(KeyboardInterrupt):
        microscope.acquire(ScanMode.SLOW)
    until(lambda: not emulator.instrument.status().scanning)
    assert microscope.beam_on
    assert microscope.acquire().working_distance == 14.0
    microscope.close()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_a_lease_lost_in_sleep_is_asked_for_again_to_put_the_lens_back():
    with emulated(profile=dataclasses.replace(SLOWEST, lease_time=0.6)) as emulator:
        process = night(emulator, "microscope.magnification = 3000")
        process.send_signal(signal.SIGSTOP)
        until(lambda: not emulator.instrument.status().beam_on)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "BusyError" in errors
        assert "lease was lost" in errors
        assert emulator.instrument.value(Parameter.WORKING_DISTANCE) == 14.0
        assert emulator.instrument.value(Parameter.MAGNIFICATION) == 5000


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_control_that_another_client_has_taken_is_not_taken_back():
    with emulated(profile=dataclasses.replace(SLOWEST, lease_time=0.6)) as emulator:
        process = night(emulator, "microscope.magnification = 3000")
        process.send_signal(signal.SIGSTOP)
        until(lambda: not emulator.instrument.status().beam_on)
        port = urlsplit(emulator.url).port
        with ControlLink(open_tcp("127.0.0.1", port), client_name="the day shift", name="EM-30") as second:
            second.request(SetParameter(Parameter.WORKING_DISTANCE, 13.0))
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate(timeout=60)
        assert "'the day shift'" in errors
        assert "working_distance could not be put back to 14.0" in errors
        assert emulator.instrument.value(Parameter.WORKING_DISTANCE) == 13.0


def test_ctrl_c_while_values_are_put_back_leaves_none_out(foreign_type):
    class Impatient(foreign_type):
        presses = 1

        @property
        def magnification(self) -> float:
            return self._magnification

        @magnification.setter
        def magnification(self, value: float) -> None:
            if value == 2000.0 and self.presses:
                self.presses -= 1
                raise KeyboardInterrupt
            self._magnification = value

    microscope = Impatient()

    def fail() -> None:
        with restoring(microscope):
            microscope.magnification = 700.0
            microscope.working_distance = 20.0
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (microscope.working_distance, microscope.magnification) == (12.0, 2000.0)
