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
from typing import Any

import numpy as np
from pymmcore_plus.experimental.unicore import CameraDevice, ShutterDevice, StageDevice, XYStageDevice

from semdrivers.connection import connect
from semdrivers.errors import InvalidParameterError, NotConnectedError
from semdrivers.files import plain
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Microscope, missing_members

CAMERA, FOCUS, STAGE, SHUTTER = "Camera", "WorkingDistance", "Stage", "Beam"
"""Labels of the devices that `load_microscope` loads."""

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
                microscope, users = _shared.get(address) or (connect(address), 0)
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
    """Frames, with properties ``ScanMode`` and ``Magnification``. `last_image` is the last one, with its conditions."""

    last_image: Image | None = None
    _mode = ScanMode.FAST
    _exposure = 0.0

    def initialize(self) -> None:
        """Connect, and learn modes and limits."""
        super().initialize()
        capabilities = self.microscope.capabilities
        modes = {mode.name: mode for mode in capabilities.scan_modes}
        self._mode = capabilities.scan_modes[0]
        self.register_property(
            "ScanMode",
            property_type=str,
            getter=lambda camera: camera._mode.name,
            setter=lambda camera, name: setattr(camera, "_mode", modes[name]),
            allowed_values=list(modes),
        )
        self.register_property(
            "Magnification",
            property_type=float,
            getter=lambda camera: camera.microscope.magnification,
            setter=lambda camera, value: setattr(camera.microscope, "magnification", value),
            limits=(capabilities.magnification.minimum, capabilities.magnification.maximum),
        )
        _cameras.add(self)

    def get_exposure(self) -> float:
        """Return what the last frame took, ms."""
        return self._exposure

    def set_exposure(self, exposure: float) -> None:
        """Refuse: an SEM's frame time follows from its scan mode."""
        raise InvalidParameterError(f"exposure {exposure:g} ms: choose the camera's property ScanMode instead")

    def shape(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self._mode.height, self._mode.width

    def dtype(self) -> Any:
        """Return the type of the last frame's grey levels, uint8 before the first."""
        return self.last_image.pixels.dtype if self.last_image is not None else np.dtype(np.uint8)

    def start_sequence(self, n: int | None, get_buffer: Callable[..., Any]) -> Iterator[Mapping[str, Any]]:
        """Scan `n` frames, or until stopped; yield the conditions of each."""
        for _ in itertools.count() if n is None else range(n):
            began = time.perf_counter()
            self.last_image = image = self.microscope.acquire(self._mode)
            get_buffer(image.pixels.shape, image.pixels.dtype)[:] = image.pixels
            self._exposure = 1000 * (time.perf_counter() - began)
            yield conditions(image)


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

    The auto-shutter is switched off: the beam of an SEM is not switched for each frame.

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


def conditions(image: Image) -> dict[str, Any]:
    """Return a frame's conditions in plain values: working distance mm, magnification, pixel size nm, frame id."""
    names = ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "scan_mode")
    return {name: plain(getattr(image, name)) for name in names}


def last_image(core: Any, microscope: Microscope) -> Image | None:
    """Return the last frame of the core's camera, or None when that camera is no `MicroscopeCamera` of `microscope`."""
    label = core.getCameraDevice()
    for camera in _cameras:
        if camera.get_label() == label and camera.microscope is microscope:
            return camera.last_image
    return None
