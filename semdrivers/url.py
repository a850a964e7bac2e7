"""Addresses of microscopes that are files: any character that a file name may have."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote


def split_url(url: str) -> tuple[str, dict[str, str]]:
    """Return what stands between ``scheme://`` and the query, and the options of the query, as they are written.

    Only ``?`` ends the first part, and only ``&`` and ``=`` divide the second, so ``#``, ``+`` and ``;`` may stand for
    themselves. An ampersand that no option follows belongs to the value before it. Nothing is decoded.
    """
    place, _, query = url.partition("://")[2].partition("?")
    options: dict[str, str] = {}
    last = ""
    for piece in filter(None, query.split("&")):
        name, equals, value = piece.partition("=")
        if equals and name.replace("_", "").isalnum():
            options[name], last = value, name
        elif last:
            options[last] += f"&{piece}"
        else:
            options[name] = value
    return place, options


def path_of(text: str) -> Path:
    """Return the path that a part of an address names: percent-encoded, or as it is where a file has that very name."""
    if text[2:3] == ":" and text[:1] == "/":
        text = text[1:]
    decoded = Path(unquote(text))
    literal = Path(text)
    return literal if literal != decoded and not decoded.exists() and literal.exists() else decoded
