"""Datasets from the emulator: labels, splits, resuming."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from semdrivers.emulator.physics import ColumnPreset, ElectronColumn, ScanConditions, ideal_score, pixel_size
from semdrivers.emulator.specimens import Picture, Window, make_specimen
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.training import datasets
from semfocus_plugin.lab.training.datasets import DatasetConfig
from semfocus_plugin.lab.training.drawn import Drawn
from semfocus_plugin.lab.training.sampling import TRAINED, Field, draw_astigmatism, draw_defocus, draw_field
from semfocus_plugin.lab.training.textures import texture

SMALL = DatasetConfig(count=20, seed=3, shard_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    datasets.build(SMALL, folder, workers=1)
    return folder


def joined(folder):
    shards = list(datasets.load(folder))
    return {key: np.concatenate([shard[key] for shard in shards]) for key in shards[0]}


def test_every_frame_has_its_label(folder):
    data = joined(folder)
    assert data["pixels"].shape == (20, 240, 320)
    assert data["pixels"].dtype == np.uint8
    implied = 9 / (1 + (data["larger"] / data["half_blur"]) ** 2)
    np.testing.assert_allclose(data["score"], implied, rtol=1e-4)
    assert set(data["specimen"]) <= {*TRAINED, "texture"}
    assert (data["smaller"] >= 0).all()
    assert (data["larger"] >= data["smaller"]).all()
    np.testing.assert_allclose(np.hypot(data["cos2"], data["sin2"]), 1, atol=1e-5)


def test_fields_do_not_cross_shards(folder):
    fields = [set(shard["field"]) for shard in datasets.load(folder)]
    assert all(a.isdisjoint(b) for k, a in enumerate(fields) for b in fields[k + 1 :])


def test_the_manifest_names_every_file_with_its_hash(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["files"]) == [f"shard-0000{k}.npz" for k in range(3)]
    assert manifest["config"]["seed"] == 3


def test_a_missing_shard_is_made_again_and_the_others_are_kept(folder):
    path = folder / datasets.shard_name(1)
    other = folder / datasets.shard_name(0)
    before, kept = path.read_bytes(), other.stat().st_mtime_ns
    path.unlink()
    seen = []
    datasets.build(SMALL, folder, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == before
    assert other.stat().st_mtime_ns == kept
    assert seen == [(3, 3)]


def test_what_a_killed_writer_left_of_a_whole_file_is_removed(folder):
    left, other = folder / ".shard-00001.npz.0123abcd.tmp", folder / ".shard-00009.npz.0123abcd.tmp"
    left.write_bytes(b"half")
    other.write_bytes(b"half")
    datasets.build(SMALL, folder, workers=1)
    assert other.exists()
    assert not left.exists()
    other.unlink()


def test_a_folder_holds_one_dataset(folder):
    with pytest.raises(InvalidParameterError, match="holds another dataset"):
        datasets.build(DatasetConfig(count=20, seed=4, shard_size=8), folder)


def test_an_unfinished_folder_is_refused_and_none_is_made(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InvalidParameterError, match="no finished dataset"):
            list(datasets.load(place))
    assert datasets.recipe(tmp_path / "nowhere") == {}
    assert not (tmp_path / "nowhere").exists()


def test_an_address_that_nothing_opens_is_refused():
    with pytest.raises(InvalidParameterError, match="drawer"):
        datasets.Store("drawer://left/frames")


def folder_of_pictures(folder, levels):
    """Return a folder of chequered pictures, one of each level."""
    folder.mkdir()
    for level in levels:
        chequered = (np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((40, 50))) * level).astype(np.uint8)
        PIL.Image.fromarray(chequered).save(folder / f"{level}.png")
    rows = [f"{level}.png,0,sharp" for level in levels]
    (folder / "MANIFEST.csv").write_text("\n".join(["file,bar_rows,notes", *rows]))
    return str(folder)


def test_a_users_micrographs_are_scanned_instead_of_named_specimens(tmp_path):
    config = DatasetConfig(count=6, seed=3, shard_size=1, micrographs=folder_of_pictures(tmp_path / "a", (150, 200)))
    manifest = datasets.build(config, tmp_path / "frames", workers=1)
    assert set(joined(tmp_path / "frames")["specimen"]) == {"texture"}
    listed = Path(manifest).read_bytes()
    elsewhere = dataclasses.replace(config, micrographs=folder_of_pictures(tmp_path / "b", (150, 200)))
    datasets.build(elsewhere, tmp_path / "frames", workers=1)
    assert Path(manifest).read_bytes() == listed
    others = dataclasses.replace(config, micrographs=folder_of_pictures(tmp_path / "c", (150, 201)))
    with pytest.raises(InvalidParameterError, match="holds another dataset"):
        datasets.build(others, tmp_path / "frames", workers=1)


def test_micrographs_that_cannot_be_scanned_are_refused_before_a_frame_is_drawn(tmp_path):
    with pytest.raises(InvalidParameterError, match="micrographs go with kind 'frames' and mixture 'broad'"):
        DatasetConfig(mixture="paper", micrographs="pictures")
    for folder in (folder_of_pictures(tmp_path / "none", ()), str(tmp_path)):
        with pytest.raises(InvalidParameterError, match=r"lists no|no MANIFEST"):
            datasets.build(DatasetConfig(count=1, micrographs=folder), tmp_path / "frames", workers=1)
        assert not (tmp_path / "frames").exists()


def test_label_noise_rounds_scores(tmp_path):
    datasets.build(DatasetConfig(count=8, label_noise=0.5), tmp_path, workers=1)
    score = joined(tmp_path)["score"]
    assert np.array_equal(score, np.rint(score))
    assert score.min() >= 0
    assert score.max() <= 9


def test_a_series_goes_through_focus(tmp_path):
    datasets.build(DatasetConfig(kind="series", mixture="paper", count=1, series_frames=9), tmp_path, workers=1)
    data = joined_series(tmp_path)
    assert data["pixels"].shape == (9, 240, 320)
    assert data["defocus"][0] < -10 < 10 < data["defocus"][-1]
    assert np.argmax(data["score"]) == np.argmin(np.abs(data["defocus"]))
    assert str(data["specimen"]) in TRAINED


def joined_series(folder):
    (series,) = datasets.load(folder)
    return series


def test_the_paper_mixture_stays_within_the_papers_magnifications():
    for seed in range(12):
        field = draw_field(np.random.default_rng(seed), "paper")
        low, high = TRAINED[field.specimen]
        assert low <= field.conditions.magnification <= high
        assert (field.conditions.width, field.conditions.height) == (640, 480)


def test_the_papers_samples_come_in_fast_frames_too():
    fast, slow = (draw_field(np.random.default_rng(1), mixture) for mixture in ("paper-fast", "paper"))
    assert (fast.conditions.width, fast.conditions.height) == (320, 240)
    assert fast.conditions.dwell_time < slow.conditions.dwell_time
    assert (fast.specimen, fast.conditions.magnification) == (slow.specimen, slow.conditions.magnification)


SPOT = 2.0


def field_of_points() -> Field:
    """Bright spots far apart under an ideal column: what a frame shows of each is the probe, and the spot's width."""
    y, x = np.mgrid[:240, :320] % 80 - 40
    points = 0.1 + 0.15 * np.exp(-(x * x + y * y) / (2 * SPOT**2))
    column = ElectronColumn(Picture(points, 400.0), preset=ColumnPreset(noise=False, tilt=0.0))
    return Field(column, ScanConditions(15.0, 1000.0, 320, 240, bits=16), "points")


@pytest.mark.parametrize("defocus", [4.0, -4.0, 7.0, -7.0])
@pytest.mark.parametrize("turn", [0.0, 0.9, 2.0, 3.6])
def test_the_label_of_an_ellipse_is_what_the_frame_shows(defocus, turn):
    sample = field_of_points().frame(defocus, 1, (4.5 * np.cos(turn), 4.5 * np.sin(turn)))
    around = sample.pixels[120 - 25 : 120 + 26, 120 - 25 : 120 + 26].astype(float)
    weight = around - around[0, 0]
    weight = np.where(weight > 0.03 * weight.max(), weight, 0.0)
    y, x = np.mgrid[:51, :51] - 25.0
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    xx, yy, xy = (np.average(product, weights=weight) for product in (x * x, y * y, x * y))
    measured = np.degrees(np.arctan2(2 * xy, xx - yy)) / 2
    labelled = np.degrees(np.arctan2(sample.sin2, sample.cos2)) / 2
    assert abs((measured - labelled + 90) % 180 - 90) < 4
    larger = 2 * np.sqrt((xx + yy) / 2 + np.hypot((xx - yy) / 2, xy) - SPOT**2)
    assert larger == pytest.approx(sample.larger, rel=0.12)
    assert sample.larger - sample.smaller == pytest.approx(2 * min(4.5, abs(defocus)) * sample.half_blur / 4.5, rel=0.1)


def test_astigmatism_is_drawn_in_every_direction_and_up_to_line_foci():
    random = np.random.default_rng(2)
    drawn = np.array([draw_astigmatism(random, 8.0) for _ in range(2000)])
    quadrants = np.bincount((drawn[:, 0] > 0) * 2 + (drawn[:, 1] > 0), minlength=4)
    assert quadrants.min() > 400
    amount = np.hypot(*drawn.T)
    assert (amount < 0.4).mean() > 0.2
    assert (np.abs(amount - 8.0) < 2.0).mean() > 0.2
    assert amount.max() > 10


def test_frames_of_one_field_differ_in_noise_and_contrast():
    random = np.random.default_rng(4)
    field = draw_field(random, "broad")
    first, second = (field.varied(0.5, 7, (0.0, 0.0), random) for _ in range(2))
    assert (first.larger, first.specimen) == (second.larger, second.specimen)
    assert first.pixels.std() != pytest.approx(second.pixels.std(), rel=1e-3)


def test_scores_of_the_paper_mixture_are_spread_evenly():
    random = np.random.default_rng(1)
    scores = [ideal_score(draw_defocus(random, "paper")) for _ in range(2000)]
    counts, _ = np.histogram(scores, bins=9, range=(0, 9))
    assert counts.min() > 150


def test_textures_differ_by_seed_and_repeat():
    first, again, other = (texture(np.random.default_rng(seed), 160, 120) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() >= 0
    assert first.mean() == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"kind": "movies"}, InvalidParameterError),
        ({"mixture": "deep"}, InvalidParameterError),
        ({"count": 0}, OutOfRangeError),
        ({"label_noise": -1.0}, OutOfRangeError),
    ],
)
def test_bad_configurations_are_refused(changes, error):
    with pytest.raises(error):
        DatasetConfig(**changes)


def manifest_of(place) -> dict[str, str]:
    return json.loads(datasets.Store(place).read("manifest.json"))["files"]


def test_the_bytes_do_not_depend_on_the_number_of_processes(folder, tmp_path):
    datasets.build(SMALL, tmp_path, workers=2)
    assert manifest_of(tmp_path) == manifest_of(folder)


def test_a_dataset_lies_wherever_fsspec_reaches_and_is_resumed_there(folder, tmp_path):
    address = f"memory://{tmp_path.name}/frames"
    store = datasets.Store(address)
    store.write("config.json", (folder / "config.json").read_bytes())
    store.write("shard-00001.npz", (folder / "shard-00001.npz").read_bytes())
    seen = []
    datasets.build(SMALL, address, workers=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]
    assert manifest_of(address) == manifest_of(folder)
    assert store.names() == {"config.json", "manifest.json", *manifest_of(folder)}
    for near, far in zip(datasets.load(folder), datasets.load(address), strict=True):
        np.testing.assert_array_equal(near["pixels"], far["pixels"])


def test_the_frames_of_a_file_stay_on_disk_until_they_are_used(folder):
    arrays = datasets.mapped(folder / "shard-00000.npz")
    assert isinstance(arrays["pixels"], np.memmap)
    with np.load(folder / "shard-00000.npz") as loaded:
        assert arrays.keys() == set(loaded)
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, loaded[name])


@pytest.mark.parametrize("name", ["tin-balls", "gold-nanoparticles"])
def test_a_field_that_is_drawn_once_looks_like_its_specimen(name):
    """In focus it is the specimen to a grey level; out of focus its surroundings alone differ."""
    conditions = ScanConditions(15.0, 9000.0, 320, 240, stage_x=1.0, stage_y=-2.0)
    pixel = pixel_size(9000.0, 320) * 1e-3
    window = Window(1000.0 - 179.5 * pixel, -2000.0 - 139.5 * pixel, pixel, 360, 280)
    specimen = make_specimen(name, 3)
    drawn, bare = (
        ElectronColumn(each, seed=4, preset=ColumnPreset(noise=False)) for each in (Drawn(specimen, window), specimen)
    )
    truth = bare.truth(conditions)
    assert drawn.truth(conditions).working_distance == pytest.approx(truth.working_distance, abs=1e-6)
    for defocus, most in ((0.0, 0.6), (25.0, 6.0)):
        at = dataclasses.replace(
            conditions, working_distance=truth.working_distance + defocus * truth.depth_of_field, bits=16
        )
        one, other = (column.render(at).astype(float) / 257 for column in (drawn, bare))
        assert np.abs(one - other)[20:-20, 20:-20].max() < most
