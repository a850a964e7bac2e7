"""Instruments whose frames are late, frozen or of another kind than asked for, and lenses that do not move."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import semdrivers
from semdrivers import Capabilities, Image, Range, ScanMode
from semfocus_plugin.run import FrameMismatchError

METHODS = ("defocus-pair", "dual-network", "paper")


class Column:
    """A textured sample under a disc, with noise; `lie` alters what its owner sees of it."""

    def __init__(self, lie: str = "", seed: int = 0, start: float = 15.9, stuck: float = 15.05) -> None:
        self.random = np.random.default_rng(seed)
        self.capabilities = Capabilities(Range(2.0, 40.0, 0.0005), Range(50.0, 50_000.0))
        noise = self.random.normal(size=(240, 320))
        self.scene = sum(np.kron(noise[: 240 // n, : 320 // n], np.ones((n, n))) for n in (1, 4, 16))
        self.stuck = stuck
        self.lie, self.best, self.place, self.magnification, self.count = lie, 15.0, start, 1000.0, 0
        self.kept: list[Image] = []

    @property
    def working_distance(self) -> float:
        return self.place

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self.place = value

    def frame(self, place: float) -> Image:
        pixel = 0.4 / self.magnification
        radius = 0.003 * abs(place - self.best) / pixel
        k = 2 * np.pi * np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320))
        signal = np.fft.irfft2(np.fft.rfft2(self.scene) * np.exp(-((k * max(radius, 0.4)) ** 2) / 8), (240, 320))
        pixels = np.clip(128 + 25 * signal + self.random.normal(0, 6, (240, 320)), 1, 254).astype(np.uint8)
        self.count += 1
        return Image(pixels, place, self.magnification, pixel * 1e6, self.count, float(self.count), ScanMode.FAST)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        image = self.frame(self.stuck if self.lie == "stands still" else self.place)
        self.kept.append(image)
        early = self.kept[-2] if len(self.kept) > 1 else image
        if self.lie == "one frame late" or (self.lie == "late twice" and len(self.kept) in (2, 3)):
            return early
        if self.lie == "frozen":
            return dataclasses.replace(image, pixels=self.kept[0].pixels)
        if self.lie == "stands still":
            return dataclasses.replace(image, working_distance=self.place)
        if self.lie == "other magnification":
            return dataclasses.replace(image, magnification=4000.0)
        if self.lie == "same number":
            return dataclasses.replace(image, frame_id=1)
        if self.lie == "back in time":
            return dataclasses.replace(image, timestamp=-float(self.count))
        if self.lie == "slow mode":
            return dataclasses.replace(image, scan_mode=ScanMode.SLOW)
        return image

    def close(self) -> None: ...


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lie", ["frozen", "other magnification", "same number", "back in time", "slow mode"])
def test_frames_that_are_not_those_asked_for_end_in_a_named_error(lie, method):
    microscope = Column(lie)
    with pytest.raises(FrameMismatchError, match="not the one asked for"):
        semdrivers.autofocus(microscope, method=method)
    assert microscope.working_distance == 15.9
    assert microscope.count <= 6


@pytest.mark.parametrize("seed", range(6))
def test_a_buffer_that_is_one_frame_late_gives_no_false_focus(seed):
    microscope = Column("one frame late", seed, start=15.0 + (-1) ** seed * (0.3 + 0.3 * seed))
    microscope.kept.append(microscope.frame(20.0))
    result = semdrivers.autofocus(microscope)
    assert not result.focused or abs(microscope.working_distance - 15.0) < 0.13, result
    assert "late frame(s) taken again" in result.reason


def test_a_frame_that_was_late_is_dropped_and_taken_again():
    microscope = Column("late twice")
    result = semdrivers.autofocus(microscope)
    assert result.focused, result
    assert abs(microscope.working_distance - 15.0) < 0.2
    late = [step for step in result.trace if step.phase == "late"]
    assert 1 <= len(late) <= 2
    assert "late frame(s) taken again" in result.reason
    assert result.frames == microscope.count


@pytest.mark.parametrize(
    ("method", "stuck", "frames"),
    [("defocus-pair", place, 4) for place in (17.0, 16.0, 15.2, 15.05)] + [("dual-network", 15.05, 6)],
)
def test_a_lens_that_reports_to_move_and_stands_still_is_named_early(method, stuck, frames):
    microscope = Column("stands still", stuck=stuck)
    result = semdrivers.autofocus(microscope, method=method)
    assert result.status == "refused"
    assert "does not follow its control" in result.reason
    assert result.frames <= frames


@pytest.mark.parametrize("method", METHODS)
def test_an_honest_column_is_focused(method):
    result = semdrivers.autofocus(Column(), method=method)
    assert "late" not in result.reason
    assert result.focused or method == "paper", result


@pytest.mark.parametrize("value", [float("nan"), None, "15 mm"])
def test_a_read_back_that_is_no_number_is_named_before_anything_moves(value):
    microscope = Column()
    microscope.place = value
    with pytest.raises(semdrivers.SemDriversError, match="working distance"):
        semdrivers.autofocus(microscope)
    assert microscope.count == 0
