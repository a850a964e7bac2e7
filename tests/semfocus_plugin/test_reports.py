"""Reports: everything in one file, pictures by their metadata, figures for print, nothing replaced."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers.files import Entry, Picture, report_page
from semfocus_plugin.lab.cli import app
from semfocus_plugin.tiles import MAP, PLAN, plan_tiles


def semfocus(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A folder with a recorded session, its result and a picture taken afterwards."""
    folder = tmp_path_factory.mktemp("night")
    url = "emulator://tin-balls?seed=1&magnification=2000"
    files = "--record", folder / "one.json", "--save", folder / "one.ome.tif", "--save-session", folder / "session"
    assert semfocus("run", url, *files).exit_code == 0
    return folder


def test_a_report_holds_all_in_one_file(night, tmp_path):
    out = tmp_path / "night.html"
    done = semfocus("report", night, "-o", out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["runs"] == 1
    page = out.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "data:image/svg+xml" in page
    result = semdrivers.AutofocusResult.from_dict(json.loads((night / "one.json").read_text()))
    for text in (result.provenance["models"]["aenet"], f"{result.working_distance:.4f} mm", "EM-30", "max_travel"):
        assert text in page
    assert page.count("<tr>") >= result.frames


@pytest.mark.slow
def test_before_and_after_are_shown_where_the_pictures_say_so(night, tmp_path):
    result = json.loads((night / "one.json").read_text())
    assert semfocus("report", night / "one.json", "-o", tmp_path / "a.html").exit_code == 0
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "data:image/png" in page
    assert f"before: {result['start_working_distance']:.3f} mm" in page
    # Of another run: another place, another time.
    other = {**result, "working_distance": result["working_distance"] + 0.5, "start_working_distance": 5.0}
    (night / "other.json").write_text(json.dumps(other))
    try:
        assert semfocus("report", night / "other.json", "-o", tmp_path / "b.html").exit_code == 0
    finally:
        (night / "other.json").unlink()
    assert "data:image/png" not in (tmp_path / "b.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_figures_for_print_are_vectors_with_real_fonts(night, tmp_path):
    assert semfocus("report", night, "-o", tmp_path / "c.html", "--figures", tmp_path / "pdf").exit_code == 0
    for name in ("one.pdf", "one-before-after.pdf"):
        content = (tmp_path / "pdf" / name).read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/Type3" not in content


@pytest.mark.slow
def test_a_report_of_tiles_shows_them_and_the_map_complete_or_not(tmp_path):
    folder, mode = tmp_path / "tiles", semdrivers.ScanMode.FAST
    (folder / "tiles").mkdir(parents=True)
    plan = plan_tiles((2, 1), None, 0.1, place=(0.0, 0.0), field=(0.06, 0.05), magnification=2000.0, mode=mode)
    plan.save(folder / PLAN)
    about = {
        "stage": [0.0, 0.0],
        "focus": "run",
        "reason": "as measured",
        "score": 8.2,
        "focusing_frames": 4,
        "dose": None,
        "seconds": 3.0,
    }
    pixels = np.random.default_rng(1).integers(0, 256, (240, 320)).astype(np.uint8)
    semdrivers.Image(pixels, 14.0, 2000.0, 200.0, metadata={"tile": about}).save(folder / "tiles" / plan.tiles[0].name)
    known = semdrivers.FocusMap()
    for x, focus in ((0.0, 14.0), (0.05, 14.01), (0.1, 14.03)):
        known.add(x, x / 2, focus, sigma=0.001, depth_of_field=0.02, magnification=2000.0, score=8.0)
    known.save(folder / MAP)
    done = semfocus("report", folder, "-o", tmp_path / "t.html", "--figures", tmp_path / "pdf", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert (told["tiles"], told["planned"], told["map_points"]) == (1, 2, 3)
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert "Focus map" in page
    assert "8.2" in page
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", page)
    assert (tmp_path / "pdf" / "map.pdf").read_bytes().startswith(b"%PDF")
    assert semfocus("report", folder, folder, "-o", tmp_path / "u.html").exit_code == 2


def test_a_report_says_what_became_of_the_stigmator(night):
    values = json.loads((night / "one.json").read_text())
    page = report_page([Entry("one", {**values, "stigmator": [1.5, -2.0], "start_stigmator": [40.0, 0.0]})], "one")
    assert "(1.5, -2), from (40, 0)" in page


@pytest.mark.slow
def test_a_report_is_kept_unless_configured(night, tmp_path):
    out = tmp_path / "kept.html"
    out.write_text("mine")
    assert semfocus("report", night, "-o", out).exit_code == 2
    assert out.read_text() == "mine"
    assert semfocus("report", night, "-o", out, "--overwrite").exit_code == 0


def test_what_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    done = semfocus("report", tmp_path / "x.json", "-o", tmp_path / "r.html")
    assert done.exit_code == 1
    assert "x.json" in done.output
    assert not (tmp_path / "r.html").exists()


@pytest.mark.slow
def test_a_damaged_result_of_a_folder_is_named_and_two_of_one_name_have_figures_each(night, tmp_path):
    text = (night / "one.json").read_text()
    for name in ("monday", "tuesday"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "cut.json").write_text(text[: len(text) * 9 // 10])
    (tmp_path / "other.json").write_text('{"of": "another program"}')
    done = semfocus("report", tmp_path, "-o", tmp_path / "r.html", "--figures", tmp_path / "pdf")
    assert (done.exit_code, "cut.json" in done.stderr, "other.json" in done.stderr) == (1, True, False)
    assert "2 runs, 0 with pictures" in done.stdout
    assert {path.name for path in (tmp_path / "pdf").iterdir()} >= {"monday-run.pdf", "tuesday-run.pdf"}


def test_text_of_a_result_is_never_markup():
    result = semdrivers.AutofocusResult(
        status="refused", reason="<script>alert(1)</script>", working_distance=1.0, start_working_distance=1.0,
        score=0.0, confidence=0.0, frames=0, elapsed=0.0, method="<b>m",
        provenance={"instrument": {"model": "<i>", "serial": "", "firmware": ""}},
    )  # fmt: skip
    page = report_page([Entry("<u>", result.to_dict())], "<title>")
    for markup in ("<script", "<b>m", "<i>", "<u>"):
        assert markup not in page
    assert "<script" not in result._repr_html_()


def test_several_runs_begin_with_a_table_and_show_the_pictures_that_can_stand_side_by_side():
    result = semdrivers.AutofocusResult(
        status="refused", reason="", working_distance=30.0, start_working_distance=12.0, score=0.0, confidence=0.0,
        frames=0, elapsed=0.0, method="aenet", at_limit=True,
    )  # fmt: skip
    one, unlike = (Picture(np.full((height, 320), 90, np.uint8), 12.0, 80.0) for height in (240, 100))
    entries = {"equal": (one, one), "unlike": (one, unlike)}
    page = report_page([Entry(name, result.to_dict(), *both) for name, both in entries.items()], "night")
    assert page.index("<table") < page.index("<section")
    assert page.count("the sharpest place allowed is at a limit of the run") == 2
    assert page.count("before: 12.000 mm") == 1


def test_a_result_shows_itself_in_a_notebook(night):
    result = semdrivers.AutofocusResult.from_dict(json.loads((night / "one.json").read_text()))
    assert "data:image/svg+xml" in result._repr_html_()


def test_a_result_of_an_earlier_version_is_reported(night, tmp_path):
    values = json.loads((night / "one.json").read_text())
    old = {name: value for name, value in values.items() if name not in ("posterior", "provenance", "astigmatism")}
    old["trace"] = [
        {name: value for name, value in step.items() if name not in ("blur", "blur_sigma", "posterior", "time")}
        for step in old["trace"]
    ]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert semfocus("report", tmp_path / "old.json", "-o", tmp_path / "old.html").exit_code == 0
