"""A microscope of another make: five members, its own optics, none of our emulator."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import semdrivers
from semdrivers import Capabilities, Image, ModelError, Range, ScanMode
from semfocus_plugin import networks
from semfocus_plugin.run import Method, run


class ForeignMicroscope:
    """Discs of metal on carbon, blurred by a disc of the beam's own, seen by a noisy detector."""

    def __init__(self, best: float, start: float, magnification: float, seed: int, blank: bool = False) -> None:
        self.best, self._place, self._magnification = best, start, magnification
        self.random = np.random.default_rng(seed)
        self.capabilities = Capabilities(Range(2.0, 40.0, 0.0005), Range(50.0, 50_000.0))
        rows, columns = np.mgrid[:512, :640].astype(np.float32)
        scene = np.full((512, 640), 0.35, np.float32)
        for _ in range(0 if blank else 90):
            radius = self.random.uniform(4, 40)
            centre = self.random.uniform((0, 0), (512, 640))
            distance = np.hypot(rows - centre[0], columns - centre[1]) / radius
            inside = distance < 1
            scene[inside] = self.random.uniform(0.4, 0.8) + 0.3 * distance[inside] ** 6
        grain = ndimage.gaussian_filter(self.random.normal(size=scene.shape), 1.0).astype(np.float32)
        self.scene = scene if blank else scene + 0.15 * grain

    @property
    def working_distance(self) -> float:
        return self._place

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._place = self.capabilities.working_distance.check("working distance", value, "mm")

    @property
    def magnification(self) -> float:
        return self._magnification

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._magnification = self.capabilities.magnification.check("magnification", value)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        pixel = 0.4 / self._magnification
        radius = 0.0035 * abs(self._place - self.best) / pixel
        spectrum = np.fft.rfft2(self.scene)
        k = 2 * np.pi * np.hypot(np.fft.fftfreq(512)[:, None], np.fft.rfftfreq(640)[None, :])
        transfer = np.exp(-((k * max(radius, 0.4)) ** 2) / 8)
        signal = np.fft.irfft2(spectrum * transfer, s=self.scene.shape)[136:376, 160:480]
        counts = self.random.poisson(np.clip(signal, 0, None) * 200) / 200
        pixels = np.clip(40 + 200 * counts, 0, 255).astype(np.uint8)
        return Image(pixels, self._place, self._magnification, pixel * 1e6)

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture(autouse=True)
def shipped_models():
    try:
        networks.load()
    except ModelError as error:
        pytest.skip(f"no shipped models: {error}")


def test_it_is_a_microscope():
    assert isinstance(ForeignMicroscope(15, 15, 1000, 1), semdrivers.Microscope)


@pytest.mark.parametrize("runs", [2, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", [None, "dual-network"])
def test_it_focuses(method, runs):
    errors = []
    for seed in range(runs):
        random = np.random.default_rng(seed)
        magnification = float(random.uniform(800, 6000))
        depth_of_field = 0.4 / magnification / 0.0035
        best = float(random.uniform(10, 20))
        start = best + float(random.uniform(-15, 15)) * depth_of_field
        microscope = ForeignMicroscope(best, start, magnification, seed)
        result = semdrivers.autofocus(microscope, method=method)
        assert result.working_distance == microscope.working_distance
        assert microscope.magnification == magnification
        errors.append(abs(microscope.working_distance - best) / depth_of_field if result.focused else np.inf)
    assert sum(error <= 2 for error in errors) >= 7 / 8 * runs, errors


@pytest.mark.parametrize("method", [None, "dual-network"])
def test_it_refuses_a_blank_sample(method):
    microscope = ForeignMicroscope(15.0, 15.4, 3000.0, 0, blank=True)
    result = semdrivers.autofocus(microscope, method=method)
    assert result.status == "refused", result
    assert microscope.working_distance == 15.4


@pytest.mark.parametrize(("takes", "reads"), [((14.9, 15.1), "15.1"), ((15.1, 15.1), "15.1")], ids=["cut", "ignored"])
def test_a_lens_that_cuts_or_ignores_what_is_set_is_named_at_once(takes, reads):
    """And not refused after many frames of the same place, as a sample that shows nothing."""

    class Cutting(ForeignMicroscope):
        frames = 0

        @property
        def working_distance(self):
            return self._place

        @working_distance.setter
        def working_distance(self, value):
            self._place = float(np.clip(value, *takes))

        def acquire(self, mode=ScanMode.FAST):
            self.frames += 1
            return super().acquire(mode)

    microscope = Cutting(best=19, start=15.1, magnification=1000, seed=3)
    with pytest.raises(semdrivers.AutofocusError, match=rf"was set to .* mm from 15.1 mm and reads {reads} mm"):
        semdrivers.autofocus(microscope, bounds=(15.1, 22), max_travel=7, learn_aperture=False)
    assert microscope.frames <= 2


def test_a_lens_that_reads_back_six_digits_is_no_fault():
    class Decimal(ForeignMicroscope):
        @property
        def working_distance(self):
            return float(f"{self._place:.6g}")

        @working_distance.setter
        def working_distance(self, value):
            self._place = value

    microscope = Decimal(best=15.1234567, start=15.9, magnification=1000, seed=3)
    result = semdrivers.autofocus(microscope, learn_aperture=False)
    assert result.focused, result.reason
    assert abs(result.working_distance - microscope.best) < 0.4 / 1000 / 0.0035


@pytest.mark.parametrize("value", [0.0, -1500.0])
def test_a_magnification_that_cannot_be_is_named_before_a_frame(value):
    class Confused(ForeignMicroscope):
        magnification = property(lambda self: value, lambda self, asked: None)

        def acquire(self, mode=ScanMode.FAST):
            raise AssertionError("a frame was taken")

    with pytest.raises(semdrivers.AutofocusError, match=f"reads back a magnification of {value:g}; check its driver"):
        semdrivers.autofocus(Confused(15.0, 15.2, 1500.0, 1))


def test_a_method_may_set_no_stigmator_that_the_settings_leave_alone():
    method = Method("turns", "turns", bind=lambda networks: lambda run, accept: run.stigmate((0.0, 0.0)), max_frames=3)
    with pytest.raises(semdrivers.AutofocusError, match="may not set the stigmator: stigmate is False"):
        run(method, ForeignMicroscope(15.0, 15.2, 1500.0, 1), semdrivers.AutofocusSettings())
