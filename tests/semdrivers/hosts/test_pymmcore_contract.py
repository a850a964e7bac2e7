"""What a core asks of any camera, stage, focus drive and shutter, asked of ours through the core's public calls."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import semdrivers

pytest.importorskip("pymmcore_plus", reason="pymmcore-plus is not installed: pip install '.[pymmcore]'")

import useq
from pymmcore_plus import DeviceType, PixelFormat, PropertyType
from pymmcore_plus.experimental.unicore import UniMMCore

from semdrivers.hosts.pymmcore import autofocus_before, follow, load_microscope


@pytest.fixture
def deep(emulator):
    """A core whose frames are of 16 bits."""
    with semdrivers.connect(emulator.url, bits=16) as microscope:
        core = UniMMCore()
        load_microscope(core, microscope)
        yield core
        core.unloadAllDevices()


def test_every_device_has_its_type_and_is_initialized(core):
    types = {label: core.getDeviceType(label) for label in ("Camera", "WorkingDistance", "Stage", "Beam")}
    assert types == {
        "Camera": DeviceType.Camera,
        "WorkingDistance": DeviceType.Stage,
        "Stage": DeviceType.XYStage,
        "Beam": DeviceType.Shutter,
    }
    assert (core.getCameraDevice(), core.getFocusDevice()) == ("Camera", "WorkingDistance")
    assert (core.getXYStageDevice(), core.getShutterDevice()) == ("Stage", "Beam")
    assert not any(core.deviceBusy(label) for label in types)
    core.waitForSystem()


def test_the_properties_of_the_camera(core, microscope):
    names = core.getDevicePropertyNames("Camera")
    assert {"ScanMode", "Magnification", "PixelType", "PixelFormat", "Binning", "Exposure"} <= set(names)
    for name in names:
        core.getProperty("Camera", name)
    assert core.isPropertyReadOnly("Camera", "PixelType")
    assert not core.isPropertyReadOnly("Camera", "Magnification")
    assert core.getPropertyType("Camera", "Magnification") == PropertyType.Float
    assert list(core.getAllowedPropertyValues("Camera", "ScanMode")) == [
        mode.name for mode in microscope.capabilities.scan_modes
    ]
    limits = microscope.capabilities.magnification
    assert core.hasPropertyLimits("Camera", "Magnification")
    assert core.getPropertyLowerLimit("Camera", "Magnification") == limits.minimum
    assert core.getPropertyUpperLimit("Camera", "Magnification") == limits.maximum
    for wrong in ("HUGE", ""):
        with pytest.raises((ValueError, RuntimeError)):
            core.setProperty("Camera", "ScanMode", wrong)
    with pytest.raises((ValueError, RuntimeError)):
        core.setProperty("Camera", "Magnification", 2 * limits.maximum)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_core_knows_a_frame_before_the_first(emulator, bits):
    with semdrivers.connect(emulator.url, bits=bits) as microscope:
        core = UniMMCore()
        load_microscope(core, microscope)
        assert core.getBytesPerPixel() == bits // 8
        assert core.getImageBitDepth() == bits
        assert core.getProperty("Camera", "PixelType") == f"{bits}bit"
        assert core.getProperty("Camera", "PixelFormat") == {8: PixelFormat.MONO8, 16: PixelFormat.MONO16}[bits]
        assert core.getImageBufferSize() == 320 * 240 * bits // 8
        assert (core.getImageWidth(), core.getImageHeight(), core.getNumberOfComponents()) == (320, 240, 1)
        foreseen = core.getPixelSizeUm()
        pixels = core.snap()
        assert pixels.nbytes == 320 * 240 * bits // 8
        assert foreseen == core.getPixelSizeUm() == pytest.approx(microscope.acquire().pixel_size / 1000)
        core.unloadAllDevices()


def test_with_the_beam_off_a_microscope_loads_and_the_first_frame_tells_the_rest(microscope):
    microscope.beam_on = False
    core = UniMMCore()
    load_microscope(core, microscope)
    assert (core.getPixelSizeUm(), core.getBytesPerPixel()) == (0.0, 1)
    core.setAutoShutter(True)
    core.snap()
    assert core.getPixelSizeUm() > 0
    core.unloadAllDevices()


def test_pixel_size_and_affine_follow_magnification_and_mode(core, microscope):
    def check():
        size = (
            microscope.acquire(getattr(semdrivers.ScanMode, core.getProperty("Camera", "ScanMode"))).pixel_size / 1000
        )
        assert core.getPixelSizeUm() == pytest.approx(size, rel=1e-3)
        assert core.getPixelSizeUm(True) == pytest.approx(size, rel=1e-3)
        assert core.getPixelSizeAffine() == pytest.approx((size, 0, 0, 0, size, 0), rel=1e-3)

    check()
    core.setProperty("Camera", "Magnification", 1234)
    check()
    core.setProperty("Camera", "ScanMode", "STANDARD")
    check()
    microscope.magnification = 5000  # a hand at the instrument: the next frame shows it
    core.snap()
    check()


def test_who_listens_to_the_pixel_size_may_ask_the_core(core):
    heard = []
    core.events.pixelSizeChanged.connect(lambda *_: heard.append((core.getPixelSizeUm(), core.getPixelSizeAffine())))

    def work():
        core.setProperty("Camera", "Magnification", 2000)
        core.snap()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "asking the core while it is told the pixel size does not end"
    assert heard


def test_a_sequence_is_delivered_whole_and_stops(core):
    core.startSequenceAcquisition(3, 0, True)
    until = time.monotonic() + 20
    while core.isSequenceRunning() and time.monotonic() < until:
        time.sleep(0.01)
    assert core.getRemainingImageCount() == 3
    for number in range(3):
        pixels, metadata = core.popNextImageAndMD()
        assert (pixels.shape, pixels.dtype) == ((240, 320), np.uint8)
        assert metadata["Camera"] == "Camera"
        assert metadata["ImageNumber"] == str(number)
    core.startContinuousSequenceAcquisition()
    until = time.monotonic() + 20
    while not core.getRemainingImageCount() and time.monotonic() < until:
        time.sleep(0.01)
    core.stopSequenceAcquisition()
    assert not core.isSequenceRunning()


def test_the_sequence_of_a_deep_camera_says_so(deep):
    deep.startSequenceAcquisition(1, 0, True)
    until = time.monotonic() + 20
    while deep.isSequenceRunning() and time.monotonic() < until:
        time.sleep(0.01)
    pixels, metadata = deep.popNextImageAndMD()
    assert (pixels.dtype, metadata["PixelType"]) == (np.uint16, "GRAY16")


def test_relative_moves_add_up(core, microscope):
    core.setXYPosition(100.0, 200.0)
    core.setRelativeXYPosition(50.0, -50.0)
    assert core.getXYPosition() == pytest.approx((150.0, 150.0))
    core.setPosition(13000.0)
    core.setRelativePosition(-500.0)
    assert core.getPosition() == pytest.approx(12500.0)
    assert microscope.working_distance == pytest.approx(12.5)


@pytest.fixture
def shutter(microscope, monkeypatch):
    """Whether the beam is on at each frame."""
    lit, acquire = [], microscope.acquire

    def watched(mode=semdrivers.ScanMode.FAST):
        lit.append(microscope.beam_on)
        return acquire(mode)

    monkeypatch.setattr(microscope, "acquire", watched)
    return lit


def test_under_auto_shutter_the_beam_is_on_for_a_frame_alone(core, microscope, shutter):
    core.setAutoShutter(True)
    core.setShutterOpen(False)
    for _ in range(2):
        assert core.snap().shape == (240, 320)
        assert microscope.beam_on is False
    core.startSequenceAcquisition(2, 0, True)
    until = time.monotonic() + 20
    while core.isSequenceRunning() and time.monotonic() < until:
        time.sleep(0.01)
    core.stopSequenceAcquisition()
    assert (core.getRemainingImageCount(), microscope.beam_on) == (2, False)
    assert shutter == [True] * 4


def test_under_auto_shutter_an_open_beam_stays_open(core, microscope):
    core.setAutoShutter(True)
    core.snap()
    assert microscope.beam_on is True


def test_under_auto_shutter_a_failed_frame_leaves_the_beam_off(core, microscope, monkeypatch):
    def fail(mode):
        raise semdrivers.HardwareFault("the detector is dead")

    core.setAutoShutter(True)
    core.setShutterOpen(False)
    monkeypatch.setattr(microscope, "acquire", fail)
    with pytest.raises(semdrivers.HardwareFault):
        core.snap()
    assert microscope.beam_on is False


def test_an_acquisition_under_auto_shutter_focuses_with_the_beam_on(core, microscope, frames, told, shutter):
    core.setAutoShutter(True)
    core.setShutterOpen(False)
    with autofocus_before(core, microscope, every=1, method="told"):
        core.mda.run(useq.MDASequence(stage_positions=[(0, 0), (9000, 0)]))
    assert (len(frames), told.runs) == (2, 2)
    assert shutter == [True] * (2 + 2 * 6)
    assert microscope.beam_on is False
    core.mda.run(useq.MDASequence(stage_positions=[(0, 0), (9000, 0)]))
    assert len(frames) == 4, "without autofocus too"
    assert [meta["pixel_size_um"] > 0 for _, _, meta in frames] == [True] * 4


def test_a_frame_that_the_instrument_refuses_ends_the_acquisition(core, microscope, frames, told):
    """The core's own engine logs it and goes on, a picture short."""
    told.at_frame = lambda taken: taken == 6 and setattr(microscope, "beam_on", False)
    with pytest.raises(semdrivers.InterlockError), autofocus_before(core, microscope, method="told"):
        core.mda.run(useq.MDASequence(stage_positions=[(0, 0), (500, 0)]))
    assert frames == []


def test_a_lens_that_a_hand_moved_is_focused_again(core, microscope, frames, told):
    hand = iter([True, False, False])
    core.mda.events.frameReady.connect(lambda *_: next(hand) and setattr(microscope, "working_distance", 15.0))
    with autofocus_before(core, microscope, method="told"):
        core.mda.run(useq.MDASequence(stage_positions=[(0, 0), (10, 0), (20, 0)]))
    assert told.runs == 2
    assert [meta["autofocus"]["lens_offset"] for _, _, meta in frames] == pytest.approx([0.0] * 3, abs=0.001)


def test_planned_heights_are_no_disturbance(core, microscope, frames, told):
    planned = microscope.working_distance * 1000
    with autofocus_before(core, microscope, method="told"):
        core.mda.run(useq.MDASequence(stage_positions=[(0, 0, planned), (500, 0, planned + 300)]))
    assert (told.runs, len(frames)) == (1, 2)


def test_two_acquisitions_do_not_keep_one_microscope(core, microscope, told):
    with (
        autofocus_before(core, microscope, method="told"),
        pytest.raises(semdrivers.BusyError, match="kept in focus"),
        autofocus_before(core, microscope, method="told"),
    ):
        pass


def test_a_configuration_file_gives_pixel_size_and_auto_shutter(tmp_path, emulator):
    devices = {"Cam": "MicroscopeCamera", "Blanker": "BeamShutter"}
    lines = [f"#py pyDevice,{label},semdrivers.hosts.pymmcore,{name}" for label, name in devices.items()]
    lines += [f"#py Property,{label},Address,{emulator.url}" for label in devices]
    lines += ["Property,Core,Initialize,1", "Property,Core,AutoShutter,1"]
    lines += ["#py Property,Core,Camera,Cam", "#py Property,Core,Shutter,Blanker"]
    path = tmp_path / "sem.cfg"
    path.write_text("\n".join(lines) + "\n")
    core = UniMMCore()
    core.loadSystemConfiguration(path)
    follow(core)
    assert core.getPixelSizeUm() > 0
    core.setShutterOpen(False)
    assert core.snap().shape == (240, 320)
    assert core.getShutterOpen() is False
    core.unloadAllDevices()
    with pytest.raises(semdrivers.InvalidParameterError, match="no MicroscopeCamera"):
        follow(core)
