"""The paper's tables and figures, repeated: what is computed, what is written, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from semdrivers import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.benchmark.reproduction import Request, control, estimates, offline, online
from semfocus_plugin.lab.benchmark.reproduction.drawing import draw_histories
from semfocus_plugin.lab.benchmark.reproduction.ellipses import RADII, elliptical_disc, table_ellipses
from semfocus_plugin.lab.benchmark.reproduction.estimates import estimate, mean, median
from semfocus_plugin.lab.benchmark.reproduction.exhibit import Exhibit, Line
from semfocus_plugin.lab.benchmark.reproduction.fields import implied_defocus, measure_series, score_field
from semfocus_plugin.lab.benchmark.reproduction.figures import figure_3
from semfocus_plugin.lab.benchmark.reproduction.micrographs import disc
from semfocus_plugin.lab.benchmark.reproduction.published import ACNET, AENET, EXPERTS, ONLINE, Published
from semfocus_plugin.lab.cli import app
from semfocus_plugin.lab.training.curves import Curves, MeasuredSeries, smooth
from semfocus_plugin.lab.training.playground import Playground, offline_test
from semfocus_plugin.networks import ELEMENTS, ELLIPSE_OUTPUTS, LAWS, STATE_SIZE

PNG = b"\x89PNG"


def semfocus(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


def no_stage(description, steps):
    return lambda result: None


def bells(specimens=("tin-balls", "tem-grid", "gold-nanoparticles")) -> Curves:
    """One focal series of each specimen, a bell at a known place."""
    defocus = np.linspace(-20, 20, 161)
    series = []
    for number, name in enumerate(specimens):
        bell = 9 / (1 + ((defocus - number) / 4.5) ** 2)
        series.append(MeasuredSeries(name, 1000.0, 0.134, defocus, np.array([bell, bell / 9, 5 + bell / 9])))
    return smooth(series)


def test_a_mean_has_the_interval_of_the_textbook():
    values = np.random.default_rng(3).normal(5.0, 2.0, 400)
    ran = mean(values)
    assert (ran.count, ran.spread) == (400, pytest.approx(values.std()))
    assert ran.high - ran.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.12)
    assert mean(values) == ran
    assert mean([]) is None
    assert median([1.0, 2.0, 9.0]).value == 2.0


def test_frames_of_one_field_do_not_count_as_independent():
    fields = np.repeat(np.random.default_rng(4).normal(size=20), 8)
    number = np.repeat(np.arange(20), 8)
    blind, honest = mean(fields), mean(fields, number)
    assert honest.high - honest.low > 2 * (blind.high - blind.low)
    alone = estimate(fields[:8], lambda lines: float(lines.mean()), number[:8])
    assert np.isnan([alone.low, alone.high]).all()


def test_published_numbers_hold_together():
    assert AENET["accuracy"]["gold-nanoparticles"] == Published(0.731, 0.325)
    assert list(ACNET["iterations"]) == ["tin-balls", "tem-grid", "gold-nanoparticles"]
    assert set(EXPERTS["autofocus"]) == {*ONLINE["iterations"], "butterfly-wing", "fabric"}


def test_a_score_implies_its_distance_from_focus():
    np.testing.assert_allclose(implied_defocus(np.array([9.0, 4.5, 9 / 5])), [0.0, 4.5, 9.0])
    assert np.isfinite(implied_defocus(np.array([0.0]))).all()


def test_parts_of_the_state_cover_it_and_can_be_blanked():
    covered = np.zeros(STATE_SIZE, int)
    for part in ELEMENTS.values():
        covered[part] += 1
    assert (covered == 1).all()
    options = {"episodes": 4, "maximum": LAWS["paper"], "score_noise": 0.2}
    whole = Playground(bells(), np.random.default_rng(1), **options).states()
    blind = Playground(bells(), np.random.default_rng(1), blanked=("variance", "entropy"), **options).states()
    np.testing.assert_array_equal(blind[:, ELEMENTS["score"]], whole[:, ELEMENTS["score"]])
    assert whole[:, 39:79].any()
    assert not blind[:, 39:79].any()


def test_the_offline_test_knows_a_perfect_policy_from_none():
    options = {"episodes": 64, "maximum": LAWS["depth-of-field"], "score_noise": 0.0}
    playground = Playground(bells(), np.random.default_rng(1), **options)
    perfect = offline_test(lambda states: playground.targets(), playground)
    assert perfect.squared_error.max() == 0
    assert perfect.accuracy.min() == 1
    assert perfect.distance.max() < 0.1
    still = offline_test(lambda states: np.zeros(len(states)), Playground(bells(), np.random.default_rng(1), **options))
    assert still.distance.mean() > 2
    assert still.score_gap.mean() > perfect.score_gap.mean()


def test_acnet_is_tested_on_each_specimens_own_series():
    curves = bells()
    assert curves.of("tem-grid").best == pytest.approx([1.0])
    ran = control.episodes_of(lambda states: np.zeros(len(states)), LAWS["paper"], curves, seed=1)
    assert list(ran) == ["tin-balls", "tem-grid", "gold-nanoparticles"]
    lines = control.lines("ACNet", ran, published=True)
    assert [line.published.get("tin-balls") is not None for line in lines] == [True] * 4 + [False]


def test_measures_of_aenet_are_the_papers():
    from semfocus_plugin.lab.benchmark.reproduction.fields import ScoredField

    label = np.array([8.0, 6.0, 4.0, 1.0])
    fields = [ScoredField("fabric", 1000.0, label, label + shift) for shift in (0.5, 1.5)]
    shown = {line.measure: line.ours["fabric"] for line in offline.aenet_lines(fields)}
    assert shown["MSE"].value == pytest.approx((0.25 + 2.25) / 2)
    assert shown["Accuracy (±1)"].value == 0.5
    assert shown["Precision"].value == pytest.approx(0.9)
    assert shown["median error, DoF"].count == 6


def test_held_out_fields_follow_from_seed_and_number(tiny_models):
    one, same, other = (score_field("fabric", 5, number) for number in (0, 0, 1))
    np.testing.assert_array_equal(one.label, same.label)
    assert one.magnification != other.magnification
    series = measure_series("gold-nanoparticles", 5, 0, frames=9)
    assert series.values.shape == (3, 9)
    assert (np.diff(series.defocus) > 0).all()
    assert 8_000 <= series.magnification <= 30_000


def test_a_page_shows_the_papers_number_beside_ours():
    ours = {"tem-grid": mean([8.0, 9.0]), "fabric": None}
    line = Line("autofocus", "score", ours, {"tem-grid": Published(8.568, 0.564)}, digits=2)
    shown = Exhibit("Table 0", "a test", ("tem-grid", "fabric"), (line,), ("a note",), lambda path: path)
    assert shown.headings() == ("", "TEM grid: paper", "ours", "fabric: ours")
    page = shown.markdown({"seed": "7"}, "a.png").splitlines()
    assert "| score | 8.57 ± 0.56 | 8.50 ± 0.50 [8.00, 9.00] | – |" in page
    assert "![Table 0](a.png)" in page
    assert len({line.count("|") for line in page if line.startswith("|")}) == 1
    record = json.loads(json.dumps(shown.record({})))
    assert record["lines"][0]["ours"]["tem-grid"]["count"] == 2


@pytest.mark.slow
def test_histories_of_runs_that_follow_each_other_are_joined(tmp_path):
    for name, epochs in (("first", 2), ("second", 3)):
        (tmp_path / name).mkdir()
        entries = [{"epoch": k, "loss": 1.0, "mse": 1.0, "accuracy": 0.5 + 0.1 * k} for k in range(epochs)]
        (tmp_path / name / "history.jsonl").write_text("\n".join(map(json.dumps, entries)))
    shown = figure_3(Request(history=(tmp_path / "first", tmp_path / "second")), no_stage)
    assert [entry["step"] for entry in shown.data["aenet"]] == [0, 1, 2, 3, 4]
    assert shown.draw(tmp_path / "3.png").read_bytes()[:4] == PNG
    assert draw_histories([], [{"epoch": 49, "step": 49, "selected_score": 8.0, "loss": 0.1}], tmp_path / "a.png")
    with pytest.raises(InvalidParameterError, match=r"history\.jsonl"):
        figure_3(Request(history=(tmp_path,)), no_stage)
    (tmp_path / "history.jsonl").write_text("{")
    with pytest.raises(InvalidParameterError, match="not JSON"):
        figure_3(Request(history=(tmp_path,)), no_stage)


@pytest.fixture
def small(tiny_models, monkeypatch):
    """Tiny models, and tables of little data."""
    monkeypatch.setattr(offline, "SERIES_FRAMES", 21)
    monkeypatch.setattr(offline, "_TRAINING_SERIES", 1)
    monkeypatch.setattr(control, "EPISODES", 8)
    monkeypatch.setattr(estimates, "RESAMPLES", 20)


@pytest.mark.slow
def test_table_1_is_written_in_every_format(small, tmp_path):
    files = [tmp_path / "sub" / f"t.{ending}" for ending in ("md", "json", "png")]
    ran = semfocus("--table", 1, "--runs", 1, "--seed", 3, "--workers", 1, *[w for f in files for w in ("-o", f)])
    assert ran.exit_code == 0, ran.stderr
    assert "Accuracy" in ran.stdout
    page, record, drawing = files
    assert "0.920 ± 0.428" in page.read_text(encoding="utf-8")
    assert "](t.png)" in page.read_text(encoding="utf-8")
    shown = json.loads(record.read_text(encoding="utf-8"))
    assert "seed 3" in shown["conditions"]["emulator"]
    assert len(shown["data"]["fields"]) == 3
    assert drawing.read_bytes()[:4] == PNG


@pytest.mark.parametrize("radius", [2.5, 13.0])
def test_a_blur_is_a_disc_of_its_radius(radius):
    kernel = disc(radius)
    place = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1.0)
    assert (kernel * place[:, None] ** 2).sum() == pytest.approx(radius**2 / 4 + 1 / 12, rel=0.05)


@pytest.mark.parametrize(("larger", "smaller", "angle"), [(12.0, 3.0, 30.0), (9.0, 2.0, -70.0)])
def test_an_elliptical_blur_has_its_semi_axes_and_its_direction(larger, smaller, angle):
    kernel = elliptical_disc(larger, smaller, angle)
    place = np.arange(len(kernel)) - len(kernel) // 2
    xx, yy = ((kernel * place[shape] ** 2).sum() for shape in (np.s_[None, :], np.s_[:, None]))
    xy = (kernel * place[None, :] * place[:, None]).sum()
    spread = np.hypot((xx - yy) / 2, xy)
    assert np.degrees(np.arctan2(2 * xy, xx - yy)) / 2 == pytest.approx(angle, abs=1)
    assert (xx + yy) / 2 + spread == pytest.approx(larger**2 / 4 + 1 / 12, rel=0.05)
    assert (xx + yy) / 2 - spread == pytest.approx(smaller**2 / 4 + 1 / 12, rel=0.05)


def micrographs(folder):
    grain = np.random.default_rng(1).integers(0, 255, (300, 400)).astype(np.uint8)
    Pillow.fromarray(grain).save(folder / "a.png")
    (folder / "MANIFEST.csv").write_text("file,bar_rows,suggested_split,notes\na.png,20,dev,\n")


def test_a_network_that_sees_energy_alone_scores_mirror_images_alike(tiny_models, tmp_path):
    pytest.importorskip("scipy")
    micrographs(tmp_path)
    found = table_ellipses(Request(pictures=tmp_path, workers=1), no_stage)
    assert found.columns == ("12 × 0.7", "9 × 0.7", "9 × 3", "6 × 2", "9 × 9", "3 × 3")
    assert len(found.data["frames"]) == 3 * len(RADII)
    for frame in found.data["frames"]:
        np.testing.assert_allclose(frame.score[:4], frame.score[0], atol=0.3)
        assert np.isnan(frame.turned).all()
    assert found.lines[-1].ours["12 × 0.7"] is None
    with pytest.raises(InvalidParameterError, match="--pictures"):
        table_ellipses(Request(), no_stage)


def test_a_reported_direction_follows_the_mirror_images(tmp_path, write_models, monkeypatch):
    pytest.importorskip("scipy")
    outputs = dict.fromkeys(ELLIPSE_OUTPUTS, 0.0) | {"log_larger": 1.0, "cos2": 1.0}
    monkeypatch.setenv("SEMFOCUS_MODELS", str(write_models(tmp_path / "models", ellipse=outputs)))
    micrographs(tmp_path)
    for frame in table_ellipses(Request(pictures=tmp_path, workers=1), no_stage).data["frames"]:
        upright, transposed = frame.turned[:4], frame.turned[4:]
        np.testing.assert_allclose(np.abs(upright), abs(frame.angle))
        np.testing.assert_allclose(np.abs(transposed), 90 - abs(frame.angle))


@pytest.mark.slow
def test_real_micrographs_are_left_out_where_there_are_none(small, tmp_path):
    pytest.importorskip("scipy")
    grain = np.random.default_rng(1).integers(0, 255, (300, 400)).astype(np.uint8)
    Pillow.fromarray(grain).save(tmp_path / "a.png")
    (tmp_path / "MANIFEST.csv").write_text("file,bar_rows,suggested_split,notes\na.png,20,dev,\n")
    shown = offline.table_unseen(Request(runs=1, pictures=tmp_path), no_stage)
    assert shown.columns == ("butterfly-wing", "fabric", "real micrographs")
    assert shown.lines[-1].ours["real micrographs"].count == 1
    assert len(shown.data["micrographs"][0].score) == 11
    shown = offline.table_unseen(Request(runs=1), no_stage)
    assert shown.columns == ("butterfly-wing", "fabric")
    assert "left out" in " ".join(shown.notes)


@pytest.mark.slow
def test_autofocus_is_shown_against_the_true_best(small, tmp_path, monkeypatch):
    monkeypatch.setattr(online, "TRAINED", ("tin-balls",))
    monkeypatch.setattr(online, "UNSEEN", ("fabric",))
    drawing = tmp_path / "5.png"
    options = ["--method", "dual-network", "--max-frames", 4, "--preset", "ideal", "--workers", 1]
    ran = semfocus("--figure", 5, "--runs", 1, *options, "-o", drawing, "--json")
    assert ran.exit_code == 0, ran.stderr
    shown = json.loads(ran.stdout)
    assert [run["record"]["specimen"] for run in shown["data"]] == shown["columns"]
    assert all(0 <= run["record"]["best_score"] <= 9 for run in shown["data"])
    assert drawing.read_bytes()[:4] == PNG


def test_tables_of_runs_count_what_they_say(small, monkeypatch):
    monkeypatch.setattr(online, "TRAINED", ("tin-balls",))
    options = ["--method", "paper", "--max-frames", 4, "--preset", "ideal", "--workers", 1]
    shown = json.loads(semfocus("--table", 2, "--runs", 1, *options, "--json").stdout)
    lines = {line["measure"]: line["ours"]["tin-balls"] for line in shown["lines"]}
    (record,) = [run for run in shown["data"]["paper"] if run["specimen"] == "tin-balls"]
    assert lines["all frames, search included"]["value"] == record["frames"]
    assert lines["share that reports focus"]["value"] == (record["status"] == "focused")
    if record["status"] == "focused":
        assert lines["Average of iteration"]["value"] == record["frames"] - record["search_frames"]


@pytest.mark.slow
def test_table_s1_trains_what_it_compares(small, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(offline, "TRAINED", ("tin-balls",))
    stages = []

    def stage(description, steps):
        stages.append(description)
        return lambda result: None

    shown = offline.table_s1(Request(runs=1, epochs=1), stage)
    assert sum("training ACNet" in description for description in stages) == 3
    assert list(dict.fromkeys(line.group for line in shown.lines)) == [f"ACNet, {name}" for name in control.VARIANTS]
    with pytest.raises(InvalidParameterError, match="seed 11"):
        offline.table_s1(Request(runs=1, seed=11), no_stage)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--table", "4"], "1, 2, 3, S1, unseen, ellipses"),
        (["--figure", "2"], "3, 4, 5"),
        (["--table", "1", "--figure", "3"], "one at a time"),
        (["--figure", "3"], "--history"),
        (["--table", "ellipses", "--pictures", "nowhere"], "MANIFEST.csv"),
        (["--table", "1", "-o", "table.txt"], ".png"),
        ([], "--table or --figure"),
        (["--table", "2", "--method", "guess"], "guess"),
        (["--table", "2", "--runs", "0"], "runs"),
    ],
)
def test_what_cannot_be_asked_is_named_before_anything_is_measured(options, words):
    ran = semfocus(*options)
    assert ran.exit_code == 2
    assert words in " ".join(ran.stderr.split())


def test_requests_are_checked():
    for changes in ({"seed": -1}, {"epochs": 0}, {"workers": 0}):
        with pytest.raises(OutOfRangeError, match=next(iter(changes))):
            Request(**changes)
