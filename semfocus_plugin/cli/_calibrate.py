"""The command that calibrates autofocus to a microscope."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import semdrivers
from semdrivers.console import INTERRUPTED, Json, Url, fail, output, print_json
from semdrivers.errors import InvalidParameterError
from semdrivers.files import check_free, counted, plot_calibration
from semfocus_plugin.cli._options import Bounds, MethodName


def calibrate(
    url: Url,
    magnification: Annotated[
        float | None, typer.Option(help="Magnification to measure at, put back at the end; the present one by default.")
    ] = None,
    probe_diameter: Annotated[
        float | None, typer.Option(help="Diameter of the focused probe in nm, by the data sheet; not known by default.")
    ] = None,
    bounds: Bounds = None,
    max_travel: Annotated[
        float | None, typer.Option(help="Furthest from the start, mm; no limit by default but that of --bounds.")
    ] = None,
    method: MethodName = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write, .json; the instrument's own in the user's settings by default."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the series and the fit: .png, .pdf or .svg; not drawn by default.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of --out and --plot if they exist.")
    ] = False,
    stigmator: Annotated[
        bool, typer.Option("--stigmator", help="Measure what the stigmator does, in some 12 frames, not the aperture.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing; show what is calibrated, and what runs have learned.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure the aperture by one focal series, and keep it for later autofocus.

    Stands on a field with fine detail, focuses, takes some 20 frames through focus, and puts working distance and
    magnification back.

    Example: semfocus calibrate em30://192.168.1.30 --magnification 3000
    """
    if show:
        _show(url, json)
        return
    from semfocus_plugin import calibration
    from semfocus_plugin.cli._display import FrameTable, cancelled_by_interrupt

    settings = semdrivers.AutofocusSettings(method=method, bounds=bounds, max_travel=max_travel)
    if out is not None and (out.suffix.lower() != ".json" or not out.absolute().parent.is_dir()):
        raise InvalidParameterError(f"{out}: the name must end in .json, and its folder must be there")
    if plot is not None and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InvalidParameterError(f"--plot {plot}: the name must end in .png, .pdf or .svg")
    for path in filter(None, (out, plot)):
        check_free(path, overwrite)
    if stigmator:
        if magnification is not None or probe_diameter is not None or plot is not None:
            raise InvalidParameterError("--stigmator measures where the microscope stands: leave the others out")
        _stigmator(url, settings, out, overwrite, json)
        return
    try:
        with semdrivers.opened(url) as microscope:
            if out is None:
                calibration.check_place(microscope.capabilities)
            with cancelled_by_interrupt() as cancel, FrameTable() as frames:
                fit = calibration.calibrate(
                    microscope,
                    magnification=magnification,
                    probe_diameter=probe_diameter,
                    settings=settings,
                    progress=None if json else frames.add,
                    cancel=cancel,
                )
    except calibration.CalibrationCancelled as error:
        fail(str(error))
        raise typer.Exit(INTERRUPTED) from None
    path = calibration.save(fit, out, overwrite=overwrite)
    if plot is not None:
        plot_calibration(fit.to_dict(), plot, overwrite=overwrite)
    if json:
        print_json({**fit.to_dict(), "file": str(path)})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in (
        ("instrument", f"{fit.model or 'unnamed'} {fit.serial}".strip()),
        ("aperture radius", f"{fit.aperture * 1e3:.1f} ± {fit.aperture_sigma * 1e3:.1f} µm"),
        ("half-angle", f"{fit.half_angle:.2f} ± {fit.half_angle_sigma:.2f} mrad at {fit.working_distance:.3f} mm"),
        (
            "depth of field",
            f"{fit.depth_of_field * 1e3:.1f} ± {fit.depth_of_field_sigma * 1e3:.1f} µm at {fit.magnification:g}×",
        ),
        ("deviation from the fit", f"{fit.residual:.2f} in ln(1 + blur radius), {counted(fit.frames, 'frame')}"),
        ("kept in", str(path)),
    ):
        table.add_row(name, text)
    output.print(table)


def _stigmator(url: str, settings: semdrivers.AutofocusSettings, out: Path | None, overwrite: bool, json: bool) -> None:
    """Measure what the stigmator of an instrument does, and keep it."""
    from semfocus_plugin import calibration
    from semfocus_plugin.cli._display import FrameTable, cancelled_by_interrupt

    try:
        with semdrivers.opened(url) as microscope:
            if out is None:
                calibration.check_place(microscope.capabilities)
            kept = calibration.calibration_for(microscope.capabilities)
            with cancelled_by_interrupt() as cancel, FrameTable() as frames:
                found = calibration.calibrate_stigmator(
                    microscope,
                    settings=settings,
                    progress=None if json else frames.add,
                    cancel=cancel,
                    beam=None if kept is None else kept.beam,
                )
    except calibration.CalibrationCancelled as error:
        fail(str(error))
        raise typer.Exit(INTERRUPTED) from None
    path = calibration.keep_stigmator(found, out, overwrite=overwrite)
    if json:
        print_json({**asdict(found), "file": str(path)})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("instrument", f"{found.model or 'unnamed'} {found.serial}".strip())
    for axis, column in zip("xy", zip(*found.matrix, strict=True), strict=True):
        x, y = column
        turn = math.degrees(0.5 * math.atan2(y, x)) % 180
        table.add_row(f"a unit of axis {axis}", f"adds {math.hypot(x, y):.3g} µm of astigmatism at {turn:.0f}°")
    table.add_row("uncertainty", f"{found.sigma:.0%}, {counted(found.frames, 'frame')}")
    table.add_row("kept in", str(path))
    output.print(table)


def _show(url: str, json: bool) -> None:
    """Print the beam that the next run on an instrument starts from."""
    from semfocus_plugin.calibration import apertures_in_use, calibration_for
    from semfocus_plugin.optics import beam_of, instrument_of

    microscope = semdrivers.connect(url)
    try:
        capabilities, place = microscope.capabilities, microscope.working_distance
        instrument = instrument_of(microscope, capabilities)
    finally:
        microscope.close()
    kept, store = calibration_for(capabilities), apertures_in_use()
    known = store.get(instrument) if store is not None and instrument is not None else None
    beam = beam_of(capabilities, place, None if kept is None else kept.beam, known)
    source = (
        "calibrated"
        if kept is not None
        else f"learned in {counted(known.runs, 'run')}"
        if known is not None
        else "nominal"
    )
    if source == "nominal" and beam.sigma is not None:
        source = "reported by the instrument"
    values = {
        "instrument": instrument or "unnamed",
        "half_angle": float(beam.angle(place)) * 1e3,
        "sigma": None if beam.sigma is None else beam.sigma * float(beam.angle(place)) * 1e3,
        "working_distance": place,
        "source": source,
        "learning": store is not None,
    }
    if json:
        print_json(values)
        return
    spread = "" if values["sigma"] is None else f" ± {values['sigma']:.2f}"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("instrument", str(values["instrument"]))
    table.add_row("half-angle", f"{values['half_angle']:.2f}{spread} mrad at {place:.3f} mm, {source}")
    table.add_row("learning in use", "on" if store is not None else "off")
    output.print(table)
