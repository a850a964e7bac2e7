"""The EM-30 behind the protocols of `semdrivers.microscope`.

Nothing here knows a number of the instrument but the diameter of its probe, which no message tells: limits, steps and
scan modes are what it says of itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

import numpy as np

from firmware_protocol.frame_assembly import Frame
from firmware_protocol.messages import (
    BeamChanged,
    Event,
    FrameDropped,
    HelloReply,
    Parameter,
    StartScan,
)
from firmware_protocol.profile import PROBE_DIAMETER
from firmware_protocol.stream import PixelFormat
from semdrivers.autofocus import autofocus
from semdrivers.em30._accessories import Accessories
from semdrivers.em30._address import parse_address
from semdrivers.em30._control_link import ControlLink
from semdrivers.em30._image_link import FrameOrder, ImageLink
from semdrivers.em30._transport import open_serial, open_tcp
from semdrivers.errors import DeviceError, InvalidParameterError, NotConnectedError, ProtocolError
from semdrivers.focus import AutofocusResult, record_of_frame
from semdrivers.image import Image, ScanMode
from semdrivers.links import parse_target
from semdrivers.microscope import Capabilities, Range
from semdrivers.plugins import get_plugin_manager


class EM30(Accessories):
    """An EM-30 with its two links. Thread safe: one operation at a time.

    `semdrivers.connect` makes one. It implements `Microscope`, `RecordsFocus` and what `Accessories` lists. After
    `close` every member raises `NotConnectedError`.

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
        super().__init__(control_link, name)
        self._images = image_link
        self._bits = bits
        self._keep_beam = keep_beam
        self._on_close = on_close
        hello = control_link.hello
        self._capabilities = _capabilities(name, hello, self._limits)
        self._epoch = time.time() - hello.time
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
            f"{name} does not tell its {' and '.join(missing) or 'scan modes'}; its firmware is {hello.firmware}"
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
        When a link could not be opened; both are tried, and the message tells of each.
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
        closers: list[Callable[[], None]] = [link.close for link in (images, control) if link is not None]
        for close in closers:
            close()
        raise


def _open_control(address: Any, name: str) -> ControlLink:

    transport = open_tcp(address.host, address.port) if address.host else open_serial(address.device, address.baudrate)
    return ControlLink(transport, client_name=address.client, name=name)
