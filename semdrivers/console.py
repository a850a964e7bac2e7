"""What the command lines share: one look, one way to fail, one way to print JSON, one log.

Exit codes: 0 done, 1 a fault, 2 wrong usage (an option or a value that cannot be, a file or folder that the whole
command needs and that is not there), 3 refused (autofocus found no focus that it can stand by), 4 no link to the
instrument, 130 interrupted. Where a command takes any number of files, one that is not there or damaged is a fault: the
others are done. An error is one message on stderr; with ``--json`` it is a JSON object on stdout too. Nothing but the
answer itself goes to stdout.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from semdrivers.data_bar import checked_bar_rows
from semdrivers.errors import (
    ExistingFileError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    SemDriversError,
    TransportError,
)
from semdrivers.files import plain
from semdrivers.focus import FrameSkippedError, NotFocusedError

__all__ = [
    "FAULT", "INTERRUPTED", "NO_LINK", "REFUSED", "WRONG_USAGE", "BarRowsOption", "CommandGroup", "Json", "Overwrite",
    "Url", "application", "end_batch", "exit_code_of", "fail", "messages", "output", "print_json", "printable",
    "problem_of",
]  # fmt: skip

FAULT = 1
"""Exit code of whatever went wrong and has no code of its own."""
WRONG_USAGE = 2
"""Exit code of an option or a value that cannot be, a file that is kept included."""
REFUSED = 3
"""Exit code when autofocus found no focus that it can stand by."""
NO_LINK = 4
"""Exit code when the instrument cannot be reached, or the link to it was lost."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

Url = Annotated[
    str, typer.Argument(help="Address of the microscope, such as em30://192.168.1.30 or 'emulator://tin-balls?seed=1'.")
]
"""The argument of every command that opens a microscope."""
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
"""The option `--json`."""
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist; they are kept by default.")]
"""The option `--overwrite`."""


def _bar_rows(text: str) -> Any:
    try:
        return checked_bar_rows("--bar-rows", text)
    except InvalidParameterError as error:
        raise typer.BadParameter(str(error)) from error


BarRowsOption = Annotated[
    Any,
    typer.Option(
        parser=_bar_rows,
        metavar="ROWS",
        help="Rows of a data bar at the bottom of each picture, below 0 at the top, such as 20+60 at both; "
        "known or detected by default.",
    ),
]
"""The option `--bar-rows`."""


class _Console(Console):
    """A console that breaks lines on a terminal alone: a pipe or a file gets every line in one piece."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        if self.is_terminal or self._width is not None:
            return super().size
        return ConsoleDimensions(_UNBROKEN, 25)

    @size.setter
    def size(self, value: tuple[int, int]) -> None:
        self._width, self._height = value

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; the cells of a table are filled up with blanks on a terminal alone."""
        if self.is_terminal or not any(isinstance(each, Table) for each in objects):
            return super().print(*objects, **options)
        with self.capture() as printed:
            super().print(*objects, **options)
        self.file.write(re.sub(r" +(?=\n)", "", printed.get()))
        self.file.flush()
        return None

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text to print; control characters, as the names of files may hold, are shown and not obeyed."""
        return super().render_str(printable(text), **options)


_UNBROKEN = 2000
"""Columns where no terminal limits them."""

output = _Console(highlight=False)
"""Console of the answers, stdout."""
messages = _Console(stderr=True, highlight=False)
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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the options of the program, which may stand behind the command too."""
        ctx.meta.setdefault(_JSON, "--json" in args)
        return list(super().parse_args(ctx, args if ctx.parent else _program_options_first(args)))

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            messages.print("interrupted")
            _end(ctx, error, "interrupted", INTERRUPTED)
        except BrokenPipeError:
            # The reader (head, less) has gone; what is left in the buffer must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (SemDriversError, OSError) as error:
            message = "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
            if not isinstance(error, SemDriversError) and error.filename and error.strerror:
                message = f"{error.filename}: {error.strerror}"
            fail(message)
            _end(ctx, error, message, exit_code_of(error))
        except Exception as error:
            # An error of the command line itself, which its parser prints.
            if ctx.meta.get(_JSON) and hasattr(error, "format_message"):
                _print_error(error, error.format_message(), WRONG_USAGE)
            raise


_JSON = "semdrivers.json"
"""Key of a context's ``meta``: whether the answer is for a program."""


def _end(ctx: Any, error: BaseException, message: str, code: int) -> NoReturn:
    """Leave with the exit code of an error, which was printed for a person."""
    if ctx.meta.get(_JSON):
        _print_error(error, message, code)
    raise typer.Exit(code) from None


def _print_error(error: BaseException, message: str, code: int) -> None:
    print_json({"error": {"type": type(error).__name__, "message": message, "exit_code": code}}, one_line=True)


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, InvalidParameterError | OutOfRangeError | ExistingFileError):
        return WRONG_USAGE
    if isinstance(error, NotConnectedError | TransportError | ConnectionError):
        return NO_LINK
    return REFUSED if isinstance(error, NotFocusedError | FrameSkippedError) else FAULT


def _program_options_first(args: list[str]) -> list[str]:
    """Return the arguments with ``-v`` and ``--log-file`` before the command, wherever they stood."""
    first: list[str] = []
    rest: list[str] = []
    following = iter(args)
    for arg in following:
        if arg == "--":
            rest += [arg, *following]
        elif arg in ("-v", "-vv", "--verbose") or arg.startswith("--log-file="):
            first.append(arg)
        elif arg == "--log-file":
            first += [arg, *(value for value in (next(following, None),) if value is not None)]
        else:
            rest.append(arg)
    return first + rest


_EXIT_CODES = "Exit codes: 0 done, 1 a fault, 2 wrong usage, 3 refused, 4 no link, 130 interrupted."


def application(name: str, help: str, cls: type[CommandGroup] = CommandGroup) -> typer.Typer:
    """Return a command line named `name`, to which ``@app.command()`` adds commands."""
    app = typer.Typer(
        name=name,
        help=help,
        cls=cls,
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode="rich",
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=_EXIT_CODES,
    )

    @app.callback()
    def options(
        context: typer.Context,
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
        verbose: Annotated[
            int, typer.Option("--verbose", "-v", count=True, help="Print the log on stderr; -vv for all of it.")
        ] = 0,
        log_file: Annotated[
            Path | None, typer.Option(help="Append the log to this file: connections, focus, files, recoveries.")
        ] = None,
    ) -> None:
        """Take the options of the program."""
        if verbose or log_file is not None:
            context.with_resource(_logged(verbose, log_file))

    return app


class _MessagesHandler(logging.Handler):
    """Prints a log among the messages, without harm to a table that grows there."""

    def emit(self, record: logging.LogRecord) -> None:
        messages.print(self.format(record), markup=False, soft_wrap=True)


@contextmanager
def _logged(verbose: int, log_file: Path | None) -> Iterator[None]:
    """Write the log of the product while a command runs."""
    handlers: list[logging.Handler] = [_MessagesHandler()] if verbose else []
    if log_file is not None:
        if not log_file.absolute().parent.is_dir():
            raise InvalidParameterError(f"--log-file {log_file}: there is no folder {log_file.parent}")
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    loggers = [logging.getLogger(name) for name in ("semdrivers", "semfocus_plugin")]
    levels = [logger.level for logger in loggers]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for logger in loggers:
        logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()


def _print_version(asked: bool) -> None:
    if asked:
        from semdrivers import __version__

        output.print(__version__)
        raise typer.Exit


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def printable(text: str) -> str:
    """Return a text in which control characters, but the end of a line and a tabulator, are spelt out."""
    return text.translate(_CONTROL)


def fail(message: str) -> None:
    """Print an error to stderr: what a user reads before an exit code other than 0."""
    messages.print("[bold red]error:[/bold red]", end=" ")
    messages.print(message, markup=False, soft_wrap=True)


def end_batch(problems: Sequence[str]) -> None:
    """Print the problems of a batch, whose other items are done, and leave as after a fault if there are any.

    A file of a list is such an item, one that is not there included.
    """
    for problem in problems:
        fail(problem)
    if problems:
        raise typer.Exit(FAULT)


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
    text = text.translate({code: f"\\u{code:04x}" for code in range(127, 160)})
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain(value), indent=indent, ensure_ascii=True, allow_nan=False)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
