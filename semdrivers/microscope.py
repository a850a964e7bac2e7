"""What a microscope is: value types and narrow protocols.

Autofocus needs the five members of `Microscope` and nothing else. Everything further is an optional
protocol of its own, found with ``isinstance``.

Units: working distance mm, pixel size nm, times s, voltage kV, stage position mm, stage angles degrees.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from semdrivers.errors import InvalidParameterError, OutOfRangeError


class ScanMode(enum.Enum):
    """A frame size and, with it, a speed. The value is (width, height) in pixels."""

    FAST = (320, 240)
    STANDARD = (640, 480)
    SLOW = (1280, 960)

    @property
    def width(self) -> int:
        """Pixels along a line."""
        return self.value[0]

    @property
    def height(self) -> int:
        """Lines in a frame."""
        return self.value[1]


def number(name: str, value: object, unit: str = "") -> float:
    """Return `value` as a finite float.

    Raises
    ------
    InvalidParameterError
        When it is no number (strings and booleans included).
    OutOfRangeError
        When it is NaN or infinite.
    """
    suffix = f" {unit}" if unit else ""
    if isinstance(value, bool | str | bytes):
        raise InvalidParameterError(f"{name} must be a number{suffix and ' in' + suffix}, not {value!r}")
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(f"{name} must be a number{suffix and ' in' + suffix}, not {value!r}") from error
    if not math.isfinite(result):
        raise OutOfRangeError(f"{name} must be finite, not {result}{suffix}")
    return result


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a parameter can take.

    Parameters
    ----------
    minimum, maximum : float
        Inclusive limits, in the parameter's unit.
    step : float
        Quantum of the instrument, 0 for a continuous parameter.
    """

    minimum: float
    maximum: float
    step: float = 0.0

    def __contains__(self, value: object) -> bool:
        """Whether `value` is a number within the limits."""
        return isinstance(value, int | float | np.number) and self.minimum <= float(value) <= self.maximum

    def check(self, name: str, value: object, unit: str = "") -> float:
        """Return `value` as a float within the limits, or raise naming parameter, value and limit.

        Raises
        ------
        InvalidParameterError
            When `value` is no number.
        OutOfRangeError
            When it is not finite or beyond a limit.
        """
        result = number(name, value, unit)
        if not self.minimum <= result <= self.maximum:
            suffix = f" {unit}" if unit else ""
            raise OutOfRangeError(f"{name} {result:g}{suffix} is outside {self.minimum:g} to {self.maximum:g}{suffix}")
        return result

    def clip(self, value: float) -> float:
        """Return the nearest value within the limits."""
        return min(max(value, self.minimum), self.maximum)

    def intersect(self, minimum: float, maximum: float) -> Range:
        """Return the part of the range between two further limits (it may be empty)."""
        return Range(max(self.minimum, minimum), min(self.maximum, maximum), self.step)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the instrument says of itself.

    Parameters
    ----------
    working_distance : Range
        In mm.
    magnification : Range
        Plain numbers.
    scan_modes : tuple of ScanMode
        The modes that `Microscope.acquire` accepts.
    model, serial, firmware : str
        For people and records.
    probe_diameter : float, optional
        Of the focused beam, nm, where it is known: with the pixel it sets the depth of field.
    half_angle : float, optional
        Of the beam at the present working distance, mrad, where it is known: it sets how fast blur grows out of focus.
    numerical_aperture : float, optional
        The same for an instrument whose angle does not depend on the working distance: an optical microscope, or a
        stage that moves the sample through focus.
    """

    working_distance: Range
    magnification: Range
    scan_modes: tuple[ScanMode, ...] = (ScanMode.FAST,)
    model: str = ""
    serial: str = ""
    firmware: str = ""
    probe_diameter: float | None = None
    half_angle: float | None = None
    numerical_aperture: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One frame, with the conditions in force while it was scanned.

    Parameters
    ----------
    pixels : ndarray of shape (H, W), uint8 or uint16
        Grey levels, first line first.
    working_distance : float
        mm.
    magnification : float
        Plain number.
    pixel_size : float
        nm.
    frame_id : int, optional
        The instrument's count of frames.
    timestamp : float, optional
        Start of the scan, seconds since the epoch.
    scan_mode : ScanMode, optional
        Mode of the scan.
    metadata : mapping
        Anything else; ``metadata["autofocus"]`` is the record of the autofocus run that preceded the frame.
    """

    pixels: NDArray[Any]
    working_distance: float
    magnification: float
    pixel_size: float
    frame_id: int | None = None
    timestamp: float | None = None
    scan_mode: ScanMode | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the frame as OME-TIFF, with pixel size, conditions and focus record.

        Returns
        -------
        Path
            The file written. `semdrivers.read_image` reads it back.

        Raises
        ------
        InvalidParameterError
            When the name does not end in ``.tif`` or ``.tiff``.
        OSError
            When the file cannot be written.
        """
        from semdrivers.io import write_image

        return write_image(path, self)


@runtime_checkable
class Microscope(Protocol):
    """The five members that autofocus needs, and so all that a microscope of any make must offer."""

    @property
    def capabilities(self) -> Capabilities:
        """Limits and modes, as the instrument reports them."""
        ...

    @property
    def working_distance(self) -> float:
        """Working distance in mm, as read back; setting it returns once the lens has settled.

        Raises
        ------
        OutOfRangeError
            When set outside ``capabilities.working_distance``; nothing has moved.
        """
        ...

    @working_distance.setter
    def working_distance(self, value: float) -> None: ...

    @property
    def magnification(self) -> float:
        """Magnification, a plain number, as read back.

        Raises
        ------
        OutOfRangeError
            When set outside ``capabilities.magnification``; nothing has changed.
        """
        ...

    @magnification.setter
    def magnification(self, value: float) -> None: ...

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame, wholly after the last set took effect, and return it."""
        ...

    def close(self) -> None:
        """Give the instrument back. A second call does nothing."""
        ...


_MEMBERS = ("capabilities", "working_distance", "magnification", "acquire", "close")


def missing_members(microscope: object) -> list[str]:
    """Return the names of the members of `Microscope` that an object lacks.

    Looks at the class before the object: `isinstance` would read every property, and so talk to the
    instrument.
    """
    return [name for name in _MEMBERS if not hasattr(type(microscope), name) and not hasattr(microscope, name)]


@runtime_checkable
class HasStage(Protocol):
    """A stage with lateral axes."""

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y) in mm."""
        ...

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y) in mm; returns the position reached, once the stage is idle."""
        ...


@runtime_checkable
class HasStageOrientation(Protocol):
    """A stage that tilts and rotates, and leaves the point under the beam where it is."""

    @property
    def stage_orientation(self) -> tuple[float, float]:
        """Tilt and rotation in degrees."""
        ...

    def orient_stage(self, tilt: float, rotation: float) -> tuple[float, float]:
        """Tilt and rotate, degrees; returns what was reached, once the stage is idle."""
        ...


@runtime_checkable
class HasStigmator(Protocol):
    """A stigmator of two axes."""

    @property
    def stigmator(self) -> tuple[float, float]:
        """Correction (x, y) in µm of astigmatic difference."""
        ...

    @stigmator.setter
    def stigmator(self, value: tuple[float, float]) -> None: ...


@runtime_checkable
class HasDetector(Protocol):
    """A detector with gain and offset."""

    @property
    def brightness(self) -> float:
        """Offset, 0 to 1."""
        ...

    @brightness.setter
    def brightness(self, value: float) -> None: ...

    @property
    def contrast(self) -> float:
        """Gain, 0 to 1."""
        ...

    @contrast.setter
    def contrast(self, value: float) -> None: ...


@runtime_checkable
class HasBeam(Protocol):
    """A beam that can be switched."""

    @property
    def beam_on(self) -> bool:
        """Whether electrons reach the sample."""
        ...

    @beam_on.setter
    def beam_on(self, value: bool) -> None: ...


@runtime_checkable
class HasVacuum(Protocol):
    """A chamber that can be pumped and vented."""

    @property
    def vacuum(self) -> str:
        """``"vented"``, ``"pumping"``, ``"ready"`` or ``"venting"``."""
        ...

    def pump(self) -> None:
        """Evacuate the chamber; returns when the vacuum is ready."""
        ...

    def vent(self) -> None:
        """Let air in; the beam must be off."""
        ...


@runtime_checkable
class RecordsFocus(Protocol):
    """A microscope that writes the last autofocus result into the metadata of the frames that follow it."""

    focus_record: Mapping[str, Any] | None
