"""News of a run: posted in order, and never in the way of the run."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time

import numpy as np
import pytest

import semdrivers
from semdrivers.hosts import focused
from semdrivers.notify import Webhook, notify


class Bench:
    """A microscope whose frames show nothing."""

    capabilities = semdrivers.Capabilities(semdrivers.Range(1.0, 50.0, 0.001), semdrivers.Range(20, 1e5))
    working_distance, magnification = 15.0, 5000.0

    def acquire(self, mode=semdrivers.ScanMode.FAST):
        pixels = np.random.default_rng().integers(90, 110, (240, 320), np.uint8)
        return semdrivers.Image(pixels, self.working_distance, self.magnification, 80.0, scan_mode=mode)

    def close(self):
        pass


@pytest.fixture
def server():
    """A server on loopback that keeps what is posted to it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "broken" in self.path else 204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    posted = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}", posted
        running.shutdown()
        thread.join()


def test_a_failed_focus_and_the_end_of_a_run_are_posted_in_order(server):
    url, posted = server
    webhook = Webhook(url + "/secret")
    with focused(Bench(), on_failure="skip", on_event=webhook) as held, pytest.raises(semdrivers.FrameSkippedError):
        held.acquire()
    webhook.close()
    assert [event["event"] for event in posted] == ["not-focused", "ended"]
    assert posted[0]["result"]["status"] == "refused"
    assert "nothing to focus on" in posted[0]["message"]
    assert posted[1]["frames"] == 0
    assert abs(posted[1]["time"] - time.time()) < 600


def test_the_end_names_the_error_that_ended_the_run(server):
    events = []
    with pytest.raises(semdrivers.NotFocusedError), focused(Bench(), on_event=events.append) as held:
        held.acquire()
    assert [event["event"] for event in events] == ["not-focused", "ended"]
    assert "NotFocusedError" in events[1]["message"]


def test_nothing_that_a_listener_does_reaches_the_run(server, caplog):
    def broken(event):
        raise RuntimeError("no network")

    notify(broken, "ended", "the run has ended")
    assert "no network" in caplog.text
    notify(None, "ended", "the run has ended")
    url, posted = server
    webhook = Webhook(url + "/broken")
    webhook({"event": "ended", "value": np.float32(1.5), "nan": float("nan")})
    webhook.close()
    assert posted[0]["value"] == 1.5
    assert "500" in caplog.text
    assert "/broken" not in caplog.text.partition("500")[2]


def test_an_address_that_never_answers_is_not_waited_for(caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        webhook = Webhook(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.2)
        for _ in range(300):
            webhook({"event": "ended"})
        assert "one is left out" in caplog.text
        webhook.close()
    # What still waits ends with the program
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "webhook")


@pytest.mark.parametrize(
    "url",
    [
        "", "file:///etc/passwd", "ftp://host/", "http://", None, 3, "http://[::1", "http://host:port/", "http://h:99999/",
        "http://a b/", "http://host/\n", "http://host/ä", "http://user:secret@host/",
    ],
)  # fmt: skip
def test_only_web_addresses_are_taken(url):
    with pytest.raises(semdrivers.InvalidParameterError, match="webhook"):
        Webhook(url)


def test_a_time_is_above_0_and_nothing_is_posted_once_it_is_closed():
    with pytest.raises(semdrivers.OutOfRangeError, match="timeout must be above 0 s, not 0 s"):
        Webhook("http://h", timeout=0)
    Webhook("http://127.0.0.1:1").close()  # nothing is under way
