"""``zem://`` against the maker's own simulator (pyzemrpc) in another process, on loopback."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading

import numpy as np
import pytest

import semdrivers
from firmware_protocol import zem

GOLDEN = [
    b"$SetWD:12.500000,127.0.0.1:5000,6112%",
    b"$GetMag:,127.0.0.1:5000,148E%",
    b"$SetWD:Acknowledge,Error Code:0,C9B9%",
]


def test_packets_are_those_of_the_makers_client():
    """Golden bytes, from pyzemrpc 1.2.6's own builder."""
    assert zem.encode("SetWD", "12.500000", "127.0.0.1", 5000) == GOLDEN[0]
    assert zem.encode("GetMag", "", "127.0.0.1", 5000) == GOLDEN[1]
    assert zem.decode(GOLDEN[2]) == zem.Answer("SetWD", ("Acknowledge", "Error Code:0"))
    assert zem.decode(GOLDEN[2]).error == ""
    assert zem.crc(b"123456789") == 0x4B37
    for broken in (GOLDEN[2][:-2] + b"0%", GOLDEN[2].replace(b"0,", b"1,", 1), b"", b"$%", b"GetWD:11,0000%"):
        with pytest.raises(ValueError, match=r"CRC|no packet"):
            zem.decode(broken)


def test_it_reports_what_the_instrument_reports(virtual_zem):
    with semdrivers.connect(virtual_zem()) as microscope:
        assert microscope.capabilities.model == "VirtualZem/PerlinZem"
        assert (microscope.working_distance, microscope.magnification) == (11.0, 500.0)
        assert [mode.width for mode in microscope.capabilities.scan_modes] == [512, 1024, 2048]
        assert not microscope.beam_on
        with pytest.raises(semdrivers.InterlockError, match="high voltage is off"):
            microscope.acquire()
        microscope.beam_on = True
        image = microscope.acquire()
        assert image.pixels.shape == (512, 512)
        assert image.pixel_size == pytest.approx(127e6 / 500 / 512, rel=1e-5)
        assert microscope.move_stage(0.05, -0.02) == pytest.approx((0.05, -0.02))
        microscope.magnification = 2000
        assert microscope.acquire().pixel_size == pytest.approx(image.pixel_size / 4)
        assert not isinstance(microscope, semdrivers.HasStigmator)


def test_a_working_distance_that_is_acknowledged_and_kept_is_named(virtual_zem):
    """The maker's simulator does just that."""
    with (
        semdrivers.connect(virtual_zem()) as microscope,
        pytest.raises(semdrivers.DeviceError, match="was set to 12 mm and reads 11 mm"),
    ):
        microscope.working_distance = 12.0


@pytest.mark.parametrize("start", [10.2, 11.6])
def test_autofocus_where_the_lens_moves(virtual_zem, start):
    pytest.importorskip("semfocus_plugin")
    with semdrivers.connect(virtual_zem("moving-lens")) as microscope:
        microscope.beam_on = True
        microscope.working_distance = start
        result = microscope.autofocus()
        assert result.focused, result.reason
        assert result.working_distance == pytest.approx(11.0, abs=0.15)


ODD = {"StatusCheck": "Idle", "GetWD": "12.5", "GetMag": "1000", "GetHvStatus": "1", "GetScanInfo": "127"}


@contextlib.contextmanager
def server(answers, options="timeout=0.6"):
    """A server of ours; `answers` gets every command, what sends a packet to where that came from, and the arguments."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    request, client = ours.recvfrom(4096)
                    command, _, rest = request[1:].decode().partition(":")
                    answers(command, lambda packet, to=client: ours.sendto(packet, to), rest.split(",")[:-2])

        threading.Thread(target=serve, daemon=True).start()
        yield f"zem://127.0.0.1:{ours.getsockname()[1]}?{options}"


def packet(name, values):
    """The answer that has a value from `values`."""
    body = f"${name}:{values.get(name, 'Invalid command')},".encode()
    return body + f"{zem.crc(body) & 0xFF:02X}{zem.crc(body) >> 8:02X}%".encode()


def answering(values):
    """A server that answers what `values` says, each answer twice, and after one to an earlier request."""

    def answers(command, send, _):
        for name in ("GetLate", command, command):
            send(packet(name, values))

    return server(answers, "timeout=0.6&settle=0")


@pytest.mark.parametrize(
    ("command", "member", "said"),
    [
        ("GetWD", "working_distance", "nan"),
        ("GetStagePos", "stage_position", "5"),
        ("GetHvStatus", "beam_on", ""),
    ],
)
def test_an_answer_that_is_no_number_is_named(command, member, said):
    values = dict(ODD)
    with answering(values) as url, semdrivers.connect(url) as microscope:
        values[command] = said
        with pytest.raises(semdrivers.ProtocolError, match=f"{command} is answered by"):
            getattr(microscope, member)


@pytest.mark.parametrize("where", ["SERVER:127.0.0.1:99999", "SERVER:127.0.0.1:0", "SERVER", ""])
def test_a_picture_that_comes_from_nowhere_is_named(where):
    values = {**ODD, "GetModel": "", "GetStigX": "off", "Snap": f"{where},0,512,512"}
    with answering(values) as url, semdrivers.connect(url) as microscope:
        assert not isinstance(microscope, semdrivers.HasStigmator)
        with pytest.raises(semdrivers.ProtocolError, match="Snap"):
            microscope.acquire()


def test_a_late_answer_is_not_taken_for_a_new_one():
    """Answers to the lens come after the next request that asks the same."""
    values, late, held = dict(ODD), [], []

    def answers(command, send, _):
        answer = functools.partial(send, packet(command, values))
        if command == "GetWD" and late:
            held.append(answer)
            return
        for each in (*held, answer) if command == "GetWD" else (answer,):
            each()

    with server(answers, "timeout=0.3") as url, semdrivers.connect(url) as microscope:
        late.append(True)
        with pytest.raises(semdrivers.TransportError, match="GetWD : no answer"):
            _ = microscope.working_distance
        late.clear()
        values["GetWD"] = "14.25"
        assert len(held) == 3
        assert microscope.working_distance == 14.25


def test_silence_lost_packets_and_bad_addresses():
    """The first packet of each kind is lost, and the second answered with a wrong CRC."""
    values = {"StatusCheck": "Idle", "GetWD": "12.5", "GetMag": "1000", "GetModel": "ZEM15C"}
    seen: dict[str, int] = {}

    def answers(command, send, _):
        seen[command] = seen.get(command, 0) + 1
        answer = packet(command, values)
        if seen[command] > 1 and command != "GetStagePos":
            send(answer if seen[command] > 2 else answer[:-5] + b"0000%")

    with server(answers) as url, semdrivers.connect(url) as microscope:
        assert microscope.working_distance == 12.5
        assert seen["GetWD"] >= 3
        with pytest.raises(semdrivers.TransportError, match="GetStagePos"):
            _ = microscope.stage_position
    with pytest.raises(semdrivers.NotConnectedError, match="no ZEM answers"):
        semdrivers.connect("zem://127.0.0.1:9?timeout=0.2")
    for wrong in ("zem://", "zem://host/path", "zem://host?settle=x", "zem://host?average=9", "zem://host:99999"):
        with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError)):
            semdrivers.connect(wrong)


DONE = "Acknowledge,Error Code:0"


@contextlib.contextmanager
def instrument(state, picture=b""):
    """An instrument that takes values and says them again, and sends `picture` from a port of its own."""
    gate = socket.create_server(("127.0.0.1", 0))

    def send_pictures():
        with contextlib.suppress(OSError):
            while True:
                with gate.accept()[0] as client:
                    client.sendall(picture)

    def answers(command, send, arguments):
        if command.startswith("Set") and command != "SetHV_OFF":
            names = {"SetStagePos": "GetStagePos", "SetHV_ON": "GetHvStatus"}
            state[names.get(command, f"Get{command[3:]}")] = ",".join(arguments) if any(arguments) else "1"
        elif command == "SetHV_OFF":
            state["GetHvStatus"] = "0"
        asked.append(command)
        send(packet(command, {command: DONE} if command not in state else state))

    asked: list[str] = []
    state = state | {"Snap": f"SERVER:127.0.0.1:{gate.getsockname()[1]},7,512,512", "GetStgStatus": "1"}
    threading.Thread(target=send_pictures, daemon=True).start()
    with (
        gate,
        server(answers, "timeout=0.6&settle=0&working_distance=5:30") as url,
        semdrivers.connect(url) as opened,
    ):
        yield opened, state, asked


STANDS = {**ODD, "GetStagePos": "100,-250", "GetStigX": "0.1", "GetStigY": "-0.2", "GetModel": "ZEM20"}


def test_what_is_set_is_read_back_in_our_units():
    with instrument(STANDS) as (microscope, state, asked):
        assert microscope.capabilities.working_distance == semdrivers.Range(5.0, 30.0, 0.001)
        assert microscope.capabilities.model == "ZEM20"
        assert microscope.stigmator == (0.1, -0.2)
        microscope.stigmator = (0.3, 0.4)
        assert (state["GetStigX"], state["GetStigY"]) == ("0.300000", "0.400000")
        assert microscope.move_stage(0.2, 0.1) == (0.2, 0.1)
        assert state["GetStagePos"] == "200.000000,100.000000"
        microscope.working_distance = 9.25
        microscope.magnification = 1234.4
        assert (microscope.working_distance, microscope.magnification) == (9.25, 1234.0)
        microscope.beam_on = True
        assert "SetHV_ON" not in asked, "it is on"
        microscope.beam_on = False
        assert not microscope.beam_on
        with pytest.raises(semdrivers.OutOfRangeError, match="5"):
            microscope.working_distance = 4.0
        assert state["GetWD"] == "9.250000"
    microscope.close()
    assert "closed" in repr(microscope)
    assert "VideoPlay" not in asked, "no picture was taken"


@pytest.mark.parametrize(("cut", "said"), [(0, None), (1, "1 of 524288 bytes")])
def test_a_picture_of_two_bytes_a_pixel_comes_whole_or_not_at_all(cut, said):
    levels = (np.arange(512 * 512) % 40_000).astype("<u2")
    with instrument(STANDS, levels.tobytes()[: 2 * levels.size - cut]) as (microscope, _, asked):
        if said is None:
            image = microscope.acquire()
            assert np.array_equal(image.pixels, levels.reshape(512, 512))
            assert image.pixel_size == pytest.approx(127e3 / 512)
        else:
            with pytest.raises(semdrivers.TransportError, match=said):
                microscope.acquire()
    assert asked[-1] == "VideoPlay", "the live picture goes on"


def test_a_picture_is_refused_while_the_instrument_is_busy():
    with instrument({**STANDS, "StatusCheck": "Moving"}) as (microscope, _, asked):
        with pytest.raises(semdrivers.BusyError, match="Moving"):
            microscope.acquire()
        assert "Snap" not in asked


def test_a_picture_from_a_port_that_is_closed_is_named():
    with instrument(STANDS) as (microscope, state, _):
        with socket.create_server(("127.0.0.1", 0)) as gone:
            state["Snap"] = f"SERVER:127.0.0.1:{gone.getsockname()[1]},7,512,512"
        with pytest.raises(semdrivers.TransportError, match="did not come"):
            microscope.acquire()


@pytest.mark.slow
def test_a_picture_that_trickles_is_named():
    def trickle() -> None:
        with contextlib.suppress(OSError), gate.accept()[0] as client:
            while not ended.wait(0.02):
                client.sendall(b"x")

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as gate, instrument(STANDS) as (microscope, state, _):
        threading.Thread(target=trickle, daemon=True).start()
        state["Snap"] = f"SERVER:127.0.0.1:{gate.getsockname()[1]},7,512,512"
        with pytest.raises(semdrivers.TransportError, match="of 524288 bytes of a picture are missing"):
            microscope.acquire()
        ended.set()


def test_an_exception_leaves_no_high_voltage_on():
    with instrument(STANDS) as (microscope, state, _), pytest.raises(ZeroDivisionError), microscope:
        raise ZeroDivisionError
    assert state["GetHvStatus"] == "0"
