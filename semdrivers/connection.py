"""`connect`: from a URL to a microscope; and how every driver reads the options of its URLs."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import SplitResult, unquote

from semdrivers.errors import (
    ExistingFileError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    SemDriversError,
)
from semdrivers.focus import AutofocusResult
from semdrivers.instruments import Instrument, LimitedMicroscope, read_instruments
from semdrivers.microscope import (
    HasBeam,
    HasStop,
    Microscope,
    Range,
    blank_after,
    check_microscope,
    whole_number,
    within,
)

__all__ = [
    "LEAST_TOKEN", "TOKEN_VARIABLE", "OpenMicroscope", "checked_token", "connect", "flag_option", "host_and_port",
    "limits_option", "number_option", "opened", "read_token", "split_path_url", "split_url", "stop", "whole_option",
]  # fmt: skip

TOKEN_VARIABLE = "SEMFOCUS_TOKEN"
"""Environment variable with the token of an instrument or server, which is thus in no list of processes."""
LEAST_TOKEN = 16
"""Characters of the shortest token: who records a proof of one can try others at leisure."""

_log = logging.getLogger("semdrivers.connection")

_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")


class OpenMicroscope(Microscope, Protocol):
    """What `semdrivers.connect` returns: a `Microscope` with `autofocus`, for a ``with`` statement.

    A type checker thus detects a misspelt member. Drivers of this distribution have all of it; one of another may have
    the five members of `Microscope` alone, which `semdrivers.autofocus` and `contextlib.closing` take as well. What an
    instrument offers beyond it is found with ``isinstance``, which narrows the type too:
    ``if isinstance(microscope, HasStage): microscope.move_stage(1.0, 2.0)``.
    """

    def autofocus(self, **settings: Any) -> AutofocusResult:
        """Focus; the same as ``semdrivers.autofocus(microscope, **settings)``."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object, /) -> None: ...


def connect(url: str, **options: Any) -> OpenMicroscope:
    """Open the microscope that `url` names.

    Parameters
    ----------
    url : str
        ``em30://HOST[:PORT][?usb=VID:PID[:SERIAL]]``, ``em30+serial:///dev/ttyUSB0?baudrate=115200``,
        ``emulator://SPECIMEN[?seed=…&magnification=…]``, or a scheme that a plugin adds (``semdrivers
        plugins`` lists them). A name without ``://`` is that of an instrument in the user's settings, whose limits
        then hold (`semdrivers.instruments`).
    **options
        Handed to the driver; each stands above its namesake in the URL's query.

    Returns
    -------
    OpenMicroscope
        Usable in a ``with`` statement. What it offers beyond that depends on the instrument; ask with ``isinstance``
        and the protocols of `semdrivers.microscope`.

    Raises
    ------
    InvalidParameterError
        When the URL is malformed, or no plugin knows its scheme; before any I/O.
    NotConnectedError
        When a link could not be opened; the message is a tree of what was tried.
    SemDriversError
        Whatever else the driver raises while it connects.
    """
    named = _named(url)
    if named is not None:
        return LimitedMicroscope(connect(named.url, **options), named)
    scheme = _scheme(url)
    from semdrivers.plugins import get_plugin_manager, unknown

    plugins = get_plugin_manager()
    crashes: dict[str, str | Exception] = {}
    for plugin, answer in plugins.each("semdrivers_connect", url=url, options=options):
        if isinstance(answer, SemDriversError):
            raise answer
        if isinstance(answer, Exception):
            crashes[f"plugin {plugin}"] = f"{type(answer).__name__}: {answer}"
            continue
        try:
            check_microscope(answer)
        except InvalidParameterError as error:
            crashes[f"plugin {plugin}"] = f"what it returned, a {error}"
            continue
        microscope: OpenMicroscope = answer
        _log_connected(url, microscope)
        return microscope
    if crashes:
        raise NotConnectedError(f"could not open {url}", {**crashes, **plugins.failures})
    message = unknown("scheme", scheme, plugins.schemes(), nothing="no plugin offers any")
    raise InvalidParameterError(
        f"cannot open {url}: {message}" + "".join(f"\n  {name}: {why}" for name, why in plugins.failures.items())
    )


@contextmanager
def opened(url: str, *, prepare: Callable[[Any], object] | None = None, **options: Any) -> Iterator[Any]:
    """Connect for a block; a microscope of any make is closed after it.

    A block that raises leaves no beam on for nobody: the microscope is stopped first, where it is a `HasStop`; the beam
    of another is switched off, where it is a `HasBeam`.

    Parameters
    ----------
    url, **options
        As for `connect`; raises the same.
    prepare : callable, optional
        What is done with the microscope first, such as setting a magnification that a user named. Where a value is
        refused nothing was scanned, and the beam stays as it is: whoever works there keeps it.

    Yields
    ------
    Microscope
        Open.
    """
    microscope = connect(url, **options)
    prepared = False
    try:
        if prepare is not None:
            prepare(microscope)
        prepared = True
        yield microscope
    except BaseException as error:
        refused = not prepared and isinstance(error, InvalidParameterError | OutOfRangeError | ExistingFileError)
        if not refused:
            blank_after(error, microscope)
        raise
    finally:
        microscope.close()


def stop(url: str, *, client: str | None = None, **options: Any) -> None:
    """Stop the scan and blank the beam of the microscope that `url` names, also one that another program controls.

    The other program's frame raises `StoppedError`, and it cannot switch the beam on again before it connects anew.

    Parameters
    ----------
    url : str
        As for `connect`; an EM-30 answers beside the client in control. An instrument without such a way is connected
        to, and stopped as its controlling client; where it cannot be stopped, its beam is switched off.
    client : str, optional
        Who stops, for the other program, where the instrument can pass that on.
    **options
        As for `connect`.

    Raises
    ------
    InvalidParameterError
        When the URL is malformed, or its microscope cannot be stopped.
    SemDriversError
        When the instrument was not reached, or is not stopped: switch the beam off by hand.
    """
    kept = _named(url)
    url = url if kept is None else kept.url
    _scheme(url)
    from semdrivers.plugins import get_plugin_manager

    named = options if client is None else {**options, "client": client}
    for _, answer in get_plugin_manager().each("semdrivers_stop", url=url, options=named):
        if isinstance(answer, Exception):
            raise answer
        return
    microscope = connect(url, **options)
    with closing(microscope):
        if isinstance(microscope, HasStop):
            microscope.stop()
        elif isinstance(microscope, HasBeam):
            microscope.beam_on = False
        else:
            raise InvalidParameterError(f"{url}: its driver cannot stop the instrument; stop it by hand")


def _named(url: object) -> Instrument | None:
    """Return the instrument that is kept under a name, or None."""
    return read_instruments().get(url) if isinstance(url, str) and _SCHEME.match(url) is None else None


def _scheme(url: object) -> str:
    """Return the scheme of an address, in lower case.

    Raises
    ------
    InvalidParameterError
        When it is no address of a microscope.
    """
    if not isinstance(url, str):
        raise InvalidParameterError(f"a microscope's address must be a string, not {url!r}")
    match = _SCHEME.match(url)
    if match is None:
        raise InvalidParameterError(
            f"{url!r} is no address of a microscope; it must look like em30://192.168.1.30 or emulator://tin-balls, "
            "or be a name that `semdrivers instrument add` keeps"
        )
    if _CONTROL.search(url):
        raise InvalidParameterError(f"{url!r} holds a space or a control character; write a space as %20")
    return match[1].lower()


def _log_connected(url: str, microscope: Microscope) -> None:
    """Log what was connected, which must not cost a question to the instrument nor an error."""
    if not _log.isEnabledFor(logging.INFO):
        return
    try:
        about = microscope.capabilities
        name = " ".join(filter(None, (about.model, about.serial, about.firmware))) or type(microscope).__name__
    except Exception as error:
        name = f"{type(microscope).__name__}, whose capabilities cannot be read: {error}"
    _log.info("connected to %s: %s", url, name)


def split_url(
    url: str, options: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], whose: str
) -> tuple[SplitResult, dict[str, Any]]:
    """Return the parts of a URL, and its options; an option stands above its namesake in the URL's query.

    Parameters
    ----------
    url : str
        As `connect` takes it.
    options : mapping
        Of `connect`; those that begin with ``on_`` are for programs, and are in no message.
    known : collection of str
        Names of the options that there are.
    whose : str
        For messages, such as ``"an emulator"``.

    Raises
    ------
    InvalidParameterError
        When the URL is malformed, or an option is unknown.
    """
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    host, slash, path = place.partition("/")
    parts = SplitResult(scheme.lower(), host, slash + path, query, "")
    given: dict[str, Any] = {**_query(url, query), **options}
    for name in given:
        if name not in known:
            offer = ", ".join(name for name in known if not name.startswith("on_")) or "none"
            raise InvalidParameterError(f"{url}: there is no option {name!r}; {whose} takes {offer}")
    return parts, given


def host_and_port(url: str, parts: SplitResult, write: str, default: int) -> tuple[str, int]:
    """Return the host and the port that a URL names, and nothing else beside its options.

    Parameters
    ----------
    url, parts
        As `split_url` takes and returns them.
    write : str
        How such a URL is written, for messages.
    default : int
        Port of a URL without one.

    Raises
    ------
    InvalidParameterError
        When it names no host, no port from 1 to 65535, or a path or a user.
    """
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidParameterError(f"{url}: {error}; write {write}") from None
    if not parts.hostname:
        raise InvalidParameterError(f"{url} names no host; write {write}")
    if parts.path not in ("", "/") or parts.username is not None or port == 0:
        raise InvalidParameterError(f"{url}: write {write}")
    return parts.hostname, port or default


def split_path_url(
    url: str, options: Mapping[str, Any], known: tuple[str, ...], whose: str, what: str
) -> tuple[Path, dict[str, Any]]:
    """Return the path and the options of a URL such as ``replay:///home/ada/session``.

    Parameters
    ----------
    url, options, known, whose
        As for `split_url`; raises the same.
    what : str
        What is at the path, for messages, such as ``"a folder"``.
    """
    parts, given = split_url(url, options, known, whose)
    text = unquote(parts.netloc + parts.path)
    if text[2:3] == ":" and text[:1] == "/":
        text = text[1:]
    if not text:
        raise InvalidParameterError(f"{url} names no {what}; write {parts.scheme}:///path/to/{what.replace(' ', '-')}")
    return Path(text), given


def _query(url: str, query: str) -> dict[str, str]:
    """Return the options of a query, percent-encoding resolved.

    Only ``&`` and ``=`` divide, so that ``#``, ``+`` and ``;`` of file names may stand for themselves.
    """
    given = {}
    for field in query.split("&") if query else ():
        name, equals, value = field.partition("=")
        if not equals:
            raise InvalidParameterError(f"{url}: bad query field: {field!r}; write name=value, and & in a value as %26")
        given[unquote(name)] = unquote(value)
    return given


def read_token(path: Path | None) -> str | None:
    """Return the first line of a file, without a file what `TOKEN_VARIABLE` holds, or None.

    Raises
    ------
    InvalidParameterError
        When the file cannot be read, or its first line is empty.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameterError(f"--token-file {path}: cannot be read ({error})") from error
    if not lines or not lines[0].strip():
        raise InvalidParameterError(f"--token-file {path}: its first line is empty; write the token there")
    return lines[0].strip()


def checked_token(token: object) -> str:
    """Return the token of an instrument or server that is to ask for it.

    Raises
    ------
    InvalidParameterError
        When it is no text of `LEAST_TOKEN` printable ASCII characters at least.
    """
    if not isinstance(token, str) or len(token) < LEAST_TOKEN or not (token.isascii() and token.isprintable()):
        raise InvalidParameterError(f"token must have at least {LEAST_TOKEN} printable ASCII characters")
    return token


def flag_option(url: str, name: str, value: object) -> bool:
    """Return the truth that an option names: a bool, or ``1``, ``true``, ``yes``, ``on`` and their opposites.

    Raises
    ------
    InvalidParameterError
        When it is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    raise InvalidParameterError(f"{url}: {name} must be true or false, not {value!r}")


def whole_option(url: str, name: str, value: object) -> int:
    """Return the whole number that an option names, a text of digits included.

    Raises
    ------
    InvalidParameterError
        When it is none.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return whole_number(f"{url}: {name}", value)


def number_option(
    url: str, name: str, value: object, least: float = -math.inf, most: float = math.inf, unit: str = ""
) -> float:
    """Return the number that an option names, as a number or as text.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When it is none; when it is not finite, or not from `least` to `most`.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise InvalidParameterError(
                f"{url}: {name} must be a number{f' in {unit}' if unit else ''}, not {value!r}"
            ) from None
    return within(f"{url}: {name}", value, least, most, unit)


def limits_option(url: str, name: str, value: object, least: float = -math.inf) -> Range:
    """Return the limits in mm that an option names: ``4:40``, or a pair of numbers, both above `least`.

    Raises
    ------
    InvalidParameterError
        When it names none.
    """
    pair = value.split(":") if isinstance(value, str) else value
    try:
        low, high = (float(each) for each in pair)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low = high = math.nan
    if not least < low < high < math.inf:
        raise InvalidParameterError(f"{url}: {name} must be LOW:HIGH in mm, such as 4:40, not {value!r}")
    return Range(low, high)
