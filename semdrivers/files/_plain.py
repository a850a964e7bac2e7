"""Any value in terms of JSON's own types: for records in pictures, for results on disk, for programs that read us."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Return `value` as dictionaries with string keys, lists, strings, numbers, booleans and None.

    Dataclasses become dictionaries, tuples and sets lists, numpy's numbers and arrays Python's, enumeration members
    their lower-case names. NaN and infinity become None, since JSON has no word for them; what has no such form at
    all becomes its string.
    """
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
