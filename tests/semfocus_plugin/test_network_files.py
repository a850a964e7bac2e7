"""Models and their manifest: what loads, and what refuses to."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from semdrivers import ModelError
from semfocus_plugin import networks
from semfocus_plugin.networks import prepare


def edit(folder, **changes):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["models"][0] |= changes
    path.write_text(json.dumps(manifest))


def test_models_score_and_step(tiny_models):
    loaded = networks.load()
    random = np.random.default_rng(1)
    smooth = np.broadcast_to(np.linspace(0, 255, 320), (240, 320)).astype(np.uint8)
    rough = random.integers(0, 256, (240, 320)).astype(np.uint8)
    assert loaded.evaluator(rough, 5000.0).score > loaded.evaluator(smooth, 5000.0).score
    assert loaded.evaluator.blur_range == 20.0
    assert 0 <= loaded.evaluator(rough, 5000.0).log_blur <= 3.6
    state = np.zeros(80, np.float32)
    state[19] = 0.5
    assert loaded.controller("depth-of-field")(state) == pytest.approx(np.tanh(0.25), rel=1e-5)


def test_network_may_tell_no_blur(tmp_path, write_models):
    evaluator = networks.load(write_models(tmp_path, blur=False)).evaluator
    assert evaluator.blur_range is None
    found = evaluator(np.zeros((240, 320), np.uint8), 5000.0)
    assert (found.log_blur, found.log_sigma) == (None, None)


ELLIPSE = {
    "log_larger": 3.0,
    "log_sigma_larger": -1.5,
    "log_smaller": 0.5,
    "log_sigma_smaller": -1.0,
    "cos2": -2.0,
    "sin2": 0.0,
    "log_sigma_direction": -2.0,
}


def test_network_may_report_the_ellipse_of_a_blur(tmp_path, write_models):
    evaluator = networks.load(write_models(tmp_path, ellipse=ELLIPSE)).evaluator
    found = evaluator(np.zeros((240, 320), np.uint8), 5000.0)
    ellipse = found.ellipse
    assert ellipse.log_larger == found.log_larger == pytest.approx(3.0)
    assert found.log_blur != found.log_larger
    assert (ellipse.log_smaller, ellipse.cos2, ellipse.sin2) == pytest.approx((0.5, -1.0, 0.0))
    assert abs(ellipse.direction) == pytest.approx(90.0)
    assert ellipse.sigma_larger == pytest.approx(np.exp(-1.5))
    assert (ellipse.sigma_smaller, ellipse.sigma_direction) == pytest.approx((np.exp(-1.0), np.exp(-2.0)))


def test_a_direction_that_mirror_images_contradict_is_none(tmp_path, write_models):
    evaluator = networks.load(write_models(tmp_path, ellipse=ELLIPSE | {"sin2": 2.0, "cos2": 0.0})).evaluator
    ellipse = evaluator(np.zeros((240, 320), np.uint8), 5000.0).ellipse
    assert (ellipse.cos2, ellipse.sin2) == (0.0, 0.0)


def test_a_line_focus_is_the_same_in_every_mirror_image():
    random = np.random.default_rng(3)
    waves = np.exp(-((17 * np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(336)[None, :])) ** 2))
    grains = np.fft.irfft2(np.fft.rfft2(random.normal(size=(240, 336))) * waves) > 0
    along = np.lib.stride_tricks.sliding_window_view(grains, 17, axis=1).mean(-1)
    pixels = np.clip(60 + 130 * along + random.normal(0, 6, along.shape), 0, 255).astype(np.uint8)
    evaluator = networks.load().evaluator
    seen = [evaluator(image, 3000.0) for image in (pixels, pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1])]
    assert seen[0].score < 4
    assert [each.score for each in seen] == pytest.approx([seen[0].score] * 4, abs=1e-3)
    assert [each.log_larger for each in seen] == pytest.approx([seen[0].log_larger] * 4, abs=1e-3)


def test_the_smaller_radius_is_never_beyond_the_larger(tmp_path, write_models):
    evaluator = networks.load(write_models(tmp_path, ellipse=ELLIPSE | {"log_smaller": 9.0})).evaluator
    ellipse = evaluator(np.zeros((240, 320), np.uint8), 5000.0).ellipse
    assert ellipse.log_smaller == ellipse.log_larger


@pytest.mark.parametrize("missing", [None, "sin2"])
def test_network_without_an_ellipse_reports_its_round_blur(tmp_path, write_models, missing):
    outputs = {name: value for name, value in ELLIPSE.items() if missing and name != missing}
    evaluator = networks.load(write_models(tmp_path, ellipse=outputs)).evaluator
    found = evaluator(np.zeros((240, 320), np.uint8), 5000.0)
    assert found.ellipse is None
    assert found.log_blur == found.log_larger > 0


def test_larger_picture_counts_by_the_median_of_its_map(tiny_models):
    evaluator = networks.load().evaluator
    pixels = np.random.default_rng(2).integers(0, 256, (480, 640)).astype(np.uint8)
    pixels[:, 400:] = 128
    scores = evaluator.maps(prepare(pixels, 5000.0))["score"]
    assert scores.size > 1
    assert evaluator(pixels, 5000.0).score == pytest.approx(float(np.median(scores)))


def test_sessions_are_opened_once(tiny_models):
    assert networks.load() is networks.load(tiny_models)


def test_law_of_another_controller_is_answered_by_the_preferred_one(tiny_models):
    loaded = networks.load()
    assert loaded.controller("paper") is loaded.controller("depth-of-field")


def test_altered_file_does_not_load(tiny_models):
    path = tiny_models / "aenet.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"aenet.*SHA-256.*reinstall"):
        networks.load()


def test_missing_file_is_named(tiny_models):
    (tiny_models / "acnet.onnx").unlink()
    with pytest.raises(ModelError, match=r"acnet\.onnx is missing"):
        networks.load()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "list"),
        ('{"models": [1]}', "model 0 must be an object"),
        ('{"models": [{"name": "a"}]}', "lacks the text 'file'"),
        ('{"models": []}', "no model of role 'aenet'"),
    ],
)
def test_malformed_manifest_is_named(tmp_path, text, words):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        networks.load(tmp_path)


def test_folder_without_a_manifest_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"manifest\.json"):
        networks.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"role": "genie"}, "role 'genie'"),
        ({"file": "../aenet.onnx"}, "plain name"),
        ({"inputs": ["pictures"]}, "must name 'frames'"),
        ({"outputs": ["score"]}, "has outputs"),
        ({"action_law": "none"}, "action_law 'none'"),
        ({"blur_range": -1}, "blur_range"),
        ({"sha256": 5}, "sha256"),
    ],
)
def test_manifest_that_contradicts_the_contract_is_named(tiny_models, changes, words):
    edit(tiny_models, **changes)
    with pytest.raises(ModelError, match=words):
        networks.load()


def test_network_of_another_shape_does_not_load(tmp_path, write_models):
    folder = write_models(tmp_path, channels=3)
    with pytest.raises(ModelError, match="shape"):
        networks.load(folder)


def test_file_that_is_no_network_does_not_load(tiny_models):
    import hashlib

    (tiny_models / "aenet.onnx").write_bytes(b"nothing")
    edit(tiny_models, sha256=hashlib.sha256(b"nothing").hexdigest())
    with pytest.raises(ModelError, match="cannot be opened"):
        networks.load()


def test_shipped_models_are_what_their_manifest_says():
    try:
        cards = networks.read_manifest(networks.models_directory())
    except ModelError as error:
        pytest.skip(str(error))
    for card in cards:
        card.verify()
        assert card.path.stat().st_size < 4_000_000
        assert card.details["training"]
        assert card.details["metrics"]
    loaded = networks.load()
    pixels = np.random.default_rng(1).integers(0, 256, (240, 320)).astype(np.uint8)
    assert 0.0 <= loaded.evaluator(pixels, 5000.0).score <= 9.0


def sign(path):
    """Enter the first model as it is now in the manifest beside it."""
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["models"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "manifest.json").write_text(json.dumps(manifest))


def test_a_model_of_too_many_nodes_is_refused(tmp_path, write_models):
    onnx = pytest.importorskip("onnx")
    folder = write_models(tmp_path / "models")
    path = folder / "aenet.onnx"
    model = onnx.load(path)
    model.graph.node.extend(
        onnx.helper.make_node("Identity", [model.graph.input[0].name], [f"copy{number}"]) for number in range(10_000)
    )
    onnx.save(model, path)
    sign(path)
    with pytest.raises(ModelError, match=rf"has {len(model.graph.node)} nodes, the limit is 10000"):
        networks.load(folder)


def test_a_model_that_takes_its_weights_from_other_files_is_refused(tmp_path, write_models):
    onnx = pytest.importorskip("onnx")
    folder = write_models(tmp_path / "models")
    path = folder / "aenet.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    sign(path)
    with pytest.raises(ModelError, match="takes weights from other files"):
        networks.load(folder)
