"""``semdrivers record-series``: a focal series with a read-me, which opens as ``series://``; the lens back afterwards."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import semdrivers
from semdrivers._cli import app
from semdrivers.sessions import record_series

URL = "emulator://tin-balls?seed=1&magnification=3000"
ANGLE = 45e-3 / 15
"""Of the emulated instrument at 15 mm, rad; what it blurs a mm away."""


@pytest.fixture
def focused():
    """An emulated instrument in focus, at a working distance known from its emulator."""
    from semdrivers.emulator import Emulator

    with Emulator("tin-balls", magnification=3000, seed=1) as emulator, semdrivers.connect(emulator.url) as microscope:
        microscope.working_distance = round(emulator.truth.working_distance, 3)
        yield microscope


@pytest.mark.slow
def test_the_folder_opens_as_a_series_and_autofocus_finds_its_focus(focused, tmp_path):
    pytest.importorskip("semfocus_plugin")
    start, beam = focused.working_distance, focused.beam_on
    seen = []
    record = record_series(
        focused,
        tmp_path / "tin",
        planes=21,
        sample="tin balls",
        licence="CC0-1.0",
        progress=lambda *at: seen.append(at),
    )
    assert (focused.working_distance, focused.beam_on) == (start, beam)
    assert record.notes == ()
    assert len(seen) == len(record.working_distances) == 21
    assert np.all(np.diff(record.working_distances) > 0)
    assert record.sharpest == pytest.approx(start, abs=0.05)
    text = (tmp_path / "tin" / "README.md").read_text()
    assert "| sample | tin balls |" in text
    assert "All is well." in text
    assert text.endswith("Licence: CC0-1.0\n")
    with semdrivers.connect(f"series://{tmp_path}/tin") as series:
        limits = series.capabilities.working_distance
        assert (limits.minimum, limits.maximum) == (record.working_distances[0], record.working_distances[-1])
        series.working_distance = record.working_distances[3]
        result = series.autofocus()
        assert result.focused, result.reason
        assert result.working_distance == pytest.approx(start, abs=2 * limits.step)


def test_the_command_line_says_where_and_what_is_wrong(tmp_path):
    out = tmp_path / "far"
    done = CliRunner().invoke(
        app, ["record-series", f"{URL}&working_distance=25", "-o", str(out), "--planes", "5", "--span", "1"]
    )
    assert done.exit_code == 0, done.stderr
    assert "5 planes, 24.5 to 25.5 mm" in " ".join(done.stdout.split())
    assert "wider span" in done.stderr
    assert "Nobody but the owner may use these pictures" in (out / "README.md").read_text()
    before = (out / "plane-0.ome.tif").read_bytes()
    arguments = [
        "record-series",
        f"{URL}&working_distance=24",
        "-o",
        str(out),
        "--planes",
        "5",
        "--span",
        "1",
        "--json",
    ]
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert (out / "plane-0.ome.tif").read_bytes() == before
    again = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["working_distances"][0] == pytest.approx(23.5)
    assert (out / "plane-0.ome.tif").read_bytes() != before


def test_nothing_moves_for_what_cannot_be(focused, tmp_path):
    start = focused.working_distance
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    cases = [
        ({"folder": "taken"}, "in use"),
        ({"planes": 4}, "5 to 1000"),
        ({"span": 60.0}, "span"),
        ({"planes": 41, "span": 0.001}, "in steps of"),
        ({"mode": semdrivers.ScanMode("TINY", 64, 64)}, "TINY"),
    ]
    for settings, words in cases:
        settings = dict(settings)
        with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError), match=words):
            record_series(focused, tmp_path / settings.pop("folder", "new"), **settings)
    focused.beam_on = False
    with pytest.raises(semdrivers.InterlockError, match="beam is off"):
        record_series(focused, tmp_path / "new")
    assert not focused.beam_on
    assert focused.working_distance == start
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["notes.txt"]


def test_the_lens_is_back_when_it_ends_early(focused, tmp_path):
    start = focused.working_distance

    def full_disk(index, image):
        if index == 2:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        record_series(focused, tmp_path / "tin", planes=9, progress=full_disk)
    assert focused.working_distance == start


def test_a_series_of_a_focus_drive_runs_through_zero(tmp_path):
    """The z of a focus drive has either sign; aperture and probe stay with its planes."""
    for index, place in enumerate((-0.02, 0.0, 0.02)):
        semdrivers.Image(np.full((240, 320), 50 + index, np.uint8), place, 500.0, 400.0).save(tmp_path / f"{index}.tif")
    (tmp_path / "series.csv").write_text(
        "file,working_distance,numerical_aperture\n0.tif,-0.02,0.3\n1.tif,0,0.3\n2.tif,0.02,0.3\n"
    )
    with semdrivers.connect(f"series://{tmp_path}") as series:
        assert (series.working_distance, series.capabilities.numerical_aperture) == (-0.02, 0.3)
        series.working_distance = 0.001
        assert series.working_distance == 0.0
        assert series.acquire().working_distance == 0.0


def test_noise_is_no_sharpness_and_a_sample_without_structure_has_none(focused, tmp_path):
    focused.magnification = 5000
    assert record_series(focused, tmp_path / "tin", planes=5).notes == ()
    with semdrivers.connect("emulator://featureless?seed=1&magnification=5000") as microscope:
        (note,) = record_series(microscope, tmp_path / "blank", planes=5).notes
        assert "at an end" in note or "hardly blurs" in note


def recorded_notes(foreign_type, tmp_path, picture, **changes):
    """Notes on five planes, 11.96 to 12.04 mm, of a microscope whose frames are `picture` of the working distance."""

    class Painted(foreign_type):
        def acquire(self, mode=semdrivers.ScanMode.FAST):
            pixels = picture(self.working_distance)
            return semdrivers.Image(pixels, self.working_distance, self.magnification, 200.0)

    for name, value in changes.items():
        setattr(Painted, name, value)
    return record_series(Painted(), tmp_path / "series", planes=5, span=0.08).notes


def stripes(strength, mean=100.0):
    wave = np.where(np.arange(320) // 16 % 2, 1.0, -1.0)
    return np.tile(mean + strength * wave, (240, 1)).astype(np.uint8)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (lambda at: stripes(50 - 1000 * abs(at - 12)), []),
        (lambda at: stripes(50 - 500 * (at - 11.96)), ["The sharpest plane is at an end"]),
        (lambda at: stripes(50 - 100 * abs(at - 12)), ["The picture hardly blurs towards an end"]),
        (lambda at: np.vstack([stripes(0, 255)[:120], stripes(50 - 1000 * abs(at - 12))[:120]]), ["Up to 50% of a picture is black"]),
        (lambda at: stripes(50 - 1000 * abs(at - 12), 100 + 1000 * (at - 12)), ["The mean grey level went from 60 to 140"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_series_is_said(foreign_type, tmp_path, picture, words):
    notes = recorded_notes(foreign_type, tmp_path, picture)
    assert len(notes) == len(words)
    assert all(note.startswith(start) for note, start in zip(notes, words, strict=True))


def test_planes_that_are_at_the_same_place_are_said(foreign_type, tmp_path):
    stuck = property(lambda self: 12.0, lambda self, value: None)
    notes = recorded_notes(foreign_type, tmp_path, lambda at: stripes(50), working_distance=stuck)
    assert any("have the same working distance" in note for note in notes)


def test_a_file_is_no_folder_and_a_frame_too_small_is_named_before_anything_moves(foreign_type, tmp_path):
    small = semdrivers.ScanMode("128x128", 128, 128)
    about = dataclasses.replace(foreign_type.capabilities, scan_modes=(small,))
    (tmp_path / "file").write_text("mine")
    microscope = foreign_type()
    with pytest.raises(semdrivers.InvalidParameterError, match="is no folder"):
        record_series(microscope, tmp_path / "file", overwrite=True)
    microscope.capabilities = about
    with pytest.raises(semdrivers.InvalidParameterError, match="too small for a series"):
        record_series(microscope, tmp_path / "new")
    assert (microscope.moves, microscope.frames) == ([], 0)
    assert (tmp_path / "file").read_text() == "mine"
