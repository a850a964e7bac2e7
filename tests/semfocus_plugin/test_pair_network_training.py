"""Pairs of frames, and a real, tiny run of the pair network's recipe; what it reaches is for the benchmark to say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from typer.testing import CliRunner

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.benchmark.peers.deepfocus_like import NETWORK
from semfocus_plugin.lab.cli import app
from semfocus_plugin.lab.training import datasets
from semfocus_plugin.lab.training.pair import pair_network, pairs
from semfocus_plugin.lab.training.pair.pair_input import TEST_DEFOCUS, prepared
from semfocus_plugin.lab.training.pair.pairs import PairsConfig
from semfocus_plugin.lab.training.sampling import Field, draw_field
from semfocus_plugin.optics import trained_depth_of_field


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    datasets.build(PairsConfig(count=24, seed=3, shard_size=12), folder, workers=1)
    return str(folder)


@pytest.fixture(scope="module")
def trained(rendered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    pair_network.export(pair_network.train(pair_network.PairConfig((rendered,), epochs=1, batch=8), folder), folder)
    return folder


def test_pairs_lie_the_step_to_either_side_in_nominal_depths_of_field(monkeypatch):
    asked: list[tuple[Field, float]] = []
    frame = Field.frame
    monkeypatch.setattr(Field, "frame", lambda self, z, number: (asked.append((self, z)), frame(self, z, number))[1])
    arrays = pairs.draw_pairs(np.random.default_rng(4), 8)
    steps = []
    for (field, low), (_, high) in zip(asked[::2], asked[1::2], strict=True):
        truth = field.column.truth(field.conditions)
        steps.append((high - low) * truth.depth_of_field / trained_depth_of_field(field.conditions.magnification))
    assert steps == pytest.approx([2 * TEST_DEFOCUS] * len(steps))
    assert arrays["pixels"].shape == (8, 2, 240, 320)
    assert np.abs(arrays["defocus"]).max() <= pairs.REACH


def test_pairs_are_the_same_for_the_same_seed_and_resume(rendered, tmp_path):
    config = PairsConfig(count=24, seed=3, shard_size=12)
    (tmp_path / "shard-00001.npz").write_bytes((Path(rendered) / datasets.shard_name(1)).read_bytes())
    datasets.build(config, tmp_path, workers=1)
    files = [json.loads((Path(folder) / "manifest.json").read_text())["files"] for folder in (rendered, tmp_path)]
    assert files[0].keys() == files[1].keys()
    for ours, theirs in zip(datasets.load(rendered), datasets.load(tmp_path), strict=True):
        for key, values in ours.items():
            np.testing.assert_array_equal(values, theirs[key])
    with pytest.raises(InvalidParameterError, match="another dataset"):
        datasets.build(PairsConfig(count=25, seed=3, shard_size=12), tmp_path)


def test_held_out_specimens_are_not_among_the_pairs():
    random = np.random.default_rng(5)
    drawn = {draw_field(random, "broad").specimen for _ in range(24)}
    assert drawn <= {"tin-balls", "tem-grid", "gold-nanoparticles", "texture"}


@pytest.mark.slow
def test_a_run_leaves_history_checkpoint_and_a_described_network(trained):
    (line,) = (trained / "history.jsonl").read_text().splitlines()
    assert {"median_error", "median_error_within_9", "right_sign", "epoch"} <= json.loads(line).keys()
    (entry,) = json.loads((trained / "manifest.json").read_text())["models"]
    assert entry["torch_difference"] <= 1e-4
    assert entry["data"][0]["seed"] == 3
    assert entry["training"]["epochs"] == 1


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(rendered, trained, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes((trained / "checkpoint.pt").read_bytes())
    pair_network.train(pair_network.PairConfig((rendered,), epochs=2, batch=8), tmp_path, resume=True)
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1


def test_swapped_frames_give_the_opposite_answer_whatever_their_grey_levels():
    network = pair_network.PairNetwork().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) <= 300_000
    frames = np.random.default_rng(1).integers(0, 200, (1, 2, 240, 320)).astype(float)
    magnification = np.array([2000.0])
    with torch.no_grad():
        forth, back, brighter = (
            float(network(torch.from_numpy(prepared(each, magnification))))
            for each in (frames, frames[:, ::-1], 1.2 * frames + 10)
        )
    assert back == pytest.approx(-forth, abs=1e-5)
    assert brighter == pytest.approx(forth, abs=1e-3)


def test_the_split_goes_by_field(rendered):
    read = pair_network.read_pairs((rendered,))
    training, validation = pair_network.split(read)
    assert set(read.field[training]).isdisjoint(read.field[validation])
    assert len(training) + len(validation) == 24


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: PairsConfig(count=0), OutOfRangeError, "count"),
        (lambda: PairsConfig(step=0.0), OutOfRangeError, "step"),
        (lambda: pair_network.PairConfig(()), InvalidParameterError, "folder of pairs"),
        (lambda: pair_network.PairConfig(("here",), epochs=0), OutOfRangeError, "epochs"),
    ],
)
def test_bad_recipes_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.slow
def test_the_command_makes_pairs_trains_and_exports(tmp_path):
    runner = CliRunner()
    arguments = ["train", "pair", "-o", str(tmp_path), "--count", "12", "--batch", "4", "--epochs", "1"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / NETWORK.name).exists()
    assert runner.invoke(app, [*arguments, "pairs/"]).exit_code != 0
