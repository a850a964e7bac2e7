"""QCoDeS: a `Microscope` as an ``Instrument``, with `autofocus` for ``dond`` and a focus record in the data.

::

    sem = MicroscopeInstrument("sem", microscope)
    dond(LinSweep(sem.stage_x, 0, 3, 4, post_actions=[sem.autofocus]), sem.frame, *sem.focus)   # at each point
    dond(LinSweep(sem.stage_x, 0, 3, 4), sem.frame, *sem.focus, enter_actions=[sem.autofocus])  # once a run

Written for QCoDeS 0.58.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semdrivers.connection import connect
from semdrivers.errors import InvalidParameterError, installation
from semdrivers.focus import AutofocusResult, FrameSkippedError, NotFocusedError
from semdrivers.hosts._cadence import FocusKeeper, FocusPolicy
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Microscope, Range, has_member, missing_members
from semdrivers.threads import on_one_thread

try:
    from qcodes.instrument import Instrument
    from qcodes.parameters import Parameter, ParameterWithSetpoints
    from qcodes.validators import Arrays, Bool, Enum, Numbers, Strings
except ImportError as error:
    raise ImportError(f"semdrivers.hosts.qcodes needs QCoDeS 0.58: {installation('qcodes')}") from error

__all__ = ["MicroscopeInstrument"]

_NAN = float("nan")


class MicroscopeInstrument(Instrument):
    """A microscope as a QCoDeS instrument.

    Parameters there are: ``working_distance`` and ``stage_x``, ``stage_y`` in mm, ``magnification``, ``scan_mode``,
    ``stigmator_x``, ``stigmator_y`` in the units of the instrument, ``beam`` (stage, stigmator and beam where the
    microscope has them), ``frame`` over ``row`` and
    ``column``, and, read only, ``frame_working_distance``, ``focus_status``, ``focus_working_distance``,
    ``focus_score``, ``frames_since_focus``, ``lens_offset`` (mm) and ``focus_record``, which the snapshot
    holds.

    Parameters
    ----------
    name : str
        Name of the instrument.
    microscope : Microscope or str
        Any; or an address for `semdrivers.connect`, opened on a thread of its own and closed with the instrument.
    policy : FocusPolicy, optional
        With a policy, or one field of it, ``frame`` focuses by itself whenever the cadence needs it. Without, only
        `autofocus` focuses. A frame left out under ``"skip"`` or ``"retry"`` is all NaN.
    **overrides
        Single fields of the policy, or of `AutofocusSettings`; settings of autofocus alone start no cadence.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For what is no microscope, or a policy that makes no sense.
    """

    def __init__(
        self, name: str, microscope: Microscope | str, policy: FocusPolicy | None = None, **overrides: Any
    ) -> None:
        if Instrument.exist(name):  # QCoDeS looks only once everything is open
            raise InvalidParameterError(f"there is an instrument {name!r} already; close it, or take another name")
        in_force = (policy if policy is not None else FocusPolicy()).changed(**overrides)
        cadence = {
            "every",
            "stigmate_every",
            "score_drop",
            "stage_travel",
            "magnification_change",
            "temperature_change",
            "on_failure",
        }
        self._focuses_frames = policy is not None or bool(cadence & set(overrides))
        self._address = microscope if isinstance(microscope, str) else None
        self.microscope: Any = microscope
        if isinstance(microscope, str):
            self.microscope = on_one_thread(lambda: connect(microscope))
        self._left_out = False
        self._mode = ScanMode.FAST
        self.image: Image | None = None
        try:
            missing = missing_members(self.microscope)
            if missing:
                kind = type(self.microscope).__name__
                raise InvalidParameterError(f"{kind} is no Microscope: it lacks {', '.join(missing)}")
            self.keeper = FocusKeeper(self.microscope, in_force)
            super().__init__(name)
            self._add_settings()
            self._add_frame()
            self._add_focus()
        except BaseException:
            if self._address is not None:
                self.microscope.close()
            raise

    def autofocus(self) -> AutofocusResult | None:
        """Focus, for ``enter_actions`` of a run and ``post_actions`` of a sweep; returns the result.

        Raises
        ------
        NotFocusedError
            When it was refused under ``"abort"``, or cancelled; the run ends.
        """
        self._left_out = False
        try:
            self._obeying_cancel(self.keeper.focus)
        except FrameSkippedError as error:
            self.log.warning("%s", error)
            self._left_out = True
        return self.keeper.result

    def cancel(self) -> None:
        """End the autofocus or the run under way before its next frame; from any thread. Ctrl-C does the same.

        With nothing under way, it meets the next frame.
        """
        self.keeper.cancel.set()

    @property
    def focus(self) -> tuple[Any, ...]:
        """The parameters that report how a frame was focused, to be measured beside it."""
        names = ("frame_working_distance", "focus_status", "focus_working_distance", "focus_score")
        return tuple(self.parameters[name] for name in (*names, "frames_since_focus", "lens_offset"))

    def get_idn(self) -> dict[str, str | None]:
        """Return model, serial number and firmware."""
        own = self.microscope.capabilities
        return {"vendor": None, "model": own.model, "serial": own.serial, "firmware": own.firmware}

    def close(self) -> None:
        """Close the instrument, and the connection if it was opened by address. A second call does nothing."""
        if "microscope" not in vars(self):  # QCoDeS strips a closed instrument of its attributes
            return
        try:
            if self._address is not None:
                self.microscope.close()
        finally:
            super().close()

    def _add_settings(self) -> None:
        microscope, limits = self.microscope, self.microscope.capabilities
        modes = {mode.name: mode for mode in limits.scan_modes}
        self._mode = modes.get(ScanMode.FAST.name, limits.scan_modes[0])
        self._add_number("working_distance", "mm", limits.working_distance)
        self._add_number("magnification", "", limits.magnification)
        self.add_parameter(
            "scan_mode",
            get_cmd=lambda: self._mode.name,
            set_cmd=lambda mode: setattr(self, "_mode", modes[mode]),
            vals=Enum(*modes),
        )
        if hasattr(type(microscope), "move_stage"):
            for axis, index in (("stage_x", 0), ("stage_y", 1)):
                self.add_parameter(
                    axis,
                    unit="mm",
                    get_cmd=lambda index=index: microscope.stage_position[index],
                    set_cmd=lambda value, index=index: self._move(index, value),
                    vals=Numbers(),
                )
        if has_member(microscope, "stigmator"):
            for axis, index in (("stigmator_x", 0), ("stigmator_y", 1)):
                self.add_parameter(
                    axis,
                    get_cmd=lambda index=index: microscope.stigmator[index],
                    set_cmd=lambda value, index=index: self._stigmate(index, value),
                    vals=Numbers(),
                )
        if hasattr(type(microscope), "beam_on"):
            self.add_parameter(
                "beam",
                get_cmd=lambda: microscope.beam_on,
                set_cmd=lambda value: setattr(microscope, "beam_on", value),
                vals=Bool(),
            )

    def _add_number(self, name: str, unit: str, limits: Range) -> None:
        self.add_parameter(
            name,
            unit=unit,
            get_cmd=lambda: getattr(self.microscope, name),
            set_cmd=lambda value: self._set_number(name, value),
            vals=Numbers(limits.minimum, limits.maximum),
        )

    def _add_frame(self) -> None:
        for name, size in (("row", self._rows), ("column", self._columns)):
            self.add_parameter(
                name,
                parameter_class=Parameter,
                unit="px",
                get_cmd=lambda size=size: np.arange(size(), dtype=float),
                vals=Arrays(shape=(size,)),
                snapshot_value=False,
            )
        self.add_parameter(
            "frame",
            parameter_class=ParameterWithSetpoints,
            label="grey level",
            setpoints=(self.parameters["row"], self.parameters["column"]),
            get_cmd=self._take,
            vals=Arrays(shape=(self._rows, self._columns)),
            snapshot_value=False,
        )

    def _rows(self) -> int:
        return self._mode.height

    def _columns(self) -> int:
        return self._mode.width

    def _add_focus(self) -> None:
        def of_record(field: str, nothing: Any) -> Callable[[], Any]:
            return lambda: (self.keeper.record or {}).get(field, nothing)

        def of_frame() -> float:
            return _NAN if self.image is None else float(self.image.working_distance)

        def of_frames_record(field: str) -> Callable[[], float]:
            def read() -> float:
                record = {} if self.image is None else self.image.metadata.get("autofocus") or {}
                value = record.get(field)
                return _NAN if value is None else float(value)

            return read

        for name, unit, read in (
            ("frame_working_distance", "mm", of_frame),
            ("focus_working_distance", "mm", of_record("working_distance", _NAN)),
            ("focus_score", "", of_record("score", _NAN)),
            ("frames_since_focus", "", of_frames_record("frames_since")),
            ("lens_offset", "mm", of_frames_record("lens_offset")),
        ):
            self.add_parameter(name, unit=unit, get_cmd=read, set_cmd=False)
        self.add_parameter("focus_status", get_cmd=of_record("status", "none"), set_cmd=False, vals=Strings())
        self.add_parameter("focus_record", get_cmd=lambda: self.keeper.record, set_cmd=False)

    def _set_number(self, name: str, value: float) -> None:
        setattr(self.microscope, name, value)
        if name == "working_distance":
            self.keeper.accept_lens()

    def _move(self, index: int, value: float) -> None:
        place = list(self.microscope.stage_position)
        place[index] = value
        self.microscope.move_stage(*place)

    def _stigmate(self, index: int, value: float) -> None:
        setting = list(self.microscope.stigmator)
        setting[index] = value
        self.microscope.stigmator = tuple(setting)

    def _take(self) -> Any:
        """Take a frame, focused if the cadence needs it; NaN where one is left out."""
        try:
            if self._left_out:
                self._left_out = False
                raise FrameSkippedError("autofocus did not find the focus here", self.keeper.result)
            if self._focuses_frames:
                self._obeying_cancel(self.keeper.before_frame)
            elif self.keeper.cancel.is_set():
                self.keeper.cancel.clear()
                raise NotFocusedError("cancelled before the frame was taken", self.keeper.result)
        except FrameSkippedError as error:
            self.log.warning("frame left out: %s", error)
            self.image = None
            return np.full((self._mode.height, self._mode.width), _NAN)
        self.image = self.keeper.after_frame(self.microscope.acquire(self._mode))
        return self.image.pixels.astype(float)

    def _obeying_cancel(self, work: Callable[[], object]) -> None:
        """Do it, and read the record for the snapshot; a cancel that ended the work does not meet the next."""
        try:
            work()
        except NotFocusedError:
            self.keeper.cancel.clear()
            raise
        finally:
            self.parameters["focus_record"].get()
