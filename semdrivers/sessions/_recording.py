"""`Recorder`: a microscope of any make that keeps everything asked of it, and everything it answered, in a folder.

`SessionFolder` is that folder. It holds ``session.jsonl``, one JSON object a line, and the frames as OME-TIFF.
``replay:///folder`` opens it as a microscope, so that what was seen on an instrument can be seen again without one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from semdrivers.base import WrappedMicroscope, ends_with_fork
from semdrivers.errors import InvalidParameterError
from semdrivers.files import naming, plain
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities

FORMAT, VERSION = "semdrivers.session", 1
SESSION = "session.jsonl"
"""Name of the file in a session folder that holds everything but the frames."""


def free_folder(folder: str | Path) -> Path:
    """Return the path of a folder that does not exist yet or is empty; raises InvalidParameterError otherwise."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidParameterError(f"{folder}: is in use already; a recording needs a new or empty folder")
    return path


class SessionFolder:
    """A session on its way to the disk. Every line is there before the caller goes on. Thread safe.

    Parameters
    ----------
    folder : str or Path
        Made here; must not exist, or be empty.
    microscope : str
        What is recorded, for people.
    capabilities : Capabilities
        Limits and modes of the microscope.
    offers : list of str
        Which of `semdrivers.base.PROPERTIES` and `METHODS` it has.

    Raises
    ------
    InvalidParameterError
        When the folder is in use.
    OSError
        When it cannot be written.
    """

    def __init__(self, folder: str | Path, microscope: str, capabilities: Capabilities, offers: list[str]) -> None:
        self.path = free_folder(folder)
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._frames = self._lines = 0
        self.path.mkdir(parents=True, exist_ok=True)
        self._file = (self.path / SESSION).open("w", encoding="utf-8")
        about = {"microscope": microscope, "capabilities": plain(capabilities), "offers": offers}
        self.write({"format": FORMAT, "version": VERSION, "time": time.time(), **about})

    def now(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._start

    def save(self, image: Image) -> str:
        """Write a frame and return the name of its file."""
        with self._lock:
            self._frames += 1
            name = f"frame-{self._frames:06d}.ome.tif"
        image.save(self.path / name)
        return name

    def write(self, entry: dict[str, Any]) -> None:
        """Write a line; after `close`, nothing."""
        with self._lock, naming(self.path / SESSION):
            if not self._file.closed:
                self._file.write(json.dumps(entry) + "\n")
                self._file.flush()
                self._lines += 1

    def close(self) -> None:
        """End the session. A second call does nothing."""
        with self._lock, naming(self.path / SESSION):
            self._file.close()

    def discard(self) -> None:
        """Close, and take the folder away again if nothing but the head has been written."""
        self.close()
        if [path.name for path in self.path.iterdir()] == [SESSION] and self._lines == 1:
            (self.path / SESSION).unlink()
            self.path.rmdir()


class Recorder(WrappedMicroscope):
    """A microscope that passes everything on to another, and records it.

    Parameters
    ----------
    microscope : Microscope
        Open; `close` closes it too.
    folder : str or Path
        Made by the recorder; must not exist, or be empty.

    Raises
    ------
    InvalidParameterError
        When `microscope` is none, or the folder is in use.
    OSError
        When the folder cannot be written. Nothing has been asked of the microscope but its capabilities.
    """

    folder: Path

    def __init__(self, microscope: Any, folder: str | Path) -> None:
        try:
            super().__init__(microscope)
        except InvalidParameterError as error:
            raise InvalidParameterError(f"it cannot be recorded: {error}") from None
        self.folder = free_folder(folder)
        self._lock, self._closing = threading.RLock(), threading.RLock()
        self._closed = False
        ends_with_fork(self)
        self._session = SessionFolder(folder, type(microscope).__name__, microscope.capabilities, list(self.offers))

    @property
    def capabilities(self) -> Capabilities:
        """Those of the microscope; reading them is not recorded."""
        capabilities: Capabilities = self._microscope.capabilities
        return capabilities

    def close(self) -> None:
        """Close the microscope and the recording. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        try:
            self._call("close")
        finally:
            self._session.close()

    def __repr__(self) -> str:
        return f"<Recorder of {self._microscope!r} in {self.folder}>"

    def _read(self, name: str) -> Any:
        return self._note("get", name, [], lambda: super(Recorder, self)._read(name))

    def _write(self, name: str, value: Any) -> None:
        self._note("set", name, [value], lambda: super(Recorder, self)._write(name, value))

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._note("call", name, list(arguments), lambda: super(Recorder, self)._call(name, *arguments))

    def _note(self, kind: str, name: str, arguments: list[Any], act: Callable[[], Any]) -> Any:
        """Carry out an operation and record its outcome, an exception or interrupt included; frames are saved.

        One at a time, but for what waits for no frame.
        """
        waits_for_none = kind == "get" or name == "close" or (name == "beam_on" and arguments == [False])
        with nullcontext() if waits_for_none else self._lock:
            entry: dict[str, Any] = {"kind": kind, "name": name, "arguments": written(arguments)}
            entry["begin"] = self._session.now()
            try:
                result = act()
            except BaseException as error:
                failure = {"error": type(error).__name__, "message": str(error)}
                self._session.write({**entry, **failure, "end": self._session.now()})
                raise
            outcome = {"frame": self._session.save(result)} if name == "acquire" else {"result": plain(result)}
            self._session.write({**entry, **outcome, "end": self._session.now()})
            return result


def written(arguments: list[Any]) -> str:
    """Return arguments as they are written down and compared: equal when the text is."""
    return ", ".join(f"ScanMode.{item}" if isinstance(item, ScanMode) else repr(_number(item)) for item in arguments)


def _number(value: Any) -> Any:
    """Return numpy's numbers as Python's, and whole floats and integers alike."""
    if hasattr(value, "item") and not getattr(value, "shape", None):
        value = value.item()
    if isinstance(value, tuple | list):
        return [_number(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
