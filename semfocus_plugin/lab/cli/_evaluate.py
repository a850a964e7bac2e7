"""The command that measures how well a method focuses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import semdrivers
from semdrivers.console import BarRowsOption, Json, Overwrite, end_batch, messages, output, print_json, problem_of
from semdrivers.data_bar import BarRows
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.cli import MaxFrames, MethodName, progress_bars
from semfocus_plugin.lab.cli._shared import Dask, Workers, check_outputs, engine, print_table, write_report


def evaluate(
    runs: Annotated[int, typer.Option(help="Runs of each specimen.")] = 20,
    seed: Annotated[int, typer.Option(help="Random seed; fixes places, magnifications, starts and noise.")] = 1,
    specimen: Annotated[
        list[str] | None,
        typer.Option(help="Name, picture file, or folder with MANIFEST.csv; repeatable. All six names by default."),
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Pixel size of picture files, nm; what the file says, or 100, by default.")
    ] = None,
    bar_rows: BarRowsOption = None,
    method: MethodName = None,
    max_frames: MaxFrames = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="Preset of the emulator: ideal, typical (default), hostile; repeatable, for a table side by side."
        ),
    ] = None,
    workers: Workers = None,
    dask: Dask = None,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="Write the report: .md or .json; repeatable. Printed alone by default."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Focus many times on the emulator, from anywhere within 3 mm × the factor of equation 5, and compare with truth.

    Errors are in depths of field (DoF). A false focus is a run that reports focus beyond 2 DoF.

    Example: semfocus evaluate --runs 20 --specimen tin-balls --specimen my.tif --pixel-size 26.9

    Example: semfocus evaluate --runs 10 --preset ideal --preset typical --preset hostile
    """
    from semdrivers.emulator.physics import preset_named
    from semfocus_plugin.lab.benchmark import report
    from semfocus_plugin.lab.benchmark.runs import run_trials
    from semfocus_plugin.lab.benchmark.trials import draw_online
    from semfocus_plugin.methods import METHODS

    presets = preset or ["typical"]
    for one in presets:
        preset_named(one)
        if presets.count(one) > 1:
            raise InvalidParameterError(f"preset {one} is named more than once; name each of them once")
    check_outputs(out or [], ".md", ".json", overwrite=overwrite)
    semdrivers.AutofocusSettings(method=method, max_frames=max_frames)
    if method is not None:
        semdrivers.get_plugin_manager().check_autofocus_method(method)
    name = method or METHODS[0].name
    problems: list[str] = []
    specimens = _specimens(specimen, pixel_size, bar_rows, problems)
    trials = [trial for one in presets for trial in draw_online(specimens, runs, seed, one)]
    with progress_bars() as stage:
        records = run_trials(
            trials,
            [name],
            max_frames=max_frames,
            scored=True,
            workers=engine(workers, dask),
            progress=stage("focusing", len(trials)),
        )
    rows = report.rows(records, report.EVALUATE)
    side_by_side = len(presets) > 1
    heads, *lines = (
        report.side_by_side(rows) if side_by_side else (report.headings(rows[0].table), *(row.cells() for row in rows))
    )
    legend = f"Each cell: {report.LEGEND}.\n\n" if side_by_side else ""
    conditions = {"method": name, "runs": runs, "preset": ", ".join(presets), "seed": seed}
    record = {**conditions, "rows": [row.record() for row in rows], "records": records}
    said = ", ".join(f"{key} {value}" for key, value in conditions.items())
    write_report(out or [], record, lambda _: f"{said}\n\n{legend}{report.markdown_table(heads, lines)}\n")
    if json:
        print_json(record)
    else:
        output.print(legend, end="", markup=False, soft_wrap=True)
        print_table(heads, lines)
    failed = [run for run in records if run.status == "error"]
    end_batch([*(f"{run.specimen}, seed {run.seed}: {run.reason}" for run in failed), *problems])


def _specimens(
    names: list[str] | None, pixel_size: float | None, bar_rows: BarRows | None, problems: list[str]
) -> list[Any]:
    """Return names and pictures; what cannot be read is added to `problems`, unless nothing is left."""
    from semfocus_plugin.lab.benchmark.pictures import read_folder, read_picture
    from semfocus_plugin.lab.benchmark.trials import MAGNIFICATIONS

    specimens: list[Any] = []
    for name in names or list(MAGNIFICATIONS):
        path = Path(name)
        if name in MAGNIFICATIONS:
            specimens.append(name)
        elif path.is_dir():
            specimens += read_folder(path, pixel_size, problems)
        elif path.suffix or path.exists():
            try:
                specimens.append(read_picture(path, pixel_size, bar_rows))
            except Exception as error:
                problems.append(problem_of(path, error))
        else:
            raise InvalidParameterError(
                f"--specimen {name}: neither a specimen ({', '.join(MAGNIFICATIONS)}) nor a file"
            )
    if not specimens:
        raise InvalidParameterError("--specimen: nothing is left to focus on: " + "; ".join(problems))
    for picture in specimens:
        if not isinstance(picture, str) and picture.assumed:
            messages.print(
                f"{picture.name}: pixel size unknown, {picture.pixel_size:g} nm assumed; --pixel-size sets it",
                markup=False,
                soft_wrap=True,
            )
    return specimens
