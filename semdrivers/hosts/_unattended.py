"""A night without anybody: connect again, switch the beam on again, keep in focus."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from semdrivers.base import WrappedMicroscope
from semdrivers.connection import connect
from semdrivers.errors import InterlockError, InvalidParameterError, NotConnectedError, SemDriversError, TransportError
from semdrivers.focus import Progress
from semdrivers.hosts._cadence import FocusKeeper, FocusPolicy
from semdrivers.hosts._scripts import FocusedMicroscope
from semdrivers.microscope import number, put_back, whole_number

_log = logging.getLogger(__name__)


@contextmanager
def unattended(
    microscope: str | Callable[[], Any],
    policy: FocusPolicy | None = None,
    *,
    may_switch_beam: bool = False,
    tries: int = 5,
    pause: float = 10.0,
    cancel: threading.Event | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Iterator[FocusedMicroscope]:
    """Open a microscope for a night: kept in focus, connected again when the link is lost, closed at the end.

    After a lost link the settings made through it (magnification and working distance in any case) are put back where
    they read otherwise, and the call that failed is made again. A frame without trustworthy focus is left out.

    Parameters
    ----------
    microscope : str or callable
        An address for `semdrivers.connect`; or a function without arguments that opens the microscope.
    policy : FocusPolicy, optional
        When to focus and what to do without; ``on_failure="skip"`` by default.
    may_switch_beam : bool
        Whether the beam may be switched: on before a frame that finds it off, and off at the end, an exception
        included. A beam that the script itself switched off stays off. Without, the beam is left alone.
    tries : int
        How often to connect or to switch the beam on, in all, before a frame succeeds.
    pause : float
        Before each try, s.
    cancel, progress
        As for `FocusKeeper`.
    **overrides
        Single fields of `FocusPolicy` or `AutofocusSettings`, such as ``every=10`` or ``max_travel=1.0``.

    Yields
    ------
    FocusedMicroscope
        Take pictures with `FocusedMicroscope.picture`.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For values that make no sense, before any I/O.
    NotConnectedError, TransportError, InterlockError
        When all tries failed, or the link cannot be opened in the first place.
    NotFocusedError
        On a cancel, and under ``"abort"``.
    """
    if not isinstance(microscope, str) and not callable(microscope):
        raise InvalidParameterError(
            f"unattended takes an address or a function that opens a microscope, not a {type(microscope).__name__}: "
            "it must be able to connect again"
        )
    whole_number("tries", tries, 0)
    if number("pause", pause, "s") < 0:
        raise InvalidParameterError(f"pause must be 0 s or more, not {pause:g} s")
    in_force = (policy if policy is not None else FocusPolicy(on_failure="skip")).changed(**overrides)
    opened = Unattended(
        (lambda: connect(microscope)) if isinstance(microscope, str) else microscope,
        may_switch_beam=may_switch_beam,
        tries=tries,
        pause=pause,
        cancel=cancel,
    )
    try:
        keeper = FocusKeeper(opened, in_force, cancel=cancel, progress=progress)
        with keeper.hold():
            yield FocusedMicroscope(keeper)
    finally:
        opened.end()


class Unattended(WrappedMicroscope):
    """A microscope that is opened again when its link is lost; `unattended` makes one."""

    def __new__(cls, make: Callable[[], Any], **options: Any) -> Unattended:
        """Open it, and have the members that it has."""
        microscope = make()
        wrapper = super().__new__(cls, microscope)
        wrapper._microscope = microscope
        return wrapper

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        may_switch_beam: bool,
        tries: int,
        pause: float,
        cancel: threading.Event | None,
    ) -> None:
        super().__init__(self._microscope)
        self._make, self._may_switch_beam, self._tries, self._pause = make, may_switch_beam, tries, pause
        self._cancel = cancel if cancel is not None else threading.Event()
        self._left, self._lock, self._ended, self._dark = tries, threading.RLock(), False, False
        self._settings: dict[str, Any] = {}
        for name in ("magnification", "working_distance"):
            self._settings[name] = self._read(name)

    def end(self) -> None:
        """Switch the beam off where that is allowed, and close. What fails then is logged."""
        self._ended = True
        try:
            if self._may_switch_beam and "beam_on" in self.offers:
                self._microscope.beam_on = False
                _log.info("the beam is off")
        except Exception:
            _log.exception("the beam could not be switched off")
        finally:
            self._microscope.close()

    def close(self) -> None:
        """Close the microscope; the beam as `unattended` has it."""
        self.end()

    def _read(self, name: str) -> Any:
        return self._again(lambda microscope: getattr(microscope, name))

    def _write(self, name: str, value: Any) -> None:
        self._again(lambda microscope: setattr(microscope, name, value))
        if name == "beam_on":
            self._dark = not value
        else:
            self._settings[name] = value

    def _call(self, name: str, *arguments: Any) -> Any:
        def work(microscope: Any) -> Any:
            if name == "acquire":
                self._light(microscope)
            return getattr(microscope, name)(*arguments)

        answer = self._again(work)
        if name == "acquire":
            self._left = self._tries
        return answer

    def _light(self, microscope: Any) -> None:
        """Switch the beam on before a frame, where it is off and that is allowed."""
        if not self._may_switch_beam or self._dark or "beam_on" not in self.offers or microscope.beam_on:
            return
        self._count_try(InterlockError(f"the beam is off, and went off again {self._tries} times; see the instrument"))
        _log.warning("the beam is off; switching it on")
        microscope.beam_on = True

    def _again(self, work: Callable[[Any], Any]) -> Any:
        with self._lock:
            while True:
                try:
                    return work(self._microscope)
                except (TransportError, NotConnectedError) as error:
                    if self._ended:
                        raise
                    self._reconnect(error)

    def _reconnect(self, lost: SemDriversError) -> None:
        """Open it again and put the settings back; raises what was lost once no tries are left."""
        while True:
            self._count_try(lost)
            _log.warning("%s; connecting again, %d tries left", lost, self._left)
            with suppress(Exception):
                self._microscope.close()
            self._wait(lost)
            try:
                self._microscope = self._make()
                for name, failure in put_back(self._microscope, self._settings).items():
                    _log.error("%s could not be put back: %s", name, failure)
                    raise failure
            except (TransportError, NotConnectedError) as error:
                lost = error
            else:
                _log.info("connected again")
                return

    def _count_try(self, otherwise: SemDriversError) -> None:
        if self._left <= 0:
            raise otherwise
        self._left -= 1

    def _wait(self, lost: SemDriversError) -> None:
        until = time.monotonic() + self._pause
        while time.monotonic() < until:
            if self._cancel.is_set():
                raise lost
            time.sleep(0.02)
