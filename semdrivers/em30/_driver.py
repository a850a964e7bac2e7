"""The EM-30 behind the protocols of `semdrivers.microscope`.

Nothing here knows a number of the instrument but the diameter of its probe, which no message reports: limits, steps and
scan modes are what it says of itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

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
    OrientStage,
    Parameter,
    Pump,
    SetBeam,
    SetParameter,
    SetStigmator,
    StartScan,
    Vent,
)
from firmware_protocol.profile import PROBE_DIAMETER
from firmware_protocol.stream import PixelFormat
from semdrivers.base import MicroscopeBase
from semdrivers.em30._address import Address, parse_address
from semdrivers.em30._control_link import ControlLink
from semdrivers.em30._image_link import FrameOrder, ImageLink
from semdrivers.em30._transport import open_serial, open_tcp
from semdrivers.errors import DeviceError, InvalidParameterError, NotConnectedError, ProtocolError
from semdrivers.focus import FocusRecord, record_of_frame
from semdrivers.image import Image, ScanMode
from semdrivers.links import parse_target
from semdrivers.microscope import Capabilities, Range
from semdrivers.plugins import get_plugin_manager

_UNITS = {
    Parameter.WORKING_DISTANCE: "mm",
    Parameter.STAGE_X: "mm",
    Parameter.STAGE_Y: "mm",
    Parameter.STAGE_TILT: "°",
    Parameter.STAGE_ROTATION: "°",
    Parameter.STIGMATOR_X: "µm",
    Parameter.STIGMATOR_Y: "µm",
}


class EM30(MicroscopeBase):
    """An EM-30 with its two links. Thread safe: one operation at a time.

    `semdrivers.connect` makes one. It implements `Microscope`, `RecordsFocus`, `HasStage`, `HasStageOrientation`,
    `HasStigmator`, `HasDetector`, `HasBeam` and `HasVacuum`. After `close` every member raises `NotConnectedError`.

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
        When the instrument does not report its limits.
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
        self._name = name
        self._lock = threading.RLock()
        self._closed = False
        self._effective = 0.0
        self._limits = {
            capability.name: Range(capability.minimum, capability.maximum, capability.step)
            for capability in control_link.hello.capabilities
        }
        self._images = image_link
        self._bits = bits
        self._keep_beam = keep_beam
        self._on_close = on_close
        hello = control_link.hello
        self._capabilities = _capabilities(name, hello, self._limits)
        self._epoch = time.time() - hello.time
        self._focus_record: FocusRecord | None = None
        self._dropped = 0
        self._blanked = False
        with suppress(DeviceError):
            control_link.subscribe(self._heard)

    @property
    def capabilities(self) -> Capabilities:
        """Limits and modes, as the instrument reported them when it was connected."""
        with self._open():
            return self._capabilities

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
            with ExitStack() as last_comes_first:
                if self._on_close is not None:
                    last_comes_first.callback(self._on_close)
                last_comes_first.callback(self._control.close, keep_beam=self._keep_beam)
                last_comes_first.callback(self._images.close)

    @property
    def focus_record(self) -> FocusRecord | None:
        """Result of the last autofocus run; it travels in ``metadata["autofocus"]`` of the frames that follow."""
        with self._open():
            return self._focus_record

    @focus_record.setter
    def focus_record(self, value: FocusRecord | None) -> None:
        with self._open():
            self._focus_record = value

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
    def stage_orientation(self) -> tuple[float, float]:
        """Tilt and rotation in degrees."""
        with self._open():
            return self._get(Parameter.STAGE_TILT), self._get(Parameter.STAGE_ROTATION)

    def orient_stage(self, tilt: float, rotation: float) -> tuple[float, float]:
        """Tilt and rotate, degrees, about the point under the beam; returns what was reached, once the stage is idle.

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
        return float(self._read("brightness"))

    @brightness.setter
    def brightness(self, value: float) -> None:
        self._write("brightness", value)

    @property
    def contrast(self) -> float:
        """Gain of the detector, 0 to 1. Raises as `working_distance` does."""
        return float(self._read("contrast"))

    @contrast.setter
    def contrast(self, value: float) -> None:
        self._write("contrast", value)

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

    @property
    def frames_lost(self) -> int:
        """Frames known to have been lost or damaged on the image link since it was opened."""
        with self._open():
            return self._images.frames_lost

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self._name} (serial number {self._capabilities.serial}, {state})>"

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnectedError(f"the connection to {self._name} is closed; connect again")

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Hold the lock of a microscope that is open."""
        with self._lock:
            self._check_open()
            yield

    def _read(self, name: str) -> Any:
        return self._get(Parameter[name.upper()])

    def _write(self, name: str, value: Any) -> None:
        parameter = Parameter[name.upper()]
        with self._open():
            applied: Applied = self._control.request(SetParameter(parameter, self._check(parameter, value)))
            self._took_effect(applied.time)

    def _get(self, parameter: Parameter) -> float:
        with self._open():
            self._limits_of(parameter)
            return self._control.request(GetParameter(parameter)).value

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

    def _heard(self, event: Event) -> None:
        """Remember that a frame will not come; called by the link's thread."""
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
        not_before = max(started.time, self._effective)
        return FrameOrder(started.first_frame, not_before, mode.width, mode.height, started.frame_time)

    def _image(self, frame: Frame, mode: ScanMode) -> Image:
        leader = frame.leader
        depth = "<u2" if leader.pixel_format is PixelFormat.MONO16 else "u1"
        metadata: dict[str, Any] = {"model": self._capabilities.model, "serial": self._capabilities.serial}
        if self._focus_record is not None:
            metadata["autofocus"] = record_of_frame(self._focus_record, leader.working_distance)
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
            f"{name} does not report its {' and '.join(missing) or 'scan modes'}; its firmware is {hello.firmware}"
        )
    return Capabilities(
        working_distance=limits["working_distance"],
        magnification=limits["magnification"],
        scan_modes=modes,
        model=hello.model,
        serial=hello.serial,
        firmware=hello.firmware,
        probe_diameter=PROBE_DIAMETER,
    )


def connect(url: str, options: Mapping[str, Any]) -> EM30:
    """Open the EM-30 at a URL.

    Parameters
    ----------
    url : str
        ``em30://HOST[:PORT][?usb=…]`` or ``em30+serial:///dev/ttyUSB0[?baudrate=…]``.
    options : mapping
        ``usb``, ``bits``, ``keep_beam``, ``client``, ``baudrate``, as in the URL; ``on_close``, a callable for
        the end of `EM30.close`.

    Raises
    ------
    InvalidParameterError
        When the URL or an option is malformed; before any I/O.
    NotConnectedError
        When a link could not be opened; both are tried, and the message reports each.
    BusyError
        When another client controls the instrument.
    ProtocolError
        When what answers does not speak this protocol.
    """
    address = parse_address(url, options)
    on_close = options.get("on_close")
    if on_close is not None and not callable(on_close):
        raise InvalidParameterError(f"{url}: on_close must be callable, not {on_close!r}")
    target = parse_target(address.usb)
    where = address.host or address.device
    name = f"EM-30 at {where}"
    failures: dict[str, str | Exception] = {}
    control: ControlLink | None = None
    images: ImageLink | None = None
    try:
        try:
            control = _open_control(address, name)
        except NotConnectedError as error:
            failures["control"] = error
        try:
            images = ImageLink(target, name, serial=None if control is None else control.hello.serial)
        except NotConnectedError as error:
            failures["images"] = error
        if control is None or images is None:
            raise NotConnectedError(f"could not connect to the {name}", failures)
        return EM30(control, images, name=name, bits=address.bits, keep_beam=address.keep_beam, on_close=on_close)
    except BaseException:
        if images is not None:
            images.close()
        if control is not None:
            control.close()
        raise


def _open_control(address: Address, name: str) -> ControlLink:
    transport = open_tcp(address.host, address.port) if address.host else open_serial(address.device, address.baudrate)
    return ControlLink(transport, client_name=address.client, name=name)
