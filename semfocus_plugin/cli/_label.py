"""The command that prepares pictures for labelling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from semdrivers.console import fail, messages, output, print_json
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.labelling import Row


def label(
    folder: Annotated[Path, typer.Argument(help="Pictures, in it and below: TIFF, PNG, JPEG, BMP.")],
    magnification: Annotated[float | None, typer.Option(help="Of pictures that do not tell it themselves.")] = None,
    bar_rows: Annotated[
        int | None, typer.Option(min=0, help="Rows of a data bar at the bottom of each; known or detected by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The sheet (.csv); FOLDER/labels.csv by default.")
    ] = None,
    disagreements: Annotated[
        bool, typer.Option("--disagreements", help="List the labels that the network disagrees with most, to re-label.")
    ] = False,
    threshold: Annotated[float, typer.Option(help="With --disagreements: how far apart, at least.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Score the pictures of a folder for you to correct: a sheet (CSV), and a page (HTML) to do it on.

    Labels are kept when it is run again. The pictures whose label and score disagree most come first on the page.

    Example: semfocus label night/ --magnification 5000
    """
    from semfocus_plugin import labelling
    from semfocus_plugin import labelling as labelling_page

    if not folder.is_dir():
        raise InvalidParameterError(f"{folder}: there is no such folder")
    sheet = out or folder / "labels.csv"
    if sheet.suffix.lower() != ".csv" or not sheet.absolute().parent.is_dir():
        raise InvalidParameterError(f"{sheet}: the name must end in .csv, and its folder must be there")
    earlier = labelling.read_sheet(sheet) if sheet.exists() else []
    thumbnails: dict[str, tuple[str, str]] = {}
    with Progress(console=messages, transient=True) as progress:
        task = progress.add_task("pictures", total=None)
        rows, problems = labelling.propose(
            folder,
            earlier,
            sheet.absolute().parent,
            magnification=magnification,
            bar_rows=bar_rows,
            seen=lambda row, pixels: thumbnails.update({row.file: labelling_page.thumbnail(pixels)}),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if not rows:
        raise InvalidParameterError(f"{folder}: holds no pictures (TIFF, PNG, JPEG or BMP)")
    ordered = labelling.for_review(rows)
    labelling.write_sheet(sheet, rows)
    page = sheet.with_suffix(".html")
    page.write_text(labelling_page.page(ordered, thumbnails, sheet.name), encoding="utf-8")
    apart = [row for row in ordered if (row.disagreement or 0.0) >= threshold]
    labelled = sum(row.label is not None for row in rows)
    if json:
        told = {"sheet": sheet, "page": page, "pictures": rows, "problems": problems}
        print_json({**told, "labelled": labelled, "disagreements": apart if disagreements else None})
    else:
        if disagreements:
            output.print(_table(apart) if apart else f"no label is {threshold:g} or more from its score")
        output.print(
            f"{len(rows)} pictures, {labelled} labelled, in {sheet}; correct them on {page}, and save the CSV over the "
            "sheet",
            markup=False,
            soft_wrap=True,
        )
    for problem in problems:
        fail(problem)
    if problems:
        raise typer.Exit(1)


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("label", "score", "apart"):
        table.add_column(heading, justify="right")
    table.add_column("file", overflow="fold")
    for row in rows:
        table.add_row(*(f"{getattr(row, name):.1f}" for name in ("label", "score", "disagreement")), escape(row.file))
    return table
