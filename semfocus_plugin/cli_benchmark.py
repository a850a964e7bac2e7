"""The command that compares: autofocus methods side by side; or, on request, how fast every part is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from semdrivers.console import messages, output, print_json
from semdrivers.errors import InvalidParameterError

_TABLE_WIDTH = 150
"""Columns of the tables, however narrow the terminal: a folded table of figures cannot be read."""

_FORMATS = (".md", ".json", ".png")

_RUNS = 40


def benchmark(
    tracks: Annotated[
        list[str] | None, typer.Option(help="Track, or several with commas; repeatable. All by default.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option(help="Method, or several with commas; repeatable. All by default.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Runs of each method on each track.")] = _RUNS,
    seed: Annotated[int | None, typer.Option(help="2026, which nothing was tuned on, by default.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            envvar="SEMFOCUS_DATA", help="Folder of real micrographs with MANIFEST.csv; ../shared/data by default."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores by default.")] = None,
    out: Annotated[
        list[Path] | None, typer.Option("--out", "-o", help="Write the report: .md, .json or .png; repeatable.")
    ] = None,
    reliability: Annotated[
        Path | None, typer.Option(help="Draw the reliability of the default method's confidence: .png.")
    ] = None,
    speed: Annotated[
        bool,
        typer.Option("--speed", help="Measure instead how long every part takes: networks, emulator, USB, control."),
    ] = False,
    seconds: Annotated[float, typer.Option(help="With --speed: about how long each figure is measured.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Let our methods and their peers focus on the same samples, and compare success, frames, time and honesty.

    Peers need `pip install 'semdrivers[benchmark]'`; those that are absent are left out, and the report says so.

    Example: semfocus benchmark --runs 40 -o docs/benchmark.md -o docs/images/benchmark.png

    Example: semfocus benchmark --tracks near,far --methods defocus-pair,brent --runs 10

    Example: semfocus benchmark --speed
    """
    if speed:
        _speed(seconds, json)
    else:
        _compare(_names(tracks), _names(methods), runs, seed, pictures, workers, out or [], reliability, json)


def _compare(
    track_names: Sequence[str],
    method_names: Sequence[str],
    runs: int,
    seed: int | None,
    folder: Path | None,
    workers: int | None,
    out: Sequence[Path],
    reliability: Path | None,
    json: bool,
) -> None:
    from semfocus_plugin.evaluation import comparison, comparison_tables
    from semfocus_plugin.evaluation.tracks import REPORTING_SEED, draw_trials, tracks_named

    for path in out:
        if path.suffix.lower() not in _FORMATS:
            raise InvalidParameterError(f"--out {path}: the name must end in {', '.join(_FORMATS)}")
    if reliability is not None and reliability.suffix.lower() != ".png":
        raise InvalidParameterError(f"--reliability {reliability}: the name must end in .png")
    seed = REPORTING_SEED if seed is None else seed
    chosen = list(tracks_named(track_names))
    names, skipped = comparison.choose_methods(method_names)
    used = _folder(folder) if any(track.real or track.instrument for track in chosen) else None
    shown = _pictures(folder) if any(track.real for track in chosen) else ()
    if used is None or not (used / "series" / "slopes.json").is_file():
        for track in [track for track in chosen if track.instrument == "series"]:
            chosen.remove(track)
            skipped[f"track {track.name}"] = "no folder of recorded series (--pictures)"
    if not shown:
        for track in [track for track in chosen if track.real]:
            chosen.remove(track)
            skipped[f"track {track.name}"] = "no folder of micrographs (--pictures, or SEMFOCUS_DATA)"
    for name, reason in skipped.items():
        messages.print(f"left out: {name}, {reason}", markup=False, soft_wrap=True)
    trials = [trial for track in chosen for trial in draw_trials(track, runs, seed, shown, str(used or ""))]
    planned = comparison.planned(trials, names)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=messages,
    ) as progress:
        task = progress.add_task("focusing", total=len(planned))

        def advance(record: comparison.Record) -> None:
            progress.update(task, advance=1, description=f"{record.track}: {record.method}")

        count = workers if workers is not None else min(os.cpu_count() or 1, max(len(planned), 1))
        records = comparison.run_trials(trials, names, workers=count, progress=advance)
    found = comparison_tables.rows(records)
    conditions = _conditions(runs, seed, names)
    _write(out, records, found, conditions, skipped)
    if reliability is not None:
        _draw_reliability(records, names, reliability)
    if json:
        print_json({"conditions": conditions, "left_out": skipped, "rows": found, "records": records})
        return
    for track in chosen:
        _print(track.name, [row for row in found if row.track == track.name])


def _conditions(runs: int, seed: int, names: Sequence[str]) -> dict[str, str]:
    from semdrivers import __version__
    from semfocus_plugin import networks
    from semfocus_plugin.evaluation.comparison import descriptions
    from semfocus_plugin.evaluation.tracks import DEVELOPMENT_SEED, REPORTING_SEED

    kinds = {
        REPORTING_SEED: f"{seed}, kept for reporting: nothing was tuned on it (development: {DEVELOPMENT_SEED})",
        DEVELOPMENT_SEED: f"{seed}, the development seed: methods and peers were tuned on these very runs",
    }
    told = descriptions()
    return {
        "semdrivers": __version__,
        "networks": ", ".join(f"{card.name} {card.sha256[:8]}" for card in networks.read_manifest()),
        "runs": f"{runs} a method and track",
        "seed": kinds.get(seed, str(seed)),
    } | {name: told[name] for name in names}


def _write(out: Sequence[Path], records: Any, found: Any, conditions: dict[str, str], skipped: dict[str, str]) -> None:
    from json import dumps

    from semdrivers.plain import plain
    from semfocus_plugin.evaluation.comparison_tables import markdown

    figures = [path for path in out if path.suffix.lower() == ".png"]
    for path in figures:
        from semfocus_plugin.evaluation.comparison_figures import draw_comparison

        draw_comparison(found, path)
    for path in out:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            report = {"conditions": conditions, "left_out": skipped, "rows": found, "records": records}
            path.write_text(dumps(plain(report), indent=1) + "\n", encoding="utf-8")
        elif path.suffix.lower() == ".md":
            links = [f"![Success against frames]({_relative(figure, path)})" for figure in figures]
            path.write_text(markdown(found, conditions, skipped, "\n\n".join(links)), encoding="utf-8")


def _relative(target: Path, source: Path) -> str:
    return Path(os.path.relpath(target, source.parent)).as_posix()


def _draw_reliability(records: Any, names: Sequence[str], path: Path) -> None:
    from semfocus_plugin.evaluation.comparison import OURS
    from semfocus_plugin.evaluation.comparison_figures import draw_reliability
    from semfocus_plugin.evaluation.comparison_tables import reliability

    method = next((name for name in OURS if name in names), None)
    bins = reliability(records, method) if method is not None else ()
    if method is None or not bins:
        raise InvalidParameterError(
            f"--reliability {path}: no run of {', '.join(OURS)} reported a focus, so there is nothing to draw"
        )
    draw_reliability(bins, method, path)


def _folder(named: Path | None) -> Path | None:
    from semfocus_plugin.evaluation.pictures import folder_in_use

    return folder_in_use(named)


def _pictures(named: Path | None) -> tuple[Any, ...]:
    from semfocus_plugin.evaluation.pictures import folder_in_use, read_folder

    folder = folder_in_use(named)
    return () if folder is None else read_folder(folder)


def _names(given: list[str] | None) -> list[str]:
    return [name.strip() for text in given or [] for name in text.split(",") if name.strip()]


def _print(track: str, found: Any) -> None:
    from semfocus_plugin.evaluation.comparison_tables import COLUMNS, cells, verdict

    table = Table(title=track, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for row in found:
        table.add_row(*cells(row))
    Console(width=max(output.width, _TABLE_WIDTH), highlight=False).print(table)
    said = verdict(found).replace("**", "")
    output.print(said + "\n" if said else "", markup=False, soft_wrap=True)


def _speed(seconds: float, json: bool) -> None:
    from semfocus_plugin.evaluation.speed import measure

    with messages.status("measuring") as status:
        figures = measure(seconds, announce=lambda what: status.update(f"measuring {what}"))
    if json:
        print_json({"figures": figures})
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("figure", "median", "p90", "unit"):
        table.add_column(heading, justify="left" if heading in ("figure", "unit") else "right")
    for figure in figures:
        table.add_row(figure.name, f"{figure.median:.3g}", f"{figure.p90:.3g}", figure.unit)
    output.print(table)
