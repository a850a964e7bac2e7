"""The TESCAN driver against a second server, which shares no line with the emulator, nor with the codec.

It has the habits of the maker's description at their worst: limits without a word, commands ignored, wait flags that
hold a command until what they name is idle, frames in pieces that come late, twice and out of order, texts counted
with their padding, a sixth axis, and a field that changes with the working distance.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time

import numpy as np
import pytest

import semdrivers

SCAN, STAGE, OPTICS = 1 << 8, 1 << 9, 1 << 10


def text(value):
    """A string or a decimal number, counted with its padding as the maker's client does."""
    raw = str(value).encode() + b"\0"
    raw += bytes(-len(raw) % 4)
    return struct.pack("<I", len(raw)) + raw


def whole(*values):
    return struct.pack(f"<{len(values)}i", *values)


class Server:
    """One instrument. What it does, and what it is told, can be changed while it runs."""

    def __init__(self):
        self.wd, self.wd_limits, self.field, self.field_set_at = 12.0, (4.0, 40.0), 0.064, 12.0
        self.moving_until = 0.0
        self.beam, self.operator, self.scanning = 1, 1, False
        self.stage = [0.0] * 6
        self.seen, self.ignored = [], set()
        self.answers = {}
        self.reply = lambda client, name, message: client.sendall(message)
        self.sending = threading.Lock()
        self.refuses_scan = 0
        self.pieces = lambda pieces: pieces
        self.frames = 0
        self.sockets = []
        self.expected = {}
        while True:
            control = socket.create_server(("127.0.0.1", 0))
            try:
                data = socket.create_server(("127.0.0.1", control.getsockname()[1] + 1))
                break
            except (OSError, OverflowError):
                control.close()
        self.port = control.getsockname()[1]
        self.url = f"tescan://127.0.0.1:{self.port}?timeout=20"
        self.hasty = self.url.replace("=20", "=0.6")  # for tests of silence
        self.sockets += [control, data]
        threading.Thread(target=self.listen, args=(control,), daemon=True).start()
        threading.Thread(target=self.pair, args=(data,), daemon=True).start()

    def close(self):
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def drop(self):
        """Lose every client, without a word."""
        for one in self.sockets[2:]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def listen(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.sockets.append(client)
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def pair(self, listener):
        with contextlib.suppress(OSError):
            while True:
                client, address = listener.accept()
                self.sockets.append(client)
                self.expected[address[1]].put(client)

    def serve(self, client):
        mine = queue.Queue()
        with contextlib.suppress(OSError, struct.error):
            while head := client.recv(32, socket.MSG_WAITALL):
                name, size, number, flags, _, _ = struct.unpack("<16sIIHHI", head)
                body = client.recv(size, socket.MSG_WAITALL) if size else b""
                name = name.rstrip(b"\0").decode()
                self.seen.append(name)
                if flags & OPTICS:
                    time.sleep(max(self.moving_until - time.monotonic(), 0))
                while flags & SCAN and (self.scanning or self.operator):
                    time.sleep(0.002)  # a live picture of the operator is a scan that does not end
                if name in self.ignored:
                    continue
                answer = self.answers.get(name) or self.obey(name, body, mine)
                if answer or (flags & 1 and answer is not None):
                    head = struct.pack("<16sIIHHI", name.encode(), len(answer), number, 0, 0, 0)
                    self.reply(client, name, head + answer)

    @staticmethod
    def numbers(body):
        values = []
        while body:
            (size,) = struct.unpack_from("<I", body)
            values.append(float(body[4 : 4 + size].rstrip(b"\0")))
            body = body[4 + size + -size % 4 :]
        return values

    def obey(self, name, body, mine):
        match name:
            case "TcpRegDataPort":
                self.expected[struct.unpack("<I", body)[0]] = mine
                return whole(0)
            case "TcpGetVersion":
                return text("2.0.25")
            case "TcpGetDevice":
                return text("MIRA3 7-42")
            case "GetWD":
                return text(f"{self.wd:.6g}")
            case "SetWD":
                self.wd = min(max(self.numbers(body)[0], self.wd_limits[0]), self.wd_limits[1])
                self.moving_until = time.monotonic() + 0.02
                return b""
            case "GetViewField":
                return text(f"{self.field * (1 + 2e-4 * (self.wd - self.field_set_at)):.6g}")
            case "SetViewField":
                self.field, self.field_set_at = self.numbers(body)[0], self.wd
                return b""
            case "GetOptParams":
                return text("HALF_ANGLE=0.25\nSPOT_SIZE=0\nBROKEN LINE\n")
            case "GetSpotSize":
                return text(0)
            case "EnumCenterings":
                return text("cen.0.name=Gun Tilt\ncen.3.name=Stigmator SEM\ncen.3.unit_x=%\n")
            case "GetCentering":
                return text("0.1") + text("-0.2")
            case "HVGetBeam":
                return whole(self.beam)
            case "StgGetPosition":
                return b"".join(text(f"{one:.4f}") for one in self.stage)
            case "StgMoveTo":
                moved = self.numbers(body)
                self.stage[: len(moved)] = moved
                return b""
            case "DtEnumDetectors":
                return text("det.0.name=SE\ndet.0.detector=4\ndet.1.name=BSE\ndet.1.detector=7\n")
            case "GUISetScanning":
                self.operator = struct.unpack("<i", body)[0]
                return b""
            case "ScStopScan":
                self.scanning = False
                return b""
            case "DtSelect" | "DtEnable":
                assert struct.unpack_from("<ii", body) == ((0, 4) if name == "DtSelect" else (0, 1))
                return b""
            case "ScScanXY":
                frame, _, _, left, top, right, bottom, single = struct.unpack_from("<8I", body)
                if self.refuses_scan or self.operator or not single:
                    self.refuses_scan = max(self.refuses_scan - 1, 0)
                    return whole(-2)
                self.scanning = True
                shape = bottom - top + 1, right - left + 1
                threading.Thread(target=self.send, args=(mine, frame, shape), daemon=True).start()
                return whole(0)
            case "TcpGetSWVersion" | "StgGetLimits" | "GetBeamCurrent":  # of a later version: the answer is empty
                return b""
        return None

    def send(self, mine, frame, shape):
        """Send a ramp, in lines: each pixel says which it is, and which scan."""
        if mine.empty():
            time.sleep(0.05)
        data = mine.get(timeout=5)
        mine.put(data)
        self.frames += 1
        image = (np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1])) + self.frames).astype(np.uint8)
        pieces = [(frame, 0, row * shape[1], image[row].tobytes()) for row in range(shape[0])]
        self.shown = image
        with self.sending, contextlib.suppress(OSError):
            for number, channel, first, raw in self.pieces(pieces):
                body = struct.pack("<IiIiI", number, channel, first, 8, len(raw)) + raw + bytes(-len(raw) % 4)
                data.sendall(struct.pack("<16sIIHHI", b"ScData", len(body), 0, 0, 0, 0) + body)
        self.scanning = False


def given_back(microscope, server):
    """Whether the scan is the operator's; what is answered was sent after all that is not."""
    _ = microscope.working_distance
    return server.operator == 1


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture
def microscope(server):
    with semdrivers.connect(server.url) as opened:
        yield opened


def test_it_is_read_as_it_is(microscope, server):
    about = microscope.capabilities
    assert (about.model, about.serial) == ("TESCAN, SharkSEM 2.0.25", "MIRA3 7-42")
    assert about.half_angle == pytest.approx(np.radians(0.25) * 1e3)
    assert (about.probe_diameter, about.beam_current) == (None, None)
    assert microscope.stigmator == (0.1, -0.2)
    assert microscope.move_stage(1.5, -2) == (1.5, -2)
    microscope.acquire()
    assert "DtSelect" in server.seen


def test_a_lens_is_set_while_the_operator_watches_a_live_picture(microscope, server):
    """A live picture is a scan that never ends: a set that waits for its end would wait for ever."""
    assert server.operator
    microscope.working_distance = 13.0
    microscope.magnification = 3000
    assert microscope.move_stage(0.1, 0.2) == (0.1, 0.2)
    assert (server.wd, server.operator) == (13.0, 1)


def test_six_digits_are_equal_and_a_value_that_is_cut_or_ignored_is_named(microscope, server):
    microscope.working_distance = 12.3456789
    assert microscope.working_distance == 12.3456789
    with pytest.raises(semdrivers.DeviceError, match="working_distance was set to 45 mm and reads 40 mm"):
        microscope.working_distance = 45
    server.ignored.add("SetWD")
    with pytest.raises(semdrivers.DeviceError, match="working_distance was set to 20 mm and reads 40 mm"):
        microscope.working_distance = 20


def test_the_field_follows_the_lens(microscope):
    microscope.magnification = 2000
    microscope.working_distance = 22
    frame = microscope.acquire()
    assert frame.magnification == microscope.magnification == pytest.approx(2000 / 1.002)
    assert frame.pixel_size == pytest.approx(128e6 / frame.magnification / 320)


ORDERS = {
    "as they are": lambda pieces: pieces,
    "backwards": lambda pieces: pieces[::-1],
    "each twice": lambda pieces: [piece for one in pieces for piece in (one, one)],
    "from the tenth again": lambda pieces: pieces[:30] + pieces[10:],
    "with those of another scan": lambda pieces: (
        [(number - 1, 0, first, b"\xff" * 320) for number, _, first, _ in pieces] + pieces
    ),
    "with those of another channel": lambda pieces: (
        [(number, 1, first, b"\xff" * 320) for number, _, first, _ in pieces] + pieces
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_frame_is_whole_in_whatever_order_it_comes(microscope, server, order):
    server.pieces = ORDERS[order]
    for _ in range(2):
        frame = microscope.acquire()
        assert (frame.pixels == server.shown).all()
    assert not server.operator
    microscope.close()
    assert server.operator


def test_a_piece_that_is_lost_is_scanned_again_and_then_named(server):
    with semdrivers.connect(server.hasty) as microscope:
        server.pieces = lambda pieces: pieces[:-1] if server.frames == 1 else pieces
        frame = microscope.acquire()
        assert (server.frames, (frame.pixels == server.shown).all()) == (2, True)
        server.pieces = lambda pieces: pieces[1:]
        with pytest.raises(semdrivers.TransportError, match="lacks 320 of 76800 pixels"):
            microscope.acquire()
        assert given_back(microscope, server)


def test_a_beam_that_goes_off_under_the_scan_is_no_picture(microscope, server):
    """The scan goes on without electrons, and the protocol reports it nowhere but in HVGetBeam."""

    def dark(pieces):
        server.beam = 0
        return [(number, channel, first, bytes(320)) for number, channel, first, _ in pieces]

    server.pieces = dark
    with pytest.raises(semdrivers.InterlockError, match="the beam went off"):
        microscope.acquire()
    assert given_back(microscope, server)
    with pytest.raises(semdrivers.InterlockError, match="the beam is off"):
        microscope.acquire()


@pytest.mark.parametrize("what", ["wd", "field"])
def test_a_frame_during_which_a_hand_turns_a_knob_is_scanned_again(microscope, server, what):
    """The picture data carry no conditions: what is read before and after says what they were."""

    def turned(pieces):
        yield from pieces[:100]
        if len(turns) > server.frames - 1:
            setattr(server, what, getattr(server, what) * 1.25)
        yield from pieces[100:]

    server.pieces, turns = turned, [1]
    frame = microscope.acquire()
    assert server.frames == 2
    assert (frame.working_distance, frame.magnification) == (microscope.working_distance, microscope.magnification)
    assert server.wd * server.field == pytest.approx(12 * 0.064 * 1.25, rel=1e-3)
    turns *= 10
    with pytest.raises(semdrivers.DeviceError, match="the lens moves during the scan"):
        microscope.acquire()
    assert given_back(microscope, server)


def test_a_server_that_is_busy_for_a_moment_or_for_good(microscope, server):
    server.refuses_scan = 100
    with pytest.raises(semdrivers.BusyError, match=r"does not start the scan \(answer -2\)"):
        microscope.acquire()
    assert given_back(microscope, server)
    server.refuses_scan = 0
    assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize("lost", ["between", "in the frame", "for good"])
def test_a_connection_that_is_lost(server, lost):
    with semdrivers.connect(server.url) as microscope:
        microscope.acquire()
        if lost == "in the frame":
            server.pieces = lambda pieces: (server.drop(), pieces)[1]
        else:
            server.drop()
        if lost == "for good":
            server.close()
        with pytest.raises(semdrivers.TransportError, match="the connection is lost"):
            microscope.acquire()
        server.pieces = lambda pieces: pieces
        if lost == "for good":
            with pytest.raises(semdrivers.NotConnectedError, match="control connection"):
                microscope.acquire()
            return
        assert microscope.working_distance == 12.0
        assert server.operator
        assert microscope.acquire().pixels.shape == (240, 320)


def test_an_answer_may_come_byte_by_byte(microscope, server):
    server.reply = lambda client, name, message: [client.sendall(bytes([byte])) for byte in message]
    microscope.working_distance = 13.0
    assert (microscope.working_distance, server.wd) == (13.0, 13.0)


@pytest.mark.parametrize("length", [10, 32, 36])
def test_an_answer_that_breaks_off_ends_the_connection_and_the_next_call_connects_again(server, length):
    with semdrivers.connect(server.hasty) as microscope:
        microscope.acquire()
        server.reply = lambda client, name, message: client.sendall(message[:length])
        with pytest.raises(semdrivers.TransportError, match="the connection is lost: the answer to GetWD broke off"):
            _ = microscope.working_distance
        server.reply = lambda client, name, message: client.sendall(message)
        assert microscope.working_distance == 12.0
        assert server.operator == 1


def test_old_answers_without_an_end_are_no_answer(server):
    def flood(client, name, message):
        while name == "GetWD" and not done.is_set():
            client.sendall(struct.pack("<16sIIHHI", b"GetWD", 0, 0, 0, 0, 0) * 100)
        client.sendall(message)

    done = threading.Event()
    with semdrivers.connect(server.hasty) as microscope:
        server.reply = flood
        with pytest.raises(semdrivers.TransportError, match="no answer to GetWD came in time"):
            _ = microscope.working_distance
        done.set()


@pytest.mark.parametrize("number", [-1, 0])
def test_a_frame_of_which_nothing_new_comes_ends(server, number):
    """Pieces of an earlier scan, and one piece again and again."""

    def endless(pieces):
        mine = server.frames
        while server.frames == mine and not server.operator:
            yield pieces[0][0] + number, *pieces[0][1:]

    server.pieces = endless
    with semdrivers.connect(server.hasty) as microscope:
        with pytest.raises(semdrivers.TransportError, match=r"frame 2 lacks 76\d\d\d of 76800 pixels"):
            microscope.acquire()
        assert given_back(microscope, server)


@pytest.mark.slow
def test_a_frame_that_trickles_ends(server):
    """A new pixel now and then breaks no silence."""

    def trickling(pieces):
        for number, channel, first, raw in pieces:
            for index, pixel in enumerate(raw):
                time.sleep(0.01)
                if server.operator:
                    return
                yield number, channel, first + index, bytes([pixel])

    server.pieces = trickling
    with semdrivers.connect(server.hasty) as microscope:
        with pytest.raises(semdrivers.TransportError, match="of 76800 pixels"):
            microscope.acquire()
        assert given_back(microscope, server)


def test_data_of_which_the_server_says_no_more_end_the_connection(microscope, server):
    """The control connection lives on."""

    def half_closed(pieces):
        yield pieces[0]
        server.sockets[-1].shutdown(socket.SHUT_WR)

    server.pieces = half_closed
    with pytest.raises(semdrivers.TransportError, match="closed the connection before the picture data had come"):
        microscope.acquire()
    server.pieces = lambda pieces: pieces
    assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize(
    ("command", "answer", "member"),
    [
        ("GetWD", text("12,5"), "working_distance"),
        ("GetViewField", text("inf"), "magnification"),
        ("GetCentering", text("nan") + text(0), "stigmator"),
        ("StgGetPosition", text("nan") * 5, "stage_position"),
        ("DtGetGainBlack", text(50) + text("-nan"), "contrast"),
        ("HVGetBeam", b"\1\0", "beam_on"),
    ],
)
def test_an_answer_that_is_no_number_is_named_and_the_next_call_works(microscope, server, command, answer, member):
    server.answers[command] = answer
    with pytest.raises(semdrivers.ProtocolError, match=f"the answer to {command} makes no sense"):
        getattr(microscope, member)
    server.answers.clear()
    assert microscope.working_distance == 12.0


def test_what_is_asked_by_the_way_may_be_answered_in_another_form(server):
    for command in ("TcpGetVersion", "TcpGetDevice", "EnumCenterings", "GetOptParams", "GetSpotSize", "StgGetLimits"):
        server.answers[command] = b"\1\2\3"
    server.ignored |= {"TcpGetSWVersion", "GetBeamCurrent"}  # and in none
    with semdrivers.connect(server.hasty) as microscope:
        about = microscope.capabilities
        assert (about.half_angle, about.probe_diameter, about.serial) == (None, None, "")
        assert microscope.acquire().pixels.shape == (240, 320)


@pytest.mark.parametrize("number", ["first", "", "-1", "1.5"])
def test_a_detector_whose_number_is_none_is_named(server, number):
    server.answers["DtEnumDetectors"] = text(f"det.0.name=SE\ndet.0.detector={number}\n")
    with pytest.raises(semdrivers.ProtocolError, match="number of a detector must be a whole number"):
        semdrivers.connect(server.url)


def test_a_beam_that_changes_is_not_off(microscope, server):
    server.beam = 1000
    with pytest.raises(semdrivers.InterlockError, match="the beam is being switched or changed; wait"):
        microscope.acquire()


def test_autofocus_over_it_ends_in_a_named_outcome(server):
    """Its picture shows nothing but a ramp."""
    pytest.importorskip("semfocus_plugin")
    with semdrivers.connect(server.url) as microscope:
        result = semdrivers.autofocus(microscope, max_frames=12, learn_aperture=False)
        assert not result.focused
        assert server.wd == 12.0
    assert server.operator
