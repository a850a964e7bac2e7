"""The command that measures how well a method focuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from semdrivers.autofocus import AutofocusSettings
from semdrivers.console import fail, messages, output, print_json
from semdrivers.errors import InvalidParameterError

_TABLE_WIDTH = 150
"""Columns of the table, however narrow the terminal: a folded table of figures cannot be read."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def evaluate(
    runs: Annotated[int, typer.Option(help="Runs of each specimen.")] = 20,
    seed: Annotated[int, typer.Option(help="Of places, magnifications, starts and noise.")] = 1,
    specimen: Annotated[
        list[str] | None,
        typer.Option(help="Name, picture file, or folder with MANIFEST.csv; repeatable. All six by default."),
    ] = None,
    pixel_size: Annotated[float | None, typer.Option(help="Of picture files, nm.")] = None,
    bar_rows: Annotated[int, typer.Option(help="Rows of a data bar to cut off picture files.")] = 0,
    method: Annotated[str | None, typer.Option(help="Autofocus method.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Most frames of a run.")] = None,
    preset: Annotated[str, typer.Option(help="Of the emulator: ideal, typical, hostile.")] = "typical",
    workers: Annotated[int | None, typer.Option(help="Processes; all cores by default.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table: .md or .json.")] = None,
    json: Json = False,
) -> None:
    """Focus many times on the emulator, from anywhere within 3 mm × the factor of equation 5, and compare with truth.

    Errors are in depths of field (DoF). A false focus is a run that reports focus beyond 2 DoF.

    Example: semfocus evaluate --runs 20 --specimen tin-balls --specimen my.tif --pixel-size 26.9
    """
    from semfocus_plugin import evaluation, methods

    settings = AutofocusSettings(method=method, max_frames=max_frames)
    if out is not None and out.suffix.lower() not in (".md", ".json"):
        raise InvalidParameterError(f"--out {out}: the name must end in .md or .json")
    specimens = _specimens(specimen, pixel_size, bar_rows)
    cases = evaluation.draw_cases(specimens, runs, seed)
    count = workers if workers is not None else min(os.cpu_count() or 1, len(cases))
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=messages
    ) as progress:
        task = progress.add_task("focusing", total=len(cases))
        records = evaluation.run_cases(
            cases, settings, preset=preset, workers=count, progress=lambda record: progress.advance(task)
        )
    summaries = evaluation.summarise(records)
    report = {
        "method": method or methods.METHODS[0].name,
        "runs": runs,
        "seed": seed,
        "preset": preset,
        "summaries": summaries,
        "records": records,
    }
    if out is not None:
        _write(out, report, evaluation.markdown(summaries))
    if json:
        print_json(report)
    else:
        _print(summaries)
    for record in records:
        if record.status == "error":
            fail(f"{record.specimen}, seed {record.seed}: {record.reason}")
    if any(record.status == "error" for record in records):
        raise typer.Exit(1)


def _specimens(names: list[str] | None, pixel_size: float | None, bar_rows: int) -> list[Any]:
    from semfocus_plugin.evaluation.cases import MAGNIFICATIONS
    from semfocus_plugin.evaluation.pictures import read_folder, read_picture

    found: list[Any] = []
    for name in names or list(MAGNIFICATIONS):
        path = Path(name)
        if name in MAGNIFICATIONS:
            found.append(name)
        elif path.is_dir():
            found += read_folder(path, pixel_size)
        elif path.suffix or path.exists():
            found.append(read_picture(path, pixel_size, bar_rows))
        else:
            raise InvalidParameterError(
                f"--specimen {name}: neither a specimen ({', '.join(MAGNIFICATIONS)}) nor a file"
            )
    for picture in found:
        if not isinstance(picture, str) and picture.assumed:
            messages.print(
                f"{picture.name}: pixel size unknown, {picture.pixel_size:g} nm assumed (--pixel-size says better)",
                markup=False,
                soft_wrap=True,
            )
    return found


def _print(summaries: Any) -> None:
    from semfocus_plugin.evaluation.tables import COLUMNS, cells

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for summary in summaries:
        table.add_row(*cells(summary))
    Console(width=max(output.width, _TABLE_WIDTH), highlight=False).print(table)


def _write(path: Path, report: dict[str, Any], table: str) -> None:
    from json import dumps

    from semdrivers.plain import plain

    if path.suffix.lower() == ".json":
        text = dumps(plain(report), indent=2)
    else:
        conditions = ", ".join(f"{key} {report[key]}" for key in ("method", "runs", "preset", "seed"))
        text = f"{conditions}\n\n{table}"
    path.write_text(text + "\n", encoding="utf-8")
