"""A folder of tiles that another process fills, as the page shows it."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from semdrivers import FocusMap
from semdrivers.errors import InvalidParameterError
from semdrivers.files import plain
from semfocus_plugin.tiles import MAP, PLAN, Plan, TileRecord, read_tiles

_TILE = ("focus", "reason", "score", "working_distance")
_POINT = ("x", "y", "working_distance", "source")


class WatchedTiles:
    """The folder of a `semfocus tile`; the file of a tile is read once.

    Parameters
    ----------
    folder : Path
        It need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: dict[int, TileRecord] = {}
        self._planned = 0
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Return the folder, the plan, the tiles that are there, and the points of the map; no plan before the run."""
        nothing: dict[str, Any] = {"folder": str(self.folder), "plan": None, "tiles": [], "points": []}
        with self._lock:
            try:
                planned = (self.folder / PLAN).stat().st_mtime_ns
                plan = Plan.load(self.folder / PLAN)
                known = self._records if planned == self._planned else {}
                records = read_tiles(self.folder, plan, known, damaged=[])  # read again the next time
            except (OSError, InvalidParameterError) as error:
                if (self.folder / PLAN).is_file():
                    raise InvalidParameterError(f"{self.folder} cannot be shown: {error}") from error
                return nothing  # not begun, or removed to begin again
            points: tuple[Any, ...] = ()
            with suppress(OSError, InvalidParameterError):  # none yet
                points = FocusMap.load(self.folder / MAP).points
            self._records, self._planned = records, planned
        tiles = [
            {"row": each.tile.row, "column": each.tile.column, **{name: getattr(each, name) for name in _TILE}}
            for each in records.values()
        ]
        found = [{name: getattr(point, name) for name in _POINT} for point in points]
        state: dict[str, Any] = plain({**nothing, "plan": plan, "tiles": tiles, "points": found})
        return state
