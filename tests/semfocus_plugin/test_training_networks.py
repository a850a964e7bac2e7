"""Architectures, training runs and export. One real, tiny run each; what they reach is for evaluations to say."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.training import acnet, aenet, datasets, export
from semfocus_plugin.lab.training.architecture import ACNet, CompactAENet, PaperAENet
from semfocus_plugin.lab.training.curves import Curves
from semfocus_plugin.lab.training.datasets import DatasetConfig
from semfocus_plugin.lab.training.playground import Playground
from semfocus_plugin.lab.training.shipped import read_compact
from semfocus_plugin.networks import LAWS, AENet, load, models_directory, preprocess, read_manifest


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_papers_networks_have_the_papers_size():
    assert parameters(PaperAENet()) == pytest.approx(51.6e6, rel=0.001)
    assert parameters(ACNet()) == pytest.approx(0.83e6, rel=0.01)


@pytest.mark.parametrize("network", [PaperAENet(0.03), CompactAENet()], ids=["paper", "compact"])
def test_larger_pictures_give_a_map(network):
    network.eval()
    with torch.no_grad():
        for shape, expected in (((240, 320), (1, 1)), ((480, 640), (16, 21))):
            assert network(torch.rand(1, 2, *shape) * 0.1)[0].shape == (1, 1, *expected)


def test_scores_are_clipped_to_the_scale():
    network = PaperAENet(0.03).eval()
    with torch.no_grad():
        network.tail[-1].weight.mul_(1e4)
        score = network(torch.randn(4, 2, 240, 320))[0]
    assert 0 <= float(score.min()) <= float(score.max()) <= 9


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    datasets.build(DatasetConfig(count=96, seed=5, shard_size=48), folder, workers=1)
    return str(folder)


@pytest.fixture(scope="module")
def trained(frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aenet")
    aenet.train(aenet.AENetConfig((frames,), epochs=1, batch=8, window=64), folder)
    export.export_aenet(folder / "checkpoint.pt", folder)
    return folder


@pytest.mark.slow
def test_a_training_run_leaves_history_checkpoint_and_a_model_that_loads(trained):
    (line,) = (trained / "history.jsonl").read_text().splitlines()
    assert {"mse", "accuracy", "precision", "correlation", "epoch"} <= json.loads(line).keys()
    (card,) = read_manifest(trained)
    assert card.details["torch_difference"] <= export.TOLERANCE
    assert card.details["training"]["seed"] == 1
    evaluation = load(trained).evaluator(np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8), 5000.0)
    assert 0 <= evaluation.score <= 9


def test_training_goes_on_where_it_stopped(frames, trained, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes((trained / "checkpoint.pt").read_bytes())
    aenet.train(aenet.AENetConfig((frames,), epochs=2, batch=8, window=64), tmp_path, resume=True)
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1


@pytest.mark.slow
def test_training_goes_on_from_the_shipped_weights(frames, tmp_path):
    shipped = str(models_directory())
    config = aenet.AENetConfig((frames,), epochs=1, batch=8, learning_rate=1e-6, start=shipped)
    path = aenet.train(config, tmp_path)
    pixels = np.cumsum(np.random.default_rng(0).integers(0, 3, (240, 320)), axis=1).astype(np.uint8)
    before, after = (
        load().evaluator(pixels, 5000.0),
        load(export.export_aenet(path, tmp_path).parent).evaluator(pixels, 5000.0),
    )
    assert after.log_blur == pytest.approx(before.log_blur, abs=0.02)
    (card,) = read_manifest(tmp_path)
    began = next(each for each in read_manifest() if each.role == "aenet")
    assert card.details["before"]["sha256"] == began.sha256
    assert card.details["before"]["training"] == began.details["training"]
    assert after.score == pytest.approx(before.score, abs=0.1)
    assert after.ellipse.log_larger == pytest.approx(before.ellipse.log_larger, abs=0.1)


def test_training_cannot_go_on_from_a_folder_without_a_network_of_its_kind(frames, tmp_path):
    with pytest.raises(InvalidParameterError, match="start"):
        aenet.train(aenet.AENetConfig((frames,), width=0.03, start=str(models_directory())), tmp_path)


def test_the_instrument_and_the_training_see_the_same_picture(frames):
    """The input that training makes of a frame is the one that the loop makes of it."""
    read = aenet.read_frames((frames,))
    (first, *_) = datasets.load(frames)
    batch = read.batch(np.array([0]), torch.device("cpu")).numpy()
    expected = preprocess(first["pixels"][0], float(first["magnification"][0])).frames
    np.testing.assert_allclose(batch, expected, atol=2e-3)


@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrored_and_transposed_frames_keep_their_ellipse(mirrored):
    """Lines drawn along an ellipse's larger axis lie along the label after every mirroring and transposition."""
    angles = np.radians(np.random.default_rng(3).uniform(-90, 90, 64))
    y, x = np.mgrid[:240, :320]
    pixels = [128 + 100 * np.sin((x * np.sin(angle) - y * np.cos(angle)) * 0.4) for angle in angles]
    labels = [np.ones(64), np.zeros(64), np.cos(2 * angles), np.sin(2 * angles)]
    frames = aenet.Frames(
        np.array(pixels).astype(np.uint8),
        torch.full((64,), 0.05),
        torch.zeros(64),
        torch.tensor(np.stack(labels, 1), dtype=torch.float32),
        torch.ones(64),
        np.ones(64, bool),
        np.array(["lines"] * 64),
        np.arange(64),
    )
    inputs, ellipse = frames.drawn(np.arange(64), np.random.default_rng(4), torch.device("cpu"), 192, mirrored)
    assert inputs.shape == (128 if mirrored else 64, 2, 192, 192)
    assert not np.allclose(ellipse[:64].numpy(), frames.ellipse.numpy())
    down, right = (np.gradient(inputs[:, 0].numpy(), axis=axis) for axis in (1, 2))
    along = np.arctan2(2 * (down * right).mean((1, 2)), (right**2 - down**2).mean((1, 2))) / 2 + np.pi / 2
    labelled = np.arctan2(ellipse[:, 3].numpy(), ellipse[:, 2].numpy()) / 2
    np.testing.assert_allclose(np.cos(2 * (along - labelled)), 1, atol=0.02)


def test_every_window_has_a_mirror_image_of_its_own_behind_all_windows():
    random = np.random.default_rng(6)
    frames = aenet.Frames(
        random.integers(0, 255, (32, 240, 320), np.uint8),
        torch.linspace(0.01, 0.3, 32),
        torch.zeros(32),
        torch.zeros(32, 4),
        torch.ones(32),
        np.arange(32) % 2 == 0,
        np.array(["noise"] * 32),
        np.arange(32),
    )
    inputs, _ = frames.drawn(np.arange(32), random, torch.device("cpu"), 64, mirrored=True)
    kinds = set()
    for k, (window, image) in enumerate(zip(inputs[:32].numpy(), inputs[32:].numpy(), strict=True)):
        assert window[1, 0, 0] == image[1, 0, 0] == frames.mag_image[k]
        mirrored = {"left to right": window[0, :, ::-1], "top to bottom": window[0, ::-1], "transposed": window[0].T}
        (kind,) = (name for name, pixels in mirrored.items() if np.allclose(pixels, image[0], atol=1e-5))
        assert kind != "transposed" or frames.plain[k]
        kinds.add(kind)
    assert len(kinds) == 3


def test_radii_that_differ_between_mirror_images_cost():
    """The last pair is blurred too widely for its windows, and costs nothing."""
    larger, smaller = torch.tensor([1.0, 2.0, 4.0, 1.5, 2.0, 5.0]), torch.tensor([0.5, 1.0, 1.0, 0.7, 1.0, 2.0])
    zero = torch.zeros(6)
    outputs = (zero, zero, zero, larger, zero, smaller, zero, zero, zero, zero)
    true = torch.tensor([[1.2, 0.6, 1.0, 0.0], [2.0, 1.0, 1.0, 0.0], [4.0, 1.0, 1.0, 0.0]]).repeat(2, 1)
    alone, beside = (aenet.loss(outputs, zero, true, zero + 4.5, False, mirrored) for mirrored in (False, True))
    assert float(beside - alone) == pytest.approx((3 * 0.5**2 + 0.2**2) / 3, rel=1e-4)


def test_artefacts_along_the_lines_are_never_transposed():
    pixels = np.zeros((32, 240, 320), np.uint8)
    pixels[:, ::2] = 200
    frames = aenet.Frames(
        pixels,
        torch.full((32,), 0.05),
        torch.zeros(32),
        torch.zeros(32, 4),
        torch.ones(32),
        np.zeros(32, bool),
        np.array(["lines"] * 32),
        np.arange(32),
    )
    inputs, _ = frames.drawn(np.arange(32), np.random.default_rng(4), torch.device("cpu"), window=192)
    assert float(inputs[:, 0].std(dim=2).max()) < 1e-3


@pytest.mark.slow
def test_a_network_trained_on_windows_goes_on_from_its_checkpoint_on_whole_frames(frames, tmp_path):
    first = aenet.train(aenet.AENetConfig((frames,), epochs=1, batch=16, window=64), tmp_path / "windows")
    path = aenet.train(
        aenet.AENetConfig((frames,), epochs=1, batch=32, learning_rate=1e-5, mirrored=False, start=str(first.parent)),
        tmp_path / "whole",
    )
    (card,) = read_manifest(export.export_aenet(path, tmp_path / "whole").parent)
    report = AENet(card)(np.random.default_rng(0).integers(0, 255, (240, 320), np.uint8), 5000.0)
    assert 0 <= report.ellipse.log_smaller <= report.ellipse.log_larger
    assert np.hypot(report.ellipse.cos2, report.ellipse.sin2) <= 1 + 1e-6
    assert -90 <= report.ellipse.direction <= 90


def test_a_second_head_learns_the_ellipse_and_leaves_the_round_blur_as_it_was(frames, trained, tmp_path):
    config = aenet.AENetConfig((frames,), epochs=2, batch=32, ellipse_only=True, start=str(models_directory()))
    path = aenet.train(config, tmp_path)
    began, _ = read_compact(next(card for card in read_manifest() if card.role == "aenet"))
    made = torch.load(path, weights_only=True)["network"]
    kept = [name for name in began.state_dict() if not name.startswith("ellipse")]
    assert all(torch.equal(made[name], began.state_dict()[name]) for name in kept)
    first, last = [json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert last < first


def test_a_second_head_alone_needs_the_network_that_it_belongs_to(frames):
    with pytest.raises(InvalidParameterError, match="ellipse_only"):
        aenet.AENetConfig((frames,), ellipse_only=True)


def test_the_split_goes_by_field(frames):
    read = aenet.read_frames((frames,))
    training, validation = aenet.split(read)
    assert set(read.field[training]).isdisjoint(read.field[validation])
    assert len(training) + len(validation) == len(read) == 96


@pytest.mark.slow
def test_the_papers_architecture_trains_by_the_papers_recipe(frames, tmp_path):
    config = aenet.AENetConfig.paper((frames,), width=0.03, epochs=1, batch=16)
    assert (config.learning_rate, config.weight_decay, config.schedule) == (0.01, 5e-4, "plateau")
    path = aenet.train(config, tmp_path)
    assert AENet(read_manifest(export.export_aenet(path, tmp_path).parent)[0]).blur_range is None


@pytest.mark.slow
def test_a_teachers_score_counts_as_much_as_the_label(frames, tmp_path):
    halved = tmp_path / "halved"
    shutil.copytree(frames, halved)
    for path in halved.glob("*.npz"):
        with np.load(path) as arrays:
            changed = dict(arrays) | {"score": arrays["score"] / 2}
        np.savez(path, **changed)
    recipe = {"width": 0.03, "epochs": 1, "batch": 16}
    saved = torch.load(aenet.train(aenet.AENetConfig((frames,), **recipe), tmp_path / "teacher"), weights_only=True)
    saved["network"]["tail.6.weight"].zero_()  # a teacher that scores every frame 0
    torch.save(saved, tmp_path / "teacher" / "checkpoint.pt")
    taught = aenet.AENetConfig((frames,), teacher=str(tmp_path / "teacher"), **recipe)
    losses = []
    for config, name in ((taught, "taught"), (aenet.AENetConfig((str(halved),), **recipe), "alone")):
        aenet.train(config, tmp_path / name)
        losses.append(json.loads((tmp_path / name / "history.jsonl").read_text())["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(InvalidParameterError, match="finished run"):
        aenet.train(dataclasses.replace(taught, teacher=str(halved)), tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"window": 64, "batch": 8}, {"width": 0.03, "batch": 16}], ids=["compact", "paper"]
)
def test_bfloat16_learns_as_single_precision_does(frames, tmp_path, monkeypatch, changes):
    losses = []
    for able in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able}, raising=False)
        aenet.train(aenet.AENetConfig((frames,), epochs=1, **changes), tmp_path / str(able))
        losses.append(json.loads((tmp_path / str(able) / "history.jsonl").read_text())["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_acnet_trains_on_focal_series_and_exports(trained, tmp_path):
    series = tmp_path / "series"
    datasets.build(DatasetConfig(kind="series", mixture="paper", count=2, series_frames=24), series, workers=1)
    config = acnet.ACNetConfig((str(series),), epochs=2, batch=64, episodes=8, hidden=32)
    path = acnet.train(config, tmp_path / "run", load(trained).evaluator)
    model = export.export_acnet(path, tmp_path / "run")
    (card,) = read_manifest(model.parent)
    assert card.action_law == "depth-of-field"
    assert {"selected_score", "score_gap", "iterations"} <= card.details["metrics"].keys()


def test_targets_point_at_the_best_place_and_are_clipped():
    grid = np.linspace(-20, 20, 401)
    curve = 9 / (1 + ((grid - 2) / 4.5) ** 2)
    curves = Curves(
        grid, np.array([[curve, curve / 9, curve / 9 + 5]]), np.array([1000.0]), np.array([0.134]), grid[[220]]
    )
    playground = Playground(
        curves, np.random.default_rng(1), episodes=64, maximum=LAWS["depth-of-field"], score_noise=0.5
    )
    playground.move(playground.targets())
    near = np.abs(playground.position - 2) < 1e-6
    assert near.mean() > 0.3
    playground.move(playground.targets())
    assert (np.abs(playground.position - 2) < 1e-6).all()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"width": 0.0}, OutOfRangeError),
        ({"epochs": 0}, OutOfRangeError),
        ({"schedule": "x"}, InvalidParameterError),
        ({"window": 100}, OutOfRangeError),
        ({"window": 256}, OutOfRangeError),
        ({"window": 192, "width": 0.5}, InvalidParameterError),
        ({"window": 192, "teacher": "run"}, InvalidParameterError),
    ],
)
def test_bad_recipes_are_refused(changes, error):
    with pytest.raises(error):
        aenet.AENetConfig(("data",), **changes)
    with pytest.raises(InvalidParameterError):
        aenet.AENetConfig(())
    with pytest.raises(InvalidParameterError, match="action_law"):
        acnet.ACNetConfig(("data",), action_law="linear")
