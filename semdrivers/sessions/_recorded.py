"""What a replay and a focal series share: the folder they come from, and the life of a microscope that is one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from semdrivers.base import MicroscopeBase
from semdrivers.connection import split_url
from semdrivers.errors import InvalidParameterError, NotConnectedError


def folder_of(url: str, options: Mapping[str, Any], known: tuple[str, ...], whose: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the options of a URL such as ``replay:///home/ada/session``. See `split_url`."""
    parts, given = split_url(url, options, known, whose)
    text = unquote(parts.netloc + parts.path)
    if text[2:3] == ":" and text[:1] == "/":
        text = text[1:]
    if not text:
        raise InvalidParameterError(f"{url} names no folder; write {parts.scheme}:///path/to/folder")
    return Path(text), given


class Recorded(MicroscopeBase):
    """A microscope made of files, called `title` in messages; once closed, every member raises `NotConnectedError`."""

    folder: Path

    def __init__(self, folder: str | Path, title: str) -> None:
        self.folder = Path(folder)
        self._title = title
        self._lock = threading.RLock()
        self._closed = False

    def close(self) -> None:
        """Give it back. A second call does nothing."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnectedError(f"the {self._title} {self.folder} is closed; connect again")
