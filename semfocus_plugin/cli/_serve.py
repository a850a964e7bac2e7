"""The command that shares a microscope over HTTP."""

from __future__ import annotations

import signal
import threading
import webbrowser
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from semdrivers.console import Json, Url, messages, output, print_json
from semdrivers.errors import InvalidParameterError
from semdrivers.remote import LEAST_TOKEN, PORT, TOKEN_VARIABLE, read_token
from semfocus_plugin.cli._shortcut import write_shortcut

Port = Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 for any that is free.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help=f"File whose first line is the token that clients must send; {TOKEN_VARIABLE} by default."),
]
Expose = Annotated[
    bool, typer.Option("--expose", help="Let other computers connect, not this one alone; needs a token.")
]
Tiles = Annotated[
    Path | None, typer.Option(help="Folder of a `semfocus tile` that the page shows as it grows; none by default.")
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Sheet of `semfocus label` (.csv) to label in from the page, every label at once; none by default."
    ),
]
_ENDS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Signals that end the server in order: Ctrl-C, a request to terminate, and a window that is closed."""


def serve(
    url: Url,
    port: Port = PORT,
    token_file: TokenFile = None,
    expose: Expose = False,
    tiles: Tiles = None,
    labels: Labels = None,
    json: Json = False,
) -> None:
    """Share a microscope over HTTP: one client controls it, others watch. Ctrl-C ends it, and puts back a run.

    Programs use the interface that /api/openapi.json describes, or semdrivers.connect("semfocus+http://HOST:PORT").

    Example: semfocus serve em30://192.168.1.30
    """
    run_server(url, port, token_file, expose, tiles, labels, json)


def view(
    url: Url,
    port: Port = PORT,
    token_file: TokenFile = None,
    expose: Expose = False,
    tiles: Tiles = None,
    labels: Labels = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Open no browser; print the page's address.")
    ] = False,
    shortcut: Annotated[
        Path | None,
        typer.Option(
            help="Write a file to double-click that does all this (.desktop, on Windows .cmd), and end; not by default."
        ),
    ] = None,
) -> None:
    """Share a microscope, and open its live page: picture, focus curve, buttons. Ctrl-C ends it, and puts back a run.

    Example: semfocus view 'emulator://tin-balls?seed=1&magnification=2000'
    """
    if shortcut is not None:
        files = {"--token-file": token_file, "--tiles": tiles, "--labels": labels}
        named = [word for name, path in files.items() if path is not None for word in (name, str(path.absolute()))]
        flags = [name for name, given in (("--expose", expose), ("--no-browser", no_browser)) if given]
        written = write_shortcut(shortcut, ["view", url, "--port", str(port), *named, *flags])
        output.print(f"{written} opens the page", markup=False, soft_wrap=True)
        return
    run_server(url, port, token_file, expose, tiles, labels, browser=not no_browser)


def run_server(
    url: str,
    port: int,
    token_file: Path | None,
    expose: bool,
    tiles: Path | None,
    labels: Path | None,
    json: bool = False,
    browser: bool = False,
) -> None:
    """Share a microscope until Ctrl-C or another signal of `_ENDS`."""
    from semfocus_plugin.server import LOOPBACK, sharing

    token = read_token(token_file)
    if expose and token is None:
        raise InvalidParameterError(
            f"--expose needs a token of at least {LEAST_TOKEN} characters: write one into a file for --token-file, or "
            f"into the environment variable {TOKEN_VARIABLE}"
        )
    if labels is not None and not labels.is_file():
        raise InvalidParameterError(f"--labels {labels}: there is no such file; `semfocus label FOLDER` writes a sheet")
    over = threading.Event()
    host = "0.0.0.0" if expose else LOOPBACK
    with sharing(url, host=host, port=port, token=token, tiles=tiles, labels=labels) as shared:
        for name in _ENDS:
            if (number := getattr(signal, name, None)) is not None:
                signal.signal(number, lambda *_: over.set())
        if json:
            print_json(
                {"page": shared.page, "url": shared.url, "exposed": expose, "token": token is not None}, one_line=True
            )
        else:
            output.print(
                f"{shared.desk.capabilities.model or url} at {shared.page}, for programs {shared.url}", markup=False
            )
        if expose:
            messages.print(
                f"[bold red]EXPOSED:[/bold red] everybody who reaches port {shared.port} of this computer and has the "
                "token can move the lens and the stage and switch the beam; what is sent is not encrypted. Ctrl-C ends "
                "it.",
                soft_wrap=True,
            )
        if browser:
            fragment = f"#token={quote(token)}" if token else ""  # a fragment is sent to no server, and is in no log
            webbrowser.open(shared.page + fragment)
        while not over.wait(0.5):
            pass
    messages.print("the server has ended; the link to the instrument is closed")
