"""A server that answers at the address of a shared microscope, and is none, or is of another version."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from contextlib import contextmanager, suppress

import pytest

import semdrivers
from semdrivers import NotConnectedError, ProtocolError

BRACKETS = b"[" * 100_000
RIGHT = {
    "status": {"offers": ["stop", "stage_position", "move_stage"]},
    "lease": {"lease": "mine"},
    "working_distance": {"value": 12.0},
    "stage_position": {"value": [3.0, 4.0]},
    "move_stage": {"value": [1.0, 2.0]},
    "frames": {"number": 1},
    "autofocus": {"number": 1},
    "autofocus/1": {"steps": [], "ended": True, "error": None, "result": None},
}


@contextmanager
def serving(**lies):
    """Serve what a server of ours would answer, but for the lies; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.removeprefix("/api/").partition("?")[0]
            body = lies.get(path.replace("/", "_"), RIGHT.get(path, {}))
            status = 423 if self.command != "GET" and path != "lease" and not self.headers["X-Semfocus-Lease"] else 200
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *details: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"semfocus+http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("answer", [b"<html>", b"", b"\xff\xfe", BRACKETS, 3, "offers", [], {}, {"offers": 3}])
def test_what_answers_and_is_no_server_of_ours_is_no_microscope(answer):
    with serving(status=answer) as url, pytest.raises(NotConnectedError, match="no microscope at") as refused:
        semdrivers.connect(url)
    assert "check the address" in str(refused.value)


CALLS = {
    "working_distance": lambda microscope: microscope.working_distance,
    "stage_position": lambda microscope: microscope.stage_position,
    "move_stage": lambda microscope: microscope.move_stage(1.0, 2.0),
    "lease": lambda microscope: microscope.move_stage(1.0, 2.0),
    "frames": lambda microscope: microscope.acquire(),
    "autofocus": lambda microscope: microscope.autofocus(),
    "autofocus_1": lambda microscope: microscope.autofocus(),
}


ANSWERS = [b"<html>", BRACKETS, 3, {}, {"steps": 3, "ended": "no", "number": "../x"}]


@pytest.mark.parametrize("answer", ANSWERS, ids=["page", "brackets", "number", "nothing", "other types"])
@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_is_none_is_an_error_of_the_protocol(call, answer):
    with serving(**{call: answer}) as url, semdrivers.connect(url) as microscope:
        with pytest.raises(ProtocolError, match=f"answers {call.replace('_1', '/1')}"):
            CALLS[call](microscope)
        other = "stage_position" if call == "working_distance" else "working_distance"
        assert CALLS[other](microscope) == pytest.approx(RIGHT[other]["value"])


def test_an_answer_that_is_one_is_taken():
    with serving() as url, semdrivers.connect(url) as microscope:
        assert microscope.working_distance == 12.0
        assert microscope.move_stage(1.0, 2.0) == (1.0, 2.0)
        with pytest.raises(semdrivers.InvalidParameterError, match="capabilities"):
            _ = microscope.capabilities


CAPABILITIES = {
    "working_distance": {"minimum": 4.0, "maximum": 40.0, "step": 0.001},
    "magnification": {"minimum": 20, "maximum": None, "step": 0.0},
    "scan_modes": ["FAST"],
    "dwell_times": [1e-6],
    "half_angle": 4.0,
    "bit_depth": 12,
    "stigmator": {"minimum": -5.0, "maximum": 5.0, "step": 0.0},
    "stigmator_matrix": [[1.0, 0.0], [0.0, 1.0]],
    **dict.fromkeys(("model", "serial", "firmware"), "A"),
}


@pytest.mark.parametrize("value", ["12 mm", "nan", [], {}, [1.0], pytest.param(10**400, id="huge")])
@pytest.mark.parametrize("name", ["working_distance", "magnification", "stage_position", "move_stage", "beam_on"])
def test_a_value_of_another_type_is_an_error_of_the_protocol(name, value):
    offers = {"offers": ["stop", "stage_position", "move_stage", "beam_on"]}
    with serving(**{"status": offers, "stop": {}, name: {"value": value}}) as url:
        microscope = semdrivers.connect(url)
        with pytest.raises(ProtocolError, match=name):
            CALLS.get(name, lambda microscope: getattr(microscope, name))(microscope)


def test_capabilities_come_as_they_are():
    with serving(capabilities=CAPABILITIES) as url, semdrivers.connect(url) as microscope:
        about = microscope.capabilities
    assert about.working_distance == semdrivers.Range(4.0, 40.0, 0.001)
    assert about.magnification == semdrivers.Range(20.0, float("inf"))
    assert (about.half_angle, about.bit_depth, about.dwell_times) == (4.0, 12, (1e-6,))
    assert (about.stigmator, about.stigmator_matrix) == (semdrivers.Range(-5.0, 5.0), ((1.0, 0.0), (0.0, 1.0)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("working_distance", {"minimum": "4", "maximum": 40.0, "step": 0.001}),
        ("working_distance", {"minimum": 40.0, "maximum": 4.0, "step": 0.001}),
        ("working_distance", {"minimum": 4.0, "maximum": 40.0, "step": -1}),
        ("working_distance", {"minimum": 4.0, "maximum": 10**400, "step": 0}),
        ("magnification", [20, 100]),
        ("scan_modes", ["QUICK"]),
        ("scan_modes", [{"name": "HUGE", "width": 10**400, "height": 1}]),
        ("dwell_times", ["1"]),
        ("half_angle", "4"),
        ("bit_depth", 12.5),
        ("stigmator", {"minimum": [], "maximum": 5.0, "step": 0.0}),
        ("stigmator_matrix", [[1.0, 0.0]]),
        ("stigmator_matrix", [[1.0, "x"], [0.0, 1.0]]),
    ],
)
def test_capabilities_that_cannot_be_are_named(name, value):
    with serving(capabilities={**CAPABILITIES, name: value}) as url:
        microscope = semdrivers.connect(url)
        with pytest.raises(semdrivers.InvalidParameterError, match="its capabilities cannot be read"):
            semdrivers.autofocus(microscope)


@contextmanager
def saying(head, *parts):
    """Serve an answer in parts, the last one again and again until the client has gone; gives the address."""

    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(65536)
            client.sendall(head)
            for part in parts[:-1]:
                client.sendall(part)
            while parts and not ended.wait(0.02 if len(parts[-1]) == 1 else 0.0):
                client.sendall(parts[-1])

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"semfocus+http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "part", "timeout", "said"),
    [
        (OK + b"Content-Length: 100\r\n\r\n", b" ", 0.3, "timed out"),
        (OK + b"X: ", b" ", 0.3, "timed out"),
        (OK + b"Content-Length: 99999999999\r\n\r\n", bytes(1 << 22), 60, "more than 64 MB"),
    ],
    ids=["a body that trickles", "a header that trickles", "a body without an end"],
)
def test_an_answer_has_a_deadline_and_a_size_as_a_whole(head, part, timeout, said):
    with saying(head, part) as url, pytest.raises(NotConnectedError, match=said):
        semdrivers.connect(url, timeout=timeout)


@pytest.mark.parametrize("length", [b"99999999999999999999", b"100"])
def test_an_answer_that_is_cut_off_is_named(length):
    head = OK + b"Content-Length: " + length + b"\r\n\r\n{}"
    with saying(head) as url, pytest.raises(NotConnectedError, match="IncompleteRead"):
        semdrivers.connect(url)


@pytest.mark.parametrize("name", ["StopIteration", "MemoryError", "KeyError", "OSError", "__builtins__", "DeviceError"])
def test_an_error_that_a_server_names_is_one_of_ours(name):
    ended = {"steps": [], "ended": True, "error": {"error": name, "message": "it said so"}, "result": None}
    with serving(autofocus_1=ended) as url:
        microscope = semdrivers.connect(url)
        with pytest.raises(semdrivers.SemDriversError, match="it said so") as refused:
            microscope.autofocus()
    assert type(refused.value) is (semdrivers.DeviceError if name == "DeviceError" else semdrivers.SemDriversError)
