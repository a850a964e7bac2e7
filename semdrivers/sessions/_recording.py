"""`Recorder`: a microscope of any make that keeps everything asked of it, and everything it answered, in a folder.

`SessionFolder` is that folder. It holds ``session.jsonl``, one JSON object a line, and the frames as OME-TIFF.
``replay:///folder`` opens it as a microscope, so that what was seen on an instrument can be seen
again without one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from semdrivers.autofocus import autofocus
from semdrivers.errors import InvalidParameterError
from semdrivers.files import plain
from semdrivers.focus import AutofocusResult
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities, missing_members

FORMAT, VERSION = "semdrivers.session", 1
SESSION = "session.jsonl"
PROPERTIES = (
    "stage_position",
    "stage_orientation",
    "stigmator",
    "brightness",
    "contrast",
    "beam_on",
    "vacuum",
    "focus_record",
)
"""Members beyond the five that are read, and set where they can be."""
METHODS = ("move_stage", "orient_stage", "pump", "vent")
"""Members beyond the five that are called."""


def free_folder(folder: str | Path) -> Path:
    """Return the path of a folder that a session can be written to: it does not exist yet, or is empty.

    Raises
    ------
    InvalidParameterError
        When it is in use.
    """
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
        Of the microscope.
    offers : list of str
        Which of `PROPERTIES` and `METHODS` it has.

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
        self.write(
            {
                "format": FORMAT,
                "version": VERSION,
                "time": time.time(),
                "microscope": microscope,
                "capabilities": plain(capabilities),
                "offers": offers,
            }
        )

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
        with self._lock:
            if not self._file.closed:
                self._file.write(json.dumps(entry) + "\n")
                self._file.flush()
                self._lines += 1

    def close(self) -> None:
        """End the session. A second call does nothing."""
        with self._lock:
            self._file.close()

    def discard(self) -> None:
        """Close, and take the folder away again if nothing but the head has been written."""
        self.close()
        if [path.name for path in self.path.iterdir()] == [SESSION] and self._lines == 1:
            (self.path / SESSION).unlink()
            self.path.rmdir()


class Recorder:
    """A microscope that passes everything on to another, and records it.

    It offers what the other offers: the five members of `Microscope`, and those of stage, stigmator, detector, beam,
    vacuum and focus record that the other has.

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

    def __new__(cls, microscope: Any, folder: str | Path) -> Self:
        """Make a class that has the members that the microscope has."""
        offered: dict[str, Any] = {name: _recorded(name) for name in PROPERTIES if _has(microscope, name)}
        offered |= {name: _called(name) for name in METHODS if _has(microscope, name)}
        return super().__new__(type(cls.__name__, (cls,), offered))

    def __init__(self, microscope: Any, folder: str | Path) -> None:
        missing = missing_members(microscope)
        if missing:
            raise InvalidParameterError(
                f"a {type(microscope).__name__} cannot be recorded: it is no microscope, it lacks {', '.join(missing)}"
            )
        self.folder = free_folder(folder)
        self._microscope = microscope
        self._lock = threading.RLock()
        self._closed = False
        offers = [name for name in (*PROPERTIES, *METHODS) if name in vars(type(self))]
        self._session = SessionFolder(folder, type(microscope).__name__, microscope.capabilities, offers)

    @property
    def capabilities(self) -> Capabilities:
        """Those of the microscope."""
        capabilities: Capabilities = self._microscope.capabilities
        return capabilities

    @property
    def working_distance(self) -> float:
        """Working distance in mm."""
        return float(self._get("working_distance"))

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._set("working_distance", value)

    @property
    def magnification(self) -> float:
        """Magnification, a plain number."""
        return float(self._get("magnification"))

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._set("magnification", value)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame; it is saved before it is returned."""
        with self._lock:
            image: Image = self._note("call", "acquire", [mode], lambda: self._microscope.acquire(mode), self._saved)
            return image

    def autofocus(self, **settings: Any) -> AutofocusResult:
        """Focus, and record every step of it; the same as ``semdrivers.autofocus(recorder, **settings)``."""
        return autofocus(self, **settings)

    def close(self) -> None:
        """Close the microscope and the recording. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._note("call", "close", [], self._microscope.close)
            finally:
                self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Recorder of {self._microscope!r} in {self.folder}>"

    def _get(self, name: str) -> Any:
        with self._lock:
            return self._note("get", name, [], lambda: getattr(self._microscope, name))

    def _set(self, name: str, value: object) -> None:
        with self._lock:
            self._note("set", name, [value], lambda: setattr(self._microscope, name, value))

    def _call(self, name: str, *arguments: object) -> Any:
        with self._lock:
            return self._note("call", name, list(arguments), lambda: getattr(self._microscope, name)(*arguments))

    def _note(
        self,
        kind: str,
        name: str,
        arguments: list[Any],
        act: Callable[[], Any],
        told: Callable[[Any], dict[str, Any]] | None = None,
    ) -> Any:
        """Do something and write down what came of it, a failure too; an interrupt is one."""
        entry: dict[str, Any] = {"kind": kind, "name": name, "arguments": written(arguments)}
        entry["begin"] = self._session.now()
        try:
            result = act()
        except BaseException as error:
            failure = {"error": type(error).__name__, "message": str(error)}
            self._session.write({**entry, **failure, "end": self._session.now()})
            raise
        extra = told(result) if told is not None else {"result": plain(result)}
        self._session.write({**entry, **extra, "end": self._session.now()})
        return result

    def _saved(self, image: Image) -> dict[str, Any]:
        return {"frame": self._session.save(image)}


def written(arguments: list[Any]) -> str:
    """Return arguments as they are written down and compared: equal when the text is."""
    return ", ".join(str(item) if isinstance(item, ScanMode) else repr(_number(item)) for item in arguments)


def _number(value: Any) -> Any:
    """Return numpy's numbers as Python's, and whole floats and integers alike."""
    if hasattr(value, "item") and not getattr(value, "shape", None):
        value = value.item()
    if isinstance(value, tuple | list):
        return [_number(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _has(microscope: object, name: str) -> bool:
    """Look at the class first: reading a property would talk to the instrument."""
    return hasattr(type(microscope), name) or hasattr(microscope, name)


def _recorded(name: str) -> property:
    return property(lambda self: self._get(name), lambda self, value: self._set(name, value))


def _called(name: str) -> Callable[..., Any]:
    def call(self: Recorder, *arguments: object) -> Any:
        return self._call(name, *arguments)

    call.__name__ = name
    return call
