"""What a script does in a run of the campaign, and reports as it goes; in this process or in one that is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import onnxruntime  # noqa: F401 - loaded once for all processes that are forked
import usb.core  # noqa: F401

import semdrivers
import semfocus_plugin.methods  # noqa: F401
from semdrivers.errors import SemDriversError
from semdrivers.microscope import HasStop

__all__ = ["TRAVEL", "Report", "focus_and_take_a_picture", "in_a_process"]

TRAVEL = 1.0
"""Limit of a run, mm from its start."""

Report = tuple[Any, ...]
"""``("focusing",)``, ``("result", status, working_distance)``, ``("picture", working_distance, magnification,
frame_id)``, ``("leaving",)``, or ``("error", name, named, text)``."""


def focus_and_take_a_picture(url: str, report: Callable[[Report], object], stop_after: float | None = None) -> None:
    """Focus, take a picture, and report each step; nothing is raised but what ends the program.

    Parameters
    ----------
    url : str
        Of the microscope.
    report : callable
        Takes each `Report`.
    stop_after : float, optional
        Seconds after which another thread stops the microscope.

    Raises
    ------
    SystemExit, KeyboardInterrupt
        When the program is to end; it is reported too.
    """
    try:
        with semdrivers.connect(url) as microscope:
            other = None
            if stop_after is not None:
                other = threading.Timer(stop_after, _stop, [microscope])
                other.start()
            try:
                report(("focusing",))
                result = semdrivers.autofocus(microscope, max_travel=TRAVEL, learn_aperture=False)
                report(("result", result.status, result.working_distance))
                image = microscope.acquire()
                report(("picture", image.working_distance, image.magnification, image.frame_id))
                report(("leaving",))
            finally:
                if other is not None:
                    other.join()
    except BaseException as error:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        report(("error", type(error).__name__, isinstance(error, SemDriversError), text))
        if not isinstance(error, Exception):
            raise


def in_a_process(url: str, connection: Connection) -> None:
    """Do the same as a process of its own, and report through `connection`."""
    with suppress(SystemExit, KeyboardInterrupt):
        focus_and_take_a_picture(url, connection.send)


def _stop(microscope: object) -> None:
    with suppress(SemDriversError):
        if isinstance(microscope, HasStop):
            microscope.stop()
