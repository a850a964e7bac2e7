"""Brightness out of range: corrected before the first frame counts, within the budget, and put back unless focused."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest

import semdrivers
from semdrivers import AutofocusError, AutofocusSettings, Image, InvalidParameterError
from semdrivers.emulator import Emulator
from semfocus_plugin import methods
from semfocus_plugin import run as loop
from semfocus_plugin.networks import Evaluation


def error_of(running, result) -> float:
    """Distance from the true focus in depths of field."""
    truth = running.truth
    return abs(result.working_distance - truth.working_distance) / truth.depth_of_field


@pytest.mark.parametrize(
    ("specimen", "seed", "detector"),
    [
        ("tin-balls", 4, (0.0, 0.5)),
        ("tin-balls", 3, (0.5, 1.0)),
        ("tem-grid", 4, (0.0, 0.5)),
        ("butterfly-wing", 4, (1.0, 0.75)),
        ("fabric", 5, (0.0, 0.0)),
    ],
)
def test_a_clipped_picture_is_focused_at_a_better_brightness(specimen, seed, detector):
    with (
        Emulator(specimen, magnification=3000, seed=seed) as running,
        semdrivers.connect(running.url) as microscope,
    ):
        microscope.brightness, microscope.contrast = detector
        shown = []
        result = microscope.autofocus(progress=shown.append)
        assert result.focused, result
        assert error_of(running, result) <= 1.0
        phases = [step.phase for step in result.trace]
        assert phases[:2] == ["search", "brightness"]
        assert 1 <= phases.count("brightness") <= 4
        assert "brightness" not in phases[1 + phases.count("brightness") :]
        assert result.frames == len(result.trace) == len(shown)
        assert "brightness and contrast corrected first (brightness" in result.reason
        assert (microscope.brightness, microscope.contrast) != detector
        clipped = np.mean(np.isin(microscope.acquire().pixels, (0, 255)))
        assert clipped < 0.25, "the pictures that follow show something"


@pytest.mark.parametrize("detector", [(0.1, 0.5), (0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("method", [None, "dual-network"])
def test_without_a_sample_it_is_refused_within_six_frames_and_all_is_back(detector, method):
    with (
        Emulator("featureless", magnification=3000, seed=1) as running,
        semdrivers.connect(running.url) as microscope,
    ):
        microscope.brightness, microscope.contrast = detector
        start = microscope.working_distance
        result = microscope.autofocus(method=method)
        assert result.status == "refused"
        assert result.frames == len(result.trace) <= 6
        assert (microscope.brightness, microscope.contrast) == detector
        assert microscope.working_distance == start
        assert "and put back" in result.reason


def test_what_is_not_clipped_is_left_alone():
    with Emulator("tin-balls", magnification=3000, seed=3) as running, semdrivers.connect(running.url) as microscope:
        microscope.brightness = 0.8
        result = microscope.autofocus()
        assert result.focused
        assert {step.phase for step in result.trace} <= {"search", "verify"}
        assert (microscope.brightness, microscope.contrast) == (0.8, 0.5)
        assert "brightness" not in result.reason


def test_where_it_may_not_change_a_clipped_picture_is_refused():
    with Emulator("tin-balls", magnification=3000, seed=4) as running, semdrivers.connect(running.url) as microscope:
        microscope.brightness = 0.0
        result = microscope.autofocus(may_change_brightness=False)
        assert (result.status, result.frames) == ("refused", 2)
        assert "of the picture is black or white" in result.reason
        assert microscope.brightness == 0.0


def test_the_magnification_may_change_as_well():
    with Emulator("tin-balls", magnification=5000, seed=6) as running, semdrivers.connect(running.url) as microscope:
        microscope.brightness = 0.0
        result = microscope.autofocus(may_change_magnification=True)
        assert result.focused, result
        assert error_of(running, result) <= 1.0
        assert microscope.magnification == 5000


@pytest.mark.parametrize("after", [1, 2])
def test_a_cancel_in_the_middle_puts_brightness_back(after):
    with Emulator("tin-balls", magnification=3000, seed=4) as running, semdrivers.connect(running.url) as microscope:
        microscope.brightness, microscope.contrast = 0.1, 0.5
        cancel = threading.Event()
        result = microscope.autofocus(
            cancel=cancel, progress=lambda step: cancel.set() if step.index + 1 == after else None
        )
        assert (result.status, result.frames) == ("cancelled", after)
        assert (microscope.brightness, microscope.contrast) == (0.1, 0.5)


@pytest.mark.parametrize("after", [1, 3, 4])
def test_an_exception_in_the_middle_puts_brightness_back(after):
    def broken(step):
        if step.index + 1 == after:
            raise RuntimeError("no display")

    with Emulator("tin-balls", magnification=3000, seed=4) as running, semdrivers.connect(running.url) as microscope:
        microscope.brightness = 0.0
        start = microscope.working_distance
        with pytest.raises(RuntimeError, match="no display"):
            microscope.autofocus(progress=broken)
        assert (microscope.brightness, microscope.contrast) == (0.0, 0.5)
        assert microscope.working_distance == start


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_the_budget_holds_for_brightness_too(frames):
    with Emulator("tin-balls", magnification=3000, seed=4) as running, semdrivers.connect(running.url) as microscope:
        microscope.brightness = 0.0
        result = microscope.autofocus(max_frames=frames)
        assert result.status == "refused"
        assert result.frames == len(result.trace) == frames
        assert microscope.brightness == 0.0


class Detector:
    """A simulated microscope with a detector that shows `level` for a brightness, and notes what it was set to."""

    def __init__(self, inner, level) -> None:
        self._inner, self._level = inner, level
        self._brightness = self._contrast = 0.5
        self.set_to = []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    @property
    def working_distance(self):
        return self._inner.working_distance

    @working_distance.setter
    def working_distance(self, value):
        self._inner.working_distance = value

    @property
    def brightness(self):
        return self._brightness

    @brightness.setter
    def brightness(self, value):
        self.set_to.append(("brightness", value))
        self._brightness = value

    @property
    def contrast(self):
        return self._contrast

    @contrast.setter
    def contrast(self, value):
        self.set_to.append(("contrast", value))
        self._contrast = value

    def acquire(self, mode=None):
        level = min(max(round(self._level(self._brightness)), 0), 255)
        return Image(np.full((240, 320), level, np.uint8), self.working_distance, self.magnification, 100.0)


@pytest.mark.parametrize(
    ("level", "frames", "words"),
    [
        (lambda brightness: 0, 3, "tried, change nothing"),
        (lambda brightness: 255, 3, "tried, change nothing"),
        (lambda brightness: 255 * (2 * brightness - 1), 5, "the picture is flat"),
    ],
    ids=["black", "white", "beam off"],
)
def test_a_picture_that_brightness_does_not_mend_is_refused_early(simulate, level, frames, words):
    inner, networks = simulate(1, surface="black")
    microscope = Detector(inner, level)
    result = loop.run(methods.find("paper"), microscope, AutofocusSettings(), networks=networks)
    assert result.status == "refused"
    assert words in result.reason
    assert result.frames == len(result.trace) <= frames
    assert (microscope.brightness, microscope.contrast) == (0.5, 0.5)
    assert len(microscope.set_to) > 0


def test_a_detector_that_takes_only_half_is_put_back_and_heard(simulate):
    class Refusing(Detector):
        contrast = property(lambda self: self._contrast, lambda self, value: self._refuse(value))

        def _refuse(self, value):
            if value != 0.5:
                raise semdrivers.DeviceError("no such contrast")

    inner, networks = simulate(1, surface="black")
    microscope = Refusing(inner, lambda brightness: 255 * (brightness > 0.4))
    microscope.brightness = 0.25
    with pytest.raises(semdrivers.DeviceError, match="no such contrast"):
        loop.run(methods.find("paper"), microscope, AutofocusSettings(), networks=networks)
    assert ("brightness", 0.5) in microscope.set_to
    assert (microscope.brightness, microscope.contrast) == (0.25, 0.5)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
@pytest.mark.parametrize("value", [-0.25, 1.25])
def test_a_detector_beyond_its_scale_is_named_and_left_alone(simulate, name, value):
    inner, networks = simulate(1, surface="black")
    microscope = Detector(inner, lambda brightness: 0)
    setattr(microscope, name, value)
    before = list(microscope.set_to)
    with pytest.raises(semdrivers.OutOfRangeError, match=f"the instrument's {name}"):
        loop.run(methods.find("paper"), microscope, AutofocusSettings(), networks=networks)
    assert microscope.set_to == before


def test_the_setting_is_checked():
    with pytest.raises(InvalidParameterError, match="may_change_brightness must be True or False"):
        AutofocusSettings(may_change_brightness="yes")


def picture(black: float, white: float, specks: float, random) -> np.ndarray:
    """A sample beside a black and a white part; `specks` is the noise that shows here and there in the black one."""
    sample = np.kron(random.integers(40, 200, (30, 40)), np.ones((8, 8))) + random.normal(0, 5, (240, 320))
    sample[: round(240 * white)] = 255
    amid = random.random((240, 320)) < 0.1
    dark = round(240 * (1 - black))
    sample[dark:] = np.where(amid, specks, 0)[dark:]
    return np.clip(sample, 0, 255).astype(np.uint8)


class Steady:
    """Scores every frame alike."""

    blur_range = None

    def __call__(self, pixels, magnification) -> Evaluation:
        return Evaluation(5.0, 0.3, 5.0)


@pytest.mark.parametrize(
    ("black", "white", "specks", "corrected"),
    [
        (0.5, 0.0, 0, False),  # there is nothing
        (0.5, 0.0, 15, False),  # nor more than a dark part has of noise
        (0.5, 0.0, 40, True),  # the black level cuts a signal off
        (0.2, 0.0, 40, False),  # and does so too rarely to matter
        (0.3, 0.2, 0, False),
        (0.3, 0.3, 0, True),
        (0.99, 0.0, 0, True),  # hardly anything is left to tell a dark part by
    ],
)
def test_a_dark_part_is_no_signal_cut_off(simulate, black, white, specks, corrected):
    class Showing(Detector):
        def acquire(self, mode=None):
            pixels = picture(black, white, specks, random)
            return Image(pixels, self.working_distance, self.magnification, 100.0)

    random = np.random.default_rng(3)
    microscope = Showing(simulate(1)[0], None)
    run = loop.FocusRun(microscope, AutofocusSettings(), Steady(), 9)
    with contextlib.suppress(AutofocusError):  # what was corrected, and shows no more than before, is refused
        run.measure(run.working_distance, "search")
    assert bool(microscope.set_to) is corrected
