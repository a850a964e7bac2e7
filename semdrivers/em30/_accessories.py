"""The EM-30 beyond what focusing needs: stage, stigmator, detector, beam, vacuum."""

from __future__ import annotations

import numpy as np

from firmware_protocol.messages import GetStatus, MoveStage, OrientStage, Parameter, Pump, SetBeam, SetStigmator, Vent
from semdrivers.em30._session import Session
from semdrivers.errors import InvalidParameterError


class Accessories(Session):
    """Implements `HasStage`, `HasStageOrientation`, `HasStigmator`, `HasDetector`, `HasBeam` and `HasVacuum`."""

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y) in mm."""
        with self._open():
            return self._get(Parameter.STAGE_X), self._get(Parameter.STAGE_Y)

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y) in mm; returns the position reached, once the stage is idle.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            Before anything moves.
        InterlockError
            When the move would leave the collision envelope.
        """
        with self._open():
            x, y = self._check(Parameter.STAGE_X, x), self._check(Parameter.STAGE_Y, y)
            moved = self._control.request(MoveStage(x, y))
            self._took_effect(moved.time)
            return moved.x, moved.y

    @property
    def stage_orientation(self) -> tuple[float, float]:
        """Tilt and rotation in degrees."""
        with self._open():
            return self._get(Parameter.STAGE_TILT), self._get(Parameter.STAGE_ROTATION)

    def orient_stage(self, tilt: float, rotation: float) -> tuple[float, float]:
        """Tilt and rotate, degrees; returns what was reached, once the stage is idle.

        The point under the beam stays there. A tilt leaves a band of the picture in focus.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            Before anything moves; the second also when this stage does not tilt or rotate.
        InterlockError
            When the sample holder would leave the collision envelope.
        """
        with self._open():
            tilt, rotation = self._check(Parameter.STAGE_TILT, tilt), self._check(Parameter.STAGE_ROTATION, rotation)
            oriented = self._control.request(OrientStage(tilt, rotation))
            self._took_effect(oriented.time)
            return oriented.tilt, oriented.rotation

    @property
    def stigmator(self) -> tuple[float, float]:
        """Correction (x, y) in µm of astigmatic difference.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            When set to what the stigmator cannot do; nothing has changed.
        """
        with self._open():
            return self._get(Parameter.STIGMATOR_X), self._get(Parameter.STIGMATOR_Y)

    @stigmator.setter
    def stigmator(self, value: tuple[float, float]) -> None:
        with self._open():
            try:
                x, y = value
            except (TypeError, ValueError):
                raise InvalidParameterError(f"{self._name}: stigmator must be (x, y) in µm, not {value!r}") from None
            x, y = self._check(Parameter.STIGMATOR_X, x), self._check(Parameter.STIGMATOR_Y, y)
            self._took_effect(self._control.request(SetStigmator(x, y)).time)

    @property
    def brightness(self) -> float:
        """Offset of the detector, 0 to 1. Raises as `working_distance` does."""
        return self._get(Parameter.BRIGHTNESS)

    @brightness.setter
    def brightness(self, value: float) -> None:
        self._set(Parameter.BRIGHTNESS, value)

    @property
    def contrast(self) -> float:
        """Gain of the detector, 0 to 1. Raises as `working_distance` does."""
        return self._get(Parameter.CONTRAST)

    @contrast.setter
    def contrast(self, value: float) -> None:
        self._set(Parameter.CONTRAST, value)

    @property
    def beam_on(self) -> bool:
        """Whether electrons reach the sample; switching it on returns once the beam is stable.

        Raises
        ------
        InterlockError
            When the beam is switched on without a vacuum, or with the door open.
        """
        with self._open():
            return self._control.request(GetStatus()).beam_on

    @beam_on.setter
    def beam_on(self, value: bool) -> None:
        if not isinstance(value, bool | np.bool_):
            raise InvalidParameterError(f"{self._name}: beam_on must be True or False, not {value!r}")
        with self._open():
            self._took_effect(self._control.request(SetBeam(bool(value))).time)

    @property
    def vacuum(self) -> str:
        """``"vented"``, ``"pumping"``, ``"ready"`` or ``"venting"``."""
        with self._open():
            return self._control.request(GetStatus()).vacuum.name.lower()

    def pump(self) -> None:
        """Evacuate the chamber; returns when the vacuum is ready. Raises `InterlockError` with the door open."""
        with self._open():
            self._took_effect(self._control.request(Pump()).time)

    def vent(self) -> None:
        """Let air in; returns when the chamber is vented. Raises `InterlockError` while the beam is on."""
        with self._open():
            self._took_effect(self._control.request(Vent()).time)
