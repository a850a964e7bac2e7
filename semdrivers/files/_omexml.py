"""What is known of a frame, as OME-XML (schema 2016-06) and back.

Programs that know OME find the physical pixel size and the magnification in their places, and people find the
conditions as key-value annotations. The whole record, with its types, is one JSON annotation besides; reading
back uses that one. Everything is pure ASCII, so it fits a TIFF description as it is.
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

from semdrivers.files._plain import plain

_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA = f"{_OME} {_OME}/ome.xsd"
_RECORD = "semdrivers.frame"
_CONDITIONS = "semdrivers.conditions"
_AUTOFOCUS = "semdrivers.autofocus"
_IN_NANOMETRES = {"nm": 1.0, "µm": 1e3, "um": 1e3, "mm": 1e6, "cm": 1e7, "m": 1e9, "pm": 1e-3, "Å": 0.1}
_NUMBERS = ("working_distance", "magnification", "pixel_size")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def describe(name: str, shape: tuple[int, int], dtype: str, conditions: Mapping[str, Any]) -> bytes:
    """Return the OME-XML of a frame, as ASCII.

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
        ``pixel_size`` (nm), ``frame_id``, ``timestamp`` (s), ``scan_mode`` (its name) and ``metadata``.
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
    ET.SubElement(instrument, "Microscope", Type="Electron")
    objective = ET.SubElement(instrument, "Objective", ID="Objective:0")
    _tell(objective, "NominalMagnification", conditions["magnification"])
    _tell(objective, "WorkingDistance", conditions["working_distance"], "mm")
    picture = ET.SubElement(root, "Image", ID="Image:0", Name=_xml_text(name))
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
    _tell(pixels, "PhysicalSizeX", conditions["pixel_size"], "nm")
    _tell(pixels, "PhysicalSizeY", conditions["pixel_size"], "nm")
    ET.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="1")
    ET.SubElement(pixels, "TiffData", IFD="0", PlaneCount="1")
    ET.SubElement(picture, "AnnotationRef", ID="Annotation:0")
    ET.SubElement(picture, "AnnotationRef", ID="Annotation:1")

    notes = ET.SubElement(root, "StructuredAnnotations")
    record = ET.SubElement(notes, "CommentAnnotation", ID="Annotation:0", Namespace=_RECORD)
    ET.SubElement(record, "Value").text = json.dumps(_record(conditions))
    _add_map(notes, "Annotation:1", _CONDITIONS, _shown(conditions))
    focus = conditions["metadata"].get("autofocus")
    if isinstance(focus, Mapping):
        ET.SubElement(picture, "AnnotationRef", ID="Annotation:2")
        _add_map(notes, "Annotation:2", _AUTOFOCUS, focus)
    return bytes(ET.tostring(root, encoding="us-ascii", xml_declaration=True))


def conditions_of(description: str) -> dict[str, Any]:
    """Return the conditions that OME-XML reports, under the names that `describe` takes.

    Parameters
    ----------
    description : str
        OME-XML, or any other text, which tells nothing. What is not told is NaN.
    """
    told: dict[str, Any] = dict.fromkeys(_NUMBERS, math.nan)
    if "<OME" not in description:
        return told
    try:
        root = ET.fromstring(description)
    except ET.ParseError:
        return told
    for note in root.iterfind("{*}StructuredAnnotations/{*}CommentAnnotation"):
        if note.get("Namespace") == _RECORD and (record := _recorded(note.findtext("{*}Value") or "")):
            return record
    pixels = root.find("{*}Image/{*}Pixels")
    if pixels is not None and (size := pixels.get("PhysicalSizeX")):
        scale = _IN_NANOMETRES.get(pixels.get("PhysicalSizeXUnit", "µm"))
        if scale is not None:
            told["pixel_size"] = float(size) * scale
    return told


def _record(conditions: Mapping[str, Any]) -> dict[str, Any]:
    frame_id, timestamp = conditions["frame_id"], conditions["timestamp"]
    return {
        **{name: plain(float(conditions[name])) for name in _NUMBERS},
        "frame_id": None if frame_id is None else int(frame_id),
        "timestamp": None if timestamp is None else float(timestamp),
        "scan_mode": conditions["scan_mode"],
        "metadata": plain(conditions["metadata"]),
    }


def _recorded(text: str) -> dict[str, Any]:
    """Return what `_record` wrote; nothing if another program has altered it beyond use."""
    try:
        record = json.loads(text)
        return {
            **{name: math.nan if record[name] is None else float(record[name]) for name in _NUMBERS},
            "frame_id": record["frame_id"],
            "timestamp": record["timestamp"],
            "scan_mode": record["scan_mode"],
            "metadata": dict(record["metadata"]),
        }
    except (ValueError, KeyError, TypeError):
        return {}


def _shown(conditions: Mapping[str, Any]) -> dict[str, object]:
    told = {
        "working distance (mm)": conditions["working_distance"],
        "magnification": conditions["magnification"],
        "pixel size (nm)": conditions["pixel_size"],
        "frame id": conditions["frame_id"],
        "scan mode": conditions["scan_mode"],
        **{key: value for key, value in conditions["metadata"].items() if key != "autofocus"},
    }
    return {key: value for key, value in told.items() if value is not None}


def _add_map(parent: ET.Element, identifier: str, namespace: str, values: Mapping[str, Any]) -> None:
    note = ET.SubElement(parent, "MapAnnotation", ID=identifier, Namespace=namespace)
    pairs = ET.SubElement(note, "Value")
    for key, value in values.items():
        told = plain(value)
        ET.SubElement(pairs, "M", K=_xml_text(str(key))).text = _xml_text(
            told if isinstance(told, str) else json.dumps(told)
        )


def _xml_text(text: str) -> str:
    """Return `text` without the characters that XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


def _tell(element: ET.Element, name: str, value: float, unit: str = "") -> None:
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
