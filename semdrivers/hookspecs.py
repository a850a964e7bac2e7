"""The hooks that plugins implement. Project name and entry-point group: ``semdrivers``."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pluggy

from semdrivers.autofocus import AutofocusResult, AutofocusSettings, Progress
from semdrivers.microscope import Image, Microscope

hookspec = pluggy.HookspecMarker("semdrivers")
hookimpl = pluggy.HookimplMarker("semdrivers")


@hookspec(firstresult=True)
def semdrivers_connect(url: str, options: Mapping[str, Any]) -> Microscope | None:
    """Open the microscope that `url` names, or return None when the scheme is another's."""


@hookspec
def semdrivers_schemes() -> Mapping[str, str]:
    """Return the URL schemes that ``semdrivers_connect`` opens, each with an example."""
    raise AssertionError("a specification is never called")


@hookspec(firstresult=True)
def semdrivers_autofocus(
    microscope: Microscope,
    settings: AutofocusSettings,
    progress: Progress | None,
    cancel: threading.Event | None,
) -> AutofocusResult | None:
    """Focus the microscope, or return None when the method in `settings` is another's."""


@hookspec
def semdrivers_autofocus_methods() -> Mapping[str, str]:
    """Return names of autofocus methods, each with a one-line description."""
    raise AssertionError("a specification is never called")


@hookspec
def semdrivers_specimens() -> Mapping[str, Any]:
    """Return names of emulator specimens, each with a factory ``factory(seed) -> Specimen``."""
    raise AssertionError("a specification is never called")


@hookspec
def semdrivers_frame(microscope: Microscope, image: Image) -> None:
    """Watch a frame that was just acquired; what it returns is ignored."""
