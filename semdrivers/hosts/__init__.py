"""Thin adapters of any `Microscope` to the frameworks that people run their instruments from.

============================ ========================= ======================
module                       host                      extra
============================ ========================= ======================
`semdrivers.hosts`           none: a plain script      none
`semdrivers.hosts.pymmcore`  pymmcore-plus             ``semdrivers[pymmcore]``
`semdrivers.hosts.bluesky`   Bluesky                   ``semdrivers[bluesky]``
`semdrivers.hosts.qcodes`    QCoDeS                    ``semdrivers[qcodes]``
`semdrivers.hosts.fibsem`    fibsem-os                 ``semdrivers[fibsem]``
============================ ========================= ======================

Import the module of your host. Nothing else imports it, so a host that is not installed is not missed.
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
