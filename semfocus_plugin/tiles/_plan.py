"""Which tiles there are, in which order, and the file that says so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import read_json, replacing
from semdrivers.image import ScanMode
from semdrivers.maps import checked_region
from semdrivers.microscope import number, whole_number, within

_FORMAT = "semfocus tiles 1"
MOST_TILES = 100_000
"""More would be a misspelt grid."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture of the grid.

    Parameters
    ----------
    index : int
        When it is taken, from 0.
    row, column : int
        Where it lies, from 0 at the lowest stage x and y.
    x, y : float
        Stage position of its middle, mm.
    """

    index: int
    row: int
    column: int
    x: float
    y: float

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"tile_r{self.row:03d}_c{self.column:03d}.ome.tif"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be taken.

    Parameters
    ----------
    columns, rows : int
        Of the grid.
    region : tuple of float
        Stage positions x0, y0, x1, y1 of the middles of the outermost tiles, mm.
    magnification : float
        Of every tile.
    mode : str
        Scan mode of every tile, as text.
    track : bool
        Whether the tiles themselves track the focus.
    astigmatism : float
        With which the tiles are taken so that they track the focus, depths of field; 0 for none.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When a number is none, or the grid has no tile, or more than `MOST_TILES`.
    """

    columns: int
    rows: int
    region: tuple[float, float, float, float]
    magnification: float
    mode: str
    track: bool = False
    astigmatism: float = 0.0

    def __post_init__(self) -> None:
        columns, rows = (whole_number(name, getattr(self, name), 1) for name in ("columns", "rows"))
        if columns * rows > MOST_TILES:
            raise OutOfRangeError(f"grid: {columns}×{rows} are more than {MOST_TILES} tiles")
        for name in ("magnification", "astigmatism"):
            number(name, getattr(self, name))

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """All tiles in the order in which they are taken: row by row, every other row backwards."""
        x0, y0, x1, y1 = self.region
        xs, ys = np.linspace(x0, x1, self.columns), np.linspace(y0, y1, self.rows)
        order = [
            (row, column)
            for row in range(self.rows)
            for column in (range(self.columns) if row % 2 == 0 else reversed(range(self.columns)))
        ]
        return tuple(Tile(k, row, column, float(xs[column]), float(ys[row])) for k, (row, column) in enumerate(order))

    def save(self, path: Path) -> None:
        """Write the plan as JSON; raises `ExistingFileError` when there is one."""
        with replacing(path) as partial:
            partial.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan; raises `InvalidParameterError` when the file is none."""
        try:
            values = dict(read_json(path))
            if values.pop("format") != _FORMAT:
                raise ValueError("it has another format")
            plan = cls(**{**values, "region": checked_region(values["region"])})
            if ScanMode.parse(plan.mode) is None:
                raise ValueError(f"{plan.mode!r} is no scan mode")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidParameterError(f"{path} is no plan of tiles: {error}") from error
        return plan


def plan_tiles(
    grid: tuple[int, int] | None,
    region: tuple[float, float, float, float] | None,
    overlap: float,
    *,
    place: tuple[float, float],
    field: tuple[float, float],
    magnification: float,
    mode: ScanMode,
    track: bool = False,
    astigmatism: float = 0.0,
) -> Plan:
    """Return a plan of tiles.

    Parameters
    ----------
    grid : tuple of int, optional
        Columns and rows; by default as many as cover the region with the overlap.
    region : tuple of float, optional
        x0, y0, x1, y1 of the stage, mm. With a grid it holds the middles of the outermost tiles, and sets the pitch;
        without, it is what the tiles cover. By default a grid with the overlap lies around the present place.
    overlap : float
        Share of a tile that its neighbour shows too, 0 to 0.9.
    place : tuple of float
        Present stage position, mm.
    field : tuple of float
        Width and height of a tile, mm.
    magnification, mode, track, astigmatism
        As in `Plan`; the last is 0 to 1, and excludes `track`.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When neither grid nor region is given, or a value makes no sense.
    """
    share = within("overlap", overlap, 0.0, 0.9)
    if within("astigmatism", astigmatism, 0.0, 1.0) and track:
        raise InvalidParameterError("tiles are tracked by what neighbours share or by astigmatism: leave one out")
    pitch = tuple(length * (1 - share) for length in field)
    if grid is None and region is None:
        raise InvalidParameterError("nothing says which tiles to take: pass grid, region or both")
    corners = None if region is None else checked_region(region)
    if grid is not None:
        columns, rows = (whole_number(name, n, 1) for name, n in zip(("columns", "rows"), grid, strict=True))
    elif corners is not None:
        lengths = corners[2] - corners[0], corners[3] - corners[1]
        columns, rows = (
            1 + max(int(np.ceil((length - side) / step - 1e-9)), 0)
            for length, side, step in zip(lengths, field, pitch, strict=True)
        )
    if corners is None or grid is None:
        middle = place if corners is None else ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
        x, y = (0.5 * (count - 1) * step for count, step in zip((columns, rows), pitch, strict=True))
        corners = middle[0] - x, middle[1] - y, middle[0] + x, middle[1] + y
    return Plan(columns, rows, corners, float(magnification), str(mode), track, float(astigmatism))
