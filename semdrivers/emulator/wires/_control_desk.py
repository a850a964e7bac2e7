"""Who may command the instrument, and what each request means to it: sessions, lease, reply cache. No sockets.

One client at a time holds the control lease; any message of its renews it. When the lease is lost, by silence or
by a broken connection, the scan stops and the beam is blanked; the chamber is never vented. A client that says BYE
leaves the beam as it asked. Whoever takes the lease next finds the beam as it is: HELLO switches nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from firmware_protocol.authentication import is_proof, new_challenge
from firmware_protocol.control import VERSION, Damaged, Envelope, Problem
from firmware_protocol.messages import (
    Applied,
    Authenticate,
    BeamSet,
    Bye,
    Challenge,
    Command,
    Done,
    EmergencyStop,
    Event,
    GetParameter,
    GetStatus,
    Hello,
    HelloReply,
    InterlockTripped,
    KeepAlive,
    Kind,
    MoveStage,
    OrientStage,
    Parameter,
    ParameterValue,
    Pump,
    Reason,
    Refusal,
    SetBeam,
    SetParameter,
    SetStigmator,
    StageMoved,
    StageOriented,
    StartScan,
    Status,
    StigmatorApplied,
    StopScan,
    Subscribe,
    Subsystem,
    Unknown,
    VacuumSet,
    VacuumState,
    Vent,
)
from semdrivers.emulator.instrument import Instrument, Refused, refuse, require
from semdrivers.emulator.wires._faults import Faults, Occasion

_log = logging.getLogger(__name__)
_CACHED_REPLIES = 32
_PENDING_FROM = 0.2
_ENDLESS_PENDING = 1.0
_PATIENCE = 2.0
"""Seconds beyond the announced settling after which the instrument gives up, under the fault `settle-times-out`."""
_REFUSALS = {
    "refuse-busy": (Status.BUSY, "it is busy with a self-test: wait", Reason.NONE),
    "refuse-interlock": (Status.INTERLOCK, "the door is ajar: close it", Reason.DOOR_OPEN),
    "refuse-fault": (Status.HARDWARE_FAULT, "the lens supply has failed: call the service", Reason.NONE),
}
_DAMAGE = {
    Problem.CHECKSUM: Status.BAD_FRAME,
    Problem.OVERSIZE: Status.BAD_FRAME,
    Problem.LAYOUT: Status.INVALID_PARAMETER,
    Problem.VERSION: Status.NOT_IMPLEMENTED,
}

_ON_THE_WAY = {
    VacuumState.READY: (VacuumState.PUMPING, VacuumState.READY),
    VacuumState.VENTED: (VacuumState.VENTING, VacuumState.VENTED),
}


class Witness(Protocol):
    """Hears and sees everything that goes over the control channel."""

    def received(self, client: str, message: Envelope | Damaged) -> None:
        """Take note of what a client sent."""

    def sent(self, client: str, message: Envelope) -> None:
        """Take note of what a client was sent."""

    def answered(self, request: Envelope, reply: Envelope) -> None:
        """Take note of the answer to a new request of the owner."""


@dataclass(slots=True, eq=False)
class Session:
    """One client, as the instrument knows it."""

    send: Callable[[Envelope], None]
    heard: float
    where: str = ""
    client: str = ""
    token: int | None = None
    owner: bool = False
    subscribed: bool = False
    challenge: bytes = b""
    """What the next proof must be made over; empty while there is none."""
    proved: int | None = None
    """The `token` of HELLO for which this line's client has proved that it knows the secret."""
    replies: OrderedDict[int, tuple[Envelope, Envelope | None]] = field(default_factory=OrderedDict)


@dataclass(frozen=True, slots=True, eq=False)
class _Deferred:
    """An answer that waits for the instrument to come to rest.

    `announced` is what the instrument goes to; when that no longer holds, something else came between.
    """

    session: Session
    request: Envelope
    announced: object
    answer: Envelope
    due: float


class ControlDesk:
    """Serves sessions. Used from one thread only, but for the events of the instrument.

    Parameters
    ----------
    instrument : Instrument
        What is served.
    forward : callable
        Takes each event of the instrument, from any thread, and brings it to `publish` in the desk's thread.
    faults : Faults, optional
        What goes wrong with commands.
    witness : Witness, optional
        Keeps a record.
    secret : str, optional
        The instrument's token, which every client must prove to know.
    """

    def __init__(
        self,
        instrument: Instrument,
        forward: Callable[[Event], object],
        faults: Faults | None = None,
        witness: Witness | None = None,
        secret: str | None = None,
    ) -> None:
        self._secret = secret
        self._instrument = instrument
        self._faults = faults if faults is not None else Faults()
        self._witness = witness
        self._sessions: list[Session] = []
        self._deferred: list[_Deferred] = []
        self._ticked = time.monotonic()
        self._endless = self._gives_up = False
        self._stopped: tuple[int | None, str] = None, ""
        self._unlisten = instrument.listen(forward)

    # Sessions

    def open(self, send: Callable[[Envelope], None], where: str = "an unnamed line") -> Session:
        """Begin a session that answers through `send`, which must not block; `where` names its line in messages."""
        witness, session = self._witness, Session(send, time.monotonic(), where)
        if witness is not None:

            def send_seen(envelope: Envelope) -> None:
                witness.sent(session.client, envelope)
                send(envelope)

            session.send = send_seen
        self._sessions.append(session)
        return session

    def lost(self, session: Session) -> None:
        """End a session whose connection is gone; an owner's lease is lost with it."""
        if session.owner:
            self._lose_lease(session, "its connection broke")
        self._end(session)

    def close(self) -> None:
        """End all sessions and hear no more events."""
        self._unlisten()
        for session in list(self._sessions):
            self._end(session)

    def _end(self, session: Session) -> None:
        session.owner = session.subscribed = False
        self._deferred = [item for item in self._deferred if item.session is not session]
        if session in self._sessions:
            self._sessions.remove(session)

    @property
    def defers(self) -> bool:
        """Whether an answer waits for the instrument to come to rest."""
        return bool(self._deferred)

    @property
    def _owner(self) -> Session | None:
        return next((session for session in self._sessions if session.owner), None)

    def _lose_lease(self, session: Session, why: str) -> None:
        session.owner = False
        self._deferred = [item for item in self._deferred if item.session is not session]
        self._instrument.safe()
        text = f"{session.client!r} lost control: {why}; the scan is stopped, the beam off"
        _log.info("%s", text)
        self.publish(InterlockTripped(Reason.NONE, self._instrument.clock.now(), text))

    # What the server's loop calls

    def publish(self, event: Event) -> None:
        """Bring an event to the sessions that subscribed."""
        for session in list(self._sessions):
            if session.subscribed:
                session.send(Envelope.event(event))

    def tick(self) -> float:
        """Do what is due; returns the seconds until the next call is needed."""
        now = time.monotonic()
        lease = self._instrument.profile.lease_time
        owner = self._owner
        stalled, self._ticked = now - self._ticked > lease / 2, now
        if owner is not None:
            if stalled or any(item.session is owner for item in self._deferred):
                owner.heard = now  # it waits for us, or this whole process stood still: no silence of its own
            elif now - owner.heard > lease:
                self._lose_lease(owner, f"{lease:g} s of silence")
        self._instrument.update()
        waits = [lease / 4]
        for item in list(self._deferred):
            rest = item.due - self._instrument.clock.now()
            if not still_holds(self._instrument, item.announced):
                self._finish(item, item.request.refuse(Status.ABORTED, Refusal(text="a later change took its place")))
            elif rest <= 0:
                self._finish(item, item.answer)
            else:
                waits.append(min(rest, 0.1))
        return min(waits)

    def _finish(self, item: _Deferred, reply: Envelope) -> None:
        self._deferred.remove(item)
        self._answer(item.session, item.request, reply)

    def handle(self, session: Session, item: Envelope | Damaged) -> None:
        """Take one message of a session."""
        if self._witness is not None:
            self._witness.received(session.client, item)
        another = isinstance(item, Envelope) and isinstance(item.message, Hello) and item.message.token != session.token
        if another and session.owner:  # on a serial line; it renews no lease
            refusal = _held_by(session)
            session.send(Envelope(Kind.REPLY, item.sequence, item.opcode, refusal, status=Status.BUSY))
            return
        session.heard = time.monotonic()
        if item.kind != Kind.REQUEST:
            return
        if isinstance(item, Damaged):
            status = _DAMAGE.get(item.problem, Status.BAD_FRAME)
            text = f"{item.problem.value} {item.detail}".strip()
            session.send(Envelope(Kind.REPLY, item.sequence, item.opcode, Refusal(text=text), status=status))
            return
        if another:
            session.token, session.client = item.message.token, item.message.client
            session.subscribed = False
            session.replies.clear()
        if self._repeated(session, item):
            return
        session.replies[item.sequence] = (item, None)
        while len(session.replies) > _CACHED_REPLIES:
            session.replies.popitem(last=False)
        try:
            reply = self._carry_out(session, item.message)
        except Refused as refusal:
            if isinstance(item.message, Hello):
                session.token = None
            self._answer(session, item, item.refuse(refusal.status, refusal.refusal))
        except Exception as error:
            _log.exception("the instrument failed on %s", item)
            fault = Refusal(text=f"the instrument's control program failed: {error!r}")
            self._answer(session, item, item.refuse(Status.HARDWARE_FAULT, fault))
        else:
            self._reply(session, item, reply)

    def _repeated(self, session: Session, item: Envelope) -> bool:
        """Answer a repeated request as it was answered, or report that it is still being carried out."""
        request, reply = session.replies.get(item.sequence, (None, None))
        if request is None or request != item:
            return False
        if reply is not None:
            session.send(reply)
        else:
            due = max((d.due for d in self._deferred if d.session is session and d.request == item), default=0.0)
            session.send(_pending(item, max(0.0, due - self._instrument.clock.now())))
        return True

    def _answer(self, session: Session, request: Envelope, reply: Envelope) -> None:
        if request.sequence in session.replies:
            session.replies[request.sequence] = (request, reply)
        if self._witness is not None and session.owner:
            self._witness.answered(request, reply)
        session.send(reply)

    def _reply(self, session: Session, request: Envelope, reply: object) -> None:
        """Answer a request that was carried out, once what it waits for is at rest."""
        clock, answer = self._instrument.clock, request.reply(reply)
        if isinstance(request.message, Command):
            due = math.inf if self._endless else self._instrument.rest_time(request.flags)
            if self._gives_up:
                due += _PATIENCE
                text = f"it has not come to rest {_PATIENCE:g} s after its time: read back how far it got"
                answer = request.refuse(Status.TIMEOUT, Refusal(text=text))
            rest = due - clock.now()
            if rest > 0 and (clock.realtime or self._endless):
                self._deferred.append(_Deferred(session, request, reply, answer, due))
                if rest > _PENDING_FROM:
                    session.send(_pending(request, rest))
                return
            clock.wait_until(due)
            self._instrument.update()
        self._answer(session, request, answer)

    # Requests

    def _carry_out(self, session: Session, message: object) -> object:
        if isinstance(message, Unknown):
            raise refuse(Status.NOT_IMPLEMENTED, "this firmware knows no such opcode")
        if isinstance(message, Authenticate):
            return self._authenticate(session, message)
        if isinstance(message, Hello):
            return self._hello(session, message)
        if isinstance(message, EmergencyStop):
            return self._emergency_stop(session, message)
        if session.token is None:
            raise refuse(Status.NOT_OWNER, "HELLO must come first")
        if isinstance(message, Command):
            return self._command(session, message)
        instrument = self._instrument
        match message:
            case GetParameter(parameter=parameter):
                require(instrument.profile, parameter)
                return ParameterValue(parameter, instrument.value(parameter), instrument.clock.now())
            case GetStatus():
                owner = self._owner
                return instrument.status(owner.client if owner else "")
            case Subscribe(enabled=enabled):
                session.subscribed = enabled
            case Bye(keep_beam=keep_beam):
                self._bye(session, keep_beam)
            case KeepAlive():
                pass
        return Done(instrument.clock.now())

    def _emergency_stop(self, session: Session, message: EmergencyStop) -> BeamSet:
        """Stop the scan and blank the beam, whoever asks."""
        owner = self._owner
        who = message.client or session.client or "a client without a name"
        if owner is not None and owner is not session:
            self._stopped = owner.token, f"{who!r} ({session.where})"
        text = f"{who!r} ({session.where}) stopped the instrument; the scan is stopped, the beam off"
        _log.warning("%s", text)
        now = self._instrument.clock.now()
        self.publish(InterlockTripped(Reason.STOPPED, now, text))
        return self._instrument.set_beam(False)

    def _command(self, session: Session, message: object) -> object:
        if not session.owner:
            owner = self._owner
            who = f"it is controlled by {owner.client!r} ({owner.where})" if owner else "its lease was lost"
            raise refuse(Status.NOT_OWNER, f"this client does not control the instrument: {who}; connect again")
        token, stopper = self._stopped
        if message == SetBeam(True) and session.token == token:
            raise refuse(
                Status.INTERLOCK,
                f"{stopper} stopped the instrument: ask there, then connect again to switch the beam on",
                reasons=Reason.STOPPED,
            )
        faults = self._faults.at(Occasion.COMMAND)
        self._endless = self._gives_up = False
        for name in faults:
            match name:
                case "settle-never-ends":
                    self._endless = True
                case "settle-times-out":
                    self._gives_up = True
        for name in faults:
            if name in _REFUSALS:
                status, text, reasons = _REFUSALS[name]
                raise refuse(status, text, reasons=reasons)
        instrument = self._instrument
        match message:
            case SetParameter(parameter=parameter, value=value):
                return instrument.set_parameter(parameter, value)
            case SetStigmator(x=x, y=y):
                return instrument.set_stigmator(x, y)
            case StartScan(width=width, height=height, bits=bits, frames=frames):
                return instrument.start_scan(width, height, bits, frames)
            case StopScan():
                instrument.stop_scan()
            case MoveStage(x=x, y=y):
                return instrument.move_stage(x, y)
            case OrientStage(tilt=tilt, rotation=rotation):
                return instrument.orient_stage(tilt, rotation)
            case SetBeam(on=on):
                return instrument.set_beam(on)
            case Pump():
                return instrument.pump()
            case Vent():
                return instrument.vent()
        return Done(instrument.clock.now())

    def _authenticate(self, session: Session, message: Authenticate) -> Challenge:
        if not message.proof:
            session.challenge = new_challenge()
            return Challenge(session.challenge.hex())
        challenge, session.challenge, session.proved = session.challenge, b"", None
        if self._secret is not None:
            try:
                given = bytes.fromhex(message.proof)
            except ValueError:
                given = b""
            if not (challenge and is_proof(given, self._secret, challenge, message.token)):
                _log.warning("%s: a client does not know the token", session.where)
                raise refuse(Status.NOT_AUTHENTICATED, "the token is wrong")
        session.proved = message.token
        return Challenge()

    def _hello(self, session: Session, hello: Hello) -> HelloReply:
        if self._secret is not None and session.proved != hello.token:
            raise refuse(Status.NOT_AUTHENTICATED, "it asks for a token")
        if not hello.minimum_version <= VERSION <= hello.maximum_version:
            raise refuse(
                Status.NOT_IMPLEMENTED,
                f"this firmware speaks protocol version {VERSION}, the client {hello.minimum_version} to "
                f"{hello.maximum_version}",
                minimum=VERSION,
                maximum=VERSION,
            )
        owner = self._owner
        if not hello.observer:
            if owner is not None and owner is not session:
                if owner.token != hello.token:
                    raise Refused(Status.BUSY, _held_by(owner))
                owner.owner = False  # the same client, on another connection
                self._deferred = [item for item in self._deferred if item.session is not owner]
            session.owner = True
        return dataclasses.replace(self._instrument.hello(), owner=session.owner)

    def _bye(self, session: Session, keep_beam: bool) -> None:
        if session.owner:
            session.owner = False
            self._instrument.stop_scan()
            if not keep_beam:
                self._instrument.safe()
        session.subscribed = False
        session.token = session.proved = None


def _held_by(owner: Session) -> Refusal:
    """Return the refusal that names the client in control."""
    text = f"it is controlled by {owner.client!r} ({owner.where}): wait for that client to end, or connect as observer"
    return Refusal(subsystem=Subsystem.CONTROL, text=text)


def _pending(request: Envelope, rest: float) -> Envelope:
    return request.pending(rest if math.isfinite(rest) else _ENDLESS_PENDING)


def still_holds(instrument: Instrument, reply: object) -> bool:
    """Return whether the state that `reply` announced stands, or is on its way."""
    match reply:
        case Applied(parameter=parameter, value=value):
            return instrument.value(parameter) == value
        case StigmatorApplied(x=x, y=y):
            return _values(instrument, Parameter.STIGMATOR_X, Parameter.STIGMATOR_Y) == (x, y)
        case StageMoved(x=x, y=y):
            return _values(instrument, Parameter.STAGE_X, Parameter.STAGE_Y) == (x, y)
        case StageOriented(tilt=tilt, rotation=rotation):
            return _values(instrument, Parameter.STAGE_TILT, Parameter.STAGE_ROTATION) == (tilt, rotation)
        case BeamSet(on=on):
            return instrument.status().beam_on == on
        case VacuumSet(state=state):
            return instrument.status().vacuum in _ON_THE_WAY[state]
    return True


def _values(instrument: Instrument, first: Parameter, second: Parameter) -> tuple[float, float]:
    return instrument.value(first), instrument.value(second)
