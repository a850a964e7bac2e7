"""The command that shows what is configured, and where."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from semdrivers import instruments
from semdrivers.console import application, output, print_json

_VARIABLES = {
    "SEMDRIVERS_PLUGINS": "plugins that are allowed",
    "SEMDRIVERS_SETTINGS": "folder of the settings",
    "SEMFOCUS_CALIBRATION": "calibration file, or folder of them",
    "SEMFOCUS_MODELS": "folder of the networks",
    "SEMFOCUS_DATA": "folder of real micrographs",
}

config = application("config", "Show what is configured, and where.")


@config.command()
def show(json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False) -> None:
    """Print named instruments with their limits, calibrations, networks, and the variables that are set.

    Example: semfocus config show
    """
    from semfocus_plugin import networks

    folder = instruments.settings_folder()
    calibrations = sorted((folder / "calibration").glob("*.json")) if folder.is_dir() else []
    named = instruments.read_instruments()
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    models = [card.path for card in networks.read_manifest()]
    if json:
        print_json(
            {
                "settings": folder,
                "instruments": named,
                "calibrations": calibrations,
                "models": models,
                "variables": variables,
            }
        )
        return
    rows: list[tuple[str, Any]] = [("settings", folder)]
    rows += [(f"instrument {name}", instrument.describe()) for name, instrument in named.items()]
    rows += [("calibration", path) for path in calibrations]
    rows += [("network", path) for path in models]
    rows += [(name, f"{value} ({_VARIABLES[name]})") for name, value in variables.items() if value]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(escape(name), escape(str(value)))
    output.print(table)
