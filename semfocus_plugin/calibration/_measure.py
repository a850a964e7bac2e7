"""Calibration to a microscope: the aperture, measured by one focal series at one field.

The angle of the beam decides how far from focus a blur of so many pixels is, and it differs by a factor of five among
instruments. `calibrate` measures it; `save`, `load` and `aperture_for` keep it for later runs.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from datetime import datetime

import numpy as np

import semdrivers
from semdrivers.errors import AutofocusError, ModelError
from semdrivers.files import counted
from semdrivers.focus import AutofocusResult, AutofocusSettings, Progress
from semdrivers.microscope import Microscope, restoring
from semfocus_plugin import networks as network_files
from semfocus_plugin.calibration._aperture_fit import RADII, ApertureFit, field_curve, fit_aperture
from semfocus_plugin.calibration._file import Calibration
from semfocus_plugin.networks import Networks, to_unit
from semfocus_plugin.optics import NOMINAL_APERTURE, NOMINAL_PIXEL, check_probe_diameter
from semfocus_plugin.run import MOST_RETAKES, Cancelled, FocusRun, Measurement, pixel_of

_SCOUT = 10.0
"""Blur radius in pixels of the two frames that show roughly how wide the beam is."""
_ARMS = (3.0, 4.0, 6.0, 9.0, 13.0, 18.0, 24.0)
"""Blur radii in pixels, on either side of focus, of the frames that are fitted."""
_LEAST_REACH = 10.0
"""Blur radius in pixels that must be reached on both sides, whatever the limits."""
_REFERENCES = 4
_FIELD_SIGMA = 0.04
"""Scatter of the aperture between fields of the emulator, beyond what a series shows itself."""
_LARGEST_RESIDUAL = 0.25
_LEAST_RISE = 1.0
"""Rise of the field's curve, in ln(1 + radius), below which AENet cannot distinguish blurs of this field."""


class CalibrationCancelled(AutofocusError):
    """The caller's event was set; working distance and magnification are back at the start."""


def calibrate(
    microscope: Microscope,
    *,
    magnification: float | None = None,
    probe_diameter: float | None = None,
    settings: AutofocusSettings | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
    networks: Networks | None = None,
) -> Calibration:
    """Measure the aperture of a microscope where it stands: autofocus, then some 20 frames through focus.

    Working distance and magnification are put back at the end, whatever happens.

    Parameters
    ----------
    microscope : Microscope
        On a field with fine detail. Brightness and contrast should suit it.
    magnification : float, optional
        To measure at; the present one by default. The series spans some 16 mm × 1000 / magnification.
    probe_diameter : float, optional
        Diameter of the focused probe in nm, from the data sheet, to be kept with the aperture: it scales scores and
        depths of field of later runs. No series can show it: it blurs the sharpest frame as it does all the others.
    settings : AutofocusSettings, optional
        Method and frames of the autofocus; ``bounds`` and ``max_travel`` hold for the series too.
    progress : callable, optional
        Called with a `FocusStep` after every frame.
    cancel : threading.Event, optional
        Obeyed before the next frame.
    networks : Networks, optional
        The shipped ones by default.

    Raises
    ------
    AutofocusError
        When no focus is found, the limits leave no room for the series, or the field does not show its blurs.
        `CalibrationCancelled` after a cancel.
    ModelError
        Before the instrument is touched, when the AENet in use reports no blur.
    OutOfRangeError
        For a magnification that the instrument does not have, a probe that none has, or a start outside the bounds;
        nothing has moved.
    SemDriversError
        Whatever the microscope raises.
    """
    settings = dataclasses.replace(settings or AutofocusSettings(), may_change_brightness=False)
    networks = network_files.load() if networks is None else networks
    if networks.evaluator.blur_range is None:
        raise ModelError("the AENet in use reports no blur, which calibration needs; use the shipped one")
    if probe_diameter is not None:
        probe_diameter = check_probe_diameter(probe_diameter)
    capabilities = microscope.capabilities
    if magnification is not None:
        capabilities.magnification.check("magnification", magnification)
    with restoring(microscope) as values:
        start = values["working_distance"]
        if magnification is not None:
            microscope.magnification = magnification
        focused_first(microscope, settings, progress, cancel)
        low, high = settings.bounds or (-math.inf, math.inf)
        travel = settings.max_travel or math.inf
        bounds = (
            max(low, start - travel, capabilities.working_distance.minimum),
            min(high, start + travel, capabilities.working_distance.maximum),
        )
        within = dataclasses.replace(settings, bounds=bounds, max_travel=None)
        budget = 2 + 2 * len(_ARMS) + _REFERENCES + 1 + MOST_RETAKES
        run = FocusRun(microscope, within, networks.evaluator, budget, progress, cancel)
        try:
            fit, pixel, series = _series(run, networks)
        except Cancelled:
            done = counted(run.frames, "frame")
            raise CalibrationCancelled(f"calibration cancelled after {done} of the series") from None
        return Calibration(
            model=capabilities.model,
            serial=capabilities.serial,
            firmware=capabilities.firmware,
            date=datetime.now().astimezone().isoformat(timespec="seconds"),
            aperture=fit.aperture,
            aperture_sigma=fit.aperture * math.hypot(fit.scatter, _FIELD_SIGMA),
            working_distance=fit.working_distance,
            magnification=run.magnification,
            pixel=pixel * 1e6,
            residual=fit.residual,
            frames=run.frames,
            probe_diameter=probe_diameter,
            series=series,
        )


def focused_first(
    microscope: Microscope, settings: AutofocusSettings, progress: Progress | None, cancel: threading.Event | None
) -> AutofocusResult:
    """Focus before anything is measured; raises what `calibrate` does."""
    result = semdrivers.autofocus(microscope, settings=settings, progress=progress, cancel=cancel)
    if result.status == "cancelled":
        raise CalibrationCancelled("calibration cancelled during autofocus")
    if not result.focused:
        raise AutofocusError(f"no calibration without focus ({result.reason}); go to a field with fine detail")
    return result


def _series(run: FocusRun, networks: Networks) -> tuple[ApertureFit, float, tuple[tuple[float, float], ...]]:
    """Take the frames and fit them; returns the fit, the pixel in mm, and place and blur of each frame."""
    focus = run.working_distance
    distance = NOMINAL_PIXEL / run.magnification * focus / NOMINAL_APERTURE
    scouts = [_measure(run, place, "scout") for place in (focus - _SCOUT * distance, focus + _SCOUT * distance)]
    pixel = pixel_of(scouts[0].image, run.magnification)
    apart = scouts[1].working_distance - scouts[0].working_distance
    seen = sum(math.expm1(_log_blur(scout)) for scout in scouts)
    distance = max(apart / max(seen, 2.0), distance / 8)
    _check_reach(focus, distance, run.limits.minimum, run.limits.maximum)
    arms = [_measure(run, focus + radius * distance, "series") for radius in (*(-r for r in _ARMS[::-1]), *_ARMS)]
    far = _measure(run, arms[-1].working_distance, "series")
    places = [m.working_distance for m in arms]
    rough = fit_aperture(places, [_log_blur(m) for m in arms], pixel)
    references = [_measure(run, rough.working_distance, "reference") for _ in range(_REFERENCES)]
    focused = np.stack([to_unit(m.image.pixels) for m in references])
    unfocused = np.stack([to_unit(m.image.pixels) for m in (arms[-1], far)])
    curve = field_curve(focused, unfocused, networks.evaluator, run.magnification)
    fit = fit_aperture(places, [_log_blur(m) for m in arms], pixel, curve)
    if curve[-1] - curve[0] < _LEAST_RISE or fit.residual > _LARGEST_RESIDUAL:
        raise AutofocusError(
            f"this field does not show the aperture: the blur of the frames deviates by {fit.residual:.2f} (at most "
            f"{_LARGEST_RESIDUAL:g}) from that of a lens, and blurring it changes what AENet sees by "
            f"{curve[-1] - curve[0]:.1f} (at least {_LEAST_RISE:g}); go to a flat field with fine detail"
        )
    _check_reach(fit.working_distance, pixel * fit.working_distance / fit.aperture, places[0], places[-1])
    blurs = np.interp([_log_blur(m) for m in arms], curve, RADII)  # as the field itself shows them
    return fit, pixel, tuple(zip(places, blurs.tolist(), strict=True))


def _check_reach(focus: float, distance: float, low: float, high: float) -> None:
    """Refuse a series that does not blur enough; `distance` in mm blurs by one pixel."""
    wanted = _LEAST_REACH * distance
    reached = min(focus - low, high - focus)
    if reached < wanted:
        raise AutofocusError(
            f"calibration needs {wanted:.3f} mm on either side of the focus at {focus:.3f} mm, and there are "
            f"{reached:.3f} mm; widen bounds and max_travel, or use a higher magnification"
        )


def _measure(run: FocusRun, place: float, phase: str) -> Measurement:
    return run.measure(run.limits.clip(place), phase)


def _log_blur(measurement: Measurement) -> float:
    value = measurement.evaluation.log_blur
    assert value is not None
    return value
