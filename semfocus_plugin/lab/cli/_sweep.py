"""The command that runs a grid of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semdrivers.console import output
from semfocus_plugin.cli import progress_bars
from semfocus_plugin.lab.cli._shared import Dask, Workers, engine


def sweep(
    specification: Annotated[Path, typer.Argument(help="TOML file with commands, grid and figures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; every point of the grid has one of its own in it.")],
    workers: Workers = None,
    dask: Dask = None,
) -> None:
    """Run commands over a grid of settings, one point after another by default; a second call goes on.

    Example: semfocus sweep rates.toml -o sweep/
    """
    from semfocus_plugin.lab import sweep as sweeps
    from semfocus_plugin.lab.benchmark.report import markdown_table

    read = sweeps.read(specification)
    with progress_bars() as stage:
        points = sweeps.run(read, out, workers=engine(workers, dask) or 1, progress=stage("points", len(read.points)))
    heads, *lines = sweeps.table(points)
    page = markdown_table(heads, lines) + "\n"
    (out / "table.md").write_text(page, encoding="utf-8")
    output.print(page, markup=False, soft_wrap=True)
