"""What the laboratory's commands share: options, reports in every format, tables on the terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semdrivers.console import output
from semdrivers.errors import ExistingFileError, InvalidParameterError
from semdrivers.files import plain, replacing
from semfocus_plugin.lab.parallel import Workers as Where

Workers = Annotated[int | None, typer.Option(min=1, help="Processes; as many as there are cores by default.")]
Dask = Annotated[
    str | None,
    typer.Option(
        help="Address of a Dask scheduler, such as tcp://scheduler:8786, to compute there; by default on this computer."
    ),
]
Pictures = Annotated[
    Path | None,
    typer.Option(
        envvar="SEMFOCUS_DATA", help="Folder of real micrographs with MANIFEST.csv; ../shared/data by default."
    ),
]
Out = Annotated[
    list[Path] | None,
    typer.Option("--out", "-o", help="Write the report: .md, .json or .png; repeatable. Printed alone by default."),
]


def engine(workers: int | None, dask: str | None) -> Where:
    """Return where to compute.

    Raises
    ------
    InvalidParameterError
        When both are given.
    """
    if workers is not None and dask is not None:
        raise InvalidParameterError("--workers is for processes of this computer: leave it out, or leave out --dask")
    return workers if dask is None else dask


def check_choice(option: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise InvalidParameterError for a name that is not among those known."""
    for name in names:
        if name not in known:
            raise InvalidParameterError(f"{option} must be one of {'; '.join(known)}, not {name!r}")


def check_outputs(out: Sequence[Path], *endings: str, overwrite: bool, option: str = "--out") -> None:
    """Raise InvalidParameterError for a file whose name has another ending, ExistingFileError for one that is kept."""
    for path in out:
        if path.suffix.lower() not in endings:
            raise InvalidParameterError(f"{option} {path}: the name must end in {' or '.join(endings)}")
        if path.exists() and not overwrite:
            raise ExistingFileError(path)


def write_report(
    out: Sequence[Path], record: Any, page: Callable[[str], str], draw: Callable[[Path], Path] | None = None
) -> None:
    """Write a report to files of any format, which `check_outputs` has looked at.

    Parameters
    ----------
    out : sequence of Path
        ``.png`` is drawn, ``.json`` gets the record, ``.md`` the page.
    record : object
        Anything that `plain` takes.
    page : callable
        From the address of the drawing, relative to the page, or an empty text, to Markdown.
    draw : callable, optional
        Draws to the path that it is given.
    """
    drawings = [draw(path) for path in out if draw is not None and path.suffix.lower() == ".png"]
    for path in out:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            text = dumps(plain(record), indent=1, ensure_ascii=False) + "\n"
        elif path.suffix.lower() == ".md":
            text = page(Path(os.path.relpath(drawings[0], path.parent)).as_posix() if drawings else "")
        else:
            continue
        with replacing(path, overwrite=True) as partial:
            partial.write_text(text, encoding="utf-8")


def print_table(
    headings: Sequence[str], lines: Sequence[Sequence[str]], *, title: str | None = None, width: int = 150
) -> None:
    """Print a table on at least `width` columns, however narrow the terminal: folded figures cannot be read.

    A line of which all but the first cell are empty is a heading.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*map(Text, line), style=None if any(line[1:]) else "bold")
    Console(width=max(output.width, width), highlight=False).print(table)


def versions() -> dict[str, str]:
    """Return what a report says of the software: this package, and the networks in use."""
    from semdrivers import __version__
    from semfocus_plugin import networks

    cards = ", ".join(f"{card.name} {card.sha256[:8]}" for card in networks.read_manifest())
    return {"semdrivers": __version__, "networks": cards}
