"""What the optics must know of the instrument to draw a frame: the seam between state machine and physics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Exposure:
    """A field that was scanned, as it lies on the sample.

    Parameters
    ----------
    x, y : float
        Stage position of its middle, mm.
    width, height : float
        µm.
    rotation : float
        Rotation of the stage while it was scanned, degrees.
    dose : float
        pC/µm².
    """

    x: float
    y: float
    width: float
    height: float
    rotation: float
    dose: float


@dataclass(frozen=True, slots=True)
class ScanConditions:
    """Everything in force while one frame is scanned.

    Parameters
    ----------
    working_distance : float
        mm, as the instrument reads it.
    magnification : float
        Plain number.
    width, height : int
        Pixels.
    bits : int
        8 or 16.
    dwell_time : float
        Seconds a pixel.
    stage_x, stage_y : float
        mm.
    stage_tilt, stage_rotation : float
        Degrees; see `semdrivers.emulator.instrument.Pose`.
    frame_id : int
        Count of frames; the noise of a frame depends on it and on the seed alone.
    start_time : float
        Seconds on the instrument's virtual clock.
    brightness, contrast : float
        Detector offset and gain, 0 to 1; 0.5 is neutral.
    beam_on : bool
        Without a beam the frame is the detector's dark level.
    accelerating_voltage : float
        kV.
    beam_current : float
        pA.
    stigmator_x, stigmator_y : float
        µm.
    focus_offset : float
        mm by which the focus lies beyond the reading, by hysteresis of the lens.
    lens_travel : float
        mm that the lens has still to go when the scan begins; 0 once it has settled.
    shift_x, shift_y : float
        nm by which the picture lies further to the right and further down.
    exposures : tuple of Exposure
        What was scanned before, anywhere on the sample.
    """

    working_distance: float
    magnification: float
    width: int
    height: int
    bits: int = 8
    dwell_time: float = 1.3e-6
    stage_x: float = 0.0
    stage_y: float = 0.0
    stage_tilt: float = 0.0
    stage_rotation: float = 0.0
    frame_id: int = 0
    start_time: float = 0.0
    brightness: float = 0.5
    contrast: float = 0.5
    beam_on: bool = True
    accelerating_voltage: float = 15.0
    beam_current: float = 20.0
    stigmator_x: float = 0.0
    stigmator_y: float = 0.0
    focus_offset: float = 0.0
    lens_travel: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    exposures: tuple[Exposure, ...] = ()


@dataclass(frozen=True, slots=True)
class Truth:
    """The ideal, for tests and evaluation; the driver cannot reach it.

    Parameters
    ----------
    working_distance : float
        Best working distance at this stage position, mm: the reading that is in focus when the lens comes from below.
        With hysteresis the best reading from above is that much less.
    depth_of_field : float
        At this magnification, in the FAST frame, mm.
    blur_radius : float
        Radius of the defocus disc at the present working distance, in pixels of the FAST frame.
    score : float
        Ideal score at the present working distance, 0 to 9.
    astigmatism : tuple of float
        Both components of the half-difference of the two foci, µm, stigmator included: it is corrected where the
        stigmator is less by these.
    drift : tuple of float
        Speed of the picture to the right and downwards, nm/s.
    """

    working_distance: float
    depth_of_field: float
    blur_radius: float
    score: float
    astigmatism: tuple[float, float] = (0.0, 0.0)
    drift: tuple[float, float] = (0.0, 0.0)


class Column(Protocol):
    """Draws frames. Implemented by `semdrivers.emulator.physics.ElectronColumn`."""

    def render(self, conditions: ScanConditions) -> NDArray[Any]:
        """Return the frame, shape (height, width), uint8 or uint16."""
        ...

    def truth(self, conditions: ScanConditions) -> Truth:
        """Return the ideal at these conditions."""
        ...
