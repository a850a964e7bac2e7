"""Every exception that the package raises on purpose, in one tree.

::

    SemDriversError
    ├── InvalidParameterError   (ValueError, TypeError)
    ├── ExistingFileError       (FileExistsError)
    ├── NotConnectedError       (ConnectionError)
    ├── TransportError          (OSError)
    ├── ProtocolError
    ├── DeviceError
    │   ├── BusyError
    │   ├── InterlockError
    │   ├── OutOfRangeError     (ValueError)
    │   ├── HardwareFault
    │   └── StoppedError
    └── AutofocusError
        ├── ModelError
        ├── NotFocusedError
        └── FrameSkippedError
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = [
    "AutofocusError", "BusyError", "DeviceError", "ExistingFileError", "HardwareFault", "InterlockError",
    "InvalidParameterError", "ModelError", "NotConnectedError", "OutOfRangeError", "ProtocolError", "SemDriversError",
    "StoppedError", "TransportError", "error_named", "installation", "translated",
]  # fmt: skip


class SemDriversError(Exception):
    """Root of all: catch this to catch everything the package raises on purpose."""


class InvalidParameterError(SemDriversError, ValueError, TypeError):
    """A value of the wrong kind: a string for a number, an unknown name, a malformed URL.

    Raised before any I/O by whatever received the value. Correct the call; the instrument was not touched.
    """


class ExistingFileError(SemDriversError, FileExistsError):
    """A file of that name exists already, and nothing was written: a file is never replaced unless that is configured.

    Raised by everything that writes files, before the instrument moves where the name is known by then. Pass another
    name, or ``overwrite=True``; the command lines have ``--overwrite``.

    Parameters
    ----------
    path : str or Path
        The file that is there.
    """

    def __init__(self, path: object) -> None:
        super().__init__(path)
        self.path = str(path)

    def __str__(self) -> str:
        return (
            f"{self.path} exists already and is kept: use another name, or replace it with overwrite=True "
            "(on the command line --overwrite)"
        )


class NotConnectedError(SemDriversError, ConnectionError):
    """No link to the instrument could be opened, or it has been closed.

    Raised by `semdrivers.connect` and by a microscope used after `close()`. Mend what the message names
    (cable, address, power, driver) and connect again.

    Parameters
    ----------
    message : str
        What was to be connected.
    failures : mapping of str to (str or Exception), optional
        What was tried, and why each part failed; printed as a tree. A `NotConnectedError` among the values
        becomes a branch.
    """

    def __init__(self, message: str, failures: Mapping[str, str | Exception] | None = None) -> None:
        self.failures: dict[str, str | Exception] = dict(failures or {})
        self._message = message
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self._message, self.failures))

    def __str__(self) -> str:
        return "\n".join([self._message, *self._tree()])

    def _tree(self, indent: str = "  ") -> list[str]:
        lines = []
        for part, why in self.failures.items():
            if isinstance(why, NotConnectedError):
                lines.append(f"{indent}{part}: {why._message}")
                lines.extend(why._tree(indent + "  "))
            else:
                lines.append(f"{indent}{part}: {why}")
        return lines


class TransportError(SemDriversError, OSError):
    """A link failed while in use: a deadline was missed, the socket or the USB device went away.

    Raised by the links after their own recovery has been exhausted. The instrument keeps its last settings;
    reconnect and read them back.
    """


class ProtocolError(SemDriversError):
    """The other side sent bytes that the protocol does not allow, or speaks another version of it.

    Raised by the links. Check that the address is that of an instrument, and the versions of both sides.
    """


class DeviceError(SemDriversError):
    """The instrument understood a request and declined it; the subclasses say why."""


class BusyError(DeviceError):
    """The instrument, or this microscope object, is occupied by another operation.

    Raised when a subsystem is moving or scanning, when another client controls the instrument, and when two
    autofocus runs meet on one microscope. Wait for the named operation to end and call again.
    """


class InterlockError(DeviceError):
    """A safety interlock of the instrument forbids the request (vacuum, door, beam, collision envelope).

    Raised by the driver with the instrument's reasons. Clear the reasons; retrying alone does not help.
    """


class OutOfRangeError(DeviceError, ValueError):
    """A number outside the limits of the instrument or of the caller's own bounds, or not finite.

    Raised before any I/O where the limit is known, else on the instrument's answer. Nothing has moved.
    """


class HardwareFault(DeviceError):
    """The instrument reports a defect of its own (filament, lens supply, detector, stage).

    Raised by the driver. It needs a person at the instrument.
    """


class StoppedError(DeviceError):
    """A frame was ended on purpose before it was complete: by `HasStop.stop`, or by another client's stop.

    Raised by `Microscope.acquire`. The instrument is sound; the message says who stopped it. Unless the beam was kept,
    it is off: find out why before switching it on.
    """


class AutofocusError(SemDriversError):
    """Autofocus could not be carried out at all; distinct from a run that ends in ``"refused"``.

    Raised when no installed plugin offers the method, or a plugin broke its contract. Working distance and
    magnification are back where they were.
    """


class ModelError(AutofocusError):
    """A network file is missing, altered (wrong SHA-256) or of another shape than its manifest says.

    Raised when a model is loaded, before the instrument is touched. Reinstall the package, or name a good file.
    """


def error_named(name: str, message: str) -> Exception:
    """Return an exception by the name of its class and its message, as records and other programs pass it on.

    Parameters
    ----------
    name : str
        Of a class here, or of a built-in exception; anything else becomes a `SemDriversError` that mentions it.
    message : str
        What it says.
    """
    kind = globals().get(name, getattr(builtins, name, None))
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return SemDriversError(f"{name}: {message}")
    try:
        return kind(message)
    except TypeError:
        return SemDriversError(f"{name}: {message}")


def installation(extra: str) -> str:
    """Return what to type for an extra of the package, for the message of an error: the package is on no index."""
    return f"pip install '.[{extra}]' in the folder of the semdrivers repository"


@contextmanager
def translated(what: str, kind: type[SemDriversError] = DeviceError) -> Iterator[None]:
    """Turn whatever somebody else's library raises into an error of this package; those of this package pass.

    Parameters
    ----------
    what : str
        Instrument and what is done, for the message.
    kind : type of SemDriversError
        The error.
    """
    try:
        yield
    except SemDriversError:
        raise
    except Exception as error:
        raise kind(f"{what}: {type(error).__name__}: {error}") from error
