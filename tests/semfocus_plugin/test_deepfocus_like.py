"""The pair network beside its peer: what ships, the steps it takes, and that it finds a focus on the emulator."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from semdrivers import Capabilities, Image, Range, ScanMode
from semfocus_plugin.lab.benchmark import runs, trials
from semfocus_plugin.lab.benchmark.peers import Bench, Optics, deepfocus_like
from semfocus_plugin.optics import trained_depth_of_field

OPTICS = Optics(aperture_radius=0.045, core=36e-6)


class Blank:
    """The five members over frames of noise; keeps every working distance that is set."""

    def __init__(self, working_distance: float = 15.0, magnification: float = 4000.0) -> None:
        self.magnification = magnification
        self.capabilities = Capabilities(Range(1.0, 50.0, 0.001), Range(20, 150_000))
        self.random = np.random.default_rng(2)
        self.seen: list[float] = []
        self.working_distance = working_distance

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        self.seen.append(self.working_distance)
        return Image(self.random.integers(90, 160, (240, 320)).astype(np.uint8), 15.0, self.magnification, 100.0)

    def close(self) -> None: ...


def test_the_network_that_ships_is_the_one_described_and_small():
    (entry,) = json.loads((deepfocus_like.NETWORK.parent / "manifest.json").read_text(encoding="utf-8"))["models"]
    data = deepfocus_like.NETWORK.read_bytes()
    assert entry["file"] == deepfocus_like.NETWORK.name
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert len(data) <= 1_200_000
    assert [recipe["step"] for recipe in entry["data"]] == [deepfocus_like.TEST_DEFOCUS] * len(entry["data"])
    assert set(entry["specimens"]).isdisjoint(trials.UNSEEN)


def test_every_pair_is_the_fixed_step_to_either_side_and_the_count_is_fixed(monkeypatch):
    monkeypatch.setattr(deepfocus_like, "defocus", lambda frames, magnification: -2.0)
    microscope = Blank()
    unit = trained_depth_of_field(microscope.magnification)
    bench = Bench(microscope, OPTICS, (14.6, 15.4), 15.0)
    answer = deepfocus_like.find(bench)
    seen = np.array(microscope.seen).reshape(-1, 2)
    assert len(seen) == deepfocus_like.ITERATIONS
    assert np.diff(seen)[:, 0] == pytest.approx(2 * deepfocus_like.TEST_DEFOCUS * unit, abs=0.0011)
    centres = 15.0 + 2.0 * unit * np.arange(deepfocus_like.ITERATIONS)
    assert seen.mean(axis=1) == pytest.approx(centres, abs=0.0011)
    assert answer.working_distance == pytest.approx(15.0 + 2.0 * unit * deepfocus_like.ITERATIONS, abs=0.0011)
    assert answer.claimed


def test_corrections_end_at_the_window(monkeypatch):
    monkeypatch.setattr(deepfocus_like, "defocus", lambda frames, magnification: 500.0)
    answer = deepfocus_like.find(Bench(Blank(), OPTICS, (14.7, 15.3), 15.0))
    assert answer.working_distance == 14.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ["near", "unseen"])
def test_it_comes_within_a_few_depths_of_field_on_the_emulator(name):
    drawn = trials.draw_trials(trials.TRACKS[name], 5, trials.DEVELOPMENT_SEED)
    records = [runs.run_trial(trial, "deepfocus-like") for trial in drawn]
    assert all(record.focused for record in records)
    assert np.median([record.error for record in records]) < 3.0
    if name == "near":
        assert {record.frames for record in records} == {2 * deepfocus_like.ITERATIONS}
