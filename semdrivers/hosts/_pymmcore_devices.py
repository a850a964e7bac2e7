"""A `Microscope` as devices of pymmcore-plus; `semdrivers.hosts.pymmcore` has the names for users.

Lengths are the host's, µm: a working distance of 12.5 mm is 12500 µm. From a ``.cfg`` file, each device has a
property ``Address`` for `semdrivers.connect`, and equal addresses share one connection.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from pymmcore_plus import PixelFormat
from pymmcore_plus.experimental.unicore import CameraDevice, ShutterDevice, StageDevice, XYStageDevice

from semdrivers.connection import connect
from semdrivers.errors import DeviceError, InvalidParameterError, NotConnectedError
from semdrivers.files import plain
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Microscope, has_member, missing_members
from semdrivers.threads import on_one_thread

CAMERA, FOCUS, STAGE, SHUTTER = "Camera", "WorkingDistance", "Stage", "Beam"
"""Labels of the devices that `load_microscope` loads."""
PIXEL_SIZE = "SEM"
"""Name of the core's pixel size configuration that follows the camera's frames."""

_UM = 1000.0

_shared: dict[str, tuple[Any, int]] = {}
_shared_lock = threading.Lock()
_cameras: weakref.WeakSet[MicroscopeCamera] = weakref.WeakSet()


class _OfMicroscope:
    """What the devices have in common: the microscope given to them, or one they connect by its address."""

    def __init__(self, microscope: Any = None) -> None:
        super().__init__()
        self._given = microscope
        self._connected: str | None = None
        self.register_property("Address", default_value="", is_pre_init=True)  # type: ignore[attr-defined]

    @property
    def microscope(self) -> Any:
        """The microscope behind the device."""
        if self._given is None:
            label = self.get_label()  # type: ignore[attr-defined]
            raise NotConnectedError(
                f"device {label!r} has no microscope; set its property Address, such as em30://192.168.1.30"
            )
        return self._given

    def initialize(self) -> None:
        """Connect by the address, unless a microscope was given; equal addresses share one connection."""
        address = self.get_property_value("Address")  # type: ignore[attr-defined]
        if self._given is None and address:
            with _shared_lock:
                microscope, users = _shared.get(address) or (on_one_thread(lambda: connect(address)), 0)
                _shared[address] = microscope, users + 1
            self._given, self._connected = microscope, address

    def shutdown(self) -> None:
        """Close the connection with its last device; a microscope that was given stays open."""
        if self._connected is None:
            return
        with _shared_lock:
            microscope, users = _shared.pop(self._connected)
            if users > 1:
                _shared[self._connected] = microscope, users - 1
        self._given = self._connected = None
        if users == 1:
            microscope.close()


class MicroscopeCamera(_OfMicroscope, CameraDevice):
    """Frames, with properties ``ScanMode``, ``Magnification`` and ``PixelType``; the last one is `last_image`.

    Of a microscope with a stigmator there are ``StigmatorX`` and ``StigmatorY`` too, in the units of the instrument.

    It learns the type of the grey levels and the size of a pixel from one frame of the fastest mode when it is
    initialized. Where that cannot be taken, since the beam is off, they are uint8 and unknown until the first frame.
    Once `follow` has given it the core, that core's pixel size follows magnification and mode, and under auto shutter
    each frame is taken with the beam on and leaves it off.
    """

    last_image: Image | None = None
    _mode = ScanMode.FAST
    _exposure = 0.0
    error: Exception | None = None
    """What kept the last frame from being taken; cores log it and go on."""
    _core: Any = None
    _reported_size = 0.0
    _pixel_size_is_old = False

    def initialize(self) -> None:
        """Connect, and learn modes, limits and what a frame is."""
        super().initialize()
        capabilities = self.microscope.capabilities
        modes = {mode.name: mode for mode in capabilities.scan_modes}
        self._mode = capabilities.scan_modes[0]
        self.register_property(
            "ScanMode",
            property_type=str,
            getter=lambda camera: camera._mode.name,
            setter=lambda camera, name: camera._set_mode(modes[name]),
            allowed_values=list(modes),
        )
        self.register_property(
            "Magnification",
            property_type=float,
            getter=lambda camera: camera.microscope.magnification,
            setter=lambda camera, value: camera._set_magnification(value),
            limits=(capabilities.magnification.minimum, capabilities.magnification.maximum),
        )
        if has_member(self.microscope, "stigmator"):
            for index, axis in enumerate("XY"):
                self.register_property(
                    f"Stigmator{axis}",
                    property_type=float,
                    getter=lambda camera, index=index: camera.microscope.stigmator[index],
                    setter=lambda camera, value, index=index: camera._stigmate(index, value),
                )
        self.register_property(
            "PixelType", property_type=str, getter=lambda camera: f"{8 * camera.dtype().itemsize}bit", is_read_only=True
        )
        with suppress(DeviceError):
            self.last_image = self.microscope.acquire(self._mode)
        _cameras.add(self)

    def follow(self, core: Any) -> None:
        """Give the core the pixel size from here on, and obey its auto shutter."""
        self._core, self._reported_size = core, 0.0
        if PIXEL_SIZE not in core.getAvailablePixelSizeConfigs():
            core.definePixelSizeConfig(PIXEL_SIZE)
        self._report_pixel_size()

    def serves(self, core: Any) -> bool:
        """Whether it follows this core, or none."""
        return self._core is None or self._core is core

    def shutdown(self) -> None:
        """Leave the core, and the connection."""
        self._core = None
        _cameras.discard(self)
        super().shutdown()

    def get_exposure(self) -> float:
        """Return what the last frame took, ms."""
        return self._exposure

    def set_exposure(self, exposure: float) -> None:
        """Refuse: an SEM's frame time follows from its scan mode."""
        raise InvalidParameterError(f"exposure {exposure:g} ms: choose the camera's property ScanMode instead")

    def get_pixel_format(self) -> Any:
        """Return the format of the grey levels."""
        return PixelFormat.MONO16 if self.dtype().itemsize > 1 else PixelFormat.MONO8

    def shape(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self._mode.height, self._mode.width

    def dtype(self) -> Any:
        """Return the type of the last frame's grey levels."""
        return self.last_image.pixels.dtype if self.last_image is not None else np.dtype(np.uint8)

    def pixel_size(self, magnification: float) -> float:
        """Return the size of a pixel of the mode in force at a magnification, µm; 0 before the first frame."""
        image = self.last_image
        if image is None:
            return 0.0
        return float(
            image.pixel_size / _UM * image.magnification / magnification * image.pixels.shape[1] / self._mode.width
        )

    def start_sequence(self, n: int | None, get_buffer: Callable[..., Any]) -> Iterator[Mapping[str, Any]]:
        """Scan `n` frames, or until stopped; yield the conditions of each."""
        remaining = itertools.count() if n is None else iter(range(n - 1, -1, -1))
        with beam_for_frames(self._core) as darken:
            for left in remaining:
                began = time.perf_counter()
                try:
                    self.last_image = image = self.microscope.acquire(self._mode)
                except Exception as error:
                    self.error = error
                    raise
                if n is not None and left == 0:
                    darken()  # the core may not ask again
                get_buffer(image.pixels.shape, image.pixels.dtype)[:] = image.pixels
                self._exposure = 1000 * (time.perf_counter() - began)
                self._pixel_size_is_old = True
                yield conditions(image)

    def _set_mode(self, mode: ScanMode) -> None:
        self._mode, self._pixel_size_is_old = mode, True

    def _set_magnification(self, value: float) -> None:
        self.microscope.magnification = value
        self._pixel_size_is_old = True

    def _stigmate(self, index: int, value: float) -> None:
        setting = list(self.microscope.stigmator)
        setting[index] = value
        self.microscope.stigmator = tuple(setting)

    def __exit__(self, *failure: Any) -> None:
        """Let go of the camera's lock, and only then notify the core: whoever is notified may ask the camera."""
        super().__exit__(*failure)
        if self._pixel_size_is_old:
            self._report_pixel_size()

    def _report_pixel_size(self) -> None:
        """Give the core pixel size and affine matrix: rows run along the stage's y, columns along its x."""
        self._pixel_size_is_old = False
        if self._core is None or self._core.getCameraDevice() not in ("", self.get_label()):
            return
        size = self.pixel_size(float(self.microscope.magnification))
        if size == self._reported_size:
            return
        self._reported_size = size
        self._core.setPixelSizeUm(PIXEL_SIZE, size)
        self._core.setPixelSizeAffine(PIXEL_SIZE, [size, 0.0, 0.0, 0.0, size, 0.0])


class WorkingDistanceDrive(_OfMicroscope, StageDevice):
    """The working distance as focus drive, µm. It does not stop half-way: a move returns once the lens has settled."""

    def get_position_um(self) -> float:
        """Return the working distance, µm."""
        return float(self.microscope.working_distance) * _UM

    def set_position_um(self, val: float) -> None:
        """Set the working distance, µm; raises `OutOfRangeError` beyond the limits."""
        self.microscope.working_distance = val / _UM

    def home(self) -> None:
        """Refuse: a lens has no home."""
        raise InvalidParameterError("a working distance has no home; set a position")

    def stop(self) -> None:
        """Nothing moves between calls."""

    def set_origin(self) -> None:
        """Refuse: working distances are absolute."""
        raise InvalidParameterError("a working distance has no origin to set; it is measured from the pole piece")


class MicroscopeStage(_OfMicroscope, XYStageDevice):
    """The stage, µm; absolute."""

    def get_position_um(self) -> tuple[float, float]:
        """Return the position (x, y), µm."""
        x, y = self.microscope.stage_position
        return x * _UM, y * _UM

    def set_position_um(self, x: float, y: float) -> None:
        """Move to (x, y), µm; returns once the stage is idle."""
        self.microscope.move_stage(x / _UM, y / _UM)

    def home(self) -> None:
        """Move to the centre."""
        self.microscope.move_stage(0.0, 0.0)

    def stop(self) -> None:
        """Nothing moves between calls."""

    def set_origin_x(self) -> None:
        """Refuse: the stage is absolute."""
        raise InvalidParameterError("the stage is absolute; its origin cannot be set")

    set_origin_y = set_origin_x


class BeamShutter(_OfMicroscope, ShutterDevice):
    """The beam as shutter."""

    def get_open(self) -> bool:
        """Return whether electrons reach the sample."""
        return bool(self.microscope.beam_on)

    def set_open(self, open: bool) -> None:
        """Switch the beam."""
        self.microscope.beam_on = open


def load_microscope(core: Any, microscope: Microscope) -> None:
    """Load a microscope into a ``UniMMCore`` as camera and focus drive, and as stage and shutter where it has them.

    The auto shutter is switched off: the beam of an SEM is not switched for each frame. Switch it on with
    ``core.setAutoShutter(True)``, and the beam is on for each frame and each focusing, and off between them.

    Raises
    ------
    InvalidParameterError
        When `microscope` lacks a member of the protocol; nothing is loaded.
    """
    missing = missing_members(microscope)
    if missing:
        raise InvalidParameterError(f"{type(microscope).__name__} is no Microscope: it lacks {', '.join(missing)}")
    devices: dict[str, Any] = {CAMERA: MicroscopeCamera(microscope), FOCUS: WorkingDistanceDrive(microscope)}
    if hasattr(type(microscope), "move_stage"):
        devices[STAGE] = MicroscopeStage(microscope)
    if hasattr(type(microscope), "beam_on"):
        devices[SHUTTER] = BeamShutter(microscope)
    for label, device in devices.items():
        core.loadPyDevice(label, device)
        core.initializeDevice(label)
    core.setCameraDevice(CAMERA)
    core.setFocusDevice(FOCUS)
    if STAGE in devices:
        core.setXYStageDevice(STAGE)
    if SHUTTER in devices:
        core.setShutterDevice(SHUTTER)
    core.setAutoShutter(False)
    devices[CAMERA].follow(core)


def follow(core: Any) -> None:
    """Give the core the pixel sizes of its `MicroscopeCamera`, and let that obey the core's auto shutter.

    `load_microscope` does it by itself; call it after ``core.loadSystemConfiguration``.

    Raises
    ------
    InvalidParameterError
        When the core's camera is no `MicroscopeCamera`.
    """
    label = core.getCameraDevice()
    for camera in list(_cameras):
        if camera.get_label() == label and camera.serves(core):
            camera.follow(core)
            return
    raise InvalidParameterError(f"the core's camera {label!r} is no MicroscopeCamera; load one and set it as camera")


@contextmanager
def beam_for_frames(core: Any) -> Iterator[Callable[[], None]]:
    """Open the core's shutter, such as a `BeamShutter`, for the block, where its auto shutter says so.

    Yields
    ------
    callable
        Closes it before the end of the block.
    """
    opened = False

    def darken() -> None:
        nonlocal opened
        if opened:
            opened = False
            core.setShutterOpen(False)

    if core is not None and core.getAutoShutter() and core.getShutterDevice() and not core.getShutterOpen():
        core.setShutterOpen(True)
        opened = True
    try:
        yield darken
    finally:
        darken()


def conditions(image: Image) -> dict[str, Any]:
    """Return a frame's conditions in plain values: working distance mm, magnification, pixel size nm, frame id."""
    names = ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "scan_mode")
    return {name: plain(getattr(image, name)) for name in names}


def camera_of(core: Any, microscope: Microscope) -> MicroscopeCamera | None:
    """Return the core's camera, or None when that is no `MicroscopeCamera` of `microscope`."""
    label = core.getCameraDevice()
    for camera in list(_cameras):
        if camera.get_label() == label and camera.serves(core) and camera.microscope is microscope:
            return camera
    return None
