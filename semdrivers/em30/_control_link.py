"""The control link: requests to the instrument and their answers, over any transport.

A request is sent again under the same sequence number until it is answered or its deadline is over; the
instrument answers a repetition from its cache, so nothing moves twice. Whoever waits for an answer reads the line
himself, because handing an answer over from thread to thread takes longer than the answer. The link's thread reads
while nobody waits, renews the lease and delivers events.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from firmware_protocol.authentication import CHALLENGE_SIZE, proof_of
from firmware_protocol.control import VERSION, Damaged, Decoder, Envelope, Problem, encode
from firmware_protocol.messages import (
    REPLIES,
    Authenticate,
    BeamSet,
    Bye,
    Command,
    EmergencyStop,
    Event,
    Hello,
    HelloReply,
    KeepAlive,
    Kind,
    Pump,
    Request,
    Status,
    Subscribe,
    Vent,
    Wait,
)
from firmware_protocol.payload import PayloadError
from semdrivers.connection import TOKEN_VARIABLE
from semdrivers.em30._transport import Transport
from semdrivers.em30._waiting import WaitingTimes
from semdrivers.errors import (
    BusyError,
    HardwareFault,
    InvalidParameterError,
    NotConnectedError,
    ProtocolError,
    SemDriversError,
    TransportError,
)
from semdrivers.links import describe, exception_for

R = TypeVar("R")
T = TypeVar("T")

_log = logging.getLogger(__name__)
_TICK = 0.1
_SILENCE = 0.3
_MOST_DAMAGED = 8
_GOODBYE = 1.0
_TURN = 0.001
_OF_VACUUM = (Pump, Vent)
_REST = 0.005
"""Seconds after a request for which the link's thread leaves the line to the next one."""


class _Mailbox(deque[T]):
    """What one thread waits for and others bring.

    A wait for a `queue.SimpleQueue` never ends where a signal handler takes longer than it, and an interrupt breaks
    that for an `Event`.
    """

    __slots__ = ("_bell",)

    def __init__(self) -> None:
        super().__init__()
        self._bell = threading.Lock()
        self._bell.acquire()

    def put(self, item: T) -> None:
        self.append(item)
        with suppress(RuntimeError):  # it has rung already
            self._bell.release()

    def wait(self, timeout: float) -> bool:
        """Return, within `timeout` seconds, whether something is there."""
        if not self:
            self._bell.acquire(timeout=timeout)
        return bool(self)


_Answers = _Mailbox[Envelope | Damaged | SemDriversError]


class _Turn:
    """A thread's turn at sending, or at reading. A signal handler that interrupts it takes its place meanwhile."""

    __slots__ = ("interrupted", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.interrupted: _Turn | None = None

    def may_follow(self, other: _Turn) -> bool:
        """Whether this turn may begin while `other` lasts."""
        return other is not self and other.thread == self.thread


class ControlLink:
    """A session with one instrument. Safe to use from several threads at once.

    Parameters
    ----------
    transport : Transport
        Open; belongs to the link from here on, and is closed when HELLO fails.
    client_name : str
        How the instrument names this client to others.
    name : str
        How messages name the instrument.
    observer : bool
        Whether to watch only: queries and events, no commands, no lease.
    deadline : float
        Seconds for HELLO.
    token : int, optional
        Token of a link that was lost, so that the instrument gives this one its lease; a new one by default.
    waiting : WaitingTimes, optional
        How long a request may take.
    secret : str, optional
        The instrument's token, for one that asks for it. It is not sent.
    numbers : int
        How many sequence numbers there are; after so many requests they begin again at 1.

    Raises
    ------
    NotConnectedError
        When nothing answers, or the instrument asks for a token and this is not it.
    ProtocolError
        When something answers that does not speak this protocol, or another version of it.
    BusyError
        When another client controls the instrument; the message names it.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        client_name: str,
        name: str,
        observer: bool = False,
        deadline: float = 5.0,
        token: int | None = None,
        waiting: WaitingTimes = WaitingTimes(),  # noqa: B008 - frozen
        secret: str | None = None,
        numbers: int = 0xFFFF,
    ) -> None:
        self.name = name
        self._secret = secret
        self._numbers = numbers
        self._waiting_times = waiting
        self.token = secrets.randbits(64) if token is None else token
        """Of this client's session, for a link that follows this one."""
        self.lease_lost = False
        """Whether the instrument has refused a command because the lease was lost; `greet` asks for it again."""
        self._asked_for_proof = False
        self._client_name = client_name
        self._transport = transport
        self._observer = observer
        self._decoder = Decoder()
        self._lock = threading.RLock()  # a signal handler may stop the instrument in the middle of a request
        self._sender: _Turn | None = None
        self._reader: _Turn | None = None
        self._heard = time.monotonic()
        self._events: _Mailbox[tuple[object, _Mailbox[None]]] = _Mailbox()
        """Those that another thread read, for the link's own."""
        self._waiting: dict[int, _Answers] = {}
        self._sequence = 0
        self._subscribers: tuple[Callable[[Event], object], ...] = ()
        self._subscribed = False
        self._lost: SemDriversError | None = None
        self._closed = False
        self._received = 0
        self._lease = 0.0
        self._last_sent = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name=f"control link {name}", daemon=True)
        self._thread.start()
        try:
            self._hello = self._say_hello(deadline)
        except BaseException:
            self._shut()
            raise
        self._lease = 0.0 if observer else self._hello.lease

    @property
    def lost(self) -> bool:
        """Whether the connection broke; another link is needed then."""
        return self._lost is not None

    def greet(self) -> HelloReply:
        """Say HELLO again, with the same token: after a silence the lease may be lost and the connection be sound.

        Raises
        ------
        BusyError
            When another client has taken the lease; the message names it.
        SemDriversError
            As `request` does.
        """
        self._hello = self.request(self._hello_message())
        self.lease_lost = False
        return self._hello

    @property
    def hello(self) -> HelloReply:
        """What the instrument said of itself when the session was opened."""
        return self._hello

    @property
    def discarded(self) -> int:
        """Bytes received that belonged to no message."""
        return self._decoder.discarded

    def request(self, message: Request[R], *, deadline: float = 5.0, wait: Wait = Wait.ALL) -> R:
        """Send a request and return its reply.

        Parameters
        ----------
        message : Request
            What to ask or to command.
        deadline : float
            Seconds from now, or from when the time announced by the latest PENDING is over.
        wait : Wait
            What must be at rest before a command is answered; queries are answered at once.

        Raises
        ------
        BusyError, InterlockError, OutOfRangeError, HardwareFault, InvalidParameterError, DeviceError
            When the instrument refuses; the message names instrument, parameter, value and limit.
        TransportError
            When the deadline is over or the connection is lost.
        ProtocolError
            When the answers cannot be understood.
        NotConnectedError
            When the link has been closed.
        """
        if threading.get_ident() == self._thread.ident:
            raise BusyError(f"{self.name}: a subscriber must not send requests; hand over to another thread")
        flags = wait if isinstance(message, Command) else Wait.NOTHING
        answers: _Answers = _Mailbox()
        with self._lock:
            self._check_open()
            sequence = self._next_sequence()
            self._waiting[sequence] = answers
        try:
            try:
                data = encode(Envelope.request(sequence, message, flags))
            except PayloadError as error:
                raise InvalidParameterError(f"{self.name}: {error}") from error
            return self._exchange(message, data, answers, deadline)
        finally:
            with self._lock:
                del self._waiting[sequence]

    def ask(self, queries: Sequence[Request[Any]], *, deadline: float = 5.0) -> Answers:
        """Send queries one behind the other: together they take little longer than one.

        Parameters
        ----------
        queries : sequence of Request
            What to ask; no commands.
        deadline : float
            Seconds for sending, and for each answer from when it is fetched.

        Returns
        -------
        Answers
            Iterating over it fetches the answers in the order of the queries; close it where they are not wanted.

        Raises
        ------
        TransportError, NotConnectedError
            As `request` does.
        """
        return Answers(self, queries, deadline)

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Call `callback` with every event, from the link's thread; returns what ends that.

        The callback must be quick and must not send requests. What it raises is logged.
        """

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not callback)

        with self._lock:
            self._subscribers = (*self._subscribers, callback)
        try:
            if not self._subscribed:
                self.request(Subscribe(True))
                self._subscribed = True
        except SemDriversError:
            unsubscribe()
            raise
        return unsubscribe

    def close(self, *, keep_beam: bool = True) -> None:
        """Say goodbye and close the transport. A second call does nothing.

        The instrument stops the scan of an owner. The beam stays as it is unless `keep_beam` is False.
        """
        with self._lock:
            if self._closed:
                return
            usable = self._lost is None
        if usable and threading.current_thread() is not self._thread:
            try:
                self.request(Bye(keep_beam), deadline=_GOODBYE)
            except SemDriversError as error:
                _log.info("%s: no goodbye: %s", self.name, error)
        self._shut()

    def __enter__(self) -> ControlLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hello_message(self) -> Hello:
        return Hello(VERSION, VERSION, self.token, self._observer, self._client_name)

    def _say_hello(self, deadline: float) -> HelloReply:
        try:
            try:
                return self.request(self._hello_message(), deadline=deadline)
            except NotConnectedError as error:
                if not self._asked_for_proof:
                    raise
                self._authenticate(deadline, error)
            return self.request(self._hello_message(), deadline=deadline)
        except TransportError as error:
            if self._received:
                raise ProtocolError(
                    f"{self.name}: what answers at {self._transport.name} is no EM-30 "
                    f"({self._received} bytes came, none of them an answer to HELLO); check the address"
                ) from error
            raise NotConnectedError(f"{self.name} does not answer", {self._transport.name: str(error)}) from error

    def _authenticate(self, deadline: float, refused: NotConnectedError) -> None:
        """Prove to the instrument that this client knows its token."""
        if self._secret is None:
            raise NotConnectedError(f"{refused}; pass token=, or set {TOKEN_VARIABLE}") from refused
        text = self.request(Authenticate(self.token), deadline=deadline).challenge
        try:
            challenge = bytes.fromhex(text)
        except ValueError:
            challenge = b""
        if len(challenge) != CHALLENGE_SIZE:
            raise ProtocolError(f"{self.name} sent {text[:80]!r}, which is no challenge; check its firmware")
        proof = proof_of(self._secret, challenge, self.token)
        self.request(Authenticate(self.token, proof.hex()), deadline=deadline)

    def _check_open(self) -> None:
        if self._closed:
            raise NotConnectedError(f"the connection to {self.name} is closed; connect again")
        if self._lost is not None:
            raise type(self._lost)(*self._lost.args)

    def _next_sequence(self) -> int:
        while True:
            self._sequence = self._sequence % self._numbers + 1
            if self._sequence not in self._waiting:
                return self._sequence

    def _exchange(self, message: Request[R], data: bytes, answers: _Answers, deadline: float, sent: int = 0) -> R:
        """Send a message, unless that was done, and again until it is answered."""
        now = time.monotonic()
        times = self._waiting_times
        longest = times.vacuum if isinstance(message, _OF_VACUUM) else times.settling
        first_pause = max(deadline / 5, 0.05)
        end, last, pause = now + deadline, now + longest, first_pause
        damaged, repeat, me = 0, now + pause * sent, _Turn()
        while True:
            if now >= min(end, last):
                limit = longest if now >= last else deadline
                raise TransportError(
                    f"{self.name} did not answer {describe(message)} within {limit:g} s "
                    f"(sent {sent} times over {self._transport.name})"
                )
            if now >= repeat:
                self._send(data, min(end, last) - now, me)
                sent += 1
                repeat = now + pause
                pause *= 2  # a slow line must not drown in repetitions
            answer = self._next(answers, min(end, last, repeat), me)
            now = time.monotonic()
            if answer is None:
                continue
            if isinstance(answer, Envelope):
                if answer.kind is Kind.PENDING:
                    rest = max(0.0, answer.message.seconds)
                    end = max(end, now + rest + deadline)
                    pause = first_pause  # it is at work and answers: it is asked as often as before
                    repeat = now + rest + pause
                    continue
                if answer.status is not Status.BAD_FRAME:
                    return self._open(message, answer)
            elif isinstance(answer, SemDriversError):
                raise type(answer)(*answer.args)
            elif answer.problem not in (Problem.CHECKSUM, Problem.OVERSIZE):
                raise ProtocolError(
                    f"{self.name}: the answer to {describe(message)} cannot be read: {answer.problem.value} "
                    f"({answer.detail}); this side speaks version {VERSION}"
                )
            damaged += 1
            if damaged > _MOST_DAMAGED:
                raise ProtocolError(
                    f"{self.name}: {damaged} damaged messages in a row while {describe(message)}; "
                    f"check the cable of {self._transport.name}"
                )
            repeat = now

    def _open(self, message: Request[R], answer: Envelope) -> R:
        if answer.opcode != message.opcode:
            raise ProtocolError(
                f"{self.name} answered {describe(message)} with opcode {answer.opcode:#06x} instead of "
                f"{message.opcode:#06x}"
            )
        if answer.status is not Status.OK:
            self._asked_for_proof = answer.status is Status.NOT_AUTHENTICATED
            self.lease_lost |= answer.status is Status.NOT_OWNER and not self._observer
            raise exception_for(self.name, message, answer.status, answer.message)
        reply: R = answer.message
        return reply

    def _send(self, data: bytes, timeout: float, me: _Turn) -> None:
        """Send all bytes of a message at one go.

        A signal handler may raise (Ctrl-C) between any two calls, also between taking a lock with a time limit and
        the `try` behind it. So who sends is a mark, set under a lock that `with` takes and cleared without a call.
        Where a handler sends in the middle of a message, that one is damaged, and is sent again.
        """
        start = self._last_sent = time.monotonic()
        try:
            while not self._may_send(me):
                if time.monotonic() - start > timeout:
                    raise TransportError(f"{self._transport.name} takes no bytes: another request is stuck in it")
                time.sleep(_TURN)
            self._transport.send(data, start + timeout - time.monotonic())
        finally:
            if self._sender is me:
                self._sender = me.interrupted

    def _may_send(self, one: _Turn) -> bool:
        with self._lock:
            if self._sender is None or one.may_follow(self._sender):
                one.interrupted, self._sender = self._sender, one
            return self._sender is one

    def _next(self, answers: _Answers, end: float, me: _Turn) -> Envelope | Damaged | SemDriversError | None:
        """Return the next answer to a request, read by this thread unless another reads; None at `end`.

        The place of the reader is a mark, for the same reason as in `_send`.
        """
        try:
            while not answers:
                left = end - time.monotonic()
                if left <= 0:
                    return None
                if self._may_read(me):
                    self._take_in(min(left, _TICK))
                else:
                    answers.wait(min(left, _REST))
            return answers.popleft()
        finally:
            if self._reader is me:
                self._reader = me.interrupted

    def _may_read(self, one: _Turn) -> bool:
        with self._lock:
            if self._reader is None or one.may_follow(self._reader):
                if self._reader is not None:  # interrupted, perhaps in the middle of the decoder's work: it keeps that
                    discarded, self._decoder = self._decoder.discarded, Decoder()
                    self._decoder.discarded = discarded
                one.interrupted, self._reader = self._reader, one
            return self._reader is one

    def _take_in(self, timeout: float) -> None:
        """Read what comes within `timeout` seconds and deliver it; when the line is broken, so is the link."""
        try:
            data = self._transport.receive(timeout)
            now = time.monotonic()
            if data:
                self._heard = now
                self._received += len(data)
                self._deliver(self._decoder.feed(data))
            elif self._decoder.waiting and now - self._heard > _SILENCE:
                self._deliver(self._decoder.abandon())
        except SemDriversError as error:
            self._fail(error)
        except Exception as error:
            _log.exception("%s: the control link failed", self.name)
            self._fail(TransportError(f"{self.name}: the control link failed: {error!r}"))

    def _serve(self) -> None:
        """Body of the link's thread."""
        me = _Turn()
        while not self._closed and self._lost is None:
            since = time.monotonic() - self._last_sent
            if self._lease and since > self._lease / 3:
                try:
                    self._keep_alive()
                except SemDriversError as error:
                    self._fail(error)
                continue
            reads = since > _REST and self._may_read(me)
            if self._events.wait(0.0 if reads else _REST):
                event, known = self._events.popleft()
                self._notify(event)
                known.put(None)
            if reads:
                self._take_in(_TICK)
                self._reader = None

    def _keep_alive(self) -> None:
        with self._lock:
            sequence = self._next_sequence()
        self._send(encode(Envelope.request(sequence, KeepAlive())), _TICK, _Turn())

    def _deliver(self, items: list[Envelope | Damaged]) -> None:
        for item in items:
            if isinstance(item, Envelope) and item.kind is Kind.EVENT:
                if threading.current_thread() is self._thread:
                    self._notify(item.message)
                else:  # an answer that came behind it waits until it is known
                    known: _Mailbox[None] = _Mailbox()
                    self._events.put((item.message, known))
                    known.wait(_GOODBYE)
            elif item.kind in (Kind.REPLY, Kind.PENDING) and item.opcode in REPLIES:
                answers = self._waiting.get(item.sequence)
                if answers is not None:
                    answers.put(item)

    def _notify(self, event: object) -> None:
        if isinstance(event, Event):
            for callback in self._subscribers:
                try:
                    callback(event)
                except Exception:
                    _log.exception("%s: a subscriber failed on %s", self.name, event)

    def _fail(self, error: SemDriversError) -> None:
        with self._lock:
            if self._lost is None:
                self._lost = error
            for answers in self._waiting.values():
                answers.put(error)

    def _shut(self) -> None:
        with self._lock:
            self._closed = True
            for answers in self._waiting.values():
                answers.put(NotConnectedError(f"the connection to {self.name} was closed"))
        self._transport.shutdown()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._transport.close()


class Answers:
    """Answers to queries that were sent together. Made by `ControlLink.ask`.

    Iterating over it yields each answer, in the order of the queries, and raises as `ControlLink.request` does.
    """

    def __init__(self, link: ControlLink, queries: Sequence[Request[Any]], deadline: float) -> None:
        self._link = link
        self._deadline = deadline
        self._asked: list[tuple[int, Request[Any], bytes, _Answers]] = []
        try:
            with link._lock:
                link._check_open()
                for query in queries:
                    sequence = link._next_sequence()
                    data = encode(Envelope.request(sequence, query))
                    answers: _Answers = _Mailbox()
                    link._waiting[sequence] = answers
                    self._asked.append((sequence, query, data, answers))
            link._send(b"".join(data for _, _, data, _ in self._asked), deadline, _Turn())
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Any]:
        for _, query, data, answers in self._asked:
            yield self._link._exchange(query, data, answers, self._deadline, sent=1)

    def close(self) -> None:
        """Wait for none of the answers any more."""
        with self._link._lock:
            for sequence, *_ in self._asked:
                self._link._waiting.pop(sequence, None)


def send_emergency_stop(transport: Transport, *, client: str, name: str, deadline: float = 3.0) -> None:
    """Stop an instrument's scan and blank its beam, without a session of one's own; closes the transport.

    Parameters
    ----------
    transport : Transport
        Open.
    client : str
        Who stops, for the client in control.
    name : str
        How messages name the instrument.
    deadline : float
        Seconds.

    Raises
    ------
    TransportError
        When no answer came within the deadline, or the connection broke: go to the instrument.
    ProtocolError, HardwareFault
        When the answer cannot be understood; when the beam is on in spite of it.
    SemDriversError
        When the instrument declines, such as `DeviceError` from a firmware that knows no stop.
    """
    message = EmergencyStop(client)
    request = Envelope.request(secrets.randbelow(0xFFFF) + 1, message)
    decoder, end, repeat = Decoder(), time.monotonic() + deadline, 0.0
    try:
        while (now := time.monotonic()) < end:
            if now >= repeat:
                transport.send(encode(request), end - now)
                repeat = now + deadline / 5
            for item in decoder.feed(transport.receive(min(end, repeat) - time.monotonic())):
                if item.kind is Kind.REPLY and item.sequence == request.sequence and isinstance(item, Envelope):
                    if item.status is Status.OK:
                        check_stopped(item.message, name)
                        return
                    if item.status is not Status.BAD_FRAME:
                        raise exception_for(name, message, item.status, item.message)
    finally:
        transport.close()
    raise TransportError(
        f"{name} did not answer {describe(message)} within {deadline:g} s over {transport.name}; "
        "switch the beam off at the instrument"
    )


def check_stopped(reply: object, name: str) -> None:
    """Raise unless an answer to EMERGENCY_STOP says that the beam is off.

    Raises
    ------
    ProtocolError
        When it is no such answer.
    HardwareFault
        When the beam is on.
    """
    if not isinstance(reply, BeamSet):
        raise ProtocolError(f"{name} answered an emergency stop with {type(reply).__name__}")
    if reply.on:
        raise HardwareFault(f"{name} reports the beam on after an emergency stop; switch it off at the instrument")
