"""A fibsem microscope as a `Microscope`, and the other way round; `semdrivers.hosts.fibsem` has the names for users.

fibsem's lengths are metres; those of a `Microscope` are mm.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import numpy as np
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

from semdrivers.errors import HardwareFault, InvalidParameterError
from semdrivers.files import plain
from semdrivers.image import SCAN_MODES, Image, ScanMode
from semdrivers.microscope import Capabilities, Microscope, Range, missing_members

MM, _NM = 1e3, 1e9
DISPLAY = 0.128
"""Width in metres of the picture that magnification refers to: 128 mm, so 1000× is a field of 128 µm."""


class MicroscopeOfFibsem:
    """The electron beam of a fibsem microscope, as a `Microscope` with a stage.

    Parameters
    ----------
    fibsem : FibsemMicroscope
        Connected.
    working_distance : tuple of float, optional
        Lowest and highest working distance allowed, mm. fibsem does not report the instrument's; by default no
        further than 1 mm from where it stands now.
    field_width : tuple of float
        Narrowest and widest field, m.
    dwell_time : float
        Dwell time of the frames, s.

    Raises
    ------
    InvalidParameterError
        When the instrument cannot set the working distance of its electron beam.
    """

    def __init__(
        self,
        fibsem: Any,
        *,
        working_distance: tuple[float, float] | None = None,
        field_width: tuple[float, float] = (1e-6, 2e-3),
        dwell_time: float = 0.5e-6,
    ) -> None:
        if not fibsem.is_working_distance_settable(BeamType.ELECTRON):
            raise InvalidParameterError(f"{type(fibsem).__name__} cannot set the working distance of its electron beam")
        self.fibsem, self._dwell_time = fibsem, dwell_time
        here = fibsem.get_working_distance(BeamType.ELECTRON) * MM
        low, high = working_distance if working_distance is not None else (max(here - 1.0, 0.1), here + 1.0)
        narrow, wide = field_width
        self._capabilities = Capabilities(
            Range(low, high),
            Range(DISPLAY / wide, DISPLAY / narrow),
            SCAN_MODES,
            model=type(fibsem).__name__,
        )
        self.frames: list[Any] = []
        self.keep_frames = False

    @property
    def __wrapped__(self) -> Any:
        """The fibsem microscope, which two of these share."""
        return self.fibsem

    @property
    def capabilities(self) -> Capabilities:
        """Limits as they were given."""
        return self._capabilities

    @property
    def working_distance(self) -> float:
        """Working distance of the electron beam, mm."""
        return float(self.fibsem.get_working_distance(BeamType.ELECTRON)) * MM

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        value = self._capabilities.working_distance.check("working distance", value, "mm")
        self.fibsem.set_working_distance(value / MM, BeamType.ELECTRON)
        read = self.working_distance
        if abs(read - value) > 0.01:
            raise HardwareFault(
                f"{type(self.fibsem).__name__}: working distance was set to {value:.4f} mm and reads {read:.4f} mm"
            )

    @property
    def magnification(self) -> float:
        """Of a picture 128 mm wide."""
        return DISPLAY / float(self.fibsem.get_field_of_view(BeamType.ELECTRON))

    @magnification.setter
    def magnification(self, value: float) -> None:
        value = self._capabilities.magnification.check("magnification", value)
        self.fibsem.set_field_of_view(DISPLAY / value, BeamType.ELECTRON)

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y), mm."""
        position = self.fibsem.get_stage_position()
        return position.x * MM, position.y * MM

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y), mm; height, rotation and tilt stay."""
        position = copy.deepcopy(self.fibsem.get_stage_position())
        position.x, position.y = x / MM, y / MM
        self.fibsem.move_stage_absolute(position)
        return self.stage_position

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Take an electron image."""
        if not isinstance(mode, ScanMode):
            raise InvalidParameterError(f"mode must be a semdrivers.ScanMode, not {mode!r}")
        width = float(self.fibsem.get_field_of_view(BeamType.ELECTRON))
        settings = ImageSettings(
            resolution=(mode.width, mode.height), dwell_time=self._dwell_time, hfw=width, beam_type=BeamType.ELECTRON
        )
        taken = self.fibsem.acquire_image(image_settings=settings)
        if self.keep_frames:
            self.frames.append(taken.data)
        pixel_size = width / taken.data.shape[1] * _NM
        return Image(
            np.array(taken.data), self.working_distance, self.magnification, pixel_size, None, time.time(), mode
        )

    def close(self) -> None:
        """Leave the fibsem microscope as it is: it is its owner's."""


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
