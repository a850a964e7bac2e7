"""Tables as spreadsheets save them, addresses with any character, and consoles that show few of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image as Pillow

import semdrivers
from semdrivers.console import problem_of
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import decimal, read_table, table_columns

ROWS = [("a, b.png", 12.5), ("µ-ü.png", 13.25)]
PIXELS = np.random.default_rng(5).integers(0, 256, (240, 320)).astype(np.uint8)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]


def table(delimiter: str, comma: bool, mark: bool = False, end: str = "\r\n") -> str:
    lines = [f"sep={delimiter}"] if mark else []
    lines.append(delimiter.join(("file", "working_distance", "magnification")))
    for name, distance in ROWS:
        number = str(distance).replace(".", ",") if comma else str(distance)
        number = f'"{number}"' if comma and delimiter == "," else number
        lines.append(delimiter.join((f'"{name}"', number, "5000")))
    return end.join([*lines, "", ""])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("delimiter", "comma"), [(",", False), (",", True), (";", True), ("\t", True), (";", False)])
def test_a_table_reads_alike_in_every_dialect(tmp_path, encoding, delimiter, comma):
    for mark in (False, True):
        path = tmp_path / "t.csv"
        path.write_bytes(table(delimiter, comma, mark).encode(encoding))
        rows = read_table(path, ("file", "working_distance"))
        assert [(row.text("file"), row.number("working_distance")) for row in rows] == ROWS
        assert table_columns(path) == ("file", "working_distance", "magnification")
        assert rows[0].number("no such column") is None


def test_what_is_wrong_in_a_table_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("file;working_distance\na.png;near\n", encoding="utf-8")
    with pytest.raises(InvalidParameterError, match=r"t\.csv, line 2: working_distance must be a number, not 'near'"):
        read_table(path)[0].number("working_distance")
    with pytest.raises(InvalidParameterError, match="lacks the column 'label'"):
        read_table(path, ("file", "label"))
    path.write_bytes(b"")
    assert table_columns(path) == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,5", 1.5), ("1.5", 1.5), ("\u22121,5", -1.5), ("1.234,5", 1234.5), ("1,234.5", 1234.5), ("1e3", 1000.0)]
    + [(word, None) for word in ("", "nan", "inf", "a", "1,2,3", None)],
)
def test_numbers_with_points_and_commas(text, value):
    assert decimal(text) == value


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ("5.000;9,5", None),
        ("5.000;9.5", 5.0),
        ("5.000;9", 5.0),
        ("5,000;9,5", 5.0),
        ("5,000;9.5", None),
        ("5,000;9", 5.0),
        ("5.000;1.234,5", None),
        ("5.000;9,5;9.5", 5.0),
        ("0.500;9,5", 0.5),
        ("5000.125;9,5", 5000.125),
        ('"5,000",9', None),
        ('"5,000","9,5"', 5.0),
    ],
)
def test_a_number_that_may_be_a_thousand_times_larger_is_refused(tmp_path, lines, value):
    delimiter = ";" if ";" in lines else ","
    path = tmp_path / "t.csv"
    path.write_text(delimiter.join(("magnification", "a", "b")[: lines.count(delimiter) + 1]) + "\n" + lines, "utf-8")
    row = read_table(path)[0]
    if value is None:
        with pytest.raises(InvalidParameterError, match=r"magnification '5.000' may be 5000 or 5; write it without"):
            row.number("magnification")
    else:
        assert row.number("magnification") == value


@pytest.mark.parametrize("names", ["WD, in mm, as set", '"WD, in mm, as set"'])
def test_commas_in_the_names_of_columns_delimit_nothing(tmp_path, names):
    path = tmp_path / "t.csv"
    path.write_text(f"file;{names};x, y, z\na, b.png;9,5;1\nc.png;9,75;2\n", encoding="utf-8")
    assert table_columns(path) == ("file", "WD, in mm, as set", "x, y, z")
    assert [row.number("WD, in mm, as set") for row in read_table(path, ("file",))] == [9.5, 9.75]


@pytest.mark.parametrize(("written", "saved"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_with_accents_composed_or_not_are_the_same(tmp_path, written, saved):
    name = "dépôt/zinnkügelchen 1.png"
    saved_as = tmp_path / unicodedata.normalize(saved, name)
    saved_as.parent.mkdir()
    for path in (saved_as, saved_as.with_name("2.png")):
        Pillow.fromarray(PIXELS).save(path)
    text = f"file,working_distance,magnification\n{name},9.5,5000\n{name.split('/')[0]}/2.png,9.6,5000\n"
    (tmp_path / "series.csv").write_text(unicodedata.normalize(written, text), encoding="utf-8")
    with semdrivers.connect(f"series://{quote(tmp_path.as_posix())}") as microscope:
        assert microscope.capabilities.working_distance.minimum == 9.5
        assert microscope.acquire().metadata["file"] in (saved_as.name, "2.png")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_focal_series_opens_with_a_table_of_any_dialect(tmp_path, encoding):
    for name, _ in ROWS:
        Pillow.fromarray(PIXELS).save(tmp_path / name)
    (tmp_path / "series.csv").write_bytes(table(";", True).encode(encoding))
    with semdrivers.connect(f"series://{quote(tmp_path.as_posix())}") as microscope:
        limits = microscope.capabilities.working_distance
        assert (limits.minimum, limits.maximum) == (12.5, 13.25)


@pytest.mark.parametrize("name", ["a b", "50% tin", "run#3", "a+b", "a&b=c", "x;y", "ünï µ", "[1]", "%41", "q'u\"o"])
def test_a_folder_of_any_name_opens_by_its_percent_encoded_address(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for distance in (12.0, 13.0):
        semdrivers.Image(PIXELS, distance, 5000.0, 80.0).save(folder / f"{name}{distance}.tif")
    with semdrivers.connect(f"series://{quote(folder.as_posix())}") as microscope:
        assert microscope.acquire().metadata["file"] == f"{name}12.0.tif"
    address = f"emulator://image?path={quote(str(folder / f'{name}12.0.tif'), safe='')}"
    with semdrivers.connect(address) as microscope:
        assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize("name", ["run#3", "a+b", "x;y", "100%"])
def test_characters_that_divide_nothing_may_stand_for_themselves(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for distance in (12.0, 13.0):
        semdrivers.Image(PIXELS, distance, 5000.0, 80.0).save(folder / f"{distance}.tif")
    with semdrivers.connect(f"series://{folder.as_posix()}?planes=interpolated") as microscope:
        microscope.working_distance = 12.4
        assert microscope.working_distance == 12.4


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_no_console_makes_a_command_fail(tmp_path, encoding):
    good, bad = tmp_path / "µ [red] →.png", tmp_path / "ж.png"
    Pillow.fromarray(PIXELS).save(good)
    bad.write_bytes(b"no picture")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for options in ([], ["--json"]):
        code = "from semdrivers._cli import main; main()"
        ran = subprocess.run(
            [sys.executable, "-c", code, "show", *options, str(good), str(bad)],
            capture_output=True,
            env=environment,
            check=False,
        )
        assert ran.returncode == 1, ran.stderr
        assert b"Traceback" not in ran.stderr
        assert b"no picture that can be read" in ran.stderr
        if options:
            first, second = json.loads(ran.stdout.decode(encoding))["pictures"]
            assert (first["file"], second["file"]) == (str(good), str(bad))
        else:
            assert "[red]" in ran.stdout.decode(encoding)


def test_a_problem_names_the_item_and_the_reason_once():
    assert problem_of("a.tif", OutOfRangeError("a.tif: too small")) == "a.tif: too small"
    assert problem_of("a.tif", OutOfRangeError("too small")) == "a.tif: too small"
    assert problem_of("a.tif", PermissionError(13, "Permission denied", "a.tif")) == "a.tif: Permission denied"
    assert problem_of("a.tif", MemoryError()) == "a.tif: MemoryError: MemoryError"
