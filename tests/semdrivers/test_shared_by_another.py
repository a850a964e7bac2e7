"""A server that answers at the address of a shared microscope, and is none, or is of another version."""

from __future__ import annotations

import http.server
import json
import threading
from contextlib import contextmanager

import pytest

import semdrivers
from semdrivers import NotConnectedError, ProtocolError

BRACKETS = b"[" * 100_000
RIGHT = {
    "status": {"offers": ["stop", "stage_position", "move_stage"]},
    "lease": {"lease": "mine"},
    "working_distance": {"value": 12.0},
    "stage_position": {"value": 3.0},
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
        assert CALLS[other](microscope) == RIGHT[other]["value"]


def test_an_answer_that_is_one_is_taken():
    with serving() as url, semdrivers.connect(url) as microscope:
        assert microscope.working_distance == 12.0
        assert microscope.move_stage(1.0, 2.0) == (1.0, 2.0)
        with pytest.raises(semdrivers.InvalidParameterError, match="capabilities"):
            _ = microscope.capabilities
