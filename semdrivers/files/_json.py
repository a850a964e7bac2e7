"""JSON of other programs, read within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 2**28
"""Size of a file from which it is certainly not one of ours."""


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        When it is none, is nested too deep to be read, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file in UTF-8.

    Raises
    ------
    ValueError
        As `parse_json`, and for a file of more than `MOST_BYTES`.
    OSError
        When the file cannot be read.
    """
    path = Path(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MB")
    return parse_json(path.read_text(encoding="utf-8"))
