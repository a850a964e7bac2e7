"""The envelope of a run: where it may drive what, for how long, and at which dose; whatever an instrument replies."""

from __future__ import annotations

import dataclasses
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import semdrivers
from semdrivers import (
    AutofocusError,
    AutofocusSettings,
    Capabilities,
    Image,
    InvalidParameterError,
    OutOfRangeError,
    Range,
    ScanMode,
    SemDriversError,
    StoppedError,
)
from semdrivers.emulator import Emulator
from semfocus_plugin.run import electrons_on_pixel

METHODS = ("defocus-pair", "dual-network", "paper")
ELECTRON = 1.602176634e-19

numbers = st.floats(allow_nan=True, allow_infinity=True) | st.none() | st.just("15 mm") | st.integers(-5, 40)
replies = st.one_of(st.just("true"), st.just("true"), st.just("true"), numbers, st.floats(14.0, 16.0))


class Liar:
    """Replies what it is given, in turn, and keeps every command; it checks nothing itself."""

    def __init__(self, answers: list[object], clipped: bool = False) -> None:
        self.answers, self.clipped, self.count = list(answers), clipped, 0
        self.sent: list[tuple[str, object]] = []
        self.read: dict[str, list[object]] = {}
        self.state = {"working_distance": 15.0, "magnification": 1000.0, "brightness": 0.5, "contrast": 0.5}
        self.state |= {"stigmator": (0.0, 0.0), "stage_position": (0.0, 0.0)}
        self.random = np.random.default_rng(0)
        self.scene = np.kron(self.random.integers(30, 200, (30, 40)), np.ones((8, 8)))
        self.capabilities = Capabilities(Range(5.0, 25.0, 0.001), Range(50.0, 50_000.0))

    def answer(self, name: str) -> object:
        answer = self.answers.pop() if self.answers else "true"
        value = self.state[name] if isinstance(answer, str) and answer == "true" else answer
        self.read.setdefault(name, []).append(value)
        return value

    def put(self, name: str, value: object) -> None:
        self.sent.append((name, value))
        self.state[name] = value

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        self.count += 1
        pixels = np.clip(self.scene + self.random.normal(0, 9, (240, 320)), 1, 254)
        if self.clipped:
            pixels = np.where(pixels > 90, 255, 0)
        place, magnification = (self.answer(name) for name in ("working_distance", "magnification"))
        return Image(pixels.astype(np.uint8), place, magnification, 400.0)  # type: ignore[arg-type]

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        self.sent.append(("stage_position", (x, y)))
        return x, y

    def close(self) -> None: ...


for _name in ("working_distance", "magnification", "brightness", "contrast", "stigmator", "stage_position"):
    setattr(
        Liar,
        _name,
        property(lambda self, name=_name: self.answer(name), lambda self, value, name=_name: self.put(name, value)),
    )


@settings(max_examples=40, deadline=None)
@given(
    answers=st.lists(replies, max_size=24),
    method=st.sampled_from(METHODS),
    travel=st.none() | st.floats(0.01, 30),
    bounds=st.none() | st.tuples(st.floats(4, 15), st.floats(15.1, 30)),
    clipped=st.booleans(),
    blind=st.booleans(),
)
def test_no_command_leaves_the_envelope_whatever_is_replied(answers, method, travel, bounds, clipped, blind):
    microscope = Liar(answers, clipped)
    chosen = AutofocusSettings(
        method=method, max_travel=travel, bounds=bounds, may_change_magnification=blind, max_frames=8
    )
    try:
        result = semdrivers.autofocus(microscope, settings=chosen)
    except SemDriversError:
        result = None
    low, high = 5.0, 25.0
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    for name, value in microscope.sent:
        assert isinstance(value, float), (name, value)
        assert math.isfinite(value), (name, value)
        start = microscope.read[name][0]
        if name == "working_distance":
            assert low - 0.0005 <= value <= high + 0.0005, value
            # Where the lens stands is within limits that it misses by half a step, and is where it is put back.
            assert travel is None or abs(value - start) <= travel + 0.0005, (value, start, travel)
        elif name == "magnification":
            assert value == start or (blind and 50 <= value <= 50_000), value
        else:
            assert name in ("brightness", "contrast")
            assert 0 <= value <= 1
    if result is not None and not result.focused:
        moved = [value for name, value in microscope.sent if name == "working_distance"]
        assert not moved or moved[-1] == microscope.read["working_distance"][0]


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "15 mm", b"15", True, 15_000.0, 0.015, [15.0]])
@pytest.mark.parametrize("method", METHODS)
def test_a_start_that_cannot_be_one_is_named_and_nothing_is_sent(value, method):
    for replies in ([value, "true"], [value]):  # the working distance, and where it may be one, the magnification
        microscope = Liar(replies)
        if len(replies) == 1 and isinstance(value, float) and math.isfinite(value):
            continue
        with pytest.raises(SemDriversError, match=r"working distance|magnification"):
            semdrivers.autofocus(microscope, method=method)
        assert microscope.sent == []
        assert microscope.count == 0


@pytest.mark.parametrize("name", ["max_seconds", "max_dose"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "10", True])
def test_a_limit_that_is_none_is_refused(name, value):
    with pytest.raises((InvalidParameterError, OutOfRangeError), match=name):
        AutofocusSettings(**{name: value})


def test_a_deadline_ends_the_run_before_the_next_frame():
    with Emulator("tin-balls", magnification=5000, seed=1) as emulator, semdrivers.connect(emulator.url) as microscope:
        start = microscope.working_distance
        result = microscope.autofocus(max_seconds=1e-6)
        assert (result.status, result.frames) == ("refused", 0)
        assert "max_seconds 1e-06 s" in result.reason
        assert microscope.working_distance == start


class Endless(Liar):
    """A scan that ends by `stop` alone."""

    def __init__(self) -> None:
        super().__init__([])
        self.ended = threading.Event()
        self.stopped: list[bool] = []

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        if self.count:
            self.ended.wait()
            raise StoppedError("the frame was ended by stop()")
        return super().acquire(mode)

    def stop(self, keep_beam: bool = False) -> None:
        self.stopped.append(keep_beam)
        self.ended.set()


@pytest.mark.parametrize("method", METHODS)
def test_a_deadline_reaches_into_a_frame_and_keeps_the_beam(method):
    microscope = Endless()
    result = semdrivers.autofocus(microscope, method=method, max_seconds=1.5)
    assert result.status == "refused"
    assert "max_seconds 1.5 s" in result.reason
    assert microscope.stopped == [True]
    assert microscope.working_distance == 15.0


def frames_and_dose(**changes):
    """Frames of a run on the emulator, and the dose of a frame from its current, dwell time and pixel."""
    with Emulator("tin-balls", magnification=5000, seed=1) as emulator, semdrivers.connect(emulator.url) as microscope:
        capabilities = microscope.capabilities
        image = microscope.acquire()
        electrons = capabilities.beam_current * 1e-12 * capabilities.dwell_times[0] / ELECTRON
        return microscope.autofocus(**changes), electrons / (image.pixel_size * 1e-3) ** 2


def test_a_dose_limits_the_frames():
    free, dose = frames_and_dose()
    assert free.focused
    assert dose == pytest.approx(25_357, rel=0.01)  # 162 electrons on a pixel of 80 nm
    assert frames_and_dose(max_dose=dose * (free.frames + 0.5))[0].frames == free.frames
    result, _ = frames_and_dose(max_dose=dose * 2)  # To the last electron
    assert (result.status, result.frames) == ("refused", 2)
    assert "max_dose" in result.reason
    result, _ = frames_and_dose(max_dose=dose * 0.5)
    assert (result.status, result.frames) == ("refused", 0)


@pytest.mark.parametrize(("share", "frames"), [(0.9, 0), (1.1, 1)])
def test_a_slower_mode_puts_more_on_a_smaller_pixel_and_its_first_frame_counts(share, frames):
    with Emulator("tin-balls", magnification=5000, seed=1) as emulator, semdrivers.connect(emulator.url) as microscope:
        electrons = microscope.capabilities.beam_current * 1e-12 * microscope.capabilities.dwell_times[1] / ELECTRON
        dose = electrons / 0.04**2  # a pixel of 40 nm, in µm
        result = microscope.autofocus(scan_mode=ScanMode.STANDARD, max_dose=share * dose)
        assert (result.status, result.frames) == ("refused", frames)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_current_of_the_beam_that_is_none_keeps_no_dose(value):
    microscope = Liar([])
    known = {"scan_modes": (ScanMode.FAST,), "dwell_times": (1e-6,)}
    microscope.capabilities = dataclasses.replace(microscope.capabilities, beam_current=value, **known)
    with pytest.raises(InvalidParameterError, match="does not report its beam current"):
        semdrivers.autofocus(microscope, max_dose=1e6)
    assert electrons_on_pixel(microscope.capabilities, ScanMode.FAST) is None
    assert microscope.count == 0


def test_a_frame_without_the_size_of_its_pixels_keeps_no_dose():
    class Sizeless(Liar):
        def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
            return dataclasses.replace(super().acquire(mode), pixel_size=math.nan)

    microscope = Sizeless([])
    known = {"scan_modes": (ScanMode.FAST,), "dwell_times": (1e-6,), "beam_current": 20.0}
    microscope.capabilities = dataclasses.replace(microscope.capabilities, **known)
    with pytest.raises(AutofocusError, match="max_dose cannot be kept: the frame reports a pixel size of nan nm"):
        semdrivers.autofocus(microscope, max_dose=1e9)
    assert microscope.working_distance == 15.0


def test_a_dose_that_cannot_be_computed_is_refused_before_anything_moves():
    microscope = Liar([])
    with pytest.raises(InvalidParameterError, match="does not report its beam current"):
        semdrivers.autofocus(microscope, max_dose=1e6)
    microscope.capabilities = dataclasses.replace(microscope.capabilities, beam_current=20.0)
    with pytest.raises(InvalidParameterError, match="time on a pixel in mode FAST"):
        semdrivers.autofocus(microscope, max_dose=1e6)
    assert microscope.count == 0
