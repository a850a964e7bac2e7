"""Options that several commands have: by what a run focuses, where it looks, and who hears of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from semdrivers.errors import InvalidParameterError
from semdrivers.notify import Webhook, notify

MethodName = Annotated[
    str | None, typer.Option(help="Autofocus method; `semfocus models` lists them, the default first.")
]
"""The option `--method`."""
MaxFrames = Annotated[
    int | None, typer.Option(help="Most frames of a run, everything included; the method's own limit by default.")
]
"""The option `--max-frames`."""
Bounds = Annotated[
    tuple[float, float] | None,
    typer.Option(help="Lowest and highest working distance allowed, mm; the instrument's by default."),
]
"""The option `--bounds`."""
FocusRegion = Annotated[
    str | None,
    typer.Option(
        help="x0,y0,x1,y1: part of the frame to focus on, as shares of its width and height; all of it by default."
    ),
]
"""The option `--focus-region`."""
FocusOffset = Annotated[
    str | None, typer.Option(help="dx,dy in mm: focus beside the target and come back; at the target by default.")
]
"""The option `--focus-offset`."""
MoveToContrast = Annotated[
    bool, typer.Option("--move-to-contrast", help="Where no focus can be stood by, try around; the stage goes back.")
]
"""The option `--move-to-contrast`."""
ContrastRadius = Annotated[float, typer.Option(help="Furthest from the target that is tried, mm.")]
"""The option `--contrast-radius`."""
CorrectDrift = Annotated[
    bool, typer.Option("--correct-drift", help="Have the field follow the sample, as far as its drift is measured.")
]
"""The option `--correct-drift`."""
WebhookUrl = Annotated[
    str | None, typer.Option(help="http(s) address to which a failed focus and the end are posted; none by default.")
]
"""The option `--webhook`."""


@contextmanager
def listening(url: str | None) -> Iterator[Webhook | None]:
    """Have a `Webhook` for the block, None without an address; an error is an event, and all are sent at the end."""
    webhook = None if url is None else Webhook(url)
    try:
        yield webhook
    except BaseException as error:
        notify(webhook, "failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        if webhook is not None:
            webhook.close()


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
