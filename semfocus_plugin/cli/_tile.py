"""The command that takes a whole sample, tile by tile."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import semdrivers
from semdrivers.autofocus import ended_in_order
from semdrivers.console import INTERRUPTED, REFUSED, Json, Url, messages, output, print_json
from semdrivers.errors import InvalidParameterError, installation
from semdrivers.files import counted
from semdrivers.image import ScanMode
from semdrivers.microscope import HasBeam, HasStage, within
from semfocus_plugin.cli._options import (
    Bounds,
    ContrastRadius,
    CorrectDrift,
    FocusOffset,
    FocusRegion,
    MethodName,
    MoveToContrast,
    WebhookUrl,
    listening,
    numbers,
)


def tile(
    url: Url,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the tiles, new or empty.")],
    grid: Annotated[
        str | None, typer.Option(help="Columns and rows, such as 20x15; by default what the region takes.")
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            help="x0,y0,x1,y1 of the stage, mm: what the tiles cover; with --grid, the middles of the outermost tiles. "
            "By default the grid lies around where the stage stands."
        ),
    ] = None,
    overlap: Annotated[float, typer.Option(help="Share of a tile that its neighbour shows too.")] = 0.1,
    mode: Annotated[
        str | None, typer.Option(help="Scan mode of the tiles, by its name; the instrument's second by default.")
    ] = None,
    magnification: Annotated[
        float | None, typer.Option(help="Magnification of the tiles; left as it is by default.")
    ] = None,
    track: Annotated[
        bool,
        typer.Option(
            help="Take neighbours ¼ depth of field above and below the focus, and track it by what both show."
        ),
    ] = False,
    track_astigmatism: Annotated[
        float,
        typer.Option(
            help="Take tiles with so much astigmatism, depths of field, of either sign in turn, and track the focus by "
            "how it shows; 0.3 serves, 0 is off."
        ),
    ] = 0.0,
    bounds: Bounds = None,
    max_travel: Annotated[
        float | None,
        typer.Option(help="Furthest that each focusing goes from its start, mm; as in `semfocus run` by default."),
    ] = None,
    method: MethodName = None,
    max_dose: Annotated[
        float | None,
        typer.Option(help="Most electrons per µm² that each focusing puts on a field; no limit by default."),
    ] = None,
    focus_region: FocusRegion = None,
    focus_offset: FocusOffset = None,
    move_to_contrast: MoveToContrast = False,
    contrast_radius: ContrastRadius = 0.1,
    correct_drift: CorrectDrift = False,
    webhook: WebhookUrl = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the tiles of the folder, whatever ended them.")
    ] = False,
    beam_off: Annotated[bool, typer.Option("--beam-off", help="Switch the beam off at the end.")] = False,
    mosaic: Annotated[bool, typer.Option(help="Make one picture of all tiles.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the tiles in the folder.")] = False,
    json: Json = False,
) -> None:
    """Take a whole sample tile by tile, in focus by a focus map, and make one picture and a report of it.

    The tiles go row by row, back and forth. The map is measured at a few places first, and again where it is not
    certain enough. Ctrl-C ends after the frame under way. Whatever ends a run, --resume goes on and repeats one tile
    at most.

    Exit code 0 when done, 3 when a tile has no focus that can be stood by, 130 when interrupted.

    Example: semfocus tile em30://192.168.1.30 --grid 20x15 --overlap 0.1 -o night
    """
    from semfocus_plugin import tiles
    from semfocus_plugin.calibration import default_travel
    from semfocus_plugin.cli._display import cancelled_by_interrupt, progress_bar

    settings = semdrivers.AutofocusSettings(
        method=method,
        bounds=bounds,
        max_travel=max_travel,
        max_dose=max_dose,
        region=numbers("--focus-region", focus_region, 4),
        focus_offset=numbers("--focus-offset", focus_offset, 2),
        move_to_contrast=move_to_contrast,
        contrast_radius=contrast_radius,
        correct_drift=correct_drift,
    )
    if method is not None:
        semdrivers.get_plugin_manager().check_autofocus_method(method)
    if (mosaic or track) and find_spec("skimage") is None:
        raise InvalidParameterError(f"tiles need scikit-image: {installation('tiles')}, or pass --no-mosaic")
    if resume and overwrite:
        raise InvalidParameterError("--resume and --overwrite exclude each other: leave one out")
    size, corners = _grid(grid), numbers("--region", region, 4)
    if size is None and corners is None and not resume:
        raise InvalidParameterError("nothing says which tiles to take: add --grid, --region or both")
    began = time.perf_counter()
    within("overlap", overlap, 0, 0.9)

    def prepare(microscope: Any) -> tiles.Plan:
        _check_stage(microscope)
        chosen = _mode(microscope.capabilities.scan_modes, mode)
        if magnification is not None:
            microscope.magnification = magnification

        def make() -> tiles.Plan:
            first = microscope.acquire(chosen)
            width, height = (n * first.pixel_size * 1e-6 for n in reversed(first.pixels.shape))
            return tiles.plan_tiles(
                size,
                corners,
                overlap,
                place=microscope.stage_position,
                field=(width, height),
                magnification=microscope.magnification,
                mode=chosen,
                track=track,
                astigmatism=track_astigmatism,
            )

        plan = tiles.open_folder(out, make, resume=resume, overwrite=overwrite)
        if size is not None and size != (plan.columns, plan.rows):
            raise InvalidParameterError(f"--grid {grid} differs from the {plan.columns}x{plan.rows} of {out}")
        return plan

    plans: list[tiles.Plan] = []
    with (
        listening(webhook) as listener,
        ended_in_order(),
        semdrivers.opened(url, prepare=lambda each: plans.append(prepare(each))) as microscope,
    ):
        plan = plans[0]
        if max_travel is None:
            settings = replace(settings, max_travel=default_travel(microscope))
        with cancelled_by_interrupt() as cancel, progress_bar() as bar:
            total = len(plan.tiles)
            task = bar.add_task("tiles", total=total, completed=len(tiles.read_tiles(out, plan)))
            frames = 0

            def show(record: tiles.TileRecord, done: int) -> None:
                nonlocal frames
                frames += record.frames
                bar.update(task, completed=done, description=f"tiles, {counted(frames, 'frame')} for focus")
                if not messages.is_terminal:
                    left = (time.perf_counter() - began) / max(done, 1) * (total - done)
                    messages.print(
                        f"{done} of {total}: {record.path.name} by {record.focus}, score {record.score:.1f}; "
                        f"{counted(frames, 'frame')} for focus, {left / 60:.0f} min left",
                        markup=False,
                    )

            known = tiles.take_tiles(
                microscope, out, plan, settings=settings, progress=show, cancel=cancel, on_event=listener
            )
        if beam_off and isinstance(microscope, HasBeam):
            microscope.beam_on = False
    records = tiles.read_tiles(out, plan)
    look = tiles.second_look(records)
    complete = len(records) == len(plan.tiles)
    facts = facts_of(plan, records, look, known, time.perf_counter() - began)
    if complete:
        facts |= _write(out, plan, records, look, known, facts, mosaic)
    if json:
        print_json(facts)
    else:
        for name, value in facts.items():
            output.print(f"{name.replace('_', ' ')}: {as_text(value)}", markup=False, soft_wrap=True)
    if not complete:
        messages.print(
            f"stopped after {len(records)} of {counted(len(plan.tiles), 'tile')}; --resume goes on", markup=False
        )
        raise typer.Exit(INTERRUPTED)
    if any(record.focus == "none" for record in records.values()):
        raise typer.Exit(REFUSED)


def _check_stage(microscope: object) -> None:
    if not isinstance(microscope, HasStage):
        raise InvalidParameterError("tiles need a stage, and this instrument offers none")


def _write(
    out: Path, plan: Any, records: Any, look: Any, known: semdrivers.FocusMap, facts: dict[str, Any], mosaic: bool
) -> dict[str, Any]:
    """Write mosaic, picture of the map and report; those of an earlier end are replaced. Returns what to add."""
    from semfocus_plugin import tiles

    more: dict[str, Any] = {}
    pictures = {}
    pixel = next(iter(records.values())).pixel_size
    if mosaic:
        placed = tiles.place(records)
        whole = tiles.assemble(records, placed)
        more["mosaic"] = str(tiles.write_mosaic(out / "mosaic.ome.tif", whole, pixel, overwrite=True))
        more["joints"], more["joints_below_a_pixel"] = len(placed.seams), int((placed.seams < 1).sum())
        more["joints_not_matched"] = placed.weak
        pictures["Mosaic"] = tiles.preview(whole)
    if known.points:
        pictures["Focus map"] = known.plot(out / "map.png", overwrite=True).read_bytes()
    lines = {name.replace("_", " "): as_text(value) for name, value in {**facts, **more}.items()}
    more["report"] = str(tiles.write_report(out / "report.html", plan, records, look, lines, pictures, overwrite=True))
    return more


def facts_of(plan: Any, records: Any, look: Any, known: semdrivers.FocusMap, seconds: float) -> dict[str, Any]:
    """Return what a run of tiles did, by name."""
    dose = [record.dose for record in records.values() if math.isfinite(record.dose)]
    return {
        "tiles": len(records),
        "planned": len(plan.tiles),
        "by_run": sum(record.focus == "run" for record in records.values()),
        "by_map": sum(record.focus == "map" for record in records.values()),
        "not_focused": sum(record.focus == "none" for record in records.values()),
        "second_look": sorted(records[index].path.name for index in look),
        "focusing_frames": sum(record.frames for record in records.values()),
        "map_points": len(known.points),
        "median_dose": sorted(dose)[len(dose) // 2] if dose else None,
        "largest_dose": max(dose, default=None),
        "seconds": seconds,
    }


def as_text(value: Any) -> str:
    """Return a value of `facts_of` for a person."""
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else "not reported" if value is None else str(value)


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    columns, _, rows = text.lower().partition("x")
    if not (columns.isdecimal() and rows.isdecimal() and int(columns) and int(rows)):
        raise InvalidParameterError(f"--grid must be columns and rows such as 20x15, not {text!r}")
    return int(columns), int(rows)


def _mode(offered: tuple[ScanMode, ...], name: str | None) -> ScanMode:
    if name is None:
        return offered[min(1, len(offered) - 1)]
    for mode in offered:
        if mode.name.lower() == name.lower():
            return mode
    raise InvalidParameterError(f"--mode {name} is not offered; there are {', '.join(m.name for m in offered)}")
