"""fibsem itself: its demo microscope with the emulator's optics under it, and its own functions over our microscope."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import semdrivers

pytest.importorskip("fibsem", reason="fibsem is not installed: pip install '.[fibsem]'")

from fibsem import acquire as fibsem_acquire
from fibsem import autofunctions, utils
from fibsem.autofunctions.autofocus import AutoFocusSettings, FocusSweepPass
from fibsem.cancellation import OperationCancelledError
from fibsem.structures import BeamType, FibsemImage, FibsemStagePosition, ImageSettings

from semdrivers.errors import ExistingFileError
from semdrivers.hosts.fibsem import FibsemLike, FocusedFibsem, MicroscopeOfFibsem, run_auto_focus, save_image
from semdrivers.image import SCAN_MODES

ELECTRON = BeamType.ELECTRON
WIDTH = 0.128 / 3000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """fibsem's own demo microscope, which delivers noise."""
    return utils.setup_session(
        session_path=tmp_path_factory.mktemp("session"), manufacturer="Demo", setup_logging=False
    )[0]


@pytest.fixture
def instrument(demo, microscope, monkeypatch):
    """The demo microscope looking at the emulator's sample: what it shows depends on where its lens and stage are."""

    def acquire_image(image_settings=None, beam_type=None):
        place = demo.get_stage_position()
        microscope.move_stage(place.x * 1e3, place.y * 1e3)
        microscope.working_distance = demo.get_working_distance(ELECTRON) * 1e3
        microscope.magnification = 0.128 / image_settings.hfw
        assert tuple(image_settings.resolution) in {(mode.width, mode.height) for mode in SCAN_MODES}
        return FibsemLike(microscope).acquire_image(
            ImageSettings(resolution=image_settings.resolution, hfw=image_settings.hfw, beam_type=ELECTRON)
        )

    monkeypatch.setattr(demo, "acquire_image", acquire_image)
    demo.set_working_distance(microscope.working_distance / 1e3, ELECTRON)
    demo.set_field_of_view(WIDTH, ELECTRON)
    demo.move_stage_absolute(FibsemStagePosition(x=0, y=0, z=0, r=0, t=0, coordinate_system="RAW"))
    return demo


def go(instrument, x, y):
    instrument.move_stage_absolute(FibsemStagePosition(x=x / 1e3, y=y / 1e3, z=0, r=0, t=0, coordinate_system="RAW"))


SHOT = ImageSettings(resolution=(640, 480), hfw=WIDTH, beam_type=ELECTRON)


@pytest.mark.parametrize("emulator", ["tin-balls"], indirect=True)
def test_four_positions_of_differing_height_are_sharp_and_say_so(
    instrument, emulator, places, error, told, best_method, tmp_path
):
    held = FocusedFibsem(instrument, every=1, method=best_method)
    heights = []
    for number, place in enumerate(places):
        go(held, *place)
        image = held.acquire_image(SHOT)
        heights.append(image.metadata.microscope_state.electron_beam.working_distance * 1e3)
        assert error(heights[-1]) < 2
        assert image.focus_record["status"] == "focused"
        assert image.focus_record["working_distance"] == pytest.approx(heights[-1], abs=0.0011)
        saved = save_image(image, tmp_path / f"{number}.tif")
        assert json.loads(saved.with_suffix(".focus.json").read_text())["status"] == "focused"
        assert FibsemImage.load(saved).data.shape == (480, 640)
        with pytest.raises(ExistingFileError, match=rf"{number}\.tif"):
            save_image(image, tmp_path / f"{number}.tif")
    assert max(heights) - min(heights) > 5 * emulator.truth.depth_of_field


@pytest.mark.parametrize("emulator", ["tin-balls"], indirect=True)
def test_it_stands_in_for_fibsems_own_function(instrument, error, told, best_method):
    result = run_auto_focus(instrument, hfw=WIDTH, method=best_method)
    assert isinstance(result, autofunctions.AutoFocusResult)
    assert error(result.working_distance * 1e3) < 2
    assert instrument.get_working_distance(ELECTRON) == pytest.approx(result.working_distance)
    assert instrument.get_field_of_view(ELECTRON) == pytest.approx(WIDTH)
    assert result.n_iterations == result.focus_record["frames"]
    assert result.iterations[0].image.shape == (240, 320)


@pytest.mark.parametrize("emulator", ["tin-balls"], indirect=True)
def test_fibsems_own_function_focuses_our_microscope(microscope, error):
    like = FibsemLike(microscope)
    passes = [FocusSweepPass(0.8e-3, 0.08e-3), FocusSweepPass(0.16e-3, 0.02e-3)]
    settings = AutoFocusSettings(passes=passes, probe_resolution=(640, 480))
    result = autofunctions.run_auto_focus(like, hfw=WIDTH, settings=settings)
    assert microscope.working_distance == pytest.approx(result.working_distance * 1e3, abs=0.001)
    assert error(microscope.working_distance) < 2


def test_fibsems_acquisition_takes_our_frames(microscope):
    like = FibsemLike(microscope)
    image = fibsem_acquire.acquire_image(like, SHOT)
    assert image.data.shape == (480, 640)
    assert image.metadata.pixel_size.x == pytest.approx(WIDTH / 640, rel=0.01)
    assert like.last_image(ELECTRON) is image
    assert like.move_stage_absolute(FibsemStagePosition(x=1e-3)).x == pytest.approx(1e-3)
    assert microscope.stage_position == (1.0, 0.0)
    for wrong in (
        lambda: like.set_working_distance(0.01, BeamType.ION),
        lambda: like.set_working_distance(9.0, ELECTRON),
    ):
        with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError)):
            wrong()


def test_the_noise_of_the_demo_microscope_is_refused(demo):
    """fibsem's own function reports success on it."""
    pytest.importorskip("semfocus_plugin")
    from semfocus_plugin import networks

    try:
        networks.load()
    except semdrivers.ModelError as error:
        pytest.skip(f"no shipped models: {error}")
    start = demo.get_working_distance(ELECTRON)
    with pytest.raises(semdrivers.NotFocusedError):
        run_auto_focus(demo, hfw=WIDTH)
    assert demo.get_working_distance(ELECTRON) == pytest.approx(start)


@pytest.mark.parametrize(("on_failure", "runs"), [("skip", 1), ("retry", 3)])
def test_a_position_without_focus_has_no_picture(instrument, places, told, on_failure, runs):
    told.refuse = lambda: instrument.get_stage_position().x > 0.001
    held = FocusedFibsem(instrument, stage_travel=1.0, on_failure=on_failure, method="told")
    held.acquire_image(SHOT)
    go(held, *places[1])
    with pytest.raises(semdrivers.FrameSkippedError):
        held.acquire_image(SHOT)
    go(held, *places[2])
    assert held.acquire_image(SHOT).focus_record["status"] == "focused"
    assert told.runs == 2 + runs


def test_under_continue_the_picture_is_taken_and_says_so(instrument, told):
    told.refuse = lambda: True
    held = FocusedFibsem(instrument, on_failure="continue", method="told")
    assert held.acquire_image(SHOT).focus_record["status"] == "refused"
    assert run_auto_focus(instrument, hfw=WIDTH, on_failure="continue", method="told") is None


def test_under_abort_it_ends_and_the_lens_is_back(instrument, told):
    told.refuse = lambda: True
    start = instrument.get_working_distance(ELECTRON)
    with pytest.raises(semdrivers.NotFocusedError, match="told to refuse"):
        FocusedFibsem(instrument, method="told").acquire_image(SHOT)
    assert instrument.get_working_distance(ELECTRON) == pytest.approx(start, abs=1e-9)


def test_the_stop_event_is_obeyed_within_one_frame(instrument, told):
    stop, taken = threading.Event(), []
    start = instrument.get_working_distance(ELECTRON)

    def at_frame(frames: int) -> None:
        taken.append(frames)
        if frames == 2:
            stop.set()

    told.at_frame = at_frame
    with pytest.raises(OperationCancelledError):
        run_auto_focus(instrument, hfw=2 * WIDTH, stop_event=stop, method="told")
    assert taken == [1, 2]
    assert instrument.get_working_distance(ELECTRON) == pytest.approx(start, abs=1e-9)
    assert instrument.get_field_of_view(ELECTRON) == pytest.approx(WIDTH)


def test_the_lens_stays_within_the_limits_given(instrument):
    here = instrument.get_working_distance(ELECTRON) * 1e3
    microscope = MicroscopeOfFibsem(instrument)
    with pytest.raises(semdrivers.OutOfRangeError):
        microscope.working_distance = here + 1.1
    with pytest.raises(semdrivers.InvalidParameterError, match="ION"):
        run_auto_focus(instrument, BeamType.ION)
    assert instrument.get_working_distance(ELECTRON) * 1e3 == pytest.approx(here)


def test_a_lens_that_does_not_follow_is_a_fault(instrument, monkeypatch):
    monkeypatch.setattr(instrument, "set_working_distance", lambda wd, beam_type: wd)
    microscope = MicroscopeOfFibsem(instrument)
    with pytest.raises(semdrivers.DeviceError, match="was set to"):
        microscope.working_distance = microscope.working_distance + 0.5


def test_both_ways_it_is_a_microscope(microscope):
    both = MicroscopeOfFibsem(FibsemLike(microscope), working_distance=(5.0, 30.0))
    assert isinstance(both, semdrivers.Microscope)
    both.working_distance = 12.0
    both.magnification = 2000
    assert (microscope.working_distance, microscope.magnification) == (12.0, 2000.0)
    image = both.acquire(semdrivers.ScanMode.STANDARD)
    assert image.pixels.shape == (480, 640)
    assert image.pixel_size == pytest.approx(100.0, rel=0.01)
    assert np.ptp(image.pixels) > 0


def test_a_lens_that_a_hand_moved_is_focused_again(instrument, told):
    held = FocusedFibsem(instrument, method="told")
    assert held.acquire_image(SHOT).focus_record["lens_offset"] == pytest.approx(0.0, abs=1e-6)
    instrument.set_working_distance(told.sent[0] / 1e3 + 1e-5, ELECTRON)
    assert held.acquire_image(SHOT).focus_record["lens_offset"] == pytest.approx(0.0, abs=1e-6)
    assert told.runs == 2


def test_two_ways_to_one_fibsem_microscope_exclude_each_other(instrument, told):
    def beside(taken: int) -> None:
        with pytest.raises(semdrivers.BusyError):
            run_auto_focus(instrument, hfw=WIDTH, method="told")

    told.at_frame = beside
    assert FocusedFibsem(instrument, method="told").acquire_image(SHOT).focus_record["status"] == "focused"
    assert told.runs == 1


def test_an_address_opens_fibsems_own_session():
    """What fibsem drives has detector, stigmator, beam and stage, and its serial number."""
    with semdrivers.connect("fibsem://?manufacturer=Demo&working_distance=2:8") as opened:
        fibsem = opened.fibsem
        assert opened.capabilities.serial == str(fibsem.system.info.serial_number)
        limits = opened.capabilities.working_distance
        assert (limits.minimum, limits.maximum) == (2.0, 8.0)
        opened.contrast = 0.25
        assert fibsem.get_detector_contrast(ELECTRON) == 0.25
        opened.stigmator = (0.1, -0.2)
        assert (fibsem.get_stigmation(ELECTRON).x, opened.stigmator) == (0.1, (0.1, -0.2))
        opened.beam_on = False
        assert fibsem.is_blanked(ELECTRON)
        with pytest.raises(semdrivers.InterlockError, match="off or blanked"):
            opened.acquire()
        opened.beam_on = True
        assert opened.acquire(semdrivers.ScanMode("SURVEY", 768, 512)).pixels.shape == (512, 768)
    with pytest.raises(semdrivers.NotConnectedError):
        opened.acquire()
    for wrong, words in (("/nowhere.yaml", "no file"), ("?working_distance=8:2", "LOW:HIGH"), ("?lens=1", "no option")):
        with pytest.raises(semdrivers.InvalidParameterError, match=words):
            semdrivers.connect(f"fibsem://{wrong}")
    with pytest.raises(semdrivers.NotConnectedError, match="fibsem could not connect"):
        semdrivers.connect("fibsem://?manufacturer=Thermo")


def test_limits_that_autoscript_reports_are_kept(demo, monkeypatch):
    limits = SimpleNamespace(min=0.002, max=0.012)
    beam = SimpleNamespace(working_distance=SimpleNamespace(limits=limits))
    connection = SimpleNamespace(beams=SimpleNamespace(electron_beam=beam))
    monkeypatch.setattr(demo, "connection", connection, raising=False)
    reported = MicroscopeOfFibsem(demo).capabilities.working_distance
    assert (reported.minimum, reported.maximum) == pytest.approx((2.0, 12.0))


def test_a_field_that_the_instrument_cuts_is_named_at_once(instrument, monkeypatch):
    set_field = type(instrument).set_field_of_view
    monkeypatch.setattr(instrument, "set_field_of_view", lambda hfw, beam: set_field(instrument, max(hfw, 5e-6), beam))
    with pytest.raises(semdrivers.DeviceError, match="magnification was set to 64000 and reads 25600"):
        MicroscopeOfFibsem(instrument).magnification = 64000


class OddFibsem(FibsemLike):
    """A fibsem microscope that answers what it should not."""

    def get_working_distance(self, beam_type):
        return self.odd.get("lens", super().get_working_distance(beam_type))

    def get_field_of_view(self, beam_type):
        return self.odd.get("field", super().get_field_of_view(beam_type))

    def get_stage_position(self):
        return self.odd.get("stage", super().get_stage_position())

    def move_stage_absolute(self, position):
        """Say that all is well and do nothing."""

    def acquire_image(self, image_settings=None, beam_type=None):
        if "image" in self.odd:
            return SimpleNamespace(data=self.odd["image"])
        raise ConnectionResetError("the maker's server has gone")


@pytest.mark.parametrize(
    ("odd", "act", "message"),
    [
        ({"lens": float("nan")}, lambda m: m.working_distance, "working distance reads nan"),
        ({"lens": None}, lambda m: setattr(m, "working_distance", 12.0), "working distance reads None"),
        ({"field": None}, lambda m: m.magnification, "field of view reads None"),
        ({"field": 0.0}, lambda m: m.magnification, "reading magnification"),
        ({"stage": SimpleNamespace(x=None, y=0.0)}, lambda m: m.stage_position, "stage x reads None"),
        ({}, lambda m: m.move_stage(0.5, 0.5), "stage x was set to 0.5 mm and reads 0 mm"),
        ({}, lambda m: m.acquire(), "taking an image: ConnectionResetError: the maker's server has gone"),
        ({"image": None}, lambda m: m.acquire(), "returns no picture of grey levels"),
        ({"image": np.zeros((240, 320, 3), np.uint8)}, lambda m: m.acquire(), "returns no picture of grey levels"),
    ],
)
def test_what_makes_no_sense_is_named(odd, act, message):
    with semdrivers.connect("emulator://tin-balls?seed=1") as inner:
        OddFibsem.odd = {}
        microscope = MicroscopeOfFibsem(OddFibsem(inner), working_distance=(5.0, 30.0))
        OddFibsem.odd = odd
        with pytest.raises(semdrivers.SemDriversError, match=message):
            act(microscope)
