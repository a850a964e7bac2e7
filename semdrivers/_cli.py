"""The command line ``semdrivers``: look at a microscope, take a picture, run an emulator, list plugins."""

from __future__ import annotations

import enum
import math
import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

import semdrivers
from semdrivers._builtin import NOT_RUN
from semdrivers.base import PARTS, described
from semdrivers.connection import LEAST_TOKEN, TOKEN_VARIABLE, opened, read_token
from semdrivers.console import (
    FAULT,
    REFUSED,
    BarRowsOption,
    Json,
    Url,
    application,
    end_batch,
    fail,
    messages,
    output,
    print_json,
    problem_of,
)
from semdrivers.errors import InvalidParameterError
from semdrivers.files import check_free, plain
from semdrivers.image import ScanMode
from semdrivers.instruments import read_instruments
from semdrivers.microscope import has_part

app = application(
    "semdrivers", "Drivers for scanning electron microscopes, an emulator of one, and the plugins they use."
)


_CONDITIONS = ("working_distance", "magnification", "pixel_size", "frame_id")


class Make(enum.StrEnum):
    """Whose microscope an emulator is of."""

    EM30 = "em30"
    TESCAN = "tescan"


@app.command()
def info(
    url: Annotated[
        str | None, typer.Argument(help="Address or name of the microscope; by default what could be opened is listed.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what is at an address: model, limits, present settings; without one, what could be opened.

    Example: semdrivers info em30://192.168.1.30
    """
    if url is None:
        _print_openable(json)
        return
    with opened(url) as microscope:
        facts = _describe(url, microscope)
    if json:
        print_json(facts)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_row("address", url)
    for name, label in (("model", "model"), ("serial", "serial number"), ("firmware", "firmware")):
        table.add_row(label, facts[name] or "not reported")
    for name, unit in _optional_values().items():
        table.add_row(name.replace("_", " "), _said(facts[name], unit))
    for name, unit in (("working_distance", " mm"), ("magnification", "×")):
        limits = facts["limits"][name]
        step = f", step {limits['step']:g}{unit}" if limits["step"] else ""
        value = f"{facts[name]:g}{unit}  ({limits['minimum']:g} to {limits['maximum']:g}{unit}{step})"
        table.add_row(name.replace("_", " "), value)
    modes = (f"{mode['name']} {mode['width']}×{mode['height']}" for mode in facts["scan_modes"])
    table.add_row("scan modes", ", ".join(modes))
    if facts["verified_on"] is not None:
        table.add_row("verified on", f"{facts['verified_on']}; not run on an instrument")
    table.add_row("also offers", ", ".join(facts["offers"]) or "nothing further")
    output.print(table)


def _said(value: Any, unit: str) -> str:
    """Return an optional value of `Capabilities` for people: a number, a range, or a matrix by its rows."""
    if value is None:
        return "not reported"
    if isinstance(value, semdrivers.Range):
        return f"{value.minimum:g} to {value.maximum:g}"
    if isinstance(value, tuple):
        return "; ".join(" ".join(f"{each:g}" for each in row) for row in value)
    return f"{value:g} {unit}".rstrip()


def _print_openable(json: bool) -> None:
    """Print the named instruments and an example of every scheme; no instrument is asked anything."""
    named, schemes = read_instruments(), semdrivers.get_plugin_manager().schemes()
    if json:
        print_json({"instruments": named, "schemes": schemes, "verified_on": NOT_RUN})
        return
    rows = {name: instrument.describe() for name, instrument in named.items()}
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for title, entries in (("named instruments", rows), ("addresses", schemes)):
        table.add_row(title, "" if entries else "none yet; semdrivers instrument add NAME URL keeps one")
        for name, text in entries.items():
            table.add_row(f"  {escape(name)}", escape(text))
    output.print(table)
    messages.print("semdrivers info URL asks an instrument; semdrivers doctor checks the installation")


@app.command()
def snap(
    url: Url,
    out: Annotated[Path, typer.Option("--out", "-o", help="The OME-TIFF to write (.ome.tif, .tif).")],
    mode: Annotated[
        str, typer.Option(help="Scan mode: a name that semdrivers info lists, or fastest, or slowest.")
    ] = "slowest",
    autofocus: Annotated[bool, typer.Option("--autofocus", help="Focus first; no picture if refused.")] = False,
    magnification: Annotated[
        float | None, typer.Option(help="Magnification to set first; left as it is by default.")
    ] = None,
    working_distance: Annotated[
        float | None, typer.Option(help="Working distance to set first, mm; left as it is by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json: Json = False,
) -> None:
    """Take a picture and save it with everything that is known of it.

    Example: semdrivers snap em30://192.168.1.30 --autofocus -o night/0001.ome.tif
    """
    _check_output(out, overwrite)
    image = None

    def prepare(microscope: Any) -> None:
        _mode(microscope.capabilities.scan_modes, mode)
        if magnification is not None:
            microscope.magnification = magnification
        if working_distance is not None:
            microscope.working_distance = working_distance

    with opened(url, prepare=prepare) as microscope:
        scan_mode = _mode(microscope.capabilities.scan_modes, mode)
        result = _focus(microscope) if autofocus else None
        if result is None or result.focused:
            image = described(microscope.acquire(scan_mode), microscope, None if result is None else result.to_record())
            image.save(out, overwrite=overwrite)
    if result is not None and image is None:
        fail(f"autofocus {result.status}: {result.reason}; no picture was taken")
        if json:
            print_json({"path": None, "autofocus": result.to_record()})
        raise typer.Exit(REFUSED)
    assert image is not None
    if json:
        print_json(
            {
                "path": out,
                **{name: getattr(image, name) for name in _CONDITIONS},
                "shape": image.pixels.shape,
                "dtype": str(image.pixels.dtype),
                "autofocus": result.to_record() if result is not None else None,
            }
        )
        return
    if result is not None:
        output.print(repr(result), markup=False)
    output.print(
        f"{out}: {image.pixels.shape[1]}×{image.pixels.shape[0]}, working distance "
        f"{image.working_distance:.3f} mm, {image.magnification:g}×, {image.pixel_size:g} nm a pixel",
        markup=False,
        soft_wrap=True,
    )


@app.command("record-series")
def record_a_series(
    url: Url,
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder for pictures, table and read-me.")],
    planes: Annotated[int, typer.Option(min=5, max=1000, help="Number of pictures.")] = 41,
    span: Annotated[
        float | None,
        typer.Option(help="From the first plane to the last, mm; by default what blurs by 20 pixels at either end."),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="Scan mode: a name that semdrivers info lists, or fastest, or slowest.")
    ] = "fastest",
    sample: Annotated[str, typer.Option(help="What is under the beam, for the read-me.")] = "",
    licence: Annotated[
        str, typer.Option(help="Licence under which others may use the pictures, such as CC0-1.0.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a series in that folder.")] = False,
    json: Json = False,
) -> None:
    """Take pictures through focus, around the present working distance; series:// opens them.

    The lens is put back, the beam stays as it is. Focus first: semfocus run.

    Example: semdrivers record-series em30://192.168.1.30 -o tin-series --planes 41 --licence CC0-1.0
    """
    from semdrivers.sessions import free_folder, record_series

    def prepare(microscope: Any) -> None:
        _mode(microscope.capabilities.scan_modes, mode)

    if not overwrite:
        free_folder(out)
    with opened(url, prepare=prepare) as microscope, messages.status("recording") as status:
        record = record_series(
            microscope,
            out,
            planes=planes,
            span=span,
            mode=_mode(microscope.capabilities.scan_modes, mode),
            sample=sample,
            licence=licence,
            overwrite=overwrite,
            progress=lambda index, image: status.update(f"plane {index + 1}/{planes}, {image.working_distance:.4f} mm"),
        )
    if json:
        print_json(plain(record))
        return
    first, last = record.working_distances[0], record.working_distances[-1]
    output.print(
        f"{record.folder}: {planes} planes, {first:g} to {last:g} mm, the sharpest at {record.sharpest:g} mm",
        markup=False,
        soft_wrap=True,
    )
    for note in record.notes:
        messages.print(note, markup=False)


@app.command()
def stop(url: Url, json: Json = False) -> None:
    """Stop the scan and blank the beam at once, also of a microscope that another program controls.

    The other program cannot switch the beam on again before it connects anew.

    Example: semdrivers stop em30://192.168.1.30
    """
    semdrivers.stop(url, client=f"semdrivers stop on {platform.node()}")
    if json:
        print_json({"url": url, "stopped": True})
    else:
        output.print("the scan is stopped, the beam is off")


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(help="Pictures: OME-TIFF, TIFF of any maker, PNG, JPEG, BMP.")],
    json: Json = False,
) -> None:
    """Print all that is known of a picture: conditions, pixel size, data bar, bit depth, what its maker wrote.

    Example: semdrivers show night/0001.tif
    """
    rows: list[dict[str, Any]] = []
    for path in files:
        try:
            rows.append({"file": path, **_known(path), "error": None})
        except Exception as error:
            rows.append({"file": path, "error": problem_of(path, error)})
    if json:
        print_json({"pictures": rows})
    else:
        for row in (row for row in rows if row["error"] is None):
            output.print(str(row["file"]), style="bold", markup=False, soft_wrap=True)
            shown = list(_shown(row))
            width = max(len(name) for name, _ in shown)
            for name, value in shown:
                output.print(f"[bold]{name:<{width}}[/bold]  {escape(value)}", soft_wrap=True)
    end_batch([row["error"] for row in rows if row["error"] is not None])


def _known(path: Path) -> dict[str, Any]:
    """Return what is known of a picture, for JSON: values under the names of `semdrivers.Image`, and of its maker."""
    from semdrivers.data_bar import bar_rows_of, without_bar
    from semdrivers.files import page_count
    from semdrivers.grey_levels import full_scale

    image = semdrivers.read_image(path)
    height, width = image.pixels.shape
    bar_rows = bar_rows_of(image.pixels, image.metadata)
    sample = without_bar(image.pixels, bar_rows, str(path))
    top = full_scale(sample, image.bit_depth)
    vendor = dict(image.metadata.get("vendor") or {})
    for name in ("working_distance", "magnification", "pixel_size", "bar_rows"):
        vendor.pop(name, None)
    return {
        "width": width,
        "height": height,
        "pages": page_count(path),
        "dtype": str(image.pixels.dtype),
        "bit_depth": image.bit_depth,
        "full_scale": top,
        "saturated": float(np.mean(sample >= top)),
        "black": float(np.mean(sample == 0)),
        "working_distance": image.working_distance,
        "magnification": image.magnification,
        "pixel_size": image.pixel_size,
        "field_width": image.pixel_size * width * 1e-3,
        "bar_rows": bar_rows,
        "bar_rows_source": "file" if "bar_rows" in image.metadata else "detected",
        "frame_id": image.frame_id,
        "timestamp": image.timestamp,
        "scan_mode": image.scan_mode,
        "vendor": vendor,
        "metadata": {key: value for key, value in image.metadata.items() if key not in ("vendor", "bar_rows")},
    }


def _bar(rows: Any) -> str:
    if isinstance(rows, tuple):
        return f"{rows[0]} rows at the top and {rows[1]} at the bottom"
    return f"{abs(rows)} rows{' at the top' if rows < 0 else ''}"


def _shown(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of a table: name, and value with its unit; what is unknown says so."""

    def known(name: str, unit: str) -> str:
        return f"{row[name]:g}{unit}" if math.isfinite(row[name]) else "unknown"

    depth = f"{row['bit_depth']} bits" if row["bit_depth"] else f"full scale {row['full_scale']}"
    lines = [
        ("size", f"{row['width']}×{row['height']} pixels" + (f", {row['pages']} pages" if row["pages"] > 1 else "")),
        ("grey levels", f"{row['dtype']}, {depth}, {row['saturated']:.1%} saturated, {row['black']:.1%} black"),
        ("working distance", known("working_distance", " mm")),
        ("magnification", known("magnification", "×")),
        ("pixel size", known("pixel_size", " nm")),
        ("field width", known("field_width", " µm")),
        (
            "data bar",
            f"{_bar(row['bar_rows'])}, " + ("from the file" if row["bar_rows_source"] == "file" else "detected"),
        ),
    ]
    vendor = dict(row["vendor"])
    vendor.pop("field_width", None)
    units = {"voltage": " kV"}
    lines += [(name, f"{value}{units.get(name, '')}") for name, value in vendor.items()]
    lines += [(name.replace("_", " "), str(row[name])) for name in ("frame_id", "timestamp") if row[name] is not None]
    lines += [(str(key), str(value)) for key, value in row["metadata"].items()]
    return lines


@app.command()
def plugins(json: Json = False) -> None:
    """List the plugins, those that did not load included.

    Example: SEMDRIVERS_PLUGINS=builtin semdrivers plugins
    """
    manager = semdrivers.get_plugin_manager()
    if json:
        print_json(
            {
                "plugins": manager.records,
                "schemes": manager.schemes(),
                "autofocus_methods": manager.autofocus_methods(),
                "specimens": sorted(manager.specimens()),
            }
        )
        return
    for record in manager.records:
        output.print(f"[bold]{record.name}[/bold]", end="  ")
        output.print(f"{record.distribution} {record.version}, {record.value}", markup=False)
        if record.error:
            output.print(f"  not in use: {record.error}", style="red", markup=False)
        else:
            output.print(f"  {', '.join(record.hooks) or 'no hook'}", markup=False)
    for title, named in (("schemes", manager.schemes()), ("autofocus methods", manager.autofocus_methods())):
        output.print(f"[bold]{title}[/bold]")
        for name, text in named.items():
            output.print(f"  {name}: {text}", markup=False)
    output.print("[bold]specimens[/bold]")
    output.print(f"  {', '.join(manager.specimens()) or 'none'}", markup=False)


@app.command()
def check(url: Url, json: Json = False) -> None:
    """Check that a microscope keeps the contract. Lens and magnification move, and are put back.

    Example: semdrivers check em30://192.168.1.30
    """
    from semdrivers.conformance import run_checks

    microscope = semdrivers.connect(url)
    outcomes = []
    colour = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
    try:
        for outcome in run_checks(microscope):
            outcomes.append(outcome)
            if not json:
                output.print(f"[{colour[outcome.status]}]{outcome.status}[/]", end="  ")
                output.print(outcome.rule, markup=False)
                if outcome.detail:
                    output.print(f"        {outcome.detail}", markup=False)
    finally:
        microscope.close()
    failed = sum(outcome.status == "failed" for outcome in outcomes)
    if json:
        print_json({"url": url, "failed": failed, "checks": outcomes})
    else:
        output.print(f"{len(outcomes)} checks, {failed} failed")
    if failed:
        raise typer.Exit(FAULT)


@app.command()
def doctor(json: Json = False) -> None:
    """Check the installation: plugins, USB, serial lines, settings, and a picture from the emulator.

    Exit code 0 when all is well, 1 when something must be repaired. No instrument is asked anything.

    Example: semdrivers doctor
    """
    from semdrivers.doctor import examine

    findings = []
    colour = {"good": "green", "note": "yellow", "bad": "bold red"}
    for finding in examine():
        findings.append(finding)
        if not json:
            output.print(f"[{colour[finding.status]}]{finding.status}[/]", end="  ")
            output.print(f"{finding.what}: {finding.detail}", markup=False, soft_wrap=True)
    bad = sum(finding.status == "bad" for finding in findings)
    if json:
        print_json({"bad": bad, "findings": findings})
    elif not bad:
        output.print("all is well")
    if bad:
        raise typer.Exit(FAULT)


@app.command("new-driver")
def write_new_driver(
    name: Annotated[str, typer.Argument(help="Name of the package and scheme of its addresses, such as my-sem.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to make the folder of that name.")] = Path("."),
) -> None:
    """Write the package of a new driver, with a fake instrument and tests that pass at once.

    Example: semdrivers new-driver my-sem && cd my-sem && pip install -e '.[test]' && pytest
    """
    from semdrivers.scaffold import new_driver

    path = new_driver(name, folder)
    output.print(f"{path} is written; begin with {path / 'README.md'}", markup=False, soft_wrap=True)


instrument = application("instrument", "Named instruments: an address and limits under a short name.")
app.add_typer(instrument, name="instrument")


@instrument.command()
def add(
    name: Annotated[str, typer.Argument(help="The name, which every command then takes for an address.")],
    url: Url,
    max_travel: Annotated[
        float | None, typer.Option(help="Furthest that autofocus may go from its start, mm; no limit by default.")
    ] = None,
    bounds: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest working distance that may be set, mm; the instrument's by default."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an instrument of that name.")] = False,
) -> None:
    """Keep an address under a name, with limits that hold for every run and every script.

    Example: semdrivers instrument add lab-sem em30://192.168.1.30 --max-travel 2
    """
    from semdrivers.instruments import Instrument, add_instrument

    path = add_instrument(name, Instrument(url, max_travel, bounds), overwrite=overwrite)
    output.print(f"{name} is kept in {path}", markup=False, soft_wrap=True)


@instrument.command()
def remove(name: Annotated[str, typer.Argument(help="Name of the instrument.")]) -> None:
    """Forget a named instrument.

    Example: semdrivers instrument remove lab-sem
    """
    from semdrivers.instruments import remove_instrument

    output.print(f"{name} is no longer in {remove_instrument(name)}", markup=False, soft_wrap=True)


@instrument.command("list")
def list_instruments(json: Json = False) -> None:
    """List the named instruments, with address and limits.

    Example: semdrivers instrument list
    """
    kept = read_instruments()
    if json:
        print_json({"instruments": kept})
        return
    for name, each in kept.items():
        output.print(f"[bold]{escape(name)}[/bold]", end="  ")
        output.print(each.describe(), markup=False, soft_wrap=True)


@app.command()
def emulate(
    specimen: Annotated[
        str, typer.Option(help="Specimen under the beam: a name, or the file of a picture.")
    ] = "tin-balls",
    pixel_size: Annotated[
        float | None, typer.Option(help="Pixel size of a picture, nm; what the file says by default.")
    ] = None,
    bar_rows: BarRowsOption = None,
    seed: Annotated[int, typer.Option(help="Random seed; fixes specimen, place, start and noise.")] = 0,
    magnification: Annotated[float, typer.Option(help="Magnification at the start.")] = 5000.0,
    working_distance: Annotated[
        float | None, typer.Option(help="Working distance at the start, mm; drawn by the seed by default.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset of the column: ideal, typical or hostile.")] = "typical",
    control_port: Annotated[int, typer.Option(help="TCP port for control; 0 for any that is free.")] = 0,
    usb_port: Annotated[int, typer.Option(help="TCP port for the USB pipe; 0 for any that is free.")] = 0,
    serial: Annotated[bool, typer.Option("--serial", help="Offer a serial line too (not on Windows).")] = False,
    realtime: Annotated[bool, typer.Option("--realtime", help="Scans and moves take their time.")] = False,
    faults: Annotated[str, typer.Option(help="Faults to produce, such as usb-drop:0.01,control-reset@5.")] = "",
    save_session: Annotated[
        Path | None,
        typer.Option(help="Record all of it in this new folder, which replay:// opens; not recorded by default."),
    ] = None,
    make: Annotated[Make, typer.Option(help="Make of the emulated microscope.")] = Make.EM30,
    expose: Annotated[
        bool, typer.Option("--expose", help="Let other computers connect, not this one alone; needs a token.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File whose first line is the token to ask for; {TOKEN_VARIABLE} by default.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of a certificate, for TLS on both ports; no TLS by default.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its private key; in the same file by default.")] = None,
    json: Json = False,
) -> None:
    """Run an emulator for other programs, on this computer unless --expose is given, until Ctrl-C.

    Example: semdrivers emulate --specimen micrograph.tif --pixel-size 26.9
    """
    from semdrivers.emulator import Emulator, TescanEmulator

    if make is Make.TESCAN:
        only = {
            "--usb-port": usb_port,
            "--serial": serial,
            "--realtime": realtime,
            "--save-session": save_session,
            "--expose": expose,
            "--token-file": token_file,
            "--certificate": certificate,
            "--key": key,
        }
        for option, given in only.items():
            if given:
                raise InvalidParameterError(f"{option} belongs to the emulator of an EM-30, not to --make tescan")
        tescan = TescanEmulator(
            specimen,
            pixel_size=pixel_size,
            seed=seed,
            magnification=magnification,
            working_distance=working_distance,
            preset=preset,
            port=control_port,
            faults=faults,
        )
        with _until_stopped() as stop, tescan:
            if json:
                print_json({"url": tescan.url, "serial_url": None, "pid": os.getpid()}, one_line=True)
            else:
                output.print("a TESCAN emulator is running; Ctrl-C ends it. Connect to it with")
                output.print(f"  {tescan.url}", markup=False, soft_wrap=True)
            while not stop.wait(0.5):
                pass
        messages.print("the emulator has ended")
        return
    token = read_token(token_file)
    if expose and token is None:
        raise InvalidParameterError(
            f"--expose needs a token of at least {LEAST_TOKEN} characters: write one into a file for --token-file, or "
            f"into the environment variable {TOKEN_VARIABLE}"
        )
    emulator = Emulator(
        specimen,
        token=token,
        certificate=certificate,
        key=key,
        expose=expose,
        pixel_size=pixel_size,
        bar_rows=bar_rows,
        seed=seed,
        magnification=magnification,
        working_distance=working_distance,
        preset=preset,
        control_port=control_port,
        usb_port=usb_port,
        serial=serial,
        realtime=realtime,
        faults=faults,
        save_session=save_session,
    )
    with _until_stopped() as stop, emulator:
        if json:
            print_json(
                {"url": emulator.remote_url, "serial_url": emulator.serial_url if serial else None, "pid": os.getpid()},
                one_line=True,
            )
        else:
            output.print("an EM-30 emulator is running; Ctrl-C ends it. Connect to it with")
            output.print(f"  {emulator.remote_url}", markup=False, soft_wrap=True)
            if serial:
                output.print(f"  {emulator.serial_url}", markup=False, soft_wrap=True)
        if expose:
            messages.print(
                "[bold red]EXPOSED:[/bold red] everybody who reaches the ports of this computer can stop the scan, and "
                "whoever has the token controls the emulator; what is sent is "
                f"{'encrypted' if certificate else 'not encrypted'}. Ctrl-C ends it.",
                soft_wrap=True,
            )
        while not stop.wait(0.5):
            pass
    messages.print("the emulator has ended")


@contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or a request to terminate sets: the ordinary end of a server, not an error."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _optional_values() -> dict[str, str]:
    """Return the optional values of `Capabilities`, each with its unit."""
    return {
        part.name: part.metadata.get("unit", "") for part in fields(semdrivers.Capabilities) if part.default is None
    }


def _describe(url: str, microscope: Any) -> dict[str, Any]:
    capabilities = microscope.capabilities
    address = url if "://" in url else read_instruments()[url].url
    scheme = address.partition("://")[0].lower()
    return {
        "url": url,
        "verified_on": NOT_RUN.get(scheme),
        **{name: getattr(capabilities, name) for name in ("model", "serial", "firmware")},
        **{name: getattr(capabilities, name, None) for name in _optional_values()},
        "working_distance": microscope.working_distance,
        "magnification": microscope.magnification,
        "limits": {name: plain(getattr(capabilities, name)) for name in ("working_distance", "magnification")},
        "scan_modes": [
            {"name": mode.name.lower(), "width": mode.width, "height": mode.height} for mode in capabilities.scan_modes
        ],
        "offers": [name for part, name in PARTS.items() if has_part(microscope, part)],
    }


def _mode(offered: tuple[ScanMode, ...], name: str) -> ScanMode:
    modes = {"fastest": offered[0], "slowest": offered[-1], **{mode.name.lower(): mode for mode in offered}}
    if name.lower() not in modes:
        raise InvalidParameterError(f"--mode {name}: there is no such scan mode; the instrument has {', '.join(modes)}")
    return modes[name.lower()]


def _check_output(path: Path, overwrite: bool) -> None:
    """Find out before anything moves whether the picture could be saved."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InvalidParameterError(f"--out {path}: the name of an OME-TIFF ends in .tif or .tiff")
    if not path.parent.is_dir():
        raise InvalidParameterError(f"--out {path}: there is no folder {path.parent}")
    check_free(path, overwrite)


def _focus(microscope: Any) -> semdrivers.AutofocusResult:
    with messages.status("focusing") as status:
        return semdrivers.autofocus(
            microscope,
            progress=lambda step: status.update(
                f"focusing: frame {step.frame}, {step.working_distance:.3f} mm, score {step.score:.1f}"
            ),
        )


def main() -> None:
    """Run the command line."""
    app()
