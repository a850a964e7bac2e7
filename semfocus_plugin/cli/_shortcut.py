"""A file to double-click that opens the live page: a desktop entry, or a batch file for Windows."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from semdrivers.errors import InvalidParameterError
from semdrivers.files import replacing


def write_shortcut(path: Path, arguments: Sequence[str]) -> Path:
    """Write a shortcut to `semfocus` with its arguments, which starts in the present folder.

    Parameters
    ----------
    path : Path
        ``.desktop`` (as the Desktop Entry Specification 1.5 of freedesktop.org describes) or ``.cmd``.
    arguments : sequence of str
        Of the command line.

    Raises
    ------
    InvalidParameterError
        For another ending, an argument that such a file cannot hold, or where the command is not installed.
    ExistingFileError
        When there is such a file.
    """
    kinds = {".desktop": _desktop, ".cmd": _batch}
    if path.suffix.lower() not in kinds:
        raise InvalidParameterError(f"--shortcut {path}: the name must end in .desktop, or on Windows in .cmd")
    beside = str(Path(sys.executable).parent)
    command = shutil.which("semfocus", path=beside) or shutil.which("semfocus")
    if command is None:
        raise InvalidParameterError("--shortcut: the command semfocus is not installed; pip install it first")
    words = [command, *arguments]
    odd = next((word for word in (*words, str(Path.cwd())) if not word.isprintable()), None)
    if odd is not None:
        raise InvalidParameterError(f"--shortcut: a shortcut cannot hold {odd!r}")
    text = kinds[path.suffix.lower()](path.stem, words)
    with replacing(path) as partial:
        partial.write_bytes(text.encode())
        if path.suffix.lower() == ".desktop":
            partial.chmod(0o755)  # desktops start no other
    return path


def _desktop(name: str, words: Sequence[str]) -> str:
    quoted = " ".join('"' + re.sub(r'(["`$\\])', r"\\\1", word).replace("%", "%%") + '"' for word in words)
    values = {
        "Type": "Application",
        "Version": "1.5",
        "Name": name,
        "Comment": "Live page of a microscope",
        "Exec": quoted,
        "Path": str(Path.cwd()),
        "Terminal": "true",
        "Categories": "Science;",
    }
    lines = [f"{key}={value.replace(chr(92), chr(92) * 2)}" for key, value in values.items()]
    return "\n".join(["[Desktop Entry]", *lines, ""])


def _batch(_: str, words: Sequence[str]) -> str:
    if any('"' in word for word in words):
        raise InvalidParameterError("--shortcut: a .cmd file cannot hold a quotation mark in an argument")
    quoted = " ".join(f'"{word}"' for word in words).replace("%", "%%")
    folder = str(Path.cwd()).replace("%", "%%")
    return "\r\n".join(["@echo off", "chcp 65001 >nul", f'cd /d "{folder}"', quoted, "pause", ""])
