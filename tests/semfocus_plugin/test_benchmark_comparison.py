"""Trials, records, intervals, tables and figures of the comparison, and a few runs of it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from semdrivers import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.benchmark import comparison, comparison_tables, tracks
from semfocus_plugin.lab.benchmark.comparison import Record
from semfocus_plugin.lab.benchmark.comparison_tables import wilson
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
    for track in tracks.TRACKS.values():
        if not track.real:
            many = tracks.draw_trials(track, 12, 7)
            assert many[:5] == tracks.draw_trials(track, 5, 7)
            assert many != tracks.draw_trials(track, 12, 8)
    assert tracks.DEVELOPMENT_SEED != tracks.REPORTING_SEED


def test_trials_keep_what_their_track_says():
    for track in tracks.TRACKS.values():
        if track.real:
            continue
        for trial in tracks.draw_trials(track, 20, 3):
            assert trial.specimen in track.specimens
            low, high = tracks.ANYWHERE if track.blind else (-track.reach, track.reach)
            assert low <= trial.start <= high
    wrong = tracks.draw_trials(tracks.TRACKS["wrong-alpha"], 4, 1)
    assert [trial.aperture_factor for trial in wrong] == [0.8, 1.2, 0.8, 1.2]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: tracks.tracks_named(["nearby"]), InvalidParameterError, "near"),
        (lambda: tracks.draw_trials(tracks.TRACKS["near"], 0, 1), OutOfRangeError, "runs"),
        (lambda: tracks.draw_trials(tracks.TRACKS["near"], 1, -1), OutOfRangeError, "seed"),
        (lambda: tracks.draw_trials(tracks.TRACKS["real"], 1, 1), InvalidParameterError, "pictures"),
        (lambda: comparison.choose_methods(["brend"]), InvalidParameterError, "brent"),
    ],
)
def test_what_cannot_be_run_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_absent_peers_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(comparison.peers, "missing_packages", lambda peer: peer.packages)
    names, skipped = comparison.choose_methods([])
    assert names == (*comparison.OURS, "golden-section", "two-pass-sweep", "deepfocus-like", "pair-bound")
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
    near, blank = comparison_tables.rows(records)
    assert (near.runs, near.successes, near.false_focus, near.refused, near.errors) == (5, 1, 1, 1, 1)
    assert near.share == 0.2
    assert near.interval == wilson(1, 5)
    assert (near.median_error, near.median_frames, near.most_frames) == (1.5, 3, 9)
    assert (blank.successes, blank.false_focus, blank.median_error) == (1, 1, None)


def rows_of(**frames_and_errors):
    records = []
    for method, (frames, errors) in frames_and_errors.items():
        records += [record(method=method.replace("_", "-"), frames=frames, error=error) for error in errors]
    return comparison_tables.rows(records)


def test_verdict_says_who_wins():
    better = comparison_tables.verdict(rows_of(defocus_pair=(3, [0.1] * 9), brent=(9, [0.1] * 9)))
    assert "3.0 times as many" in better
    assert "wins" not in better
    alone = comparison_tables.verdict(rows_of(defocus_pair=(3, [0.1] * 9), brent=(9, [0.1] * 8 + [4.0])))
    assert alone.startswith("No peer succeeds as often")
    worse = comparison_tables.verdict(rows_of(defocus_pair=(9, [0.1] * 9), brent=(5, [0.1] * 9)))
    assert "**brent wins**" in worse
    rarer = comparison_tables.verdict(rows_of(defocus_pair=(3, [0.1, 9.0] * 20), brent=(9, [0.1] * 40)))
    assert "**brent succeeds more often**" in rarer
    assert comparison_tables.verdict(rows_of(defocus_pair=(3, [0.1]), pair_bound=(3, [0.1]))) == ""


def test_report_holds_a_table_for_each_track_and_the_reasons():
    rows = comparison_tables.rows([record(), record(method="brent"), record(track="featureless", status="refused")])
    text = comparison_tables.markdown(rows, {"seed": "2026"}, {"fibsem": "not installed"}, "![figure](a.png)")
    assert "seed: 2026" in text
    assert "left out: fibsem, not installed" in text
    assert "![figure](a.png)" in text
    assert re.findall(r"^## (.+)$", text, re.M) == ["near", "featureless"]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {len(comparison_tables.COLUMNS) + 1}


def test_reliability_groups_by_confidence_and_counts_blank_samples_as_wrong():
    records = [record(confidence=0.5 + 0.01 * n, error=0.5 if n % 2 else 1.5) for n in range(20)]
    records += [record(confidence=0.95, error=0.2) for _ in range(19)]
    records += [record(track="featureless", confidence=0.95, error=0.0)]
    records += [record(status="refused", confidence=0.0), record(method="brent", confidence=None)]
    bins = comparison_tables.reliability(records, "defocus-pair")
    assert sum(piece.runs for piece in bins) == 40
    assert [piece.confidence for piece in bins] == sorted(piece.confidence for piece in bins)
    assert (bins[0].within_one, bins[0].within_two) == (0.5, 1.0)
    assert sum(piece.within_two * piece.runs for piece in bins) == pytest.approx(39)
    assert 0 < comparison_tables.expected_calibration_error(bins) < 1
    assert comparison_tables.reliability(records, "paper") == ()


def test_figures_are_drawn(tmp_path):
    from semfocus_plugin.lab.benchmark import comparison_figures

    rows = comparison_tables.rows(
        [record(track=track, method=method) for track in tracks.TRACKS for method in comparison.method_names()]
    )
    bins = comparison_tables.reliability([record()] * 30, "defocus-pair")
    for path in (
        comparison_figures.draw_comparison(rows, tmp_path / "images" / "a.png"),
        comparison_figures.draw_comparison(rows[:1], tmp_path / "b.png"),
        comparison_figures.draw_reliability(bins, "defocus-pair", tmp_path / "c.png"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", ["dual-network", "golden-section", "pair-bound"])
def test_a_run_leaves_an_honest_record(tiny_models, method):
    (trial,) = tracks.draw_trials(tracks.TRACKS["near"], 1, 1)
    found = comparison.run_trial(trial, method)
    assert (found.track, found.method, found.specimen) == ("near", method, trial.specimen)
    assert found.status in ("focused", "refused")
    assert found.start_error == pytest.approx(trial.start, abs=0.05)
    assert found.frames > 0
    assert found.dose == pytest.approx(found.frames)
    if method == "golden-section":
        assert found.claimed
        assert found.error < 1.0
        assert len(found.places) == found.frames
        assert found.instrument_seconds > 0


def test_what_a_peer_raises_is_a_record_not_the_end(monkeypatch):
    def broken(bench):
        raise ZeroDivisionError("deep inside a package")

    monkeypatch.setattr(comparison.peers, "PEERS", (comparison.Peer("broken", "", broken),))
    (trial,) = tracks.draw_trials(tracks.TRACKS["near"], 1, 1)
    found = comparison.run_trial(trial, "broken")
    assert found.status == "error"
    assert "deep inside" in found.reason


def test_command_writes_every_format(tmp_path, tiny_models):
    paths = [tmp_path / name for name in ("report.md", "report.json", "images/figure.png")]
    arguments = ["benchmark", "--tracks", "near,featureless", "--methods", "pair-bound,golden-section", "--runs", "1"]
    arguments += ["--workers", "1", "--json", *(text for path in paths for text in ("-o", str(path)))]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert [(row["track"], row["method"]) for row in told["rows"]] == [
        ("near", "golden-section"),
        ("near", "pair-bound"),
        ("featureless", "golden-section"),
    ]
    assert "2026" in told["conditions"]["seed"]
    assert json.loads(paths[1].read_text(encoding="utf-8")) == told
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
    found = CliRunner().invoke(app, ["benchmark", *options])
    assert found.exit_code == 1
    assert words in " ".join(found.stderr.split())
