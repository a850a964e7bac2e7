"""Trials, records, intervals, tables and figures of the comparison, and a few runs of it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from semdrivers import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.benchmark import figures, report, runs, trials
from semfocus_plugin.lab.benchmark.report import BENCHMARK, EVALUATE, wilson
from semfocus_plugin.lab.benchmark.runs import Record
from semfocus_plugin.lab.cli import app


def record(**changes):
    fields = {
        "track": "near",
        "method": "defocus-pair",
        "specimen": "fabric",
        "magnification": 1000.0,
        "seed": 1,
        "status": "focused",
        "reason": "",
        "start_error": -5.0,
        "error": 0.5,
        "confidence": 0.9,
        "frames": 3,
        "dose": 3.0,
        "instrument_seconds": 2.0,
        "compute_ms": 6.0,
    }
    return Record(**(fields | changes))


@pytest.mark.parametrize(
    ("successes", "runs", "low", "high"),
    [(10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (98, 100, 0.9300, 0.9945), (0, 0, 0.0, 1.0)],
)
def test_wilson_interval_has_its_known_values(successes, runs, low, high):
    assert wilson(successes, runs) == pytest.approx((low, high), abs=2e-4)


@given(st.integers(1, 500).flatmap(lambda runs: st.tuples(st.integers(0, runs), st.just(runs))))
def test_wilson_interval_holds_the_share_and_stays_between_0_and_1(case):
    successes, runs = case
    low, high = wilson(successes, runs)
    assert 0.0 <= low <= successes / runs + 1e-12
    assert successes / runs - 1e-12 <= high <= 1.0
    mirrored = wilson(runs - successes, runs)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_more_runs_begin_with_the_same_runs_and_seeds_differ():
    for track in trials.TRACKS.values():
        if not track.real:
            many = trials.draw_trials(track, 12, 7)
            assert many[:5] == trials.draw_trials(track, 5, 7)
            assert many != trials.draw_trials(track, 12, 8)
    assert trials.DEVELOPMENT_SEED != trials.REPORTING_SEED


def test_trials_keep_what_their_track_says():
    for track in trials.TRACKS.values():
        if track.real:
            continue
        if track.instrument:
            assert len({trial.number for trial in trials.draw_trials(track, 20, 3)}) == 20
            continue
        for trial in trials.draw_trials(track, 20, 3):
            assert trial.specimen in track.specimens
            low, high = trials.ANYWHERE if track.blind else (-track.reach, track.reach)
            assert low <= trial.start <= high
    wrong = trials.draw_trials(trials.TRACKS["wrong-alpha"], 4, 1)
    assert [trial.aperture_factor for trial in wrong] == [0.8, 1.2, 0.8, 1.2]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: trials.tracks_named(["nearby"]), InvalidParameterError, "near"),
        (lambda: trials.draw_trials(trials.TRACKS["near"], 0, 1), OutOfRangeError, "runs"),
        (lambda: trials.draw_trials(trials.TRACKS["near"], 1, -1), OutOfRangeError, "seed"),
        (lambda: trials.draw_trials(trials.TRACKS["real"], 1, 1), InvalidParameterError, "pictures"),
        (lambda: runs.choose_methods(["brend"]), InvalidParameterError, "brent"),
    ],
)
def test_what_cannot_be_run_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_absent_peers_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(runs.peers, "missing_packages", lambda peer: peer.packages)
    names, skipped = runs.choose_methods([])
    assert names == (*runs.OURS, "golden-section", "two-pass-sweep", "deepfocus-like", "pair-bound")
    assert set(skipped) == {"brent", "mapfost", "fibsem"}
    assert "[benchmark]" in skipped["brent"]


def test_rows_count_what_the_columns_say():
    records = [
        record(error=0.4, frames=2),
        record(error=1.5, frames=3),
        record(error=7.0, frames=4),
        record(status="refused", error=5.0, confidence=0.0, frames=9),
        record(status="error", error=5.0, confidence=None, frames=0),
        record(track="featureless", status="refused"),
        record(track="featureless", error=0.1),
    ]
    near, blank = report.rows(records, BENCHMARK)
    assert [near[name] for name in ("runs", "successes", "false_focus", "refused", "errors")] == [5, 1, 1, 1, 1]
    assert (near["share"], near["interval"]) == (0.2, wilson(1, 5))
    assert [near[name] for name in ("median_error", "median_frames", "most_frames")] == [1.5, 3, 9]
    assert [blank[name] for name in ("successes", "false_focus", "median_error")] == [1, 1, None]
    assert "– / –" in blank.cells()
    assert near.record()["method"] == "defocus-pair"


def test_rows_of_the_online_test_are_by_preset_and_specimen():
    records = [
        record(track="online", error=0.5, frames=8, score=8.0, search_frames=3),
        record(track="online", error=1.5, frames=12, score=7.0, search_frames=3),
        record(track="online", status="refused", error=40.0, frames=20, search_frames=20),
        record(track="online", status="error", error=40.0, frames=0, restored=False),
        record(track="online", specimen="featureless", status="refused"),
        record(track="online", preset="hostile", error=5.0),
        record(track="online", preset="hostile", specimen="featureless", status="refused"),
    ]
    fabric, blank, hostile, _ = lines = report.rows(records, EVALUATE)
    assert [fabric[name] for name in ("runs", "within_two", "within_one", "restored")] == [4, 0.5, 0.25, 1]
    assert [fabric[name] for name in ("median_control_frames", "mean_score", "refused")] == [2.5, 7.5, 1]
    assert (blank["median_error"], blank["mean_score"], hostile["false_focus"]) == (None, None, 1)
    assert report.side_by_side(lines) == (
        ("specimen", "typical", "hostile"),
        ("fabric", "50% / 25%, 10 / 18, 1, 0, 1 errors", "0% / 0%, 3 / 3, 0, 1"),
        ("featureless", "0% / 0%, 3 / 3, 1, 0", "0% / 0%, 3 / 3, 1, 0"),
    )


def test_a_column_is_added_in_one_place(monkeypatch):
    column = report.Column("most", {"largest": lambda group: max(r.error for r in group.records)}, "{largest:.1f}")
    monkeypatch.setattr(report, "COLUMNS", (*report.COLUMNS, column))
    for table in (BENCHMARK, EVALUATE):
        (row,) = report.rows([record(error=0.5), record(error=3.0)], table)
        assert (report.headings(table)[-1], row.cells()[-1], row.record()["largest"]) == ("most", "3.0", 3.0)


def rows_of(**frames_and_errors):
    records = []
    for method, (frames, errors) in frames_and_errors.items():
        records += [record(method=method.replace("_", "-"), frames=frames, error=error) for error in errors]
    return report.rows(records, BENCHMARK)


def test_verdict_says_who_wins():
    better = report.verdict(rows_of(defocus_pair=(3, [0.1] * 9), brent=(9, [0.1] * 9)))
    assert "3.0 times as many" in better
    assert "wins" not in better
    alone = report.verdict(rows_of(defocus_pair=(3, [0.1] * 9), brent=(9, [0.1] * 8 + [4.0])))
    assert alone.startswith("No peer succeeds as often")
    worse = report.verdict(rows_of(defocus_pair=(9, [0.1] * 9), brent=(5, [0.1] * 9)))
    assert "**brent wins**" in worse
    rarer = report.verdict(rows_of(defocus_pair=(3, [0.1, 9.0] * 20), brent=(9, [0.1] * 40)))
    assert "**brent succeeds more often**" in rarer
    assert report.verdict(rows_of(defocus_pair=(3, [0.1]), pair_bound=(3, [0.1]))) == ""


def test_report_holds_a_table_for_each_track_and_the_reasons():
    rows = report.rows([record(), record(method="brent"), record(track="featureless", status="refused")], BENCHMARK)
    text = report.page(rows, {"seed": "2026"}, {"fibsem": "not installed"}, "![figure](a.png)")
    assert "seed: 2026" in text
    assert "left out: fibsem, not installed" in text
    assert "![figure](a.png)" in text
    assert re.findall(r"^## (.+)$", text, re.M) == ["near", "featureless"]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(report.headings(BENCHMARK)) + 1}


def test_reliability_groups_by_confidence_and_counts_blank_samples_as_wrong():
    records = [record(confidence=0.5 + 0.01 * n, error=0.5 if n % 2 else 1.5) for n in range(20)]
    records += [record(confidence=0.95, error=0.2) for _ in range(19)]
    records += [record(track="featureless", confidence=0.95, error=0.0)]
    records += [record(status="refused", confidence=0.0), record(method="brent", confidence=None)]
    bins = report.reliability(records, "defocus-pair")
    assert sum(piece.runs for piece in bins) == 40
    assert [piece.confidence for piece in bins] == sorted(piece.confidence for piece in bins)
    assert (bins[0].within_one, bins[0].within_two) == (0.5, 1.0)
    assert sum(piece.within_two * piece.runs for piece in bins) == pytest.approx(39)
    assert 0 < report.expected_calibration_error(bins) < 1
    assert report.reliability(records, "paper") == ()


@pytest.mark.slow
def test_figures_are_drawn(tmp_path):
    rows = report.rows(
        [
            record(track=track, method=method)
            for track in ("near", "featureless")
            for method in ("defocus-pair", "brent")
        ],
        BENCHMARK,
    )
    bins = report.reliability([record()] * 30, "defocus-pair")
    for path in (
        figures.draw_comparison(rows, tmp_path / "images" / "a.png"),
        figures.draw_comparison(rows[:1], tmp_path / "b.png"),
        figures.draw_reliability(bins, "defocus-pair", tmp_path / "c.png"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_method_keeps_its_colour_whatever_it_is_compared_with(tmp_path):
    alone, among = (
        figures.draw_comparison(report.rows([record(method=name) for name in names], BENCHMARK), tmp_path / file)
        for names, file in ((["brent"], "alone.svg"), (runs.method_names(), "among.svg"))
    )
    used = {colour for colour in figures.COLOURS if colour in alone.read_text()} - {figures.INK}
    assert used == {figures.COLOURS[runs.method_names().index("brent")]}
    assert used <= {colour for colour in figures.COLOURS if colour in among.read_text()}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dual-network", "golden-section", "pair-bound"])
def test_a_run_leaves_an_honest_record(tiny_models, method):
    (trial,) = trials.draw_trials(trials.TRACKS["near"], 1, 1)
    ran = runs.run_trial(trial, method)
    assert (ran.track, ran.method, ran.specimen) == ("near", method, trial.specimen)
    assert ran.status in ("focused", "refused")
    assert ran.start_error == pytest.approx(trial.start, abs=0.05)
    assert ran.frames > 0
    assert ran.dose == pytest.approx(ran.frames)
    if method == "golden-section":
        assert ran.focused
        assert ran.error < 1.0
        assert len(ran.places) == ran.frames
        assert ran.instrument_seconds > 0


def test_what_a_peer_raises_is_a_record_not_the_end(monkeypatch):
    def broken(bench):
        raise ZeroDivisionError("deep inside a package")

    monkeypatch.setattr(runs.peers, "PEERS", (runs.Peer("broken", "", broken),))
    (trial,) = trials.draw_trials(trials.TRACKS["near"], 1, 1)
    ran = runs.run_trial(trial, "broken")
    assert ran.status == "error"
    assert "deep inside" in ran.reason


def test_command_writes_every_format(tmp_path, tiny_models):
    paths = [tmp_path / name for name in ("report.md", "report.json", "images/figure.png")]
    arguments = ["benchmark", "--tracks", "near,featureless", "--methods", "pair-bound,golden-section", "--runs", "1"]
    arguments += ["--workers", "1", "--json", *(text for path in paths for text in ("-o", str(path)))]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, ran.stderr
    written = json.loads(ran.stdout)
    assert [(row["track"], row["method"]) for row in written["rows"]] == [
        ("near", "golden-section"),
        ("near", "pair-bound"),
        ("featureless", "golden-section"),
    ]
    assert "2026" in written["conditions"]["seed"]
    assert json.loads(paths[1].read_text(encoding="utf-8")) == written
    assert "(images/figure.png)" in paths[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tracks", "nearby"], "no track"),
        (["--methods", "brend"], "no method"),
        (["--out", "report.txt"], "must end in"),
        (["--reliability", "figure.pdf"], "must end in .png"),
    ],
)
def test_command_names_what_is_wrong_before_it_starts(options, words):
    ran = CliRunner().invoke(app, ["benchmark", *options])
    assert ran.exit_code == 2
    assert words in " ".join(ran.stderr.split())
