"""`on_one_thread`: a microscope whose driver may be called from one thread alone, for programs of several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress
from typing import Any, TypeVar

from semdrivers.base import WrappedMicroscope, ends_with_fork
from semdrivers.errors import InvalidParameterError, NotConnectedError, SemDriversError
from semdrivers.microscope import HasStop, missing_members

__all__ = ["on_one_thread"]

_T = TypeVar("_T")
_LOOK = 0.1
"""Seconds between two looks for Ctrl-C: some systems interrupt no wait without an end."""


def on_one_thread(microscope: Any) -> Any:
    """Return a microscope that does everything on one thread of its own.

    For a driver that is bound to the thread that made it, as those over COM are, and for one that is not thread safe.
    The wrapper may be called from any thread; calls wait for each other. What a call raises is raised where it was
    made. A ``cancel`` and a ``progress`` of autofocus work as ever. Ctrl-C is raised at once, and ends a frame under
    way where the microscope is a `HasStop`; any other call ends before the next one begins.

    Parameters
    ----------
    microscope : callable or Microscope
        A function without arguments that makes the microscope, called on the thread: what a driver that is bound to
        its thread needs. Or a microscope that is not.

    Returns
    -------
    Microscope
        With the members that the other has. `close` closes it, on its thread, and ends the thread.

    Raises
    ------
    InvalidParameterError
        When it is neither, or the function returns something else.
    Exception
        Whatever the function raises.

    Examples
    --------
    >>> microscope = on_one_thread(lambda: semdrivers.connect("emulator://tin-balls"))
    """
    makes_one = isinstance(microscope, type) or bool(missing_members(microscope))
    if makes_one and not callable(microscope):
        raise InvalidParameterError(
            f"on_one_thread takes a microscope or a function that makes one, not a {type(microscope).__name__}"
        )
    thread = _Thread()

    def make() -> _OnOneThread:
        made = microscope() if makes_one else microscope
        missing = missing_members(made)
        if missing:
            raise InvalidParameterError(f"{type(made).__name__} is no Microscope: it lacks {', '.join(missing)}")
        return _OnOneThread(made, thread)

    try:
        return thread.do(make)
    except BaseException:
        thread.end()
        raise


class _Thread:
    """A thread that does one thing after another."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "microscope")
        self.is_busy = False
        self._ident = self._executor.submit(threading.get_ident).result()

    def do(self, work: Callable[[], _T]) -> _T:
        """Do it there, and return or raise what it does; on the thread itself, at once."""
        if threading.get_ident() == self._ident:
            return work()
        future: Future[_T] = self._executor.submit(self._busy_with, work)
        while True:
            try:
                return future.result(_LOOK)
            except NotYet:
                if future.done():  # the work itself raised it
                    return future.result()

    def _busy_with(self, work: Callable[[], _T]) -> _T:
        self.is_busy = True
        try:
            return work()
        finally:
            self.is_busy = False

    def end(self) -> None:
        """End the thread once its work is done."""
        self._executor.shutdown(wait=threading.get_ident() != self._ident)


class _OnOneThread(WrappedMicroscope):
    def __init__(self, microscope: Any, thread: _Thread) -> None:
        self._thread, self._closed = thread, False
        super().__init__(microscope)
        ends_with_fork(self)

    def close(self) -> None:
        """Close the microscope on its thread, and end the thread. A second call does nothing.

        A frame under way is ended, where the microscope is a `HasStop`; any other call ends first.
        """
        if self._closed:
            return
        try:
            self._end_frame()
            self._call("close")
        finally:
            self._closed = True
            self._thread.end()

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnectedError("the microscope is closed, and its thread has ended; make it again")

    def _do(self, work: Callable[[], _T]) -> _T:
        self._check_open()
        try:
            return self._thread.do(work)
        except Exception:
            raise
        except BaseException:  # Ctrl-C, or another signal
            self._end_frame()
            raise

    def _end_frame(self) -> None:
        """End the frame under way, where the microscope can."""
        if self._thread.is_busy and isinstance(self._microscope, HasStop):
            with suppress(SemDriversError):
                self._stop(keep_beam=True)

    def _read(self, name: str) -> Any:
        return self._do(lambda: getattr(self._microscope, name))

    def _write(self, name: str, value: Any) -> None:
        self._do(lambda: setattr(self._microscope, name, value))

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._do(lambda: getattr(self._microscope, name)(*arguments))

    def __getattr__(self, name: str) -> Any:
        """Return a member that is the driver's own; a method of it is done on the thread too."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        value = self._read(name)
        if not callable(value):
            return value
        return lambda *arguments, **options: self._do(lambda: value(*arguments, **options))

    def __repr__(self) -> str:
        return f"<{type(self._microscope).__name__} on one thread>"
