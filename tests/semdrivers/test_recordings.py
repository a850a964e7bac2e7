"""Recorder, ``replay://`` and ``series://``: what was seen on an instrument, seen again without it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import semdrivers
from semdrivers.conformance import CHECKS, run_check
from semdrivers.emulator import Emulator
from semdrivers.errors import (
    DeviceError,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    TransportError,
)
from semdrivers.focus import RecordsFocus
from semdrivers.microscope import HasBeam, HasDetector, HasStage, HasStigmator, HasVacuum, Microscope
from semdrivers.sessions import SESSION, Recorder

PICTURE = np.random.default_rng(5).integers(0, 256, (200, 300), np.uint8)
OPTIONAL = (HasStage, HasStigmator, HasDetector, HasBeam, HasVacuum, RecordsFocus)


def connect(**options):
    return semdrivers.connect("emulator://featureless?seed=2&magnification=3000", **options)


def tell(microscope):
    """A session with a bit of everything; returns what it saw."""
    seen = [microscope.working_distance, microscope.magnification, microscope.stage_position]
    microscope.working_distance = 14.5
    seen.append(microscope.acquire())
    microscope.magnification = np.float64(2000)
    for bad in (99.0, float("nan"), "near", None):
        with pytest.raises((OutOfRangeError, InvalidParameterError)) as caught:
            microscope.working_distance = bad
        seen.append(str(caught.value))
    seen.append(microscope.move_stage(0.5, -0.25))
    microscope.stigmator = (1.0, 2.0)
    microscope.brightness = 0.25
    seen += [microscope.stigmator, microscope.brightness, microscope.contrast, microscope.vacuum]
    microscope.beam_on = False
    with pytest.raises(InterlockError) as caught:
        microscope.acquire()
    seen.append(str(caught.value))
    microscope.beam_on = True
    seen.append(microscope.acquire(semdrivers.ScanMode.STANDARD))
    return seen


def same(one, other):
    if isinstance(one, semdrivers.Image):
        return np.array_equal(one.pixels, other.pixels) and all(
            getattr(one, name) == getattr(other, name)
            for name in ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "scan_mode")
        )
    return one == other


def test_a_session_comes_home_as_a_folder(tmp_path):
    with Recorder(connect(), tmp_path / "session") as recorder:
        seen = tell(recorder)
    with semdrivers.connect(f"replay://{tmp_path.as_posix()}/session") as replay:
        again = tell(replay)
    assert len(seen) == len(again)
    for one, other in zip(seen, again, strict=True):
        assert same(one, other), (one, other)


def test_a_recorder_offers_what_the_microscope_offers(tmp_path, foreign):
    with Recorder(connect(), tmp_path / "whole") as recorder:
        for protocol in (Microscope, *OPTIONAL):
            assert isinstance(recorder, protocol)
    narrow = Recorder(foreign, tmp_path / "narrow")
    assert isinstance(narrow, Microscope)
    for protocol in OPTIONAL:
        assert not isinstance(narrow, protocol)
    narrow.close()
    narrow.close()
    assert foreign.closed
    with semdrivers.connect(f"replay://{tmp_path.as_posix()}/narrow") as replay:
        assert not any(isinstance(replay, protocol) for protocol in OPTIONAL)
    with semdrivers.connect(f"replay://{tmp_path.as_posix()}/whole") as replay:
        assert all(isinstance(replay, protocol) for protocol in OPTIONAL)


def test_an_autofocus_runs_again_from_its_recording(tmp_path, climbing):
    with Recorder(connect(), tmp_path / "session") as recorder:
        first = recorder.autofocus(method=climbing)
    with semdrivers.connect(f"replay://{tmp_path.as_posix()}/session") as replay:
        second = replay.autofocus(method=climbing)
    assert (first.working_distance, first.frames) == (second.working_distance, second.frames)


QUICK = [check for check in CHECKS if "autofocus_keeps" not in check.__name__]


def test_the_conformance_suite_on_a_recording_of_itself(tmp_path):
    recorder = Recorder(connect(), tmp_path / "session")
    quick = [check for check in QUICK if "stop" not in check.__name__]
    live = [run_check(check, recorder) for check in quick]
    assert {outcome.status for outcome in live} <= {"passed", "skipped"}, live
    replay = semdrivers.connect(f"replay://{tmp_path.as_posix()}/session")
    assert [run_check(check, replay) for check in quick] == live


def test_reading_moves_nothing_and_another_way_is_told(tmp_path):
    with Recorder(connect(), tmp_path / "s") as recorder:
        start = recorder.working_distance
        recorder.working_distance = 14.0
        recorder.acquire()
    replay = semdrivers.connect(f"replay://{tmp_path.as_posix()}/s")
    assert replay.working_distance == replay.working_distance == start
    with pytest.raises(DeviceError, match="never read magnification"):
        _ = replay.magnification
    with pytest.raises(DeviceError, match=r"goes on with working_distance\(14\.0\) in line 3"):
        replay.working_distance = 15.0
    with pytest.raises(DeviceError, match="another way"):
        replay.acquire()
    replay.working_distance = 14
    assert replay.working_distance == 14
    assert replay.acquire().working_distance == 14.0
    with pytest.raises(DeviceError, match="the session goes on with close"):
        replay.acquire()
    replay.close()
    replay.close()
    with pytest.raises(NotConnectedError, match="closed"):
        _ = replay.working_distance


def test_faults_are_recorded_too(tmp_path):
    with (
        Emulator(PICTURE, pixel_size=50.0, seed=1, faults="usb-unplug@2") as emulator,
        Recorder(semdrivers.connect(emulator.url), tmp_path / "night") as recorder,
    ):
        recorder.acquire()
        with pytest.raises(TransportError) as caught:
            recorder.acquire()
    with semdrivers.connect(f"replay://{tmp_path.as_posix()}/night") as replay:
        replay.acquire()
        with pytest.raises(TransportError) as again:
            replay.acquire()
    assert str(again.value) == str(caught.value)


def test_a_line_cut_off_by_a_power_cut_is_no_part_of_the_session(tmp_path):
    with Recorder(connect(), tmp_path / "s") as recorder:
        recorder.working_distance = 14.0
        recorder.acquire()
    path = tmp_path / "s" / SESSION
    path.write_text(path.read_text()[:-20])
    with semdrivers.connect(f"replay://{tmp_path.as_posix()}/s") as replay:
        replay.working_distance = 14.0
        replay.acquire()
        with pytest.raises(DeviceError, match="the session is over"):
            replay.acquire()


def test_a_recording_needs_a_folder_of_its_own(tmp_path, foreign):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(InvalidParameterError, match="in use already"):
            Recorder(foreign, place)
    with pytest.raises(InvalidParameterError, match="lacks capabilities"):
        Recorder(object(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "file").read_text() == "mine"


HEAD = {
    "format": "semdrivers.session",
    "version": 1,
    "offers": [],
    "capabilities": {"working_distance": {"minimum": 1, "maximum": 50, "step": 0}},
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it has no session.jsonl"),
        ("", "is empty"),
        ("{}\n", "line 1"),
        ("[]\n", "line 1"),
        ("nonsense\n", "line 1"),
        (json.dumps({**HEAD, "version": 2}) + "\n", "version 2, not semdrivers.session version 1"),
        (json.dumps(HEAD) + "\n", "capabilities cannot be read"),
        (json.dumps(HEAD) + "\n{}\n", "line 2"),
        (json.dumps(HEAD) + '\n{"kind": "get", "name": "x", "arguments": ""}\n', "without an outcome"),
        (json.dumps(HEAD) + '\n{"kind": "get", "name": "x", "arguments": "", "frame": "y"}\n', "without an outcome"),
        (json.dumps(HEAD) + '\n{"kind": "get", "name": "x", "arguments": "", "error": "y"}\n', "without an outcome"),
        (json.dumps(HEAD) + '\n{"kind": "get", "name": [], "arguments": "", "result": 1}\n', "must be texts"),
    ],
)
def test_what_is_no_recording_is_told(tmp_path, text, message):
    if text is not None:
        (tmp_path / SESSION).write_text(text)
    with pytest.raises(InvalidParameterError, match=message):
        semdrivers.connect(f"replay://{tmp_path.as_posix()}")


def test_addresses_of_recordings(tmp_path):
    with pytest.raises(InvalidParameterError, match="no such folder"):
        semdrivers.connect("replay:///no/such/folder")
    with pytest.raises(InvalidParameterError, match="names no folder"):
        semdrivers.connect("replay://")
    with pytest.raises(InvalidParameterError, match="no option 'speed'"):
        semdrivers.connect(f"replay://{tmp_path.as_posix()}?speed=2")
    with pytest.raises(InvalidParameterError, match="no option 'speed'"):
        semdrivers.connect(f"series://{tmp_path.as_posix()}?speed=2")


def test_a_frame_that_is_missing_is_told(tmp_path):
    with Recorder(connect(), tmp_path / "s") as recorder:
        recorder.acquire()
    (tmp_path / "s" / "frame-000001.ome.tif").unlink()
    replay = semdrivers.connect(f"replay://{tmp_path.as_posix()}/s")
    with pytest.raises(InvalidParameterError, match="no such file"):
        replay.acquire()


@pytest.mark.parametrize("value", ["near", None, [], [1.0], {}, pytest.param(10**400, id="huge")])
@pytest.mark.parametrize("name", ["working_distance", "stage_position"])
def test_a_recorded_value_that_cannot_be_is_named(tmp_path, name, value):
    with Recorder(connect(), tmp_path / "s") as recorder:
        getattr(recorder, name)
    session = tmp_path / "s" / SESSION
    head, entry, *rest = session.read_text().splitlines()
    session.write_text("\n".join([head, json.dumps({**json.loads(entry), "result": value}), *rest, ""]))
    replay = semdrivers.connect(f"replay://{tmp_path.as_posix()}/s")
    with pytest.raises(semdrivers.ProtocolError, match=f"{name}.* reads"):
        getattr(replay, name)


def test_a_frame_whose_name_no_file_can_have_is_told(tmp_path):
    with Recorder(connect(), tmp_path / "s") as recorder:
        recorder.acquire()
    session = tmp_path / "s" / SESSION
    session.write_text(session.read_text().replace("frame-000001.ome.tif", "x" * 5000))
    replay = semdrivers.connect(f"replay://{tmp_path.as_posix()}/s")
    with pytest.raises(InvalidParameterError, match="no such file"):
        replay.acquire()


# Series


def plane(distance: float, shape=(480, 640), **changes):
    pixels = np.full(shape, round(distance * 10) % 256, np.uint8)
    pixels[:: max(1, round(distance))] = 200
    given = {"working_distance": distance, "magnification": 2000.0, "pixel_size": 100.0, **changes}
    return semdrivers.Image(pixels=pixels, **given)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "focal series"
    folder.mkdir()
    for distance in (14.0, 14.05, 14.2, 14.3):
        plane(distance).save(folder / f"{distance}.ome.tif")
    return folder


def url_of(folder) -> str:
    return f"series://{folder.as_posix()}".replace(" ", "%20")


def test_a_series_answers_from_the_nearest_plane(pictures):
    with semdrivers.connect(url_of(pictures)) as microscope:
        limits = microscope.capabilities
        assert (limits.working_distance.minimum, limits.working_distance.maximum) == (14.0, 14.3)
        assert limits.working_distance.step == pytest.approx(0.15)
        assert limits.scan_modes == (semdrivers.ScanMode.FAST, semdrivers.ScanMode.STANDARD)
        for asked, gone in ((14.3, 14.3), (14.03, 14.05), (14.0, 14.0), (14.14, 14.2)):
            microscope.working_distance = asked
            assert microscope.working_distance == gone
            image = microscope.acquire(semdrivers.ScanMode.STANDARD)
            assert (image.working_distance, image.magnification, image.pixel_size) == (gone, 2000, 100)
            assert np.array_equal(image.pixels, plane(gone).pixels)
        fast = microscope.acquire()
        assert fast.pixels.shape == (240, 320)
        assert fast.pixel_size == 200
        expected = plane(14.2).pixels.reshape(240, 2, 320, 2).astype(float).mean(axis=(1, 3))
        assert np.abs(fast.pixels - expected).max() <= 0.5
    with pytest.raises(NotConnectedError):
        microscope.acquire()


def test_between_two_planes_a_series_mixes_them_if_told_to(pictures):
    with semdrivers.connect(url_of(pictures) + "?planes=interpolated") as microscope:
        assert microscope.capabilities.working_distance == semdrivers.Range(14.0, 14.3, 0.0)
        for asked, low, high, share in ((14.14, 14.05, 14.2, 0.6), (14.01, 14.0, 14.05, 0.2)):
            microscope.working_distance = asked
            assert microscope.working_distance == asked
            image = microscope.acquire(semdrivers.ScanMode.STANDARD)
            assert image.working_distance == asked
            expected = (1 - share) * plane(low).pixels.astype(float) + share * plane(high).pixels
            assert np.abs(image.pixels - expected).max() <= 0.51
            assert image.metadata["interpolated"] == pytest.approx(
                {f"{low}.ome.tif": 1 - share, f"{high}.ome.tif": share}
            )
        assert image.metadata["file"] == "14.0.ome.tif"
        for photographed in (14.0, 14.05, 14.3):
            microscope.working_distance = photographed
            image = microscope.acquire(semdrivers.ScanMode.STANDARD)
            assert np.array_equal(image.pixels, plane(photographed).pixels)
            assert "interpolated" not in image.metadata
        with pytest.raises(OutOfRangeError):
            microscope.working_distance = 14.31


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"pixel_size": 50.0}, "pixel size 50.0"),
        ({"shape": (500, 640)}, r"shape \(500, 640\)"),
        ({"bits": 16}, "bits 16"),
    ],
)
def test_pictures_that_differ_are_not_mixed(pictures, other, what):
    bits = other.pop("bits", 8)
    image = plane(14.4, **other)
    pixels = image.pixels.astype(np.uint8 if bits == 8 else np.uint16)
    dataclasses.replace(image, pixels=pixels).save(pictures / "other.tif")
    with semdrivers.connect(url_of(pictures)) as microscope:
        microscope.working_distance = 14.4
    with pytest.raises(InvalidParameterError, match=rf"other\.tif: its {what} differs .* planes=nearest"):
        semdrivers.connect(url_of(pictures), planes="interpolated")
    with pytest.raises(InvalidParameterError, match="planes must be nearest or interpolated, not 'cubic'"):
        semdrivers.connect(url_of(pictures), planes="cubic")


def test_the_conformance_suite_on_a_series(pictures):
    microscope = semdrivers.connect(url_of(pictures))
    outcomes = {check.__name__: run_check(check, microscope) for check in QUICK}
    failed = {name: outcome.detail for name, outcome in outcomes.items() if outcome.status == "failed"}
    one_magnification = {
        "check_capabilities",
        "check_magnification_changes",
        "check_frames_follow_settings",
        "check_pixel_size_follows_magnification",
    }
    assert set(failed) <= one_magnification, failed


def test_a_series_of_two_magnifications(pictures):
    for distance in (14.0, 14.2, 14.3):
        plane(distance, magnification=4000.0, pixel_size=50.0).save(pictures / f"high-{distance}.ome.tif")
    with semdrivers.connect(url_of(pictures)) as microscope:
        assert microscope.magnification == 2000
        microscope.working_distance = 14.05
        microscope.magnification = 4000
        assert microscope.working_distance == 14.0
        assert microscope.acquire().pixel_size == 100
        with pytest.raises(OutOfRangeError, match="there are 2000, 4000"):
            microscope.magnification = 3000
        assert microscope.magnification == 4000


def test_a_table_beside_any_pictures(tmp_path):
    from PIL import Image as Pillow

    for name, grey in (("a.png", 10), ("b.png", 20)):
        Pillow.fromarray(np.full((600, 1000), grey, np.uint8)).save(tmp_path / name)
    (tmp_path / "series.csv").write_text("file,working_distance,pixel_size\na.png,12.5,26.9\nb.png,12.6,26.9\n")
    with semdrivers.connect(f"series://{tmp_path.as_posix()}") as microscope:
        microscope.working_distance = 12.6
        image = microscope.acquire()
        assert set(image.pixels.ravel()) == {20}
        assert image.pixel_size == pytest.approx(26.9 * 2.5)
        assert microscope.magnification == pytest.approx(128e6 / (26.9 * 1000))


def test_sixteen_bits_stay(tmp_path):
    for distance in (10.0, 11.0):
        pixels = np.full((480, 640), 40_001, np.uint16)
        semdrivers.Image(pixels, distance, 500.0, 400.0).save(tmp_path / f"{distance}.tif")
    with semdrivers.connect(f"series://{tmp_path.as_posix()}") as microscope:
        frame = microscope.acquire().pixels
    assert frame.dtype == np.uint16
    assert set(frame.ravel()) == {40_001}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "lacks the column 'file'"),
        ("file\na.png\n", "lacks the column 'working_distance'"),
        ("file,working_distance\nmissing.png,12\n", "line 2: there is no file 'missing.png'"),
        ("file,working_distance\na.png,near\n", "line 2: working_distance must be a number, not 'near'"),
        ("file,working_distance\na.png,-1\n", "above 0"),
        ("file,working_distance\na.png,\n", "does not state its working_distance"),
        ("file,working_distance\na.png,12\n", "does not state its pixel_size"),
        ("file,working_distance,pixel_size\na.png,12,5\n", "two pictures of different working distance"),
        ("file,working_distance,pixel_size\na.png,12,5\na.png,12,5\n", "two pictures of different working distance"),
        ("file,working_distance,pixel_size\nsmall.png,12,5\na.png,13,5\n", "320×240 pixels at least"),
    ],
)
def test_a_table_that_is_wrong_says_where(tmp_path, table, message):
    from PIL import Image as Pillow

    Pillow.fromarray(np.zeros((240, 320), np.uint8)).save(tmp_path / "a.png")
    Pillow.fromarray(np.zeros((200, 320), np.uint8)).save(tmp_path / "small.png")
    (tmp_path / "series.csv").write_text(table)
    with pytest.raises(InvalidParameterError, match=message):
        semdrivers.connect(f"series://{tmp_path.as_posix()}")


def test_folders_that_hold_no_series(tmp_path, pictures):
    with pytest.raises(InvalidParameterError, match="no such folder"):
        semdrivers.connect("series:///no/such/folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidParameterError, match="no pictures"):
        semdrivers.connect(url_of(empty))
    (pictures / "one.csv").write_text("file,working_distance\n")
    with pytest.raises(InvalidParameterError, match="no pictures"):
        semdrivers.connect(url_of(pictures))
    (pictures / "two.csv").write_text("file,working_distance\n")
    with pytest.raises(InvalidParameterError, match="2 CSV files"):
        semdrivers.connect(url_of(pictures))
