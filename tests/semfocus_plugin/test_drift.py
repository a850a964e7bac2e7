"""The drift of the picture during a run: measured with its uncertainty, and followed on request."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from scipy.special import j1

import semdrivers
from semdrivers import AutofocusResult, AutofocusSettings, HasBeamShift, InvalidParameterError, OutOfRangeError
from semdrivers.emulator import Emulator
from semfocus_plugin import tiles
from semfocus_plugin.lab.benchmark.column import MARGIN, SimulatedColumn
from semfocus_plugin.optics import Frame, drift_of, shift_between

SHAPE = 240, 320


@pytest.fixture(scope="module")
def micrograph(data_folder):
    """A real picture of fibres, 0 to 1, with a margin around a FAST frame."""
    path = data_folder / "micrographs" / "fibresem_sample01_img08.tif"
    height, width = SHAPE[0] + 2 * MARGIN, SHAPE[1] + 2 * MARGIN
    part = semdrivers.read_image(path).pixels[200 : 200 + 2 * height, 300 : 300 + 2 * width].astype(np.float64)
    part = part.reshape(height, 2, width, 2).mean(axis=(1, 3))
    return ((part - part.min()) / np.ptp(part)).astype(np.float32)


def filtered(field, x=0.0, y=0.0, radius=0.0):
    """A field moved to the right and downwards, and blurred by a disc; pixels."""
    ky, kx = np.fft.fftfreq(field.shape[0])[:, None], np.fft.rfftfreq(field.shape[1])[None, :]
    argument = np.maximum(2 * math.pi * radius * np.hypot(ky, kx), 1e-9)
    spectrum = np.fft.rfft2(field) * np.exp(-2j * math.pi * (kx * x + ky * y)) * 2 * j1(argument) / argument
    return np.fft.irfft2(spectrum, field.shape)


def taken(field, seed, noise=6.0, **moved):
    """A frame of the middle of a field."""
    inside = filtered(field, **moved)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return np.clip(50 + 150 * inside + np.random.default_rng(seed).normal(0, noise, SHAPE), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.3, -0.2), (7.6, -3.4), (-40.0, 11.5)])
@pytest.mark.parametrize("radius", [0.0, 3.0, 9.0])
def test_a_shift_between_frames_of_unequal_blur(micrograph, x, y, radius):
    one, other = taken(micrograph, 1), taken(micrograph, 2, x=x, y=y, radius=radius)
    found = shift_between(one, other, radius)
    sigma = math.sqrt(np.linalg.eigvalsh(found.covariance)[-1])
    assert sigma < 0.3
    assert math.hypot(found.x - x, found.y - y) < 0.05 + 4 * sigma


def test_frames_that_do_not_show_the_same_have_no_shift(micrograph):
    random = np.random.default_rng(3)
    noise = [random.normal(120, 9, SHAPE).clip(0, 255).astype(np.uint8) for _ in range(4)]
    ramp = np.linspace(0, 60, SHAPE[1])[None, :]
    lines = 20 * np.sin(2 * math.pi * np.arange(SHAPE[1]) / 16)[None, :]
    assert shift_between(noise[0], noise[1]) is None
    assert shift_between(noise[0] + ramp, noise[1] + ramp) is None
    assert shift_between(noise[0] + lines, noise[1] + lines) is None  # A period further fits as well
    edge = np.where(np.arange(SHAPE[1]) < 150, 0, 90)[None, :]
    assert shift_between(noise[0] + edge, noise[1] + edge) is None  # It may have moved along
    assert shift_between(np.zeros(SHAPE) + edge, np.zeros(SHAPE) + edge) is None
    assert shift_between(taken(micrograph, 1), noise[0]) is None
    assert shift_between(taken(micrograph, 1), taken(micrograph[::-1], 2)) is None
    assert shift_between(taken(micrograph, 1), taken(micrograph, 2, x=170.0)) is None  # Less than half is common


def test_what_the_lens_moves_is_no_drift(micrograph):
    """2 px a mm and lens of 0.5 mm, against 0.8 px a second."""
    pixel = 100.0
    frames = []
    for k, (time, place) in enumerate(((0.0, 15.0), (1.0, 15.5), (2.0, 15.45), (3.0, 15.48))):
        x, y = 0.8 * time + 20 * (place - 15), -10 * (place - 15)
        frames.append(Frame(taken(micrograph, k, x=x, y=y), time, place, 1.0 if k else 3.0))
    vx, vy, sigma = drift_of(frames, pixel)
    assert sigma < 20
    assert math.hypot(vx - 80.0, vy) < 4 * sigma
    assert drift_of(frames[:1], pixel) is None
    assert drift_of(frames[:2], pixel) is None  # Lens and drift cannot be distinguished
    jumped = Frame(taken(micrograph, 9, x=60.0), 4.0, 15.48, 1.0)
    assert drift_of([*frames, jumped], pixel) is None  # No drift goes by jumps


class Bench:
    """A column over a sample that drifts (nm/s); a frame takes a second. `axes` multiplies what moves the field."""

    def __init__(self, sample, drift=(0.0, 0.0), axes=(1.0, 1.0), reach=1.0):
        self.sample, self.drift, self.axes, self.reach = sample, drift, axes, reach
        self.column = SimulatedColumn(sample, 80e-6, 15.0, 0.045, 60e-6, 15.0)
        self.working_distance = 15.0 + 6 * self.column.depth_of_field
        self.magnification = self.column.magnification
        self.capabilities = self.column.capabilities
        self.shift, self.count, self.sent = (0.0, 0.0), 0, []

    @property
    def moved(self):
        """By how much the picture lies beside that of the start, nm."""
        return [v * self.count - 1e6 * s * a for v, s, a in zip(self.drift, self.shift, self.axes, strict=True)]

    def acquire(self, mode=None):
        self.count += 1
        x, y = (each / 80.0 for each in self.moved)
        column = SimulatedColumn(
            filtered(self.sample, x, y).astype(np.float32), 80e-6, 15.0, 0.045, 60e-6, self.working_distance,
            seed=self.count,
        )  # fmt: skip
        image = column.acquire()
        return semdrivers.Image(
            image.pixels, image.working_distance, image.magnification, image.pixel_size, timestamp=1e9 + self.count
        )

    def close(self):
        pass


class Deflected(Bench):
    """The same with a beam shift."""

    @property
    def beam_shift(self):
        return self.shift

    @beam_shift.setter
    def beam_shift(self, value):
        if max(map(abs, value)) > self.reach:
            raise OutOfRangeError(f"the beam shift reaches {self.reach} mm")
        self.shift = tuple(map(float, value))
        self.sent.append(self.shift)


class Staged(Bench):
    """The same with a stage, which takes ten seconds to move."""

    def __init__(self, sample, drift):
        super().__init__(sample, drift)
        self.stage_position, self.places = (0.0, 0.0), []

    def move_stage(self, x, y):
        self.count += 10
        self.shift = self.stage_position = x, y
        self.places.append((x, y))
        return x, y


def focused(bench, **settings):
    return semdrivers.autofocus(bench, learn_aperture=False, **settings)


def test_a_run_reports_the_drift_of_its_picture(micrograph):
    bench = Deflected(micrograph, (60.0, -35.0))
    result = focused(bench)
    drift = result.drift
    assert result.focused
    assert drift.sigma < 15
    assert math.hypot(drift.x - 60.0, drift.y + 35.0) < 4 * drift.sigma
    assert drift.seconds == result.frames - 1
    assert drift.shift == pytest.approx((drift.x * drift.seconds, drift.y * drift.seconds))
    assert drift.corrected is None
    assert AutofocusResult.from_dict(result.to_dict()) == result
    assert result.to_record()["drift"]["sigma"] == drift.sigma
    assert bench.shift == (0.0, 0.0)


def test_the_beam_follows_the_drift_on_request(micrograph):
    bench = Deflected(micrograph, (90.0, -60.0))
    result = focused(bench, correct_drift=True)
    assert isinstance(bench, HasBeamShift)
    assert result.focused
    drift = result.drift
    assert drift.corrected == pytest.approx(drift.shift)
    assert bench.shift == pytest.approx([each * 1e-6 for each in drift.corrected])
    assert [step.phase for step in result.trace[-2:]] == ["drift", "drift"]
    left = math.hypot(*bench.moved) - 3 * math.hypot(90, 60)  # It goes on while that is checked
    assert left < 80
    assert AutofocusResult.from_dict(result.to_dict()).drift == drift


def test_a_picture_that_stays_is_not_followed(micrograph):
    bench = Deflected(micrograph)
    without = focused(Deflected(micrograph))
    result = focused(bench, correct_drift=True)
    assert without.drift is None  # The lens went one way all the time: lens and drift cannot be distinguished
    assert result.frames == without.frames + 1
    still = result.drift
    assert math.hypot(still.x, still.y) < 3 * still.sigma < 60
    assert still.corrected is None
    assert bench.shift == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"axes": (-1.0, 1.0)}, "scan rotation"), ({"reach": 1e-9}, "reaches")],
)
def test_a_field_that_does_not_follow_is_put_back_and_the_focus_stands(micrograph, changes, why):
    bench = Deflected(micrograph, (90.0, -60.0), **changes)
    result = focused(bench, correct_drift=True)
    assert result.focused
    assert bench.shift == (0.0, 0.0)
    assert result.drift.corrected is None
    assert "not corrected" in result.reason
    assert why in result.reason


def test_no_frame_is_left_to_check_by(micrograph):
    frames = focused(Deflected(micrograph, (90.0, -60.0))).frames
    bench = Deflected(micrograph, (90.0, -60.0))
    result = focused(bench, correct_drift=True, max_frames=frames + 1)
    assert result.focused
    assert bench.shift == (0.0, 0.0)
    assert "could not be checked within" in result.reason


def test_a_cancel_or_an_error_puts_the_field_back(micrograph):
    for end in ("cancel", "error"):
        bench, cancel, drifted = Deflected(micrograph, (90.0, -60.0)), threading.Event(), []
        bench.beam_shift = 0.001, 0.002
        start = bench.working_distance

        def follow(step, end=end, cancel=cancel, drifted=drifted):
            drifted += [step] if step.phase == "drift" else []
            if end == "cancel" and drifted:
                cancel.set()
            elif len(drifted) > 1:
                raise RuntimeError("a display broke")

        if end == "error":
            with pytest.raises(RuntimeError):
                focused(bench, correct_drift=True, progress=follow)
        else:
            assert focused(bench, correct_drift=True, progress=follow, cancel=cancel).status == "cancelled"
        assert bench.sent[1] != (0.001, 0.002)
        assert bench.working_distance == start
        assert bench.shift == (0.001, 0.002)


def test_nothing_to_follow_with_is_said_before_a_frame():
    class Bare:
        capabilities = semdrivers.Capabilities(semdrivers.Range(1.0, 50.0), semdrivers.Range(20, 1e5))
        working_distance, magnification = 15.0, 1000.0

        def acquire(self, mode=None):
            pytest.fail("a frame was taken")

        def close(self): ...

    with pytest.raises(InvalidParameterError, match="correct_drift needs a beam shift or a stage"):
        semdrivers.autofocus(Bare(), correct_drift=True)


def test_tiles_follow_the_drift_of_the_sample(micrograph, tmp_path):
    def take():
        tiles.take_tiles(
            bench, folder, plan, settings=AutofocusSettings(learn_aperture=False, correct_drift=True),
            clock=lambda: float(bench.count),
        )  # fmt: skip

    bench, folder = Staged(micrograph, (60.0, -40.0)), tmp_path / "night"
    plan = tiles.plan_tiles(
        (3, 1), (0.0, 0.0, 5e-4, 0.0), 0.0, place=(0.0, 0.0), field=(0.0256, 0.0192), magnification=1000.0,
        mode=semdrivers.ScanMode.FAST,
    )  # fmt: skip
    tiles.open_folder(folder, lambda: plan, resume=False, overwrite=False)
    semdrivers.FocusMap(tolerance=1.0).save(folder / tiles.MAP)  # One run is enough
    take()
    x, y = np.subtract(bench.stage_position, (plan.tiles[-1].x, plan.tiles[-1].y)) * 1e6
    gone = 60.0 * bench.count, -40.0 * bench.count
    assert math.hypot(x - gone[0], y - gone[1]) < 0.3 * math.hypot(*gone)
    records = tiles.read_tiles(folder, plan)
    assert records[2].x == pytest.approx(-bench.moved[0] * 1e-6, abs=3e-4)  # On the sample

    (folder / "tiles" / plan.tiles[0].name).unlink()
    bench.places.clear()
    take()  # From what had been drifted at the last tile that is there
    assert bench.places[-1] == pytest.approx((plan.tiles[0].x + x * 1e-6, plan.tiles[0].y + y * 1e-6), abs=3e-3)
    assert math.dist(bench.places[-1], (plan.tiles[0].x, plan.tiles[0].y)) > 0.9e-6 * math.hypot(x, y)


def test_the_emulator_drifts_and_its_stage_follows(data_folder):
    path = data_folder / "micrographs" / "ampis_powder_Sc1Tile_001-001-000.png"
    with (
        Emulator(path, pixel_size=60.0, magnification=5000, seed=2, lateral_drift=700.0) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        truth, start = emulator.truth.drift, microscope.stage_position
        assert math.hypot(*truth) == pytest.approx(700.0)
        result = microscope.autofocus(correct_drift=True)
        assert result.focused
        drift = result.drift
        assert math.dist((drift.x, drift.y), truth) < 4 * drift.sigma
        followed = [1e6 * (now - then) for now, then in zip(microscope.stage_position, start, strict=True)]
        assert drift.corrected == pytest.approx(followed)
        assert math.dist(followed, drift.shift) < 1000  # A step of its stage
        assert result.measured_at is None


def test_a_sample_that_shows_nothing_has_no_drift():
    with (
        Emulator("featureless", magnification=2000, seed=1) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        result = microscope.autofocus(correct_drift=True)
    assert result.status == "refused"
    assert result.drift is None
