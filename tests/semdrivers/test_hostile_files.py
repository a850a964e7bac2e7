"""Files and names that mean harm: links, escape sequences, formulas, pictures that claim to be huge."""

from __future__ import annotations

import os
import re
import stat
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from semdrivers import InvalidParameterError, read_pixels
from semdrivers.files import replacing
from semdrivers.instruments import SETTINGS_VARIABLE, Instrument, add_instrument
from semfocus_plugin.cli import app
from semfocus_plugin.labelling import Row, read_sheet, write_sheet

posix = pytest.mark.skipif(sys.platform == "win32", reason="no modes of files")


@posix
def test_a_file_appears_with_the_mode_of_the_policy_and_never_through_a_link(tmp_path, monkeypatch):
    before = os.umask(0)
    try:
        with replacing(tmp_path / "open.json") as partial:
            assert stat.S_ISREG(partial.lstat().st_mode)  # it is there already, and new: nobody's link
            partial.write_text("1")
        monkeypatch.setenv(SETTINGS_VARIABLE, str(tmp_path / "settings"))
        kept = add_instrument("lab", Instrument("em30://h"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "open.json").stat().st_mode) == 0o644
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link.json").symlink_to(victim)
    with replacing(tmp_path / "link.json", overwrite=True) as partial:
        partial.write_text("2")
    assert victim.read_text() == "mine"


def claims(folder, kind, side):
    """Write a small picture file that claims to be `side` pixels each way."""
    path = folder / f"huge.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="zlib")
        with tifffile.TiffFile(path, mode="r+b") as file:
            for name in ("ImageWidth", "ImageLength"):
                file.pages[0].tags[name].overwrite(side)
    else:
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        data = b"IDAT" + zlib.compress(bytes(99))
        chunks = [
            struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in (header, data)
        ]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_a_picture_that_claims_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, kind):
    path = claims(tmp_path, kind, 60_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidParameterError, match="3600 million"):
            read_pixels(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("levels", ["colour", "palette", "float"])
def test_a_picture_takes_at_most_three_times_its_pixels(tmp_path, levels):
    random = np.random.default_rng(1)
    path = tmp_path / "picture.tif"
    if levels == "colour":
        tifffile.imwrite(path, random.integers(0, 256, (1500, 1500, 3), np.uint8), photometric="rgb")
    elif levels == "palette":
        table = random.integers(0, 2**16, (3, 256), np.uint16)
        tifffile.imwrite(path, random.integers(0, 256, (1500, 1500), np.uint8), photometric="palette", colormap=table)
    else:
        tifffile.imwrite(path, random.random((1500, 1500), np.float32))
    read_pixels(path)
    tracemalloc.start()
    try:
        pixels = read_pixels(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pixels.shape == (1500, 1500)
    assert peak <= 3 * path.stat().st_size + 5e6


def test_escape_sequences_in_names_never_reach_a_terminal(tmp_path):
    name = "a\x1b]0;owned\x07\x9b31m.tif"
    try:
        (tmp_path / name).write_bytes(b"no picture")
    except OSError:
        pytest.skip("no such names here")
    for arguments in (["score", str(tmp_path / name)], ["score", str(tmp_path / name), "--json"]):
        answer = CliRunner().invoke(app, arguments)
        assert answer.exit_code == 1
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", answer.output)
        assert "owned" in answer.output


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0.tif", "+1.tif", "-1.tif", "@SUM(A1).tif", "'=x.tif", "plain's.tif"]
)
def test_a_name_that_a_spreadsheet_would_compute_is_kept_as_a_text(tmp_path, name):
    sheet = write_sheet(tmp_path / "labels.csv", [Row(name, magnification=1000.0, label=3.0)])
    cell = sheet.read_text(encoding="utf-8-sig").splitlines()[1]
    assert cell.lstrip('"')[0] in "'p"
    assert read_sheet(sheet) == [Row(name, magnification=1000.0, label=3.0)]
