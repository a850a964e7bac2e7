"""``replay:///folder``: a recorded session as a microscope.

What was read may be read again as often as one likes. What was set, moved or acquired comes in the order of the
recording, with the answers, the frames and the errors of then; anything else raises `DeviceError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from semdrivers.base import answered
from semdrivers.connection import split_path_url
from semdrivers.errors import DeviceError, InvalidParameterError, error_named
from semdrivers.files import parse_json, plain
from semdrivers.image import Image, ScanMode, read_image
from semdrivers.microscope import Capabilities
from semdrivers.sessions._recorded import Recorded
from semdrivers.sessions._recording import FORMAT, SESSION, VERSION, written

# What reads as the result of a method from then on
_MOVED = {"move_stage": "stage_position", "orient_stage": "stage_orientation"}


def open_replay(url: str, options: Mapping[str, Any]) -> Replay:
    """Open the recording at ``replay:///folder``.

    Raises
    ------
    InvalidParameterError
        When the folder holds no recording, or an option is given.
    """
    return Replay(split_path_url(url, options, (), "a recording", "folder")[0])


class Replay(Recorded):
    """A recorded session. It offers what the recorded microscope offered, but `HasStop`: nothing is scanned.

    Parameters
    ----------
    folder : str or Path
        Folder that a `semdrivers.sessions.Recorder` wrote.

    Raises
    ------
    InvalidParameterError
        When it holds no recording, or one that cannot be read.
    """

    def __new__(cls, folder: str | Path) -> Self:
        """Make a class that has the members that were recorded."""
        return super().__new__(cls._offering(set(_read_session(Path(folder))[0]["offers"]) - {"stop"}))

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, "replay of")
        header, self._entries = _read_session(self.folder)
        self._capabilities = _capabilities(self.folder, header["capabilities"])
        self._next = 0
        self._known: dict[str, Any] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Those of the recorded microscope."""
        self._check_open()
        return self._capabilities

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Return the frame that was acquired at this point of the session.

        Raises
        ------
        DeviceError
            When something else was done at this point; the message says what.
        InvalidParameterError
            When the frame's file is missing or damaged.
        """
        entry = self._do("call", "acquire", mode)
        return self._delivered(read_image(self.folder / Path(str(entry.get("frame"))).name))

    def __repr__(self) -> str:
        return f"<Replay of {self.folder}, {self._next} of {len(self._entries)} lines>"

    def _read(self, name: str) -> Any:
        return answered(name, self._recall(name))

    def _write(self, name: str, value: Any) -> None:
        self._do("set", name, value)

    def _call(self, name: str, *arguments: Any) -> Any:
        return answered(name, self._do("call", name, *arguments)["result"])

    def _recall(self, name: str) -> Any:
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
            now = f"{name}({written(list(arguments))})"
            if ahead == len(self._entries):
                raise DeviceError(f"{self.folder}: the session is over, and {now} is no part of it")
            entry = self._entries[ahead]
            recorded = f"{entry['name']}({entry['arguments']})"
            if (kind, name) != (entry["kind"], entry["name"]) or (recorded != now and name != "focus_record"):
                raise DeviceError(
                    f"{self.folder}: the session goes on with {recorded} in line {entry['line']} of {SESSION}, not "
                    f"with {now}: this program takes another way than the one that was recorded"
                )
            self._learn(self._next, ahead)
            self._next = ahead + 1
            outcome = _outcome(entry)
            if kind == "set":
                self._known[name] = plain(arguments[0])
            elif name in _MOVED:
                self._known[_MOVED[name]] = outcome["result"]
            return outcome

    def _learn(self, begin: int, end: int) -> None:
        for entry in self._entries[begin:end]:
            if "error" not in entry:
                self._known[entry["name"]] = entry["result"]


def _outcome(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry, or raise the error that it records."""
    if "error" not in entry:
        return entry
    raise error_named(str(entry["error"]), str(entry["message"]))


def _read_session(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return head and entries of a session. A last line that was cut off is no part of it."""
    path = folder / SESSION
    if not path.is_file():
        why = f"it has no {SESSION}" if folder.is_dir() else "there is no such folder"
        raise InvalidParameterError(f"{folder} holds no recorded session: {why}")
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    entries = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = parse_json(line)
            if number == 1:
                if (entry["format"], entry["version"]) != (FORMAT, VERSION):
                    raise ValueError(f"{entry['format']} version {entry['version']}, not {FORMAT} version {VERSION}")
                entry["capabilities"]["working_distance"], list(entry["offers"])
            else:
                outcome = "message" if "error" in entry else "frame" if entry["name"] == "acquire" else "result"
                if entry["kind"] != "wire" and outcome not in entry:
                    raise ValueError("an entry without an outcome")
                if not all(isinstance(entry[part], str) for part in ("kind", "name", "arguments")):
                    raise ValueError("kind, name and arguments must be texts")
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidParameterError(f"{path}, line {number}: it is no recorded session: {error}") from error
        entries.append({**entry, "line": number})
    if not entries:
        raise InvalidParameterError(f"{path} is empty")
    return entries[0], [entry for entry in entries[1:] if entry["kind"] != "wire"]


def _capabilities(folder: Path, values: dict[str, Any]) -> Capabilities:
    try:
        return Capabilities.from_dict(values)
    except InvalidParameterError as error:
        raise InvalidParameterError(f"{folder / SESSION}: {error}") from error
