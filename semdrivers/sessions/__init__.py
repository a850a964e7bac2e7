"""Microscopes made of files: recorded sessions, their replay, and focal series."""

from semdrivers.base import METHODS, PROPERTIES
from semdrivers.sessions._recording import SESSION, Recorder, SessionFolder, free_folder, written
from semdrivers.sessions._replay import Replay, open_replay
from semdrivers.sessions._series import OPTICS, Series, open_series
from semdrivers.sessions._series_recording import SeriesRecord, record_series

__all__ = [
    "METHODS", "OPTICS", "PROPERTIES", "SESSION", "Recorder", "Replay", "Series", "SeriesRecord", "SessionFolder",
    "free_folder", "open_replay", "open_series", "record_series", "written",
]  # fmt: skip
