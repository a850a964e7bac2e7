"""What is known of a frame, as OME-XML (schema 2016-06) and back.

Programs that know OME find the physical pixel size and the magnification in their places, and people find the
conditions as key-value annotations. The whole record, with its types, is one JSON annotation besides; reading
back uses that one. It is UTF-8, as OME-TIFF has it: Bio-Formats, which Fiji reads such files with, spoils references to
characters, such as the ``&#181;`` of a unit.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree as ET

from semdrivers.files._json import parse_json
from semdrivers.files._plain import plain
from semdrivers.files._text import decimal

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA = f"{_OME} {_OME}/ome.xsd"
_RECORD = "semdrivers.frame"
_CONDITIONS = "semdrivers.conditions"
_AUTOFOCUS = "semdrivers.autofocus"
_IN_NANOMETRES = {
    **{"nm": 1.0, "µm": 1e3, "\u03bcm": 1e3, "um": 1e3, "micron": 1e3, "microns": 1e3, "mm": 1e6, "cm": 1e7, "m": 1e9},
    **{"pm": 1e-3, "fm": 1e-6, "Å": 0.1, "in": 25.4e6},
}
_OME_ELEMENT = re.compile(r"<([\w.-]+:)?OME[\s>]")
_NUMBERS = ("working_distance", "magnification", "pixel_size")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def describe(name: str, shape: tuple[int, int], dtype: str, conditions: Mapping[str, Any]) -> bytes:
    """Return the OME-XML of a frame, as UTF-8.

    Parameters
    ----------
    name : str
        Name of the picture.
    shape : tuple of int
        Height and width of the frame, pixels.
    dtype : str
        Type of its grey levels: ``"uint8"`` or ``"uint16"``.
    conditions : mapping
        Under the names of the fields of `semdrivers.Image`: ``working_distance`` (mm), ``magnification``,
        ``pixel_size`` (nm), ``frame_id``, ``timestamp`` (s), ``scan_mode`` (its name), ``bit_depth`` and ``metadata``.
    """
    height, width = shape
    root = ET.Element(
        "OME",
        {
            "xmlns": _OME,
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:schemaLocation": _SCHEMA,
            "UUID": f"urn:uuid:{uuid4()}",
            "Creator": "semdrivers",
        },
    )
    instrument = ET.SubElement(root, "Instrument", ID="Instrument:0")
    # The schema's list of types has no electron microscope.
    ET.SubElement(instrument, "Microscope", Type="Other", Model="Scanning electron microscope")
    objective = ET.SubElement(instrument, "Objective", ID="Objective:0")
    _set_number(objective, "NominalMagnification", conditions["magnification"])
    _set_number(objective, "WorkingDistance", conditions["working_distance"], "mm")
    picture = ET.SubElement(root, "Image", ID="Image:0", Name=_xml_name(name))
    if conditions["timestamp"] is not None and (date := _date(conditions["timestamp"])):
        ET.SubElement(picture, "AcquisitionDate").text = date
    ET.SubElement(picture, "InstrumentRef", ID="Instrument:0")
    ET.SubElement(picture, "ObjectiveSettings", ID="Objective:0")
    pixels = ET.SubElement(
        picture,
        "Pixels",
        ID="Pixels:0",
        DimensionOrder="XYCZT",
        Type=dtype,
        SizeX=str(width),
        SizeY=str(height),
        SizeC="1",
        SizeZ="1",
        SizeT="1",
    )
    if conditions.get("bit_depth") is not None:
        pixels.set("SignificantBits", str(int(conditions["bit_depth"])))
    # Micrometres are what readers that pass over the unit suppose.
    _set_number(pixels, "PhysicalSizeX", conditions["pixel_size"] * 1e-3, "µm")
    _set_number(pixels, "PhysicalSizeY", conditions["pixel_size"] * 1e-3, "µm")
    ET.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="1")
    ET.SubElement(pixels, "TiffData", IFD="0", PlaneCount="1")
    ET.SubElement(picture, "AnnotationRef", ID="Annotation:0")
    ET.SubElement(picture, "AnnotationRef", ID="Annotation:1")

    notes = ET.SubElement(root, "StructuredAnnotations")
    record = ET.SubElement(notes, "CommentAnnotation", ID="Annotation:0", Namespace=_RECORD)
    ET.SubElement(record, "Value").text = json.dumps(_record(conditions))
    _add_map(notes, "Annotation:1", _CONDITIONS, _named(conditions))
    focus = conditions["metadata"].get("autofocus")
    if isinstance(focus, Mapping):
        ET.SubElement(picture, "AnnotationRef", ID="Annotation:2")
        _add_map(notes, "Annotation:2", _AUTOFOCUS, focus)
    return bytes(ET.tostring(root, encoding="UTF-8", xml_declaration=True))


def conditions_of(description: str) -> dict[str, Any]:
    """Return what OME-XML says of a frame, under the names of the fields of `semdrivers.Image`.

    Parameters
    ----------
    description : str
        OME-XML of any writer, or any other text, which says nothing.

    Returns
    -------
    dict
        ``working_distance`` (mm), ``magnification`` and ``pixel_size`` (nm), NaN where they are unknown: a size of
        zero, infinity or none at all. A description of `describe` gives all that went into it; ``scan_mode`` is a name.
    """
    unknown: dict[str, Any] = dict.fromkeys(_NUMBERS, math.nan)
    if not _OME_ELEMENT.search(description):
        return unknown
    try:
        root = ET.fromstring(description.strip().rstrip("\0"))
    except ET.ParseError:
        return unknown
    for note in root.iterfind("{*}StructuredAnnotations/{*}CommentAnnotation"):
        if note.get("Namespace") == _RECORD and (record := _recorded(note.findtext("{*}Value") or "")):
            return record
    return {**unknown, **_foreign(root)}


def _foreign(root: ET.Element) -> dict[str, Any]:
    """Return what another writer says of its first image; what it leaves out, or cannot be, is left out."""
    stated: dict[str, Any] = {}
    image = root.find("{*}Image")
    if image is None:
        return stated
    pixels, settings = image.find("{*}Pixels"), image.find("{*}ObjectiveSettings")
    if pixels is not None:
        for name in ("PhysicalSizeX", "PhysicalSizeY"):
            size = _length(pixels, name, "µm")
            if size is not None:
                stated["pixel_size"] = size
                break
        bits = decimal(pixels.get("SignificantBits"))
        if bits is not None and 1 <= bits <= 16 and pixels.get("Type") == "uint16" and bits < 16:
            stated["bit_depth"] = int(bits)
    objectives = root.findall("{*}Instrument/{*}Objective")
    used = None if settings is None else settings.get("ID")
    objective = next((each for each in objectives if each.get("ID") == used), objectives[0] if objectives else None)
    if objective is not None:
        for name in ("CalibratedMagnification", "NominalMagnification"):
            value = decimal(objective.get(name))
            if value is not None and value > 0:
                stated["magnification"] = value
                break
        distance = _length(objective, "WorkingDistance", "µm")
        if distance is not None:
            stated["working_distance"] = distance * 1e-6
    try:
        date = (image.findtext("{*}AcquisitionDate") or "").strip()
        moment = datetime.fromisoformat(date.replace("Z", "+00:00"))
        stated["timestamp"] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    return stated


def _length(element: ET.Element, name: str, unit: str) -> float | None:
    """Return a length in nm; `unit` is the one that the schema supposes."""
    value, scale = decimal(element.get(name)), _IN_NANOMETRES.get((element.get(f"{name}Unit") or unit).strip())
    return value * scale if value is not None and value > 0 and scale is not None else None


def _record(conditions: Mapping[str, Any]) -> dict[str, Any]:
    def whole(name: str) -> int | None:
        return None if conditions.get(name) is None else int(conditions[name])

    return {
        **{name: plain(float(conditions[name])) for name in _NUMBERS},
        "frame_id": whole("frame_id"),
        "timestamp": None if conditions["timestamp"] is None else float(conditions["timestamp"]),
        "scan_mode": conditions["scan_mode"],
        "bit_depth": whole("bit_depth"),
        "metadata": plain(conditions["metadata"]),
    }


def _recorded(text: str) -> dict[str, Any]:
    """Return what `_record` wrote; nothing if another program has altered it beyond use."""
    try:
        record = parse_json(text)
        return {
            **{name: math.nan if record[name] is None else float(record[name]) for name in _NUMBERS},
            "frame_id": record["frame_id"],
            "timestamp": record["timestamp"],
            "scan_mode": record["scan_mode"],
            "bit_depth": record.get("bit_depth"),
            "metadata": dict(record["metadata"]),
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _named(conditions: Mapping[str, Any]) -> dict[str, object]:
    named = {
        "working distance (mm)": conditions["working_distance"],
        "magnification": conditions["magnification"],
        "pixel size (nm)": conditions["pixel_size"],
        "frame id": conditions["frame_id"],
        "scan mode": conditions["scan_mode"],
        "bit depth": conditions.get("bit_depth"),
        **{key: value for key, value in conditions["metadata"].items() if key != "autofocus"},
    }
    return {key: value for key, value in named.items() if value is not None}


def _add_map(parent: ET.Element, identifier: str, namespace: str, values: Mapping[str, Any]) -> None:
    note = ET.SubElement(parent, "MapAnnotation", ID=identifier, Namespace=namespace)
    pairs = ET.SubElement(note, "Value")
    for key, value in values.items():
        written = plain(value)
        ET.SubElement(pairs, "M", K=_xml_name(str(key))).text = _xml_text(
            written if isinstance(written, str) else json.dumps(written)
        )


def _xml_text(text: str) -> str:
    """Return `text` without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


def _xml_name(text: str) -> str:
    """Return `text` for an attribute, where line breaks would be written as references."""
    return re.sub("[\t\n\r]", " ", _xml_text(text))


def _set_number(element: ET.Element, name: str, value: float, unit: str = "") -> None:
    """Set the attributes of a physical value; none when it is unknown, since OME has no word for that."""
    if math.isfinite(value) and value > 0:
        element.set(name, repr(float(value)))
        if unit:
            element.set(f"{name}Unit", unit)


def _date(timestamp: float) -> str:
    """Return a time as OME writes it; empty when it is beyond the calendar."""
    try:
        moment = datetime.fromtimestamp(timestamp, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
