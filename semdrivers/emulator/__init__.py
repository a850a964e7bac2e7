"""An EM-30 emulator behind the same wires as the instrument, so that the driver under test is the one that ships.

::

    from semdrivers.emulator import Emulator

    with Emulator("tin-balls", magnification=5000, seed=1) as emulator:
        with semdrivers.connect(emulator.url) as microscope:
            result = microscope.autofocus()
            error = abs(result.working_distance - emulator.truth.working_distance) / emulator.truth.depth_of_field
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semdrivers.emulator._emulator import Emulator
    from semdrivers.emulator._local import connect, connect_tescan
    from semdrivers.emulator._tescan import TescanEmulator
    from semdrivers.emulator.physics import Truth

_HOMES = {
    "Emulator": "semdrivers.emulator._emulator",
    "TescanEmulator": "semdrivers.emulator._tescan",
    "Truth": "semdrivers.emulator.physics",
    "connect": "semdrivers.emulator._local",
    "connect_tescan": "semdrivers.emulator._local",
}

__all__ = ["Emulator", "TescanEmulator", "Truth", "connect", "connect_tescan"]


def __getattr__(name: str) -> Any:
    """Import at first use, so that the optics can be had without the wires."""
    if name not in _HOMES:
        raise AttributeError(f"module 'semdrivers.emulator' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value
