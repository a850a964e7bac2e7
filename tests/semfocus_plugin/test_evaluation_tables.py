"""Cases, pictures and tables of the evaluation, and runs on the emulator with tiny networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image as Pillow

from semdrivers import AutofocusSettings, InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab import benchmark as evaluation
from semfocus_plugin.lab.benchmark.cases import MAGNIFICATIONS
from semfocus_plugin.lab.benchmark.pictures import NOMINAL_PIXEL_SIZE, read_folder, read_picture
from semfocus_plugin.networks import paper_factor


def record(**changes):
    fields = {
        "specimen": "tin-balls",
        "magnification": 1000.0,
        "seed": 1,
        "status": "focused",
        "reason": "",
        "start_error": 10.0,
        "error": 0.5,
        "score": 8.0,
        "true_score": 8.9,
        "confidence": 0.9,
        "frames": 10,
        "search_frames": 3,
        "elapsed": 1.0,
        "instrument_seconds": 4.0,
        "restored": True,
    }
    return evaluation.RunRecord(**(fields | changes))


def test_cases_lie_in_the_papers_ranges_and_follow_from_the_seed():
    cases = evaluation.draw_cases(list(MAGNIFICATIONS), 50, seed=3)
    assert len(cases) == 300
    for case in cases:
        low, high = MAGNIFICATIONS[case.specimen]
        assert low <= case.magnification <= high
        assert abs(case.offset) <= 3.0 * paper_factor(case.magnification)
    assert cases == evaluation.draw_cases(list(MAGNIFICATIONS), 50, seed=3)
    alone = evaluation.draw_cases(["fabric"], 50, seed=3)
    assert alone == tuple(case for case in cases if case.specimen == "fabric")
    assert cases != evaluation.draw_cases(list(MAGNIFICATIONS), 50, seed=4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((["tinballs"], 1, 1), InvalidParameterError, "tin-balls"),
        ((["fabric"], 0, 1), OutOfRangeError, "runs"),
        ((["fabric"], 1, -1), OutOfRangeError, "seed"),
    ],
)
def test_impossible_cases_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        evaluation.draw_cases(*arguments)


def test_picture_is_shown_at_one_to_one_and_a_half_of_its_pixels(tmp_path):
    Pillow.fromarray(np.zeros((500, 700), np.uint8)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", 50.0, bar_rows=60)
    assert picture.pixels.shape == (440, 700)
    for case in evaluation.draw_cases([picture], 40, 1):
        fast_pixel = 0.4e6 / case.magnification
        assert 0.99 <= fast_pixel / 50.0 <= 1.51
        field = np.array([320, 240]) * fast_pixel
        place = np.abs(np.array(case.stage)) * 1e6 + field / 2
        assert all(np.minimum(place, np.array([700, 440]) * 25.0) <= np.array([700, 440]) * 25.0 + 1)
        assert case.picture is picture


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
        ({"bar_rows": -1}, OutOfRangeError, "bar_rows"),
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


def test_summary_counts_what_the_columns_say():
    records = [
        record(error=0.5, frames=8),
        record(error=1.5, frames=12),
        record(error=5.0, frames=20),
        record(status="refused", error=40.0, frames=20, search_frames=20),
        record(status="error", error=40.0, frames=0, search_frames=0, restored=False),
        record(specimen="featureless", status="refused"),
    ]
    tin, blank = evaluation.summarise(records)
    assert (tin.runs, tin.within_two, tin.within_one) == (5, 0.4, 0.2)
    assert tin.median_error == 1.5
    assert (tin.refused, tin.false_focus, tin.errors, tin.restored) == (1, 1, 1, 1)
    assert tin.median_control_frames == 5
    assert tin.median_instrument_seconds == 4.0
    assert (blank.median_error, blank.mean_score) == (None, None)
    table = evaluation.markdown([tin, blank]).splitlines()
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1


def test_runs_on_the_emulator_leave_honest_records(tiny_models):
    cases = evaluation.draw_cases(["tin-balls", "featureless"], 1, 1)
    settings = AutofocusSettings(method="dual-network", max_frames=6)
    records = evaluation.run_cases(cases, settings, preset="ideal")
    assert [r.specimen for r in records] == ["tin-balls", "featureless"]
    for found in records:
        assert found.status in ("focused", "refused")
        assert 0 < found.frames <= 6
        assert found.restored
        assert found.instrument_seconds > 0


def test_an_error_in_a_run_is_a_record_not_the_end(tiny_models):
    (case,) = evaluation.draw_cases(["fabric"], 1, 1)
    (found,) = evaluation.run_cases([case], AutofocusSettings(method="dual-network", bounds=(1.0, 1.5)))
    assert found.status == "error"
    assert "OutOfRangeError" in found.reason
    assert found.restored
