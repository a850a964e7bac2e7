"""Trials of the online test and pictures as specimens, and runs on the emulator with tiny networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image as Pillow

from semdrivers import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.benchmark.pictures import NOMINAL_PIXEL_SIZE, read_folder, read_picture
from semfocus_plugin.lab.benchmark.runs import run_trials
from semfocus_plugin.lab.benchmark.trials import MAGNIFICATIONS, draw_online
from semfocus_plugin.networks import paper_factor


def test_trials_lie_in_the_papers_ranges_and_follow_from_the_seed():
    trials = draw_online(list(MAGNIFICATIONS), 50, seed=3)
    assert len(trials) == 300
    for trial in trials:
        low, high = MAGNIFICATIONS[trial.specimen]
        assert low <= trial.magnification <= high
        assert abs(trial.start) <= 3.0 * paper_factor(trial.magnification)
    assert trials == draw_online(list(MAGNIFICATIONS), 50, seed=3)
    alone = draw_online(["fabric"], 50, seed=3)
    assert alone == tuple(trial for trial in trials if trial.specimen == "fabric")
    assert trials != draw_online(list(MAGNIFICATIONS), 50, seed=4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((["tinballs"], 1, 1), InvalidParameterError, "tin-balls"),
        ((["fabric"], 0, 1), OutOfRangeError, "runs"),
        ((["fabric"], 1, -1), OutOfRangeError, "seed"),
    ],
)
def test_impossible_trials_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        draw_online(*arguments)


def test_picture_is_shown_at_one_to_one_and_a_half_of_its_pixels(tmp_path):
    Pillow.fromarray(np.zeros((500, 700), np.uint8)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", 50.0, bar_rows=60)
    assert picture.pixels.shape == (440, 700)
    for trial in draw_online([picture], 40, 1):
        fast_pixel = 0.4e6 / trial.magnification
        assert 0.99 <= fast_pixel / 50.0 <= 1.51
        field = np.array([320, 240]) * fast_pixel
        place = np.abs(np.array(trial.stage)) * 1e6 + field / 2
        assert all(np.minimum(place, np.array([700, 440]) * 25.0) <= np.array([700, 440]) * 25.0 + 1)
        assert trial.picture is picture


def test_unknown_pixel_size_is_assumed_and_said(tmp_path):
    Pillow.fromarray(np.zeros((300, 400), np.uint8)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.assumed
    assert picture.pixel_size == NOMINAL_PIXEL_SIZE


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"pixel_size": 0.0}, OutOfRangeError, "pixel_size"),
        ({"pixel_size": math.nan}, OutOfRangeError, "finite"),
        ({"bar_rows": -500}, OutOfRangeError, "bar_rows"),
        ({"bar_rows": 100}, OutOfRangeError, "320×240"),
    ],
)
def test_impossible_pictures_are_named(tmp_path, options, error, words):
    Pillow.fromarray(np.zeros((300, 400), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(error, match=words):
        read_picture(tmp_path / "a.png", **options)


def test_folder_with_a_manifest(tmp_path):
    with pytest.raises(InvalidParameterError, match=r"MANIFEST\.csv"):
        read_folder(tmp_path)
    (tmp_path / "sub").mkdir()
    Pillow.fromarray(np.zeros((300, 400), np.uint8)).save(tmp_path / "sub" / "a.png")
    rows = [
        "file,pixels,bar_rows,suggested_split,notes",
        'x/a.png,"5 kx, 9.766 nm/px",20,dev,sharp',
        "x/noisy.png,unknown,0,dev,very noisy by intent",
        "x/series.png,unknown,0,series,",
    ]
    (tmp_path / "MANIFEST.csv").write_text("\n".join(rows))
    (picture,) = read_folder(tmp_path)
    assert (picture.name, picture.pixel_size, picture.assumed) == ("a.png", 9.766, False)
    assert picture.pixels.shape == (280, 400)


def test_real_micrographs_are_listed(data_folder):
    pictures = read_folder(data_folder)
    assert len(pictures) == 24
    assert all(min(picture.pixels.shape) >= 240 for picture in pictures)


def test_runs_on_the_emulator_leave_honest_records(tiny_models):
    trials = draw_online(["tin-balls", "featureless"], 1, 1, "ideal")
    records = run_trials(trials, ["dual-network"], max_frames=6, workers=1)
    assert [r.specimen for r in records] == ["tin-balls", "featureless"]
    for record in records:
        assert record.status in ("focused", "refused")
        assert record.preset == "ideal"
        assert 0 < record.frames <= 6
        assert record.restored
        assert record.instrument_seconds > 0


def test_an_error_in_a_run_is_a_record_not_the_end():
    (record,) = run_trials(draw_online(["fabric"], 1, 1), ["no-such-method"], workers=1)
    assert record.status == "error"
    assert "no-such-method" in record.reason
    assert record.restored
