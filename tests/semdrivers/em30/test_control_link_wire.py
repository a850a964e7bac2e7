"""The control link against a scripted peer on a real socket: what it sends, and what it makes of the answers."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from firmware_protocol.control import Decoder, Envelope, encode
from firmware_protocol.messages import (
    Applied,
    Authenticate,
    BeamChanged,
    BeamSet,
    Bye,
    Challenge,
    Done,
    EmergencyStop,
    GetParameter,
    GetStatus,
    Hello,
    HelloReply,
    KeepAlive,
    MoveStage,
    Parameter,
    ParameterValue,
    Pump,
    Reason,
    Refusal,
    SetBeam,
    SetParameter,
    SetStigmator,
    StartScan,
    Status,
    Subscribe,
    Subsystem,
    VacuumSet,
    VacuumState,
    Vent,
    Wait,
)
from semdrivers.em30 import ControlLink, WaitingTimes, open_tcp, send_emergency_stop
from semdrivers.errors import (
    BusyError,
    DeviceError,
    HardwareFault,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    ProtocolError,
    SemDriversError,
    TransportError,
)

HELLO = HelloReply(1, True, 5.0, 0.0, "EM-30", "1", "1.0", (), ())
WD = GetParameter(Parameter.WORKING_DISTANCE)
SET = SetParameter(Parameter.WORKING_DISTANCE, 12.0)
APPLIED = Applied(Parameter.WORKING_DISTANCE, 12.0, 0.1, 1.0)

Answer = Callable[[Envelope], bytes | None]


class ScriptedPeer:
    """Answers HELLO, BYE and SUBSCRIBE in order, and each other request with the next line of its script.

    An answer is bytes, or a function of the request; None closes the connection.
    """

    def __init__(self, hello: Answer | None = None, lease: float = 5.0) -> None:
        self.heard: list[Envelope] = []
        self.script: list[Answer] = []
        self._hello = hello or (
            lambda request: encode(request.reply(HelloReply(1, True, lease, 0.0, "EM-30", "1", "1.0", (), ())))
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.connection: socket.socket | None = None

    def _serve(self) -> None:
        try:
            self.connection, _ = self._listener.accept()
        except OSError:
            return
        decoder = Decoder()
        with self.connection:
            while True:
                try:
                    data = self.connection.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                for item in decoder.feed(data):
                    assert isinstance(item, Envelope)
                    self.heard.append(item)
                    answer = self._answer(item)
                    if answer is None:
                        return
                    self.connection.sendall(answer)

    def _answer(self, request: Envelope) -> bytes | None:
        if isinstance(request.message, Hello):
            return self._hello(request)
        if isinstance(request.message, Bye | Subscribe | KeepAlive):
            return encode(request.reply(Done(0.0)))
        return self.script.pop(0)(request) if self.script else b""

    @property
    def sent(self) -> list[Any]:
        """What the link sent after HELLO, goodbyes left out."""
        return [item.message for item in self.heard[1:] if not isinstance(item.message, Bye)]

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def link(self, **options: Any) -> ControlLink:
        return ControlLink(open_tcp("127.0.0.1", self.port), client_name="tests", name="EM-30 on the bench", **options)


@pytest.fixture
def peer() -> Iterator[ScriptedPeer]:
    peer = ScriptedPeer()
    yield peer
    peer.close()


def ok(message: object) -> Answer:
    return lambda request: encode(request.reply(message))


def refused(status: Status, refusal: Refusal | None = None) -> Answer:
    return lambda request: encode(request.refuse(status, refusal or Refusal()))


def nothing(request: Envelope) -> bytes:
    return b""


def no_em30(request: Envelope) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\n\r\n"


def test_hello_introduces_the_client(peer: ScriptedPeer) -> None:
    with peer.link() as link:
        assert link.hello == HELLO
    hello, bye = peer.heard
    assert (hello.sequence, hello.message.client, hello.message.observer) == (1, "tests", False)
    assert (hello.message.minimum_version, hello.message.maximum_version) == (1, 1)
    assert bye.message == Bye(True)


def test_tokens_differ_from_link_to_link() -> None:
    tokens = set()
    for _ in range(3):
        peer = ScriptedPeer()
        peer.link().close(keep_beam=False)
        tokens.add(peer.heard[0].message.token)
        assert peer.heard[1].message == Bye(False)
        peer.close()
    assert len(tokens) == 3


EXCHANGES = [
    ([(SET, ok(APPLIED))], SET, APPLIED),
    ([(SET, nothing), (SET, ok(APPLIED))], SET, APPLIED),
    ([(SET, refused(Status.BAD_FRAME)), (SET, ok(APPLIED))], SET, APPLIED),
    ([(SET, lambda r: flipped(encode(r.reply(APPLIED)))), (SET, ok(APPLIED))], SET, APPLIED),
    ([(SET, lambda r: encode(r.reply(APPLIED)) * 2)], SET, APPLIED),
    ([(SET, lambda r: b"noise\xe3" + encode(r.reply(APPLIED)))], SET, APPLIED),
    ([(SET, lambda r: encode(r.pending(0.01)) + encode(r.reply(APPLIED)))], SET, APPLIED),
    (
        [(WD, lambda r: encode(Envelope.event(BeamChanged(True, 0.0))) + encode(r.reply(VALUE)))],
        WD,
        ParameterValue(Parameter.WORKING_DISTANCE, 11.0, 0.0),
    ),
    (
        [(WD, lambda r: encode(stranger(r).reply(APPLIED)) + encode(r.reply(VALUE)))],
        WD,
        ParameterValue(Parameter.WORKING_DISTANCE, 11.0, 0.0),
    ),
]
VALUE = ParameterValue(Parameter.WORKING_DISTANCE, 11.0, 0.0)


def flipped(data: bytes) -> bytes:
    return data[:-6] + bytes([data[-6] ^ 4]) + data[-5:]


def stranger(request: Envelope) -> Envelope:
    return Envelope.request(request.sequence + 1000, SET)


@pytest.mark.parametrize(("lines", "request_", "reply"), EXCHANGES)
def test_sent_and_received(peer: ScriptedPeer, lines: list[tuple[Any, Answer]], request_: Any, reply: Any) -> None:
    peer.script = [answer for _, answer in lines]
    with peer.link() as link:
        assert link.request(request_, deadline=2.0) == reply
    assert peer.sent == [message for message, _ in lines]
    assert len({item.sequence for item in peer.heard[1:-1]}) == 1, "a repetition keeps its sequence number"


def test_commands_carry_what_they_wait_for_and_queries_nothing(peer: ScriptedPeer) -> None:
    peer.script = [ok(APPLIED), ok(APPLIED), ok(VALUE)]
    with peer.link() as link:
        link.request(SET)
        link.request(SET, wait=Wait.OPTICS)
        link.request(WD)
    assert [item.flags for item in peer.heard[1:4]] == [Wait.ALL, Wait.OPTICS, Wait.NOTHING]


OUTCOMES = {
    Status.NOT_IMPLEMENTED: DeviceError,
    Status.INVALID_PARAMETER: InvalidParameterError,
    Status.OUT_OF_RANGE: OutOfRangeError,
    Status.READ_ONLY: DeviceError,
    Status.NOT_OWNER: BusyError,
    Status.BUSY: BusyError,
    Status.INTERLOCK: InterlockError,
    Status.ABORTED: DeviceError,
    Status.TIMEOUT: HardwareFault,
    Status.HARDWARE_FAULT: HardwareFault,
    Status.BAD_FRAME: ProtocolError,
    Status.NOT_AUTHENTICATED: NotConnectedError,
}


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_status_has_its_exception(peer: ScriptedPeer, status: Status) -> None:
    peer.script = [refused(status)] * 20
    with peer.link() as link:
        with pytest.raises(SemDriversError) as caught:
            link.request(SET, deadline=60.0)
        assert type(caught.value) is OUTCOMES[status]
        assert "EM-30 on the bench" in str(caught.value)
        assert "working_distance to 12" in str(caught.value)


def test_a_refusal_names_limits_subsystem_and_interlocks(peer: ScriptedPeer) -> None:
    peer.script = [
        refused(Status.OUT_OF_RANGE, Refusal(minimum=1.0, maximum=50.0)),
        refused(Status.BUSY, Refusal(subsystem=Subsystem.STAGE, text="the stage is moving")),
        refused(Status.INTERLOCK, Refusal(reasons=Reason.DOOR_OPEN | Reason.VACUUM_NOT_READY)),
    ]
    with peer.link() as link:
        with pytest.raises(OutOfRangeError, match="limits 1 to 50"):
            link.request(SET)
        with pytest.raises(BusyError, match=r"moving the stage to \(1, 2\) mm: the stage is moving .*busy: stage"):
            link.request(MoveStage(1.0, 2.0))
        with pytest.raises(InterlockError, match=r"switching the beam on: .*vacuum not ready, door open"):
            link.request(SetBeam(True))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (WD, "reading working_distance"),
        (SetStigmator(1.0, 2.0), "setting the stigmator"),
        (StartScan(320, 240), "320x240"),
        (SetBeam(False), "beam off"),
        (Vent(), "VENT"),
    ],
)
def test_messages_say_what_was_asked(peer: ScriptedPeer, request_: Any, words: str) -> None:
    peer.script = [refused(Status.ABORTED)]
    with peer.link() as link, pytest.raises(DeviceError, match=words):
        link.request(request_)


def test_a_request_that_is_never_answered_ends_at_its_deadline(peer: ScriptedPeer) -> None:
    with peer.link() as link:
        with pytest.raises(TransportError, match=r"did not answer reading working_distance within 0\.4 s"):
            link.request(WD, deadline=0.4)
        peer.script = [ok(VALUE)]
        assert link.request(WD) == VALUE
    assert len(peer.sent) > 2


def test_a_peer_that_is_forever_pending_ends_too(peer: ScriptedPeer) -> None:
    peer.script = [lambda request: encode(request.pending(1e6))] * 50
    with peer.link(waiting=WaitingTimes(vacuum=0.5)) as link, pytest.raises(TransportError, match=r"within 0\.5 s"):
        link.request(Pump(), deadline=0.2)


def test_pending_extends_the_deadline(peer: ScriptedPeer) -> None:
    done = VacuumSet(VacuumState.READY, 1.0, 1.0)

    def late(request: Envelope) -> bytes:
        def finish() -> None:
            assert peer.connection is not None
            peer.connection.sendall(encode(request.reply(done)))

        threading.Timer(1.3, finish).start()
        return encode(request.pending(30.0))

    peer.script = [late]
    with peer.link() as link:
        assert link.request(Pump(), deadline=1.0) == done
    assert peer.sent == [Pump()], "nothing is repeated while the instrument is at work"


def test_a_peer_at_work_is_asked_as_often_as_before_however_often_it_says_so(peer: ScriptedPeer) -> None:
    """Longer than the deadline, announced in small pieces."""
    done = VacuumSet(VacuumState.READY, 1.0, 1.0)
    peer.script = [lambda request: encode(request.pending(0.0))] * 6 + [ok(done)]
    with peer.link() as link:
        assert link.request(Pump(), deadline=1.5) == done


def test_a_lost_connection_ends_requests_and_is_remembered(peer: ScriptedPeer) -> None:
    peer.script = [lambda request: None]
    link = peer.link()
    for _ in range(2):
        with pytest.raises(TransportError, match=r"closed by the other side|broke"):
            link.request(WD)
    link.close()
    link.close()
    with pytest.raises(NotConnectedError, match="EM-30 on the bench is closed"):
        link.request(WD)


def test_closing_ends_a_request_in_another_thread(peer: ScriptedPeer) -> None:
    link = peer.link()
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            link.request(WD, deadline=60)
        except SemDriversError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not peer.sent:
        time.sleep(0.01)
    link.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(raised[0], NotConnectedError)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (nothing, NotConnectedError, "does not answer"),
        (lambda request: None, NotConnectedError, "closed by the other side"),
        (no_em30, ProtocolError, "no EM-30"),
        (lambda request: version_two(encode(request.reply(HELLO))), ProtocolError, "version 2"),
        (lambda request: encode(request.reply(Done(1.0))), ProtocolError, "does not fit its layout"),
        (lambda request: encode(other(request).reply(Done(1.0))), ProtocolError, "instead of"),
        (refused(Status.BUSY, Refusal(text="it is controlled by 'a'")), BusyError, "controlled by 'a'"),
        (refused(Status.NOT_IMPLEMENTED, Refusal(text="speaks 3")), DeviceError, "speaks 3"),
    ],
)
def test_a_failed_hello_says_why_and_leaves_no_thread(answer: Answer, error: type[Exception], words: str) -> None:
    peer = ScriptedPeer(answer)
    before = set(threading.enumerate())
    with pytest.raises(error, match=words):
        peer.link(deadline={nothing: 0.4, no_em30: 1.0}.get(answer, 60.0))
    assert set(threading.enumerate()) <= before
    peer.close()


def version_two(data: bytes) -> bytes:
    import binascii
    import struct
    import zlib

    header = data[:2] + b"\x02" + data[3:14]
    body = header + struct.pack("<H", binascii.crc_hqx(header, 0xFFFF)) + data[16:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def other(request: Envelope) -> Envelope:
    return Envelope.request(request.sequence, KeepAlive())


def test_values_that_do_not_fit_are_refused_before_anything_is_sent(peer: ScriptedPeer) -> None:
    with peer.link() as link:
        with pytest.raises(InvalidParameterError, match=r"EM-30 on the bench: SetParameter\.value"):
            link.request(SetParameter(Parameter.MAGNIFICATION, "high"))  # type: ignore[arg-type]
        assert peer.sent == []


def test_the_lease_is_renewed_by_keep_alives() -> None:
    peer = ScriptedPeer(lease=0.3)
    with peer.link():
        deadline = time.monotonic() + 10
        while peer.sent.count(KeepAlive()) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert peer.sent.count(KeepAlive()) >= 3
    peer.close()


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
@pytest.mark.parametrize("rest", [0.0, 0.05], ids=["it reads itself", "the thread of the link reads"])
def test_a_signal_handler_may_ask_while_its_own_thread_waits_for_an_answer(peer: ScriptedPeer, rest: float) -> None:
    """The handler takes longer than the shortest wait of the link, which must end nevertheless."""

    def answer(request: Envelope) -> bytes:
        if request.message == WD:
            time.sleep(0.03)
            return encode(request.reply(VALUE))
        if sum(item.message == SET for item in peer.heard) > 1:
            return encode(request.reply(APPLIED))
        time.sleep(0.002)  # it waits by now
        os.kill(os.getpid(), signal.SIGUSR1)
        return encode(request.reply(APPLIED))[:10]  # what the handler then reads begins in the middle of an answer

    peer.script = [answer] * 20
    asked: list[object] = []
    with peer.link() as link:
        time.sleep(rest)
        before = signal.signal(signal.SIGUSR1, lambda *_: asked.append(link.request(WD, deadline=4.0)))
        try:
            assert link.request(SET, deadline=4.0) == APPLIED
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert asked == [VALUE]


def test_threads_that_ask_at_once_each_get_their_own_answer(peer: ScriptedPeer) -> None:
    peer.script = [lambda request: encode(request.reply(ParameterValue(request.message.parameter, 1.0, 0.0)))] * 200
    wrong: list[object] = []

    def ask(parameter: Parameter) -> None:
        for _ in range(50):
            answer = link.request(GetParameter(parameter))
            if answer.parameter is not parameter:
                wrong.append(answer)

    with peer.link() as link:
        threads = [threading.Thread(target=ask, args=(parameter,)) for parameter in list(Parameter)[:4]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert (wrong, len(peer.sent)) == ([], 200)


def test_queries_that_are_sent_together_each_get_their_own_answer(peer: ScriptedPeer) -> None:
    asked = [GetParameter(each) for each in (Parameter.STAGE_X, Parameter.STAGE_Y, Parameter.BRIGHTNESS)]

    def answer(request: Envelope) -> bytes:
        return encode(request.reply(ParameterValue(request.message.parameter, request.message.parameter / 4, 0.0)))

    held: list[bytes] = []

    def hold(request: Envelope) -> bytes:
        held.append(answer(request))
        return b""

    # The first answer is lost, and the query sent again; the second comes behind the third
    peer.script += [nothing, hold, lambda request: answer(request) + held.pop(), answer]
    with peer.link() as link:
        answers = link.ask(asked, deadline=0.5)
        assert [each.value for each in answers] == [each.parameter / 4 for each in asked]
        answers.close()
        numbers = [each.sequence for each in peer.heard if isinstance(each.message, GetParameter)]
        assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2, numbers[0]]
        peer.script += [answer, answer]
        link.ask(asked[:1]).close()  # nobody wants that answer
        assert link.request(asked[1]).value == asked[1].parameter / 4
    with pytest.raises(NotConnectedError):
        link.ask(asked)


def test_observers_renew_no_lease() -> None:
    peer = ScriptedPeer(lease=0.1)
    with peer.link(observer=True):
        time.sleep(0.4)
    assert peer.heard[0].message.observer
    assert peer.sent == []
    peer.close()


def test_events_reach_every_subscriber_though_one_fails(peer: ScriptedPeer, caplog: pytest.LogCaptureFixture) -> None:
    peer.script = [lambda r: encode(Envelope.event(BeamChanged(False, 1.0))) + encode(r.reply(VALUE))] * 2
    heard: list[object] = []

    def fails(event: object) -> None:
        raise RuntimeError("no")

    with peer.link() as link:
        link.subscribe(fails)
        unsubscribe = link.subscribe(heard.append)
        link.request(WD)
        unsubscribe()
        link.request(WD)
    assert heard == [BeamChanged(False, 1.0)]
    assert peer.sent.count(Subscribe(True)) == 1
    assert "a subscriber failed" in caplog.text


def test_a_subscriber_cannot_send_requests(peer: ScriptedPeer, caplog: pytest.LogCaptureFixture) -> None:
    peer.script = [lambda r: encode(Envelope.event(BeamChanged(False, 1.0))) + encode(r.reply(VALUE))]
    with peer.link() as link:
        link.subscribe(lambda event: link.request(GetStatus()))
        assert link.request(WD) == VALUE
    assert "hand over to another thread" in caplog.text


def test_a_subscriber_may_close_the_link(peer: ScriptedPeer) -> None:
    peer.script = [lambda r: encode(Envelope.event(BeamChanged(False, 1.0)))]
    link = peer.link()
    link.subscribe(lambda event: link.close())
    with pytest.raises(NotConnectedError):
        link.request(WD, deadline=20)


def test_many_threads_share_a_link(peer: ScriptedPeer) -> None:
    def echo(request: Envelope) -> bytes:
        return encode(request.reply(ParameterValue(request.message.parameter, float(request.sequence), 0.0)))

    peer.script = [echo] * 200
    failures: list[object] = []
    with peer.link() as link:

        def ask(parameter: Parameter) -> None:
            for _ in range(25):
                reply = link.request(GetParameter(parameter))
                if reply.parameter is not parameter:
                    failures.append(reply)

        threads = [threading.Thread(target=ask, args=(parameter,)) for parameter in list(Parameter)[:8]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len({item.sequence for item in peer.heard}) == len(peer.heard)


def test_sequence_numbers_wrap_round_to_1(peer: ScriptedPeer) -> None:
    peer.script = [ok(VALUE)] * 3
    with peer.link(numbers=3) as link:
        for _ in range(3):
            link.request(WD)
    assert [item.sequence for item in peer.heard[:4]] == [1, 2, 3, 1]


def test_a_subscription_that_fails_leaves_nobody_behind(peer: ScriptedPeer) -> None:
    peer.script = [lambda request: None]
    with peer.link() as link:
        with pytest.raises(TransportError):
            link.request(WD)
        heard: set[object] = set()
        subscriber = weakref.ref(heard)
        with pytest.raises(TransportError):
            link.subscribe(heard.add)
        del heard
        gc.collect()
        assert subscriber() is None


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ([ok(BeamSet(False, 0.0, 1.0))], None, ""),
        ([refused(Status.BAD_FRAME), ok(BeamSet(False, 0.0, 1.0))], None, ""),
        ([no_em30, ok(BeamSet(False, 0.0, 1.0))], None, ""),
        ([ok(BeamSet(True, 0.0, 1.0))], HardwareFault, "the beam on after an emergency stop"),
        ([refused(Status.NOT_IMPLEMENTED)], DeviceError, "emergency stop"),
        ([ok(Done(1.0))], TransportError, "within 0.4 s over"),
        ([lambda request: encode(other(request).reply(Done(1.0)))], ProtocolError, "an emergency stop with Done"),
        ([lambda request: encode(stranger(request).reply(BeamSet(False, 0.0, 1.0)))], TransportError, "switch the beam off"),
        ([nothing], TransportError, "switch the beam off at the instrument"),
    ],
)  # fmt: skip
def test_a_stop_without_a_session_ends_with_the_beam_off_or_an_error(
    peer: ScriptedPeer, script: list[Answer], error: type[Exception] | None, words: str
) -> None:
    peer.script = script
    transport = open_tcp("127.0.0.1", peer.port)
    deadline = 0.4 if error is TransportError else 5.0
    with nullcontext() if error is None else pytest.raises(error, match=words):
        send_emergency_stop(transport, client="tests", name="EM-30 on the bench", deadline=deadline)
    assert {type(each.message) for each in peer.heard} == {EmergencyStop}
    assert {each.message.client for each in peer.heard} == {"tests"}


@pytest.mark.parametrize("challenge", ["", "zz", "00" * 31, "00" * 33])
def test_what_is_no_challenge_is_no_proof_given(challenge: str) -> None:
    peer = ScriptedPeer(refused(Status.NOT_AUTHENTICATED))
    peer.script = [ok(Challenge(challenge))]
    with pytest.raises(ProtocolError, match="which is no challenge"):
        peer.link(secret="a secret")
    assert [each.message.proof for each in peer.heard if isinstance(each.message, Authenticate)] == [""]
    peer.close()


def test_a_sequence_number_that_waits_for_its_answer_is_passed_over(peer: ScriptedPeer) -> None:
    """After so many further requests as there are numbers, the one that is still waited for comes round again."""
    with peer.link(numbers=3) as link:
        late: list[Envelope] = []

        def keep(request: Envelope) -> bytes:
            late.append(request)
            return b""

        peer.script = [keep]
        outcome: list[object] = []
        waits = threading.Thread(target=lambda: outcome.append(link.request(WD, deadline=60.0)))
        waits.start()
        while not late:
            time.sleep(0.01)
        peer.script = [ok(APPLIED)] * 3
        assert [link.request(SET) for _ in range(3)] == [APPLIED] * 3
        assert [item.sequence for item in peer.heard] == [1, 2, 3, 1, 3]
        value = ParameterValue(Parameter.WORKING_DISTANCE, 12.0, 1.0)
        assert peer.connection is not None
        peer.connection.sendall(encode(late[0].reply(value)))
        waits.join(10)
        assert outcome == [value]
