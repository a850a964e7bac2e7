"""`Emulator`: specimen, column, instrument and wires put together; what tests and evaluations start."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.messages import Parameter
from firmware_protocol.profile import EM30, InstrumentProfile, ScanModeProfile
from semdrivers import links as usb_backends
from semdrivers.connection import checked_token
from semdrivers.data_bar import BarRows, bar_rows_of, checked_bar_rows, without_bar
from semdrivers.emulator.instrument import Instrument
from semdrivers.emulator.physics import ColumnPreset, ElectronColumn, ScanConditions, Truth, discharged, preset_with
from semdrivers.emulator.specimens import PERIODIC, SPECIMENS, Picture, Specimen, make_specimen
from semdrivers.emulator.wires import (
    ControlServer,
    EmulatedBus,
    Faults,
    FaultyStream,
    Occasion,
    SessionLog,
    UsbBridgeServer,
    UsbDevice,
)
from semdrivers.errors import InvalidParameterError, NotConnectedError, OutOfRangeError
from semdrivers.links import PipeBackend, server_context
from semdrivers.microscope import Range, number
from semdrivers.sessions import free_folder

_NEAREST, _FURTHEST = 5.0, 30.0  # Depths of field between the start and best focus, unless the start is given
_KNOB = 0.1  # mm by which the operator turns the working distance under the fault `knob-turned`
_count = itertools.count(1)


class Emulator:
    """An EM-30 in this process, behind a TCP socket, of the loopback address by default, and an emulated USB device.

    Use it in a ``with`` statement, or call `start` and `close`. Arguments are checked before anything is started.

    Parameters
    ----------
    specimen : str, Path, ndarray of shape (H, W), or Specimen
        Name of a specimen (built in, or from a plugin), a picture, as a file or as grey levels, or an object that
        renders.
    magnification : float
        At start.
    seed : int
        Random seed; fixes the specimen, the column and the start; the same seed gives the same bytes.
    preset : str
        How awkward the column is: ``"ideal"``, ``"typical"`` or ``"hostile"``.
    working_distance : float, optional
        At start, mm; by default 5 to 30 depths of field from best focus, by seed.
    pixel_size : float, optional
        Pixel size of a picture, nm.
    bar_rows : int or (int, int), optional
        Rows of a data bar at the bottom of a picture file, below 0 at the top, or at both, which are no sample; by
        default known from the file, or detected. Of an array none is cut by default.
    period : float, optional
        Period of a periodic specimen (grating, mesh, dot-array, brick-wall, chip), µm; drawn by seed by default.
    rasters : str
        Frame sizes that the scan generator offers beside the profile's: ``"512x442,1024x884"``.
    realtime : bool
        Whether scans, moves and settling take real time.
    control_port : int
        TCP port of the control channel; 0 for any that is free.
    usb_port : int, optional
        TCP port on which the USB pipe is lent to another process; 0 for any that is free, None for no such port.
    serial : bool
        Whether the control channel is offered on a pseudo-terminal as well (not on Windows).
    faults : str
        What goes wrong, by name, and by probability or index: ``"usb-drop:0.01,control-reset@5"``.
    save_session : str or Path, optional
        A new or empty folder, to which every message and every frame is written; ``replay:///folder`` opens it.
    profile : InstrumentProfile
        The instrument's numbers.
    token : str, optional
        What clients must prove to know, observers and the USB bridge's included; 16 characters at least.
    certificate, key : str or Path, optional
        PEM files for TLS on both ports; without `key` it is in the file of the certificate.
    expose : bool
        Whether other computers have access too; needs a token.
    **strengths : float or bool
        Fields of `ColumnPreset`, in place of the preset's: ``banding=0.1, auto_brightness=True``.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For an unknown specimen, preset, strength or fault, a frame size that is none, a picture without pixel size, a
        number that the instrument cannot take, or a folder of a session that is in use.
    """

    def __init__(
        self,
        specimen: str | Path | NDArray[Any] | Specimen = "tin-balls",
        *,
        magnification: float = 5000.0,
        seed: int = 0,
        preset: str | ColumnPreset = "typical",
        working_distance: float | None = None,
        pixel_size: float | None = None,
        bar_rows: BarRows | None = None,
        period: float | None = None,
        rasters: str = "",
        realtime: bool = False,
        control_port: int = 0,
        usb_port: int | None = None,
        serial: bool = False,
        faults: str = "",
        save_session: str | Path | None = None,
        profile: InstrumentProfile = EM30,
        token: str | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        expose: bool = False,
        **strengths: float | bool,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise InvalidParameterError(f"seed must be a whole number from 0, not {seed!r}")
        for name, port in (("control_port", control_port), ("usb_port", usb_port)):
            if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536):
                raise InvalidParameterError(f"{name} must be a TCP port, not {port!r}")
        if expose and token is None:
            raise InvalidParameterError("expose needs a token, which every client must prove to know")
        if key is not None and certificate is None:
            raise InvalidParameterError("key belongs to a certificate; pass certificate too")
        self._protection: dict[str, Any] = {
            "host": "0.0.0.0" if expose else "127.0.0.1",
            "secret": None if token is None else checked_token(token),
            "tls": None if certificate is None else server_context(certificate, key),
        }
        self.specimen = specimen if isinstance(specimen, str) else getattr(specimen, "name", "image")
        self.seed = int(seed)
        self.faults = Faults(faults, self.seed)
        profile = _with_rasters(profile, rasters)
        preset = preset_with(preset, strengths)
        limits = Range(profile.magnification_minimum, profile.magnification_maximum)
        magnification = limits.check("magnification", magnification)
        self.column = ElectronColumn(
            specimen_of(specimen, self.seed, pixel_size, bar_rows, period),
            seed=self.seed,
            preset=preset,
            profile=profile,
        )
        if working_distance is None:
            working_distance = start_of(self.column, magnification, self.seed, profile)
        self.instrument = Instrument(
            self.column,
            profile=profile,
            seed=self.seed,
            working_distance=working_distance,
            magnification=magnification,
            realtime=realtime,
            lens_hysteresis=profile.lens_hysteresis * self.column.preset.lens_hysteresis,
            stigmator_hysteresis=self.column.preset.stigmator_hysteresis,
            meanwhile=lambda instrument, pixels: _disturb(instrument, self.faults, pixels),
        )
        self._folder = None if save_session is None else free_folder(save_session)
        self._log: SessionLog | None = None
        self._control_port, self._serial = control_port, serial
        self._server: ControlServer | None = None
        self._usb_port = usb_port
        self._key = f"{os.getpid()}-{next(_count)}"
        self._device: UsbDevice | None = None
        self._bus: EmulatedBus | None = None
        self._bridge: UsbBridgeServer | None = None
        self._bridge_port = 0
        self._closed = False

    # Life

    def start(self) -> Self:
        """Open the wires.

        Raises
        ------
        NotConnectedError
            When the emulator has been closed, or a port is taken.
        InvalidParameterError, OSError
            When the folder of a session is in use by now, or cannot be written.
        """
        if self._closed:
            raise NotConnectedError("this emulator has been closed; make a new one")
        if self._device is not None:
            return self
        if self._folder is not None:
            self._log = SessionLog(self._folder, self.instrument)
        self._server = ControlServer(
            self.instrument,
            port=self._control_port,
            serial=self._serial,
            faults=self.faults,
            witness=self._log,
            **self._protection,
        )
        self._device = UsbDevice(
            self.instrument, serial=self.instrument.serial, encode=lambda frame: stream.encode(frame)
        )
        self._bus = EmulatedBus(self._device)
        scanned = None if self._log is None else self._log.scanned
        stream = FaultyStream(self.faults, self._bus, self.instrument.report_dropped, scanned)
        try:
            self._server.start()
            if self._usb_port is not None:
                self._bridge = UsbBridgeServer(self._bus, port=self._usb_port, **self._protection)
                self._bridge_port = self._bridge.start()
        except OSError as error:
            self.close()
            if self._log is not None:
                self._log.discard()
            raise NotConnectedError(f"the emulator could not listen: {error}") from error
        usb_backends.register(self._key, PipeBackend(self._bus))
        return self

    def close(self) -> None:
        """Close the wires and end the threads. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        usb_backends.unregister(self._key)
        self.instrument.close()
        if self._bridge is not None:
            self._bridge.close()
        if self._device is not None:
            self._device.close()
        if self._server is not None:
            self._server.close()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._device is not None else "not started"
        return f"<Emulator {self.specimen}, seed {self.seed}, {state}>"

    # Ways in

    @property
    def url(self) -> str:
        """URL for `semdrivers.connect` in this process."""
        return f"em30://127.0.0.1:{self._running().port}?usb=emulated:{self._key}"

    @property
    def remote_url(self) -> str:
        """URL for `semdrivers.connect` in another process on this computer; needs `usb_port`."""
        return f"em30://127.0.0.1:{self._running().port}?usb={self._remote_usb()}"

    @property
    def serial_url(self) -> str:
        """URL with control over the pseudo-terminal; needs `serial`. Images come over the bridge if there is one."""
        device = self._running().device
        if device is None:
            raise InvalidParameterError("this emulator has no serial line; make it with serial=True")
        usb = self._remote_usb() if self._bridge is not None else f"emulated:{self._key}"
        return f"em30+serial://{device}?usb={usb}"

    @property
    def usb(self) -> EmulatedBus:
        """The emulated bus, to pull the cable and plug it in again."""
        self._running()
        assert self._bus is not None
        return self._bus

    def _remote_usb(self) -> str:
        self._running()
        if self._bridge is None:
            raise InvalidParameterError("this emulator lends its USB to no other process; make it with usb_port=0")
        return f"tcp://127.0.0.1:{self._bridge_port}"

    def _running(self) -> ControlServer:
        if self._closed or self._server is None:
            raise NotConnectedError("the emulator is not running; use it in a with statement, or call start()")
        return self._server

    # What is true

    @property
    def truth(self) -> Truth:
        """The ideal at the present stage position, magnification and working distance."""
        return self.column.truth(self.instrument.conditions())


def _with_rasters(profile: InstrumentProfile, rasters: str) -> InstrumentProfile:
    """Return the profile with further frame sizes, each scanned with the dwell time of the second mode."""
    modes = list(profile.scan_modes)
    for text in rasters.split(",") if rasters else ():
        width, _, height = text.strip().partition("x")
        if not (width.isdecimal() and height.isdecimal() and all(16 <= int(n) <= 4096 for n in (width, height))):
            raise InvalidParameterError(
                f"rasters: {text!r} is no frame size; write 1024x884, with 16 to 4096 pixels each way"
            )
        if profile.scan_mode(int(width), int(height)) is None:
            modes.append(ScanModeProfile(f"{width}x{height}", int(width), int(height), modes[1].dwell_time))
    return replace(profile, scan_modes=tuple(modes))


def specimen_of(
    specimen: object, seed: int, pixel_size: float | None, bar_rows: BarRows | None = None, period: float | None = None
) -> Specimen:
    """Return the specimen of a name, a picture or an array; arguments as in `Emulator`."""
    picture: NDArray[Any] | None = None
    if period is not None:
        if not (isinstance(specimen, str) and specimen in PERIODIC):
            raise InvalidParameterError(f"period belongs to a periodic specimen: {', '.join(PERIODIC)}")
        return PERIODIC[specimen](seed, period)
    if not isinstance(specimen, str | Path | np.ndarray) and callable(getattr(specimen, "render", None)):
        return cast(Specimen, specimen)
    if isinstance(specimen, np.ndarray):
        picture = specimen
        bar_rows = 0 if bar_rows is None else bar_rows
    elif isinstance(specimen, Path) or (isinstance(specimen, str) and _is_file_name(specimen)):
        from semdrivers.image import read_image

        image = read_image(specimen)
        picture = image.pixels
        bar_rows = bar_rows_of(picture, image.metadata, bar_rows)
        pixel_size = image.pixel_size if pixel_size is None and 0 < image.pixel_size < math.inf else pixel_size
    elif not isinstance(specimen, str):
        raise InvalidParameterError(
            f"specimen must be a name, the path of a picture, or a 2-D array, not {type(specimen).__name__}"
        )
    if picture is None:
        for name, value in (("pixel_size", pixel_size), ("bar_rows", bar_rows)):
            if value is not None:
                raise InvalidParameterError(f"{name} belongs to a picture; the specimen {specimen!r} is none")
        return _named(str(specimen), seed)
    bar_rows = checked_bar_rows("bar_rows", bar_rows)
    if picture.ndim == 2:
        picture = without_bar(picture, bar_rows)
    if pixel_size is None:
        raise InvalidParameterError("a picture as specimen needs its pixel_size in nm, such as pixel_size=26.9")
    if number("pixel_size", pixel_size, "nm") <= 0:
        raise OutOfRangeError(f"pixel_size must be above 0 nm, not {pixel_size:g} nm")
    return Picture(picture, float(pixel_size))


def _is_file_name(text: str) -> bool:
    return text not in SPECIMENS and (bool(Path(text).suffix) or Path(text).is_file() or "/" in text or os.sep in text)


def _named(name: str, seed: int) -> Specimen:
    if name in SPECIMENS:
        return make_specimen(name, seed)
    from semdrivers.plugins import get_plugin_manager

    return make_specimen(name, seed, {**SPECIMENS, **get_plugin_manager().specimens()})


def start_of(column: ElectronColumn, magnification: float, seed: int, profile: InstrumentProfile) -> float:
    """A working distance that is clearly out of focus, on either side, within the range."""
    truth = column.truth(
        ScanConditions(
            working_distance=15.0,
            magnification=magnification,
            width=320,
            height=240,
            accelerating_voltage=profile.accelerating_voltage,
            beam_current=profile.beam_current,
        )
    )
    random = np.random.default_rng([seed, 3])
    offset = random.uniform(_NEAREST, _FURTHEST) * truth.depth_of_field
    offset = math.copysign(offset, random.random() - 0.5)
    low, high = profile.lowest_working_distance(profile.stage_height), profile.working_distance_maximum
    if not low <= truth.working_distance + offset <= high:
        offset = -offset
    start = min(max(truth.working_distance + offset, low), high)
    return round(start / profile.working_distance_step) * profile.working_distance_step


def _disturb(instrument: Instrument, faults: Faults, pixels: NDArray[Any]) -> NDArray[Any]:
    """Carry out the faults that are due while a frame is scanned, and return its pixels."""
    for name in faults.at(Occasion.SCAN):
        match name:
            case "knob-turned":
                _, high = instrument.limits(Parameter.WORKING_DISTANCE)
                now = instrument.value(Parameter.WORKING_DISTANCE)
                instrument.set_parameter(
                    Parameter.WORKING_DISTANCE, now + _KNOB if now + _KNOB <= high else now - _KNOB
                )
            case "beam-blanked":
                instrument.set_beam(False)
            case "filament-dies":
                instrument.break_filament()
            case "charging-streaks":
                pixels = discharged(pixels, np.random.default_rng(faults.place(2**32)))
    return pixels
