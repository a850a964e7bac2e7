"""What one frame says of the focus: the blur that a network sees in it, and its spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semfocus_plugin.optics._spectra import Spectrum


@dataclass(frozen=True, slots=True)
class BlurEllipse:
    """The ellipse that the defocused probe draws, as AENet sees it in one frame.

    Parameters
    ----------
    log_larger, log_smaller : float
        ln(1 + radius in pixels) of the larger and the smaller semi-axis; `log_smaller` is at most `log_larger`.
    cos2, sin2 : float
        Mean of the cosine and sine of twice the angle from the lines, towards the next line, to the larger semi-axis.
        Its length is at most 1: near 0 where nothing in the frame shows the direction.
    sigma_larger, sigma_smaller : float
        Standard deviations of `log_larger` and `log_smaller`.
    sigma_direction : float
        Standard deviation of each of `cos2` and `sin2`; about 0.7 where the direction is unknown. Half of it is about
        that of the angle in radians, where it is small.
    """

    log_larger: float
    log_smaller: float
    cos2: float
    sin2: float
    sigma_larger: float
    sigma_smaller: float
    sigma_direction: float

    @property
    def direction(self) -> float:
        """Angle of the larger semi-axis in degrees, above −90 up to 90."""
        return math.degrees(math.atan2(self.sin2, self.cos2)) / 2


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one frame shows of the focus.

    Parameters
    ----------
    working_distance : float
        mm.
    pixel : float
        mm.
    log_blur, log_sigma : float
        ln(1 + blur radius in pixels), and ln of its standard deviation.
    structure : bool
        False when the frame holds nothing but noise, which only says that the focus is far away.
    spectrum : Spectrum, optional
        Of the frame, to compare with other frames of the same field and magnification.
    detail : float
        Fine structure of the frame, to be compared with other frames of the same field and magnification.
    added : tuple of complex
        Astigmatism, x + iy in mm, that the stigmator had added to that of the start when the frame was taken: as far as
        it was known before the run, then what each unknown of the stigmator adds for a standard deviation of it.
    period : float or None
        Pixels after which the sample repeats itself, where the frame shows that and is out of focus.
    power : float
        Of the strongest wave of a frame that shows a periodic sample, over that of the noise there.
    misread : bool
        Whether the frame shows more fine structure than the blur that was read off it would leave.
    """

    working_distance: float
    pixel: float
    log_blur: float
    log_sigma: float
    structure: bool = True
    spectrum: Spectrum | None = None
    detail: float = 0.0
    added: tuple[complex, ...] = (0j,)
    period: float | None = None
    power: float = 0.0
    misread: bool = False

    @property
    def misled(self) -> bool:
        """Whether a network cannot read a blur off the frame, for its sample is periodic."""
        return self.period is not None

    @property
    def wave(self) -> bool:
        """Whether the frame shows little but one wave."""
        return self.structure and self.spectrum is not None and self.spectrum.wave
