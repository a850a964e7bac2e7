"""Scanning electron microscopes behind one small protocol, with autofocus as a plugin.

::

    import semdrivers

    with semdrivers.connect("emulator://tin-balls?seed=1") as microscope:
        result = microscope.autofocus()
        microscope.acquire(semdrivers.ScanMode.SLOW).save("tin.ome.tif")

Units: working distance mm, pixel size nm, times s, voltage kV, stage position mm, stage angles degrees;
magnification is a plain number and scores run from 0 (out of focus) to 9.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from semdrivers.autofocus import autofocus
from semdrivers.connection import OpenMicroscope, connect, opened, stop
from semdrivers.errors import (
    AutofocusError,
    BusyError,
    DeviceError,
    ExistingFileError,
    HardwareFault,
    InterlockError,
    InvalidParameterError,
    ModelError,
    NotConnectedError,
    OutOfRangeError,
    ProtocolError,
    SemDriversError,
    StoppedError,
    TransportError,
)
from semdrivers.focus import (
    AutofocusResult,
    AutofocusSettings,
    FocusRecord,
    FocusStep,
    FrameSkippedError,
    NotFocusedError,
    RecordsFocus,
)
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import (
    Capabilities,
    HasBeam,
    HasBeamShift,
    HasDetector,
    HasStage,
    HasStageOrientation,
    HasStigmator,
    HasStop,
    HasVacuum,
    HasVoltage,
    Microscope,
    Range,
)

if TYPE_CHECKING:
    from semdrivers.brightness import BrightnessResult, autobrightness
    from semdrivers.files import read_pixels
    from semdrivers.image import read_image, write_image
    from semdrivers.maps import FocusMap
    from semdrivers.plugins import PluginRecord, get_plugin_manager, hookimpl
    from semdrivers.sessions import Recorder
    from semdrivers.threads import on_one_thread

    __version__: str

_LAZY = {
    "BrightnessResult": "semdrivers.brightness",
    "FocusMap": "semdrivers.maps",
    "PluginRecord": "semdrivers.plugins",
    "Recorder": "semdrivers.sessions",
    "autobrightness": "semdrivers.brightness",
    "get_plugin_manager": "semdrivers.plugins",
    "hookimpl": "semdrivers.plugins",
    "on_one_thread": "semdrivers.threads",
    "read_image": "semdrivers.image",
    "read_pixels": "semdrivers.files",
    "write_image": "semdrivers.image",
}

__all__ = [
    "AutofocusError", "AutofocusResult", "AutofocusSettings", "BrightnessResult", "BusyError", "Capabilities",
    "DeviceError", "ExistingFileError", "FocusMap", "FocusRecord", "FocusStep", "FrameSkippedError", "HardwareFault",
    "HasBeam", "HasBeamShift", "HasDetector", "HasStage", "HasStageOrientation", "HasStigmator", "HasStop",
    "HasVacuum", "HasVoltage", "Image", "InterlockError", "InvalidParameterError", "Microscope", "ModelError",
    "NotConnectedError", "NotFocusedError", "OpenMicroscope", "OutOfRangeError", "PluginRecord", "ProtocolError",
    "Range", "Recorder", "RecordsFocus", "ScanMode", "SemDriversError", "StoppedError", "TransportError",
    "__version__", "autobrightness", "autofocus", "connect", "get_plugin_manager", "hookimpl", "on_one_thread",
    "opened", "read_image", "read_pixels", "stop", "write_image",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the heavier names at first use, so that ``import semdrivers`` stays quick."""
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("semdrivers")
    else:
        raise AttributeError(f"module 'semdrivers' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
