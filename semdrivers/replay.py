"""``replay:///folder``: a recorded session as a microscope.

What was read may be read again as often as one likes. What was set, moved or acquired comes in the order of the
recording, with the answers, the frames and the errors of then; whoever asks for something else is told so.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from semdrivers import errors
from semdrivers.errors import DeviceError, InvalidParameterError, SemDriversError
from semdrivers.io import read_image
from semdrivers.microscope import Capabilities, Image, Range, ScanMode
from semdrivers.plugins import get_plugin_manager
from semdrivers.recorded import Recorded, folder_of
from semdrivers.recording import FORMAT, METHODS, PROPERTIES, SESSION, VERSION, written

_MOVED = {"move_stage": "stage_position", "orient_stage": "stage_orientation"}
"""What reads as the result of a method from then on."""


def connect(url: str, options: Mapping[str, Any]) -> Replay:
    """Open the recording at ``replay:///folder``.

    Raises
    ------
    InvalidParameterError
        When the folder holds no recording, or an option is given.
    """
    folder, given = folder_of(url, options)
    if given:
        raise InvalidParameterError(f"{url}: there is no option {next(iter(given))!r}; a recording takes none")
    return Replay(folder)


class Replay(Recorded):
    """A recorded session. It offers what the recorded microscope offered.

    Parameters
    ----------
    folder : str or Path
        Of a `semdrivers.recording.Recorder`.

    Raises
    ------
    InvalidParameterError
        When it holds no recording, or one that cannot be read.
    """

    def __new__(cls, folder: str | Path) -> Self:
        """Make a class that has the members that were recorded."""
        offers = _read(Path(folder))[0]["offers"]
        members: dict[str, Any] = {name: _property(name) for name in PROPERTIES if name in offers}
        members |= {name: _method(name) for name in METHODS if name in offers}
        return super().__new__(type(cls.__name__, (cls,), members))

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, "replay of")
        header, self._entries = _read(self.folder)
        self._capabilities = _capabilities(self.folder, header["capabilities"])
        self._next = 0
        self._known: dict[str, Any] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Those of the recorded microscope."""
        self._check_open()
        return self._capabilities

    @property
    def working_distance(self) -> float:
        """Working distance in mm, as it was read."""
        return float(self._get("working_distance"))

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._do("set", "working_distance", value)

    @property
    def magnification(self) -> float:
        """Magnification, as it was read."""
        return float(self._get("magnification"))

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._do("set", "magnification", value)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Return the frame that was acquired at this point of the session.

        Raises
        ------
        DeviceError
            When something else was done at this point; the message tells what.
        InvalidParameterError
            When the frame's file is missing or damaged.
        """
        entry = self._do("call", "acquire", mode)
        image = read_image(self.folder / Path(str(entry.get("frame"))).name)
        get_plugin_manager().notify_frame(self, image)
        return image

    def __repr__(self) -> str:
        return f"<Replay of {self.folder}, {self._next} of {len(self._entries)} lines>"

    def _get(self, name: str) -> Any:
        """Return what was read at this point, else what was read or set last, else what will be read first."""
        with self._lock:
            self._check_open()
            ahead = self._next
            while ahead < len(self._entries) and self._entries[ahead]["kind"] == "get":
                entry = self._entries[ahead]
                ahead += 1
                if entry["name"] == name:
                    self._learn(self._next, ahead)
                    self._next = ahead
                    return _outcome(entry)["result"]
            if name in self._known:
                return self._known[name]
            for entry in self._entries[ahead:]:
                if entry["name"] == name and entry["kind"] == "get" and "error" not in entry:
                    return entry["result"]
            raise DeviceError(f"the session in {self.folder} never read {name}")

    def _do(self, kind: str, name: str, *arguments: object) -> dict[str, Any]:
        """Go on to what was done next; it must be this."""
        with self._lock:
            self._check_open()
            ahead = self._next
            while ahead < len(self._entries) and self._entries[ahead]["kind"] == "get":
                ahead += 1
            asked = f"{name}({written(list(arguments))})"
            if ahead == len(self._entries):
                raise DeviceError(f"{self.folder}: the session is over, and {asked} is no part of it")
            entry = self._entries[ahead]
            told = f"{entry['name']}({entry['arguments']})"
            if (kind, name) != (entry["kind"], entry["name"]) or (told != asked and name != "focus_record"):
                raise DeviceError(
                    f"{self.folder}: the session goes on with {told} in line {entry['line']} of {SESSION}, not with "
                    f"{asked}: this program takes another way than the one that was recorded"
                )
            self._learn(self._next, ahead)
            self._next = ahead + 1
            outcome = _outcome(entry)
            if kind == "set":
                self._known[name] = arguments[0]
            elif name in _MOVED:
                self._known[_MOVED[name]] = outcome["result"]
            return outcome

    def _learn(self, begin: int, end: int) -> None:
        for entry in self._entries[begin:end]:
            if "error" not in entry:
                self._known[entry["name"]] = entry["result"]


def _outcome(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry, or raise the error that it tells of."""
    if "error" not in entry:
        return entry
    kind = getattr(errors, entry["error"], None) or getattr(builtins, entry["error"], None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = SemDriversError
    try:
        error = kind(entry["message"])
    except TypeError:
        error = SemDriversError(f"{entry['error']}: {entry['message']}")
    raise error


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return head and entries of a session. A last line that was cut off is no part of it."""
    path = folder / SESSION
    if not path.is_file():
        why = f"it has no {SESSION}" if folder.is_dir() else "there is no such folder"
        raise InvalidParameterError(f"{folder} holds no recorded session: {why}")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    entries = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = json.loads(line)
            if number == 1:
                if (entry["format"], entry["version"]) != (FORMAT, VERSION):
                    raise ValueError(f"{entry['format']} version {entry['version']}, not {FORMAT} version {VERSION}")
                entry["capabilities"]["working_distance"], list(entry["offers"])
            else:
                entry["kind"], entry["name"], entry["arguments"]
                if not entry.keys() & {"result", "frame", "error"}:
                    raise ValueError("an entry without an outcome")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidParameterError(f"{path}, line {number}: it is no recorded session: {error}") from error
        entries.append({**entry, "line": number})
    if not entries:
        raise InvalidParameterError(f"{path} is empty")
    return entries[0], [entry for entry in entries[1:] if entry["kind"] != "wire"]


def _capabilities(folder: Path, told: dict[str, Any]) -> Capabilities:
    try:
        return Capabilities(
            working_distance=Range(**told["working_distance"]),
            magnification=Range(**told["magnification"]),
            scan_modes=tuple(ScanMode[name.upper()] for name in told["scan_modes"]),
            model=str(told["model"]),
            serial=str(told["serial"]),
            firmware=str(told["firmware"]),
            probe_diameter=told.get("probe_diameter"),
            half_angle=told.get("half_angle"),
            numerical_aperture=told.get("numerical_aperture"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidParameterError(f"{folder / SESSION}: its capabilities cannot be read: {error!r}") from error


def _property(name: str) -> property:
    def get(self: Replay) -> Any:
        value = self._get(name)
        return tuple(value) if isinstance(value, list) else value

    return property(get, lambda self, value: self._do("set", name, value) and None)


def _method(name: str) -> Any:
    def call(self: Replay, *arguments: object) -> Any:
        result = self._do("call", name, *arguments)["result"]
        return tuple(result) if isinstance(result, list) else result

    call.__name__ = name
    return call
