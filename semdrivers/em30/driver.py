"""The EM-30 behind the protocols of `semdrivers.microscope`.

Nothing here knows a number of the instrument: limits, steps and scan modes are what it says of itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

import numpy as np

from firmware_protocol.frame_assembly import Frame
from firmware_protocol.messages import (
    Applied,
    BeamChanged,
    Event,
    FrameDropped,
    GetParameter,
    GetStatus,
    HelloReply,
    MoveStage,
    Parameter,
    Pump,
    SetBeam,
    SetParameter,
    SetStigmator,
    StartScan,
    Vent,
)
from firmware_protocol.stream import PixelFormat
from semdrivers.autofocus import AutofocusResult, autofocus
from semdrivers.em30.control_link import ControlLink
from semdrivers.em30.image_link import FrameOrder, ImageLink
from semdrivers.errors import DeviceError, InvalidParameterError, NotConnectedError, ProtocolError
from semdrivers.microscope import Capabilities, Image, Range, ScanMode
from semdrivers.plugins import get_plugin_manager

_UNITS = {
    Parameter.WORKING_DISTANCE: "mm",
    Parameter.STAGE_X: "mm",
    Parameter.STAGE_Y: "mm",
    Parameter.STIGMATOR_X: "µm",
    Parameter.STIGMATOR_Y: "µm",
}


class EM30:
    """An EM-30 with its two links. Thread safe: one operation at a time.

    `semdrivers.connect` makes one. It implements `Microscope`, `HasStage`, `HasStigmator`, `HasDetector`,
    `HasBeam`, `HasVacuum` and `RecordsFocus`. After `close` every member raises `NotConnectedError`.

    Parameters
    ----------
    control_link : ControlLink
        Open; belongs to the microscope from here on.
    image_link : ImageLink
        Open; belongs to the microscope from here on.
    name : str
        For messages.
    bits : int
        Depth of the frames, 8 or 16.
    keep_beam : bool
        Whether `close` leaves the beam as it is; else it switches the beam off.
    on_close : callable, optional
        Called at the end of `close`.

    Raises
    ------
    ProtocolError
        When the instrument does not tell its limits.
    """

    def __init__(
        self,
        control_link: ControlLink,
        image_link: ImageLink,
        *,
        name: str = "EM-30",
        bits: int = 8,
        keep_beam: bool = True,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._control = control_link
        self._images = image_link
        self._name = name
        self._bits = bits
        self._keep_beam = keep_beam
        self._on_close = on_close
        self._lock = threading.RLock()
        self._closed = False
        hello = control_link.hello
        self._limits = {
            capability.name: Range(capability.minimum, capability.maximum, capability.step)
            for capability in hello.capabilities
        }
        self._capabilities = _capabilities(name, hello, self._limits)
        self._epoch = time.time() - hello.time
        self._effective = 0.0
        self._focus_record: Mapping[str, Any] | None = None
        self._dropped = 0
        self._blanked = False
        with suppress(DeviceError):
            control_link.subscribe(self._heard)

    # Microscope

    @property
    def capabilities(self) -> Capabilities:
        """Limits and modes, as the instrument reported them when it was connected."""
        with self._open():
            return self._capabilities

    @property
    def working_distance(self) -> float:
        """Working distance in mm, as read back; setting it returns once the lens has settled.

        Raises
        ------
        OutOfRangeError
            When set outside ``capabilities.working_distance``; nothing has moved.
        InvalidParameterError
            When set to what is no number.
        """
        return self._get(Parameter.WORKING_DISTANCE)

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._set(Parameter.WORKING_DISTANCE, value)

    @property
    def magnification(self) -> float:
        """Magnification, a plain number, as read back.

        Raises
        ------
        OutOfRangeError
            When set outside ``capabilities.magnification``; nothing has changed.
        InvalidParameterError
            When set to what is no number.
        """
        return self._get(Parameter.MAGNIFICATION)

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._set(Parameter.MAGNIFICATION, value)

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame, wholly after the last set took effect, and return it.

        Raises
        ------
        InvalidParameterError
            When `mode` is not in ``capabilities.scan_modes``.
        InterlockError
            When the beam is off.
        TransportError
            When no good frame came, whatever the image link tried.
        """
        if not isinstance(mode, ScanMode):
            raise InvalidParameterError(f"{self._name}: mode must be a semdrivers.ScanMode, not {mode!r}")
        with self._open():
            if mode not in self._capabilities.scan_modes:
                offer = ", ".join(offered.name for offered in self._capabilities.scan_modes)
                raise InvalidParameterError(f"{self._name} has no scan mode {mode.name}; it has {offer}")
            frame = self._images.acquire(lambda: self._order(mode), self._lost)
            image = self._image(frame, mode)
        get_plugin_manager().notify_frame(self, image)
        return image

    def close(self) -> None:
        """Give the instrument back: the scan stops, the links are closed. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._images.close()
            finally:
                try:
                    self._control.close(keep_beam=self._keep_beam)
                finally:
                    if self._on_close is not None:
                        self._on_close()

    # Stage, stigmator, detector, beam, vacuum

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

    # Focus

    @property
    def focus_record(self) -> Mapping[str, Any] | None:
        """Result of the last autofocus run; it travels in ``metadata["autofocus"]`` of the frames that follow."""
        with self._open():
            return self._focus_record

    @focus_record.setter
    def focus_record(self, value: Mapping[str, Any] | None) -> None:
        with self._open():
            self._focus_record = value

    def autofocus(self, **settings: Any) -> AutofocusResult:
        """Focus; the same as ``semdrivers.autofocus(microscope, **settings)``."""
        with self._open():
            pass
        return autofocus(self, **settings)

    # For people

    @property
    def frames_lost(self) -> int:
        """Frames known to have been lost or damaged on the image link since it was opened."""
        with self._open():
            return self._images.frames_lost

    def __enter__(self) -> Self:
        with self._open():
            return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self._name} (serial number {self._capabilities.serial}, {state})>"

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the lock of a microscope that is open."""
        with self._lock:
            if self._closed:
                raise NotConnectedError(f"the connection to {self._name} is closed; connect again")
            yield

    def _get(self, parameter: Parameter) -> float:
        with self._open():
            return self._control.request(GetParameter(parameter)).value

    def _set(self, parameter: Parameter, value: object) -> None:
        with self._open():
            wanted = self._check(parameter, value)
            applied: Applied = self._control.request(SetParameter(parameter, wanted))
            self._took_effect(applied.time)

    def _check(self, parameter: Parameter, value: object) -> float:
        name = parameter.name.lower()
        try:
            limits = self._limits[name]
        except KeyError:
            raise InvalidParameterError(f"{self._name} has no {name.replace('_', ' ')}") from None
        return limits.check(f"{self._name}: {name}", value, _UNITS.get(parameter, ""))

    def _took_effect(self, instant: float) -> None:
        self._effective = max(self._effective, instant)

    def _heard(self, event: Event) -> None:
        """Keep what tells that a frame will not come; called by the link's thread."""
        if isinstance(event, FrameDropped):
            self._dropped = event.frame_id
        elif isinstance(event, BeamChanged) and not event.on:
            self._blanked = True

    def _lost(self, order: FrameOrder) -> str:
        if self._dropped >= order.first_frame:
            return f"the instrument reports frame {self._dropped} dropped"
        return "the beam went off during the scan" if self._blanked else ""

    def _order(self, mode: ScanMode) -> FrameOrder:
        self._blanked = False
        started = self._control.request(StartScan(mode.width, mode.height, self._bits, 1))
        return FrameOrder(
            started.first_frame,
            max(started.time, self._effective),
            mode.width,
            mode.height,
            started.frame_time,
        )

    def _image(self, frame: Frame, mode: ScanMode) -> Image:
        leader = frame.leader
        depth = "<u2" if leader.pixel_format is PixelFormat.MONO16 else "u1"
        metadata: dict[str, Any] = {"model": self._capabilities.model, "serial": self._capabilities.serial}
        if self._focus_record is not None:
            metadata["autofocus"] = dict(self._focus_record)
        return Image(
            pixels=np.frombuffer(frame.payload, depth).reshape(leader.height, leader.width),
            working_distance=leader.working_distance,
            magnification=leader.magnification,
            pixel_size=leader.pixel_size,
            frame_id=leader.frame_id,
            timestamp=self._epoch + leader.start_time,
            scan_mode=mode,
            metadata=metadata,
        )


def _capabilities(name: str, hello: HelloReply, limits: Mapping[str, Range]) -> Capabilities:
    offered = {(mode.width, mode.height) for mode in hello.scan_modes}
    modes = tuple(mode for mode in ScanMode if mode.value in offered)
    missing = [needed for needed in ("working_distance", "magnification") if needed not in limits]
    if missing or not modes:
        raise ProtocolError(
            f"{name} does not tell its {' and '.join(missing) or 'scan modes'}; its firmware is {hello.firmware}"
        )
    return Capabilities(
        working_distance=limits["working_distance"],
        magnification=limits["magnification"],
        scan_modes=modes,
        model=hello.model,
        serial=hello.serial,
        firmware=hello.firmware,
    )
