"""Scan modes of any size, and values that an instrument cuts or ignores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import semdrivers
from semdrivers.base import WrappedMicroscope
from semdrivers.conformance import CHECKS, run_check
from semdrivers.image import SCAN_MODES
from semdrivers.microscope import check_read_back, offered_mode
from semdrivers.sessions import Recorder

LARGE = semdrivers.ScanMode("1024x768", 1024, 768)
SMALL = semdrivers.ScanMode("128x128", 128, 128)
WIDE = semdrivers.ScanMode("400x200", 400, 200)
URL = "emulator://tin-balls?seed=3&magnification=2000&rasters=1024x768"


class OtherSizes(WrappedMicroscope):
    """A microscope that offers a small and a large frame alone, and one magnification."""

    @property
    def capabilities(self):
        here = self._microscope.magnification
        fixed = semdrivers.Range(here, here)
        return dataclasses.replace(self._microscope.capabilities, scan_modes=(LARGE,), magnification=fixed)

    def _write(self, name, value):
        if name == "magnification":
            value = self.capabilities.magnification.check("magnification", value)
        super()._write(name, value)

    def acquire(self, mode=LARGE):
        return super().acquire(mode)


class TooSmall(WrappedMicroscope):
    """A microscope that offers two frames, each too small in its own way, and notes what it does."""

    def __init__(self, microscope):
        super().__init__(microscope)
        self._did = []

    @property
    def capabilities(self):
        return dataclasses.replace(self._microscope.capabilities, scan_modes=(SMALL, WIDE))

    def _write(self, name, value):
        self._did.append(name)
        super()._write(name, value)

    def acquire(self, mode=SMALL):
        self._did.append(mode)
        return super().acquire(mode)


def test_a_mode_is_a_value():
    assert semdrivers.ScanMode("FAST", 320, 240) == semdrivers.ScanMode.FAST
    assert len({semdrivers.ScanMode.FAST, semdrivers.ScanMode("FAST", 320, 240), LARGE}) == 2
    assert [str(mode) for mode in SCAN_MODES] == ["FAST", "STANDARD", "SLOW"]


@pytest.mark.parametrize("mode", [*SCAN_MODES, LARGE, semdrivers.ScanMode("slow scan", 512, 442, 3.2e-06)])
def test_the_text_of_a_mode_is_read_back(mode):
    assert semdrivers.ScanMode.parse(str(mode)) == mode


@pytest.mark.parametrize("text", ["", "fastest", "A 0x3", "A 12x", "A 3x3 nan", "12x12"])
def test_the_text_of_another_program_is_no_mode(text):
    assert semdrivers.ScanMode.parse(text) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 320, 240), "name of a scan mode"),
        (("A", 320.0, 240), "width must be a whole number"),
        (("A", 320, 0), "height must be at least 1 pixel, not 0"),
        (("A", 320, 240, 0.0), "dwell must be finite and above 0 s, not 0"),
        (("A", 320, 240, "fast"), "dwell must be a time in s"),
    ],
)
def test_a_mode_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        semdrivers.ScanMode(*arguments)


def test_the_fastest_mode_that_is_large_enough_is_chosen():
    told = semdrivers.Capabilities(semdrivers.Range(1, 2), semdrivers.Range(1, 2), (SMALL, LARGE, SCAN_MODES[2]))
    assert offered_mode(told) == LARGE
    assert offered_mode(told, semdrivers.ScanMode.FAST) == LARGE
    assert offered_mode(told, SMALL) == SMALL
    assert offered_mode(dataclasses.replace(told, scan_modes=(SMALL,))) == SMALL
    with pytest.raises(semdrivers.InvalidParameterError, match="STANDARD is not offered; the instrument has 128x128"):
        offered_mode(told, semdrivers.ScanMode.STANDARD)


def test_the_fastest_mode_whose_part_is_large_enough_is_chosen():
    offered = semdrivers.Capabilities(semdrivers.Range(1, 2), semdrivers.Range(1, 2), SCAN_MODES)
    wide, high = (0.0, 0.5, 1.0, 1.0), (0.5, 0.0, 1.0, 1.0)
    for part in (wide, high):
        assert offered_mode(offered, None, part) == semdrivers.ScanMode.STANDARD
    for part in ((0.0, 0.0, 1.0, 0.49), (0.0, 0.0, 0.49, 1.0)):
        assert offered_mode(offered, None, part) == semdrivers.ScanMode.SLOW
    assert offered_mode(offered, None, (0.0, 0.0, 1.0, 1.0)) == semdrivers.ScanMode.FAST


def test_an_emulator_lists_its_further_sizes_and_its_frames_keep_them(tmp_path):
    with semdrivers.connect(URL) as microscope:
        assert microscope.capabilities.scan_modes == (*SCAN_MODES[:2], LARGE, SCAN_MODES[2])
        image = microscope.acquire(LARGE)
    assert image.pixels.shape == (768, 1024)
    assert semdrivers.read_image(image.save(tmp_path / "a.ome.tif")).scan_mode == LARGE


def test_a_recording_keeps_sizes_and_replays_them(tmp_path):
    with Recorder(semdrivers.connect(URL), tmp_path / "session") as recorder:
        taken = recorder.acquire(LARGE)
    with semdrivers.connect(f"replay://{tmp_path / 'session'}") as replay:
        assert LARGE in replay.capabilities.scan_modes
        assert np.array_equal(replay.acquire(LARGE).pixels, taken.pixels)


@pytest.mark.slow
def test_a_microscope_with_other_frames_and_one_magnification_keeps_the_contract():
    microscope = OtherSizes(semdrivers.connect(URL))
    outcomes = [run_check(check, microscope) for check in CHECKS if "autofocus" not in check.__name__]
    assert [outcome for outcome in outcomes if outcome.status == "failed"] == []
    skipped = {outcome.name for outcome in outcomes if outcome.status == "skipped"}
    assert {"magnification changes", "pixel size follows magnification"} <= skipped


@pytest.mark.slow
def test_autofocus_works_on_large_frames_alone():
    pytest.importorskip("semfocus_plugin")
    from semdrivers.emulator import Emulator

    with Emulator("tin-balls", seed=3, magnification=2000, rasters="1024x768") as emulator:
        microscope = OtherSizes(semdrivers.connect(emulator.url))
        result = semdrivers.autofocus(microscope)
        truth = emulator.truth
        microscope.close()
    assert result.focused, result.reason
    assert abs(result.working_distance - truth.working_distance) < truth.depth_of_field


@pytest.mark.parametrize("mode", [None, SMALL])
def test_frames_that_are_all_too_small_are_named_before_anything_is_scanned(mode):
    """The networks read 320×240 pixels."""
    with semdrivers.connect(URL) as inner:
        microscope = TooSmall(inner)
        modes = r"128x128 \(128×128\), 400x200 \(400×200\)" if mode is None else r"128x128 \(128×128\)"
        with pytest.raises(semdrivers.InvalidParameterError, match=f"scan mode {modes} has less than the 320×240"):
            semdrivers.autofocus(microscope, scan_mode=mode)
        with pytest.raises(semdrivers.InvalidParameterError, match="enlarge region"):
            semdrivers.autofocus(inner, region=(0.0, 0.0, 0.5, 1.0), scan_mode=semdrivers.ScanMode.FAST)
        assert microscope._did == []


def test_a_read_back_of_six_digits_is_equal_and_another_is_named():
    check_read_back("working distance", 12.345678, 12.3457, 0.0, "mm")
    with pytest.raises(semdrivers.DeviceError, match="working distance was set to 80 mm and reads 60 mm"):
        check_read_back("working distance", 80, 60, 0.001, "mm")
    with pytest.raises(semdrivers.DeviceError, match="reads nan"):
        check_read_back("working distance", 80, float("nan"), 0.001, "mm")
