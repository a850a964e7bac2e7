"""The hooks that `semdrivers` calls; loaded through the entry point ``semfocus``, by nothing else.

A run without a method's name is ours: installing another package must not change how an instrument focuses by night.
Another plugin's method is chosen by its name, or stands before ours on purpose, with ``tryfirst=True``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial

from semdrivers.focus import AutofocusResult, AutofocusSettings, Progress
from semdrivers.image import Image
from semdrivers.microscope import Microscope
from semdrivers.plugins import hookimpl
from semfocus_plugin import methods
from semfocus_plugin import run as loop
from semfocus_plugin.calibration import apertures_in_use, calibration_for, learn_stigmator, stigmator_for

__all__ = ["semdrivers_autofocus", "semdrivers_autofocus_methods", "semdrivers_focus_between"]


@hookimpl
def semdrivers_autofocus(
    microscope: Microscope, settings: AutofocusSettings, progress: Progress | None, cancel: threading.Event | None
) -> AutofocusResult | None:
    """Focus the microscope, or return None when the method is another plugin's."""
    method = methods.find(settings.method)
    if method is None:
        return None
    kept = calibration_for(microscope.capabilities)
    stigmator = stigmator_for(microscope.capabilities) if settings.stigmate else None
    apertures = apertures_in_use()
    return loop.run(
        method,
        microscope,
        settings,
        progress,
        cancel,
        beam=None if kept is None else kept.beam,
        core=None if kept is None else kept.core,
        apertures=apertures,
        effect=None if stigmator is None else stigmator.effect,
        keep_effect=None if apertures is None else partial(learn_stigmator, microscope.capabilities),
    )


@hookimpl
def semdrivers_autofocus_methods() -> Mapping[str, str]:
    """Return the names of our methods, each with a one-line description."""
    return {method.name: method.description for method in methods.METHODS}


@hookimpl
def semdrivers_focus_between(
    microscope: Microscope, first: Image, second: Image, row: float, column: float, depth_of_field: float
) -> tuple[float, float] | None:
    """Return the working distance of focus in the strip that two pictures share, and its standard deviation, mm."""
    from semfocus_plugin.tiles import beam_at, focus_between, joint

    where = joint(first, second, row, column)
    if where is None:
        return None
    return focus_between(first, second, where, beam_at(microscope, second.working_distance), depth_of_field)
