"""The address ``tescan-like://HOST[:PORT]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import semdrivers
from semdrivers import hookimpl

SCHEME = "tescan-like"


@hookimpl
def semdrivers_schemes() -> Mapping[str, str]:
    """Name the scheme."""
    return {SCHEME: f"{SCHEME}://192.168.1.40:8300"}


@hookimpl
def semdrivers_connect(url: str, options: Mapping[str, Any]) -> Any:
    """Open the microscope, or leave the address to another."""
    if url.partition("://")[0].lower() != SCHEME:
        return None
    from tescan_like.driver import TescanLike

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 8300
    except ValueError as error:
        raise semdrivers.InvalidParameterError(f"{url}: {error}") from None
    if not host or parts.path not in ("", "/") or parts.query:
        raise semdrivers.InvalidParameterError(f"{url}: write {SCHEME}://HOST or {SCHEME}://HOST:PORT")
    return TescanLike(host, port, **options)
