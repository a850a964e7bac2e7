"""The command that makes a report of autofocus runs."""

from __future__ import annotations

import json as jsons
import math
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from semdrivers import AutofocusResult, FocusMap, Image, read_image
from semdrivers.console import Json, Overwrite, end_batch, output, print_json, problem_of
from semdrivers.errors import InvalidParameterError, SemDriversError
from semdrivers.files import Entry, Picture, check_free, counted, plot_pair, replacing, report_page

_SAME_PLACE = 1e-4
"""Largest difference of two working distances that are one, mm."""
_JUST_BEFORE = 60.0
"""Seconds before a run in which a picture shows what was there before."""

_MARK = '"start_working_distance"'
"""What every result holds, and no other JSON."""


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Results (.json) of `semfocus run --record` or --json, and folders of them; or a folder of tiles."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The report (.html).")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(help="Write the figures to this folder too, as PDF; not by default.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a report of autofocus runs: one HTML file that holds everything.

    OME-TIFF pictures in the folder of a result, or below it, are shown as before and after where their metadata say so:
    taken at its start while it ran or just before, and at its end while it ran or with its focus record.

    Of a folder that `semfocus tile` filled, complete or not, the report shows the tiles and the focus map.

    Example: semfocus report night/ -o night.html
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise InvalidParameterError(f"--out {out}: the name of a report ends in .html")
    check_free(out, overwrite)
    from semfocus_plugin.tiles import PLAN

    sampled = [path for path in results if (path / PLAN).is_file()]
    if sampled:
        if len(results) > 1:
            raise InvalidParameterError(f"{sampled[0]} holds tiles: make a report of it alone")
        _report_tiles(sampled[0], out, figures, overwrite, json)
        return
    problems: list[str] = []
    read = list(_read(results, problems))
    if problems and not read:
        if json:
            print_json({"files": [], "runs": 0, "problems": problems})
        end_batch(problems)
    if not read:
        raise InvalidParameterError(
            "there is no result of an autofocus run; `semfocus run URL --record run.json` keeps one"
        )
    pictures = {folder: _pictures(folder) for folder in {path.absolute().parent for path, _ in read}}
    base = Path(os.path.commonpath([path.absolute().parent for path, _ in read]))
    entries = []
    for path, result in read:
        before, after = _before_after(result, pictures[path.absolute().parent])
        name = path.absolute().relative_to(base).as_posix()
        entries.append(Entry(name, result.to_dict(), before, after))
    files = [out]
    if figures is not None:
        figures.mkdir(exist_ok=True)
        for (_, result), entry in zip(read, entries, strict=True):
            name = entry.name.removesuffix(".json").replace("/", "-")  # of two folders, both may hold a run.json
            files.append(result.plot(figures / f"{name}.pdf", overwrite=overwrite))
            pair = plot_pair(entry, figures / f"{name}-before-after.pdf", overwrite=overwrite)
            files += [] if pair is None else [pair]
    with replacing(out, overwrite) as partial:
        partial.write_text(report_page(entries, f"Autofocus: {base.name}"), encoding="utf-8")
    if json:
        print_json({"files": files, "runs": len(entries), "problems": problems})
    else:
        shown = sum(entry.after is not None for entry in entries)
        output.print(f"{counted(len(entries), 'run')}, {shown} with pictures, in {out}", markup=False, soft_wrap=True)
    end_batch(problems)


def _report_tiles(folder: Path, out: Path, figures: Path | None, overwrite: bool, json: bool) -> None:
    """Write the report of a folder of tiles, as far as they are there."""
    from semfocus_plugin import tiles
    from semfocus_plugin.cli._tile import as_text, facts_of

    plan = tiles.Plan.load(folder / tiles.PLAN)
    problems: list[str] = []
    records = tiles.read_tiles(folder, plan, damaged=problems)
    look = tiles.second_look(records)
    known = FocusMap.load(folder / tiles.MAP) if (folder / tiles.MAP).exists() else FocusMap()
    facts = facts_of(plan, records, look, known, sum(record.seconds for record in records.values()))
    files, pictures = [out], {}
    with TemporaryDirectory() as drawn:
        if known.points:
            pictures["Focus map"] = known.plot(Path(drawn) / "map.png").read_bytes()
            if figures is not None:
                figures.mkdir(exist_ok=True)
                files.append(known.plot(figures / "map.pdf", overwrite=overwrite))
    lines = {name.replace("_", " "): as_text(value) for name, value in facts.items()}
    tiles.write_report(out, plan, records, look, lines, pictures, overwrite=overwrite)
    if json:
        print_json({"files": files, **facts, "problems": problems})
    else:
        output.print(f"{len(records)} of {counted(len(plan.tiles), 'tile')}, in {out}", markup=False, soft_wrap=True)
    end_batch(problems)


def _read(paths: list[Path], problems: list[str]) -> Iterator[tuple[Path, AutofocusResult]]:
    """Yield the results, those of folders in order of time; what was named and is none, or damaged, is a problem."""
    for path in paths:
        if not path.is_dir():
            try:
                yield path, _result(path)
            except (SemDriversError, OSError, ValueError) as error:
                problems.append(problem_of(path, error))
            continue
        found = []
        for each in sorted(path.rglob("*.json")):
            try:
                found.append((each, _result(each)))
            except OSError as error:
                if each.is_file():
                    problems.append(problem_of(each, error))
            except (SemDriversError, ValueError) as error:
                if _MARK in each.read_text(encoding="utf-8", errors="replace"):  # other programs keep JSON too
                    problems.append(problem_of(each, error))
        yield from sorted(found, key=lambda item: (item[1].provenance.get("time") or 0.0, item[0]))


def _result(path: Path) -> AutofocusResult:
    values = jsons.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise InvalidParameterError(f"{path}: it is no result of an autofocus run")
    return AutofocusResult.from_dict(values)


def _pictures(folder: Path) -> list[Image]:
    """Return the pictures of a folder and below that hold the time of their scan or a focus record."""
    found = []
    for path in sorted([*folder.rglob("*.tif"), *folder.rglob("*.tiff")]):
        try:
            image = read_image(path)
        except SemDriversError:
            continue
        if image.timestamp is not None or "autofocus" in image.metadata:
            found.append(image)
    return found


def _before_after(result: AutofocusResult, pictures: list[Image]) -> tuple[Picture | None, Picture | None]:
    """Return the pictures that show the start and the end of a run, where there are such."""
    ended: Any = result.provenance.get("time")
    record = result.to_record()
    after = [
        image
        for image in pictures
        if _at(image, result.working_distance)
        and (_same_run(image.metadata.get("autofocus"), record) or _within(image, ended, result.elapsed))
    ]
    before = [
        image
        for image in pictures
        if _at(image, result.start_working_distance) and _within(image, ended, result.elapsed + _JUST_BEFORE)
    ]
    last = max(after, key=lambda image: image.timestamp or math.inf, default=None)
    first = min(before, key=lambda image: image.timestamp or math.inf, default=None)
    return _picture(first), _picture(last)


def _at(image: Image, place: float) -> bool:
    return abs(image.working_distance - place) <= _SAME_PLACE


def _same_run(metadata: Any, record: Any) -> bool:
    names = ("working_distance", "start_working_distance", "frames", "elapsed", "score")
    return isinstance(metadata, dict) and all(metadata.get(name) == record[name] for name in names)


def _within(image: Image, ended: float | None, seconds: float) -> bool:
    return ended is not None and image.timestamp is not None and ended - seconds <= image.timestamp <= ended


def _picture(image: Image | None) -> Picture | None:
    if image is None:
        return None
    return Picture(image.pixels, float(image.working_distance), float(image.pixel_size))
