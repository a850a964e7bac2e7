"""The emulated instrument behind real TCP and a real pseudo-terminal, driven by the shipped control link."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_protocol.control import Decoder, Envelope, encode
from firmware_protocol.messages import (
    BeamChanged,
    Bye,
    Done,
    Event,
    GetParameter,
    GetStatus,
    Hello,
    InterlockTripped,
    KeepAlive,
    Kind,
    MoveStage,
    Opcode,
    Parameter,
    ParameterChanged,
    Pending,
    Pump,
    SetBeam,
    SetParameter,
    SetStigmator,
    StageIdle,
    StartScan,
    Status,
    StopScan,
    Unknown,
    VacuumState,
    Vent,
    Wait,
)
from firmware_protocol.profile import EM30
from semdrivers.em30 import ControlLink, open_serial, open_tcp
from semdrivers.emulator.instrument import Instrument
from semdrivers.emulator.physics import ScanConditions, Truth
from semdrivers.emulator.wires import ControlDesk, ControlServer
from semdrivers.errors import (
    BusyError,
    DeviceError,
    HardwareFault,
    InterlockError,
    InvalidParameterError,
    NotConnectedError,
    OutOfRangeError,
    TransportError,
)

WD = GetParameter(Parameter.WORKING_DISTANCE)
QUICK = dataclasses.replace(
    EM30, lease_time=0.8, lens_time_constant=0.02, stage_settling=0.3, pump_time=0.5, vent_time=0.2, beam_on_time=0.1
)

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


class FlatColumn:
    def render(self, conditions: ScanConditions) -> Any:
        return np.zeros((conditions.height, conditions.width), np.uint8)

    def truth(self, conditions: ScanConditions) -> Truth:
        return Truth(15.0, 0.1, 0.0, 9.0)


@pytest.fixture
def threads() -> Iterator[None]:
    """No thread may outlive a test."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


Served = Callable[..., ControlServer]


@pytest.fixture
def serve(threads: None) -> Iterator[Served]:
    opened: list[ControlServer] = []

    def start(*, serial: bool = False, patience: float = 5.0, **options: Any) -> ControlServer:
        server = ControlServer(Instrument(FlatColumn(), **options), serial=serial, patience=patience)
        opened.append(server)
        server.start()
        return server

    yield start
    for server in opened:
        server.close()
        server.close()
        server.instrument.close()


def connect(server: ControlServer, name: str = "tests", **options: Any) -> ControlLink:
    return ControlLink(open_tcp("127.0.0.1", server.port), client_name=name, name="EM-30", **options)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


class RawClient:
    """A socket with a decoder: for what the shipped link would never send."""

    def __init__(self, server: ControlServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port))
        self.socket.settimeout(20)
        self._decoder = Decoder()
        self._items: list[Any] = []

    def send(self, *requests: Envelope | bytes) -> None:
        self.socket.sendall(b"".join(r if isinstance(r, bytes) else encode(r) for r in requests))

    def receive(self) -> Any:
        while not self._items:
            data = self.socket.recv(65536)
            assert data, "the server hung up"
            self._items += self._decoder.feed(data)
        return self._items.pop(0)

    def ask(self, request: Envelope | bytes) -> Any:
        self.send(request)
        return self.receive()

    def hello(self, token: int = 1, sequence: int = 1, observer: bool = False) -> Any:
        return self.ask(Envelope.request(sequence, Hello(1, 1, token, observer, "raw")))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_hello_tells_limits_and_modes(serve: Served) -> None:
    with connect(serve(seed=7)) as link:
        hello = link.hello
    assert (hello.version, hello.owner, hello.model, hello.serial) == (1, True, "EM-30", "EMU000007")
    limits = {c.name: (c.minimum, c.maximum, c.step, c.unit, c.writable) for c in hello.capabilities}
    assert limits["working_distance"] == (1.0, 50.0, 0.001, "mm", True)
    assert limits["magnification"] == (20.0, 150000.0, 1.0, "", True)
    assert not limits["stage_z"][-1]
    assert {c.name.upper() for c in hello.capabilities} == {p.name for p in Parameter}
    assert next((m.name, m.width, m.height) for m in hello.scan_modes) == ("FAST", 320, 240)


def test_a_set_returns_settled_and_quantised(serve: Served) -> None:
    server = serve()
    with connect(server) as link:
        applied = link.request(SetParameter(Parameter.WORKING_DISTANCE, 16.00049))
        assert applied.value == 16.0
        assert link.request(GetStatus()).time >= applied.time == applied.settling > 0.5
        assert server.instrument.conditions().working_distance == 16.0
        assert link.request(WD).value == 16.0


def test_a_set_that_waits_for_nothing_returns_at_once(serve: Served) -> None:
    with connect(serve()) as link:
        applied = link.request(SetParameter(Parameter.WORKING_DISTANCE, 16.0), wait=Wait.NOTHING)
        assert link.request(GetStatus()).time == 0.0 < applied.time


def test_every_command_works_over_the_wire(serve: Served) -> None:
    with connect(serve()) as link:
        started = link.request(StartScan(640, 480, 16, 5))
        assert (started.first_frame, started.frame_time) == (1, pytest.approx(0.98304))
        assert link.request(GetStatus()).scanning
        assert isinstance(link.request(StopScan()), Done)
        assert link.request(SetStigmator(1.0, -1.0)).y == -1.0
        moved = link.request(MoveStage(1.0, 2.0))
        assert (moved.x, moved.y) == (1.0, 2.0)
        assert not link.request(GetStatus()).stage_moving
        assert not link.request(SetBeam(False)).on
        assert link.request(Vent()).state is VacuumState.VENTED
        assert link.request(GetStatus()).vacuum is VacuumState.VENTED
        assert link.request(Pump()).state is VacuumState.READY
        assert link.request(SetBeam(True)).on
        status = link.request(GetStatus())
        assert (status.beam_on, status.vacuum, status.owner) == (True, VacuumState.READY, "tests")
        assert status.time == pytest.approx(0.05 + 4 + np.hypot(1, 2) / 35 + 60 + 120 + 5)


def test_refusals_name_instrument_parameter_value_and_limit(serve: Served) -> None:
    server = serve(stage_height=30.0)
    with connect(server) as link:
        with pytest.raises(OutOfRangeError, match=r"EM-30 .*working_distance 60 mm is outside 1 to 50 mm"):
            link.request(SetParameter(Parameter.WORKING_DISTANCE, 60.0))
        with pytest.raises(OutOfRangeError, match="magnification nan"):
            link.request(SetParameter(Parameter.MAGNIFICATION, float("nan")))
        with pytest.raises(InterlockError, match=r"at least 11 mm.*collision"):
            link.request(SetParameter(Parameter.WORKING_DISTANCE, 5.0))
        with pytest.raises(DeviceError, match="stage_x cannot be set"):
            link.request(SetParameter(Parameter.STAGE_X, 1.0))
        with pytest.raises(InvalidParameterError, match="no scan of 1x1"):
            link.request(StartScan(1, 1))
        with pytest.raises(InterlockError, match="beam on"):
            link.request(Vent())
        link.request(MoveStage(5.0, 5.0), wait=Wait.NOTHING)
        with pytest.raises(BusyError, match="stage"):
            link.request(MoveStage(0.0, 0.0))
        server.instrument.break_filament()
        with pytest.raises(HardwareFault, match="filament"):
            link.request(SetBeam(True))


def test_one_owner_several_observers(serve: Served) -> None:
    server = serve()
    heard: dict[str, list[Event]] = {"a": [], "b": []}
    with connect(server, "owner") as owner, connect(server, "a", observer=True) as a:
        with connect(server, "b", observer=True) as b:
            a.subscribe(heard["a"].append)
            b.subscribe(heard["b"].append)
            assert not a.hello.owner
            with pytest.raises(BusyError, match="controlled by 'owner'"):
                connect(server, "late")
            with pytest.raises(BusyError, match="controlled by 'owner'"):
                a.request(SetBeam(False))
            owner.request(SetParameter(Parameter.MAGNIFICATION, 2000.0))
            assert a.request(GetParameter(Parameter.MAGNIFICATION)).value == 2000.0
            assert b.request(GetStatus()).owner == "owner"
            expected = [ParameterChanged(Parameter.MAGNIFICATION, 2000.0, 0.0)]
            eventually(lambda: heard == {"a": expected, "b": expected})
        server.instrument.set_parameter(Parameter.WORKING_DISTANCE, 14.0)
        eventually(lambda: len(heard["a"]) == 2)
        assert len(heard["b"]) == 1


def test_the_lease_passes_on_when_its_owner_says_goodbye(serve: Served) -> None:
    server = serve()
    first = connect(server, "first")
    first.request(StartScan(320, 240))
    first.close()
    with connect(server, "second") as second:
        status = second.request(GetStatus())
        assert (status.beam_on, status.scanning, status.owner) == (True, False, "second")
        second.request(StartScan(320, 240))
    third = connect(server, "third")
    third.close(keep_beam=False)
    with connect(server, "fourth") as fourth:
        assert not fourth.request(GetStatus()).beam_on


def test_a_broken_connection_loses_the_lease_and_blanks_the_beam(serve: Served) -> None:
    server = serve()
    heard: list[Event] = []
    with connect(server, "watcher", observer=True) as watcher:
        watcher.subscribe(heard.append)
        with RawClient(server) as client:
            client.hello()
            assert client.ask(Envelope.request(2, StartScan(320, 240))).status is Status.OK
        eventually(lambda: any(isinstance(event, InterlockTripped) for event in heard))
        status = watcher.request(GetStatus())
    assert (status.beam_on, status.scanning, status.vacuum, status.owner) == (False, False, VacuumState.READY, "")
    assert any(event == BeamChanged(False, 0.0) for event in heard)
    with connect(server, "next") as link:
        with pytest.raises(InterlockError, match="beam, which is off: switch it on"):
            link.request(StartScan(320, 240))
        link.request(SetBeam(True))
        link.request(StartScan(320, 240))


def test_a_silent_owner_loses_the_lease(serve: Served) -> None:
    server = serve(profile=QUICK)
    with RawClient(server) as client:
        client.hello()
        eventually(lambda: not server.instrument.status().beam_on)
        reply = client.ask(Envelope.request(2, SetBeam(True)))
        assert reply.status is Status.NOT_OWNER
        assert "lost" in reply.message.text
        again = client.hello(sequence=3)
        assert again.message.owner
        assert client.ask(Envelope.request(4, SetBeam(True))).status is Status.OK


def test_the_shipped_link_keeps_its_lease(serve: Served) -> None:
    server = serve(profile=QUICK)
    with connect(server) as link:
        time.sleep(2.5 * QUICK.lease_time)
        assert link.request(GetStatus()).beam_on
        link.request(StartScan(320, 240))


def test_a_repeated_set_moves_nothing_twice(serve: Served) -> None:
    server = serve()
    changes: list[Event] = []
    server.instrument.listen(changes.append)
    with RawClient(server) as client:
        client.hello()
        request = Envelope.request(2, SetParameter(Parameter.WORKING_DISTANCE, 14.0), Wait.ALL)
        first = client.ask(request)
        server.instrument.set_parameter(Parameter.WORKING_DISTANCE, 13.0)
        assert client.ask(request) == first
        assert server.instrument.value(Parameter.WORKING_DISTANCE) == 13.0
        assert len(changes) == 2
        again = Envelope.request(2, SetParameter(Parameter.WORKING_DISTANCE, 14.5))
        assert client.ask(again).message.value == 14.5, "the same number with another request is another request"


def test_a_repeated_hello_is_answered_alike_and_another_token_waits_for_the_lease(serve: Served) -> None:
    server = serve()
    with RawClient(server) as client:
        first = client.hello()
        assert client.hello() == first
        for observer in (False, True):
            refused = client.hello(token=2, sequence=2, observer=observer)
            assert refused.status is Status.BUSY
            assert "controlled by 'raw' (127.0.0.1:" in refused.message.text
        assert client.ask(Envelope.request(2, SetParameter(Parameter.WORKING_DISTANCE, 14.0))).status is Status.OK
        assert server.instrument.status().beam_on
        client.ask(Envelope.request(3, Bye()))
        assert client.hello(token=2).message.owner


def deserted(serve: Served) -> ControlServer:
    """A server on a serial line whose client in control has left without a word."""
    server = serve(serial=True, profile=QUICK)
    assert server.device is not None
    transport = open_serial(server.device)
    transport.send(encode(Envelope.request(1, Hello(1, 1, 9, False, "crashed"))), 1.0)
    assert transport.receive(5.0)
    transport.close()
    return server


@needs_pty
def test_another_client_on_the_serial_line_waits_for_the_lease(serve: Served) -> None:
    server = deserted(serve)
    refusals = []

    def accepted() -> bool:
        try:
            ControlLink(open_serial(server.device), client_name="next", name="EM-30").close()
        except BusyError as error:
            refusals.append(str(error))
            return False
        return True

    eventually(accepted)
    assert refusals
    assert "controlled by 'crashed'" in refusals[0]
    assert server.device in refusals[0]


def test_nothing_goes_before_hello(serve: Served) -> None:
    with RawClient(serve()) as client:
        for message in (GetStatus(), SetBeam(False), KeepAlive(), Bye()):
            assert client.ask(Envelope.request(1, message)).status is Status.NOT_OWNER
        refused = client.ask(Envelope.request(1, Hello(2, 3, 1, False, "future")))
        assert refused.status is Status.NOT_IMPLEMENTED
        assert "version 1" in refused.message.text
        assert client.ask(Envelope.request(2, GetStatus())).status is Status.NOT_OWNER


def test_a_session_ends_with_bye(serve: Served) -> None:
    with RawClient(serve()) as client:
        client.hello()
        bye = Envelope.request(2, Bye())
        assert client.ask(bye) == client.ask(bye)
        assert client.ask(Envelope.request(3, GetStatus())).status is Status.NOT_OWNER


def damaged(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_damaged_and_unknown_requests_get_their_status(serve: Served) -> None:
    with RawClient(serve()) as client:
        client.hello()
        request = encode(Envelope.request(5, SetParameter(Parameter.WORKING_DISTANCE, 14.0)))
        reply = client.ask(damaged(request, 20))
        assert (reply.sequence, reply.opcode, reply.status) == (5, Opcode.SET_PARAMETER, Status.BAD_FRAME)
        unknown = client.ask(Envelope(Kind.REQUEST, 6, 0x7001, Unknown(b"abc")))
        assert (unknown.sequence, unknown.opcode, unknown.status) == (6, 0x7001, Status.NOT_IMPLEMENTED)
        layout = client.ask(Envelope(Kind.REQUEST, 7, Opcode.SET_PARAMETER, Unknown(b"abc")))
        assert (layout.sequence, layout.status) == (7, Status.INVALID_PARAMETER)
        client.send(b"garbage", encode(Envelope.event(StageIdle(0, 0, 0))), damaged(request, 4))
        assert client.ask(Envelope.request(8, WD)).message.value == 15.0


def test_requests_cut_and_glued_are_all_answered(serve: Served) -> None:
    with RawClient(serve()) as client:
        client.hello()
        stream = b"".join(encode(Envelope.request(n, WD)) for n in range(2, 8))
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(stream), 7):
            client.send(stream[start : start + 7])
        assert [client.receive().sequence for _ in range(6)] == list(range(2, 8))


def test_half_a_message_is_given_up_after_a_silence(serve: Served) -> None:
    with RawClient(serve()) as client:
        client.hello()
        request = encode(Envelope.request(2, Hello(1, 1, 1, True, "x" * 500)))
        client.send(request[:100])
        time.sleep(0.7)
        assert client.ask(Envelope.request(3, WD)).sequence == 3


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_bring_the_server_down(serve: Served, noise: list[bytes]) -> None:
    server = ControlServer(Instrument(FlatColumn()))
    with server, RawClient(server) as client:
        client.hello()
        for piece in noise:
            client.send(piece)
        client.send(bytes(5000))
        assert client.ask(Envelope.request(3, WD)).message.value == 15.0


def test_a_client_that_never_reads_is_cut_off_and_disturbs_nobody(serve: Served) -> None:
    server = serve(patience=0.3)
    with connect(server) as link, RawClient(server) as deaf:
        deaf.hello(observer=True)
        burst = encode(Envelope.request(2, GetStatus())) * 20_000
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.socket.settimeout(0.05)

        def cut_off() -> bool:
            try:
                deaf.socket.sendall(burst)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        eventually(cut_off)
        assert link.request(WD).value == 15.0


def test_a_client_without_hello_is_hung_up_on(serve: Served) -> None:
    server = serve(patience=0.3)
    with connect(server) as link, RawClient(server) as mute:
        mute.send(b"noise")
        assert mute.socket.recv(1) == b""
        assert link.request(WD).value == 15.0


def test_a_flood_of_hellos_ends_with_the_client_that_sends_it(serve: Served) -> None:
    server = serve()
    with connect(server) as link, RawClient(server) as flood:
        flood.send(*(Envelope.request(n, Hello(1, 1, n, True, "flood")) for n in range(1, 200)))
        with contextlib.suppress(ConnectionError):
            while flood.socket.recv(65536):
                pass
        assert link.request(WD).value == 15.0


def test_real_time_waits_and_tells_how_long(serve: Served) -> None:
    server = serve(profile=QUICK, realtime=True)
    with RawClient(server) as client:
        client.hello()
        request = Envelope.request(2, MoveStage(1.0, 0.0), Wait.ALL)
        pending = client.ask(request)
        assert (pending.kind, type(pending.message)) == (Kind.PENDING, Pending)
        assert 0 < pending.message.seconds <= 0.35
        assert client.ask(request).kind is Kind.PENDING, "a repetition while it moves moves nothing"
        assert client.ask(Envelope.request(3, WD)).message.value == 15.0, "queries are answered meanwhile"
        reply = client.receive()
        assert (reply.sequence, reply.message.x) == (2, 1.0)
        assert server.instrument.clock.now() >= reply.message.time
        assert client.ask(request) == reply


def test_real_time_waits_longer_than_deadline_and_lease(serve: Served) -> None:
    server = serve(profile=dataclasses.replace(QUICK, stage_settling=1.5), realtime=True)
    with RawClient(server) as client:
        client.hello()
        client.send(Envelope.request(2, MoveStage(1.0, 0.0), Wait.ALL))
        assert client.receive().kind is Kind.PENDING
        assert client.receive().status is Status.OK
        assert server.instrument.status().beam_on, "a client that waits is not silent"


def test_a_later_change_aborts_a_command_that_waits(serve: Served) -> None:
    server = serve(profile=dataclasses.replace(EM30, lens_time_constant=5.0), realtime=True)
    with connect(server) as link:
        raised: list[BaseException] = []

        def focus() -> None:
            try:
                link.request(SetParameter(Parameter.WORKING_DISTANCE, 16.0), deadline=60.0)
            except DeviceError as error:
                raised.append(error)

        thread = threading.Thread(target=focus)
        thread.start()
        eventually(lambda: server.instrument.value(Parameter.WORKING_DISTANCE) == 16.0)
        server.instrument.set_parameter(Parameter.WORKING_DISTANCE, 12.0)
        thread.join(20)
        assert not thread.is_alive()
    assert "a later change took its place" in str(raised[0])


def test_stopping_works_while_the_pump_runs(serve: Served) -> None:
    server = serve(profile=dataclasses.replace(EM30, vent_time=0.0), realtime=True)
    link = connect(server)
    link.request(SetBeam(False))
    link.request(Vent())
    thread_ended = threading.Event()

    def pump() -> None:
        with pytest.raises(NotConnectedError):
            link.request(Pump(), deadline=60.0)
        thread_ended.set()

    thread = threading.Thread(target=pump)
    thread.start()
    eventually(lambda: server.instrument.status().vacuum is VacuumState.PUMPING)
    link.request(StopScan(), wait=Wait.NOTHING)
    link.close()
    thread.join(20)
    assert thread_ended.is_set()


def test_a_closed_server_ends_its_clients(serve: Served) -> None:
    server = serve()
    link = connect(server)
    server.close()
    with pytest.raises(TransportError):
        link.request(WD, deadline=5.0)
    link.close()
    with pytest.raises(NotConnectedError, match="refused"):
        connect(server)


def test_a_port_in_use_is_an_error_and_leaks_nothing(serve: Served) -> None:
    server = serve()
    with pytest.raises(OSError, match=r"in use|only one usage"):
        ControlServer(Instrument(FlatColumn()), port=server.port, serial=sys.platform != "win32").start()


class Relay:
    """A TCP relay that spoils what the instrument sends: `spoil` turns one chunk into chunks."""

    def __init__(self, port: int, spoil: Callable[[bytes], list[bytes]]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target = port
        self._spoil = spoil
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        back = threading.Thread(target=self._pump, args=(server, client, self._spoil))
        back.start()
        self._pump(client, server, lambda data: [data])
        back.join()
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, spoil: Callable[[bytes], list[bytes]]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                for piece in spoil(data):
                    sink.sendall(piece)
                    time.sleep(0.002)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self._threads[0].join(20)
        assert not self._threads[0].is_alive()


SPOILERS: dict[str, Callable[[int, bytes], list[bytes]]] = {
    "lost": lambda n, data: [] if n % 3 == 1 else [data],
    "duplicated": lambda n, data: [data, data],
    "cut in two": lambda n, data: [data[:9], data[9:]],
    "in sevens": lambda n, data: [data[i : i + 7] for i in range(0, len(data), 7)],
    "corrupted": lambda n, data: [damaged(data, 18)] if n % 3 == 1 else [data],
    "header corrupted": lambda n, data: [damaged(data, 12)] if n % 3 == 1 else [data],
    "truncated": lambda n, data: [data[:-3]] if n % 3 == 1 else [data],
    "behind noise": lambda n, data: [b"\xe3\x30\xe3\x30noise" + data],
}


@pytest.mark.parametrize("how", SPOILERS)
def test_replies_that_come_badly_are_overcome_and_nothing_moves_twice(serve: Served, how: str) -> None:
    server = serve()
    moves: list[Event] = []
    server.instrument.listen(moves.append)
    count = iter(range(10**6))
    relay = Relay(server.port, lambda data: SPOILERS[how](next(count), data))
    with ControlLink(open_tcp("127.0.0.1", relay.port), client_name="tests", name="EM-30") as link:
        for step in range(6):
            value = 14.0 + step / 10
            assert link.request(SetParameter(Parameter.WORKING_DISTANCE, value), deadline=2.0).value == value
    relay.close()
    assert [event.value for event in moves if isinstance(event, ParameterChanged)] == [
        pytest.approx(14.0 + step / 10) for step in range(6)
    ]


@needs_pty
def test_the_same_over_a_serial_line(serve: Served) -> None:
    server = serve(serial=True)
    assert server.device is not None
    for _ in range(2):
        with ControlLink(open_serial(server.device), client_name="serial", name="EM-30") as link:
            assert link.hello.owner
            assert link.request(SetParameter(Parameter.WORKING_DISTANCE, 12.5)).value == 12.5
            with connect(server, observer=True) as watcher:
                assert watcher.request(GetStatus()).owner == "serial"
            with pytest.raises(OutOfRangeError):
                link.request(SetParameter(Parameter.WORKING_DISTANCE, 0.5))
            assert link.request(StartScan(320, 240)).first_frame == 1


@needs_pty
def test_a_serial_line_is_cleaned_of_noise(serve: Served) -> None:
    server = serve(serial=True)
    assert server.device is not None
    file = os.open(server.device, os.O_RDWR | os.O_NOCTTY)
    os.write(file, bytes(range(256)) + encode(Envelope.request(1, WD))[:-5])
    os.close(file)
    with ControlLink(open_serial(server.device), client_name="serial", name="EM-30") as link:
        assert link.request(WD).value == 15.0


@needs_pty
def test_a_silent_serial_client_loses_the_lease(serve: Served) -> None:
    server = deserted(serve)
    eventually(lambda: not server.instrument.status().beam_on)
    with ControlLink(open_serial(server.device), client_name="next", name="EM-30") as link:
        link.request(SetBeam(True))


def test_a_process_that_stood_still_blames_no_client() -> None:
    instrument = Instrument(FlatColumn(), profile=QUICK)
    desk = ControlDesk(instrument, lambda event: None)
    sent: list[Envelope] = []
    session = desk.open(sent.append)
    desk.handle(session, Envelope.request(1, Hello(1, 1, 1, False, "sleeper")))
    time.sleep(2 * QUICK.lease_time)
    desk.tick()
    assert session.owner
    deadline = time.monotonic() + 2 * QUICK.lease_time
    while time.monotonic() < deadline:
        desk.tick()
        time.sleep(QUICK.lease_time / 20)
    assert not session.owner
    desk.close()
