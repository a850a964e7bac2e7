"""`Emulator` and ``emulator://``: what they take, what they refuse, and that they leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers.em30 import WaitingTimes
from semdrivers.emulator import Emulator
from semdrivers.emulator.specimens import SPECIMENS
from semdrivers.errors import InvalidParameterError, NotConnectedError, OutOfRangeError, TransportError

PICTURE = np.random.default_rng(5).integers(0, 256, (200, 300), np.uint8)


@pytest.mark.parametrize("specimen", sorted(SPECIMENS))
def test_every_specimen_opens_by_url(specimen):
    with semdrivers.connect(f"emulator://{specimen}?seed=3&magnification=9000") as microscope:
        image = microscope.acquire()
    assert image.magnification == 9000
    assert image.pixels.std() > 0


@pytest.mark.parametrize("magnification", [300, 5000, 30000])
def test_the_start_is_out_of_focus_and_within_the_range(magnification):
    sides = set()
    for seed in range(8):
        emulator = Emulator("featureless", magnification=magnification, seed=seed)
        truth = emulator.truth
        start = emulator.instrument.conditions().working_distance
        offset = (start - truth.working_distance) / truth.depth_of_field
        assert 4.9 <= abs(offset) <= 30.1
        assert EM30.working_distance_minimum <= start <= EM30.working_distance_maximum
        sides.add(offset > 0)
    assert sides == {True, False}


def test_the_same_seed_gives_the_same_bytes():
    def take(seed):
        with semdrivers.connect(f"emulator://butterfly-wing?seed={seed}") as microscope:
            microscope.working_distance = 15.0
            return [microscope.acquire().pixels.tobytes() for _ in range(2)]

    assert take(4) == take(4)
    assert take(4) != take(5)


def test_truth_follows_the_instrument():
    with Emulator("tin-balls", seed=1) as emulator, semdrivers.connect(emulator.url) as microscope:
        assert emulator.truth.score < 9
        microscope.working_distance = emulator.truth.working_distance
        assert emulator.truth.score == pytest.approx(9, abs=0.05)
        shallow = emulator.truth.depth_of_field
        microscope.magnification = 500
        assert emulator.truth.depth_of_field > 5 * shallow
        assert not hasattr(microscope, "truth")


def test_a_picture_as_array_and_as_file(tmp_path):
    from PIL import Image

    path = tmp_path / "micrograph.png"
    Image.fromarray(PICTURE).save(path)
    sources = [
        Emulator(PICTURE, pixel_size=100.0, seed=1),
        Emulator(path, pixel_size=100.0, seed=1),
        Emulator(str(path), pixel_size=100.0, seed=1),
    ]
    frames = []
    for source in sources:
        with source as emulator, semdrivers.connect(emulator.url) as microscope:
            frames.append(microscope.acquire().pixels)
    with semdrivers.connect(f"emulator://image?path={path}&pixel_size=100&seed=1") as microscope:
        frames.append(microscope.acquire().pixels)
    for frame in frames[1:]:
        assert np.array_equal(frame, frames[0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"specimen": "tin-bals"}, InvalidParameterError, "did you mean 'tin-balls'"),
        ({"specimen": "no/such/file.tif", "pixel_size": 5}, InvalidParameterError, "no such file"),
        ({"specimen": 7}, InvalidParameterError, "specimen must be a name"),
        ({"specimen": PICTURE}, InvalidParameterError, "needs its pixel_size in nm"),
        ({"specimen": PICTURE, "pixel_size": -1}, OutOfRangeError, "pixel_size must be above 0 nm"),
        ({"specimen": PICTURE, "pixel_size": "wide"}, InvalidParameterError, "pixel_size must be a number"),
        ({"specimen": PICTURE[0], "pixel_size": 5}, InvalidParameterError, "grey image"),
        ({"specimen": "fabric", "pixel_size": 5}, InvalidParameterError, "pixel_size belongs to a picture"),
        ({"preset": "calm"}, InvalidParameterError, "no preset 'calm'"),
        ({"seed": -1}, InvalidParameterError, "seed"),
        ({"seed": 1.5}, InvalidParameterError, "seed"),
        ({"magnification": 0}, OutOfRangeError, "magnification"),
        ({"magnification": "much"}, InvalidParameterError, "magnification"),
        ({"working_distance": 60}, OutOfRangeError, "working_distance"),
        ({"working_distance": "near"}, InvalidParameterError, "working_distance"),
        ({"control_port": 70000}, InvalidParameterError, "control_port must be a TCP port"),
        ({"usb_port": "x"}, InvalidParameterError, "usb_port must be a TCP port"),
    ],
)
def test_bad_arguments_raise_before_anything_is_started(arguments, error, message):
    threads = threading.active_count()
    with pytest.raises(error, match=message):
        Emulator(**arguments)
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("emulator://", "write emulator://SPECIMEN"),
        ("emulator://tin-balls/5", "write emulator://SPECIMEN"),
        ("emulator://tinballs", "did you mean 'tin-balls'"),
        ("emulator://tin-balls?sed=1", "no option 'sed'; an emulator takes seed"),
        ("emulator://tin-balls?seed=one", "seed must be a number"),
        ("emulator://tin-balls?magnification=big", "magnification must be a number"),
        ("emulator://tin-balls?realtime=maybe", "realtime must be true or false"),
        ("emulator://tin-balls?preset=calm", "no preset 'calm'"),
        ("emulator://tin-balls?path=x.tif", "a path belongs to emulator://image"),
        ("emulator://image?pixel_size=5", "write emulator://image"),
        ("emulator://image?path=/no/such.tif&pixel_size=5", "no such file"),
        ("emulator://tin-balls?seed", "bad query field"),
        ("emulator://tin-balls?bits=9", "bits must be 8 or 16"),
    ],
)
def test_bad_urls_leave_nothing_behind(url, message):
    threads = threading.active_count()
    with pytest.raises(InvalidParameterError, match=message):
        semdrivers.connect(url)
    assert threading.active_count() == threads


def test_options_stand_above_the_url():
    with semdrivers.connect("emulator://tin-balls?seed=1&magnification=2000", magnification=3000, bits=16) as opened:
        assert opened.magnification == 3000
        assert opened.acquire().pixels.dtype == np.uint16


def test_the_emulator_ends_with_the_microscope():
    threads = threading.active_count()
    for _ in range(3):
        with semdrivers.connect("emulator://tin-balls?seed=1") as microscope:
            microscope.acquire()
    assert threading.active_count() == threads


def test_a_microscope_outlives_its_emulator_badly_but_closes_well():
    emulator = Emulator("tin-balls").start()
    microscope = semdrivers.connect(emulator.url)
    emulator.close()
    emulator.close()
    with pytest.raises(TransportError):
        microscope.acquire()
    microscope.close()


def test_not_running_it_has_no_url():
    emulator = Emulator("tin-balls")
    assert "not started" in repr(emulator)
    for name in ("url", "remote_url", "serial_url", "usb"):
        with pytest.raises(NotConnectedError, match="not running"):
            getattr(emulator, name)
    with emulator:
        assert "running" in repr(emulator)
        assert emulator.start() is emulator
        with pytest.raises(InvalidParameterError, match="usb_port=0"):
            _ = emulator.remote_url
        with pytest.raises(InvalidParameterError, match="serial=True"):
            _ = emulator.serial_url
        url = emulator.url
    with pytest.raises(NotConnectedError, match="make a new one"):
        emulator.start()
    with pytest.raises(NotConnectedError):
        semdrivers.connect(url)


def test_a_port_that_is_taken():
    with Emulator("tin-balls", usb_port=0) as first:
        taken = int(first.remote_url.rpartition(":")[2])
        with pytest.raises(NotConnectedError, match="could not listen"):
            Emulator("tin-balls", usb_port=taken).start()


def test_two_emulators_side_by_side():
    with (
        Emulator("featureless", seed=1) as one,
        Emulator("featureless", seed=2) as two,
        semdrivers.connect(one.url) as first,
        semdrivers.connect(two.url) as second,
    ):
        first.working_distance, second.working_distance = 12.0, 13.0
        assert first.acquire().metadata["serial"] != second.acquire().metadata["serial"]
        assert (first.working_distance, second.working_distance) == (12.0, 13.0)


def test_in_real_time_scans_take_their_time():
    with Emulator("featureless", seed=1, realtime=True) as emulator, semdrivers.connect(emulator.url) as microscope:
        before = emulator.instrument.clock.now()
        first, second = microscope.acquire(), microscope.acquire()
        assert emulator.instrument.clock.now() - before >= 0.2
        assert second.timestamp - first.timestamp >= 0.09


CHILD = """
import sys
from semdrivers.emulator import Emulator
with Emulator("butterfly-wing", seed=11, magnification=3000, usb_port=0, serial={serial}) as emulator:
    print(emulator.{url}, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["remote_url", "serial_url"])
def other_process(request):
    """An emulator in a process of its own; yields the process and the URL it prints."""
    if request.param == "serial_url" and sys.platform == "win32":
        pytest.skip("Windows has no pseudo-terminals")
    code = CHILD.format(url=request.param, serial=request.param == "serial_url")
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.stdin.close()
        child.stdout.close()
        child.wait(20)


@pytest.mark.slow
def test_driver_and_emulator_in_two_processes(other_process):
    child, url = other_process
    assert "usb=tcp://127.0.0.1:" in url
    with semdrivers.connect(url, waiting=WaitingTimes(frame=60.0)) as microscope:
        microscope.working_distance = 14.5
        remote = [microscope.acquire(mode) for mode in (semdrivers.ScanMode.FAST, semdrivers.ScanMode.STANDARD)]
        assert [image.working_distance for image in remote] == [14.5] * 2
        assert microscope.frames_lost == 0
    with semdrivers.connect("emulator://butterfly-wing?seed=11&magnification=3000") as microscope:
        microscope.working_distance = 14.5
        for image in remote:
            assert np.array_equal(microscope.acquire(image.scan_mode).pixels, image.pixels)
    child.stdin.close()
    assert child.wait(20) == 0


def test_a_process_that_dies_is_a_named_error(other_process):
    child, url = other_process
    if "serial" in url:
        pytest.skip("one wire is enough")
    with semdrivers.connect(url, waiting=WaitingTimes(reconnect=0.3)) as microscope:
        microscope.acquire()
        child.kill()
        child.wait(20)
        with pytest.raises(TransportError):
            microscope.acquire()
        with pytest.raises(TransportError):
            microscope.acquire()
