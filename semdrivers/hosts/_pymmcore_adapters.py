"""A Micro-Manager core as a `Microscope`; `semdrivers.hosts.pymmcore` has the names for users.

Micro-Manager's lengths are micrometres; those of a `Microscope` are mm. Its focus drive stands at a z of either sign,
which is reported as it is: a z of -30 µm is a working distance of -0.03 mm.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from semdrivers.base import ConnectedMicroscope
from semdrivers.connection import limits_option, number_option, split_path_url
from semdrivers.errors import BusyError, InvalidParameterError, NotConnectedError, OutOfRangeError, translated
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import (
    Capabilities,
    Range,
    check_read_back,
    number,
    offered_mode,
    reported,
    reported_picture,
    within,
)

_UM, _NM = 1e3, 1e3
_DISPLAY = 128e6
"""nm; magnification is that of a picture so wide."""
_TRAVEL = 0.05
_STEP = 5e-5
_STAGE_STEP = 0.001
_WAVELENGTH = 550.0
_FULL_WIDTH = 0.51
"""Full width at half maximum of an Airy disc, in wavelengths over the numerical aperture."""
_OPTIONS = ("numerical_aperture", "index", "pixel_size", "working_distance", "step", "wavelength")


class MicroscopeOfCore(ConnectedMicroscope):
    """The camera and the focus drive of a Micro-Manager core, as a `Microscope`. Thread safe: one operation at a time.

    It has a stage where the core has an XY stage. The magnification is 128 mm over the width of the field, and
    follows the pixel size: it changes with the objective, and cannot be set.

    Parameters
    ----------
    core : CMMCore or CMMCorePlus
        With its devices loaded, a camera and a focus drive among them. It is its owner's: `close` leaves it as it is.
    numerical_aperture : float
        Numerical aperture of the objective; no core reports it.
    index : float
        Refractive index of the immersion medium.
    pixel_size : float, optional
        At the sample, nm; by default what the core's pixel size configuration says.
    working_distance : pair of float, optional
        Lowest and highest z allowed, mm: no core reports the limits of a drive. By default no further than 0.05 mm from
        where the drive stands now.
    step : float
        Distance from its target within which the drive comes, mm.
    wavelength : float
        Wavelength of the light, nm; with the aperture it gives the probe.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When the core has no camera, no focus drive or no pixel size, or an option is no sensible number.
    """

    _name = "Micro-Manager"

    def __new__(cls, core: Any, **_: Any) -> Self:
        """Make a class that has a stage where the core has one."""
        return super().__new__(cls._offering({"stage_position", "move_stage"} if core.getXYStageDevice() else set()))

    def __init__(
        self,
        core: Any,
        *,
        numerical_aperture: float,
        index: float = 1.0,
        pixel_size: float | None = None,
        working_distance: tuple[float, float] | None = None,
        step: float = _STEP,
        wavelength: float = _WAVELENGTH,
    ) -> None:
        index = within("index", index, 1.0, 2.5)
        aperture = within("numerical_aperture", numerical_aperture, 0.01, 0.995 * index)
        self._sine, self._probe = aperture / index, _FULL_WIDTH * within("wavelength", wavelength, 100, 2000) / aperture
        self._pixel_given = None if pixel_size is None else within("pixel_size", pixel_size, 1.0, 1e6, "nm")
        self._core = core
        self._unload: weakref.finalize[..., Any] | None = None
        self._frames = 0
        for role, device in (("camera", core.getCameraDevice()), ("focus drive", core.getFocusDevice())):
            if not device:
                raise InvalidParameterError(f"the core has no {role}; choose one in its configuration")
        step = within("step", step, 0.0, 0.1, "mm")
        with self._talking("reading the focus drive"):
            here = self._z()
        low, high = (here - _TRAVEL, here + _TRAVEL) if working_distance is None else working_distance
        self._limits = Range(number("working_distance[0]", low, "mm"), number("working_distance[1]", high, "mm"), step)
        if here not in self._limits or not self._limits.minimum < self._limits.maximum:
            raise OutOfRangeError(
                f"working_distance {low:g} to {high:g} mm must be (low, high) and hold {here:g} mm, where the focus "
                f"drive {core.getFocusDevice()} stands"
            )
        self._pixel()

    @property
    def __wrapped__(self) -> Any:
        """The core, which two of these share."""
        return self._core

    @property
    def capabilities(self) -> Capabilities:
        """Limits as they were given, the camera's frame as it is set now, aperture over index."""
        with self._talking("reading the camera"):
            mode, magnification = self._mode(), self._magnification()
            bits = int(self._core.getImageBitDepth())
            return Capabilities(
                self._limits,
                Range(magnification, magnification),
                (mode,),
                model=f"Micro-Manager: {self._core.getCameraDevice()}, {self._core.getFocusDevice()}",
                firmware=str(self._core.getVersionInfo()),
                probe_diameter=self._probe,
                numerical_aperture=self._sine,
                bit_depth=bits if 1 <= bits <= 16 else None,
            )

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Snap one picture with the exposure and the frame that the core is set to, and return it.

        Raises
        ------
        InvalidParameterError
            When `mode` is not the frame of the camera, or its pixels are in colour or of more than 16 bits.
        BusyError
            When the camera is live.
        DeviceError
            When the core reports an error.
        """
        with self._talking("snapping a picture"):
            mode = offered_mode(self.capabilities, mode)
            if self._core.isSequenceRunning():
                raise BusyError(f"{self!r} is live or records a sequence; stop that first")
            if self._core.getNumberOfComponents() != 1 or self._core.getBytesPerPixel() > 2:
                raise InvalidParameterError(f"{self!r} delivers no grey levels of 8 or 16 bits; set its PixelType")
            began = time.time()
            self._core.snapImage()
            pixels = reported_picture(repr(self), self._core.getImage())
            self._frames += 1
            place = self._z()
            metadata = {"camera": self._core.getCameraDevice(), **self._frame_metadata(place, mode)}
            bits = int(self._core.getImageBitDepth())
            image = Image(
                pixels, place, self._magnification(), self._pixel(), self._frames, began, mode, metadata, bits
            )
        return self._delivered(image)

    def close(self) -> None:
        """Unload the devices where the core was made for this microscope. A second call does nothing."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and self._unload is not None:
                with translated("Micro-Manager, unloading the devices"):
                    self._unload()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._core.getCameraDevice()} and {self._core.getFocusDevice()}>"

    def _read(self, name: str) -> Any:
        with self._talking(f"reading {name}"):
            if name == "stage_position":
                return tuple(
                    reported(f"stage {axis}", value, "µm") / _UM
                    for axis, value in zip("xy", self._core.getXYPosition(), strict=True)
                )
            return self._z() if name == "working_distance" else self._magnification()

    def _write(self, name: str, value: Any) -> None:
        with self._talking(f"setting {name}"):
            if name == "magnification":
                self.capabilities.magnification.check("magnification", value)
                return
            value = self._limits.check("working_distance", value, "mm")
            drive = self._core.getFocusDevice()
            self._core.setPosition(value * _UM)
            self._core.waitForDevice(drive)
            check_read_back(f"working_distance ({drive})", value, self._z(), max(self._limits.step, 1e-6), "mm")

    def _call(self, name: str, *arguments: Any) -> Any:
        x, y = (number(f"stage {axis}", value, "mm") for axis, value in zip("xy", arguments, strict=True))
        with self._talking("moving the stage"):
            self._core.setXYPosition(x * _UM, y * _UM)
            self._core.waitForDevice(self._core.getXYStageDevice())
            reached = self._read("stage_position")
            for axis, value, read in zip("xy", (x, y), reached, strict=True):
                check_read_back(f"stage {axis}", value, read, _STAGE_STEP, "mm")
            return reached

    def _z(self) -> float:
        return reported(f"z of {self._core.getFocusDevice()}", self._core.getPosition(), "µm") / _UM

    def _mode(self) -> ScanMode:
        return ScanMode("CAMERA", int(self._core.getImageWidth()), int(self._core.getImageHeight()))

    def _pixel(self) -> float:
        """Return the pixel size in nm."""
        pixel = float(self._core.getPixelSizeUm()) * _NM if self._pixel_given is None else self._pixel_given
        if not 0 < pixel < math.inf:
            raise InvalidParameterError(
                "the core knows no pixel size; add one to its configuration, or give pixel_size in nm"
            )
        return pixel

    def _magnification(self) -> float:
        return _DISPLAY / (self._pixel() * self._mode().width)

    @contextmanager
    def _talking(self, what: str) -> Iterator[None]:
        """Hold the lock, and turn what the core raises into a `DeviceError`."""
        with self._open(), translated(f"Micro-Manager, {what}"):
            yield


def connect(url: str, options: Mapping[str, Any]) -> MicroscopeOfCore:
    """Load a Micro-Manager configuration and open its camera and focus drive.

    Parameters
    ----------
    url : str
        ``micromanager:///path/to/config.cfg?numerical_aperture=0.5``, and the other options of `MicroscopeOfCore`;
        ``working_distance=-0.2:0.2``.
    options : mapping
        The same, above their namesakes in the URL.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When there is no such file, or an option is malformed or missing.
    NotConnectedError
        When Micro-Manager cannot load the configuration.
    """
    from pymmcore_plus import CMMCorePlus

    path, given = split_path_url(url, options, _OPTIONS, "Micro-Manager", "configuration file")
    if "numerical_aperture" not in given:
        raise InvalidParameterError(f"{url}: numerical_aperture= is missing; it is written on the objective")
    if not path.is_file():
        raise InvalidParameterError(f"{url}: there is no file {path}")
    values: dict[str, Any] = {
        name: number_option(url, name, value) for name, value in given.items() if name != "working_distance"
    }
    if "working_distance" in given:
        limits = limits_option(url, "working_distance", given["working_distance"])
        values["working_distance"] = limits.minimum, limits.maximum
    core = CMMCorePlus()
    try:
        with translated(f"Micro-Manager could not load {path}", NotConnectedError):
            core.loadSystemConfiguration(path)
        microscope = MicroscopeOfCore(core, **values)
    except BaseException:
        core.unloadAllDevices()
        raise
    microscope._unload = weakref.finalize(microscope, _unload, core)
    return microscope


def _unload(core: Any) -> None:
    """Let a core go. At exit too: its threads call back into Python, and end the process with an abort otherwise."""
    from pymmcore_plus import CMMCorePlus

    super(CMMCorePlus, core).registerCallback(None)  # that of pymmcore; pymmcore-plus disallows its own
    core.unloadAllDevices()
