"""What the command lines share: one look, one way to fail, one way to print JSON.

A `SemDriversError` or an `OSError` becomes one clear message on stderr and exit code 1; a wrong option exit
code 2 with a usage line; Ctrl-C exit code 130. Nothing but the answer itself goes to stdout.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from semdrivers.errors import SemDriversError
from semdrivers.files import plain

__all__ = ["INTERRUPTED", "CommandGroup", "application", "fail", "messages", "output", "print_json"]

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

output = Console(highlight=False)
"""Console of the answers, stdout."""
messages = Console(stderr=True, highlight=False)
"""Console of messages, errors and progress, stderr."""


_SPELT = "semdrivers.spelt"
_SPELLINGS = {
    "×": "x",
    "µ": "u",
    "\u03bc": "u",
    "→": "->",
    "°": " deg",
    "…": "...",
    "\u2013": "-",
    "\u2212": "-",
    "±": "+/-",
}


def _spelt(error: UnicodeError) -> tuple[str, int]:
    """Spell characters that a stream cannot encode, for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    text = "".join(_SPELLINGS.get(char) or char.encode("ascii", "backslashreplace").decode("ascii") for char in part)
    return text, error.end


codecs.register_error(_SPELT, _spelt)


class CommandGroup(TyperGroup):
    """Commands whose errors end in one message and an exit code, never in a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse the arguments and run, whatever characters the terminal can show."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_SPELT)
        return super().main(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            messages.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has gone; what is left in the buffer must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except SemDriversError as error:
            fail(str(error) or type(error).__name__)
            raise typer.Exit(1) from None
        except OSError as error:
            fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
            raise typer.Exit(1) from None


def application(name: str, help: str, cls: type[CommandGroup] = CommandGroup) -> typer.Typer:
    """Return a command line named `name`, to which ``@app.command()`` adds commands."""
    app = typer.Typer(
        name=name,
        help=help,
        cls=cls,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None:
        """Take the options that stand before a command."""

    return app


def _print_version(asked: bool) -> None:
    if asked:
        from semdrivers import __version__

        output.print(__version__)
        raise typer.Exit


def fail(message: str) -> None:
    """Print an error to stderr: what a user reads before an exit code other than 0."""
    messages.print("[bold red]error:[/bold red]", end=" ")
    messages.print(message, markup=False, soft_wrap=True)


def problem_of(item: object, error: Exception) -> str:
    """Return one line for an item of a batch that could not be done: its name, and the reason.

    A batch goes on whatever one of its items does, so any exception has a line.
    """
    if isinstance(error, OSError) and error.strerror and not isinstance(error, SemDriversError):
        return f"{item}: {error.strerror}"
    text = str(error) or type(error).__name__
    if not isinstance(error, SemDriversError):
        text = f"{type(error).__name__}: {text}"
    return text if str(item) in text else f"{item}: {text}"


def print_json(value: Any, *, one_line: bool = False) -> None:
    """Print one JSON value to stdout, for programs: dataclasses as objects, NaN and infinity as null.

    Parameters
    ----------
    value : object
        Anything that `plain` takes.
    one_line : bool
        For a program that reads line by line while the command goes on.
    """
    indent = None if one_line else 2
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain(value), indent=indent, ensure_ascii=True, allow_nan=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
