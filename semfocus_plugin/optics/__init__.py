"""Defocus and blur: nominal values, the posterior over working distance, spectra, astigmatism and relief."""

from semfocus_plugin.optics._astigmatism import LEAST, Astigmatism, astigmatism, oblique_slope
from semfocus_plugin.optics._drift import Frame, Shift, drift_of, shift_between
from semfocus_plugin.optics._findings import finding
from semfocus_plugin.optics._learning import SURE, Apertures, LearnedAperture, beam_of, instrument_of, learned
from semfocus_plugin.optics._nominal import (
    HALF_SCORE,
    NOMINAL_APERTURE,
    NOMINAL_PIXEL,
    TUNGSTEN,
    UNKNOWN,
    Beam,
    check_probe_diameter,
    depth_of_field,
    half_blur,
    ideal_score,
    trained_depth_of_field,
)
from semfocus_plugin.optics._periodic import PLAIN, faint_wave, period_of
from semfocus_plugin.optics._posterior import Estimate, Posterior, Residual
from semfocus_plugin.optics._relief import Relief, relief
from semfocus_plugin.optics._sighting import BlurEllipse, Sighting
from semfocus_plugin.optics._spectra import PERIODIC, Pair, spectrum, transfer
from semfocus_plugin.optics._views import View

__all__ = [
    "HALF_SCORE",
    "LEAST",
    "NOMINAL_APERTURE",
    "NOMINAL_PIXEL",
    "PERIODIC",
    "PLAIN",
    "SURE",
    "TUNGSTEN",
    "UNKNOWN",
    "Apertures",
    "Astigmatism",
    "Beam",
    "BlurEllipse",
    "Estimate",
    "Frame",
    "LearnedAperture",
    "Pair",
    "Posterior",
    "Relief",
    "Residual",
    "Shift",
    "Sighting",
    "View",
    "astigmatism",
    "beam_of",
    "check_probe_diameter",
    "depth_of_field",
    "drift_of",
    "faint_wave",
    "finding",
    "half_blur",
    "ideal_score",
    "instrument_of",
    "learned",
    "oblique_slope",
    "period_of",
    "relief",
    "shift_between",
    "spectrum",
    "trained_depth_of_field",
    "transfer",
]
