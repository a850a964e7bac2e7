"""Labelling: what AENet proposes, what a person says, and that nothing a person said is lost."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner

from semdrivers import Image
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin import labelling
from semfocus_plugin.lab.cli import app
from semfocus_plugin.labelling import Row, page


def label(*arguments):
    return CliRunner().invoke(app, ["label", *map(str, arguments)])


@pytest.fixture
def night(tiny_models, tmp_path):
    """A folder with a frame that tells its magnification, a picture that does not, and one that is too small."""
    folder = tmp_path / "night"
    (folder / "later").mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (260, 330)).astype(np.uint8)
    Image(pixels, 14.0, 3000.0, 133.3).save(folder / "a.ome.tif")
    Pillow.fromarray(pixels).save(folder / "later" / "b, & c.png")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_pictures_get_a_line_and_a_proposal_each(night):
    ran = label(night, "--magnification", 5000, "--json")
    assert ran.exit_code == 0, ran.stderr
    told = json.loads(ran.stdout)
    first, second = labelling.read_sheet(night / "labels.csv")
    assert [first.file, second.file] == ["a.ome.tif", "later/b, & c.png"]
    assert (first.magnification, second.magnification) == (3000, 5000)
    assert first.label is None
    assert 0 <= first.score <= 9
    assert first.log_blur_sigma > 0
    assert told["labelled"] == 0


def test_labels_and_corrections_survive_another_run(night):
    label(night, "--magnification", 5000)
    rows = labelling.read_sheet(night / "labels.csv")
    gone = Row("gone.png", 100.0, 3.0, label=2.0)
    rows = [Row(rows[0].file, 2000.0, label=4.5), rows[1], gone]
    labelling.write_sheet(night / "labels.csv", rows)
    assert label(night).exit_code == 0
    again = {row.file: row for row in labelling.read_sheet(night / "labels.csv")}
    assert (again["a.ome.tif"].label, again["a.ome.tif"].magnification) == (4.5, 2000)
    assert again["gone.png"] == gone
    assert again["later/b, & c.png"].magnification == 5000


def test_a_picture_that_cannot_be_scored_keeps_its_line_and_is_named(night):
    Pillow.fromarray(np.zeros((100, 100), np.uint8)).save(night / "small.png")
    ran = label(night)
    assert ran.exit_code == 1
    assert "100×100" in ran.stderr or "magnification" in ran.stderr
    assert "does not state its magnification" in ran.stderr
    assert [row.score is None for row in labelling.read_sheet(night / "labels.csv")] == [False, True, True]


def test_the_data_bar_is_not_looked_at(night):
    path = night / "a.ome.tif"
    pixels = np.random.default_rng(2).normal(128, 5, (300, 330)).astype(np.uint8)
    pixels[260:] = 255
    Image(pixels, 14.0, 3000.0, 133.3).save(path, overwrite=True)
    label(night, "--magnification", 5000, "--bar-rows", 20)
    with_bar = labelling.read_sheet(night / "labels.csv")[0]
    pixels[:] = np.where(np.arange(300)[:, None] < 280, pixels, 0)
    Image(pixels, 14.0, 3000.0, 133.3).save(path, overwrite=True)
    label(night)
    again = labelling.read_sheet(night / "labels.csv")[0]
    assert again == with_bar
    assert again.bar_rows == 20


def test_the_page_holds_everything_and_asks_no_network(night):
    label(night, "--magnification", 5000)
    text = (night / "labels.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"|href=\"(?!data:,)", text)
    assert "default-src 'none'" in text
    assert "connect-src" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [row["file"] for row in data["rows"]][-1] in ("a.ome.tif", "later/b, & c.png")
    assert all(each["whole"].startswith("data:image/jpeg;base64,") for each in data["pictures"])
    sizes = {row["file"]: each["pixel_size"] for row, each in zip(data["rows"], data["pictures"], strict=True)}
    assert sizes == {"a.ome.tif": pytest.approx(133.3), "later/b, & c.png": None}
    assert tuple(data["columns"]) == labelling.COLUMNS


@pytest.mark.parametrize(
    ("shape", "crops", "size"), [((240, 320), 1, [320, 240]), ((100, 200), 1, [200, 100]), ((960, 1280), 9, [320, 240])]
)
def test_a_picture_offers_crops_where_there_is_room(shape, crops, size):
    seen = labelling.preview(np.random.default_rng(1).integers(0, 60000, shape).astype(np.uint16))
    assert len(seen.crops) == crops
    assert list(seen.size) == size
    assert {(each["x"] + size[0], each["y"] + size[1]) for each in seen.crops} >= {shape[::-1]}


def test_the_greatest_disagreement_comes_first():
    rows = [
        Row("agrees", 1000.0, 5.0, label=5.2),
        Row("unsure", 1000.0, 5.0, log_blur_sigma=0.6),
        Row("sure", 1000.0, 5.0, log_blur_sigma=0.1),
        Row("wrong", 1000.0, 8.0, label=2.0),
    ]
    assert [row.file for row in labelling.for_review(rows)] == ["wrong", "agrees", "unsure", "sure"]
    assert "</script>." not in page([Row("</script>.png")], {}, "labels.csv")
    assert page(rows, {}, "labels.csv").index("agrees") < page(rows, {}, "labels.csv").index("wrong")


def test_disagreements_are_listed(night):
    label(night, "--magnification", 5000)
    first, second = labelling.read_sheet(night / "labels.csv")
    wrong = Row(first.file, first.magnification, label=0.0 if first.score > 4.5 else 9.0)
    right = Row(second.file, second.magnification, label=second.score)
    labelling.write_sheet(night / "labels.csv", [wrong, right])
    ran = label("compare", night, "--json")
    assert [row["file"] for row in json.loads(ran.stdout)["disagreements"]] == [first.file]
    assert "a.ome.tif" in label("compare", night).stdout
    assert "no label is 9" in label("compare", night, "--threshold", 9.5).stdout
    assert label("sheet", night).stdout == label(night).stdout


def test_a_sheet_saved_by_a_spreadsheet_is_read(tmp_path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("file;magnification;label\r\nnacht\\ä.png;5000,5;7,5\r\n;;\r\n", encoding="utf-8-sig")
    assert labelling.read_sheet(sheet) == [Row("nacht/ä.png", 5000.5, label=7.5)]
    rows = [Row('odd, "name".png', 1.0, 2.0, 3.0, 0.5, 4, 5.0)]
    with pytest.raises(InvalidParameterError, match=r"1 label in it would be lost, the first that of nacht/ä\.png"):
        labelling.write_sheet(sheet, rows)
    assert labelling.read_sheet(labelling.write_sheet(sheet, rows, overwrite=True)) == rows
    with sheet.open(newline="", encoding="utf-8-sig") as file:
        assert next(csv.reader(file)) == list(labelling.COLUMNS)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("file,label\na,1\n", InvalidParameterError, "magnification"),
        ("file,magnification,label\na,1,ten\n", InvalidParameterError, "line 2: label"),
        ("file,magnification,label\na,1,1\nb,1,10\n", OutOfRangeError, "line 3: label"),
        ("file,magnification,label\na,1,1\na,1,1\n", InvalidParameterError, "twice"),
        ("", InvalidParameterError, "lacks"),
    ],
)
def test_a_sheet_that_is_wrong_is_refused_with_the_line(tmp_path, text, error, words):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(text)
    with pytest.raises(error, match=words):
        labelling.read_sheet(sheet)


def test_wrong_options_write_nothing(tmp_path):
    assert "no such folder" in label(tmp_path / "none").stderr
    assert "holds no pictures" in label(tmp_path).stderr
    assert ".csv" in label(tmp_path, "--out", tmp_path / "sheet.txt").stderr
    assert list(tmp_path.iterdir()) == []
