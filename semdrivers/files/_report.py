"""Reports of autofocus runs: HTML that holds its pictures itself, for a browser, an archive, or a notebook."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semdrivers.files._plotting import draw_before_after, draw_result, plot_before_after

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 1.5rem auto; padding: 0 1rem }
.semfocus table { border-collapse: collapse; margin: .6rem 0 }
.semfocus td, .semfocus th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }
.semfocus th { font-weight: 600; white-space: nowrap } .semfocus .wide { overflow-x: auto }
.semfocus img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
.semfocus code { font-size: 85%; overflow-wrap: anywhere }
.semfocus section { border-top: 1px solid #8886; margin-top: 2rem }
"""
_UNITS = {"max_travel": "mm", "bounds": "mm", "max_seconds": "s", "max_dose": "electrons/µm²"}
_OVERVIEW = ("run", "status", "working distance", "score", "confidence", "frames", "time", "reason")
_TRACE = ("frame", "phase", "working distance", "magnification", "score", "blur", "then moved")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a report.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), uint8 or uint16
        Grey levels.
    working_distance : float
        mm.
    pixel_size : float
        nm; NaN where it is unknown.
    """

    pixels: NDArray[Any]
    working_distance: float
    pixel_size: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of a report.

    Parameters
    ----------
    name : str
        Its heading.
    result : mapping
        What `semdrivers.AutofocusResult.to_dict` returns.
    before, after : Picture or None
        Where there are such pictures.
    """

    name: str
    result: Mapping[str, Any]
    before: Picture | None = None
    after: Picture | None = None


def report_page(entries: Iterable[Entry], title: str) -> str:
    """Return a self-contained HTML page of runs; with more than one it begins with a table of them."""
    listed = list(entries)
    overview = ""
    if len(listed) > 1:
        overview = _table(_OVERVIEW, [_overview(entry) for entry in listed])
    sections = "".join(f"<section><h2>{_text(entry.name)}</h2>{_section(entry)}</section>" for entry in listed)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><style>{_STYLE}</style></head>"
        f'<body class="semfocus"><h1>{_text(title)}</h1>{overview}{sections}</body></html>\n'
    )


def report_fragment(result: Mapping[str, Any]) -> str:
    """Return a run as HTML for a notebook."""
    style = _STYLE[_STYLE.index(".semfocus") :]
    return f'<div class="semfocus"><style>{style}</style>{_section(Entry("", result))}</div>'


def _section(entry: Entry) -> str:
    result, about = entry.result, entry.result.get("provenance") or {}
    facts = [
        ("status", f"<strong>{_text(result['status'])}</strong>: {_text(result['reason'])}"),
        ("working distance", f"{result['working_distance']:.4f} mm, from {result['start_working_distance']:.4f} mm"),
        ("score, confidence", f"{result['score']:.2f} of 9, {result['confidence']:.3f}"),
        ("frames, time", f"{result['frames']}, {result['elapsed']:.1f} s"),
        ("method", _text(result["method"])),
    ]
    if result.get("at_limit"):
        facts.append(("at a limit", "the sharpest place allowed is at a limit of the run"))
    if result.get("depth_of_field"):
        facts.append(("depth of field", f"{1e3 * result['depth_of_field']:.3g} µm"))
    if result.get("stigmator") and result.get("start_stigmator"):
        now, before = (", ".join(f"{value:g}" for value in result[name]) for name in ("stigmator", "start_stigmator"))
        facts.append(("stigmator", f"({now}), from ({before})"))
    if result.get("astigmatism"):
        rest = result["astigmatism"]
        facts.append(("astigmatism left", f"x {rest['x']:.3g} µm, y {rest['y']:.3g} µm, ± {rest['sigma']:.2g} µm"))
    if about.get("time") is not None:
        facts.append(("ended", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(about["time"]))))
    instrument = " ".join(filter(None, (about.get("instrument") or {}).values()))
    settings = {name: value for name, value in (about.get("settings") or {}).items() if value is not None}
    facts += [
        (name, value)
        for name, value in (
            ("instrument", _text(instrument)),
            ("settings", _text(", ".join(f"{k} {v} {_UNITS.get(k, '')}".rstrip() for k, v in settings.items()))),
            ("versions", _text(", ".join(f"{k} {v}" for k, v in (about.get("versions") or {}).items()))),
            (
                "networks",
                "<br>".join(f"{_text(k)} <code>{_text(v)}</code>" for k, v in (about.get("models") or {}).items()),
            ),
        )
        if value
    ]
    rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in facts)
    return (
        f"<table>{rows}</table>{_pictures(entry)}"
        f'<p><img alt="{_text(_described(result))}" src="{_uri(draw_result(result), "svg+xml")}"></p>'
        + _table(_TRACE, [_step(step) for step in result["trace"]])
    )


def plot_pair(entry: Entry, path: str | Path, *, overwrite: bool = False) -> Path | None:
    """Draw the pictures of a run side by side as `plot_before_after` does; None where there are not both."""
    pair = _pair(entry)
    return None if pair is None else plot_before_after(*pair, path, overwrite=overwrite)


def _pictures(entry: Entry) -> str:
    pair = _pair(entry)
    if pair is None:
        return ""
    return f'<p><img alt="{_text("; ".join(pair[2]))}" src="{_uri(draw_before_after(*pair), "png")}"></p>'


def _pair(entry: Entry) -> tuple[NDArray[Any], NDArray[Any], tuple[str, str], float] | None:
    """Return what the functions that draw two pictures take; None where there are not both, of the same proportions."""
    if entry.before is None or entry.after is None:
        return None
    size = min(entry.before.pixels.shape, entry.after.pixels.shape)
    before, after = (_reduced(picture.pixels, size) for picture in (entry.before, entry.after))
    if before is None or after is None:
        return None
    titles = f"before: {entry.before.working_distance:.3f} mm", f"after: {entry.after.working_distance:.3f} mm"
    pixel_size = entry.after.pixel_size * entry.after.pixels.shape[1] / size[1]
    return before, after, titles, pixel_size


def _reduced(pixels: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any] | None:
    """Return a picture averaged down to a size of the same proportions, or None where that is no whole fraction."""
    (height, width), (lines, columns) = pixels.shape, size
    factor = height // lines
    if (height, width) != (factor * lines, factor * columns):
        return None
    return np.asarray(pixels.reshape(lines, factor, columns, factor).mean(axis=(1, 3)))


def _described(result: Mapping[str, Any]) -> str:
    places = ", ".join(f"{step['working_distance']:.3f} mm: {step['score']:.1f}" for step in result["trace"])
    return f"Scores against working distance: {places or 'no frame was acquired'}"


def _overview(entry: Entry) -> list[str]:
    r = entry.result
    return [
        _text(entry.name),
        _text(r["status"]),
        f"{r['working_distance']:.4f} mm",
        f"{r['score']:.2f}",
        f"{r['confidence']:.3f}",
        str(r["frames"]),
        f"{r['elapsed']:.1f} s",
        _text(r["reason"]),
    ]


def _step(step: Mapping[str, Any]) -> list[str]:
    blur = "" if step.get("blur") is None else f"{step['blur']:.1f} px"
    moved = "" if step["action"] is None else f"{step['action']:+.4f} mm"
    return [
        str(step["frame"]),
        _text(step["phase"]),
        f"{step['working_distance']:.4f} mm",
        f"{step['magnification']:g}×",
        f"{step['score']:.2f}",
        blur,
        moved,
    ]


def _table(heads: Iterable[str], rows: Iterable[list[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _text(value: object) -> str:
    return html.escape(str(value))
