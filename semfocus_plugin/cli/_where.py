"""The options that say where a run looks, for every command that focuses."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from semdrivers.errors import InvalidParameterError

FocusRegion = Annotated[
    str | None,
    typer.Option(
        help="x0,y0,x1,y1: part of the frame to focus on, as shares of its width and height from the upper left corner."
    ),
]
"""The option `--focus-region`."""
FocusOffset = Annotated[
    str | None,
    typer.Option(help="dx,dy in mm: focus beside the target, to spare it; the stage goes back."),
]
"""The option `--focus-offset`."""
MoveToContrast = Annotated[
    bool,
    typer.Option("--move-to-contrast", help="Where no focus can be stood by, try around; the stage goes back."),
]
"""The option `--move-to-contrast`."""
ContrastRadius = Annotated[float, typer.Option(help="Furthest from the target that is tried, mm.")]
"""The option `--contrast-radius`."""


def numbers(name: str, text: str | None, count: int) -> Any:
    """Return the numbers of an option, separated by commas; None where it is not given."""
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise InvalidParameterError(f"{name} must be {count} numbers such as 0,0,1.5,1, not {text!r}")
    return values
