"""`Desk`: one instrument, one client that controls it, and any number that watch."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import semdrivers
from semdrivers import AutofocusResult, AutofocusSettings, Capabilities, FocusStep, Image, ScanMode
from semdrivers.base import WrappedMicroscope
from semdrivers.errors import (
    BusyError,
    InvalidParameterError,
    NotConnectedError,
    SemDriversError,
    TransportError,
    translated,
)
from semdrivers.files import Entry, Picture, plain, report_page
from semdrivers.microscope import HasStop
from semfocus_plugin.calibration import default_travel
from semfocus_plugin.networks import Evaluation, evaluate
from semfocus_plugin.run import electrons_on_pixel
from semfocus_plugin.server._events import Events
from semfocus_plugin.server._labels import LabelSheet
from semfocus_plugin.server._metrics import Metrics
from semfocus_plugin.server._tiles import WatchedTiles

LEASE = 30.0
"""Seconds of silence after which another client may take control, by default."""
PLACE = "working_distance", "magnification", "stigmator"
"""Members whose last reading every client is shown; a stigmator where the instrument offers one, once it was read."""
_KEPT_FRAMES, _KEPT_RUNS = 16, 50
_EMULATOR = "emulator"
_WAIT = 120.0
"""Seconds that an operation waits for the one before it."""

_log = logging.getLogger("semfocus_plugin.server")


class NoControlError(BusyError):
    """The request needs the lease of the instrument, and another client has it, or nobody."""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """A frame under its number."""

    number: int
    image: Image

    def to_dict(self) -> dict[str, Any]:
        """Return all but the pixels."""
        about = {field.name: getattr(self.image, field.name) for field in dataclasses.fields(Image)}
        height, width = about.pop("pixels").shape
        about["scan_mode"] = None if self.image.scan_mode is None else str(self.image.scan_mode)
        values: dict[str, Any] = plain({"number": self.number, "width": width, "height": height, **about})
        return values


class Run:
    """An autofocus run, under way or over."""

    def __init__(self, number: int, client: str, settings: AutofocusSettings) -> None:
        self.number, self.client, self.settings = number, client, settings
        self.began = time.time()
        self.cancel = threading.Event()
        self.steps: list[FocusStep] = []
        self.frames: list[Frame] = []
        self.before: Frame | None = None
        self.after: Frame | None = None
        self.result: AutofocusResult | None = None
        self.error: Exception | None = None
        self.ended = False
        self.changed = threading.Condition()

    def to_dict(self, after: int = 0) -> dict[str, Any]:
        """Return where it stands, with the steps from number `after` on."""
        with self.changed:
            error = self.error
            return {
                "number": self.number,
                "client": self.client,
                "began": self.began,
                "settings": plain({**dataclasses.asdict(self.settings), "scan_mode": str(self.settings.scan_mode)}),
                "steps": [{"frame": step.frame, **plain(step)} for step in self.steps[after:]],
                "ended": self.ended,
                "result": None if self.result is None else self.result.to_dict(),
                "error": None if error is None else problem(error),
            }

    def wait(self, after: int, seconds: float) -> None:
        """Wait until there are more than `after` steps, or it has ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or len(self.steps) > after, seconds)


def problem(error: BaseException) -> dict[str, str]:
    """Return an error for a program: the name of its class, and what it says."""
    text = "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
    name = type(error).__name__
    return {"error": "BusyError" if isinstance(error, NoControlError) else name, "message": text}


class _Watched(WrappedMicroscope):
    """A microscope whose frames, places and failures are reported to the desk."""

    def __init__(self, microscope: Any, desk: Desk) -> None:
        self._desk = desk
        super().__init__(microscope)

    def _read(self, name: str) -> Any:
        with self._desk.noticing(name):
            value = super()._read(name)
        if name in PLACE:
            self._desk.place = {**self._desk.place, name: plain(value)}
        return value

    def _write(self, name: str, value: Any) -> None:
        with self._desk.noticing(name):
            super()._write(name, value)

    def _call(self, name: str, *arguments: Any) -> Any:
        began = time.perf_counter()
        with self._desk.noticing(name):
            answer = super()._call(name, *arguments)
        if name == "acquire":
            self._desk.saw(answer, time.perf_counter() - began)
        return answer


class Desk:
    """One instrument, shared.

    Parameters
    ----------
    url : str
        As `semdrivers.connect` takes it.
    lease : float
        Seconds of silence after which another client may take control.
    tiles : Path, optional
        Folder of a `semfocus tile` to show besides.
    labels : Path, optional
        Sheet of `semfocus label` to label pictures in besides.

    Raises
    ------
    SemDriversError
        When it cannot be connected to, or the sheet cannot be read.
    """

    def __init__(self, url: str, lease: float = LEASE, tiles: Path | None = None, labels: Path | None = None) -> None:
        self.url = url
        self.tiles = None if tiles is None else WatchedTiles(tiles)
        self.labels = None if labels is None else LabelSheet(labels)
        self._silence = lease
        self.events, self.metrics = Events(), Metrics()
        self.place: dict[str, Any] = {}
        self.problem: str | None = None
        self._failed = ""
        self.runs: deque[Run] = deque(maxlen=_KEPT_RUNS)
        self.frames: deque[Frame] = deque(maxlen=_KEPT_FRAMES)
        self._run: Run | None = None
        self._run_count = self._frame_count = 0
        self._looked: tuple[int, Evaluation | None] = (0, None)
        self._operation = threading.Lock()
        self._lease_lock = threading.Lock()
        self._lease, self._client, self._seen, self._in_flight = "", "", 0.0, 0
        self._thread: threading.Thread | None = None
        self._open(url)

    def _open(self, url: str) -> None:
        microscope = _Watched(semdrivers.on_one_thread(lambda: semdrivers.connect(url)), self)
        self.microscope: Any = microscope
        self.url, self.problem, self.place = url, None, {}
        self.capabilities = self.microscope.capabilities
        for name in ("working_distance", "magnification"):
            getattr(self.microscope, name)

    # What everybody may see

    def status(self) -> dict[str, Any]:
        """Return the whole state; the instrument is asked nothing."""
        run = self.run
        return {
            "version": semdrivers.__version__,
            "address": self.url.partition("?")[0],
            "capabilities": plain(self.capabilities),
            "offers": list(self.microscope.offers),
            **self.place,
            "problem": self.problem,
            "control": self.control(),
            "emulator": self.emulator(),
            "tiles": self.tiles is not None,
            "labels": self.labels is not None,
            "methods": semdrivers.get_plugin_manager().autofocus_methods(),
            "frame": self.frames[-1].to_dict() if self.frames else None,
            "run": None if run is None else run.to_dict(),
            "runs": [self.summary(each) for each in list(self.runs) if each.ended],
        }

    def emulator(self) -> dict[str, Any] | None:
        """Return what an emulator offers to put under its beam; None for an instrument."""
        scheme, _, rest = self.url.partition("://")
        if scheme != _EMULATOR:
            return None
        specimens = sorted(semdrivers.get_plugin_manager().specimens())
        given = {name: values[-1] for name, values in parse_qs(rest.partition("?")[2]).items()}
        shown = {name: given.get(name, default) for name, default in (("seed", "0"), ("faults", ""))}
        return {"specimen": rest.partition("?")[0], "specimens": specimens, **shown}

    @property
    def run(self) -> Run | None:
        """The run under way, or the last one."""
        return self._run

    def summary(self, run: Run) -> dict[str, Any]:
        """Return how a run ended, in short."""
        record = None if run.result is None else run.result.to_record()
        return {"number": run.number, "client": run.client, "began": run.began, "result": record} | {
            "error": None if run.error is None else problem(run.error)
        }

    def find_run(self, number: int) -> Run:
        """Return a run by its number; raises KeyError when it is not kept."""
        return {run.number: run for run in list(self.runs)}[number]

    def find_frame(self, number: int) -> Frame:
        """Return a frame by its number; raises KeyError when it is not kept."""
        kept = [*self.frames, *(frame for run in list(self.runs) for frame in (run.before, run.after) if frame)]
        return {frame.number: frame for frame in kept}[number]

    def control(self) -> dict[str, Any]:
        """Return who controls the instrument, and whether another client may take over without force."""
        with self._lease_lock:
            return {"client": self._client or None, "free": self._is_free()}

    # Who controls

    def take(self, client: str, force: bool = False) -> str:
        """Return a lease of the instrument.

        Raises
        ------
        BusyError
            When another client has it, unless `force`.
        """
        with self._lease_lock:
            if not (force or self._is_free()):
                raise BusyError(
                    f"{self._client} controls the instrument; wait until it has been silent for {self._silence:g} s, "
                    "or take over by force"
                )
            self._lease, self._client, self._seen = secrets.token_urlsafe(16), client, time.monotonic()
            self._in_flight = 0
            lease = self._lease
        _log.info("%s controls the instrument", client)
        self.events.publish("control", self.control())
        return lease

    def release(self, lease: str) -> None:
        """Give up a lease; one that is no longer valid is passed over."""
        with self._lease_lock:
            if not lease or lease != self._lease:
                return
            self._lease = self._client = ""
        self.events.publish("control", self.control())

    @contextmanager
    def controlled(self, lease: str) -> Iterator[str]:
        """Keep a lease alive inside the block; yields the client.

        Raises
        ------
        NoControlError
            When it is not, or no longer, the lease of the instrument.
        """
        with self._lease_lock:
            if not lease or lease != self._lease:
                who = f"{self._client} controls the instrument" if self._client else "nobody controls the instrument"
                raise NoControlError(f"this request needs control, and {who}; take control first")
            self._in_flight += 1
            client = self._client
        try:
            yield client
        finally:
            with self._lease_lock:
                if lease == self._lease:
                    self._in_flight -= 1
                    self._seen = time.monotonic()

    def _is_free(self) -> bool:
        run = self._run
        busy = self._in_flight > 0 or (run is not None and not run.ended and run.client == self._client)
        return not self._lease or (not busy and time.monotonic() - self._seen > self._silence)

    # What the client in control may do

    @contextmanager
    def operating(self) -> Iterator[Any]:
        """Have the instrument for one operation; yields the microscope.

        Raises
        ------
        BusyError
            When a run is under way, or has begun while this was waiting.
        """
        count = self._run_count
        self._check_idle(count)
        if not self._operation.acquire(timeout=_WAIT):
            raise BusyError(f"another operation has been under way for {_WAIT:g} s; stop it, or wait")
        try:
            self._check_idle(count)
            yield self.microscope
        finally:
            self._operation.release()

    def _check_idle(self, count: int) -> None:
        run = self._run
        if run is not None and (not run.ended or count != self._run_count):
            raise BusyError(f"an autofocus run of {run.client} is under way; wait for its end, or cancel it")

    def acquire(self, mode: ScanMode | None) -> Frame:
        """Scan a frame in `mode`, or the fastest."""
        with self.operating() as microscope:
            microscope.acquire(self.mode_of(None) if mode is None else mode)
            return self.frames[-1]

    def mode_of(self, name: str | None) -> ScanMode:
        """Return the scan mode of a name, or of its text; the fastest by default.

        Raises
        ------
        InvalidParameterError
            When the instrument has none of that name.
        """
        modes = self.capabilities.scan_modes
        for mode in modes:
            if name in (None, mode.name, str(mode)):
                return mode
        parsed = ScanMode.parse(name or "")
        if parsed is None:
            raise InvalidParameterError(
                f"there is no scan mode {name!r}; the instrument has {', '.join(each.name for each in modes)}"
            )
        return parsed

    def focus(self, client: str, settings: AutofocusSettings, *, travel_given: bool) -> Run:
        """Begin an autofocus run.

        Parameters
        ----------
        client : str
            Who asks.
        settings : AutofocusSettings
            How to focus.
        travel_given : bool
            Whether its ``max_travel`` counts; else it is that of ``semfocus run``.

        Raises
        ------
        SemDriversError
            When another run is under way, or there is no such method.
        """
        if settings.method is not None:
            semdrivers.get_plugin_manager().check_autofocus_method(settings.method)
        with self.operating() as microscope:
            if not travel_given:
                settings = dataclasses.replace(settings, max_travel=default_travel(microscope))
            self._run_count += 1
            run = self._run = Run(self._run_count, client, settings)
            self.runs.append(run)
        self.events.publish("run", run.to_dict())
        self._thread = threading.Thread(target=self._focus, args=(run,), name="autofocus run")
        self._thread.start()
        return run

    def _focus(self, run: Run) -> None:
        def progress(step: FocusStep) -> None:
            with run.changed:
                run.steps.append(step)
                run.changed.notify_all()
            self.events.publish("step", {"run": run.number, "frame": step.frame, **plain(step)})

        try:
            with self._operation:
                result = semdrivers.autofocus(
                    self.microscope, settings=run.settings, progress=progress, cancel=run.cancel
                )
        except Exception as error:
            _log.warning("the run failed: %s", error)
            self._end(run, None, error)
        else:
            self._end(run, result, None)

    def _end(self, run: Run, result: AutofocusResult | None, error: Exception | None) -> None:
        if result is not None and run.frames:
            place = result.working_distance
            run.before = run.frames[0]
            run.after = min(reversed(run.frames), key=lambda frame: abs(frame.image.working_distance - place))
        self.metrics.run_ended("failed" if result is None else result.status, 0.0 if result is None else result.elapsed)
        with run.changed:
            run.frames.clear()
            run.result, run.error, run.ended = result, error, True
            run.changed.notify_all()
        self.events.publish("ended", {**run.to_dict(), **self.place})

    def cancel(self, number: int) -> None:
        """Cancel a run; one that is over stays as it is. Raises KeyError when it is not kept."""
        self.find_run(number).cancel.set()

    def stop(self, keep_beam: bool) -> None:
        """End the scan and the run; blank the beam unless `keep_beam`. For everybody, at any time.

        Raises
        ------
        InvalidParameterError
            When the instrument cannot be stopped in a frame; the run ends after it.
        """
        run = self._run
        if run is not None:
            run.cancel.set()
        self.events.publish("stopped", {"keep_beam": keep_beam})
        if not isinstance(self.microscope, HasStop):
            raise InvalidParameterError(
                "the driver of this instrument cannot stop it in the middle of a frame; the run ends after the frame"
            )
        self.microscope.stop(keep_beam)

    def reconnect(self) -> None:
        """Close the link to the instrument and open it again."""
        with self.operating() as microscope:
            self._close(microscope)
            try:
                self._open(self.url)
            except SemDriversError as error:
                self.problem = str(error)
                raise
            finally:
                self.events.publish("status", self.status())

    def emulate(self, specimen: str, seed: int, magnification: float | None, faults: str) -> None:
        """Open another emulator in the place of this one.

        Raises
        ------
        InvalidParameterError
            When the instrument is no emulator, or there is no such specimen or fault; all stays as it is.
        """
        offered = self.emulator()
        if offered is None or specimen not in offered["specimens"]:
            raise InvalidParameterError(
                f"specimen {specimen!r} cannot be put under the beam; "
                + ("this is no emulator" if offered is None else f"there are {', '.join(offered['specimens'])}")
            )
        factor = self.place["magnification"] if magnification is None else magnification
        with self.operating() as microscope:
            self._open(f"{_EMULATOR}://{specimen}?seed={seed}&magnification={factor:g}&faults={quote(faults)}")
            self._close(microscope)
            self.events.publish("status", self.status())

    def look(self, number: int) -> Evaluation | None:
        """Return what the network says of a frame that is kept; None where it cannot look at it."""
        frame, (known, seen) = self.find_frame(number), self._looked
        if known != number:
            try:
                seen = evaluate(frame.image, magnification=frame.image.magnification)
            except SemDriversError:
                seen = None
            self._looked = number, seen
        return seen

    def report(self, number: int) -> str:
        """Return the report of a run that has a result, as HTML; raises KeyError where there is none."""
        run = self.find_run(number)
        if run.result is None:
            raise KeyError(number)
        entry = Entry(f"Run {number}", run.result.to_dict(), _picture(run.before), _picture(run.after))
        return report_page([entry], f"Autofocus, run {number}")

    def _close(self, microscope: Any) -> None:
        try:
            microscope.close()
        except SemDriversError as error:
            _log.warning("the link did not close: %s", error)

    def close(self) -> None:
        """Cancel a run and wait until all is put back, then close the microscope and end all streams."""
        if self._run is not None:
            self._run.cancel.set()
        if self._thread is not None:
            self._thread.join()
        self.events.close()
        self.microscope.close()

    # What the microscope reports

    @contextmanager
    def noticing(self, member: str) -> Iterator[None]:
        """Notice a lost link, and one that is back.

        A frame comes by a link of its own on some instruments: that the lens still moves says nothing of it.
        """
        try:
            with translated(f"{self.url.partition('?')[0]}: {member}"):
                yield
        except (TransportError, NotConnectedError) as error:
            if self.problem is None:
                self.problem, self._failed = str(error), member
                self.events.publish("lost", {"problem": self.problem})
            raise
        if self.problem is not None and member in ("acquire", self._failed):
            self.problem = None
            self.events.publish("found", {})

    def saw(self, image: Image, seconds: float) -> None:
        """Keep a frame."""
        self._frame_count += 1
        frame = Frame(self._frame_count, image)
        self.frames.append(frame)
        run = self._run
        if run is not None and not run.ended:
            run.frames.append(frame)
        shown = {"working_distance": float(image.working_distance), "magnification": float(image.magnification)}
        self.place = {**self.place, **shown}
        self.metrics.frame_scanned(seconds, _dose(self.capabilities, image))
        self.events.publish("frame", {**frame.to_dict(), **self.place})


def _picture(frame: Frame | None) -> Picture | None:
    if frame is None:
        return None
    return Picture(frame.image.pixels, float(frame.image.working_distance), float(frame.image.pixel_size))


def _dose(capabilities: Capabilities, image: Image) -> float | None:
    """Return the electrons per µm² of a frame, where the instrument reports what it takes."""
    electrons = None if image.scan_mode is None else electrons_on_pixel(capabilities, image.scan_mode)
    return electrons / (image.pixel_size * 1e-3) ** 2 if electrons is not None and image.pixel_size > 0 else None
