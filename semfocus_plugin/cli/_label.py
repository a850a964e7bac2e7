"""The commands that prepare pictures for labelling, and compare labels with the network's scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from semdrivers.console import BarRowsOption, CommandGroup, Json, application, end_batch, messages, output, print_json
from semdrivers.data_bar import BarRows
from semdrivers.errors import InvalidParameterError
from semdrivers.files import counted, replacing
from semfocus_plugin.cli._moved import moved
from semfocus_plugin.labelling import Row

Folder = Annotated[Path, typer.Argument(help="Folder of pictures, in it and below: TIFF, PNG, JPEG, BMP.")]
Magnification = Annotated[
    float | None, typer.Option(help="Magnification of pictures whose files do not hold it; unknown by default.")
]
Sheet = Annotated[Path | None, typer.Option("--out", "-o", help="The sheet (.csv); FOLDER/labels.csv by default.")]


class _SheetByDefault(CommandGroup):
    """The commands of ``label``; a folder in the place of a command means `sheet`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help", "--version"):
            args = ["sheet", *args]
        return list(super().parse_args(ctx, args))


label = application(
    "label",
    "Label pictures, to teach the network; a folder in the place of a command makes its sheet.\n\n"
    "Example: semfocus label night/ --magnification 5000",
    cls=_SheetByDefault,
)


@label.command(cls=moved(disagreements="semfocus label compare"))
def sheet(
    folder: Folder,
    magnification: Magnification = None,
    bar_rows: BarRowsOption = None,
    out: Sheet = None,
    json: Json = False,
) -> None:
    """Score the pictures of a folder for you to correct: a sheet (CSV), and a page (HTML) to do it on.

    Labels are kept when it is run again. The pictures whose label and score disagree most come first on the page.

    Example: semfocus label night/ --magnification 5000
    """
    from semfocus_plugin import labelling

    previews: dict[str, labelling.Preview] = {}
    path, rows, problems = _scored(
        folder,
        magnification,
        bar_rows,
        out,
        seen=lambda row, pixels, size: previews.update({row.file: labelling.preview(pixels, size)}),
    )
    labelling.write_sheet(path, rows)
    page = path.with_suffix(".html")
    with replacing(page, overwrite=True) as partial:
        partial.write_text(labelling.page(labelling.for_review(rows), previews, path.name), encoding="utf-8")
    labelled = sum(row.label is not None for row in rows)
    if json:
        print_json({"sheet": path, "page": page, "pictures": rows, "problems": problems, "labelled": labelled})
    else:
        output.print(
            f"{counted(len(rows), 'picture')}, {labelled} labelled, in {path}; label them on {page}, and save the CSV "
            f"over the sheet, or label into the sheet at once with the live page: semfocus view URL --labels {path}",
            markup=False,
            soft_wrap=True,
        )
    end_batch(problems)


@label.command()
def compare(
    folder: Folder,
    magnification: Magnification = None,
    bar_rows: BarRowsOption = None,
    out: Sheet = None,
    threshold: Annotated[float, typer.Option(min=0, help="Least distance of a listed label from its score.")] = 1.0,
    json: Json = False,
) -> None:
    """List the labels that the network disagrees with most, to label them again; nothing is written.

    Example: semfocus label compare night/ --threshold 1.5
    """
    from semfocus_plugin import labelling

    path, rows, problems = _scored(folder, magnification, bar_rows, out)
    apart = [
        row for row in labelling.for_review(rows) if row.disagreement is not None and row.disagreement >= threshold
    ]
    if json:
        print_json({"sheet": path, "problems": problems, "disagreements": apart})
    else:
        output.print(_table(apart) if apart else f"no label is {threshold:g} or more from its score")
    end_batch(problems)


def _scored(
    folder: Path, magnification: float | None, bar_rows: BarRows | None, out: Path | None, seen: Any = None
) -> tuple[Path, list[Row], list[str]]:
    """Return the sheet's path, its rows with today's scores, and what could not be scored."""
    from semfocus_plugin import labelling

    if not folder.is_dir():
        raise InvalidParameterError(f"{folder}: there is no such folder")
    path = out or folder / "labels.csv"
    if path.suffix.lower() != ".csv" or not path.absolute().parent.is_dir():
        raise InvalidParameterError(f"{path}: the name must end in .csv, and its folder must be there")
    earlier = labelling.read_sheet(path) if path.exists() else []
    with Progress(console=messages, transient=True) as progress:
        task = progress.add_task("pictures", total=None)
        rows, problems = labelling.propose(
            folder,
            earlier,
            path.absolute().parent,
            magnification=magnification,
            bar_rows=bar_rows,
            seen=seen,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    if not rows:
        raise InvalidParameterError(f"{folder}: holds no pictures (TIFF, PNG, JPEG or BMP)")
    return path, rows, problems


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("label", "score", "apart"):
        table.add_column(heading, justify="right")
    table.add_column("file", overflow="fold")
    for row in rows:
        table.add_row(*(f"{getattr(row, name):.1f}" for name in ("label", "score", "disagreement")), escape(row.file))
    return table
