"""The EM-30 behind the protocols of `semdrivers.microscope`.

Nothing here knows a number of the instrument but the diameter of its probe, which no message reports: limits, steps and
scan modes are what it says of itself.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from ssl import SSLContext
from typing import Any, TypeVar

import numpy as np

from firmware_protocol.frame_assembly import Frame
from firmware_protocol.messages import (
    BeamChanged,
    Command,
    EmergencyStop,
    Event,
    FrameDropped,
    GetParameter,
    GetStatus,
    HelloReply,
    InterlockTripped,
    MoveStage,
    OrientStage,
    Parameter,
    ParameterValue,
    Pump,
    Reason,
    Request,
    SetBeam,
    SetParameter,
    SetStigmator,
    StartScan,
    StopScan,
    Vent,
    Wait,
)
from firmware_protocol.stream import PixelFormat
from semdrivers.base import ConnectedMicroscope
from semdrivers.em30._address import Address, parse_address
from semdrivers.em30._control_link import Answers, ControlLink, check_stopped, send_emergency_stop
from semdrivers.em30._image_link import FrameOrder, ImageLink
from semdrivers.em30._transport import Transport, open_serial, open_tcp
from semdrivers.em30._waiting import WaitingTimes
from semdrivers.errors import (
    DeviceError,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    ProtocolError,
    SemDriversError,
    StoppedError,
    TransportError,
)
from semdrivers.image import Image, ScanMode
from semdrivers.links import capabilities_of, limits_of, parse_target
from semdrivers.microscope import Capabilities, Range, switch, two_of

R = TypeVar("R")

_log = logging.getLogger(__name__)
_STOP = 1.0
"""Seconds that a stop may take; it is sent again after a fifth of that."""
_LEAVE = 5.0
"""Seconds that `close` waits for another thread to leave the image link."""
_RECONNECT_PAUSE = 0.1
_WATCH = 0.5
_LONGEST_FRAME = 3600.0
"""Seconds; an instrument that says that a frame takes longer is not believed."""

_UNITS = {
    Parameter.WORKING_DISTANCE: "mm",
    Parameter.STAGE_X: "mm",
    Parameter.STAGE_Y: "mm",
    Parameter.STAGE_TILT: "°",
    Parameter.STAGE_ROTATION: "°",
    Parameter.STIGMATOR_X: "µm",
    Parameter.STIGMATOR_Y: "µm",
}


_NAMES = {parameter: parameter.name.lower() for parameter in Parameter}
_PARAMETERS = {name: parameter for parameter, name in _NAMES.items()}
_QUESTIONS = {parameter: GetParameter(parameter) for parameter in Parameter}
_STAGE, _ORIENTATION = ("stage_x", "stage_y"), ("stage_tilt", "stage_rotation")
_NEEDS = {
    "stage_position": _STAGE,
    "move_stage": _STAGE,
    "stage_orientation": _ORIENTATION,
    "orient_stage": _ORIENTATION,
    "stigmator": ("stigmator_x", "stigmator_y"),
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "voltage": ("accelerating_voltage",),
}
"""Members of `EM30` that not every instrument offers, and the parameters that each takes."""
_RECORDED = ("stage_position", "stage_orientation", "stigmator", "brightness", "contrast", "voltage")
"""Those that are recorded with a frame, as `semdrivers.base.settings_of` names them."""
_RECORDED_AS = {"accelerating_voltage": "voltage"}


class _FrameUnderWay:
    """A frame that somebody waits for, and why it is no longer wanted."""

    def __init__(self) -> None:
        self.halted = threading.Event()
        """Set once the instrument has been halted: only then may the next frame be asked for."""
        self._reason: SemDriversError | None = None
        self.settings: Answers | None = None
        """Of what is recorded with the frame, asked for while it is scanned."""

    def end(self, reason: SemDriversError) -> None:
        """Have `check` raise `reason`; the first one counts."""
        if self._reason is None:
            self._reason = reason

    def check(self) -> None:
        """Raise where the frame is no longer wanted."""
        if self._reason is not None:
            self.halted.wait(2 * _STOP)
            raise self._reason


class EM30(ConnectedMicroscope):
    """An EM-30 with its two links. Thread safe: one command or frame at a time; reading, `stop`, switching the beam off
    and `close` wait for neither.

    A call that meets a lost connection, or a lost lease, raises; the next one asks for control again, within
    ``waiting.reconnect``, so that what was changed can be put back.

    `semdrivers.connect` makes one. It implements `Microscope`, `RecordsFocus`, `HasBeam`, `HasStop` and `HasVacuum`,
    and `HasStage`, `HasStageOrientation`, `HasStigmator`, `HasDetector` and `HasVoltage` as far as it has them. After
    `close` every member raises `NotConnectedError`.

    Parameters
    ----------
    control_link : ControlLink
        Open; belongs to the microscope from here on.
    image_link : ImageLink
        Open; belongs to the microscope from here on.
    name : str
        For messages.
    bits : int
        Depth of the frames, 8 or 16.
    keep_beam : bool
        Whether `close` leaves the beam as it is; else it switches the beam off.
    on_close : callable, optional
        Called at the end of `close`.
    beam_off_after : float, optional
        Seconds without a call of the script after which the scan is stopped and the beam switched off. The link's own
        traffic does not count.
    client : str
        How the instrument names this client to others.
    open_transport : callable, optional
        Opens another connection to the same instrument, when the present one is lost.
    waiting : WaitingTimes, optional
        How long a lost control link may take to be opened again.
    secret : str, optional
        The instrument's token, for one that asks for it.

    Raises
    ------
    ProtocolError
        When the instrument does not report its limits.
    """

    def __init__(
        self,
        control_link: ControlLink,
        image_link: ImageLink,
        *,
        name: str = "EM-30",
        bits: int = 8,
        keep_beam: bool = True,
        on_close: Callable[[], object] | None = None,
        beam_off_after: float | None = None,
        client: str = "semdrivers",
        open_transport: Callable[[], Transport] | None = None,
        waiting: WaitingTimes = WaitingTimes(),  # noqa: B008 - frozen
        secret: str | None = None,
    ) -> None:
        self._waiting_times = waiting
        self._secret = secret
        self._control = control_link
        self._name = name
        self._client = client
        self._open_transport = open_transport
        self._closing = threading.RLock()
        self._regaining = threading.RLock()
        self._ended = threading.Event()
        self._is_shut = self._gave_up = False
        self._frame: _FrameUnderWay | None = None
        self._calls: dict[int, int] = {}
        self._closer: int | None = None
        self._last_call = time.monotonic()
        self._unattended = ""
        self._effective = 0.0
        self._limits = limits_of(control_link.hello)
        offered = [member for member in _RECORDED if hasattr(type(self), member)]
        self._recorded = [_PARAMETERS[name] for member in offered for name in _NEEDS[member]]
        self._images = image_link
        self._bits = bits
        self._keep_beam = keep_beam
        self._on_close = on_close
        hello = control_link.hello
        self._capabilities = capabilities_of(name, hello)
        self._epoch = time.time() - hello.time
        self._dropped = 0
        self._blanked = False
        with suppress(DeviceError):
            control_link.subscribe(self._heard)
        if beam_off_after is not None:
            watch = threading.Thread(
                target=self._watch, args=(beam_off_after,), name=f"watch over the beam of {name}", daemon=True
            )
            watch.start()

    @property
    def capabilities(self) -> Capabilities:
        """Limits and modes, as the instrument reported them when it was connected."""
        with self._use():
            return self._capabilities

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Scan one frame, wholly after the last set took effect, and return it.

        Raises
        ------
        InvalidParameterError
            When `mode` is not in ``capabilities.scan_modes``.
        InterlockError
            When the beam is off.
        StoppedError
            When the frame was ended by `stop`, or by another client's stop.
        TransportError
            When no good frame came, whatever the image link tried. The scan has been stopped.
        """
        if not isinstance(mode, ScanMode):
            raise InvalidParameterError(f"{self._name}: mode must be a semdrivers.ScanMode, not {mode!r}")
        with self._operate():
            if mode not in self._capabilities.scan_modes:
                offer = ", ".join(offered.name for offered in self._capabilities.scan_modes)
                raise InvalidParameterError(f"{self._name} has no scan mode {mode.name}; it has {offer}")
            image = self._image(*self._scan(mode), mode)
        return self._delivered(image)

    def _scan(self, mode: ScanMode) -> tuple[Frame, dict[str, float]]:
        """Scan a frame, and return it with the settings in force; whatever ends that early, Ctrl-C included, the
        instrument does not go on scanning.
        """
        frame = self._frame = _FrameUnderWay()
        try:
            scanned = self._images.acquire(lambda: self._order(mode, frame), self._lost, frame.check, self._scans)
            return scanned, self._settings(mode, frame)
        except BaseException as error:
            self._frame = None
            if isinstance(error, StoppedError) or not isinstance(error, DeviceError):
                with suppress(SemDriversError):
                    self._control.request(StopScan(), deadline=_STOP, wait=Wait.NOTHING)
            if isinstance(error, TransportError):
                self._blame_the_beam(error)
            raise
        finally:
            self._frame = None
            if frame.settings is not None:
                frame.settings.close()

    def _settings(self, mode: ScanMode, frame: _FrameUnderWay) -> dict[str, float]:
        """Return the settings that are recorded with a frame, as they were while it was scanned."""
        settings: dict[str, float] = {}
        if frame.settings is not None:
            try:
                for parameter, answer in zip(self._recorded, frame.settings, strict=True):
                    name = _NAMES[parameter]
                    settings[_RECORDED_AS.get(name, name)] = self._value_of(answer, parameter)
                about = self._capabilities
                settings["dwell_time"] = dict(zip(about.scan_modes, about.dwell_times, strict=True))[mode]
            except SemDriversError as error:
                _log.info("%s: a setting could not be read for the record of a frame: %s", self._name, error)
        return settings

    def _blame_the_beam(self, error: TransportError) -> None:
        """Raise `InterlockError` where no frame came because there was no beam."""
        try:
            status = self._control.request(GetStatus(), deadline=_STOP)
        except SemDriversError:
            return
        if not status.beam_on:
            why = f" ({status.fault})" if status.fault else ""
            raise InterlockError(f"{self._name}: no frame came, because the beam is off{why}: switch it on") from error

    def stop(self, keep_beam: bool = False) -> None:
        """End the scan at once and, unless `keep_beam`, blank the beam; from any thread.

        It waits for no frame and no other call. A frame under way raises `StoppedError`. A lens or stage in motion ends
        its move.

        Parameters
        ----------
        keep_beam : bool
            Whether the beam stays as it is.

        Raises
        ------
        HardwareFault
            When the instrument reports the beam on in spite of it.
        TransportError
            When the instrument did not answer, over a new connection neither: switch the beam off by hand.
        """
        with self._use():
            frame = self._frame
            if frame is not None:
                frame.end(StoppedError(f"{self._name}: the frame was ended by stop()"))
            try:
                self._halt(keep_beam)
            finally:
                if frame is not None:
                    frame.halted.set()

    def _halt(self, keep_beam: bool) -> None:
        """Stop on the wire; the beam is blanked over a new connection where the present one is lost."""
        if keep_beam:
            self._control.request(StopScan(), deadline=_STOP, wait=Wait.NOTHING)
            return
        try:
            check_stopped(self._control.request(EmergencyStop(self._client), deadline=_STOP), self._name)
        except (TransportError, NotConnectedError):
            if self._open_transport is None:
                raise
            send_emergency_stop(self._open_transport(), client=self._client, name=self._name)

    def close(self, keep_beam: bool | None = None) -> None:
        """Give the instrument back: the scan stops, the links are closed. A second call does nothing.

        It waits for no frame: one under way in another thread is ended, and raises `NotConnectedError`.

        Parameters
        ----------
        keep_beam : bool, optional
            Whether the beam stays as it is, or is switched off; as the microscope was opened by default.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            if keep_beam is not None:
                self._keep_beam = keep_beam
        self._ended.set()
        frame = self._frame
        if frame is not None:
            frame.end(NotConnectedError(f"the connection to {self._name} was closed during a frame"))
            frame.halted.set()
        if threading.get_ident() in self._calls:  # a signal handler: the call that it interrupts ends it on its way out
            self._closer = threading.get_ident()
        else:
            self._shut()

    def _shut(self) -> None:
        """Close the links, once."""
        with self._closing:
            if self._is_shut:
                return
            self._is_shut = True
        with ExitStack() as last_comes_first:
            if self._on_close is not None:
                last_comes_first.callback(self._on_close)
            last_comes_first.callback(self._control.close, keep_beam=self._keep_beam)
            if self._lock.acquire(timeout=_LEAVE):
                last_comes_first.callback(self._lock.release)
            last_comes_first.callback(self._images.close)

    # Stage, stigmator, detector, beam, vacuum

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y) in mm."""
        with self._use():
            return self._get(Parameter.STAGE_X), self._get(Parameter.STAGE_Y)

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y) in mm; returns the position reached, once the stage is idle.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            Before anything moves.
        InterlockError
            When the move would leave the collision envelope.
        """
        with self._operate():
            x, y = self._check(Parameter.STAGE_X, x), self._check(Parameter.STAGE_Y, y)
            moved = self._request(MoveStage(x, y))
            self._check_applied(
                f"moving the stage to ({x:g}, {y:g}) mm",
                {Parameter.STAGE_X: x, Parameter.STAGE_Y: y},
                {"x": moved.x, "y": moved.y, "settling": moved.settling, "time": moved.time},
            )
            self._took_effect(moved.time)
            return moved.x, moved.y

    @property
    def stage_orientation(self) -> tuple[float, float]:
        """Tilt and rotation in degrees."""
        with self._use():
            return self._get(Parameter.STAGE_TILT), self._get(Parameter.STAGE_ROTATION)

    def orient_stage(self, tilt: float, rotation: float) -> tuple[float, float]:
        """Tilt and rotate, degrees, about the point under the beam; returns what was reached, once the stage is idle.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            Before anything moves; the second also when this stage does not tilt or rotate.
        InterlockError
            When the sample holder would leave the collision envelope.
        """
        with self._operate():
            tilt, rotation = self._check(Parameter.STAGE_TILT, tilt), self._check(Parameter.STAGE_ROTATION, rotation)
            oriented = self._request(OrientStage(tilt, rotation))
            self._check_applied(
                f"tilting the stage to {tilt:g}° and rotating it to {rotation:g}°",
                {Parameter.STAGE_TILT: tilt, Parameter.STAGE_ROTATION: rotation},
                {"tilt": oriented.tilt, "rotation": oriented.rotation, "time": oriented.time},
            )
            self._took_effect(oriented.time)
            return oriented.tilt, oriented.rotation

    @property
    def voltage(self) -> float:
        """Acceleration voltage, kV."""
        return self._get(Parameter.ACCELERATING_VOLTAGE)

    @property
    def stigmator(self) -> tuple[float, float]:
        """Correction (x, y) in µm of half the distance between the line foci.

        Raises
        ------
        OutOfRangeError, InvalidParameterError
            When set to what the stigmator cannot do; nothing has changed.
        """
        with self._use():
            return self._get(Parameter.STIGMATOR_X), self._get(Parameter.STIGMATOR_Y)

    @stigmator.setter
    def stigmator(self, value: tuple[float, float]) -> None:
        with self._operate():
            x, y = two_of(f"{self._name}: stigmator", value, "µm")
            x, y = self._check(Parameter.STIGMATOR_X, x), self._check(Parameter.STIGMATOR_Y, y)
            applied = self._request(SetStigmator(x, y))
            self._check_applied(
                f"setting the stigmator to ({x:g}, {y:g}) µm",
                {Parameter.STIGMATOR_X: x, Parameter.STIGMATOR_Y: y},
                {"x": applied.x, "y": applied.y, "settling": applied.settling, "time": applied.time},
            )
            self._took_effect(applied.time)

    @property
    def brightness(self) -> float:
        """Offset of the detector, 0 to 1. Raises as `working_distance` does."""
        return float(self._read("brightness"))

    @brightness.setter
    def brightness(self, value: float) -> None:
        self._write("brightness", value)

    @property
    def contrast(self) -> float:
        """Gain of the detector, 0 to 1. Raises as `working_distance` does."""
        return float(self._read("contrast"))

    @contrast.setter
    def contrast(self, value: float) -> None:
        self._write("contrast", value)

    @property
    def beam_on(self) -> bool:
        """Whether electrons reach the sample; switching it on returns once the beam is stable.

        Raises
        ------
        InterlockError
            When the beam is switched on without a vacuum, or with the door open.
        """
        with self._use():
            return self._request(GetStatus()).beam_on

    @beam_on.setter
    def beam_on(self, value: bool) -> None:
        if not switch(f"{self._name}: beam_on", value):  # the beam goes off at once, also in the middle of a frame
            with self._use():
                self._switch(False)
            return
        with self._operate():
            self._switch(True)
            self._unattended = ""

    def _switch(self, on: bool) -> None:
        answer = self._request(SetBeam(on))
        if answer.on is not on:
            raise self._lie(f"switching the beam {'on' if on else 'off'}", "on", answer.on)
        self._took_effect(answer.time)

    @property
    def vacuum(self) -> str:
        """``"vented"``, ``"pumping"``, ``"ready"`` or ``"venting"``."""
        with self._use():
            return self._request(GetStatus()).vacuum.name.lower()

    def pump(self) -> None:
        """Evacuate the chamber; returns when the vacuum is ready. Raises `InterlockError` with the door open."""
        with self._operate():
            self._took_effect(self._request(Pump()).time)

    def vent(self) -> None:
        """Let air in; returns when the chamber is vented. Raises `InterlockError` while the beam is on."""
        with self._operate():
            self._took_effect(self._request(Vent()).time)

    @property
    def frames_lost(self) -> int:
        """Frames known to have been lost or damaged on the image link since it was opened."""
        with self._use():
            return self._images.frames_lost

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self._name} (serial number {self._capabilities.serial}, {state})>"

    @contextmanager
    def _use(self) -> Iterator[None]:
        """Count a call of the script, for `beam_off_after`; the microscope must be open."""
        ident = self._begin()
        try:
            yield
        finally:
            self._end(ident)

    def _begin(self) -> int:
        self._check_open()
        ident = threading.get_ident()
        self._calls[ident] = self._calls.get(ident, 0) + 1
        return ident

    def _end(self, ident: int) -> None:
        object.__setattr__(self, "_last_call", time.monotonic())  # on every call: nothing to check
        left = self._calls[ident] = self._calls[ident] - 1
        if not left:
            del self._calls[ident]
            if self._closer == ident:
                self._shut()

    @contextmanager
    def _operate(self) -> Iterator[None]:
        """Do one thing at a time: a command waits for the frame under way."""
        with self._use(), self._lock:
            self._check_open()
            yield

    def _request(self, message: Request[R]) -> R:
        """Send a request; over a new connection, or with the lease asked for again, where either was lost before."""
        link = self._control
        if link.lost or (link.lease_lost and isinstance(message, Command)):
            self._regain(link)
        return self._control.request(message)

    def _regain(self, lost: ControlLink) -> None:
        """Take control again, within seconds; raises what was lost, or that another client has taken over."""
        with self._regaining:
            if self._control is not lost:
                return
            if not lost.lost:
                hello = lost.greet()
            elif self._open_transport is None:
                return
            else:
                hello = self._reconnect(lost, self._open_transport)
            self._effective, self._epoch = hello.time, time.time() - hello.time
            _log.warning(
                "%s: control was lost and is back; the instrument may have stopped the scan and blanked the beam",
                self._name,
            )

    def _reconnect(self, lost: ControlLink, open_transport: Callable[[], Transport]) -> HelloReply:
        end = time.monotonic() + (0.0 if self._gave_up else self._waiting_times.reconnect)
        while True:
            try:
                link = ControlLink(
                    open_transport(),
                    client_name=self._client,
                    name=self._name,
                    token=lost.token,
                    waiting=self._waiting_times,
                    secret=self._secret,
                )
                break
            except (NotConnectedError, TransportError) as error:
                if time.monotonic() >= end or self._ended.wait(_RECONNECT_PAUSE):
                    self._gave_up = True
                    raise TransportError(
                        f"{self._name}: the control link was lost, and not opened again: {error}"
                    ) from error
        if link.hello.serial != self._capabilities.serial:
            link.close()
            raise ProtocolError(
                f"{self._name}: after a lost link another instrument answers there, with serial number "
                f"{link.hello.serial}, not {self._capabilities.serial}; connect again"
            )
        self._gave_up = False
        self._control = link
        lost.close()
        with suppress(DeviceError):
            link.subscribe(self._heard)
        return link.hello

    def _watch(self, seconds: float) -> None:
        """Body of the thread that blanks the beam when the script makes no call for so long."""
        done = self._last_call
        while not self._ended.wait(min(seconds / 4, _WATCH)):
            last = self._last_call
            if self._calls or last == done or time.monotonic() - last < seconds:
                continue
            done = last
            self._unattended = f"it was switched off after {seconds:g} s without a call of the script (beam_off_after)"
            _log.warning("%s: no call for %g s; the scan is stopped and the beam switched off", self._name, seconds)
            try:
                self._halt(keep_beam=False)
            except SemDriversError:
                _log.exception("%s: the beam could not be switched off", self._name)

    def _lie(self, request: str, field: str, value: object) -> ProtocolError:
        return ProtocolError(f"{self._name} answered {request} with {field} {value}; check its firmware")

    def _plausible(
        self, request: str, field: str, value: float, asked: float | None = None, step: float = 0.0
    ) -> float:
        """Return a value of an answer, or raise `ProtocolError` where it is not finite or not what was asked for."""
        near = asked is None or abs(value - asked) <= max(1.001 * step, 1e-6 * abs(asked))
        if not (math.isfinite(value) and near):
            raise self._lie(request, field, value)
        return value

    def _check_applied(self, name: str, asked: Mapping[Parameter, float], applied: Mapping[str, float]) -> None:
        """Compare an answer to a command with the command; `applied` has a value each, then settling and time."""
        values = list(applied.items())
        for (parameter, wanted), (field, value) in zip(asked.items(), values, strict=False):
            self._plausible(name, field, value, wanted, self._limits_of(parameter).step)
        for field, value in values[len(asked) :]:
            self._plausible(name, field, value)

    def _read(self, name: str) -> Any:
        return self._get(_PARAMETERS[name])

    def _write(self, name: str, value: Any) -> None:
        parameter = _PARAMETERS[name]
        with self._operate():
            asked = self._check(parameter, value)
            applied = self._request(SetParameter(parameter, asked))
            name = f"setting {parameter.name.lower()} to {asked:g}"
            if applied.parameter is not parameter:
                raise self._lie(name, "parameter", applied.parameter.name.lower())
            self._check_applied(
                name, {parameter: asked}, {"value": applied.value, "settling": applied.settling, "time": applied.time}
            )
            self._took_effect(applied.time)

    def _get(self, parameter: Parameter) -> float:
        ident = self._begin()
        try:
            self._limits_of(parameter)
            answer = self._request(_QUESTIONS[parameter])
        finally:
            self._end(ident)
        return self._value_of(answer, parameter)

    def _value_of(self, answer: ParameterValue, parameter: Parameter) -> float:
        """Return the value that an instrument answered to the question for a parameter."""
        name = _NAMES[parameter]
        if answer.parameter is not parameter:
            raise self._lie(f"reading {name}", "parameter", _NAMES[answer.parameter])
        return self._plausible(f"reading {name}", "value", answer.value)

    def _check(self, parameter: Parameter, value: object) -> float:
        limits = self._limits_of(parameter)
        return limits.check(f"{self._name}: {parameter.name.lower()}", value, _UNITS.get(parameter, ""))

    def _limits_of(self, parameter: Parameter) -> Range:
        name = _NAMES[parameter]
        if name not in self._limits:
            raise InvalidParameterError(f"{self._name} has no {name.replace('_', ' ')}")
        return self._limits[name]

    def _took_effect(self, instant: float) -> None:
        self._effective = max(self._effective, instant)

    def _heard(self, event: Event) -> None:
        """Remember that a frame will not come; called by the link's thread."""
        if isinstance(event, FrameDropped):
            self._dropped = event.frame_id
        elif isinstance(event, InterlockTripped) and event.reasons & Reason.STOPPED:
            frame = self._frame
            if frame is not None:
                frame.end(StoppedError(f"{self._name}: {event.text}"))
                frame.halted.set()
        elif isinstance(event, BeamChanged) and not event.on:
            self._blanked = True

    def _lost(self, order: FrameOrder) -> str:
        if self._dropped >= order.first_frame:
            return f"the instrument reports frame {self._dropped} dropped"
        return "the beam went off during the scan" if self._blanked else ""

    def _scans(self, order: FrameOrder) -> bool:
        """Whether the instrument still scans a frame that is late; an emulated one draws slowly on a busy computer."""
        try:
            status = self._control.request(GetStatus(), deadline=_STOP)
        except SemDriversError:
            return False
        return status.scanning and status.next_frame <= order.first_frame

    def _order(self, mode: ScanMode, frame: _FrameUnderWay) -> FrameOrder:
        frame.check()
        self._blanked = False
        try:
            started = self._request(StartScan(mode.width, mode.height, self._bits, 1))
        except InterlockError as error:
            if self._unattended:
                raise InterlockError(f"{error}; {self._unattended}") from error
            raise
        name = f"a scan of {mode.width}x{mode.height} pixels"
        if not 0.0 <= started.frame_time <= _LONGEST_FRAME:
            raise self._lie(name, "frame_time", started.frame_time)
        not_before = max(self._plausible(name, "time", started.time), self._effective)
        if self._records_settings(mode):
            self._ask_for_settings(frame)
        payload = mode.width * mode.height * self._bits // 8
        return FrameOrder(started.first_frame, not_before, mode.width, mode.height, started.frame_time, payload)

    def _ask_for_settings(self, frame: _FrameUnderWay) -> None:
        """Ask for the settings that are recorded with a frame, so that they come while it is scanned."""
        if frame.settings is not None:
            frame.settings.close()
        try:
            frame.settings = self._control.ask([_QUESTIONS[parameter] for parameter in self._recorded])
        except SemDriversError as error:
            _log.info("%s: no settings for the record of a frame: %s", self._name, error)

    def _image(self, frame: Frame, settings: dict[str, float], mode: ScanMode) -> Image:
        leader = frame.leader
        depth = "<u2" if leader.pixel_format is PixelFormat.MONO16 else "u1"
        identity = {"model": self._capabilities.model, "serial": self._capabilities.serial}
        return Image(
            pixels=np.frombuffer(frame.payload, depth).reshape(leader.height, leader.width),
            working_distance=leader.working_distance,
            magnification=leader.magnification,
            pixel_size=leader.pixel_size,
            frame_id=leader.frame_id,
            timestamp=self._epoch + leader.start_time,
            scan_mode=mode,
            metadata={**identity, **self._frame_metadata(leader.working_distance, mode, settings)},
        )


def _absent(hello: HelloReply) -> set[str]:
    """Return the members of `EM30` that take a parameter which the instrument does not report."""
    reported = {capability.name for capability in hello.capabilities}
    return {member for member, needed in _NEEDS.items() if not reported.issuperset(needed)}


def connect(url: str, options: Mapping[str, Any]) -> EM30:
    """Open the EM-30 at a URL.

    Parameters
    ----------
    url : str
        ``em30://HOST[:PORT][?usb=…]`` or ``em30+serial:///dev/ttyUSB0[?baudrate=…]``.
    options : mapping
        ``usb``, ``bits``, ``keep_beam``, ``beam_off_after``, ``client``, ``baudrate``, ``token``, ``tls``, as in the
        URL; ``on_close``, a callable for the end of `EM30.close`; ``waiting``, the `WaitingTimes` of both links.

    Raises
    ------
    InvalidParameterError
        When the URL or an option is malformed; before any I/O.
    NotConnectedError
        When a link could not be opened; both are tried, and the message reports each.
    BusyError
        When another client controls the instrument.
    ProtocolError
        When what answers does not speak this protocol.
    """
    address = parse_address(url, options)
    on_close = options.get("on_close")
    if on_close is not None and not callable(on_close):
        raise InvalidParameterError(f"{url}: on_close must be callable, not {on_close!r}")
    waiting = options.get("waiting", WaitingTimes())
    if not isinstance(waiting, WaitingTimes):
        raise InvalidParameterError(f"{url}: waiting must be a semdrivers.em30.WaitingTimes, not {waiting!r}")
    tls = address.context()
    target = parse_target(address.usb, address.token, tls)
    where = address.host or address.device
    name = f"EM-30 at {where}"
    failures: dict[str, str | Exception] = {}
    control: ControlLink | None = None
    images: ImageLink | None = None
    try:
        try:
            control = ControlLink(
                _open_transport(address, tls),
                client_name=address.client,
                name=name,
                waiting=waiting,
                secret=address.token,
            )
        except NotConnectedError as error:
            failures["control"] = error
        try:
            serial = None if control is None else control.hello.serial
            images = ImageLink(target, name, serial=serial, waiting=waiting)
        except NotConnectedError as error:
            failures["images"] = error
        if control is None or images is None:
            raise NotConnectedError(f"could not connect to the {name}", failures)
        return EM30._lacking(_absent(control.hello))(
            control,
            images,
            name=name,
            bits=address.bits,
            keep_beam=address.keep_beam,
            on_close=on_close,
            beam_off_after=address.beam_off_after,
            client=address.client,
            open_transport=lambda: _open_transport(address, tls),
            waiting=waiting,
            secret=address.token,
        )
    except BaseException:
        if images is not None:
            images.close()
        if control is not None:
            control.close()
        raise


def stop(url: str, options: Mapping[str, Any]) -> None:
    """Stop the scan and blank the beam of the EM-30 at a URL, whoever controls it. Images are not opened.

    Parameters
    ----------
    url : str
        As for `connect`.
    options : mapping
        The same.

    Raises
    ------
    InvalidParameterError
        When the URL or an option is malformed; before any I/O.
    NotConnectedError, TransportError
        When nothing answers: switch the beam off at the instrument.
    HardwareFault
        When the instrument reports the beam on in spite of it.
    """
    address = parse_address(url, options)
    where = address.host or address.device
    send_emergency_stop(_open_transport(address, address.context()), client=address.client, name=f"EM-30 at {where}")


def _open_transport(address: Address, tls: SSLContext | None) -> Transport:
    if address.host:
        return open_tcp(address.host, address.port, tls=tls)
    return open_serial(address.device, address.baudrate)
