"""TLS for the sockets of an instrument: its control channel and its USB bridge, at both ends."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

from semdrivers.errors import InvalidParameterError

__all__ = ["TlsSocket", "client_context", "server_context"]


def server_context(certificate: str | Path, key: str | Path | None = None) -> ssl.SSLContext:
    """Return what a server needs for TLS 1.2 or later.

    Parameters
    ----------
    certificate : str or Path
        PEM file of the server's certificate, and of those that vouch for it.
    key : str or Path, optional
        PEM file of its private key; by default in the same file.

    Raises
    ------
    InvalidParameterError
        When a file cannot be read, or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise InvalidParameterError(f"certificate {certificate}, key {key or 'in it'}: {error}") from error
    return context


def client_context(authority: str | Path | None = None) -> ssl.SSLContext:
    """Return what a client needs for TLS: the server's certificate is verified, and its name compared.

    Parameters
    ----------
    authority : str or Path, optional
        PEM file of the certificate that vouches for the server, or of the server's own; those that this computer
        trusts by default.

    Raises
    ------
    InvalidParameterError
        When the file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=authority)
    except (OSError, ValueError) as error:
        raise InvalidParameterError(f"tls={authority}: {error}") from error


class TlsSocket:
    """A non-blocking socket over TLS that behaves as a plain one does: what must wait raises `BlockingIOError`.

    Several threads may use it; OpenSSL's own objects may not be used by two threads at once. `recv` leaves nothing
    behind that a selector would not see.

    Parameters
    ----------
    connection : SSLSocket
        Belongs to this object from here on. A server's makes its handshake when something is first received.
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._lock = threading.RLock()  # a signal handler may send in the middle of a call

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._socket.fileno()

    def setsockopt(self, level: int, name: int, value: int | bytes | bytearray) -> None:
        """Set an option of the socket."""
        self._socket.setsockopt(level, name, value)

    def setblocking(self, flag: bool) -> None:
        """Accept that it does not block."""
        if flag:
            raise ValueError("a TlsSocket does not block")

    def send(self, data: bytes | memoryview) -> int:
        """Send some of `data`; returns how many bytes."""
        with self._lock:
            try:
                return self._socket.send(data)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise BlockingIOError from error

    def recv(self, size: int) -> bytes:
        """Return `size` bytes, or the whole of the record that they belong to; empty at the end of the stream."""
        with self._lock:
            try:
                data = self._socket.recv(size)
                while data and self._socket.pending():
                    data += self._socket.recv(size)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                raise BlockingIOError from error
            return data

    def shutdown(self, how: int) -> None:
        """End the connection below TLS, so that a call in another thread ends too."""
        socket.socket.shutdown(self._socket, how)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
