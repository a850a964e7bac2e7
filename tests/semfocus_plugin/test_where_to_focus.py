"""Where a run looks: a part of the frame, beside the target, around it; the stage is back in any case."""

from __future__ import annotations

import numpy as np
import pytest

import semdrivers
from semdrivers import FocusMap, InvalidParameterError, OutOfRangeError
from semdrivers.emulator import Emulator
from semfocus_plugin.lab.benchmark.column import MARGIN, SimulatedColumn


@pytest.fixture(scope="module")
def half_flat():
    """A sample with detail at x > 0 and none at x < 0, 40 nm a pixel, flat and level."""
    noise = np.fft.rfft2(np.random.default_rng(0).standard_normal((1024, 2048)))
    frequency = np.hypot(np.fft.fftfreq(1024)[:, None], np.fft.rfftfreq(2048))
    field = np.fft.irfft2(noise / np.maximum(frequency, 0.02) ** 0.8, (1024, 2048))
    field = 255 * (field - field.min()) / np.ptp(field)
    field[:, :1024] = field.mean()
    return field.astype(np.uint8)


@pytest.fixture
def emulator(half_flat):
    with Emulator(half_flat, pixel_size=40.0, magnification=5000, seed=3, tilt=0.0) as emulator:
        yield emulator


@pytest.fixture
def microscope(emulator):
    with semdrivers.connect(emulator.url) as microscope:
        yield microscope


def error_of(result, emulator):
    truth = emulator.truth
    return abs(result.working_distance - truth.working_distance) / truth.depth_of_field


def test_a_part_of_the_frame_is_focused_on(emulator, microscope):
    right = microscope.autofocus(region=(0.5, 0.0, 1.0, 1.0))
    assert right.focused
    assert error_of(right, emulator) < 1
    assert right.provenance["settings"]["scan_mode"] == "STANDARD"  # Half of FAST is too small
    microscope.move_stage(-0.014, 0.0)  # All of the left half, and more, is flat now
    assert microscope.autofocus(region=(0.0, 0.0, 0.5, 1.0)).status == "refused"


def test_an_edge_at_the_border_of_a_part_is_no_sample():
    """Blur brings in what lies beyond the border: such a part shows more out of focus than in focus."""
    field = np.full((1024, 2048), 60, np.uint8)
    field[:, 1024:] = 200
    with (
        Emulator(field, pixel_size=40.0, magnification=5000, seed=11, tilt=0.0) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        truth = emulator.truth
        microscope.working_distance = round(truth.working_distance + 3 * truth.depth_of_field, 3)
        result = microscope.autofocus(region=(0.0, 0.0, 0.5, 1.0))
    assert result.status == "refused"


@pytest.mark.parametrize(("start", "wavelength", "faint"), [(7, 0.0, 0.0), (-9, 27.4e-9, 0.02)])
def test_an_edge_at_the_border_of_the_frame_is_no_sample(start, wavelength, faint):
    sample = np.full((240 + 2 * MARGIN, 320 + 2 * MARGIN), 0.25, np.float32)
    sample[:, MARGIN + 320 :] = 0.8
    sample += faint * np.random.default_rng(11).normal(size=sample.shape).astype(np.float32)
    aperture, pixel = (0.12, 20e-6) if wavelength else (0.045, 80e-6)
    core = max(10e-6, 0.61 * wavelength / (aperture / 15.0))
    column = SimulatedColumn(sample, pixel, 15.0, aperture, core, 15.0, wavelength=wavelength, seed=11)
    column.position += start * column.depth_of_field
    result = semdrivers.autofocus(column, learn_aperture=False)
    assert result.status == "refused"
    assert "border" in result.reason or "nothing" in result.reason


def test_a_blob_beyond_the_border_of_the_frame_is_no_sample():
    y, x = np.mgrid[: 240 + 2 * MARGIN, : 320 + 2 * MARGIN]
    blob = np.hypot(x - MARGIN - 320 - 65, y - 120 - MARGIN) < 60
    sample = np.where(blob, 0.8, 0.25).astype(np.float32)
    sample += 0.02 * np.random.default_rng(11).normal(size=sample.shape).astype(np.float32)
    column = SimulatedColumn(sample, 80e-6, 15.0, 0.045, 10e-6, 15.0, seed=11)
    column.position -= 4 * column.depth_of_field
    result = semdrivers.autofocus(column, learn_aperture=False)
    assert result.status == "refused"


def test_a_part_that_is_too_small_is_refused_before_anything_moves(emulator, microscope):
    start = microscope.working_distance
    for region, mode in (((0.0, 0.0, 0.1, 0.1), None), ((0.0, 0.0, 0.5, 1.0), semdrivers.ScanMode.FAST)):
        with pytest.raises(InvalidParameterError, match="320×240"):
            microscope.autofocus(region=region, scan_mode=mode)
    for region in ((0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.1, 1.0)):
        with pytest.raises(OutOfRangeError, match="region"):
            microscope.autofocus(region=region)
    with pytest.raises(InvalidParameterError, match="x0, y0, x1, y1"):
        microscope.autofocus(region=(0.0, 1.0))
    assert microscope.working_distance == start


def test_the_focus_is_measured_beside_the_target_and_the_stage_comes_back(emulator, microscope):
    microscope.move_stage(-0.02, 0.0)
    known = FocusMap()
    result = microscope.autofocus(focus_offset=(0.04, 0.0), map=known)
    assert result.focused
    assert error_of(result, emulator) < 1
    assert microscope.stage_position == pytest.approx((-0.02, 0.0), abs=0.0011)
    assert result.measured_at == pytest.approx((0.02, 0.0), abs=0.0011)
    assert [(point.x, point.y) for point in known.points] == [result.measured_at]
    assert semdrivers.AutofocusResult.from_dict(result.to_dict()).measured_at == result.measured_at
    assert microscope.focus_record["measured_at"] == list(result.measured_at)


def test_the_stage_comes_back_whatever_ends_the_run(microscope):
    microscope.move_stage(-0.02, 0.0)
    place, start = microscope.stage_position, microscope.working_distance

    def broken(step):
        raise RuntimeError("the display broke")

    with pytest.raises(RuntimeError, match="display"):
        microscope.autofocus(focus_offset=(0.04, 0.0), progress=broken)
    assert microscope.stage_position == place
    assert microscope.autofocus(focus_offset=(-0.01, 0.0), max_frames=6).status == "refused"
    assert microscope.stage_position == place
    with pytest.raises(OutOfRangeError):
        microscope.autofocus(focus_offset=(1e3, 0.0))
    assert microscope.stage_position == place
    assert microscope.working_distance == start


@pytest.mark.parametrize("stuck", [1, 2])
def test_a_stage_that_does_not_go_where_it_is_sent_is_named(microscope, stuck):
    """There, the target would not be spared; and back, the next picture would be of another place."""

    class Stuck:
        capabilities, moves = microscope.capabilities, 0
        working_distance, magnification, acquire, stage_position, close = (
            property(lambda self, name=name: getattr(microscope, name))
            for name in ("working_distance", "magnification", "acquire", "stage_position", "close")
        )

        def move_stage(self, x, y):
            self.moves += 1
            return microscope.stage_position if self.moves == stuck else microscope.move_stage(x, y)

    bench = Stuck()
    place = microscope.stage_position
    with pytest.raises(semdrivers.DeviceError, match=r"the stage stands at .* where it was sent"):
        semdrivers.autofocus(bench, focus_offset=(0.04, 0.0), max_frames=1)
    assert microscope.stage_position == place


def test_contrast_is_looked_for_around_a_place_that_shows_nothing(emulator, microscope):
    microscope.move_stage(-0.02, 0.0)
    steps = []
    result = microscope.autofocus(move_to_contrast=True, contrast_radius=0.08, max_frames=40, progress=steps.append)
    assert result.focused
    assert error_of(result, emulator) < 1
    assert result.measured_at[0] > 0.005
    assert microscope.stage_position == pytest.approx((-0.02, 0.0), abs=0.0011)
    assert "at the target" in result.reason
    assert [step.index for step in steps] == [step.index for step in result.trace] == list(range(result.frames))
    few = microscope.autofocus(move_to_contrast=True, contrast_radius=0.01, max_frames=8)
    assert few.status == "refused"
    assert few.frames <= 8
    assert microscope.stage_position == pytest.approx((-0.02, 0.0), abs=0.0011)


def test_without_a_stage_nothing_is_looked_for_elsewhere():
    class Bench:
        capabilities = semdrivers.Capabilities(semdrivers.Range(1.0, 50.0), semdrivers.Range(20, 1e5))
        working_distance, magnification = 15.0, 5000.0

        def acquire(self, mode):
            raise AssertionError("nothing may be scanned")

        def close(self):
            pass

    for settings in ({"focus_offset": (0.1, 0.0)}, {"move_to_contrast": True}):
        with pytest.raises(InvalidParameterError, match="needs a stage"):
            semdrivers.autofocus(Bench(), **settings)
