"""The commands that compare methods side by side, and measure how fast every part is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semdrivers.console import Json, Overwrite, messages, output, print_json
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.cli import progress_bars
from semfocus_plugin.lab.cli._shared import (
    Dask,
    Out,
    Pictures,
    Workers,
    check_outputs,
    engine,
    print_table,
    versions,
    write_report,
)


def benchmark(
    tracks: Annotated[
        list[str] | None, typer.Option(help="Track, or several with commas; repeatable. All by default.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option(help="Method, or several with commas; repeatable. All by default.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Runs of each method on each track.")] = 40,
    seed: Annotated[
        int, typer.Option(help="Random seed; fixes places, starts and noise. Nothing was tuned on 2026.")
    ] = 2026,
    pictures: Pictures = None,
    workers: Workers = None,
    dask: Dask = None,
    out: Out = None,
    reliability: Annotated[
        Path | None, typer.Option(help="Draw the reliability of the default method's confidence: .png.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    r"""Let our methods and their peers focus on the same samples, and compare success, frames, time and honesty.

    Needs `pip install '.\[benchmark]'`; peers that are absent are left out, and the report says so.

    Example: semfocus benchmark --runs 40 -o docs/benchmark.md -o docs/images/benchmark.png

    Example: semfocus benchmark --tracks near,far --methods defocus-pair,brent --runs 10
    """
    from semfocus_plugin.lab.benchmark import report
    from semfocus_plugin.lab.benchmark.figures import draw_comparison, draw_reliability
    from semfocus_plugin.lab.benchmark.pictures import folder_in_use, read_folder
    from semfocus_plugin.lab.benchmark.runs import OURS, choose_methods, planned, run_trials
    from semfocus_plugin.lab.benchmark.trials import draw_trials, tracks_named

    check_outputs(out or [], ".md", ".json", ".png", overwrite=overwrite)
    check_outputs([reliability] if reliability else [], ".png", option="--reliability", overwrite=overwrite)
    chosen = list(tracks_named(_names(tracks)))
    names, skipped = choose_methods(_names(methods))
    report.wilson(0, 1)  # raises now, not after hours of runs, where SciPy is not installed
    folder = folder_in_use(pictures) if any(track.real or track.instrument for track in chosen) else None
    shown = read_folder(folder) if folder is not None and any(track.real for track in chosen) else ()
    if folder is None or not (folder / "series" / "slopes.json").is_file():
        for track in [track for track in chosen if track.instrument == "series"]:
            chosen.remove(track)
            skipped[f"track {track.name}"] = "no folder of recorded series (--pictures, or SEMFOCUS_DATA)"
    if not shown:
        for track in [track for track in chosen if track.real]:
            chosen.remove(track)
            skipped[f"track {track.name}"] = "no folder of micrographs (--pictures, or SEMFOCUS_DATA)"
    for name, reason in skipped.items():
        messages.print(f"left out: {name}, {reason}", markup=False, soft_wrap=True)
    trials = [trial for track in chosen for trial in draw_trials(track, runs, seed, shown, str(folder or ""))]
    with progress_bars() as stage:
        records = run_trials(
            trials, names, workers=engine(workers, dask), progress=stage("focusing", len(planned(trials, names)))
        )
    rows = report.rows(records, report.BENCHMARK)
    conditions = _conditions(runs, seed, names)
    record = {"conditions": conditions, "left_out": skipped, "rows": [row.record() for row in rows], "records": records}
    write_report(
        out or [],
        record,
        lambda picture: report.page(
            rows, conditions, skipped, f"![Success against frames]({picture})" if picture else ""
        ),
        lambda path: draw_comparison(rows, path),
    )
    if reliability is not None:
        method = next((name for name in OURS if name in names), OURS[0])
        bins = report.reliability(records, method)
        if not bins:
            raise InvalidParameterError(
                f"--reliability {reliability}: no run of {method} reported a focus, so there is nothing to draw"
            )
        draw_reliability(bins, method, reliability)
    if json:
        print_json(record)
        return
    for track in chosen:
        lines = [row for row in rows if row.group == track.name]
        print_table(report.headings(report.BENCHMARK), [row.cells() for row in lines], title=track.name)
        sentence = report.verdict(lines).replace("**", "")
        output.print(sentence + "\n" if sentence else "", markup=False, soft_wrap=True)


def speed(
    seconds: Annotated[float, typer.Option(help="About how long each figure is measured, s.")] = 1.0, json: Json = False
) -> None:
    """Measure how long every part takes: networks, emulator, USB, control channel, whole frames.

    Example: semfocus speed --seconds 5
    """
    from semfocus_plugin.lab.benchmark.speed import measure

    with messages.status("measuring") as status:
        figures = measure(seconds, announce=lambda what: status.update(f"measuring {what}"))
    if json:
        print_json({"figures": figures})
    else:
        cells = [(each.name, f"{each.median:.3g}", f"{each.p90:.3g}", each.unit) for each in figures]
        print_table(("figure", "median", "p90", "unit"), cells, width=80)


def _conditions(runs: int, seed: int, names: tuple[str, ...]) -> dict[str, str]:
    from semfocus_plugin.lab.benchmark.runs import descriptions
    from semfocus_plugin.lab.benchmark.trials import DEVELOPMENT_SEED, REPORTING_SEED

    kinds = {
        REPORTING_SEED: f"{seed}, kept for reporting: nothing was tuned on it (development: {DEVELOPMENT_SEED})",
        DEVELOPMENT_SEED: f"{seed}, the development seed: methods and peers were tuned on these very runs",
    }
    conditions = {**versions(), "runs": f"{runs} a method and track", "seed": kinds.get(seed, str(seed))}
    return conditions | {name: text for name, text in descriptions().items() if name in names}


def _names(given: list[str] | None) -> list[str]:
    return [name.strip() for text in given or [] for name in text.split(",") if name.strip()]
