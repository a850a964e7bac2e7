"""fibsem-os: our autofocus over a fibsem microscope, and fibsem's functions over a `Microscope`.

::

    result = run_auto_focus(fibsem_microscope)            # in place of fibsem.autofunctions.run_auto_focus
    held = FocusedFibsem(fibsem_microscope, every=10)     # its electron images are focused by a policy
    fibsem.autofunctions.run_auto_focus(FibsemLike(microscope))

fibsem's lengths are metres; those of a `Microscope` are mm. Written for fibsem 0.5.3.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from semdrivers.errors import InvalidParameterError, installation
from semdrivers.files import check_free, plain, replacing
from semdrivers.focus import NotFocusedError
from semdrivers.hosts._cadence import FocusKeeper, FocusPolicy

try:
    from fibsem.autofunctions.autofocus import AutoFocusIteration, AutoFocusResult
    from fibsem.cancellation import OperationCancelledError
    from fibsem.structures import BeamType

    from semdrivers.hosts._fibsem_adapters import DISPLAY, MM, FibsemLike, MicroscopeOfFibsem, connect
except ImportError as error:
    raise ImportError(f"semdrivers.hosts.fibsem needs fibsem 0.5.3: {installation('fibsem')}") from error

__all__ = ["FibsemLike", "FocusedFibsem", "MicroscopeOfFibsem", "connect", "run_auto_focus", "save_image"]


def run_auto_focus(
    fibsem: Any,
    beam_type: Any = None,
    hfw: float = 150e-6,
    settings: FocusPolicy | None = None,
    stop_event: threading.Event | None = None,
    **overrides: Any,
) -> Any:
    """Focus the electron beam; the same call, and the same kind of result, as ``fibsem.autofunctions.run_auto_focus``.

    Parameters
    ----------
    fibsem : FibsemMicroscope or MicroscopeOfFibsem
        The instrument, with limits of your own in the second form.
    beam_type : BeamType, optional
        Electron; the ion beam is refused.
    hfw : float
        Field width while focusing, m; it is put back.
    settings : FocusPolicy, optional
        How to focus and what to do on failure. Under ``"continue"`` a refusal returns None.
    stop_event : threading.Event, optional
        Obeyed before the next frame.
    **overrides
        Single fields of the policy, or of `AutofocusSettings`.

    Returns
    -------
    AutoFocusResult or None
        fibsem's own, an iteration a frame; `focus_record` is the result of ours.

    Raises
    ------
    NotFocusedError, FrameSkippedError
        When it was refused, by policy; the working distance is back.
    OperationCancelledError
        When `stop_event` was set; the working distance is back.
    InvalidParameterError
        For another beam.
    """
    if beam_type not in (None, BeamType.ELECTRON):
        raise InvalidParameterError(f"only the electron beam can be focused this way, not {beam_type!r}")
    microscope = fibsem if isinstance(fibsem, MicroscopeOfFibsem) else MicroscopeOfFibsem(fibsem)
    keeper = FocusKeeper(microscope, settings, cancel=stop_event, **overrides)
    width = microscope.fibsem.get_field_of_view(BeamType.ELECTRON)
    microscope.frames, microscope.keep_frames = [], True
    try:
        microscope.magnification = DISPLAY / hfw
        result = keeper.focus()
    except NotFocusedError as error:
        if keeper.cancel.is_set():
            raise OperationCancelledError(str(error)) from error
        raise
    finally:
        microscope.keep_frames = False
        microscope.fibsem.set_field_of_view(width, BeamType.ELECTRON)
    if not result.focused:
        return None
    frames = microscope.frames[-len(result.trace) :] if result.trace else []
    steps = [
        AutoFocusIteration(step.working_distance / MM, step.score, 0, frame)
        for step, frame in zip(result.trace, frames, strict=False)
    ]
    best = max(steps, key=lambda step: step.focus_score)
    answer = AutoFocusResult(
        image=best.image,
        working_distance=result.working_distance / MM,
        initial_working_distance=result.start_working_distance / MM,
        focus_score=result.score,
        iterations=steps,
        method=result.method,
    )
    answer.focus_record = keeper.record
    return answer


class FocusedFibsem:
    """A fibsem microscope whose electron images are focused by a policy; every other member is its own.

    An image has its focus record as ``focus_record``, and beside its file, once saved, as ``NAME.focus.json``.

    Parameters
    ----------
    fibsem : FibsemMicroscope or MicroscopeOfFibsem
        The instrument.
    policy, cancel, progress, **overrides
        As for `FocusKeeper`.
    """

    def __init__(self, fibsem: Any, policy: FocusPolicy | None = None, **options: Any) -> None:
        microscope = fibsem if isinstance(fibsem, MicroscopeOfFibsem) else MicroscopeOfFibsem(fibsem)
        self.keeper = FocusKeeper(microscope, policy, **options)
        self._fibsem = microscope.fibsem

    def acquire_image(self, image_settings: Any = None, beam_type: Any = None) -> Any:
        """Focus if due, and take an image. Raises `FrameSkippedError` or `NotFocusedError` where there is none."""
        beam = image_settings.beam_type if image_settings is not None else beam_type
        if beam is not BeamType.ELECTRON:
            return self._fibsem.acquire_image(image_settings=image_settings, beam_type=beam_type)
        self.keeper.before_frame()
        image = self._fibsem.acquire_image(image_settings=image_settings, beam_type=beam_type)
        image.focus_record = plain(self.keeper.record_of(self.keeper.microscope.working_distance))
        self.keeper.count()
        if getattr(image, "filepath", None):
            _write_record(image)
        return image

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fibsem, name)


def save_image(image: Any, path: str | Path, *, overwrite: bool = False) -> Path:
    """Save a fibsem image, and its focus record beside it.

    Raises
    ------
    ExistingFileError
        When there is such a picture or such a record, unless `overwrite`.
    """
    path = Path(path)
    for written in (path, path.with_suffix(".tif"), _record_of(path)):
        check_free(written, overwrite)
    image.save(path)
    return _write_record(image)


def _record_of(path: Path) -> Path:
    return path.with_suffix(".focus.json")


def _write_record(image: Any) -> Path:
    path = Path(image.filepath)
    # It belongs to the picture that is written now: the record of an earlier one must not stay beside it.
    with replacing(_record_of(path), overwrite=True) as partial:
        partial.write_text(json.dumps(image.focus_record, indent=2), encoding="utf-8")
    return path
