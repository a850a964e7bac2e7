"""What every part of the EM-30's driver shares: the control link, the lock, the limits, and reading and setting."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from firmware_protocol.messages import Applied, GetParameter, Parameter, SetParameter
from semdrivers.em30._control_link import ControlLink
from semdrivers.errors import InvalidParameterError, NotConnectedError
from semdrivers.microscope import Range

_UNITS = {
    Parameter.WORKING_DISTANCE: "mm",
    Parameter.STAGE_X: "mm",
    Parameter.STAGE_Y: "mm",
    Parameter.STAGE_TILT: "°",
    Parameter.STAGE_ROTATION: "°",
    Parameter.STIGMATOR_X: "µm",
    Parameter.STIGMATOR_Y: "µm",
}


class Session:
    """A control link in use. Thread safe: one operation at a time.

    Parameters
    ----------
    control_link : ControlLink
        Open; belongs to the session from here on.
    name : str
        For messages.
    """

    def __init__(self, control_link: ControlLink, name: str) -> None:
        self._control = control_link
        self._name = name
        self._lock = threading.RLock()
        self._closed = False
        self._limits = {
            capability.name: Range(capability.minimum, capability.maximum, capability.step)
            for capability in control_link.hello.capabilities
        }
        self._effective = 0.0

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the lock of a microscope that is open."""
        with self._lock:
            if self._closed:
                raise NotConnectedError(f"the connection to {self._name} is closed; connect again")
            yield

    def _get(self, parameter: Parameter) -> float:
        with self._open():
            self._limits_of(parameter)
            return self._control.request(GetParameter(parameter)).value

    def _set(self, parameter: Parameter, value: object) -> None:
        with self._open():
            wanted = self._check(parameter, value)
            applied: Applied = self._control.request(SetParameter(parameter, wanted))
            self._took_effect(applied.time)

    def _check(self, parameter: Parameter, value: object) -> float:
        limits = self._limits_of(parameter)
        return limits.check(f"{self._name}: {parameter.name.lower()}", value, _UNITS.get(parameter, ""))

    def _limits_of(self, parameter: Parameter) -> Range:
        name = parameter.name.lower()
        if name not in self._limits:
            raise InvalidParameterError(f"{self._name} has no {name.replace('_', ' ')}")
        return self._limits[name]

    def _took_effect(self, instant: float) -> None:
        self._effective = max(self._effective, instant)
