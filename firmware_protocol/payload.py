"""Payload codec: a frozen dataclass to bytes and back, from the annotations of its fields.

Little endian, fields in the order of the class, no padding. Texts are a 16-bit length and UTF-8; sequences of
records are a 16-bit count and the records. See ``spec.md``, section *Payloads*.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
import struct
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

__all__ = [
    "F64", "U8", "U16", "U32", "U64", "Decoder", "Encoder", "PayloadError", "Switch", "Text", "Wire",
    "decode_payload", "encode_payload",
]  # fmt: skip

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True)
class Wire:
    """How a field travels: a `struct` format character, or ``"text"``."""

    format: str


F64 = Annotated[float, Wire("d")]
"""A 64-bit floating-point number."""
U8 = Annotated[int, Wire("B")]
"""An unsigned number of 8 bits."""
U16 = Annotated[int, Wire("H")]
"""An unsigned number of 16 bits."""
U32 = Annotated[int, Wire("I")]
"""An unsigned number of 32 bits."""
U64 = Annotated[int, Wire("Q")]
"""An unsigned number of 64 bits."""
Switch = Annotated[bool, Wire("?")]
"""A yes or no, one byte."""
Text = Annotated[str, Wire("text")]
"""A text in UTF-8, with its length in front."""


class PayloadError(ValueError):
    """A payload that does not fit its layout, or a value that does not fit its field."""


Encoder = Callable[[bytearray, Any], None]
"""Turns the value of a field into bytes."""
Decoder = Callable[[bytes, int], tuple[Any, int]]
"""Turns bytes into the value of a field."""


def encode_payload(message: object) -> bytes:
    """Return the payload of a message; raises `PayloadError`, naming the field, when a value does not fit."""
    packing = _packings.get(type(message))
    if packing is not None:
        try:
            return packing.encode(message)
        except (struct.error, TypeError):
            pass  # the way field by field says which one does not fit
    out = bytearray()
    for name, encode, _ in _layout(type(message)):
        value = getattr(message, name)
        try:
            encode(out, value)
        except (struct.error, TypeError, AttributeError, UnicodeError, OverflowError) as error:
            raise PayloadError(f"{type(message).__name__}.{name} cannot carry {value!r}: {error}") from error
    return bytes(out)


def decode_payload(kind: type[_T], payload: bytes) -> _T:
    """Return the message of class `kind` that `payload` holds, to the last byte.

    Raises `PayloadError` when it is too short or too long, a text is no UTF-8, or a code is not in its enumeration.
    """
    packing = _packings.get(kind)
    if packing is not None:
        try:
            return kind(*packing.decode(payload))
        except (struct.error, KeyError):
            pass  # the way field by field says what is wrong
    message, end = _decode_record(kind, payload, 0)
    if end != len(payload):
        raise PayloadError(f"{kind.__name__} takes {end} bytes, its payload has {len(payload)}")
    return message


def _decode_record(kind: type[_T], payload: bytes, offset: int) -> tuple[_T, int]:
    values = []
    for name, _, decode in _layout(kind):
        try:
            value, offset = decode(payload, offset)
        except PayloadError:
            raise
        except (struct.error, ValueError) as error:
            raise PayloadError(f"{kind.__name__}.{name} at byte {offset}: {error}") from error
        values.append(value)
    return kind(*values), offset


class _Packing:
    """All fields of a record at once, where each is a number, a switch or a code."""

    def __init__(self, names: list[str], wires: list[tuple[type, str]]) -> None:
        self._struct = struct.Struct("<" + "".join("B" if kind is bool else each for kind, each in wires))
        self._values = operator.attrgetter(*names)
        self._single = len(names) == 1
        self._codes = [(place, _codes(kind)) for place, (kind, _) in enumerate(wires) if kind not in (int, float)]

    def encode(self, message: object) -> bytes:
        values = self._values(message)
        return self._struct.pack(values) if self._single else self._struct.pack(*values)

    def decode(self, payload: bytes) -> list[Any]:
        values = list(self._struct.unpack(payload))
        for place, codes in self._codes:
            values[place] = codes[values[place]]
        return values


def _codes(kind: type) -> Mapping[int, Any]:
    """Return what each number of a switch or a code stands for."""
    return {0: False, 1: True} if kind is bool else {each.value: each for each in typing.cast(type[enum.Enum], kind)}


_layouts: dict[type, tuple[tuple[str, Encoder, Decoder], ...]] = {}
_packings: dict[type, _Packing] = {}


def _layout(kind: type) -> tuple[tuple[str, Encoder, Decoder], ...]:
    if kind not in _layouts:
        hints = typing.get_type_hints(kind, include_extras=True)
        names = [field.name for field in dataclasses.fields(kind)]
        _layouts[kind] = tuple((name, *_codec(hints[name])) for name in names)
        wires = [typing.get_args(hints[name]) for name in names if typing.get_origin(hints[name]) is not tuple]
        if names and len(wires) == len(names) and all(wire.format != "text" for _, wire in wires):
            _packings[kind] = _Packing(names, [(value_type, wire.format) for value_type, wire in wires])
    return _layouts[kind]


def _codec(hint: Any) -> tuple[Encoder, Decoder]:
    if typing.get_origin(hint) is tuple:
        return _sequence(typing.get_args(hint)[0])
    value_type, wire = typing.get_args(hint)
    return _text() if wire.format == "text" else _number(value_type, struct.Struct("<" + wire.format))


def _number(value_type: type, layout: struct.Struct) -> tuple[Encoder, Decoder]:
    if value_type is bool:
        return _switch()

    def encode(out: bytearray, value: Any) -> None:
        out += layout.pack(value)

    def decode(payload: bytes, offset: int) -> tuple[Any, int]:
        (value,) = layout.unpack_from(payload, offset)
        return value_type(value), offset + layout.size

    return encode, decode


def _switch() -> tuple[Encoder, Decoder]:
    """Only 0 and 1 are switches: every message has one encoding."""

    def encode(out: bytearray, value: Any) -> None:
        out.append(1 if value else 0)

    def decode(payload: bytes, offset: int) -> tuple[bool, int]:
        (value,) = struct.unpack_from("<B", payload, offset)
        if value > 1:
            raise ValueError(f"a switch is 0 or 1, not {value}")
        return value == 1, offset + 1

    return encode, decode


def _text() -> tuple[Encoder, Decoder]:
    def encode(out: bytearray, value: Any) -> None:
        data = value.encode("utf-8")
        out += struct.pack("<H", len(data))
        out += data

    def decode(payload: bytes, offset: int) -> tuple[str, int]:
        (length,) = struct.unpack_from("<H", payload, offset)
        end = offset + 2 + length
        if end > len(payload):
            raise ValueError(f"a text of {length} bytes ends beyond the payload")
        return payload[offset + 2 : end].decode("utf-8"), end

    return encode, decode


def _sequence(record: type[Any]) -> tuple[Encoder, Decoder]:
    def encode(out: bytearray, value: Any) -> None:
        out += struct.pack("<H", len(value))
        for item in value:
            out += encode_payload(item)

    def decode(payload: bytes, offset: int) -> tuple[tuple[Any, ...], int]:
        (count,) = struct.unpack_from("<H", payload, offset)
        offset += 2
        items = []
        for _ in range(count):
            item, offset = _decode_record(record, payload, offset)
            items.append(item)
        return tuple(items), offset

    return encode, decode
