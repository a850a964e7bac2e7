"""The control channel of the emulated instrument on real wires: TCP, and a pseudo-terminal as serial line.

One thread serves all clients. It never waits for one of them: what a client does not fetch is queued, and a client
that lets too much pile up, or fetches nothing for seconds, is cut off. The messages of the client in control come
first; all others share a few milliseconds of every turn. There is room for a fixed number of clients: a newcomer takes
the place of the one that has been silent longest, first of those that never said HELLO. The client in control keeps
its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ssl import SSLContext
from typing import Protocol

from firmware_protocol.control import Damaged, Decoder, Envelope, encode
from firmware_protocol.messages import Event, Opcode
from semdrivers.emulator.instrument import Instrument
from semdrivers.emulator.wires._answer_faults import LATE, PAUSE, FaultyLine
from semdrivers.emulator.wires._control_desk import ControlDesk, Session, Witness
from semdrivers.emulator.wires._faults import Faults
from semdrivers.errors import NotConnectedError
from semdrivers.links import TlsSocket

_log = logging.getLogger(__name__)
_CHUNK = 4096
"""Bytes that are read, and decoded, at a time."""
_MOST_QUEUED = 1 << 20
_SEND_BUFFER = 1 << 16
_SILENCE = 0.3
_MOST_CLIENTS = 64
_NEWCOMERS = 16
"""TCP clients that are accepted in one turn."""
_SHARE = 0.003
"""Seconds of a turn for the messages that wait."""
_MOST_HELLOS = 32
"""HELLOs that a line may bring in one second."""
_REST = 0.1
"""Seconds without new clients when the process has no descriptor left for one."""
_ABORT = array("H" if sys.platform == "win32" else "i", (1, 0)).tobytes()


class _Pipe(Protocol):
    """A non-blocking end of a byte stream."""

    where: str
    lasting: bool

    def fileno(self) -> int: ...
    def read(self) -> bytes: ...
    def write(self, data: bytes) -> int: ...
    def reset(self) -> bool: ...
    def close(self) -> None: ...


class _SocketPipe:
    lasting = False

    def __init__(self, connection: socket.socket | TlsSocket, where: str) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        drop_when_half_open(connection)
        self._socket = connection
        self.where = where

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes:
        return self._socket.recv(_CHUNK)

    def write(self, data: bytes) -> int:
        return self._socket.send(data)

    def reset(self) -> bool:
        """Make the coming `close` a reset; returns whether there is such a thing."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        return True

    def close(self) -> None:
        self._socket.close()


class _PtyPipe:
    """Master side of a pseudo-terminal. The slave is held open too: like a serial line it has no hang-up."""

    lasting = True

    def __init__(self) -> None:
        if sys.platform == "win32":
            raise NotConnectedError("an emulated serial line needs pseudo-terminals, which Windows lacks")
        import pty
        import tty

        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.device = self.where = os.ttyname(self._slave)

    def fileno(self) -> int:
        return self._master

    def read(self) -> bytes:
        return os.read(self._master, _CHUNK)

    def write(self, data: bytes) -> int:
        return os.write(self._master, data)

    def reset(self) -> bool:
        return False

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


def drop_when_half_open(connection: socket.socket | TlsSocket) -> None:
    """Have the system probe a silent peer, so that one that vanished without a word is hung up on within seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@dataclass(slots=True, eq=False)
class _Connection:
    pipe: _Pipe
    line: FaultyLine
    session: Session = field(init=False)
    items: deque[Envelope | Damaged] = field(default_factory=deque)
    hellos: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_HELLOS))
    decoder: Decoder = field(default_factory=Decoder)
    outgoing: bytearray = field(default_factory=bytearray)
    paused: bytearray = field(default_factory=bytearray)
    resume: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    greeted: float = field(default_factory=time.monotonic)
    """When it last had a session; at first, when it came."""
    stuck: float = 0.0
    """Since when it has fetched nothing of what waits for it; 0 while nothing waits."""
    broken: bool = False
    events: int = selectors.EVENT_READ
    """What the selector watches for."""

    def is_at_rest(self) -> bool:
        """Whether its client has a session, and nothing waits, neither of the client nor for it."""
        waits = self.items or self.outgoing or self.paused or self.decoder.waiting
        return self.session.token is not None and not (waits or self.broken)


def _in_control(what: object) -> bool:
    return isinstance(what, _Connection) and what.session.owner


class ControlServer:
    """Serves an instrument to control clients.

    Parameters
    ----------
    instrument : Instrument
        What is served.
    port : int
        0 picks a free one.
    serial : bool
        Whether to open a pseudo-terminal as a serial line as well (not on Windows).
    faults : Faults, optional
        What goes wrong with answers and commands.
    witness : Witness, optional
        Keeps a record of what goes over the wires.
    patience : float
        Seconds that a TCP client has for its HELLO, and to fetch some of what it was sent.
    host : str
        Address to listen at.
    secret : str, optional
        Token that clients must prove to know.
    tls : SSLContext, optional
        For TCP over TLS.

    Attributes
    ----------
    instrument : Instrument
        What is served.
    port : int
        The TCP port, once started.
    device : str or None
        The device name of the serial line, once started.
    """

    def __init__(
        self,
        instrument: Instrument,
        *,
        port: int = 0,
        serial: bool = False,
        faults: Faults | None = None,
        witness: Witness | None = None,
        patience: float = 5.0,
        host: str = "127.0.0.1",
        secret: str | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self.instrument = instrument
        self._secret = secret
        self._tls = tls
        self._witness = witness
        self._faults = faults if faults is not None else Faults()
        self._late: list[tuple[float, _Connection, bytes]] = []
        self._address = host, port
        self._with_serial = serial
        self.port = port
        self.device: str | None = None
        self._selector = selectors.DefaultSelector()
        self._connections: list[_Connection] = []
        self._calls: deque[Callable[[], None]] = deque()
        self._patience = patience
        self._turn = 0
        self._accepts_again = 0.0
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Begin to serve; returns the TCP port.

        Raises
        ------
        OSError
            When the port cannot be had.
        NotConnectedError
            When a serial line was asked for and this system has no pseudo-terminals.
        """
        pipe = _PtyPipe() if self._with_serial else None
        try:
            self._listener = socket.create_server(self._address)
        except OSError:
            if pipe is not None:
                pipe.close()
            raise
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._woken)
        self._desk = ControlDesk(self.instrument, self._forward, self._faults, self._witness, self._secret)
        if pipe is not None:
            self.device = pipe.device
            self._connect(pipe)
        self._thread = threading.Thread(target=self._serve, name="emulator control", daemon=True)
        self._thread.start()
        return self.port

    def close(self) -> None:
        """Stop serving, drop all clients and join the thread. A second call does nothing."""
        if self._closing or self._thread is None:
            return
        self._closing = True
        self._wake()
        self._thread.join()
        self._desk.close()
        for connection in self._connections:
            connection.pipe.close()
        self._connections.clear()
        self._selector.close()
        for end in (self._listener, self._wake_in, self._wake_out):
            end.close()

    def __enter__(self) -> ControlServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forward(self, event: Event) -> None:
        """Bring an event from any thread into the server's."""
        self._calls.append(lambda: self._desk.publish(event))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_out.send(b"\0")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(_CHUNK)

    def _serve(self) -> None:
        """Body of the server's thread."""
        due = 0.0
        while not self._closing:
            ready = self._selector.select(max(0.0, due - time.monotonic()))
            end = time.monotonic() + _SHARE
            if len(ready) > 1:
                ready.sort(key=lambda each: not _in_control(each[0].data))
            for key, events in ready:
                if not isinstance(key.data, _Connection):
                    key.data()
                elif time.monotonic() < end or _in_control(key.data):
                    self._exchange(key.data, events)
            while self._calls:
                self._calls.popleft()()
            waiting = [each for each in self._connections if each.items]
            if waiting:
                self._work_off(waiting)
            now = time.monotonic()
            if now < due and self._was_plain(ready):
                self.instrument.update()
            else:
                due = now + min(self._desk.tick(), self._look_after())

    def _was_plain(self, ready: list[tuple[selectors.SelectorKey, int]]) -> bool:
        """Whether a turn was one client's that left nothing to do: nothing to look after came with it."""
        if len(ready) != 1 or self._late or self._desk.defers:
            return False
        client = ready[0][0].data
        return isinstance(client, _Connection) and client.is_at_rest()

    def _accept(self) -> None:
        for _ in range(_NEWCOMERS):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Take in one client that waits; returns whether there may be another."""
        try:
            connection, (host, port) = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return False
        except OSError as error:
            before = len(self._connections)
            for _ in range(_NEWCOMERS):
                self._make_room()
            if len(self._connections) < before:
                return True
            _log.warning("control channel: no new client: %s", error)
            self._selector.unregister(self._listener)
            self._accepts_again = time.monotonic() + _REST
            return False
        if len(self._connections) >= _MOST_CLIENTS:
            self._make_room()
        try:
            self._connect(_SocketPipe(self._protected(connection), f"{host}:{port}"))
        except OSError as error:
            _log.info("control client dropped: %s", error)
            connection.close()
        return True

    def _protected(self, connection: socket.socket) -> socket.socket | TlsSocket:
        if self._tls is None:
            return connection
        connection.setblocking(False)
        return TlsSocket(self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False))

    def _make_room(self) -> None:
        """Drop the client that has been silent longest, first of those without a session; never the one in control."""
        idle = [each for each in self._connections if not (each.pipe.lasting or each.session.owner)]
        if idle:
            longest = min(idle, key=lambda each: (each.session.token is not None, each.heard))
            self._drop(longest, "its place was needed")

    def _connect(self, pipe: _Pipe) -> None:
        connection = _Connection(pipe, FaultyLine(self._faults))
        connection.session = self._desk.open(partial(self._send, connection), pipe.where)
        self._connections.append(connection)
        self._selector.register(pipe.fileno(), selectors.EVENT_READ, connection)

    def _exchange(self, connection: _Connection, events: int) -> None:
        if connection.broken:
            return  # in this turn
        try:
            if events & selectors.EVENT_WRITE:
                self._flush(connection)
            if events & selectors.EVENT_READ and not connection.items:
                self._receive(connection)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._drop(connection, str(error))

    def _receive(self, connection: _Connection) -> None:
        data = connection.pipe.read()
        if not data:
            self._drop(connection, "closed by the client")
            return
        connection.heard = time.monotonic()
        for item in connection.decoder.feed(data):
            if item.opcode == Opcode.HELLO and not self._may_greet(connection):
                if not connection.pipe.lasting:
                    self._drop(connection, f"more than {_MOST_HELLOS} HELLOs in a second")
                    return
            elif item.opcode == Opcode.EMERGENCY_STOP:
                self._desk.handle(connection.session, item)
            else:
                connection.items.append(item)

    @staticmethod
    def _may_greet(connection: _Connection) -> bool:
        hellos = connection.hellos
        flooded = len(hellos) == _MOST_HELLOS and connection.heard - hellos[0] < 1.0
        if not flooded:
            hellos.append(connection.heard)
        return not flooded

    def _work_off(self, clients: list[_Connection]) -> None:
        """Handle messages that wait: the owner's first, then one of each client in turn, while the turn lasts."""
        end = time.monotonic() + _SHARE
        waiting = deque(clients)
        if len(clients) > 1:
            self._turn += 1
            waiting.rotate(-(self._turn % len(waiting)))
            waiting = deque(sorted(waiting, key=_in_control, reverse=True))
        while waiting and time.monotonic() < end:
            connection = waiting.popleft()
            item = connection.items.popleft()
            if not connection.broken:
                self._desk.handle(connection.session, item)
            if connection.items:
                (waiting.appendleft if connection.session.owner else waiting.append)(connection)
            elif connection.outgoing:
                self._queue(connection, b"")

    def _look_after(self) -> float:
        """Drop what is broken, finish what fell silent; returns the seconds until the next call is needed."""
        now = time.monotonic()
        pause = self._send_what_was_kept(now)
        if self._accepts_again:
            if self._accepts_again <= now:
                self._accepts_again = 0.0
                self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            else:
                pause = min(pause, self._accepts_again - now)
        for connection in list(self._connections):
            if connection.decoder.waiting:
                left = _SILENCE - (now - connection.heard)
                if left <= 0:
                    connection.items += connection.decoder.abandon()
                else:
                    pause = min(pause, left)
            slow = bool(connection.stuck) and now - connection.stuck > self._patience
            if connection.session.token is not None or connection.pipe.lasting:
                connection.greeted = now
            if connection.broken or slow:
                self._drop(connection, "it does not fetch its messages")
            elif now - connection.greeted > self._patience:
                self._drop(connection, f"no HELLO in {self._patience:g} s")
            elif connection.items:
                pause = 0.0
        return pause

    def _send(self, connection: _Connection, envelope: Envelope) -> None:
        """Queue a message and send what the pipe takes at once."""
        if connection.broken:
            return
        if not self._faults:
            self._queue(connection, encode(envelope))
            return
        delivery = connection.line.deliver(envelope)
        if delivery.late:
            self._late.append((time.monotonic() + LATE, connection, delivery.late))
        if delivery.reset:
            connection.broken = connection.pipe.reset()
        self._queue(connection, delivery.now)
        if delivery.rest:
            connection.paused += delivery.rest
            connection.resume = time.monotonic() + PAUSE

    def _queue(self, connection: _Connection, data: bytes) -> None:
        if connection.paused:
            connection.paused += data
            return
        if not (data or connection.outgoing):
            return
        # What the pipe did not take leaves when it can; answers leave together where further messages wait.
        if not (connection.items or connection.events & selectors.EVENT_WRITE):
            if connection.outgoing:
                data = bytes(connection.outgoing) + data
                connection.outgoing.clear()
            try:
                data = data[connection.pipe.write(data) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                connection.broken = True
                return
            if not data:
                return
        connection.outgoing += data
        if len(connection.outgoing) > _MOST_QUEUED:
            connection.broken = not connection.pipe.lasting
            connection.outgoing.clear()
        if not connection.items:
            self._watch(connection)

    def _send_what_was_kept(self, now: float) -> float:
        """Send what faults kept back and is due; returns the seconds until the next call is needed."""
        pause = 10.0
        for item in list(self._late):
            due, connection, data = item
            if connection not in self._connections:
                self._late.remove(item)
            elif due <= now:
                self._late.remove(item)
                self._queue(connection, data)
            else:
                pause = min(pause, due - now)
        for connection in self._connections:
            if connection.paused and connection.resume <= now:
                data, connection.paused = bytes(connection.paused), bytearray()
                self._queue(connection, data)
            elif connection.paused:
                pause = min(pause, connection.resume - now)
        return pause

    def _flush(self, connection: _Connection) -> None:
        while connection.outgoing:
            sent = connection.pipe.write(bytes(connection.outgoing[:_CHUNK]))
            del connection.outgoing[:sent]
            connection.stuck = 0.0
        self._watch(connection)

    def _watch(self, connection: _Connection) -> None:
        if connection.outgoing and not connection.stuck and not connection.pipe.lasting:
            connection.stuck = time.monotonic()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outgoing else 0)
        if connection.events != events:
            connection.events = events
            self._selector.modify(connection.pipe.fileno(), events, connection)

    def _drop(self, connection: _Connection, why: str) -> None:
        _log.info("control client dropped: %s", why)
        connection.broken = True
        self._connections.remove(connection)
        self._selector.unregister(connection.pipe.fileno())
        connection.pipe.close()
        self._desk.lost(connection.session)
