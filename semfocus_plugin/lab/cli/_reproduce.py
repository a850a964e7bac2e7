"""What ``semfocus evaluate --table`` and ``--figure`` do: repeat the paper's tables and figures, and write them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import semdrivers
from semdrivers.console import output, print_json
from semdrivers.errors import InvalidParameterError
from semfocus_plugin.cli import progress_bars

if TYPE_CHECKING:
    from semfocus_plugin.lab.benchmark.reproduction import Exhibit, Request

_FORMATS = (".md", ".json", ".png")

_TABLE_WIDTH = 300
"""Columns of the table, however narrow the terminal: a folded table of figures cannot be read."""


def reproduce(table: str | None, figure: str | None, asked: Mapping[str, Any], out: Sequence[Path], json: bool) -> None:
    """Repeat a table or a figure, write it to the files named, and print it.

    Parameters
    ----------
    table, figure : str or None
        One of the two.
    asked : mapping
        Fields of `semfocus_plugin.lab.benchmark.reproduction.Request`; None for the default.
    out : sequence of Path
        ``.md``, ``.json``, ``.png``.
    json : bool
        Print JSON.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        Before anything is measured, for what cannot be asked.
    """
    for path in out:
        if path.suffix.lower() not in _FORMATS:
            raise InvalidParameterError(f"--out {path}: the name must end in {', '.join(_FORMATS)}")
    if table is not None and figure is not None:
        raise InvalidParameterError("ask for --table or --figure, one at a time")
    from semfocus_plugin.lab.benchmark.pictures import folder_in_use
    from semfocus_plugin.lab.benchmark.reproduction import FIGURES, TABLES, Request

    kind, name, known = ("table", table, TABLES) if table is not None else ("figure", figure, FIGURES)
    build = known.get(str(name)) or known.get(str(name).upper())
    if build is None:
        raise InvalidParameterError(f"--{kind} {name}: there are {', '.join(known)}")
    usual = {"workers": os.cpu_count() or 1, "pictures": folder_in_use(asked.get("pictures"))}
    request = Request(**usual | {key: value for key, value in asked.items() if value is not None})
    if request.method is not None:
        semdrivers.get_plugin_manager().check_autofocus_method(request.method)
    with progress_bars() as stage:
        exhibit = build(request, stage)
    conditions = _conditions(request)
    _write(exhibit, conditions, out)
    if json:
        print_json(exhibit.record(conditions))
    else:
        _print(exhibit)


def _conditions(request: Request) -> dict[str, str]:
    from semdrivers import __version__
    from semfocus_plugin import networks
    from semfocus_plugin.lab.benchmark.reproduction import HELD_OUT_SEED

    held_out = ", on which nothing was trained or tuned" if request.seed == HELD_OUT_SEED else ""
    return {
        "semdrivers": __version__,
        "networks": ", ".join(f"{card.name} {card.sha256[:8]}" for card in networks.read_manifest()),
        "emulator": f"preset {request.preset}, seed {request.seed}{held_out}",
    }


def _write(exhibit: Exhibit, conditions: Mapping[str, str], out: Sequence[Path]) -> None:
    drawings = [exhibit.draw(path) for path in out if path.suffix.lower() == ".png"]
    for path in out:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            path.write_text(dumps(exhibit.record(conditions), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        elif path.suffix.lower() == ".md":
            picture = Path(os.path.relpath(drawings[0], path.parent)).as_posix() if drawings else ""
            path.write_text(exhibit.markdown(conditions, picture), encoding="utf-8")


def _print(exhibit: Exhibit) -> None:
    output.print(f"[bold]{exhibit.name}[/bold]: {exhibit.title}")
    if exhibit.lines:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, heading in enumerate(exhibit.headings()):
            table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
        for row in exhibit.rows(spread=False):
            table.add_row(*map(Text, row), style=None if any(row[1:]) else "bold")
        Console(width=max(output.width, _TABLE_WIDTH), highlight=False).print(table)
    for note in exhibit.notes:
        output.print(f"- {note}", markup=False, soft_wrap=True)
