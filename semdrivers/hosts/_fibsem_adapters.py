"""A fibsem microscope as a `Microscope`, and the other way round; `semdrivers.hosts.fibsem` has the names for users.

fibsem's lengths are metres; those of a `Microscope` are mm.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import numpy as np
from fibsem import utils
from fibsem.structures import (
    BeamSettings,
    BeamType,
    FibsemImage,
    FibsemImageMetadata,
    FibsemStagePosition,
    ImageSettings,
    MicroscopeState,
    Point,
)

from semdrivers.base import ConnectedMicroscope
from semdrivers.connection import limits_option, split_url
from semdrivers.errors import InterlockError, InvalidParameterError, NotConnectedError, translated
from semdrivers.files import plain
from semdrivers.image import SCAN_MODES, Image, ScanMode
from semdrivers.microscope import (
    Capabilities,
    Microscope,
    Range,
    check_read_back,
    missing_members,
    number,
    reported,
    reported_picture,
    switch,
    two_of,
    within,
)

MM, _NM = 1e3, 1e9
DISPLAY = 0.128
"""Width in metres of the picture that magnification refers to: 128 mm, so 1000× is a field of 128 µm."""

_LENS_ERROR, _FIELD_ERROR, _DETECTOR_ERROR, _STIGMATOR_ERROR = 0.001, 0.01, 0.01, 0.01
_STAGE_ERROR, _BEAM_SHIFT_ERROR = 0.005, 1e-5
_CUT = 10e-6
"""m by which fibsem keeps below the widest field that AutoScript reports, without a word."""
_NEEDED = {
    "stage_position": "get_stage_position",
    "move_stage": "move_stage_absolute",
    "stigmator": "get_stigmation",
    "beam_shift": "get_beam_shift",
    "brightness": "get_detector_brightness",
    "contrast": "get_detector_contrast",
    "beam_on": "is_blanked",
}
"""Members of optional protocols, each with what fibsem needs for it."""


class MicroscopeOfFibsem(ConnectedMicroscope):
    """The electron beam of a fibsem microscope, as a `Microscope` with stage, detector, stigmator, beam and its
    shift.

    Beam off means blanked, and the high voltage stays as it is; on a TESCAN, whose beam fibsem cannot blank, it means
    switched off. The stigmator has the units of the instrument; fibsem has none on a TESCAN. On an instrument in
    immersion mode, setting the working distance may degauss the lens, and takes as long.

    Parameters
    ----------
    fibsem : FibsemMicroscope
        Connected. It is its owner's: `close` leaves it as it is.
    working_distance : pair of float, optional
        Lowest and highest working distance allowed, mm. By default what the instrument reports (AutoScript does), but
        else no further than 1 mm from where it stands now.
    field_width : pair of float, optional
        Narrowest and widest field, m. By default what AutoScript reports, but else 1 µm to 2 mm.
    dwell_time : float
        Dwell time of the frames, s.

    Raises
    ------
    InvalidParameterError
        When the instrument cannot set the working distance of its electron beam.
    """

    fibsem: Any
    frames: list[Any]
    keep_frames: bool

    def __new__(cls, fibsem: Any, **_: Any) -> Self:
        """Make a class that has the members that fibsem has a way to for this instrument."""
        names = {name for name, needed in _NEEDED.items() if hasattr(fibsem, needed)}
        return super().__new__(cls._offering(names - {"stigmator"} if _is_tescan(fibsem) else names))

    def __init__(
        self,
        fibsem: Any,
        *,
        working_distance: tuple[float, float] | None = None,
        field_width: tuple[float, float] | None = None,
        dwell_time: float = 0.5e-6,
    ) -> None:
        if not fibsem.is_working_distance_settable(BeamType.ELECTRON):
            raise InvalidParameterError(f"{type(fibsem).__name__} cannot set the working distance of its electron beam")
        self.fibsem, self._name, self._dwell_time = fibsem, type(fibsem).__name__, dwell_time
        here = reported("working distance", fibsem.get_working_distance(BeamType.ELECTRON)) * MM
        limits = _limits_of(fibsem, "working_distance")
        if working_distance is None and limits is not None:
            working_distance = limits[0] * MM, limits[1] * MM
        low, high = working_distance or (max(here - 1.0, 0.1), here + 1.0)
        narrow, wide = field_width or _field_of(fibsem)
        self._capabilities = Capabilities(Range(low, high), Range(DISPLAY / wide, DISPLAY / narrow), SCAN_MODES)
        self.frames, self.keep_frames = [], False
        self._on_close: Callable[[], object] | None = None

    @property
    def __wrapped__(self) -> Any:
        """The fibsem microscope, which two of these share."""
        return self.fibsem

    @property
    def capabilities(self) -> Capabilities:
        """Limits as they were given or reported; model and serial number as fibsem has them by now."""
        info = getattr(getattr(self.fibsem, "system", None), "info", None)
        return dataclasses.replace(
            self._capabilities,
            model=_known(getattr(info, "model", None)) or type(self.fibsem).__name__,
            serial=_known(getattr(info, "serial_number", None)),
            firmware=_known(getattr(info, "software_version", None)),
        )

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Take an electron image of any size.

        Raises
        ------
        InvalidParameterError
            When `mode` is no `ScanMode`.
        InterlockError
            When the beam is off or blanked.
        """
        if not isinstance(mode, ScanMode):
            raise InvalidParameterError(f"mode must be a semdrivers.ScanMode, not {mode!r}")
        with self._talking("taking an image"):
            if "beam_on" in self.offers and not self._read("beam_on"):
                raise InterlockError(f"{self!r}: the beam is off or blanked; switch it on with beam_on = True")
            width = reported("field of view", self.fibsem.get_field_of_view(BeamType.ELECTRON))
            dwell = mode.dwell or self._dwell_time
            size = mode.width, mode.height
            settings = ImageSettings(resolution=size, dwell_time=dwell, hfw=width, beam_type=BeamType.ELECTRON)
            began = time.time()
            taken = self.fibsem.acquire_image(image_settings=settings)
            pixels = reported_picture(repr(self), taken.data)
            if self.keep_frames:
                self.frames.append(taken.data)
            place, magnification = self._read("working_distance"), self._read("magnification")
        metadata = self._frame_metadata(place, mode)
        pixel_size = width / pixels.shape[1] * _NM
        return self._delivered(Image(pixels, place, magnification, pixel_size, None, began, mode, metadata))

    def close(self) -> None:
        """Disconnect where fibsem was connected for this microscope; else leave it: it is its owner's."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and self._on_close is not None:
                with translated(f"{self!r}, disconnecting"):
                    self._on_close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {type(self.fibsem).__name__}>"

    @contextmanager
    def _talking(self, what: str) -> Iterator[None]:
        """Hold the lock, and turn what fibsem or the maker's library raises into a `DeviceError`."""
        with self._open(), translated(f"{self!r}, {what}"):
            yield

    def _read(self, name: str) -> Any:
        with self._talking(f"reading {name}"):
            if name == "working_distance":
                return reported("working distance", self.fibsem.get_working_distance(BeamType.ELECTRON)) * MM
            if name == "magnification":
                return DISPLAY / reported("field of view", self.fibsem.get_field_of_view(BeamType.ELECTRON))
            if name == "stage_position":
                position = self.fibsem.get_stage_position()
                return reported("stage x", position.x) * MM, reported("stage y", position.y) * MM
            if name == "stigmator":
                point = self.fibsem.get_stigmation(BeamType.ELECTRON)
                return reported("stigmator x", point.x), reported("stigmator y", point.y)
            if name == "beam_shift":
                # fibsem's is that of the picture, upwards (its alignment undoes a shift by beam_shift(-dx, dy))
                point = self.fibsem.get_beam_shift(BeamType.ELECTRON)
                return -reported("beam shift x", point.x) * MM, reported("beam shift y", point.y) * MM
            if name == "beam_on":
                return self._powered() and (_is_tescan(self.fibsem) or not self.fibsem.is_blanked(BeamType.ELECTRON))
            return reported(name, getattr(self.fibsem, f"get_detector_{name}")(BeamType.ELECTRON))

    def _powered(self) -> bool:
        """Whether the high voltage is on; on a TESCAN fibsem returns a status, which is true in any case."""
        answer = self.fibsem.is_on(BeamType.ELECTRON)
        return bool(answer == self.fibsem.connection.SEM.Beam.Status.BeamOn if _is_tescan(self.fibsem) else answer)

    def _write(self, name: str, value: Any) -> None:
        with self._talking(f"setting {name}"):
            if name == "beam_on":
                self._set_beam(value)
                return
            if _is_tescan(self.fibsem) and not self._powered():
                raise InterlockError(
                    f"{self!r}: the beam is off, and fibsem switches that of a TESCAN on before it sets anything; "
                    "switch it on with beam_on = True"
                )
            if name in ("stigmator", "beam_shift"):
                self._set_pair(name, value)
            elif name in ("brightness", "contrast"):
                value = within(name, value, 0.0, 1.0)
                getattr(self.fibsem, f"set_detector_{name}")(value, BeamType.ELECTRON)
                check_read_back(f"{self!r}: {name}", value, self._read(name), _DETECTOR_ERROR)
            elif name == "working_distance":
                value = self._capabilities.working_distance.check("working distance", value, "mm")
                self.fibsem.set_working_distance(value / MM, BeamType.ELECTRON)
                check_read_back(f"{self!r}: working distance", value, self._read(name), _LENS_ERROR, "mm")
            else:
                value = self._capabilities.magnification.check("magnification", value)
                self.fibsem.set_field_of_view(DISPLAY / value, BeamType.ELECTRON)
                check_read_back(f"{self!r}: magnification", value, self._read(name), _FIELD_ERROR * value)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Move to (x, y), mm; height, rotation and tilt stay."""
        x, y = (number(f"stage {axis}", value, "mm") for axis, value in zip("xy", arguments, strict=True))
        with self._talking("moving the stage"):
            position = copy.deepcopy(self.fibsem.get_stage_position())
            position.x, position.y = x / MM, y / MM
            self.fibsem.move_stage_absolute(position)
            reached = self._read("stage_position")
            for axis, value, read in zip("xy", (x, y), reached, strict=True):
                check_read_back(f"{self!r}: stage {axis}", value, read, _STAGE_ERROR, "mm")
            return reached

    def _set_pair(self, name: str, value: Any) -> None:
        unit, tolerance = ("mm", _BEAM_SHIFT_ERROR) if name == "beam_shift" else ("", _STIGMATOR_ERROR)
        values = zip("xy", two_of(name, value, unit), strict=True)
        x, y = (number(f"{name} {axis}", each, unit) for axis, each in values)
        if name == "beam_shift":
            self.fibsem.set_beam_shift(Point(-x / MM, y / MM), BeamType.ELECTRON)
        else:
            self.fibsem.set_stigmation(Point(x, y), BeamType.ELECTRON)
        for axis, target, read in zip("xy", (x, y), self._read(name), strict=True):
            check_read_back(f"{self!r}: {name} {axis}", target, read, tolerance, unit)

    def _set_beam(self, value: Any) -> None:
        on = switch("beam_on", value)
        if on and not self._powered():
            self.fibsem.turn_on(BeamType.ELECTRON)
        if not _is_tescan(self.fibsem):
            (self.fibsem.unblank if on else self.fibsem.blank)(BeamType.ELECTRON)
        elif not on and self._powered():
            self.fibsem.turn_off(BeamType.ELECTRON)
        if self._read("beam_on") != on:
            wanted = "on; check the vacuum" if on else "off; switch it off at the instrument"
            raise InterlockError(f"{self!r}: the beam does not go {wanted}")


def _is_tescan(fibsem: Any) -> bool:
    """Whether it is fibsem's class for TESCAN, which ignores some sets, and switches the beam on before others."""
    return any(base.__name__ == "TescanMicroscope" for base in type(fibsem).__mro__)


def _known(text: object) -> str:
    """Return what fibsem's configuration says; as a file comes, it says Unknown, which is no serial number."""
    return "" if text is None or str(text).strip().lower() in ("unknown", "none") else str(text)


def _field_of(fibsem: Any) -> tuple[float, float]:
    low, high = _limits_of(fibsem, "horizontal_field_width") or (1e-6, 2e-3 + _CUT)
    return low, high - _CUT


def _limits_of(fibsem: Any, quantity: str) -> tuple[float, float] | None:
    """Return the limits in m that AutoScript reports for the electron beam; None for other instruments."""
    try:
        limits = getattr(fibsem.connection.beams.electron_beam, quantity).limits
        low, high = float(limits.min), float(limits.max)
    except (AttributeError, TypeError, ValueError):
        return None
    return (low, high) if 0 < low < high else None


def connect(url: str, options: Mapping[str, Any]) -> MicroscopeOfFibsem:
    """Open fibsem's session and the electron beam of its microscope.

    Parameters
    ----------
    url : str
        ``fibsem://`` for fibsem's own configuration, or ``fibsem:///path/to/configuration.yaml``; with options
        ``manufacturer=``, ``host=``, ``working_distance=LOW:HIGH`` in mm.
    options : mapping
        The same, above their namesakes in the URL.

    Raises
    ------
    InvalidParameterError
        When there is no such file, or an option is malformed.
    NotConnectedError
        When fibsem cannot connect.
    """
    parts, given = split_url(url, options, ("manufacturer", "host", "working_distance"), "fibsem")
    path = Path(unquote(parts.netloc + parts.path)) if parts.netloc + parts.path else None
    if path is not None and not path.is_file():
        raise InvalidParameterError(f"{url}: there is no file {path}")
    limits = None
    if "working_distance" in given:
        allowed = limits_option(url, "working_distance", given["working_distance"], least=0)
        limits = allowed.minimum, allowed.maximum
    with translated("fibsem could not connect", NotConnectedError):
        fibsem, _ = utils.setup_session(
            session_path=Path(tempfile.gettempdir()),
            config_path=path,
            setup_logging=False,
            ip_address=given.get("host"),
            manufacturer=given.get("manufacturer"),
        )
    try:
        microscope = MicroscopeOfFibsem(fibsem, working_distance=limits)
    except BaseException:
        fibsem.disconnect()
        raise
    microscope._on_close = fibsem.disconnect
    return microscope


class FibsemLike:
    """A `Microscope` with the members of a fibsem microscope that fibsem's imaging and autofocus use.

    Parameters
    ----------
    microscope : Microscope
        Any; the stage members need its stage.
    """

    def __init__(self, microscope: Microscope) -> None:
        missing = missing_members(microscope)
        if missing:
            raise InvalidParameterError(f"{type(microscope).__name__} is no Microscope: it lacks {', '.join(missing)}")
        self.microscope: Any = microscope
        self._last: Any = None

    @property
    def __wrapped__(self) -> Any:
        """The microscope."""
        return self.microscope

    def is_working_distance_settable(self, beam_type: Any) -> bool:
        """Only of the electron beam: there is no other."""
        return beam_type is BeamType.ELECTRON

    def get_available_beams(self) -> list[Any]:
        """Return the electron beam."""
        return [BeamType.ELECTRON]

    def get_working_distance(self, beam_type: Any) -> float:
        """Return the working distance, m."""
        return float(self.microscope.working_distance) / MM

    def set_working_distance(self, wd: float, beam_type: Any) -> float:
        """Set the working distance, m; returns it as read back."""
        _electron(beam_type)
        self.microscope.working_distance = wd * MM
        return self.get_working_distance(beam_type)

    def get_field_of_view(self, beam_type: Any) -> float:
        """Return the field width, m."""
        return DISPLAY / float(self.microscope.magnification)

    def set_field_of_view(self, hfw: float, beam_type: Any) -> float:
        """Set the field width, m; returns it as read back."""
        _electron(beam_type)
        self.microscope.magnification = DISPLAY / hfw
        return self.get_field_of_view(beam_type)

    def get_stigmation(self, beam_type: Any) -> Any:
        """Return the setting of the stigmator, in the units of the instrument."""
        _electron(beam_type)
        return Point(*self.microscope.stigmator)

    def set_stigmation(self, stigmation: Any, beam_type: Any) -> Any:
        """Set the stigmator; returns it as read back."""
        _electron(beam_type)
        self.microscope.stigmator = (stigmation.x, stigmation.y)
        return self.get_stigmation(beam_type)

    def get_stage_position(self) -> Any:
        """Return the stage position, m."""
        x, y = self.microscope.stage_position
        return FibsemStagePosition(x=x / MM, y=y / MM, z=0.0, r=0.0, t=0.0, coordinate_system="RAW")

    def move_stage_absolute(self, position: Any) -> Any:
        """Move the stage in x and y, m."""
        now = self.get_stage_position()
        x, y = (now.x if position.x is None else position.x), (now.y if position.y is None else position.y)
        self.microscope.move_stage(x * MM, y * MM)
        return self.get_stage_position()

    def autocontrast(self, beam_type: Any, reduced_area: Any = None) -> None:
        """Leave the detector as it is: autofocus of ours needs no contrast of its own."""

    def acquire_image(self, image_settings: Any = None, beam_type: Any = None) -> Any:
        """Take an image in the scan mode nearest to the resolution asked for; its settings say which it was."""
        settings = ImageSettings() if image_settings is None else image_settings
        _electron(settings.beam_type if image_settings is not None else beam_type)
        modes = self.microscope.capabilities.scan_modes
        mode = min(modes, key=lambda mode: abs(mode.width - settings.resolution[0]))
        if image_settings is not None and settings.hfw is not None:
            self.set_field_of_view(settings.hfw, BeamType.ELECTRON)
        image = self.microscope.acquire(mode)
        width = self.get_field_of_view(BeamType.ELECTRON)
        beam = BeamSettings(BeamType.ELECTRON, working_distance=image.working_distance / MM, hfw=width)
        state = MicroscopeState(timestamp=image.timestamp or time.time(), electron_beam=beam)
        if hasattr(type(self.microscope), "stage_position"):
            state.stage_position = self.get_stage_position()
        pixel = image.pixel_size / _NM
        metadata = FibsemImageMetadata(
            dataclasses.replace(settings, resolution=(mode.width, mode.height), hfw=width, beam_type=BeamType.ELECTRON),
            Point(pixel, pixel),
            state,
        )
        self._last = FibsemImage(np.array(image.pixels), metadata)
        self._last.focus_record = plain(image.metadata.get("autofocus"))
        return self._last

    def last_image(self, beam_type: Any) -> Any:
        """Return the image taken last."""
        return self._last


def _electron(beam_type: Any) -> None:
    if beam_type is not BeamType.ELECTRON:
        raise InvalidParameterError(f"there is no beam but the electron beam, not {beam_type!r}")
