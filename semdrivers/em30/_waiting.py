"""How long the links of an EM-30 wait."""

from __future__ import annotations

from dataclasses import dataclass, fields

from semdrivers.microscope import within

_MOST = 86400.0


@dataclass(frozen=True, slots=True)
class WaitingTimes:
    """Seconds that the driver of an EM-30 waits before it reports a failure.

    Parameters
    ----------
    vacuum : float
        For the end of pumping or venting, however often the instrument says that it is still at work.
    settling : float
        For the end of any other request: no lens, stage or beam takes longer to come to rest.
    reconnect : float
        For a lost control link to be opened again.
    frame : float
        For a frame beyond its scan time; doubled with every step of recovery. Fifteen times as long, all steps
        together, while the instrument reports that it still scans the frame.
    replug : float
        For a lost image device to be plugged in again.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When a time is no number, or not from 0 to 86400 s.
    """

    vacuum: float = 900.0
    settling: float = 60.0
    reconnect: float = 5.0
    frame: float = 2.0
    replug: float = 3.0

    def __post_init__(self) -> None:
        for field in fields(self):
            within(f"waiting time {field.name}", getattr(self, field.name), 0.0, _MOST, "s")
