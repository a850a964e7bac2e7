"""Thin adapters of any `Microscope` to the frameworks that people run their instruments from.

A plain script uses the names of this package. Every host has a module here and an extra of the distribution, both of
the host's name: `semdrivers.hosts.bluesky` needs ``pip install '.[bluesky]'``.

Nothing but your program imports the module of a host, so the other hosts need not be installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semdrivers.hosts._cadence import FocusKeeper, FocusPolicy
    from semdrivers.hosts._scripts import FocusedMicroscope, focused
    from semdrivers.hosts._unattended import unattended

_HOMES = {
    "FocusKeeper": "semdrivers.hosts._cadence",
    "FocusPolicy": "semdrivers.hosts._cadence",
    "FocusedMicroscope": "semdrivers.hosts._scripts",
    "focused": "semdrivers.hosts._scripts",
    "unattended": "semdrivers.hosts._unattended",
}

__all__ = ["FocusKeeper", "FocusPolicy", "FocusedMicroscope", "focused", "unattended"]


def __getattr__(name: str) -> Any:
    """Import at first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'semdrivers.hosts' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value
