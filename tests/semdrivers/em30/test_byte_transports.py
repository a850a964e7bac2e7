"""TCP and serial pipes: what opening says when it fails, and that every call ends by its deadline."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from semdrivers.em30 import TcpTransport, Transport, open_serial, open_tcp
from semdrivers.errors import InvalidParameterError, NotConnectedError, TransportError

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@pytest.fixture
def pair(listener: socket.socket) -> Iterator[tuple[TcpTransport, socket.socket]]:
    transport = open_tcp("127.0.0.1", listener.getsockname()[1])
    peer, _ = listener.accept()
    yield transport, peer
    transport.close()
    peer.close()


@pytest.fixture
def line() -> Iterator[tuple[Transport, int]]:
    pty, tty = pytest.importorskip("pty"), pytest.importorskip("tty")
    master, slave = pty.openpty()
    tty.setraw(slave)
    transport = open_serial(os.ttyname(slave))
    yield transport, master
    transport.close()
    os.close(master)
    os.close(slave)


def in_thread(call: Any) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except TransportError as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, raised


def test_bytes_go_both_ways_without_delay(pair: tuple[TcpTransport, socket.socket]) -> None:
    transport, peer = pair
    transport.send(b"question", 1.0)
    assert peer.recv(100) == b"question"
    peer.sendall(b"answer")
    assert transport.receive(5.0) == b"answer"
    assert transport.receive(0.0) == b""
    assert transport._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert transport.name.startswith("TCP 127.0.0.1:")


@pytest.mark.parametrize("port", [0, 65536, -1, True, "5030", 5030.0])
def test_a_port_that_is_none_is_refused_before_anything_is_opened(port: Any) -> None:
    with pytest.raises(InvalidParameterError, match="1 to 65535"):
        open_tcp("127.0.0.1", port)


def test_a_closed_port_says_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NotConnectedError, match=r"refused.*control server") as caught:
        open_tcp("127.0.0.1", port)
    assert list(caught.value.failures) == [f"TCP 127.0.0.1:{port}"]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 80, "\ud800"])
def test_an_unknown_host_says_so(host: str) -> None:
    with pytest.raises(NotConnectedError, match="look-up"):
        open_tcp(host, 5030)


def test_every_address_of_a_host_is_tried_and_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NotConnectedError) as caught:
        open_tcp("localhost", port)
    expected = {info[4][0] for info in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    assert len(caught.value.failures) == len(expected)


def test_a_full_backlog_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        waiting: list[TcpTransport] = []

        def crowd() -> None:
            for _ in range(200):
                waiting.append(open_tcp("127.0.0.1", server.getsockname()[1], timeout=0.2))

        with pytest.raises(NotConnectedError, match="no answer within"):
            crowd()
        for transport in waiting:
            transport.close()


def test_a_peer_that_does_not_read_ends_a_send_at_its_deadline(
    pair: tuple[TcpTransport, socket.socket],
) -> None:
    transport, _ = pair
    with pytest.raises(TransportError, match=r"took \d+ of 50000000 bytes in 0\.2 s"):
        transport.send(bytes(50_000_000), 0.2)


def test_a_peer_that_hangs_up_is_noticed(pair: tuple[TcpTransport, socket.socket]) -> None:
    transport, peer = pair
    peer.sendall(b"last")
    peer.close()
    assert transport.receive(5.0) == b"last"
    with pytest.raises(TransportError, match=r"closed by the other side|broke"):
        transport.receive(5.0)

    def send() -> None:
        for _ in range(100):
            transport.send(bytes(1000), 1.0)

    with pytest.raises(TransportError, match="broke while sending"):
        send()


def test_closing_ends_a_receive_and_a_send_in_other_threads(
    pair: tuple[TcpTransport, socket.socket],
) -> None:
    transport, _ = pair
    receiving, first = in_thread(lambda: transport.receive(60.0))
    sending, second = in_thread(lambda: transport.send(bytes(50_000_000), 60.0))
    transport.shutdown()
    for thread in (receiving, sending):
        thread.join(20)
        assert not thread.is_alive()
    assert len(first) == len(second) == 1
    transport.close()
    transport.close()
    for call in (lambda: transport.send(b"x", 1.0), lambda: transport.receive(1.0)):
        with pytest.raises(TransportError):
            call()


@needs_pty
def test_a_serial_line_carries_every_byte(line: tuple[Transport, int]) -> None:
    transport, master = line
    transport.send(bytes(range(256)) * 3, 5.0)
    heard = b""
    while len(heard) < 768:
        heard += os.read(master, 4096)
    assert heard == bytes(range(256)) * 3
    os.write(master, bytes(range(256)))
    heard = b""
    while len(heard) < 256:
        heard += transport.receive(5.0)
    assert heard == bytes(range(256))
    assert transport.receive(0.0) == b""


@needs_pty
def test_a_stuck_serial_line_ends_a_send(line: tuple[Transport, int]) -> None:
    transport, _ = line
    with pytest.raises(TransportError, match=r"broke while sending|took"):
        transport.send(bytes(1_000_000), 0.2)


@needs_pty
def test_closing_ends_a_serial_receive(line: tuple[Transport, int]) -> None:
    transport, _ = line
    thread, raised = in_thread(lambda: transport.receive(60.0))
    transport.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(raised) == 1
    transport.close()
    for call in (lambda: transport.send(b"x", 1.0), lambda: transport.receive(1.0)):
        with pytest.raises(TransportError, match="closed"):
            call()


@needs_pty
def test_an_unplugged_serial_line_is_noticed() -> None:
    import pty

    master, slave = pty.openpty()
    transport = open_serial(os.ttyname(slave))
    os.close(slave)
    os.close(master)
    with pytest.raises(TransportError, match="broke while receiving"):
        transport.receive(5.0)
    transport.close()


def test_a_missing_serial_line_lists_those_there_are() -> None:
    with pytest.raises(NotConnectedError) as caught:
        open_serial("/dev/no-such-line")
    assert "/dev/no-such-line" in caught.value.failures
    assert "serial lines of this computer" in caught.value.failures


@pytest.mark.parametrize("baudrate", [0, -9600, True, "fast", 9600.0])
def test_a_baud_rate_that_is_none_is_refused(baudrate: Any) -> None:
    with pytest.raises(InvalidParameterError, match="baud"):
        open_serial("/dev/no-such-line", baudrate)
