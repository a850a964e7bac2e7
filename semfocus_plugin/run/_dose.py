"""How many electrons a run puts on a µm² of the sample."""

from __future__ import annotations

import math

from semdrivers.errors import AutofocusError, InvalidParameterError
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Capabilities
from semfocus_plugin.optics import NOMINAL_PIXEL

_ELECTRONS_A_PICOCOULOMB = 1e-12 / 1.602176634e-19


def electrons_on_pixel(capabilities: Capabilities, mode: ScanMode) -> float | None:
    """Return the electrons that a frame puts on a pixel; None where the instrument does not report what it takes."""
    dwell = _dwell(capabilities, mode)
    known = all(value is not None and 0 < value < math.inf for value in (dwell, capabilities.beam_current))
    return (capabilities.beam_current or 0.0) * (dwell or 0.0) * _ELECTRONS_A_PICOCOULOMB if known else None


def _dwell(capabilities: Capabilities, mode: ScanMode) -> float | None:
    """Return the time on a pixel in a mode, s."""
    return mode.dwell or dict(zip(capabilities.scan_modes, capabilities.dwell_times, strict=False)).get(mode)


class Dose:
    """The electrons on a µm², and how many more are allowed.

    All frames of a run are counted as if they lay on one another, which is true of the middle of the field. A frame
    adds the current of the beam times the time on a pixel, per area of the pixel.

    Parameters
    ----------
    limit : float
        Most electrons per µm².
    capabilities : Capabilities
        With the beam current and the time on a pixel.
    mode : ScanMode
        Of every frame.

    Raises
    ------
    InvalidParameterError
        When the instrument reports no beam current, or no time on a pixel in this mode.
    """

    def __init__(self, limit: float, capabilities: Capabilities, mode: ScanMode) -> None:
        dwell, current = _dwell(capabilities, mode), capabilities.beam_current
        for name, value in (("beam current", current), (f"time on a pixel in mode {mode.name}", dwell)):
            if value is None or not 0 < value < math.inf:
                raise InvalidParameterError(
                    f"max_dose {limit:g} electrons/µm² cannot be kept: the instrument does not report its {name}; "
                    "leave max_dose out and limit the run by max_frames or max_seconds"
                )
        self._left = limit
        self._electrons = electrons_on_pixel(capabilities, mode) or 0.0
        self._pixel = NOMINAL_PIXEL * ScanMode.FAST.width / mode.width

    def add(self, image: Image, magnification: float) -> None:
        """Count a frame, from which the size of a pixel at every magnification is known.

        Raises
        ------
        AutofocusError
            When the frame holds no pixel size.
        """
        if not 0 < image.pixel_size < math.inf:
            raise AutofocusError(
                f"max_dose cannot be kept: the frame reports a pixel size of {image.pixel_size} nm; leave it out"
            )
        self._pixel = image.pixel_size * 1e-6 * magnification
        self._left -= self._of_a_frame(magnification)

    def frames_left(self, magnification: float) -> int:
        """Return how many frames more are allowed."""
        return int(self._left / self._of_a_frame(magnification) * (1 + 1e-9))

    def _of_a_frame(self, magnification: float) -> float:
        """Return the electrons per µm² that a frame adds."""
        return float(self._electrons / (self._pixel / magnification * 1e3) ** 2)
