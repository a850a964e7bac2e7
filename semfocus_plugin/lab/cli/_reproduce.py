"""The command that repeats the paper's tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import semdrivers
from semdrivers.console import Json, Overwrite, output, print_json
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.cli import MaxFrames, MethodName, progress_bars
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


def reproduce(
    table: Annotated[
        str | None,
        typer.Option(
            help="Table of the paper: 1, 2, 3, S1; or unseen (samples never trained on), ellipses (astigmatic blurs). "
            "No default: pass --table or --figure."
        ),
    ] = None,
    figure: Annotated[str | None, typer.Option(help="Figure of the paper: 3, 4, 5; no default.")] = None,
    runs: Annotated[
        int | None,
        typer.Option(help="Fields, focal series or runs of each specimen; what takes some minutes by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed; fixes everything that is drawn.")] = 101,
    method: MethodName = None,
    max_frames: MaxFrames = None,
    preset: Annotated[str, typer.Option(help="Preset of the emulator: ideal, typical, hostile.")] = "typical",
    workers: Workers = None,
    dask: Dask = None,
    series: Annotated[
        Path | None,
        typer.Option(
            help="Table S1: dataset of focal series to train on; made where it is absent. Made in memory by default."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Table S1: epochs of training; the recipe's by default.")] = None,
    history: Annotated[
        list[Path] | None, typer.Option(help="Figure 3: folder that `semfocus train` wrote; repeatable, no default.")
    ] = None,
    pictures: Pictures = None,
    out: Out = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Repeat a table or a figure of the paper, its numbers beside ours with confidence intervals.

    Example: semfocus reproduce --table 1 -o table-1.md -o table-1.png

    Example: semfocus reproduce --figure 3 --history aenet --history acnet -o figure-3.png
    """
    check_outputs(out or [], ".md", ".json", ".png", overwrite=overwrite)
    if (table is None) == (figure is None):
        raise InvalidParameterError("name --table or --figure, one at a time")
    from semdrivers.emulator.physics import preset_named
    from semfocus_plugin.lab.benchmark.pictures import folder_in_use
    from semfocus_plugin.lab.benchmark.reproduction import FIGURES, HELD_OUT_SEED, TABLES, Request

    kind, name, known = ("table", table, TABLES) if table is not None else ("figure", figure, FIGURES)
    build = known.get(str(name)) or known.get(str(name).upper())
    if build is None:
        raise InvalidParameterError(f"--{kind} {name}: there are {', '.join(known)}")
    preset_named(preset)
    request = Request(
        runs,
        seed,
        preset,
        method,
        max_frames,
        engine(workers, dask),
        series,
        epochs,
        tuple(history or ()),
        folder_in_use(pictures),
    )
    if method is not None:
        semdrivers.get_plugin_manager().check_autofocus_method(method)
    with progress_bars() as stage:
        exhibit = build(request, stage)
    held_out = ", on which nothing was trained or tuned" if seed == HELD_OUT_SEED else ""
    conditions = {**versions(), "emulator": f"preset {preset}, seed {seed}{held_out}"}
    record = exhibit.record(conditions)
    write_report(out or [], record, lambda picture: exhibit.markdown(conditions, picture), exhibit.draw)
    if json:
        print_json(record)
        return
    output.print(f"[bold]{exhibit.name}[/bold]: {exhibit.title}")
    if exhibit.lines:
        print_table(exhibit.headings(), list(exhibit.rows(spread=False)), width=300)
    for note in exhibit.notes:
        output.print(f"- {note}", markup=False, soft_wrap=True)
