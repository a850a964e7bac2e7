"""The studies whose figures the documents quote, a command each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from semdrivers.console import FAULT, Overwrite, application, fail, messages, output
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.cli import progress_bars
from semfocus_plugin.lab.cli._shared import Dask, Pictures, Workers, check_choice, check_outputs, engine, write_report
from semfocus_plugin.lab.parallel import required

lab = application("lab", "Studies of the emulator and of autofocus, printed as Markdown: the figures of the documents.")

Fields = Annotated[int, typer.Option(min=1, help="Fields of each kind.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed; fixes specimens, places and noise.")]
Preset = Annotated[str, typer.Option(help="Preset of the emulator: ideal, typical, hostile.")]
Report = Annotated[
    list[Path] | None,
    typer.Option("--out", "-o", help="Write all figures: .json; repeatable. Printed alone by default."),
]


def _show(rows: Iterable[Sequence[str]], title: str = "") -> None:
    from semfocus_plugin.lab.benchmark.report import markdown_table

    heads, *lines = rows
    output.print(f"### {title}\n" if title else "", end="\n" if title else "", markup=False)
    output.print(markdown_table(heads, lines) + "\n", markup=False, soft_wrap=True)


def _folder(named: Path | None) -> Path | None:
    from semfocus_plugin.lab.benchmark.pictures import folder_in_use

    return folder_in_use(named)


@lab.command()
def physics(out: Report = None, overwrite: Overwrite = False) -> None:
    """Measure the emulated column in its pixels; exit code 1 when a figure is beyond its limit.

    Example: semfocus lab physics
    """
    from semfocus_plugin.lab.studies import physics

    check_outputs(out or [], ".json", overwrite=overwrite)
    tables = {title: list(measure()) for title, measure in physics.TABLES.items()}
    for title, rows in tables.items():
        _show(physics.cells(rows), title)
    write_report(out or [], tables, lambda _: "")
    failed = [row.what for rows in tables.values() for row in rows if not row.holds]
    if failed:
        fail(f"{len(failed)} of the figures are beyond their limits: {'; '.join(failed)}")
        raise typer.Exit(FAULT)


@lab.command()
def findings(
    fields: Fields = 20,
    seed: Seed = 7001,
    table: Annotated[
        list[int] | None, typer.Option(help="Number of a table, from 1; repeatable. All by default.")
    ] = None,
    pictures: Pictures = None,
) -> None:
    """Count how often a run's frames show astigmatism and relief, and how often they seem to where there is none.

    Example: semfocus lab findings --fields 5 --table 1
    """
    from semfocus_plugin.lab.studies.findings import tables

    made = tables(seed, fields, _folder(pictures))
    for number in table or []:
        if not 1 <= number <= len(made):
            raise InvalidParameterError(f"--table {number}: there are 1 to {len(made)}")
    for number, (title, rows) in enumerate(made.items(), 1):
        if not table or number in table:
            _show(rows(), title)


@lab.command()
def specimens(
    fields: Fields = 4,
    pictures: Pictures = None,
    out: Report = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare the emulated specimens with real micrographs: power spectrum and histogram of grey levels.

    Example: semfocus lab specimens --pictures micrographs
    """
    import numpy as np

    from semfocus_plugin.lab.studies import specimens

    check_outputs(out or [], ".json", overwrite=overwrite)
    folder = _folder(pictures)
    if folder is None:
        raise InvalidParameterError("there is no folder of real micrographs; name it with --pictures, or SEMFOCUS_DATA")
    real = np.array([specimens.measures(window) for window in specimens.real_windows(folder)])
    rows = specimens.emulated_rows(fields)
    _show(specimens.table(real, rows))
    output.print(specimens.summary(real, rows), markup=False, soft_wrap=True)
    record = {"headings": specimens.HEADINGS, "real": real, "emulated": rows}
    write_report(out or [], record, lambda _: "")


@lab.command()
def spoiled(
    fields: Annotated[int, typer.Option(min=0, help="Fields of each specimen and preset; 0 for runs alone.")] = 20,
    seed: Seed = 1,
    runs: Annotated[
        int, typer.Option(min=0, help="Runs of each specimen with one frame in four spoiled; 0 for frames alone.")
    ] = 0,
    pictures: Pictures = None,
) -> None:
    """Count how often autofocus takes a sound frame for spoiled, and a spoiled one for sound.

    Example: semfocus lab spoiled --fields 30 --seed 9
    """
    from semfocus_plugin.lab.studies import spoiled
    from semfocus_plugin.run import MOST_RETAKES

    if fields:
        _show(spoiled.table(fields, seed, _folder(pictures)))
    for retakes in (MOST_RETAKES, 0) if runs else ():
        output.print(spoiled.focusing(runs, seed, retakes), markup=False, soft_wrap=True)


@lab.command()
def fine_probe(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each kind.")] = 60, seed: Seed = 101, workers: Workers = None
) -> None:
    """Measure what it is worth to configure the diameter of a fine probe.

    Example: semfocus lab fine-probe --runs 20
    """
    from semfocus_plugin.lab.studies.fine_probe import table

    _show(table(runs, seed, workers), f"{runs} runs each, seed {seed}")


@lab.command()
def drivers(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each driver.")] = 100,
    seed: Seed = 2026,
    driver: Annotated[list[str] | None, typer.Option(help="Row of the table; repeatable. All by default.")] = None,
    workers: Workers = None,
    out: Report = None,
    overwrite: Overwrite = False,
) -> None:
    """Focus through each driver, on its emulator or the maker's simulator: success, frames, errors.

    Rows whose simulator is not installed are left out, and named.

    Example: semfocus lab drivers --runs 20 --driver "tescan, 3 mrad" --driver zem
    """
    from semfocus_plugin.lab.studies.drivers import DRIVERS, missing, table

    check_outputs(out or [], ".json", overwrite=overwrite)
    check_choice("--driver", driver or (), DRIVERS)
    chosen = [name for name in DRIVERS if not driver or name in driver]
    for name in chosen:
        if missing(name):
            messages.print(f"left out: {name}, {', '.join(missing(name))} not installed", markup=False)
    chosen = [name for name in chosen if not missing(name)]
    with progress_bars() as stage:
        done, rows = table(runs, seed, chosen, workers, stage("focusing", runs * len(chosen)))
    _show(rows, f"{runs} runs each, seed {seed}")
    write_report(out or [], {"runs": done, "rows": rows}, lambda _: "")


@lab.command()
def stigmation(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each kind of instrument.")] = 100,
    seed: Seed = 2026,
    kind: Annotated[list[str] | None, typer.Option(help="Kind of instrument, repeatable; all by default.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="MAPFoSt and a simplex on sharpness on the same seeds.")
    ] = False,
    pictures: Pictures = None,
    workers: Workers = None,
) -> None:
    """Correct focus and stigmator together, on the emulator and on columns that are not the emulator's.

    Example: semfocus lab stigmation --runs 20 --kind emulator --kind wave
    """
    from semfocus_plugin.lab.benchmark.peers.with_stigmator import PEERS
    from semfocus_plugin.lab.studies.stigmation import KINDS, table

    check_choice("--kind", kind or (), KINDS)
    folder = _folder(pictures)
    _show(
        table(runs, seed, kind or KINDS, "" if folder is None else str(folder), workers, tuple(PEERS) if peers else ())
    )


@lab.command()
def tiles(
    columns: Annotated[int, typer.Option(min=2, help="Columns of tiles.")] = 10,
    rows: Annotated[int, typer.Option(min=2, help="Rows of tiles.")] = 6,
    drift: Annotated[float, typer.Option(min=0, help="Drift of the sample's height, nm/s.")] = 20.0,
    seed: Seed = 3,
    scene: Annotated[
        list[str] | None, typer.Option(help="`spread`, `joined` or `foreign`; repeatable. All by default.")
    ] = None,
    pictures: Pictures = None,
    workers: Workers = None,
) -> None:
    """Compare ways to focus the tiles of a tilted, bowed and drifting sample: fixed, plane, autofocus at each, map.

    Example: semfocus lab tiles --columns 10 --rows 6 --scene spread
    """
    from semfocus_plugin.lab.studies import tiles

    chosen = tuple(scene or tiles.SCENES)
    check_choice("--scene", chosen, tiles.SCENES)
    _show(tiles.table(columns, rows, drift, seed, chosen, _folder(pictures), workers))


@lab.command()
def frame_times() -> None:
    """Measure how long the emulator computes a frame of each specimen, on one core.

    Example: semfocus lab frame-times
    """
    import platform

    from semfocus_plugin.lab.studies.frame_times import processor, tables

    _show(tables(), f"ms of a frame on one core of {processor()}, Python {platform.python_version()}")


@lab.command()
def frame_compute(
    runs: Annotated[int, typer.Option(min=1, help="Runs of the default method on the emulator.")] = 20,
    seed: Seed = 2026,
    track: Annotated[str, typer.Option(help="Track of the benchmark that the runs are of.")] = "near",
) -> None:
    """Measure what a run computes for a frame, part by part, beside one inference of its network, on one core.

    Example: semfocus lab frame-compute --runs 40
    """
    from semfocus_plugin.lab.studies.frame_compute import tables

    _show(tables(runs, seed, track), f"Track {track}, {runs} runs, seed {seed}")


@lab.command()
def stop_latency(repeats: Annotated[int, typer.Option(min=1, help="Measurements of each kind.")] = 5) -> None:
    """Measure how long a stop takes in the middle of a frame, over TCP and the USB bridge, for every scan mode.

    Example: semfocus lab stop-latency --repeats 3
    """
    from semfocus_plugin.lab.studies.stop_latency import table

    _show(table(repeats), f"ms, median and in brackets the longest of {repeats}")


@lab.command()
def attacks(
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long each attack is measured, s.")] = 5.0,
) -> None:
    """Measure how long the client in control waits while others attack the emulator's ports (not on Windows).

    Example: semfocus lab attacks --seconds 5
    """
    from semfocus_plugin.lab.studies.attacks import table

    _show(table(seconds), "the owner's round trips and frames, ms")


@lab.command()
def soak(
    hours: Annotated[float, typer.Option(min=0.01, help="Hours of the instrument's clock, which runs ahead.")] = 24.0,
    every: Annotated[float, typer.Option(min=0.1, help="Minutes of the instrument between two runs.")] = 5.0,
    seed: Seed = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File of a figure: .png; none by default.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Focus all day with faults, on the instrument's clock; exit code 1 when memory, descriptors or threads grow.

    Example: semfocus lab soak --hours 24 -o soak.png
    """
    from semfocus_plugin.lab.studies import soak

    if out is not None:
        check_outputs([out], ".png", overwrite=overwrite)
    with progress_bars() as stage:
        done = soak.cycles(hours, every, seed, stage("focusing", round(hours * 60 / every)))
    _show(soak.rows(done), f"{len(done)} runs, one every {every:g} minutes, seed {seed}")
    if out is not None:
        soak.draw(done, out)
    grown = soak.growth(done)
    if grown:
        fail(f"what grew: {', '.join(grown)}")
        raise typer.Exit(FAULT)


@lab.command()
def contact_sheet(
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the sheet: .png.")] = Path("contact_sheet.png"),
    seed: Seed = 3,
    preset: Preset = "typical",
    overwrite: Overwrite = False,
) -> None:
    """Draw every specimen at four magnifications and five defoci, on one sheet to look at.

    Example: semfocus lab contact-sheet -o docs/images/contact_sheet.png
    """
    from semfocus_plugin.lab.studies.contact_sheet import draw

    check_outputs([out], ".png", overwrite=overwrite)
    output.print(draw(out, seed, preset), markup=False, soft_wrap=True)


@lab.command()
def illustrations(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pictures.")] = Path("illustrations"),
    overwrite: Overwrite = False,
) -> None:
    """Draw the pictures and the animation of README and tutorial, from a run on the emulator.

    Example: semfocus lab illustrations -o docs/images --overwrite
    """
    from semfocus_plugin.lab.studies.illustrations import illustrate

    with messages.status("focusing and drawing"):
        drawn = illustrate(out, overwrite=overwrite)
    for path in drawn:
        output.print(path, markup=False, soft_wrap=True)


@lab.command()
def network_size(
    widths: Annotated[
        list[float] | None, typer.Option(help="Width; repeatable. 1, 0.5, 0.25 and 0.125 by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="About how long each network is timed, s.")] = 5.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each network.")] = 2,
) -> None:
    """Time the shipped AENet beside the paper's architecture at several widths; needs torch.

    Example: semfocus lab network-size --seconds 2
    """
    study = required("semfocus_plugin.lab.training.network_size", "building the paper's network", "train")
    rows = study.table(widths or [1.0, 0.5, 0.25, 0.125], seconds, threads)
    _show(rows, f"One FAST frame on {threads} threads, median")


@lab.command()
def finetune_table(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder that everything stays in; a second call goes on there.")],
    pictures: Annotated[int, typer.Option(min=6, help="Pictures that the emulated user labels.")] = 60,
    specimen: Annotated[str, typer.Option(help="Specimen of the pictures.")] = "butterfly-wing",
    seed: Seed = 101,
    share: Annotated[float, typer.Option(help="Share of the ideal score that the user gives as the label.")] = 1.0,
) -> None:
    """Fine-tune AENet as a user does, with an emulated user's labels, and compare before and after; needs torch.

    Example: semfocus lab finetune-table tuned/ --seed 102
    """
    from semfocus_plugin.lab.studies import finetuning

    semfocus = context.find_root().command

    def run(arguments: list[str]) -> object:
        return semfocus.main(arguments, prog_name="semfocus", standalone_mode=False)

    finetuning.prepare(folder, specimen, pictures, seed, share, run)
    _show(finetuning.held_out(folder))
    _show(finetuning.elsewhere(folder, specimen, seed, share))


@lab.command()
def drawing(fields: Annotated[int, typer.Option(min=1, help="Fields of each mixture.")] = 12, seed: Seed = 5) -> None:
    """Measure what a training frame costs beside rendering alone, on one core.

    Example: semfocus lab drawing --fields 6
    """
    from semfocus_plugin.lab.studies.drawing import table

    _show(table(fields, seed))


@lab.command()
def control(
    models: Annotated[list[Path], typer.Argument(help="Folders of models to compare with those in use.")],
    runs: Annotated[int, typer.Option(min=1, help="Runs on trained, and on unseen samples.")] = 100,
    seed: Seed = 101,
    workers: Workers = None,
    dask: Dask = None,
) -> None:
    """Compare control networks on the same runs: success and frames on trained and unseen samples.

    Example: semfocus lab control reinforced/ --runs 100
    """
    from semfocus_plugin.lab.studies.control import table

    for folder in models:
        if not (folder / "manifest.json").is_file():
            raise InvalidParameterError(f"{folder} holds no models; make them with: semfocus train reinforced")
    folders = {"shipped": ""} | {str(folder): str(folder.resolve()) for folder in models}
    _show(table(folders, runs, seed, engine(workers, dask)), f"{runs} runs each, seed {seed}")


@lab.command()
def cluster(
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Workers, repeatable; 1, 2, 4 by default.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Amount of work: runs of each track or specimen.")] = 4,
    work: Annotated[
        list[str] | None, typer.Option(help="Command, such as dataset; repeatable. All by default.")
    ] = None,
) -> None:
    """Compare one process with Dask workers of this computer, one of them killed at last: hashes, time, efficiency.

    Exit code 1 when a hash differs.

    Example: semfocus lab cluster --workers 1 --workers 2 --workers 4
    """
    from semfocus_plugin.lab.studies.cluster import WORK, table

    check_choice("--work", work or (), WORK)
    with messages.status("starting") as status:
        rows = list(table(workers or [1, 2, 4], size, work or list(WORK), status.update))
    _show(rows, f"size {size}, on a computer of {os.cpu_count()} cores")
    results = {row[0]: {other[2] for other in rows[1:] if other[0] == row[0]} for row in rows[1:]}
    differing = [name for name, hashes in results.items() if len(hashes) > 1]
    if differing:
        fail(f"results depend on where they were computed: {', '.join(differing)}")
        raise typer.Exit(FAULT)


@lab.command()
def scaling(
    workers: Annotated[list[int] | None, typer.Option(help="Workers, repeatable; 1, 16 and 256 by default.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the dataset.")] = 1_000_000,
    runs: Annotated[int, typer.Option(min=1, help="Runs of the benchmark.")] = 10_000,
    passes: Annotated[int, typer.Option(min=1, help="Passes of the training.")] = 4,
    frame_ms: Annotated[float | None, typer.Option(help="Core time of a frame; measured by default, ms.")] = None,
    run_seconds: Annotated[float | None, typer.Option(help="Core time of a run; measured by default, s.")] = None,
    step_ms: Annotated[float, typer.Option(help="GPU time of a training step of 90 frames, ms.")] = 155.0,
    storage: Annotated[float, typer.Option(help="Shared storage, MB/s.")] = 500.0,
    core_price: Annotated[float, typer.Option(help="Price of a core hour.")] = 0.04,
    gpu_price: Annotated[float, typer.Option(help="Price of a GPU hour.")] = 3.0,
) -> None:
    """Project time, hours and price of datasets, benchmarks and training to more workers, and what bounds them.

    Example: semfocus lab scaling --workers 1 --workers 16 --workers 256
    """
    import time

    from semfocus_plugin.lab.benchmark.trials import TRAINED, draw_online
    from semfocus_plugin.lab.studies import scaling
    from semfocus_plugin.lab.studies.control import focus
    from semfocus_plugin.lab.studies.drawing import frame_cost

    frame = frame_cost("broad", 8, 5)[0] if frame_ms is None else frame_ms * 1e-3
    if run_seconds is None:
        trials = draw_online(TRAINED, 2, 5)
        focus(trials[0], "")  # opens the networks
        began = time.process_time()
        for trial in trials:
            focus(trial, "")
        run_seconds = (time.process_time() - began) / len(trials)
    parts = scaling.Parts(
        frame, run_seconds, step_ms * 1e-3, storage=storage * 1e6, core_price=core_price, gpu_price=gpu_price
    )
    title = f"{frame * 1e3:.1f} ms a frame, {run_seconds:.2f} s a run, {step_ms:g} ms a step, {storage:g} MB/s"
    _show(scaling.table(parts, workers or [1, 16, 256], frames, runs, passes), title)
