"""Fine-tuning: from the shipped file, on a person's labels, without forgetting. One real, tiny run."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from semdrivers import Image
from semdrivers.errors import InvalidParameterError, ModelError, OutOfRangeError
from semfocus_plugin import networks
from semfocus_plugin.lab.cli import app
from semfocus_plugin.lab.training import checkpoint, datasets, finetune, shipped
from semfocus_plugin.lab.training.architecture import CompactAENet
from semfocus_plugin.lab.training.datasets import DatasetConfig
from semfocus_plugin.labelling import Row, write_sheet


def shipped_card():
    return next(card for card in networks.read_manifest() if card.role == "aenet")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulated")
    datasets.build(DatasetConfig(count=160, seed=6, shard_size=32), folder, workers=1)
    return str(folder)


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """Pictures whose labels are 2 below what the shipped network says, and one without a label."""
    folder = tmp_path_factory.mktemp("night")
    evaluate = networks.load().evaluator
    rows = [Row("unlabelled.png", 1000.0)]
    samples = tmp_path_factory.mktemp("samples")
    datasets.build(DatasetConfig(count=96, seed=8, shard_size=96), samples, workers=1)
    (arrays,) = datasets.load(samples)
    for k, (pixels, magnification) in enumerate(zip(arrays["pixels"], arrays["magnification"], strict=True)):
        score = evaluate(pixels, float(magnification)).score
        if score > 3 and len(rows) < 21:
            picture = np.pad(pixels, ((0, 20), (0, 0)), mode="edge")
            image = Image(picture.astype(np.uint16) * 257 if k % 2 else picture, 15.0, float(magnification), 100.0)
            image.save(folder / f"{k}.tif")
            rows.append(Row(f"{k}.tif", float(magnification), bar_rows=20, label=score - 2))
    return write_sheet(folder / "labels.csv", rows)


def recipe(sheet, frames, **changes):
    return finetune.FinetuneConfig(
        (str(sheet),), (frames,), **{"epochs": 2, "batch": 8, "learning_rate": 1e-2, **changes}
    )


@pytest.fixture(scope="module")
def run(sheet, frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    path, report = finetune.train(recipe(sheet, frames), folder)
    return folder, path, report


def test_the_shipped_file_and_what_is_read_from_it_agree(monkeypatch):
    monkeypatch.setattr(shipped, "_TOLERANCE", 1e-4)
    network, _ = shipped.read_compact(shipped_card())
    assert not network.training


def test_a_file_of_another_make_is_refused(tiny_models):
    with pytest.raises(ModelError, match="no compact AENet"):
        shipped.read_compact(networks.read_manifest(tiny_models)[0])


@pytest.mark.slow
def test_a_persons_labels_are_learned_and_the_blur_is_kept(run):
    folder, _, report = run
    assert report.pictures_before["rmse"] == pytest.approx(2, abs=0.02)
    assert report.pictures_after["rmse"] < 1.7
    frames = torch.rand(2, 2, 240, 320) * 0.1
    before, _ = shipped.read_compact(shipped_card())
    after = CompactAENet(**checkpoint.load(folder)["shape"])
    after.load_state_dict(checkpoint.load(folder)["network"])
    with torch.no_grad():
        torch.testing.assert_close(after.eval()(frames)[1:], before(frames)[1:])
    assert report.pictures_before["pictures"] == 4


@pytest.mark.slow
def test_the_figures_before_are_those_of_the_score_function(run, sheet):
    pictures = finetune.read_pictures((str(sheet),))
    crops = pictures.crops(np.array([0, 1]), np.random.default_rng(1))
    assert crops.shape == (2, 2, 240, 320)
    network, _ = shipped.read_compact(shipped_card())

    def look(frames):
        maps = network(torch.from_numpy(frames))
        return {name: float(np.median(each.detach().numpy())) for name, each in zip(network.outputs, maps, strict=True)}

    seen = networks.in_mirror_images(look, pictures.whole(1).numpy())
    assert seen["score"] == pytest.approx(float(pictures.label[1]) + 2, abs=0.02)


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint_and_from_no_other_network(run, sheet, frames, tmp_path):
    _, path, report = run
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / checkpoint.CHECKPOINT).write_bytes(path.read_bytes())
    _, again = finetune.train(recipe(sheet, frames), copy, resume=True)
    assert again == report
    saved = checkpoint.load(copy)
    torch.save(saved | {"source": "another"}, copy / checkpoint.CHECKPOINT)
    with pytest.raises(InvalidParameterError, match="another AENet"):
        finetune.train(recipe(sheet, frames), copy, resume=True)


@pytest.mark.slow
def test_what_forgot_is_exported_by_force_alone(run, sheet, frames, tmp_path):
    _, path, report = run
    (tmp_path / checkpoint.CHECKPOINT).write_bytes(path.read_bytes())
    common = ["train", "finetune", frames, "--data", str(sheet), "-o", str(tmp_path), "--resume"]
    common += ["--epochs", "2", "--batch", "8", "--learning-rate", "0.01"]
    worse = dataclasses.replace(report, kept_before={**report.kept_after, "rmse": 0.0}).forgotten(0.1)
    assert worse[0].startswith("rmse 0.000")
    ran = CliRunner().invoke(app, common)
    assert ran.exit_code == (1 if report.forgotten(0.1) else 0)
    assert ("not exported" in ran.stderr) == (not (tmp_path / "aenet.onnx").exists()) == bool(report.forgotten(0.1))
    ran = CliRunner().invoke(app, [*common, "--force"])
    assert ran.exit_code == 0, ran.stderr
    assert "your pictures" in ran.stdout
    assert json.loads((tmp_path / "report.json").read_text())["kept_after"]["frames"] > 0
    cards = networks.read_manifest(tmp_path)
    assert {card.role for card in cards} == {"aenet", "acnet"}
    assert str(sheet) not in (tmp_path / "manifest.json").read_text()
    assert networks.load(tmp_path).controllers


@pytest.mark.slow
def test_what_cannot_be_learned_from_is_refused_with_a_reason(sheet, frames, tmp_path):
    few = write_sheet(tmp_path / "few.csv", [Row("a.png", 1000.0, label=3.0)])
    with pytest.raises(InvalidParameterError, match=r"a\.png"):
        finetune.read_pictures((str(few),))
    none = write_sheet(tmp_path / "none.csv", [Row("a.png", 1000.0)])
    with pytest.raises(InvalidParameterError, match="0 pictures have a label"):
        finetune.read_pictures((str(none),))
    untold = write_sheet(tmp_path / "untold.csv", [Row("a.png", label=3.0)])
    with pytest.raises(InvalidParameterError, match="magnification"):
        finetune.read_pictures((str(untold),))
    with pytest.raises(InvalidParameterError, match="semfocus label"):
        finetune.FinetuneConfig((), (frames,))
    with pytest.raises(OutOfRangeError, match="epochs"):
        recipe(sheet, frames, epochs=0)
