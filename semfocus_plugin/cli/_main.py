"""The commands that a person at a microscope needs: focus, score, calibrate, label."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import semdrivers
from semdrivers.base import described
from semdrivers.console import (
    INTERRUPTED,
    REFUSED,
    BarRowsOption,
    Json,
    Overwrite,
    Url,
    application,
    end_batch,
    messages,
    output,
    print_json,
    problem_of,
)
from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import check_free, counted
from semdrivers.microscope import LimitsTravel, number
from semdrivers.notify import notify
from semfocus_plugin.cli._calibrate import calibrate
from semfocus_plugin.cli._config import config
from semfocus_plugin.cli._label import label
from semfocus_plugin.cli._options import (
    Bounds,
    ContrastRadius,
    CorrectDrift,
    FocusOffset,
    FocusRegion,
    MaxFrames,
    MethodName,
    MoveToContrast,
    WebhookUrl,
    listening,
    numbers,
)
from semfocus_plugin.cli._report import report
from semfocus_plugin.cli._serve import serve, view
from semfocus_plugin.cli._tile import tile

app = application("semfocus", "Autofocus for scanning electron microscopes: focus, score pictures, evaluate, train.")
"""The commands of the product."""

_StigmatorBounds = Annotated[
    tuple[float, float] | None,
    typer.Option(
        help="Lowest and highest value of either axis of the stigmator, in its units; the instrument's by default."
    ),
]
_StigmatorTravel = Annotated[
    float | None,
    typer.Option(
        help="Furthest that either axis of the stigmator goes from its start, in its units; no limit by default."
    ),
]


def _print_schema(asked: bool) -> None:
    if asked:
        from semfocus_plugin.cli._schema import schema_of

        print_json(schema_of(semdrivers.AutofocusResult))
        raise typer.Exit


@app.command()
def run(
    url: Url,
    method: MethodName = None,
    max_frames: MaxFrames = None,
    bounds: Bounds = None,
    max_travel: Annotated[
        float | None,
        typer.Option(help="Furthest from the start, mm; by default the larger of 3 mm and 60 depths of field."),
    ] = None,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="No limit of travel but --bounds and those of the instrument.")
    ] = False,
    max_seconds: Annotated[
        float | None, typer.Option(help="Deadline of the run, s, which ends a frame where it can; none by default.")
    ] = None,
    max_dose: Annotated[
        float | None,
        typer.Option(
            help="Most electrons per µm² of the run, where the instrument reports current and dwell time; "
            "no limit by default."
        ),
    ] = None,
    magnification: Annotated[
        float | None, typer.Option(help="Magnification to set before focusing; left as it is by default.")
    ] = None,
    accept_score: Annotated[
        float | None, typer.Option(help="Least score (0 to 9) that counts as focused; the method's own by default.")
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Look at other magnifications on the way, put back at the end.")
    ] = False,
    keep_brightness: Annotated[
        bool, typer.Option("--keep-brightness", help="Leave brightness and contrast alone, even if clipped.")
    ] = False,
    bar_rows: BarRowsOption = None,
    focus_region: FocusRegion = None,
    focus_offset: FocusOffset = None,
    move_to_contrast: MoveToContrast = False,
    contrast_radius: ContrastRadius = 0.1,
    correct_drift: CorrectDrift = False,
    stigmate: Annotated[
        bool, typer.Option("--stigmate", help="Correct the stigmator too; it is put back unless focused.")
    ] = False,
    stigmator_bounds: _StigmatorBounds = None,
    max_stigmator_travel: _StigmatorTravel = None,
    webhook: WebhookUrl = None,
    save: Annotated[Path | None, typer.Option(help="Take a picture when focused: .ome.tif; none by default.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the result with its trace: .json; not written by default.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw score against working distance: .png, .pdf or .svg; not drawn by default.")
    ] = None,
    save_session: Annotated[
        Path | None,
        typer.Option(help="Record all of it in this new folder, which replay:// opens; not recorded by default."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    json_schema: Annotated[
        bool,
        typer.Option(
            "--json-schema", callback=_print_schema, is_eager=True, help="Print the JSON Schema of --json and --record."
        ),
    ] = False,
) -> None:
    """Focus a microscope.

    Exit code 0 when focused, 3 when refused (the lens is back at its start), 4 without a link, 130 when cancelled.

    Example: semfocus run em30://192.168.1.30 --max-travel 1.5 --save night.ome.tif
    """
    from semfocus_plugin.cli._display import FrameTable, cancelled_by_interrupt

    settings = semdrivers.AutofocusSettings(
        method=method,
        max_frames=max_frames,
        bounds=bounds,
        max_travel=max_travel,
        accept_score=accept_score,
        may_change_magnification=blind,
        may_change_brightness=not keep_brightness,
        bar_rows=bar_rows,
        max_seconds=max_seconds,
        max_dose=max_dose,
        region=numbers("--focus-region", focus_region, 4),
        focus_offset=numbers("--focus-offset", focus_offset, 2),
        move_to_contrast=move_to_contrast,
        contrast_radius=contrast_radius,
        correct_drift=correct_drift,
        stigmate=stigmate,
        stigmator_bounds=stigmator_bounds,
        max_stigmator_travel=max_stigmator_travel,
    )
    if anywhere and max_travel is not None:
        raise InvalidParameterError("--anywhere and --max-travel exclude each other: leave one out")
    if method is not None:
        semdrivers.get_plugin_manager().check_autofocus_method(method)
    outputs = (save, (".tif", ".tiff")), (record, (".json",)), (plot, (".png", ".pdf", ".svg"))
    _check_outputs(*outputs, overwrite=overwrite)
    microscope: Any = None

    def prepare(connected: Any) -> None:
        nonlocal microscope
        microscope = connected if save_session is None else semdrivers.Recorder(connected, save_session)
        if magnification is not None:
            microscope.magnification = magnification

    with listening(webhook) as listener, semdrivers.opened(url, prepare=prepare) as connected:
        own_travel = connected.max_travel if isinstance(connected, LimitsTravel) else None
        if max_travel is None and not anywhere:
            from semfocus_plugin.calibration import default_travel

            settings = replace(settings, max_travel=default_travel(microscope))
        with cancelled_by_interrupt() as cancel, FrameTable() as table:
            progress = None if json else table.add
            result = semdrivers.autofocus(microscope, settings=settings, progress=progress, cancel=cancel)
            event = "ended" if result.focused else "not-focused"
            notify(listener, event, f"autofocus {result.status}: {result.reason}", result=result.to_record())
        if save is not None and result.focused:
            image = microscope.acquire(microscope.capabilities.scan_modes[-1])
            described(image, microscope, result.to_record()).save(save, overwrite=overwrite)
        microscope.close()
    if record is not None:
        result.save(record, overwrite=overwrite)
    if plot is not None:
        result.plot(plot, overwrite=overwrite)
    if json:
        print_json(result.to_dict())
    else:
        print_result(result)
        limits = [(settings.max_travel, "--max-travel or --anywhere allows more"), (own_travel, f"the limit of {url}")]
        if result.status == "refused" and max_travel is None:
            for travel, which in sorted((travel, which) for travel, which in limits if travel is not None)[:1]:
                messages.print(
                    f"the lens was kept within {travel:.3g} mm of its start: {which}", markup=False, soft_wrap=True
                )
    leave(result)


@app.command()
def stigmate(
    url: Url,
    stigmator_bounds: _StigmatorBounds = None,
    max_stigmator_travel: _StigmatorTravel = None,
    max_frames: MaxFrames = None,
    json: Json = False,
) -> None:
    """Correct focus and stigmator together: semfocus run --stigmate, with its other limits by default.

    Example: semfocus stigmate em30://192.168.1.30
    """
    run(
        url,
        max_frames=max_frames,
        stigmate=True,
        stigmator_bounds=stigmator_bounds,
        max_stigmator_travel=max_stigmator_travel,
        json=json,
    )


app.command()(calibrate)
app.command()(tile)
app.command()(view)
app.command()(serve)
app.command()(report)
app.add_typer(label, name="label")
app.add_typer(config, name="config")


@app.command()
def score(
    files: Annotated[list[Path], typer.Argument(help="TIFF, PNG or JPEG, at least 320×240 pixels.")],
    magnification: Annotated[
        float | None, typer.Option(help="Magnification of pictures whose files do not hold it; unknown by default.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="The same by their pixel size, nm; unknown by default.")
    ] = None,
    hfw: Annotated[
        float | None, typer.Option(help="The same by the horizontal field width, µm; unknown by default.")
    ] = None,
    override: Annotated[
        bool, typer.Option("--override", help="Use what is given even where a file holds something else.")
    ] = False,
    probe_diameter: Annotated[
        float | None, typer.Option(help="Diameter of the focused probe, nm; that of a tungsten gun by default.")
    ] = None,
    bar_rows: BarRowsOption = None,
    json: Json = False,
) -> None:
    """Score pictures: 0 (out of focus) to 9.

    The magnification that a file holds is used; --magnification, --pixel-size or --hfw is for files that hold none.

    Example: semfocus score night/*.tif --magnification 5000
    """
    from rich.markup import escape
    from rich.progress import track

    from semdrivers.files import page_count
    from semfocus_plugin.networks import evaluate

    options = {"--magnification": magnification, "--pixel-size": pixel_size, "--hfw": hfw}
    named = {name: number(name, value) for name, value in options.items() if value is not None}
    if len(named) > 1:
        raise InvalidParameterError(f"{' and '.join(named)} say the same: leave one out")
    if override and not named:
        raise InvalidParameterError("--override needs --magnification, --pixel-size or --hfw")
    for name, value in named.items():
        if value <= 0:
            raise OutOfRangeError(f"{name} must be above 0, not {value:g}")
    rows: list[dict[str, Any]] = []
    pages = [(each, index) for each in files for index in range(page_count(each))]
    for path, page in track(pages, "scoring", console=messages, transient=True, disable=not messages.is_terminal):
        row: dict[str, Any] = {"file": path, "page": page}
        try:
            image = semdrivers.read_image(path, page)
            known = _magnification(path, image, named, override)
            evaluation = evaluate(image, magnification=known, probe_diameter=probe_diameter, bar_rows=bar_rows)
            blur = None if evaluation.log_larger is None else math.expm1(evaluation.log_larger)
            row |= {"score": evaluation.score, "magnification": known, "blur_pixels": blur, "error": None}
        except Exception as error:
            row |= {"score": None, "magnification": None, "blur_pixels": None, "error": problem_of(path, error)}
        rows.append(row)
    if json:
        print_json({"pictures": rows})
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("score", justify="right")
        table.add_column("blur", justify="right")
        table.add_column("file", overflow="fold")
        for row in rows:
            if row["error"] is None:
                blurred = "" if row["blur_pixels"] is None else f"{row['blur_pixels']:.1f} px"
                table.add_row(f"{row['score']:.2f}", blurred, escape(_page_name(row)))
        if table.rows:
            output.print(table)
    end_batch([row["error"] for row in rows if row["error"] is not None])


def _magnification(path: Path, image: semdrivers.Image, given: dict[str, float], override: bool) -> float:
    """Return what the file says, or what is given where it says nothing; a difference is always reported."""
    from semfocus_plugin.networks import magnification_from_pixel, magnification_of

    width, own, known = image.pixels.shape[1], magnification_of(image), math.nan
    for name, value in given.items():
        pixel_size = value * 1e3 / width if name == "--hfw" else value
        known = value if name == "--magnification" else magnification_from_pixel(pixel_size, width)
    if math.isnan(own) and math.isnan(known):
        raise InvalidParameterError(
            f"{path} does not hold its magnification: add --magnification, --pixel-size or --hfw"
        )
    if math.isnan(own) or override:
        return known
    if given and not math.isclose(own, known, rel_tol=0.01):
        messages.print(
            f"{path}: the file says {own:g}×, which is used; {next(iter(given))} is for files that say nothing, and "
            "--override uses it all the same",
            markup=False,
            soft_wrap=True,
        )
    return own


def _page_name(row: dict[str, Any]) -> str:
    return f"{row['file']}" + (f", page {row['page']}" if row["page"] else "")


@app.command()
def models(
    verify: Annotated[bool, typer.Option("--verify", help="Check the files and open them.")] = False, json: Json = False
) -> None:
    """List the networks and the autofocus methods.

    Example: semfocus models --verify
    """
    from semfocus_plugin import networks

    cards = networks.read_manifest()
    if verify:
        for card in cards:
            card.verify()
        networks.load()
    methods = semdrivers.get_plugin_manager().autofocus_methods()
    if json:
        entries = [{"path": card.path, **card.details} for card in cards]
        print_json({"models": entries, "methods": methods, "verified": verify})
        return
    for card in cards:
        size = f"{card.path.stat().st_size / 1e6:.2f} MB" if card.path.is_file() else "missing"
        output.print(f"[bold]{card.name}[/bold]", end="  ")
        output.print(f"{card.role}, {size}, sha256 {card.sha256[:12]}…", markup=False)
        for key in ("specimens", "metrics"):
            if card.details.get(key):
                output.print(f"  {key}: {_short(card.details[key])}", markup=False)
    if verify:
        output.print(f"{counted(len(cards), 'model')} verified")
    output.print("[bold]methods[/bold] (the first is the default)")
    for name, text in methods.items():
        output.print(f"  {name}: {text}", markup=False)


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_result(result: semdrivers.AutofocusResult) -> None:
    """Print how a run ended, on one line."""
    colour = {"focused": "green", "refused": "yellow", "cancelled": "yellow"}.get(result.status, "red")
    output.print(f"[bold {colour}]{result.status}[/]", end=" ")
    output.print(
        f"at {result.working_distance:.3f} mm (from {result.start_working_distance:.3f} mm), score "
        f"{result.score:.1f}, confidence {result.confidence:.2f}, {counted(result.frames, 'frame')}, "
        f"{result.elapsed:.1f} s, {result.method}: {result.reason}",
        markup=False,
        soft_wrap=True,
    )


def leave(result: semdrivers.AutofocusResult) -> None:
    """Leave with the exit code of a run; return when it is 0."""
    if not result.focused:
        raise typer.Exit(INTERRUPTED if result.status == "cancelled" else REFUSED)


def _check_outputs(*wanted: tuple[Path | None, tuple[str, ...]], overwrite: bool) -> None:
    """Find out before anything moves whether the files could be written."""
    for path, endings in wanted:
        if path is None:
            continue
        if path.suffix.lower() not in endings:
            raise InvalidParameterError(f"{path}: the name must end in {' or '.join(endings)}")
        if not path.absolute().parent.is_dir():
            raise InvalidParameterError(f"{path}: there is no folder {path.parent}")
        check_free(path, overwrite)
