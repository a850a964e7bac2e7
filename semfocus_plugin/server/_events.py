"""What happens at the desk, for everybody who listens: from any thread into asyncio."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

from semdrivers.files import plain

_ALIVE = 5.0
"""Seconds of silence after which listeners are sent a comment: without it a dead link looks like a quiet one."""
_MOST = 500
"""Events that wait for a listener at most; one that is further behind is sent away, and comes back for the whole."""


class Events:
    """Server-sent events."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}
        self._closed = False

    def publish(self, kind: str, data: Any) -> None:
        """Send an event to everybody; may be called from any thread, and waits for nobody."""
        self._send(_written(kind, data))

    def close(self) -> None:
        """End all streams."""
        self._closed = True
        self._send(None)

    async def stream(self, first: Any) -> AsyncIterator[str]:
        """Yield the text of ``text/event-stream``.

        Parameters
        ----------
        first : callable
            Returns the data of the first event, ``status``: the whole state, after which every change is sent.
        """
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        with self._lock:
            self._listeners[queue] = asyncio.get_running_loop()
        try:
            yield _written("status", first())
            while not self._closed and queue.qsize() < _MOST:
                try:
                    text = await asyncio.wait_for(queue.get(), _ALIVE)
                except TimeoutError:
                    text = ": alive\n\n"
                if text is None:
                    return
                yield text
        finally:
            with self._lock:
                del self._listeners[queue]

    def _send(self, text: str | None) -> None:
        with self._lock:
            for queue, loop in self._listeners.items():
                try:
                    loop.call_soon_threadsafe(queue.put_nowait, text)
                except RuntimeError:  # its loop has ended
                    continue


def _written(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(plain(data), allow_nan=False)}\n\n"
