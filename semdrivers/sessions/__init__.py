"""Microscopes made of files: recorded sessions, their replay, and focal series."""

from semdrivers.base import METHODS, PROPERTIES
from semdrivers.sessions._recording import SESSION, Recorder, SessionFolder, free_folder, written
from semdrivers.sessions._replay import Replay, open_replay
from semdrivers.sessions._series import Series, open_series

__all__ = [
    "METHODS",
    "PROPERTIES",
    "SESSION",
    "Recorder",
    "Replay",
    "Series",
    "SessionFolder",
    "free_folder",
    "open_replay",
    "open_series",
    "written",
]
