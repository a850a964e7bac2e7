"""One use of an instrument at a time, through whatever wrappers it is reached.

A claim is kept on the instrument itself: the microscope at the inner end of a chain of wrappers (a `Recorder`, a
`semdrivers.hosts.FocusedMicroscope`, a wrapper of your own). Two wrappers of one microscope therefore exclude each
other as two calls on the microscope itself do.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from semdrivers.errors import BusyError

__all__ = ["Claim", "check_free", "claimed", "innermost", "layers"]

_FIVE = ("capabilities", "working_distance", "magnification", "acquire", "close")
_CLAIMS = "_semdrivers_claims"
_ABSENT = object()
_DEEPEST = 8
_lock = threading.Lock()


class Claim:
    """What holds an instrument, and the threads that act for it.

    Parameters
    ----------
    what : str
        For messages: what is under way.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._threads = [threading.get_ident()]

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let the present thread act for the holder of the claim inside the block."""
        ident = threading.get_ident()
        self._threads.append(ident)
        try:
            yield
        finally:
            self._threads.remove(ident)

    def is_held_here(self) -> bool:
        """Whether the present thread acts for the holder."""
        return threading.get_ident() in self._threads


class _Claims:
    """The claims on one instrument: a run under way, and a keeper that holds it for many frames."""

    def __init__(self, instrument: object) -> None:
        self.instrument = instrument
        self.run: Claim | None = None
        self.keeper: Claim | None = None

    def check(self, *, as_keeper: bool) -> None:
        for claim, allowed in ((self.run, False), (self.keeper, not as_keeper)):
            if claim is not None and not (allowed and claim.is_held_here()):
                raise BusyError(
                    f"{claim.what} is under way on this {type(self.instrument).__name__}; wait for it or cancel it"
                )


_of_others: dict[int, _Claims] = {}
"""Claims on instruments that take no attribute, by identity; each entry keeps its instrument."""


def innermost(microscope: object) -> object:
    """Return the instrument behind a chain of wrappers, or the object itself when it wraps none.

    A wrapper is a `semdrivers.base.WrappedMicroscope`, an object with exactly one microscope among its attributes, or
    one whose attribute ``__wrapped__`` is what it wraps. Only classes and attributes are looked at; the instrument is
    asked nothing.

    Parameters
    ----------
    microscope : object
        A microscope, or a wrapper of one.

    Returns
    -------
    object
        The innermost.
    """
    return layers(microscope)[-1]


def layers(microscope: object) -> list[object]:
    """Return a microscope, what it wraps, and so on to the `innermost`; the instrument is asked nothing."""
    seen = [microscope]
    while True:
        inner = _wrapped(seen[-1])
        if inner is None or any(inner is one for one in seen):
            return seen
        seen.append(inner)


def check_free(microscope: object) -> None:
    """Raise when an autofocus run, or a keeper of another thread, holds the instrument.

    Raises
    ------
    BusyError
        Names what is under way.
    """
    with _lock:
        claims = _claims_on(microscope)
        try:
            claims.check(as_keeper=False)
        finally:
            _forget(claims)


@contextmanager
def claimed(microscope: object, what: str, *, as_keeper: bool = False) -> Iterator[Claim]:
    """Hold the instrument behind `microscope` inside the block.

    Parameters
    ----------
    microscope : object
        A microscope, or a wrapper of one.
    what : str
        For the message of those who come second, such as ``"an autofocus run"``.
    as_keeper : bool
        Whether the holder keeps the instrument for many frames. It excludes other keepers, and runs of other threads
        but those inside `Claim.here`.

    Yields
    ------
    Claim
        The claim.

    Raises
    ------
    BusyError
        When it is held already; the instrument is asked nothing.
    """
    name, claim = "keeper" if as_keeper else "run", Claim(what)
    with _lock:
        claims = _claims_on(microscope)
        try:
            claims.check(as_keeper=as_keeper)
            setattr(claims, name, claim)
        finally:
            _forget(claims)
    try:
        yield claim
    finally:
        with _lock:
            setattr(claims, name, None)
            _forget(claims)


def _forget(claims: _Claims) -> None:
    """Let go of an instrument that takes no attribute, once nothing holds it."""
    if claims.run is None and claims.keeper is None:
        _of_others.pop(id(claims.instrument), None)


def _claims_on(microscope: object) -> _Claims:
    """Return the claims of the instrument; a wrapper that passes on unknown attributes leads to them by itself."""
    instrument = innermost(microscope)
    for look, one in ((object.__getattribute__, instrument), (getattr, microscope)):
        with suppress(Exception):
            kept = look(one, _CLAIMS)
            if isinstance(kept, _Claims):
                return kept
    if id(instrument) in _of_others:
        return _of_others[id(instrument)]
    claims = _Claims(instrument)
    try:
        object.__setattr__(instrument, _CLAIMS, claims)
    except (AttributeError, TypeError):
        _of_others[id(instrument)] = claims
    return claims


def _wrapped(thing: object, depth: int = 0) -> object | None:
    if inspect.getattr_static(type(thing), "__wrapped__", _ABSENT) is not _ABSENT:
        return getattr(thing, "__wrapped__", None)
    if isinstance(name := inspect.getattr_static(type(thing), "_semdrivers_wraps", None), str):
        inner: object | None = inspect.getattr_static(thing, name, None)
        return inner
    inside: dict[int, object] = {id(value): value for value in _attributes(thing) if _is_microscope(value, depth)}
    return next(iter(inside.values())) if len(inside) == 1 else None


def _is_microscope(value: object, depth: int) -> bool:
    """Whether it has the five members, or passes attributes on to something that has them."""
    if all(inspect.getattr_static(value, name, _ABSENT) is not _ABSENT for name in _FIVE):
        return not isinstance(value, type)
    return depth < _DEEPEST and hasattr(type(value), "__getattr__") and _wrapped(value, depth + 1) is not None


def _attributes(thing: object) -> Iterator[Any]:
    """Yield the values of an object's own attributes and slots."""
    with suppress(AttributeError, TypeError):
        yield from list(object.__getattribute__(thing, "__dict__").values())
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            with suppress(AttributeError, TypeError):
                yield object.__getattribute__(thing, name)
