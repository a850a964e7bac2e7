"""The command that shows it all on the emulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import semdrivers
from semdrivers.console import FAULT, Json, Overwrite, fail, messages, output, print_json
from semfocus_plugin.cli import FrameTable, MaxFrames, MethodName, cancelled_by_interrupt, leave, print_result


def demo(
    specimen: Annotated[str, typer.Option(help="Specimen under the emulated beam.")] = "tin-balls",
    seed: Annotated[int, typer.Option(help="Random seed; fixes specimen, place, start and noise.")] = 1,
    magnification: Annotated[
        float | None, typer.Option(help="Magnification; drawn from the specimen's range by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("semfocus-demo"),
    method: MethodName = None,
    max_frames: MaxFrames = None,
    preset: Annotated[str, typer.Option(help="Preset of the emulator: ideal, typical, hostile.")] = "typical",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Focus an emulated microscope from far away, and write pictures of before and after.

    Example: semfocus demo --specimen fabric --seed 3
    """
    from semfocus_plugin.lab.benchmark.report import FALSE_FOCUS
    from semfocus_plugin.lab.demo import demonstrate

    settings = semdrivers.AutofocusSettings(method=method, max_frames=max_frames)
    with cancelled_by_interrupt() as cancel, FrameTable() as table:
        shown = demonstrate(
            specimen,
            seed,
            out,
            settings,
            magnification=magnification,
            preset=preset,
            progress=None if json else table.add,
            cancel=cancel,
            overwrite=overwrite,
            announce=(lambda line: None) if json else (lambda line: messages.print(line, markup=False)),
        )
    if json:
        print_json(shown.to_dict())
    else:
        print_result(shown.result)
        output.print(
            f"the true focus is at {shown.true_working_distance:.3f} mm: "
            f"{shown.error_depths_of_field:.2f} depths of field away"
        )
        for path in shown.files:
            output.print(f"  {path}", markup=False, soft_wrap=True)
    leave(shown.result)
    if shown.error_depths_of_field > FALSE_FOCUS:
        fail(f"that is no focus: the truth is {shown.error_depths_of_field:.1f} depths of field away")
        raise typer.Exit(FAULT)
