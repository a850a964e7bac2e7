"""A server that runs in the background of a program."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semdrivers.errors import InvalidParameterError, NotConnectedError, installation
from semdrivers.remote import PORT, checked_token
from semfocus_plugin.server._desk import LEASE, Desk

LOOPBACK = "127.0.0.1"
"""Where this computer alone has access."""
_STARTS_WITHIN = 20.0


@dataclass(frozen=True, slots=True)
class Shared:
    """A server at work.

    Parameters
    ----------
    desk : Desk
        The instrument that it shares.
    host, port : str, int
        Where it listens.
    """

    desk: Desk
    host: str
    port: int

    @property
    def page(self) -> str:
        """Address for a browser on this computer."""
        return f"http://{LOOPBACK if self.host == '0.0.0.0' else self.host}:{self.port}/"

    @property
    def url(self) -> str:
        """Address for `semdrivers.connect` on this computer."""
        return f"semfocus+{self.page}".rstrip("/")


@contextmanager
def sharing(
    url: str,
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    token: str | None = None,
    lease: float = LEASE,
    tiles: Path | None = None,
    labels: Path | None = None,
) -> Iterator[Shared]:
    """Share a microscope inside the block; afterwards a run under way is cancelled, all put back, and the link closed.

    Parameters
    ----------
    url : str
        As `semdrivers.connect` takes it.
    host : str
        Where to listen; beyond this computer only with a token.
    port : int
        TCP port; 0 for any that is free.
    token : str, optional
        What clients must send.
    lease : float
        Seconds of silence after which another client may take control.
    tiles : Path, optional
        Folder of a `semfocus tile` that the page shows as it grows; it may not be there yet.
    labels : Path, optional
        Sheet of `semfocus label` that the label page fills.

    Yields
    ------
    Shared
        Once it answers.

    Raises
    ------
    InvalidParameterError
        For a token that is too short, or none where other computers are to have access; or a sheet that is none.
    NotConnectedError
        When the extra ``view`` is not installed, or the port is taken.
    SemDriversError
        When the microscope cannot be connected to.
    """
    if token is None and host != LOOPBACK:
        raise InvalidParameterError(f"token must be set where other computers have access (host {host})")
    if token is not None:
        checked_token(token)
    try:
        import uvicorn

        from semfocus_plugin.server._api import create_app
    except ImportError as error:
        raise NotConnectedError(f"the server needs the extra view: {installation('view')} ({error})") from error
    try:
        listening = socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise NotConnectedError(f"the server could not listen at {host}:{port}: {error}") from error
    with listening:
        desk = Desk(url, lease, tiles, labels)
        try:
            config = uvicorn.Config(
                create_app(desk, token=token), log_level="warning", access_log=False, timeout_graceful_shutdown=2
            )
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, args=([listening],), name="semfocus server")
            thread.start()
            try:
                end = time.monotonic() + _STARTS_WITHIN
                while not server.started and thread.is_alive() and time.monotonic() < end:
                    time.sleep(0.01)
                if not server.started:
                    raise NotConnectedError(f"the server at {host}:{port} did not start")
                yield Shared(desk, host, listening.getsockname()[1])
            finally:
                desk.events.close()
                server.should_exit = True
                thread.join()
        finally:
            desk.close()
