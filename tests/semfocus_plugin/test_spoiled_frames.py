"""Frames spoiled by charging: known as such, skipped, taken again; sound ones left alone."""

from __future__ import annotations

import numpy as np
import pytest

import semdrivers
from semdrivers import AutofocusSettings, Image
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import PRESETS, discharged
from semdrivers.emulator.specimens import SPECIMENS
from semfocus_plugin import methods
from semfocus_plugin import run as loop
from semfocus_plugin.lab.studies import spoiled as study
from semfocus_plugin.networks import Evaluation, Networks
from semfocus_plugin.run import spoiled


@pytest.mark.parametrize("preset", PRESETS)
def test_sound_frames_are_left_alone_and_discharges_found(preset):
    random = np.random.default_rng(3)
    sound = [frame for name in SPECIMENS for frame in study.frames(name, preset, 1, 77)]
    assert not any(spoiled(frame) for frame in sound)
    found = sum(bool(spoiled(discharged(frame, random))) for frame in sound)
    assert found >= 0.95 * len(sound)


@pytest.mark.slow
def test_real_micrographs_are_left_alone(data_folder):
    count = alarms = 0
    for window in study.windows(data_folder):
        count += 1
        alarms += count % 20 == 0 and bool(spoiled(window))
    assert count > 1000
    assert alarms == 0


def step(pixels: np.ndarray, size: float) -> np.ndarray:
    return np.concatenate([pixels[:100], np.clip(pixels[100:] + size, 0, 255)]).astype(np.uint8)


def test_what_is_found_is_named():
    random = np.random.default_rng(0)
    sound = random.normal(100, 20, (240, 320))
    assert spoiled(step(sound, 60)) == "the brightness jumps between two lines"
    assert spoiled(step(sound, -60)) == "the brightness jumps between two lines"
    struck = sound.copy()
    struck[20:110:3] += 60
    assert spoiled(np.clip(struck, 0, 255).astype(np.uint8)) == "a burst of lines stands out"


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_every_kind_and_size_of_frame(kind, scale):
    top = 1.0 if kind is np.float32 else np.iinfo(kind).max
    sound = np.random.default_rng(0).normal(0.4, 0.08, (240 * scale, 320 * scale))
    jumped = sound.copy()
    jumped[100 * scale :] += 0.3
    assert not spoiled((sound.clip(0, 1) * top).astype(kind))
    assert spoiled((jumped.clip(0, 1) * top).astype(kind))


def test_neither_ramp_nor_edge_nor_line_is_a_jump():
    sound = np.random.default_rng(0).normal(100, 20, (240, 320))
    ramp = sound + np.linspace(-40, 40, 240)[:, None]
    slanted = sound + 60 * (np.arange(240)[:, None] > 100 + np.arange(320) / 40)
    partial = sound + 60 * ((np.arange(240)[:, None] > 100) & (np.arange(320) < 240))
    line = sound.copy()
    line[100] += 100
    for pixels in (ramp, slanted, partial, line, np.zeros((240, 320)), np.full((240, 320), 255)):
        assert not spoiled(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("index", [1, 3])
@pytest.mark.parametrize("specimen", ["tin-balls", "butterfly-wing"])
def test_a_spoiled_frame_is_taken_again_and_the_run_focuses(specimen, index):
    with (
        Emulator(specimen, magnification=4000, seed=23, faults=f"charging-streaks@{index}") as running,
        semdrivers.connect(running.url) as microscope,
    ):
        result = microscope.autofocus()
        truth = running.truth
        assert running.faults.happened["charging-streaks"] == 1
    assert result.focused
    assert abs(result.working_distance - truth.working_distance) <= truth.depth_of_field
    phases = [step.phase for step in result.trace]
    assert phases.count("spoiled") == 1
    assert phases.index("spoiled") == index - 1
    assert result.trace[index].working_distance == result.trace[index - 1].working_distance
    assert result.frames == len(result.trace) <= 10
    assert "1 spoiled frame(s) taken again" in result.reason


def test_a_sample_that_charges_always_is_taken_as_it_is():
    with (
        Emulator("tin-balls", magnification=4000, seed=23, faults="charging-streaks:1") as running,
        semdrivers.connect(running.url) as microscope,
    ):
        result = microscope.autofocus(max_frames=8)
    phases = [step.phase for step in result.trace]
    assert phases.count("spoiled") == 2
    assert phases[:4] == ["spoiled", "search", "spoiled", phases[3]]


class Charging:
    """A simulated microscope that discharges in one frame, and an evaluator that takes that for the best of all."""

    def __init__(self, microscope, networks, index) -> None:
        self.microscope, self.index, self.count = microscope, index, 0
        self._evaluator = networks.evaluator
        self._acquire = microscope.acquire
        self.blur_range = None
        self._streaked: list[np.ndarray] = []
        microscope.acquire = self.acquire

    def acquire(self, mode):
        image = self._acquire(mode)
        self.count += 1
        if self.count != self.index:
            return image
        self._streaked.append(discharged(image.pixels, np.random.default_rng(1)))
        return Image(self._streaked[0], image.working_distance, image.magnification, image.pixel_size)

    def __call__(self, pixels, magnification):
        if any(pixels is streaked for streaked in self._streaked):
            return Evaluation(9.0, 0.3, 5.0)
        return self._evaluator(pixels, magnification)


@pytest.mark.slow
@pytest.mark.parametrize("retakes", [2, 0])
def test_without_another_frame_streaks_would_pass_for_sharpness(simulate, retakes):
    false = 0
    for seed in range(8):
        microscope, networks = simulate(seed, magnification=3000.0)
        microscope.working_distance_now = round(microscope.best + 12 * microscope.depth_of_field, 3)
        charging = Charging(microscope, networks, 2)
        networks = Networks(charging, {"paper": networks.controllers["depth-of-field"]})
        result = loop.run(methods.find("paper"), microscope, AutofocusSettings(), networks=networks, retakes=retakes)
        false += result.focused and microscope.error > 2
    # Without retakes some of these foci are refused all the same: a part of the frame is sharper than the rest.
    assert false == 0 if retakes else false >= 4


def test_a_spoiled_last_frame_ends_the_budget(simulate):
    microscope, networks = simulate(1, magnification=3000.0)
    charging = Charging(microscope, networks, 1)
    result = loop.run(
        methods.find("paper"),
        microscope,
        AutofocusSettings(max_frames=1),
        networks=Networks(charging, {"paper": networks.controllers["depth-of-field"]}),
    )
    assert (result.status, result.frames) == ("refused", 1)
