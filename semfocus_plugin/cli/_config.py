"""The command that shows what is configured, and where."""

from __future__ import annotations

import os
from typing import Any

from rich.markup import escape
from rich.table import Table

from semdrivers import instruments
from semdrivers.console import Json, application, output, print_json
from semdrivers.remote import TOKEN_VARIABLE

_VARIABLES = {
    "SEMDRIVERS_PLUGINS": "plugins that are allowed",
    "SEMDRIVERS_SETTINGS": "folder of the settings",
    "SEMDRIVERS_TRACE": "every call of a hook goes to stderr",
    "SEMFOCUS_CALIBRATION": "calibration file, or folder of them",
    "SEMFOCUS_LEARNING": "off, or folder of the apertures that runs measured",
    "SEMFOCUS_MODELS": "folder of the networks",
    "SEMFOCUS_DATA": "folder of real micrographs",
    TOKEN_VARIABLE: "token of a shared instrument",
}

config = application("config", "Show what is configured, and where.")


@config.command()
def show(json: Json = False) -> None:
    """Print named instruments with their limits, calibrations, learned apertures, networks, and variables that are set.

    Example: semfocus config show
    """
    from semfocus_plugin import calibration, networks

    folder = instruments.settings_folder()
    calibrations = calibration.kept_files()
    learning = calibration.apertures_in_use()
    learned = [] if learning is None else sorted(learning.folder.glob("*.json"))
    named = instruments.read_instruments()
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    if variables[TOKEN_VARIABLE]:
        variables[TOKEN_VARIABLE] = "set"  # a secret is in no log
    models = [card.path for card in networks.read_manifest()]
    if json:
        print_json(
            {
                "settings": folder,
                "instruments": named,
                "calibrations": calibrations,
                "learned_apertures": learned,
                "models": models,
                "variables": variables,
            }
        )
        return
    rows: list[tuple[str, Any]] = [("settings", folder)]
    rows += [(f"instrument {name}", instrument.describe()) for name, instrument in named.items()]
    rows += [("calibration", path) for path in calibrations]
    rows += [("learned aperture", path) for path in learned]
    rows += [("network", path) for path in models]
    rows += [(name, f"{value} ({_VARIABLES[name]})") for name, value in variables.items() if value]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(escape(name), escape(str(value)))
    output.print(table)
