"""The command that measures how well a method focuses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import semfocus_plugin.lab.cli._reproduce as cli_reproduction
from semdrivers.console import fail, messages, output, print_json, problem_of
from semdrivers.errors import InvalidParameterError
from semdrivers.focus import AutofocusSettings
from semfocus_plugin.cli import progress_bars

_TABLE_WIDTH = 150
"""Columns of the table, however narrow the terminal: a folded table of figures cannot be read."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def evaluate(
    table: Annotated[
        str | None, typer.Option(help="Repeat a table of the paper: 1, 2, 3, S1; or unseen (samples never trained on).")
    ] = None,
    figure: Annotated[str | None, typer.Option(help="Repeat a figure of the paper: 3, 4, 5.")] = None,
    runs: Annotated[
        int | None,
        typer.Option(help="Runs of each specimen: 20 by default, and for a table or figure what takes some minutes."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of places, magnifications, starts and noise: 1 by default, 101 for a table or figure."),
    ] = None,
    specimen: Annotated[
        list[str] | None,
        typer.Option(help="Name, picture file, or folder with MANIFEST.csv; repeatable. All six by default."),
    ] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Of picture files, nm.")] = None,
    bar_rows: Annotated[
        int | None, typer.Option(help="Rows of a data bar to cut off picture files; known or detected by default.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Autofocus method.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Most frames of a run.")] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="Of the emulator: ideal, typical (default), hostile; repeatable, for a table side by side."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; all cores by default.")] = None,
    series: Annotated[
        Path | None, typer.Option(help="Table S1: dataset of focal series to train on; made where it is not there.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Table S1: of the training; the recipe's by default.")] = None,
    history: Annotated[
        list[Path] | None, typer.Option(help="Figure 3: folder that `semfocus train` wrote; repeatable.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            envvar="SEMFOCUS_DATA",
            help="Table unseen: folder of real micrographs with MANIFEST.csv; ../shared/data by default.",
        ),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="Write it: .md or .json, and .png of a table or figure; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Focus many times on the emulator, from anywhere within 3 mm × the factor of equation 5, and compare with truth.

    Errors are in depths of field (DoF). A false focus is a run that reports focus beyond 2 DoF.

    With --table or --figure: repeat one of the paper's, its numbers beside ours with confidence intervals.

    Example: semfocus evaluate --runs 20 --specimen tin-balls --specimen my.tif --pixel-size 26.9

    Example: semfocus evaluate --runs 10 --preset ideal --preset typical --preset hostile

    Example: semfocus evaluate --table 1 -o table-1.md -o table-1.png
    """
    from semfocus_plugin.lab.benchmark.presets import checked

    presets = checked(preset or ["typical"])
    if table is not None or figure is not None:
        _refuse("--table and --figure are drawn under one", preset=presets[1:])
        _refuse("--table and --figure draw their own", specimen=specimen, pixel_size=pixel_size)
        asked = {
            "runs": runs,
            "seed": seed,
            "preset": presets[0],
            "method": method,
            "max_frames": max_frames,
            "workers": workers,
            "series": series,
            "epochs": epochs,
            "history": tuple(history or ()),
            "pictures": pictures,
        }
        cli_reproduction.reproduce(table, figure, asked, out or [], json)
        return
    from semfocus_plugin.methods import METHODS

    _refuse("it belongs to --table or --figure", series=series, epochs=epochs, history=history)
    _check_outputs(out or [])
    settings = AutofocusSettings(method=method, max_frames=max_frames)
    problems: list[str] = []
    specimens = _specimens(specimen, pixel_size, bar_rows, problems)
    conditions = {"runs": 20 if runs is None else runs, "seed": 1 if seed is None else seed}
    found = {name: _run(settings, specimens, {**conditions, "preset": name}, workers) for name in presets}
    records = [record for several, _ in found.values() for record in several]
    summaries = {name: summary for name, (_, summary) in found.items()}
    report = {"method": settings.method or METHODS[0].name, **conditions}
    if len(presets) == 1:
        report |= {"preset": presets[0], "summaries": summaries[presets[0]], "records": records}
    else:
        report["presets"] = {name: {"summaries": own, "records": several} for name, (several, own) in found.items()}
    for path in out or []:
        _write(path, report, summaries)
    if json:
        print_json(report)
    else:
        _print(summaries)
    failed = [record for record in records if record.status == "error"]
    for record in failed:
        fail(f"{record.specimen}, seed {record.seed}: {record.reason}")
    for problem in problems:
        fail(problem)
    if failed or problems:
        raise typer.Exit(1)


def _run(
    settings: AutofocusSettings, specimens: Sequence[Any], conditions: Mapping[str, Any], workers: int | None
) -> tuple[Any, Any]:
    from semfocus_plugin.lab import benchmark as evaluation

    cases = evaluation.draw_cases(specimens, conditions["runs"], conditions["seed"])
    count = workers if workers is not None else min(os.cpu_count() or 1, len(cases))
    with progress_bars() as stage:
        records = evaluation.run_cases(
            cases, settings, preset=conditions["preset"], workers=count, progress=stage("focusing", len(cases))
        )
    return records, evaluation.summarise(records)


def _refuse(reason: str, **options: object) -> None:
    """Refuse options that would be ignored."""
    for name, value in options.items():
        if value:
            raise InvalidParameterError(f"--{name.replace('_', '-')} cannot be used here: {reason}")


def _check_outputs(out: Sequence[Path]) -> None:
    for path in out:
        if path.suffix.lower() not in (".md", ".json"):
            raise InvalidParameterError(f"--out {path}: the name must end in .md or .json")


def _specimens(
    names: list[str] | None, pixel_size: float | None, bar_rows: int | None, problems: list[str]
) -> list[Any]:
    """Return names and pictures; what cannot be read is added to `problems`, unless nothing is left."""
    from semfocus_plugin.lab.benchmark.cases import MAGNIFICATIONS
    from semfocus_plugin.lab.benchmark.pictures import read_folder, read_picture

    found: list[Any] = []
    for name in names or list(MAGNIFICATIONS):
        path = Path(name)
        if name in MAGNIFICATIONS:
            found.append(name)
        elif path.is_dir():
            found += read_folder(path, pixel_size, problems)
        elif path.suffix or path.exists():
            try:
                found.append(read_picture(path, pixel_size, bar_rows))
            except Exception as error:
                problems.append(problem_of(path, error))
        else:
            raise InvalidParameterError(
                f"--specimen {name}: neither a specimen ({', '.join(MAGNIFICATIONS)}) nor a file"
            )
    if not found:
        raise InvalidParameterError("--specimen: nothing is left to focus on: " + "; ".join(problems))
    for picture in found:
        if not isinstance(picture, str) and picture.assumed:
            messages.print(
                f"{picture.name}: pixel size unknown, {picture.pixel_size:g} nm assumed (--pixel-size says better)",
                markup=False,
                soft_wrap=True,
            )
    return found


def _print(summaries: Mapping[str, Any]) -> None:
    from semfocus_plugin.lab.benchmark.presets import LEGEND, side_by_side
    from semfocus_plugin.lab.benchmark.tables import COLUMNS, cells

    console = Console(width=max(output.width, _TABLE_WIDTH), highlight=False)
    lines = [COLUMNS, *map(cells, *summaries.values())] if len(summaries) == 1 else side_by_side(summaries)
    if len(summaries) > 1:
        console.print(f"Each cell: {LEGEND}.\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(lines[0]):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for line in lines[1:]:
        table.add_row(*line)
    console.print(table)


def _write(path: Path, report: dict[str, Any], summaries: Mapping[str, Any]) -> None:
    from json import dumps

    from semdrivers.files import plain
    from semfocus_plugin.lab.benchmark import markdown
    from semfocus_plugin.lab.benchmark.presets import markdown_side_by_side

    if path.suffix.lower() == ".json":
        text = dumps(plain(report), indent=2)
    else:
        conditions = ", ".join(f"{key} {report[key]}" for key in ("method", "runs", "preset", "seed") if key in report)
        table = markdown(*summaries.values()) if len(summaries) == 1 else markdown_side_by_side(summaries)
        text = f"{conditions}\n\n{table}"
    path.write_text(text + "\n", encoding="utf-8")
