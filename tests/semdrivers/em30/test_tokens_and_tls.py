"""An instrument that asks for a token, and one behind TLS: who gets in, over both ports, and what travels."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

import semdrivers
from firmware_protocol.authentication import proof_of
from firmware_protocol.bridge import GREETING, TransferStatus
from firmware_protocol.control import Decoder, Envelope, encode
from firmware_protocol.messages import (
    Authenticate,
    Bye,
    Challenge,
    EmergencyStop,
    GetStatus,
    Hello,
    Request,
    Status,
    Subscribe,
)
from semdrivers.em30 import ControlLink, open_serial, open_tcp
from semdrivers.emulator import Emulator
from semdrivers.errors import InvalidParameterError, NotConnectedError, ProtocolError, TransportError
from semdrivers.links import BridgedPipe

TOKEN = "correct horse battery staple"
PICTURE = np.random.default_rng(5).integers(0, 256, (200, 300), np.uint8)


def emulated(**options: Any) -> Emulator:
    return Emulator(PICTURE, pixel_size=50.0, seed=1, working_distance=14.0, usb_port=0, **options)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with emulated(token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Certificate of an authority; certificate and key of 127.0.0.1."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    paths = folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(str(paths[0]))
    issued.cert_chain_pems[0].write_to_path(str(paths[1]))
    issued.private_key_pem.write_to_path(str(paths[2]))
    return paths


def ports(emulator: Emulator) -> tuple[int, int]:
    """TCP ports of control and USB bridge."""
    control, _, bridge = emulator.remote_url.partition("?usb=tcp://127.0.0.1:")
    return int(control.rpartition(":")[2]), int(bridge)


def set_many_times(microscope: Any) -> None:
    for _ in range(20):
        microscope.working_distance = 14.5


class Line:
    """A client that sends what it likes."""

    def __init__(self, emulator: Emulator) -> None:
        self._socket = socket.create_connection(("127.0.0.1", ports(emulator)[0]), 5.0)
        self._decoder = Decoder()
        self._sequence = 0

    def ask(self, message: Request[Any]) -> Envelope:
        self._sequence += 1
        self._socket.sendall(encode(Envelope.request(self._sequence, message)))
        while True:
            for item in self._decoder.feed(self._socket.recv(4096)):
                if isinstance(item, Envelope) and item.sequence == self._sequence:
                    return item

    def challenge(self, session: int) -> bytes:
        return bytes.fromhex(self.ask(Authenticate(session)).message.challenge)

    def prove(self, session: int, token: str = TOKEN) -> Envelope:
        return self.ask(Authenticate(session, proof_of(token, self.challenge(session), session).hex()))

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_a_proof_is_the_hmac_of_the_specification():
    key = TOKEN.encode().ljust(64, b"\0")
    text = b"EM-30 authentication 1" + bytes(range(32)) + (0x1122334455667788).to_bytes(8, "little")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + text).digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()
    assert proof_of(TOKEN, bytes(range(32)), 0x1122334455667788) == outer


@pytest.mark.parametrize("link", ["remote_url", "url"])
def test_who_has_the_token_gets_in_on_both_ports(emulator, link, monkeypatch):
    with semdrivers.connect(getattr(emulator, link), token=TOKEN) as microscope:
        assert microscope.acquire().pixels.shape == (240, 320)
    monkeypatch.setenv("SEMFOCUS_TOKEN", TOKEN)
    with semdrivers.connect(getattr(emulator, link)) as microscope:
        assert microscope.working_distance == 14.0


def test_a_serial_line_asks_too():
    with emulated(token=TOKEN, serial=True) as emulator:
        device = emulator.serial_url.removeprefix("em30+serial://").partition("?")[0]
        with pytest.raises(NotConnectedError, match="asks for a token"):
            ControlLink(open_serial(device), client_name="stranger", name="EM-30")
        with ControlLink(open_serial(device), client_name="friend", name="EM-30", secret=TOKEN) as link:
            assert link.hello.owner


@pytest.mark.parametrize("observer", [False, True], ids=["client", "observer"])
def test_who_has_no_token_or_another_stays_out(emulator, observer):
    port = ports(emulator)[0]
    with pytest.raises(NotConnectedError, match="asks for a token; pass token=, or set SEMFOCUS_TOKEN"):
        ControlLink(open_tcp("127.0.0.1", port), client_name="stranger", name="EM-30", observer=observer)
    with pytest.raises(NotConnectedError, match="the token is wrong"):
        ControlLink(
            open_tcp("127.0.0.1", port), client_name="stranger", name="EM-30", observer=observer, secret="x" * 16
        )
    with ControlLink(open_tcp("127.0.0.1", port), client_name="friend", name="EM-30", secret=TOKEN) as link:
        assert link.hello.owner  # nobody else has the lease


@pytest.mark.parametrize("token", [None, "another token of some length"])
def test_the_bridge_stays_shut_without_the_token(emulator, token):
    pipe = BridgedPipe("127.0.0.1", ports(emulator)[1], token)
    with pytest.raises(Exception, match="asks for a token" if token is None else "refuses the token"):
        pipe.attached()
    pipe.close()
    friend = BridgedPipe("127.0.0.1", ports(emulator)[1], TOKEN)
    assert len(friend.attached()) == 1
    friend.close()


def test_a_proof_is_good_once_for_one_session_on_one_connection(emulator):
    with Line(emulator) as line, Line(emulator) as other:
        assert line.ask(GetStatus()).status is Status.NOT_OWNER
        assert line.ask(Subscribe(True)).status is Status.NOT_OWNER
        challenge = line.challenge(7)
        proof = proof_of(TOKEN, challenge, 7).hex()
        assert other.ask(Authenticate(7, proof)).status is Status.NOT_AUTHENTICATED  # no challenge of its own
        assert line.ask(Authenticate(8, proof)).status is Status.NOT_AUTHENTICATED  # another session
        assert line.ask(Authenticate(7, proof)).status is Status.NOT_AUTHENTICATED  # the challenge is used up
        for nonsense in ("no hexadecimal", "00" * 32, "00"):
            line.challenge(7)
            assert line.ask(Authenticate(7, nonsense)).status is Status.NOT_AUTHENTICATED
        assert line.prove(7).message == Challenge("")
        assert line.ask(Hello(1, 1, 8, False, "another session")).status is Status.NOT_AUTHENTICATED
        assert other.ask(Hello(1, 1, 7, False, "another connection")).status is Status.NOT_AUTHENTICATED
        assert line.ask(Hello(1, 1, 7, False, "this one")).status is Status.OK
        assert line.ask(Bye()).status is Status.OK
        assert line.ask(Hello(1, 1, 7, False, "after BYE")).status is Status.NOT_AUTHENTICATED


def test_two_challenges_are_never_the_same_and_the_token_never_travels(emulator):
    seen = bytearray()

    class Tapped(socket.socket):
        def send(self, data: Any, *flags: int) -> int:
            seen.extend(data)
            return super().send(data, *flags)

        def recv(self, size: int, *flags: int) -> bytes:
            data = super().recv(size, *flags)
            seen.extend(data)
            return data

    from semdrivers.em30 import TcpTransport

    tapped = Tapped()
    tapped.connect(("127.0.0.1", ports(emulator)[0]))
    with ControlLink(TcpTransport(tapped, "a tapped line"), client_name="friend", name="EM-30", secret=TOKEN) as link:
        assert link.hello.owner
    assert b"friend" in seen
    assert TOKEN.encode() not in seen
    with Line(emulator) as line:
        assert len({line.challenge(7) for _ in range(20)}) == 20


def test_anybody_can_stop_an_instrument_with_a_token(emulator):
    emulator.instrument.set_beam(True)
    with Line(emulator) as line:
        assert line.ask(EmergencyStop("whoever sees the smoke")).message.on is False
    semdrivers.stop(emulator.remote_url)
    assert not emulator.instrument.status().beam_on


def test_a_token_survives_a_lost_link():
    with (
        emulated(token=TOKEN, faults="control-reset@8") as emulator,
        semdrivers.connect(emulator.url, token=TOKEN) as microscope,
    ):
        with pytest.raises(TransportError):
            set_many_times(microscope)
        microscope.working_distance = 14.75
        assert microscope.working_distance == 14.75


def test_both_ports_speak_tls(pem):
    authority, certificate, key = pem
    with emulated(token=TOKEN, certificate=certificate, key=key) as emulator:
        with semdrivers.connect(f"{emulator.remote_url}&tls={authority}", token=TOKEN) as microscope:
            microscope.working_distance = 14.25
            image = microscope.acquire(semdrivers.ScanMode.SLOW)  # many records of TLS
            assert (image.pixels.shape, image.working_distance) == ((960, 1280), 14.25)
        emulator.instrument.set_beam(True)
        semdrivers.stop(emulator.remote_url, tls=authority)
        assert not emulator.instrument.status().beam_on
        for port in ports(emulator):
            context = ssl.create_default_context(cafile=authority)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with socket.create_connection(("127.0.0.1", port), 5.0) as plain:
                assert context.wrap_socket(plain, server_hostname="127.0.0.1").version() == "TLSv1.2"


def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_said(pem, tmp_path):
    _, certificate, key = pem
    another = tmp_path / "another.pem"
    trustme.CA().cert_pem.write_to_path(str(another))
    with emulated(token=TOKEN, certificate=certificate, key=key) as emulator:
        with pytest.raises(NotConnectedError, match=r"TLS: .*certificate"):
            semdrivers.connect(emulator.remote_url, tls=another, token=TOKEN)
        with pytest.raises(NotConnectedError, match=r"TLS: .*certificate"):
            semdrivers.connect(emulator.remote_url, tls=True, token=TOKEN)
        with pytest.raises((ProtocolError, NotConnectedError)):
            semdrivers.connect(emulator.remote_url, token=TOKEN)  # without TLS
        pipe = BridgedPipe("127.0.0.1", ports(emulator)[1], TOKEN)
        with pytest.raises(Exception, match="lost the USB bridge"):
            pipe.attached()
        pipe.close()


def test_clients_that_begin_no_handshake_do_not_hold_up_the_owner(pem):
    authority, certificate, key = pem
    with emulated(certificate=certificate, key=key) as emulator:
        silent = [socket.create_connection(("127.0.0.1", port)) for port in ports(emulator) for _ in range(30)]
        with semdrivers.connect(emulator.remote_url, tls=authority) as microscope:
            silent[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
            silent[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
            for _ in range(20):
                assert microscope.working_distance == 14.0
            assert microscope.acquire().working_distance == 14.0
        for each in silent:
            each.close()


def test_a_bridge_with_a_token_says_nothing_before_the_proof(emulator):
    with (
        semdrivers.connect(emulator.remote_url, token=TOKEN) as microscope,
        socket.create_connection(("127.0.0.1", ports(emulator)[1]), 5.0) as stranger,
    ):
        microscope.acquire()  # the bridge serves somebody, which the stranger does not learn
        stranger.sendall(GREETING)
        answer = stranger.recv(6 + 32, socket.MSG_WAITALL)
        assert answer[:6] == GREETING + bytes((TransferStatus.CHALLENGE,))
        stranger.sendall(b"\0" * 32)
        assert stranger.recv(100) == bytes((TransferStatus.ACCESS,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expose": True}, "expose needs a token"),
        ({"token": "short"}, "16 printable ASCII"),
        ({"token": 5}, "16 printable ASCII"),
        ({"token": "ä" * 20}, "16 printable ASCII"),
        ({"key": "key.pem"}, "key belongs to a certificate"),
        ({"certificate": "nowhere.pem"}, "nowhere.pem"),
    ],
)
def test_arguments_are_checked_before_anything_listens(options, message):
    with pytest.raises(InvalidParameterError, match=message):
        emulated(**options)


def test_options_of_an_address_are_checked_before_anything_is_opened(tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(InvalidParameterError, match="tls"):
        semdrivers.connect("em30://127.0.0.1:9", tls=tmp_path / "no.pem")
    with pytest.raises(InvalidParameterError, match="token must be a text"):
        semdrivers.connect("em30://127.0.0.1:9", token=5)
    with pytest.raises(InvalidParameterError, match="tls"):
        semdrivers.connect("em30://127.0.0.1:9", tls=5)


def test_an_exposed_emulator_listens_at_every_address():
    with emulated(token=TOKEN, expose=True) as emulator:
        for port in ports(emulator):
            with socket.create_connection(("127.0.0.2", port), 5.0):
                pass
    with emulated() as emulator:
        for port in ports(emulator):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), 5.0)
