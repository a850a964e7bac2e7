"""What a replay and a focal series share: the life of a microscope that is a folder."""

from __future__ import annotations

import threading
from pathlib import Path

from semdrivers.base import MicroscopeBase
from semdrivers.errors import NotConnectedError


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
