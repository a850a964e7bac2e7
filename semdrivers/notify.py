"""News of a run, for a function or a web address: a focusing that failed, the end of a run.

Nothing here can stop a run: what a listener raises is logged, and a `Webhook` sends from a thread of its own.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semdrivers.files import plain
from semdrivers.microscope import number

__all__ = ["Event", "Listener", "Webhook", "notify"]

Event = Mapping[str, Any]
"""What happened: ``event`` (``"not-focused"``, ``"ended"``, ``"failed"``), ``time`` (s since 1970), ``message``."""
Listener = Callable[[Event], object]
"""What is called with every event."""

_MOST_WAITING = 100
_log = logging.getLogger(__name__)


def notify(listener: Listener | None, event: str, message: str, **details: Any) -> None:
    """Call a listener; what it raises is logged, and goes no further.

    Parameters
    ----------
    listener : callable, optional
        None is passed over.
    event, message : str
        What happened, for a program and for a person.
    **details
        More entries of the event.
    """
    if listener is None:
        return
    try:
        listener({"event": event, "time": time.time(), "message": message, **details})
    except Exception:
        _log.exception("nobody could be notified of %s: %s", event, message)


def _can_be_posted_to(url: object) -> bool:
    """Return whether an address is one that urllib takes: a night is too long to learn that it is none."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        return False


class Webhook:
    """A listener that posts every event as JSON to a web address, in order, from a thread of its own.

    A call returns at once. An address that does not answer costs nothing but its event; failures are logged.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``.
    timeout : float
        How long an answer is waited for, and how long `close` waits for what is under way, s.

    Raises
    ------
    InvalidParameterError, OutOfRangeError
        When the address is none that can be posted to, or the time not above 0.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        if not _can_be_posted_to(url):
            raise InvalidParameterError(
                f"webhook must be an http:// or https:// address of printable ASCII without a user name, not {url!r}"
            )
        if number("timeout", timeout, "s") <= 0:
            raise OutOfRangeError(f"timeout must be above 0 s, not {timeout:g} s")
        self._url, self._timeout = url, float(timeout)
        self._waiting: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def __call__(self, event: Event) -> None:
        """Have an event posted; returns at once. Once closed, nothing is posted."""
        if self._closed.is_set():
            return
        try:
            self._waiting.put_nowait(json.dumps(plain(dict(event)), default=str).encode())
        except queue.Full:
            _log.warning("%d events wait for %s: one is left out", _MOST_WAITING, self._host)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._post_all, name="webhook", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait for the events that are under way, no longer than the time-out; what is not sent by then is left out."""
        if self._thread is None:
            return
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            _log.warning("%s does not take its events", self._host)
        self._thread.join(self._timeout)
        self._closed.set()

    @property
    def _host(self) -> str:
        """Whom to name in the log: an address may hold a secret."""
        return urlsplit(self._url).hostname or ""

    def _post_all(self) -> None:
        from urllib.request import Request, urlopen

        while (body := self._waiting.get()) is not None and not self._closed.is_set():
            request = Request(self._url, body, {"Content-Type": "application/json"}, method="POST")
            try:
                with urlopen(request, timeout=self._timeout) as answer:
                    answer.read(1)
            except Exception as error:
                _log.warning("an event could not be posted to %s: %s", self._host, error)
