"""What a replay and a focal series share: the folder they come from, and the life of a microscope that is one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import unquote

from semdrivers.autofocus import autofocus
from semdrivers.errors import InvalidParameterError, NotConnectedError
from semdrivers.focus import AutofocusResult
from semdrivers.microscope import Microscope
from semdrivers.url import path_of, split_url


def folder_of(url: str, options: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the options of a URL such as ``replay:///home/ada/session``."""
    text, given = split_url(url)
    if not text:
        raise InvalidParameterError(f"{url} names no folder; write {url.partition(':')[0]}:///path/to/folder")
    return path_of(text), {**{name: unquote(value) for name, value in given.items()}, **options}


class Recorded:
    """A microscope made of files. After `close` every member of it raises `NotConnectedError`.

    Parameters
    ----------
    folder : str or Path
        Of the files.
    title : str
        What it is, for messages, such as ``"replay of"``.
    """

    def __init__(self, folder: str | Path, title: str) -> None:
        self.folder = Path(folder)
        self._title = title
        self._lock = threading.RLock()
        self._closed = False

    def autofocus(self, **settings: Any) -> AutofocusResult:
        """Focus; the same as ``semdrivers.autofocus(microscope, **settings)``."""
        self._check_open()
        return autofocus(cast(Microscope, self), **settings)

    def close(self) -> None:
        """Give it back. A second call does nothing."""
        self._closed = True

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnectedError(f"the {self._title} {self.folder} is closed; connect again")
