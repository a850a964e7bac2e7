"""What makers of microscopes write about a picture: in tags of its TIFF file, or as text beside it.

Every maker has a function here that returns the same few values under the same names, in this project's units; what a
file does not say is left out. tifffile reads the tags that it knows. Sources: tags 34680 and 34682 (FEI and Thermo
Fisher), 34683 (XML of the same makers and of Phenom), 34118 (Zeiss and LEO), 50431 and ``.hdr`` (TESCAN), 33560
(Olympus SIS), descriptions of ImageJ and OpenFIBSEM, and text files of JEOL and Hitachi.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from semdrivers.files._json import parse_json
from semdrivers.files._text import decimal, decoded

_METRES = {
    "m": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "µm": 1e-6,
    "um": 1e-6,
    "micron": 1e-6,
    "nm": 1e-9,
    "pm": 1e-12,
    "fm": 1e-15,
}
_VOLTS = {"v": 1.0, "volt": 1.0, "volts": 1.0, "kv": 1e3, "mv": 1e-3, "ev": 1.0, "kev": 1e3}
_TEXT_LIMIT = 1_000_000
_BINARY = 33560
"""The one tag that holds no text."""

_NAMES = {
    "vendor": "maker",
    "instrument": "instrument",
    "magnification": "magnification",
    "pixel_size": "pixel size (nm)",
    "field_width": "field width (µm)",
    "working_distance": "working distance (mm)",
    "voltage": "accelerating voltage (kV)",
    "detector": "detector",
    "bar_rows": "data bar (rows)",
    "date": "date",
}

Conditions = dict[str, Any]


def vendor_conditions(path: str | Path, width: int, height: int) -> Conditions:
    """Return what the maker of a microscope says of a picture.

    Parameters
    ----------
    path : str or Path
        The picture; TIFF tags of it, and text files of its name beside it, are read.
    width, height : int
        Size of the picture, pixels.

    Returns
    -------
    dict
        Any of ``vendor``, ``instrument``, ``detector`` and ``date`` (text), ``magnification``, ``pixel_size`` (nm),
        ``field_width`` (µm), ``working_distance`` (mm), ``voltage`` (kV) and ``bar_rows`` (rows of a data bar that was
        added below the picture). Empty where no maker is known; a value that is no number above 0 is left out.
    """
    path = Path(path)
    for read in (_of_tags, _of_text_beside):
        try:
            conditions = read(path, width, height)
        except Exception:  # as many kinds as there are ways to damage a file
            continue
        if conditions:
            return _checked(conditions, width, height)
    return {}


def _checked(conditions: Conditions, width: int, height: int) -> Conditions:
    result: Conditions = {}
    for name in _NAMES:
        value = conditions.get(name)
        if name == "bar_rows":
            if isinstance(value, int) and 0 <= value < height:
                result[name] = value
        elif isinstance(value, str):
            if value.strip():
                result[name] = value.strip()
        elif isinstance(value, int | float) and math.isfinite(value) and value > 0:
            result[name] = float(f"{value:.9g}")
    if "pixel_size" not in result and "field_width" in result:
        result["pixel_size"] = result["field_width"] * 1e3 / width
    if "pixel_size" in result:
        result.setdefault("field_width", float(f"{result['pixel_size'] * width * 1e-3:.9g}"))
    return result


# TIFF tags


def _of_tags(path: Path, width: int, height: int) -> Conditions:
    import tifffile

    try:
        file = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, ValueError):
        return {}
    with file:
        page = file.pages.first
        for codes, read in _READERS:
            values = [_value(page, code) for code in codes if code in page.tags]
            if values and (conditions := read(values, width, height)):
                return conditions
        return _of_description(page, width)


def _value(page: Any, code: int) -> Any:
    """Return what a tag holds; text of UTF-16, which ends at its first zero for tifffile, as if it were of 8 bits."""
    import tifffile

    tag, file = page.tags[code], page.parent.filehandle
    file.seek(tag.valueoffset)
    held = file.read(tag.valuebytecount)
    if code == _BINARY or held.count(0) <= len(held) // 3:
        return tag.value
    text = held.replace(b"\0", b"").lstrip(b"\xff\xfe")
    read = tifffile.TIFF.TAG_READERS.get(code)
    return text if read is None else read(tifffile.FileHandle(io.BytesIO(text)), "<", 1, len(text), 4)


def _fei(values: list[Any], width: int, height: int) -> Conditions:
    entries: dict[str, Any] = {}
    for value in values:
        entries |= value
    beam = entries.get("Beam", {})
    column = entries.get(beam.get("Beam", "EBeam"), {})
    scan = entries.get(beam.get("Scan", "EScan"), {}) or entries.get("Scan", {})
    image, private = entries.get("Image", {}), entries.get("PrivateFei", {}) or entries.get("PrivateFEI", {})
    stage, system, detectors = entries.get("Stage", {}), entries.get("System", {}), entries.get("Detectors", {})
    pixel = _number(scan.get("PixelWidth"))
    field = _number(scan.get("HorFieldsize")) or _number(column.get("HFW"))
    lines, columns = _number(image.get("ResolutionY")), _number(image.get("ResolutionX"))
    bar = _number(private.get("DatabarHeight"))
    if columns and lines:
        below = height - round(lines * width / columns)
        bar = below if 0 <= below <= height // 3 else None  # else the picture was cut
    if columns and field and columns != width:
        pixel = field / width
    user = entries.get("User", {})
    return {
        "vendor": "FEI / Thermo Fisher",
        "instrument": str(system.get("SystemType") or system.get("Type") or ""),
        "magnification": _number(
            column.get("Magnification") or beam.get("Magnification") or image.get("Magnification")
        ),
        "pixel_size": _times(pixel, 1e9),
        "field_width": _times(field, 1e6),
        "working_distance": _times(_number(column.get("WD")) or _number(stage.get("WorkingDistance")), 1e3),
        "voltage": _times(_number(column.get("HV")) or _number(beam.get("HV")), 1e-3),
        "detector": " ".join(str(detectors[key]) for key in ("Name", "Mode") if detectors.get(key)),
        "bar_rows": None if bar is None else int(bar),
        "date": " ".join(str(user[key]) for key in ("Date", "Time") if user.get(key)),
    }


def _zeiss(values: list[Any], width: int, height: int) -> Conditions:
    entries = values[0]

    def length(*names: str) -> float | None:
        return next((value for name in names if (value := _quantity(entries.get(name), _METRES, "nm"))), None)

    def text(name: str) -> str:
        entry = entries.get(name)
        return str(entry[1]) if entry and len(entry) > 1 else ""

    return {
        "vendor": "Zeiss",
        "instrument": text("sv_instrument_id") or text("sv_serial_number") or text("dp_sem"),
        "magnification": _factor(entries.get("ap_mag")),
        "pixel_size": _times(length("ap_image_pixel_size", "ap_pixel_size"), 1e9),
        "working_distance": _times(length("ap_wd", "ap_alias_wd", "ap_free_wd"), 1e3),
        "voltage": _times(_quantity(entries.get("ap_actualkv") or entries.get("ap_manualkv"), _VOLTS, "kv"), 1e-3),
        "detector": text("dp_detector_channel") or text("dp_detector_type"),
        "date": " ".join(filter(None, (text("ap_date"), text("ap_time")))),
    }


def _tescan(values: list[Any], width: int, height: int) -> Conditions:
    value = values[0]
    return _tescan_of(decoded(bytes(value)) if not isinstance(value, str) else value)


def _tescan_of(text: str) -> Conditions:
    entries = {key: value.strip() for key, value in re.findall(r"(\w+)=([^\r\n\0]*)", text)}
    if not entries.keys() & {"PixelSizeX", "ImageStripSize", "Magnification"}:
        return {}
    bar = decimal(entries.get("ImageStripSize"))
    return {
        "vendor": "TESCAN",
        "instrument": entries.get("Device", ""),
        "magnification": decimal(entries.get("Magnification")),
        "pixel_size": _times(decimal(entries.get("PixelSizeX")), 1e9),
        "working_distance": _times(decimal(entries.get("WD")), 1e3),
        "voltage": _times(decimal(entries.get("HV")), 1e-3),
        "detector": entries.get("Detector") or entries.get("Detector0", ""),
        "bar_rows": None if bar is None else int(bar),
        "date": " ".join(filter(None, (entries.get("Date"), entries.get("Time")))),
    }


def _sis(values: list[Any], width: int, height: int) -> Conditions:
    entries = values[0]
    return {
        "vendor": "Olympus SIS",
        "instrument": str(entries.get("cameraname", "")),
        "magnification": _number(entries.get("magnification")),
        "pixel_size": _times(_number(entries.get("pixelsizex")), 1e9),
        "date": str(entries.get("datetime", "")),
    }


def _xml(values: list[Any], width: int, height: int) -> Conditions:
    """Read the XML of tag 34683: Phenom's ``FeiImage``, or Thermo Fisher's ``Metadata``."""
    value = values[0]
    text = value if isinstance(value, str) else decoded(bytes(value))
    start = text.find("<")
    if start < 0 or len(text) > _TEXT_LIMIT:
        return {}
    root = ET.fromstring(text[start:].strip().rstrip("\0"))
    elements = [(element.tag.rsplit("}", 1)[-1].lower(), element) for element in root.iter()]

    def first(*names: str) -> ET.Element | None:
        return next((element for name in names for tag, element in elements if tag == name), None)

    def length(element: ET.Element | None, otherwise: str) -> float | None:
        if element is None:
            return None
        inner = element.find("{*}X")
        inner = element.find("X") if inner is None else inner
        element = element if inner is None else inner
        value = decimal(element.text)
        scale = _METRES.get(_unit(element.get("unit") or otherwise))
        power = decimal(element.get("unitPrefixPower")) or 0.0
        return None if value is None or scale is None else abs(value) * scale * 10**power

    def text_of(*names: str) -> str:
        element = first(*names)
        return (element.text or "") if element is not None else ""

    phenom = root.tag.rsplit("}", 1)[-1] == "FeiImage"
    small, large = ("nm", "mm") if phenom else ("m", "m")
    voltage = first("highvoltage", "acceleratingvoltage", "accelerationvoltage", "high-voltage")
    volts = None
    if voltage is not None and (value := decimal(voltage.text)) is not None:
        volts = abs(value) * _VOLTS.get((voltage.get("unit") or ("kV" if phenom else "V")).lower(), 1.0)
    field = first("scanfieldofview", "fieldofview", "displaywidth")
    bar = decimal(text_of("databarheight", "databarheightpx"))
    lines = decimal(text_of("imageheight", "pixelsheight"))
    if lines and lines <= height:
        bar = height - lines
    return {
        "vendor": "Phenom" if phenom else "Thermo Fisher",
        "instrument": text_of("instrumentmodel", "instrumentclass", "type"),
        "magnification": decimal(text_of("magnification")),
        "pixel_size": _times(length(first("pixelwidth", "pixelsize"), small), 1e9),
        "field_width": _times(length(field, "µm" if phenom else "m"), 1e6),
        "working_distance": _times(length(first("workingdistance"), large), 1e3),
        "voltage": _times(volts, 1e-3),
        "detector": text_of("detectorname", "detector").strip(),
        "bar_rows": None if bar is None else int(bar),
        "date": text_of("acquisitiondatetime", "time"),
    }


_READERS: tuple[tuple[tuple[int, ...], Callable[[list[Any], int, int], Conditions]], ...] = (
    ((34680, 34682), _fei),
    ((34118,), _zeiss),
    ((50431,), _tescan),
    ((34683,), _xml),
    ((_BINARY,), _sis),
)


def _of_description(page: Any, width: int) -> Conditions:
    text = str(page.description or "")
    if text.startswith("ImageJ="):
        return _imagej(page, text)
    if text.lstrip().startswith("{"):
        return _openfibsem(text, width)
    return {}


def _imagej(page: Any, text: str) -> Conditions:
    entries = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    unit = _unit(entries.get("unit", "").encode().decode("unicode_escape", "replace"))
    resolution = page.tags.get("XResolution")
    scale = _METRES.get(unit)
    if resolution is None or scale is None:
        return {}
    above, below = resolution.value
    return {"vendor": "ImageJ", "pixel_size": below / above * scale * 1e9} if above else {}


def _openfibsem(text: str, width: int) -> Conditions:
    entries = parse_json(text)
    image = entries.get("image")
    if not isinstance(image, dict) or "hfw" not in image:
        return {}
    state = entries.get("microscope_state") or {}
    electrons = "ELECTRON" in str(image.get("beam_type", "ELECTRON")).upper()
    beam = state.get("electron_beam" if electrons else "ion_beam") or {}
    pixel = (entries.get("pixel_size") or {}).get("x")
    detector = state.get("electron_detector" if electrons else "ion_detector") or {}
    system = ((entries.get("system") or entries.get("system_info") or {}).get("info")) or entries.get("system") or {}
    return {
        "vendor": "OpenFIBSEM",
        "instrument": " ".join(str(system[key]) for key in ("manufacturer", "model") if system.get(key)),
        "pixel_size": _times(_number(pixel), 1e9),
        "field_width": _times(_number(image.get("hfw")), 1e6),
        "working_distance": _times(_number(beam.get("working_distance")), 1e3),
        "voltage": _times(_number(beam.get("voltage")), 1e-3),
        "detector": str(detector.get("type") or ""),
        "date": str(state.get("timestamp") or ""),
    }


# Text beside the picture


def _of_text_beside(path: Path, width: int, height: int) -> Conditions:
    for beside in _beside(path):
        with beside.open("rb") as file:
            text = decoded(file.read(_TEXT_LIMIT))
        for read in (_jeol, _hitachi, _tescan_beside):
            if conditions := read(text, width, height):
                return conditions
    return {}


def _beside(path: Path) -> Iterator[Path]:
    """Yield the files that a maker's program may have written beside a picture."""
    kind = path.suffix.lstrip(".")
    for name in (
        f"{path.stem}.hdr",
        f"{path.stem}-{kind}.hdr",
        f"{path.stem}.txt",
        f"{path.name}.txt",
        f"{path.name}.hdr",
    ):
        for spelled in (name, f"{Path(name).stem}{Path(name).suffix.upper()}"):
            beside = path.with_name(spelled)
            if beside.is_file():
                yield beside
                break


def _jeol(text: str, width: int, height: int) -> Conditions:
    entries = {}
    for line in text.splitlines():
        if line.startswith("$"):
            key, _, value = line.lstrip("$").partition(" ")
            entries[key] = value.strip()
    if not any(key.startswith(("CM_", "SM_")) for key in entries):
        return {}
    pixel, marker = decimal(entries.get("SM_MICRON_BAR")), _measure(entries.get("SM_MICRON_MARKER", ""), _METRES)
    size = [decimal(part) for part in entries.get("CM_FULL_SIZE", "").split()]
    bar = None
    if len(size) == 2 and size[0] == width and size[1] and size[1] <= height:
        bar = height - int(size[1])
    return {
        "vendor": "JEOL",
        "instrument": entries.get("CM_INSTRUMENT", ""),
        "magnification": decimal(entries.get("CM_MAG")),
        "pixel_size": marker / pixel * 1e9 if marker and pixel else None,
        "working_distance": decimal(entries.get("SM_WD")),
        "voltage": decimal(entries.get("CM_ACCEL_VOLT")),
        "detector": entries.get("CM_DETECTOR") or entries.get("CM_SIGNAL", ""),
        "bar_rows": bar or None,
        "date": " ".join(filter(None, (entries.get("CM_DATE"), entries.get("CM_TIME")))),
    }


def _hitachi(text: str, width: int, height: int) -> Conditions:
    if "[SemImageFile]" not in text:
        return {}
    entries = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            entries[key.strip()] = value.strip()
    size = [decimal(part) for part in re.split("[xX*]", entries.get("DataSize", ""))]
    pixel, bar = decimal(entries.get("PixelSize")), None
    if len(size) == 2 and size[0] and size[1]:
        if size[0] == width and size[1] <= height:
            bar = height - int(size[1])
        elif size[0] != width and pixel:
            pixel *= size[0] / width
    return {
        "vendor": "Hitachi",
        "instrument": entries.get("InstructName", ""),
        "magnification": decimal(entries.get("Magnification")),
        "pixel_size": pixel,
        "working_distance": _times(_measure(entries.get("WorkingDistance", ""), _METRES, "um"), 1e3),
        "voltage": _times(_measure(entries.get("AcceleratingVoltage", ""), _VOLTS, "v"), 1e-3),
        "detector": entries.get("SignalName", ""),
        "bar_rows": bar or None,
        "date": " ".join(filter(None, (entries.get("Date"), entries.get("Time")))),
    }


def _tescan_beside(text: str, width: int, height: int) -> Conditions:
    return _tescan_of(text) if re.search(r"^\[(MAIN|SEM|FIB)\]", text, re.MULTILINE) else {}


# Numbers


def _number(value: object) -> float | None:
    """Return a value as a number above 0, or None."""
    if isinstance(value, bool):
        return None
    number = decimal(value) if isinstance(value, str) else float(value) if isinstance(value, int | float) else None
    return number if number is not None and math.isfinite(number) and number > 0 else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _unit(text: str) -> str:
    """Return a unit of length with one spelling of the Greek letter."""
    return text.strip().replace("\u03bc", "µ").replace("microns", "micron").replace("micrometer", "µm")


def _measure(text: str, units: Mapping[str, float], otherwise: str = "") -> float | None:
    """Return the number in front of a unit, such as ``500um`` or ``8200 um``, in metres or volts."""
    match = re.match(r"\s*([-+\d.,eE]+?)\s*([A-Za-zµ\u03bc]*)\s*$", text)
    if match is None:
        return None
    value, unit = decimal(match[1]), _unit(match[2] or otherwise)
    scale = units.get(unit, units.get(unit.lower()))
    return None if value is None or scale is None else abs(value) * scale


def _quantity(entry: Any, units: Mapping[str, float], otherwise: str) -> float | None:
    """Return what tifffile makes of a line such as ``Pixel Size = 55.82 nm``: (name, value[, unit])."""
    if not entry or len(entry) < 2:
        return None
    value = entry[1]
    if isinstance(value, str):
        return _measure(value, units, otherwise)
    unit = _unit(str(entry[2])) if len(entry) > 2 else otherwise
    scale = units.get(unit, units.get(unit.lower()))
    number = _number(value)
    return None if number is None or scale is None else number * scale


def _factor(entry: Any) -> float | None:
    """Return a magnification that is written as ``2.00 K X`` or ``188 X``."""
    if not entry or len(entry) < 2:
        return None
    match = re.match(r"\s*([\d.,]+)\s*([kKM]?)", str(entry[1]))
    value = decimal(match[1]) if match else None
    return None if match is None or value is None else value * {"k": 1e3, "m": 1e6}.get(match[2].lower(), 1.0)
