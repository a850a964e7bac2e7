"""``micromanager://`` and `MicroscopeOfCore`, on Micro-Manager's own C++ demo camera and drives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import semdrivers

pytest.importorskip("pymmcore_plus", reason="pymmcore-plus is not installed: pip install '.[pymmcore]'")

from pymmcore_plus import CMMCorePlus

from semdrivers.hosts.pymmcore import MicroscopeOfCore

OPTICS = "numerical_aperture=0.3&working_distance=-0.2:0.2"


@pytest.fixture
def microscope(demo_camera) -> Iterator[Any]:
    with semdrivers.connect(f"micromanager://{demo_camera}?{OPTICS}".replace(" ", "%20")) as opened:
        yield opened


@pytest.fixture
def core(demo_camera) -> Iterator[CMMCorePlus]:
    core = CMMCorePlus()
    core.loadSystemConfiguration(demo_camera)
    yield core
    core.unloadAllDevices()


def test_it_says_what_the_core_says(microscope):
    about = microscope.capabilities
    assert about.model == "Micro-Manager: Camera, Z"
    assert about.scan_modes == (semdrivers.ScanMode("CAMERA", 512, 512),)
    assert (about.bit_depth, about.numerical_aperture) == (12, 0.3)
    assert microscope.magnification == about.magnification.minimum == pytest.approx(128e6 / (500 * 512))
    image = microscope.acquire()
    assert (image.pixels.dtype, image.pixels.shape, image.pixel_size) == ("uint16", (512, 512), 500.0)
    assert (image.bit_depth, image.working_distance) == (12, 0.0)


@pytest.mark.parametrize("start", [0.08, -0.05])
def test_autofocus_finds_the_beads_from_either_side(microscope, start):
    """Their focus is at z = 0; a pixel of blur is 1.6 µm away."""
    pytest.importorskip("semfocus_plugin")
    microscope.working_distance = start
    result = microscope.autofocus()
    assert result.focused, result.reason
    assert abs(microscope.working_distance) < 0.002
    assert microscope.acquire().metadata["autofocus"]["status"] == "focused"


def test_z_is_in_honest_millimetres_of_either_sign(core):
    microscope = MicroscopeOfCore(core, numerical_aperture=0.3, working_distance=(-0.1, 0.2))
    microscope.working_distance = -0.03
    assert core.getPosition() == pytest.approx(-30.0)
    core.setPosition(12.5)
    assert microscope.working_distance == pytest.approx(0.0125)
    for beyond in (-0.101, 0.201):
        with pytest.raises(semdrivers.OutOfRangeError):
            microscope.working_distance = beyond
    assert core.getPosition() == pytest.approx(12.5)
    assert microscope.move_stage(0.1, -0.2) == pytest.approx((0.1, -0.2), abs=1e-4)
    assert core.getXPosition() == pytest.approx(100.0, abs=0.1)


def test_without_limits_it_stays_near_where_it_stands(core):
    core.setPosition(-70.0)
    limits = MicroscopeOfCore(core, numerical_aperture=0.3).capabilities.working_distance
    assert (limits.minimum, limits.maximum) == pytest.approx((-0.12, -0.02))
    with pytest.raises(semdrivers.OutOfRangeError, match="where the focus drive Z stands"):
        MicroscopeOfCore(core, numerical_aperture=0.3, working_distance=(0.0, 0.1))


def test_half_angle_comes_from_aperture_and_index(core):
    about = MicroscopeOfCore(core, numerical_aperture=1.4, index=1.515).capabilities
    assert about.numerical_aperture == pytest.approx(1.4 / 1.515)
    assert about.probe_diameter == pytest.approx(200, abs=1)
    with pytest.raises(semdrivers.OutOfRangeError, match="numerical_aperture"):
        MicroscopeOfCore(core, numerical_aperture=1.4)


def test_a_plain_core_will_do(demo_camera):
    pymmcore = pytest.importorskip("pymmcore")
    import mm_test_adapters

    core = pymmcore.CMMCore()
    core.setDeviceAdapterSearchPaths([mm_test_adapters.device_adapter_path()])
    core.loadSystemConfiguration(str(demo_camera))
    try:
        microscope = MicroscopeOfCore(core, numerical_aperture=0.3)
        microscope.working_distance = 0.02
        assert microscope.acquire().working_distance == pytest.approx(0.02)
    finally:
        core.unloadAllDevices()


class StuckDrive(CMMCorePlus):
    def setPosition(self, *_):
        """Say that all is well and do nothing."""


def test_a_drive_that_does_not_follow_is_named_at_once(demo_camera):
    core = StuckDrive()
    core.loadSystemConfiguration(demo_camera)
    try:
        microscope = MicroscopeOfCore(core, numerical_aperture=0.3)
        with pytest.raises(semdrivers.DeviceError, match=r"working_distance \(Z\) was set to 0.01 mm and reads 0 mm"):
            microscope.working_distance = 0.01
    finally:
        core.unloadAllDevices()


class OddCore(CMMCorePlus):
    """A core whose devices answer what they should not."""

    odd: Any = None

    def _or(self, name: str, usual: Any) -> Any:
        answer = (self.odd or {}).get(name, usual)
        return answer() if callable(answer) else answer

    def getPosition(self, *label: str) -> Any:
        return self._or("z", super().getPosition(*label))

    def getXYPosition(self, *label: str) -> Any:
        return self._or("xy", super().getXYPosition(*label))

    def getImage(self, *arguments: Any, **options: Any) -> Any:
        return self._or("image", super().getImage(*arguments, **options))


def _unplugged() -> None:
    raise OSError("the camera is unplugged")


@pytest.mark.parametrize(
    ("odd", "act", "message"),
    [
        ({"z": float("nan")}, lambda m: m.working_distance, "z of Z reads nan"),
        ({"z": None}, lambda m: m.working_distance, "z of Z reads None"),
        ({"z": float("nan")}, lambda m: setattr(m, "working_distance", 0.01), "z of Z reads nan"),
        ({"xy": (0.0, float("inf"))}, lambda m: m.stage_position, "stage y reads inf"),
        ({"xy": None}, lambda m: m.stage_position, "reading stage_position"),
        ({"image": None}, lambda m: m.acquire(), "returns no picture of grey levels"),
        ({"image": np.zeros((512, 512, 3), np.uint8)}, lambda m: m.acquire(), "returns no picture of grey levels"),
        ({"image": _unplugged}, lambda m: m.acquire(), "snapping a picture: OSError: the camera is unplugged"),
    ],
)
def test_what_makes_no_sense_is_named(demo_camera, odd, act, message):
    core = OddCore()
    core.loadSystemConfiguration(demo_camera)
    try:
        microscope = MicroscopeOfCore(core, numerical_aperture=0.3)
        core.odd = odd
        with pytest.raises(semdrivers.SemDriversError, match=message):
            act(microscope)
    finally:
        core.unloadAllDevices()


def test_what_is_missing_is_named(core, demo_camera, tmp_path):
    place = f"micromanager://{demo_camera}".replace(" ", "%20")
    with pytest.raises(semdrivers.InvalidParameterError, match="numerical_aperture= is missing"):
        semdrivers.connect(place)
    with pytest.raises(semdrivers.InvalidParameterError, match="there is no file"):
        semdrivers.connect(f"micromanager://{tmp_path}/none.cfg?{OPTICS}")
    broken = tmp_path / "broken.cfg"
    broken.write_text("Device,Camera,NoSuchAdapter,DCam\n")
    with pytest.raises(semdrivers.NotConnectedError, match="could not load"):
        semdrivers.connect(f"micromanager://{broken}?{OPTICS}")
    microscope = MicroscopeOfCore(core, numerical_aperture=0.3)
    core.startContinuousSequenceAcquisition(10)
    with pytest.raises(semdrivers.BusyError, match="live"):
        microscope.acquire()
    core.stopSequenceAcquisition()
    core.setProperty("Camera", "PixelType", "32bitRGB")
    with pytest.raises(semdrivers.InvalidParameterError, match="PixelType"):
        microscope.acquire()
    core.setProperty("Objective", "Label", "Objective-B")
    with pytest.raises(semdrivers.InvalidParameterError, match="pixel_size in nm"):
        MicroscopeOfCore(core, numerical_aperture=0.3)
    core.setFocusDevice("")
    with pytest.raises(semdrivers.InvalidParameterError, match="no focus drive"):
        MicroscopeOfCore(core, numerical_aperture=0.3)


def test_a_program_that_forgets_to_close_ends_in_peace(demo_camera):
    url = f"micromanager://{demo_camera}?{OPTICS}".replace(" ", "%20")
    code = f"import semdrivers; kept = semdrivers.connect({url!r}); print(kept.acquire().pixels.shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(512, 512)\n"), done.stderr
