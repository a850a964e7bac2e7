"""A grid of settings, each point a few commands of ``semfocus``, and one table at the end.

A specification in TOML::

    commands = [
        "train aenet frames -o {folder} --epochs {epochs} --learning-rate {rate}",
        "benchmark --methods dual-network --tracks near --runs 8 --workers 1 -o {folder}/benchmark.json",
    ]

    [grid]
    epochs = [2, 4]
    rate = [0.001, 0.003]

    [environment]
    SEMFOCUS_MODELS = "{folder}"

    [figures]
    accuracy = "history.jsonl accuracy"
    focused = "benchmark.json rows 0 share"

A figure is a file in the folder of the point and the keys that lead to it; of a ``.jsonl`` file the last line counts.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semdrivers.errors import AutofocusError, InvalidParameterError
from semdrivers.files import replacing
from semfocus_plugin.lab.parallel import Workers, run_all

__all__ = ["Sweep", "read", "run", "run_point", "table"]

_DONE = "done.json"
_LOG = "output.txt"


@dataclass(frozen=True, slots=True)
class Sweep:
    """A specification that was read.

    Parameters
    ----------
    commands : tuple of str
        Command lines of ``semfocus``, with the settings in braces, and ``{folder}``.
    grid : dict
        Values by name of the setting.
    figures : dict
        File and keys by heading.
    environment : dict
        Environment variables of the commands.
    """

    commands: tuple[str, ...]
    grid: dict[str, list[Any]]
    figures: dict[str, str]
    environment: dict[str, str]

    @property
    def points(self) -> list[dict[str, Any]]:
        """Settings of every point, the last name of the grid varying fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


def read(path: Path) -> Sweep:
    """Read a specification.

    Raises
    ------
    InvalidParameterError
        When it is no TOML, has other keys, or names a setting that is not in the grid.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidParameterError(f"{path}: {error}") from None
    unknown = content.keys() - {"commands", "grid", "figures", "environment"}
    if unknown:
        raise InvalidParameterError(
            f"{path}: unknown key {sorted(unknown)[0]!r}; there are commands, grid, figures, environment"
        )
    commands, grid = content.get("commands"), content.get("grid")
    if not isinstance(commands, list) or not commands or not isinstance(grid, dict) or not grid:
        raise InvalidParameterError(f"{path}: needs a list commands and a table grid, neither of them empty")
    for name, values in grid.items():
        if not isinstance(values, list) or not values or name == "folder":
            raise InvalidParameterError(
                f"{path}: grid.{name} must be a list of values, and have another name than folder"
            )
    sweep = Sweep(tuple(commands), grid, content.get("figures", {}), content.get("environment", {}))
    for text in (*sweep.commands, *sweep.environment.values()):
        _filled(text, sweep.points[0], Path("folder"), path)
    return sweep


def _filled(text: str, settings: dict[str, Any], folder: Path, source: object) -> str:
    try:
        return str(text).format(folder=folder, **settings)
    except (KeyError, IndexError, ValueError) as error:
        raise InvalidParameterError(f"{source}: {text!r}: {error} is no setting of the grid") from None


def run(
    sweep: Sweep, folder: Path, *, workers: Workers = None, progress: Callable[[Any], object] | None = None
) -> tuple[dict[str, Any], ...]:
    """Run every point, each in a folder of its own; those that are done are left alone.

    Parameters
    ----------
    folder : Path
        Shared by all computers where `workers` names a cluster.
    workers : int or str, optional
        As in `semfocus_plugin.lab.parallel.run_all`.

    Returns
    -------
    tuple of dict
        Settings and figures of every point.
    """
    return run_all(
        run_point,
        [(sweep, settings, str(folder / f"{number:03d}")) for number, settings in enumerate(sweep.points)],
        workers=workers,
        progress=progress,
    )


def run_point(sweep: Sweep, settings: dict[str, Any], place: str) -> dict[str, Any]:
    """Run the commands of a point, and return its settings and figures.

    Raises
    ------
    AutofocusError
        When a command fails; the message ends with its last line.
    InvalidParameterError
        When the folder holds another point.
    """
    folder = Path(place)
    done = folder / _DONE
    asked = {"settings": settings, "commands": list(sweep.commands), "environment": sweep.environment}
    if done.exists() and json.loads(done.read_text(encoding="utf-8")) != asked:
        raise InvalidParameterError(f"{folder} holds another point; name an empty folder, or delete it")
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        extra = {name: _filled(text, settings, folder, name) for name, text in sweep.environment.items()}
        with (folder / _LOG).open("w", encoding="utf-8") as log:
            for command in sweep.commands:
                words = shlex.split(_filled(command, settings, folder, command))
                code = "from semfocus_plugin.lab.cli import main; main()"
                ended = subprocess.run(
                    [sys.executable, "-c", code, *words], env=os.environ | extra, stdout=log, stderr=log, check=False
                )
                if ended.returncode:
                    said = (folder / _LOG).read_text(encoding="utf-8").strip().splitlines() or [""]
                    raise AutofocusError(
                        f"{folder}: semfocus {shlex.join(words)} ended with {ended.returncode}: {said[-1]}"
                    )
        with replacing(done, overwrite=True) as partial:
            partial.write_text(json.dumps(asked, indent=1), encoding="utf-8")
    return settings | {name: _figure(folder, where) for name, where in sweep.figures.items()}


def _figure(folder: Path, where: str) -> Any:
    name, *keys = where.split()
    try:
        text = (folder / name).read_text(encoding="utf-8")
        value = json.loads(text.splitlines()[-1] if name.endswith(".jsonl") else text)
        for key in keys:
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InvalidParameterError(f"figure {where!r}: {folder / name} has none: {error!r}") from None
    return value


def table(points: tuple[dict[str, Any], ...]) -> Iterator[tuple[str, ...]]:
    """Yield settings and figures of every point; headings first."""
    yield tuple(points[0])
    for point in points:
        yield tuple(f"{value:.4g}" if isinstance(value, float) else str(value) for value in point.values())
