"""Focus in a plain script, by a context or a decorator.

::

    from semdrivers.hosts import focused

    with focused(microscope, every=10, on_failure="skip") as held:
        for x, y in places:
            held.move_stage(x, y)
            image = held.acquire()
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from semdrivers.autofocus import autofocus
from semdrivers.base import WrappedMicroscope
from semdrivers.focus import AutofocusResult, FrameSkippedError
from semdrivers.hosts._cadence import FIRST, FocusKeeper, FocusPolicy
from semdrivers.image import Image, ScanMode
from semdrivers.microscope import Microscope

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


class FocusedMicroscope(WrappedMicroscope):
    """A microscope whose frames are focused by a `FocusKeeper`; every other member is the microscope's own."""

    keeper: FocusKeeper

    def __new__(cls, keeper: FocusKeeper) -> Self:
        """Make a class that has the members that the microscope has."""
        return super().__new__(cls, keeper.microscope)

    def __init__(self, keeper: FocusKeeper) -> None:
        super().__init__(keeper.microscope)
        self.keeper = keeper

    def acquire(self, mode: ScanMode = ScanMode.FAST) -> Image:
        """Focus if due, and take a frame; raises `FrameSkippedError` or `NotFocusedError` where there is none."""
        return self.keeper.acquire(mode)

    def picture(self, mode: ScanMode = ScanMode.FAST) -> Image | None:
        """Focus if due, and take a frame; None, with the reason in the log, where one is left out for want of focus."""
        try:
            return self.keeper.acquire(mode)
        except FrameSkippedError as error:
            _log.warning("no picture: %s", error)
            return None

    def autofocus(self, **settings: Any) -> AutofocusResult:
        """Focus now, on the microscope itself."""
        return autofocus(self._microscope, **settings)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._microscope, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = name.startswith("_") or name == "keeper" or isinstance(getattr(type(self), name, None), property)
        if own:
            super().__setattr__(name, value)
        else:
            setattr(self._microscope, name, value)

    def __repr__(self) -> str:
        return f"<{self._microscope!r} kept in focus>"


class focused:
    """Keep a microscope in focus: in a ``with`` statement, or around a function that takes a frame.

    As a context it yields a `FocusedMicroscope`: take frames through that one. As a decorator it focuses before a
    call, if due, and counts the call as one frame; a call that must be skipped returns None.

    Parameters
    ----------
    microscope : Microscope
        Any.
    policy, cancel, progress, **overrides
        As for `FocusKeeper`.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        For values that make no sense, before any I/O.
    BusyError
        On entering the ``with`` block, when another keeper or an autofocus run holds the instrument.
    """

    def __init__(self, microscope: Microscope, policy: FocusPolicy | None = None, **options: Any) -> None:
        self.keeper = FocusKeeper(microscope, policy, **options)
        self._holds: list[AbstractContextManager[None]] = []

    def __enter__(self) -> FocusedMicroscope:
        hold = self.keeper.hold()
        hold.__enter__()
        self._holds.append(hold)
        self.keeper.restart()
        return FocusedMicroscope(self.keeper)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holds.pop().__exit__(kind, error, trace)
        if kind is None and self.keeper.due() == FIRST and not self.keeper.cancel.is_set():
            warnings.warn(
                "nothing was focused: take frames through the microscope that focused() yields "
                "(with focused(microscope) as held: held.acquire())",
                RuntimeWarning,
                stacklevel=2,
            )

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R | None]:
        """Return `function` with focusing before each call, where due."""

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
            try:
                self.keeper.before_frame()
            except FrameSkippedError as error:
                _log.warning("%s", error)
                return None
            answer = function(*args, **kwargs)
            if isinstance(answer, Image):
                return self.keeper.after_frame(answer)  # type: ignore[return-value]
            self.keeper.count()
            return answer

        return call
