"""Text as spreadsheets, instruments and editors save it: any of their encodings, dots and commas in numbers."""

from __future__ import annotations

import codecs
import math

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def decoded(data: bytes) -> str:
    """Return text of UTF-8, UTF-16 (with its mark, or recognised by its zeros) or else Windows' code page 1252."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name, "replace")
    head = data[:200]
    if len(head) > 3 and b"\0" in head and not (head[0] == 0 and head[1] == 0):
        if all(byte == 0 for byte in head[1:40:2]):
            return data.decode("utf-16-le", "replace")
        if all(byte == 0 for byte in head[0:40:2]):
            return data.decode("utf-16-be", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def counted(number: int, thing: str) -> str:
    """Return a number of things whose plural ends in s: 1 frame, 2 frames."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def decimal(text: object) -> float | None:
    """Return the finite number that a text holds, with a decimal point or comma; None where it holds none."""
    word = str(text if text is not None else "").strip().replace("\u2212", "-").replace("\u00a0", "").replace(" ", "")
    if "," in word and "." not in word and word.count(",") == 1:
        word = word.replace(",", ".")
    elif "," in word and "." in word:
        thousands = "," if word.rindex(".") > word.rindex(",") else "."
        word = word.replace(thousands, "").replace(",", ".")
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
