"""One bad picture never ends a batch; bars are cut and sizes kept within bounds wherever pictures are scored."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from typer.testing import CliRunner

import semdrivers
from semdrivers._cli import app as semdrivers_app
from semdrivers.data_bar import detect_bar_rows, without_bar
from semfocus_plugin import labelling
from semfocus_plugin import networks as scoring
from semfocus_plugin.lab.benchmark.pictures import read_folder, read_picture
from semfocus_plugin.lab.cli import app
from semfocus_plugin.lab.training import finetune

PIXELS = np.random.default_rng(6).integers(0, 200, (300, 400)).astype(np.uint8)


def drawn_bar(rows: int, width: int) -> np.ndarray:
    bar = np.zeros((rows, width), np.uint8)
    bar[6:-6, 8:-8:5] = 255
    bar[6:-6:3] = 0
    return bar


def text_bar(rows: int, width: int) -> np.ndarray:
    picture = Pillow.new("L", (width, rows), 0)
    ImageDraw.Draw(picture).text((6, 8), "15.0 kV  WD 9.7 mm  SE  10 um", fill=255, font=ImageFont.load_default(20))
    return np.asarray(picture)


@pytest.fixture
def night(tmp_path):
    """Two good pictures among every kind of bad one."""
    folder = tmp_path / "night [1] µ"
    folder.mkdir()
    for name, distance in (("a.ome.tif", 12.0), ("z.ome.tif", 13.0)):
        semdrivers.Image(PIXELS, distance, 5000.0, 64.0).save(folder / name)
    (folder / "b.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "d.jpg").write_bytes(b"")
    Pillow.fromarray(PIXELS[:100, :100]).save(folder / "e.bmp")
    tifffile.imwrite(folder / "f.tif", np.full((300, 400), np.nan, np.float32))
    return folder


BAD = ("b.tif", "c.png", "d.jpg", "e.bmp", "f.tif")


def test_score_does_the_rest_and_names_the_bad(night):
    files = [str(path) for path in sorted(night.iterdir())] + [str(night / "gone.png"), str(night)]
    ran = CliRunner().invoke(app, ["score", "--json", "--magnification", "5000", *files])
    assert ran.exit_code == 1
    rows = json.loads(ran.stdout)["pictures"]
    good = {row["file"].rpartition("/")[2] for row in rows if row["score"] is not None}
    assert good >= {"a.ome.tif", "z.ome.tif"}
    for name in (*BAD, "gone.png", "night [1] µ"):
        assert name in ran.stderr, name


def test_label_does_the_rest_and_then_the_series_opens(night):
    ran = CliRunner().invoke(app, ["label", "--magnification", "5000", str(night)])
    assert ran.exit_code == 1
    for name in BAD:
        assert name in ran.stderr, name
    rows = {row.file: row for row in labelling.read_sheet(night / "labels.csv")}
    assert rows["a.ome.tif"].score is not None
    assert rows["z.ome.tif"].score is not None
    for name in BAD:
        (night / name).unlink()
    with semdrivers.connect(f"series://{night.as_posix().replace(' ', '%20')}") as microscope:
        assert microscope.capabilities.working_distance.maximum == 13.0


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "cp1252"), ("\t", "utf-16"), (",", "utf-8")])
def test_a_sheet_that_a_spreadsheet_saved_is_read_by_all(night, delimiter, encoding):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(("file", "working_distance", "magnification", "label"))
    comma = "," if delimiter != "," else "."
    for name, distance in (("a.ome.tif", 12.5), ("z.ome.tif", 13.5)):
        writer.writerow((name, str(distance).replace(".", comma), "5000", f"7{comma}5"))
    for name in BAD:
        (night / name).unlink()
    (night / "labels.csv").write_bytes(text.getvalue().encode(encoding))
    assert [row.label for row in labelling.read_sheet(night / "labels.csv")] == [7.5, 7.5]
    with semdrivers.connect(f"series://{night.as_posix().replace(' ', '%20')}") as microscope:
        assert microscope.capabilities.working_distance.minimum == 12.5


@pytest.mark.slow
def test_evaluate_takes_what_can_be_read_of_a_folder(night):
    names = ["a.ome.tif", *BAD, "gone.png", "z.ome.tif"]
    (night / "MANIFEST.csv").write_text("file;bar_rows\n" + "".join(f"{name};0\n" for name in names), encoding="utf-8")
    problems: list[str] = []
    assert [picture.name for picture in read_folder(night, problems=problems)] == ["a.ome.tif", "z.ome.tif"]
    assert [problem for name in (*BAD, "gone.png") for problem in problems if name in problem] == problems
    ran = CliRunner().invoke(app, ["evaluate", "--specimen", str(night), "--runs", "1", "--workers", "1", "--json"])
    assert ran.exit_code == 1
    assert {record["specimen"] for record in json.loads(ran.stdout)["records"]} == {"a.ome.tif", "z.ome.tif"}
    for name in BAD:
        assert name in ran.stderr, name


def test_every_page_of_a_file_is_scored(tmp_path):
    with tifffile.TiffWriter(tmp_path / "stack.tif") as file:
        for _ in range(3):
            file.write(PIXELS, metadata=None)
    ran = CliRunner().invoke(app, ["score", "--magnification", "5000", "--json", str(tmp_path / "stack.tif")])
    rows = json.loads(ran.stdout)["pictures"]
    assert [row["page"] for row in rows] == [0, 1, 2]
    assert len({row["score"] for row in rows}) == 1


def test_a_bar_changes_no_score_wherever_pictures_are_read(tmp_path):
    barred = np.vstack([PIXELS, drawn_bar(40, 400)])
    clean = scoring.score(PIXELS, magnification=5000)
    assert scoring.score(barred, magnification=5000) == clean
    assert scoring.score(barred, magnification=5000, bar_rows=40) == clean
    assert scoring.score(barred, magnification=5000, bar_rows=0) != clean
    Pillow.fromarray(barred).save(tmp_path / "a.png")
    assert CliRunner().invoke(app, ["label", "--magnification", "5000", str(tmp_path)]).exit_code == 0
    (row,) = labelling.read_sheet(tmp_path / "labels.csv")
    assert (row.bar_rows, row.score) == (40, pytest.approx(clean, abs=1e-4))
    assert read_picture(tmp_path / "a.png", 50.0).pixels.shape == PIXELS.shape
    assert read_picture(tmp_path / "a.png", 50.0, bar_rows=0).pixels.shape == barred.shape
    twice = np.vstack([drawn_bar(30, 400), barred])
    assert (
        scoring.score(twice, magnification=5000) == scoring.score(twice, magnification=5000, bar_rows=(30, 40)) == clean
    )
    (tmp_path / "twice").mkdir()
    Pillow.fromarray(twice).save(tmp_path / "twice" / "a.png")
    for options in ([], ["--bar-rows", "30+40"]):
        arguments = ["label", "--magnification", "5000", *options, str(tmp_path / "twice")]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        (row,) = labelling.read_sheet(tmp_path / "twice" / "labels.csv")
        assert (row.bar_rows, row.score) == ((30, 40), pytest.approx(clean, abs=1e-4))
        (tmp_path / "twice" / "labels.csv").unlink()
    wrong = CliRunner().invoke(app, ["score", "--bar-rows", "30x40", str(tmp_path / "a.png")])
    assert (wrong.exit_code, "such as 20+60" in " ".join(wrong.output.split())) == (2, True)
    with semdrivers.connect(f"emulator://image?pixel_size=50&bar_rows=30+40&path={tmp_path.as_posix()}/twice/a.png"):
        pass
    Pillow.fromarray(barred).save(tmp_path / "b.png")
    (tmp_path / "labels.csv").write_text("file,working_distance,pixel_size\na.png,12,50\nb.png,13,50\n")
    with semdrivers.connect(f"series://{tmp_path.as_posix()}") as microscope:
        assert microscope.acquire().pixels.max() < 200
    with semdrivers.connect(f"series://{tmp_path.as_posix()}?bar_rows=0") as microscope:
        assert microscope.acquire().pixels.max() > 200


@pytest.mark.parametrize("rows", [40, -40])
@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_bar_is_cut_alike_by_whoever_reads_a_picture(tmp_path, rows, kind):
    """At the bottom and at the top, exact and compressed: the picture itself says what is left."""
    barred = np.vstack([PIXELS, text_bar(40, 400)] if rows > 0 else [text_bar(40, 400), PIXELS])
    for name in ("a", "b"):
        Pillow.fromarray(barred).save(tmp_path / f"{name}.{kind}", quality=75)
    read = semdrivers.read_pixels(tmp_path / f"a.{kind}")
    assert detect_bar_rows(read) == pytest.approx(rows, abs=2)
    left = without_bar(read, detect_bar_rows(read))

    picture = tmp_path / f"a.{kind}"
    expected = scoring.score(left, magnification=5000, bar_rows=0)
    ran = CliRunner().invoke(app, ["score", "--magnification", "5000", "--json", str(picture)])
    assert json.loads(ran.stdout)["pictures"][0]["score"] == pytest.approx(expected, abs=1e-6)
    assert CliRunner().invoke(app, ["label", "--magnification", "5000", str(tmp_path)]).exit_code == 0
    row = labelling.read_sheet(tmp_path / "labels.csv")[0]
    assert (row.bar_rows, row.score) == (detect_bar_rows(read), pytest.approx(expected, abs=1e-4))
    assert labelling.preview_of(row, tmp_path).height == len(left)
    assert np.array_equal(read_picture(picture, 50.0).pixels, left)

    (tmp_path / "labels.csv").write_text(f"file,working_distance,pixel_size\na.{kind},12,50\nb.{kind},13,50\n")
    with semdrivers.connect(f"series://{tmp_path.as_posix()}") as microscope:
        assert abs(len(left) - 300) <= 2
        assert microscope.acquire().pixels.max() <= left.max()
    address = f"emulator://image?pixel_size=50&seed=3&path={tmp_path.as_posix()}"
    Pillow.fromarray(left).save(tmp_path / "left.png")
    frames = []
    for name in (picture.name, "left.png"):
        with semdrivers.connect(f"{address}/{name}") as microscope:
            frames.append(microscope.acquire().pixels)
    assert np.array_equal(*frames)

    rows_of_sheet = [replace(row, file=f"a.{kind}", bar_rows=None, label=5.0)]
    (tmp_path / "labels.csv").unlink()
    for count in range(1, finetune.LEAST_PICTURES):
        Pillow.fromarray(barred).save(tmp_path / f"t{count}.{kind}", quality=75)
        rows_of_sheet.append(replace(rows_of_sheet[0], file=f"t{count}.{kind}"))
    labelling.write_sheet(tmp_path / "labels.csv", rows_of_sheet)
    taken = finetune.read_pictures((str(tmp_path / "labels.csv"),))
    assert {pixels.shape for pixels in taken.pixels} == {left.shape}


def test_the_pixel_size_decides_over_a_makers_magnification():
    image = semdrivers.Image(PIXELS, 8.0, 2000.0, 64.0, metadata={"vendor": {"vendor": "Zeiss"}})
    assert scoring.magnification_of(image) == pytest.approx(5000.0)
    assert scoring.score(image) == pytest.approx(scoring.score(PIXELS, magnification=5000.0), abs=1e-6)


@pytest.mark.slow
def test_a_large_picture_is_scored_like_its_parts():
    random = np.random.default_rng(7)
    field = np.kron(random.normal(0, 1, (600, 600)), np.ones((4, 4)))
    large = np.clip(128 + 30 * field + random.normal(0, 8, field.shape), 0, 255).astype(np.uint8)
    part = scoring.evaluate(large[:1200, :1200], magnification=5000 * 2)
    whole = scoring.evaluate(large, magnification=5000)
    assert whole.log_blur == pytest.approx(part.log_blur, abs=0.15)
    assert whole.score == pytest.approx(part.score, abs=0.3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("ending", ["tif", "rgb.tif", "png"])
def test_a_mosaic_of_16384_pixels_is_scored_in_a_gigabyte(tmp_path, ending):
    path = tmp_path / f"mosaic.{ending}"
    mosaic = np.tile(PIXELS.astype(">u2") * 16, (55, 41))[:16384, :16384]
    if ending == "tif":
        tifffile.imwrite(path, mosaic, tile=(512, 512), byteorder=">")
    elif ending == "rgb.tif":
        bands = (np.stack([band // 16] * 3, -1).astype(np.uint8) for band in np.split(mosaic, 64))
        tifffile.imwrite(path, bands, shape=(*mosaic.shape, 3), dtype=np.uint8, photometric="rgb", tile=(256, 16384))
    else:
        Pillow.fromarray(mosaic.astype(np.uint16)).save(path, compress_level=1)
    code = "import sys; from semfocus_plugin.lab.cli import app\n"
    code += "try: app(['score', sys.argv[1], '--magnification', '500'])\n"
    # Not ru_maxrss, which begins with the memory of the process that forked this one.
    code += "finally: print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(ran.stdout.split()[-1]) <= 1e6


def test_a_file_that_is_not_there_has_one_exit_code_in_every_list_and_another_where_all_depends_on_it(tmp_path):
    absent = tmp_path / "absent"
    for command in ("score", "report"):
        ran = CliRunner().invoke(app, [command, f"{absent}.json"])
        assert (ran.exit_code, ran.stdout) == (1, ""), command
        assert "absent.json" in ran.stderr
    assert CliRunner().invoke(semdrivers_app, ["show", f"{absent}.json"]).exit_code == 1
    for words in (
        ("label", absent),
        ("view", "emulator://tin-balls", "--labels", absent),
        ("run", f"series://{absent}"),
    ):
        assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 2, words


def test_one_of_a_thing_is_no_plural(tmp_path):
    Pillow.fromarray(PIXELS).save(tmp_path / "one.png")
    ran = CliRunner().invoke(app, ["label", str(tmp_path), "--magnification", "5000"])
    assert ran.stdout.startswith("1 picture, 0 labelled")
