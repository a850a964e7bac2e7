"""The JSON Schema of what a command prints, from the dataclass and its docstring: names, types, units."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_FIELD = re.compile(r"^    (?P<names>\w+(?:, \w+)*) : .*\n(?P<text>(?:^        .*\n|^\n)*)", re.MULTILINE)


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a dataclass as its ``to_dict`` gives it.

    Parameters
    ----------
    kind : type
        A dataclass, whose docstring describes the fields with their units.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind.__name__, **_object(kind)}


def _object(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    described = _described(kind)
    properties = {
        field.name: {**_type(hints[field.name]), "description": described.get(field.name, "")}
        for field in dataclasses.fields(kind)
    }
    if "frame" in vars(kind):
        properties = {
            "frame": {"type": "integer", "description": "Number of the frame, 1 for the first."},
            **properties,
        }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _described(kind: type[Any]) -> dict[str, str]:
    """Return the text of each field in the docstring, on one line."""
    return {
        name: " ".join(match["text"].split())
        for match in _FIELD.finditer((kind.__doc__ or "") + "\n")
        for name in match["names"].split(", ")
    }


def _type(hint: Any) -> dict[str, Any]:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if dataclasses.is_dataclass(hint):
        return _object(typing.cast(type[Any], hint))
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return {"anyOf": [_type(each) for each in arguments]}
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": _type(arguments[0])}
    return {}
