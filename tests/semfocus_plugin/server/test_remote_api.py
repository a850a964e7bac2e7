"""A microscope shared over HTTP: one controls, others watch; what it says and what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image as Picture

import semdrivers
from semdrivers.emulator import Emulator
from semdrivers.remote import LEASE_HEADER

pytest.importorskip("fastapi", reason="the extra view is not installed")
pytest.importorskip("prometheus_client", reason="the extra view is not installed")

from semfocus_plugin.server import sharing
from semfocus_plugin.tiles import open_folder, plan_tiles

TIN = "emulator://tin-balls?seed=1&magnification=2000"
TOKEN = "0123456789abcdef"
MANY = {"method": "paper", "max_frames": 100, "bounds": (5.0, 30.0)}
"""A run of some seconds on a featureless sample."""


@pytest.fixture(scope="module")
def tin():
    with sharing(TIN, port=0) as server:
        yield server


@pytest.fixture(scope="module")
def blank():
    with sharing("emulator://featureless?seed=1&magnification=2000", port=0) as server:
        yield server


@pytest.fixture
def shared(tin):
    return released(tin)


@pytest.fixture
def featureless(blank):
    released(blank).desk.microscope.beam_on = True
    return blank


def released(server):
    """Let nobody control it, as after the start."""
    server.desk.release(server.desk.take("the tests", force=True))
    return server


def ask(shared, method, path, body=None, **headers):
    """Return status and answer of a plain request, as any program may send it."""
    content = None if body is None else json.dumps(body).encode()
    named = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    request = urllib.request.Request(shared.page + path, content, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_frame_arrives_as_it_was_scanned(shared):
    with semdrivers.connect(shared.url) as microscope:
        image = microscope.acquire()
        scanned = shared.desk.frames[-1].image
    assert np.array_equal(image.pixels, scanned.pixels)
    for name in ("working_distance", "magnification", "pixel_size", "frame_id", "timestamp", "scan_mode"):
        assert getattr(image, name) == getattr(scanned, name), name


def test_one_controls_and_others_watch(shared):
    with semdrivers.connect(shared.url, client="Ada") as ada, semdrivers.connect(shared.url, client="Bob") as bob:
        ada.working_distance = 12.0
        assert bob.working_distance == 12.0
        for change in (lambda: setattr(bob, "working_distance", 13.0), bob.acquire, bob.autofocus):
            with pytest.raises(semdrivers.BusyError, match="Ada controls"):
                change()
        assert ada.working_distance == 12.0
        ada.close()
        bob.working_distance = 13.0
        assert bob.working_distance == 13.0


def test_control_can_be_taken_over_by_force_and_no_other_way(shared):
    first = json.loads(ask(shared, "POST", "api/lease", {})[1])["lease"]
    assert ask(shared, "POST", "api/lease", {})[0] == 409
    second = json.loads(ask(shared, "POST", "api/lease", {"force": True})[1])["lease"]
    body = {"value": 12.0}
    assert ask(shared, "PUT", "api/working_distance", body, **{LEASE_HEADER: first})[0] == 423
    assert ask(shared, "PUT", "api/working_distance", body)[0] == 423
    assert ask(shared, "PUT", "api/working_distance", body, **{LEASE_HEADER: second})[0] == 200


def test_a_run_on_the_server_reports_every_frame_and_returns_its_result(shared):
    seen = []
    with semdrivers.connect(shared.url) as microscope:
        result = microscope.autofocus(progress=seen.append)
        assert result.focused
        assert microscope.working_distance == result.working_distance
        assert [step.frame for step in seen] == list(range(1, result.frames + 1))
        assert microscope.acquire().metadata["autofocus"]["status"] == "focused"
    assert semdrivers.AutofocusResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_run_keeps_what_makes_it_repeatable_and_what_it_believed(shared):
    with semdrivers.connect(shared.url) as microscope:
        result = microscope.autofocus(max_travel=5.0)
    about = result.provenance
    assert about["instrument"]["model"] == "EM-30"
    assert about["settings"]["max_travel"] == 5.0
    assert len(about["models"]["aenet"]) == 64
    assert about["versions"]["semdrivers"] == semdrivers.__version__
    assert result.trace[0].posterior is None
    for believed in (result.posterior, *(step.posterior for step in result.trace[1:])):
        assert list(believed) == sorted(believed)
    assert result.posterior[3] < result.working_distance < result.posterior[-4]


def test_without_a_travel_a_run_keeps_to_that_of_the_command_line(shared):
    lease = {LEASE_HEADER: json.loads(ask(shared, "POST", "api/lease", {})[1])["lease"]}
    for body, travel in (({}, 3.0), ({"max_travel": 1.5}, 1.5), ({"max_travel": None}, None)):
        number = json.loads(ask(shared, "POST", "api/autofocus", body, **lease)[1])["number"]
        run = json.loads(ask(shared, "GET", f"api/autofocus/{number}?after=99&wait=30")[1])
        assert run["ended"]
        assert run["settings"]["max_travel"] == travel if body else run["settings"]["max_travel"] >= travel


def test_cancelled_in_the_middle_all_is_put_back_and_nobody_moves_it_meanwhile(featureless):
    cancel = threading.Event()
    refused = []

    def progress(step):
        if step.frame == 3:
            try:
                microscope.working_distance = 20.0
            except semdrivers.BusyError as error:
                refused.append(str(error))
            cancel.set()

    with semdrivers.connect(featureless.url) as microscope:
        start = microscope.working_distance
        result = microscope.autofocus(progress=progress, cancel=cancel, **MANY)
        assert result.status == "cancelled"
        assert result.frames < 100
        assert microscope.working_distance == start
    assert "autofocus run" in refused[0]


def test_a_client_that_vanishes_in_the_middle_leaves_a_run_that_ends_by_itself(featureless):
    class Vanished(Exception):
        pass

    def progress(step):
        raise Vanished

    microscope = semdrivers.connect(featureless.url)
    start = microscope.working_distance
    with pytest.raises(Vanished):
        microscope.autofocus(progress=progress, **MANY)
    run = featureless.desk.run
    run.wait(10**6, 30)
    assert run.result.status == "cancelled"
    assert microscope.working_distance == start


def test_a_server_that_is_gone_hides_no_other_error_and_needs_nothing_given_up():
    class Vanished(Exception):
        pass

    with contextlib.ExitStack() as running:
        server = running.enter_context(sharing("emulator://featureless?seed=1&magnification=2000", port=0))

        def progress(step):
            running.close()
            raise Vanished

        with (
            pytest.raises(Vanished) as raised,
            semdrivers.connect(server.url) as microscope,
        ):
            microscope.autofocus(progress=progress, **MANY)
    assert "the run was not cancelled" in raised.value.__notes__[0]


class OddPlugin:
    """A driver that raises what it should not."""

    @semdrivers.hookimpl
    def semdrivers_connect(self, url, options):
        return OddMicroscope() if url.startswith("odd://") else None


class OddMicroscope:
    capabilities = semdrivers.Capabilities(
        semdrivers.Range(5.0, 30.0), semdrivers.Range(100.0, 1e5), (semdrivers.ScanMode.FAST,)
    )
    working_distance, magnification = 10.0, 1000.0

    def acquire(self, mode=semdrivers.ScanMode.FAST):
        return {}["detector"]

    def close(self):
        pass


def test_what_a_driver_raises_is_an_error_of_the_device():
    """Whatever it is: the answer once said that there is no server of ours at the address."""
    odd, plugins = OddPlugin(), semdrivers.get_plugin_manager()
    plugins.register(odd)
    try:
        with sharing("odd://bench", port=0) as server, semdrivers.connect(server.url) as microscope:
            with pytest.raises(semdrivers.DeviceError, match="acquire: KeyError: 'detector'"):
                microscope.acquire()
            with pytest.raises(semdrivers.DeviceError, match="acquire: KeyError: 'detector'"):
                microscope.autofocus()
    finally:
        plugins.unregister(odd)


class BarePlugin:
    """An instrument of five members whose frames have 16 bits."""

    @semdrivers.hookimpl
    def semdrivers_connect(self, url, options):
        return BareMicroscope() if url.startswith("bare://") else None


class BareMicroscope(OddMicroscope):
    def acquire(self, mode=semdrivers.ScanMode.FAST):
        pixels = np.linspace(1000, 9000, 240 * 320).reshape(240, 320).astype(np.uint16)
        return semdrivers.Image(pixels, self.working_distance, self.magnification, 400.0)


def test_what_an_instrument_does_not_offer_is_refused_by_name():
    bare, plugins = BarePlugin(), semdrivers.get_plugin_manager()
    plugins.register(bare)
    try:
        with sharing("bare://bench", port=0) as server:
            lease = {LEASE_HEADER: json.loads(ask(server, "POST", "api/lease", {})[1])["lease"]}

            def refused(method, path, body=None):
                status, answer = ask(server, method, path, body, **lease)
                return status, json.loads(answer)["message"]

            assert refused("POST", "api/frames", {"mode": "none"}) == (
                422, "there is no scan mode 'none'; the instrument has FAST",
            )  # fmt: skip
            number = json.loads(ask(server, "POST", "api/frames", {"mode": "FAST"}, **lease)[1])["number"]
            for kind in ("png", "jpg"):  # dark and bright parts are told apart, whatever the bits
                status, content = ask(server, "GET", f"api/frames/{number}.{kind}")
                levels = np.asarray(Picture.open(io.BytesIO(content)))
                assert (status, levels.dtype, levels.shape) == (200, np.uint8, (240, 320))
                assert levels[0].mean() < 5
                assert levels[-1].mean() > 250
            for name in ("stage_position", "beam_on"):
                assert refused("GET", f"api/{name}") == (404, f"this instrument does not offer {name}")
            assert refused("GET", "api/tiles")[0] == refused("GET", "api/labels")[0] == 404
            assert refused("GET", "api/autofocus/7/report.html") == (
                404, "there is no run with a result 7, or it is no longer kept",
            )  # fmt: skip
            assert "this is no emulator" in refused("PUT", "api/emulator", {"specimen": "tin-balls"})[1]
            assert "the run ends after the frame" in refused("POST", "api/stop", {})[1]
    finally:
        plugins.unregister(bare)


def test_tiles_are_shown_while_one_of_them_is_being_copied(tmp_path):
    folder, url = tmp_path / "night", "emulator://tin-balls?seed=1&magnification=5000"
    with semdrivers.connect(url) as microscope, sharing(url, port=0, tiles=folder) as server:
        field = 320e-6 * microscope.acquire().pixel_size, 240e-6 * microscope.acquire().pixel_size
        mode = microscope.capabilities.scan_modes[0]
        plan = plan_tiles((2, 1), None, 0.1, place=(0.0, 0.0), field=field, magnification=5000, mode=mode)
        open_folder(folder, lambda: plan, resume=False, overwrite=False)
        about = dict.fromkeys(("score", "dose", "seconds"), 1.0) | {"stage": [0.0, 0.0], "focus": "map", "reason": ""}
        about["focusing_frames"] = 0
        whole = dataclasses.replace(microscope.acquire(), metadata={"tile": about}).save(tmp_path / "whole.tif")
        for tile, length in zip(plan.tiles, (None, 20_000), strict=True):
            (folder / "tiles" / tile.name).write_bytes(whole.read_bytes()[:length])

        def shown():
            status, answer = ask(server, "GET", "api/tiles")
            return status, len(json.loads(answer)["tiles"])

        assert shown() == (200, 1)
        (folder / "tiles" / plan.tiles[1].name).write_bytes(whole.read_bytes())
        assert shown() == (200, 2)


def test_everybody_may_stop(featureless):
    lease = {LEASE_HEADER: json.loads(ask(featureless, "POST", "api/lease", {})[1])["lease"]}
    number = json.loads(ask(featureless, "POST", "api/autofocus", MANY, **lease)[1])["number"]
    ask(featureless, "GET", f"api/autofocus/{number}?after=1&wait=30")
    assert ask(featureless, "POST", "api/stop", {})[0] == 200
    run = json.loads(ask(featureless, "GET", f"api/autofocus/{number}?after=1000&wait=30")[1])
    assert run["result"]["status"] == "cancelled"
    assert json.loads(ask(featureless, "GET", "api/beam_on")[1]) == {"value": False}


def test_stop_gets_through_however_many_requests_wait(featureless):
    lease = {LEASE_HEADER: json.loads(ask(featureless, "POST", "api/lease", {})[1])["lease"]}
    number = json.loads(ask(featureless, "POST", "api/autofocus", {**MANY, "max_frames": 10**6}, **lease)[1])["number"]
    arrived = threading.Barrier(61)

    def waits():
        arrived.wait()
        ask(featureless, "GET", f"api/autofocus/{number}?after=1000000&wait=30")

    watchers = [threading.Thread(target=waits) for _ in range(60)]
    for watcher in watchers:
        watcher.start()
    arrived.wait()
    time.sleep(0.5)  # the threads of the server are taken meanwhile
    assert ask(featureless, "POST", "api/stop", {})[0] == 200
    assert any(watcher.is_alive() for watcher in watchers)  # their threads were not needed for it
    for watcher in watchers:
        watcher.join()
    assert featureless.desk.run.result.status == "cancelled"


def test_the_end_of_the_server_puts_a_run_back():
    with Emulator("featureless", seed=1, magnification=2000, working_distance=14.0) as emulator:
        with sharing(emulator.url, port=0) as server:
            lease = {LEASE_HEADER: json.loads(ask(server, "POST", "api/lease", {})[1])["lease"]}
            ask(server, "POST", "api/autofocus", MANY, **lease)
            ask(server, "GET", "api/autofocus/1?after=3&wait=30")
        assert server.desk.run.result.status == "cancelled"
        with semdrivers.connect(emulator.url) as microscope:
            assert microscope.working_distance == pytest.approx(14.0)


def events_of(shared, seconds=30.0):
    """Yield the events of the stream."""
    with urllib.request.urlopen(shared.page + "api/events", timeout=seconds) as stream:
        kind = ""
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)


def test_the_stream_of_events_begins_with_the_state_and_tells_a_run_frame_by_frame(shared):
    seen, ready = [], threading.Event()

    def listen():
        for kind, data in events_of(shared):
            seen.append((kind, data))
            ready.set()
            if kind == "ended":
                return

    listener = threading.Thread(target=listen)
    listener.start()
    assert ready.wait(20)
    with semdrivers.connect(shared.url) as microscope:
        result = microscope.autofocus()
    listener.join(20)
    kinds = [kind for kind, _ in seen]
    assert kinds[0] == "status"
    assert kinds.count("step") == result.frames
    assert kinds.count("frame") >= result.frames
    assert seen[-1][1]["result"]["working_distance"] == result.working_distance


def test_a_lost_instrument_is_reported_and_can_be_reconnected():
    with Emulator("tin-balls", seed=1, magnification=2000) as emulator, sharing(emulator.url, port=0) as server:
        lease = {LEASE_HEADER: json.loads(ask(server, "POST", "api/lease", {})[1])["lease"]}
        emulator.usb.unplug()
        status, answer = ask(server, "POST", "api/frames", {}, **lease)
        assert status == 503, answer
        problem = json.loads(ask(server, "GET", "api/status")[1])["problem"]
        assert problem
        emulator.usb.plug()
        assert ask(server, "POST", "api/reconnect", **lease)[0] == 200
        assert json.loads(ask(server, "GET", "api/status")[1])["problem"] is None
        assert ask(server, "POST", "api/frames", {}, **lease)[0] == 200


def test_with_a_token_nobody_does_anything_without_it():
    with sharing(TIN, port=0, token=TOKEN) as server:
        for path in ("api/status", "api/working_distance", "api/frames/1.tif", "metrics"):
            assert ask(server, "GET", path)[0] == 401, path
        assert ask(server, "POST", "api/stop", {})[0] == 401
        assert ask(server, "GET", "api/status", Authorization="Bearer wrong-wrong-wrong-")[0] == 401
        assert ask(server, "GET", "api/status", Authorization=f"Bearer {TOKEN}")[0] == 200
        with pytest.raises(semdrivers.NotConnectedError, match="token"):
            semdrivers.connect(server.url)
        with semdrivers.connect(server.url, token=TOKEN) as microscope:
            assert microscope.working_distance > 0


def test_pages_of_other_servers_are_refused(shared):
    host = shared.page.removeprefix("http://").rstrip("/")
    assert ask(shared, "POST", "api/stop", {}, Origin="http://evil.example")[0] == 403
    assert ask(shared, "GET", "api/status", Host="evil.example")[0] == 403
    assert ask(shared, "GET", "api/status", Origin=f"http://{host}")[0] == 200


def test_what_no_client_sends_is_refused_before_it_is_read(shared):
    lease = {LEASE_HEADER: json.loads(ask(shared, "POST", "api/lease", {})[1])["lease"]}
    nested = 1
    for _ in range(500):
        nested = {"a": nested}
    status, answer = ask(shared, "PUT", "api/focus_record", {"value": nested}, **lease)
    assert (status, "nested too deeply" in json.loads(answer)["message"]) == (422, True)
    assert json.loads(ask(shared, "GET", "api/focus_record")[1])["value"] != nested
    assert ask(shared, "PUT", "api/focus_record", {"value": {"a": "b" * 2**20}}, **lease)[0] == 413


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("api/stop", "Transfer-Encoding: chunked", [b"2\r\n", b"{}", b"\r\n0\r\n\r\n"], 411),
        ("api/stop", f"Content-Length: {2**21}", [b"a" * 2**20] * 2, 413),
        ("api/stop", "Content-Length: 2\r\nOrigin: http://evil.example", [b"{", b"}"], 403),
        ("api/status", "Content-Length: 2", [b"{", b"}"], 405),
    ],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(shared, path, headers, body, status):
    with socket.create_connection((shared.host, shared.port), timeout=60) as link:
        link.sendall(f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n\r\n".encode())
        for part in body:
            time.sleep(0.05)
            link.sendall(part)
        assert link.makefile("rb").readline().split()[1] == b"%d" % status


def test_no_browser_keeps_an_answer_or_shows_it_within_another_page(shared):
    with semdrivers.connect(shared.url) as microscope:
        number = json.loads(ask(shared, "GET", "api/status")[1])["frame"]["number"] if shared.desk.frames else 0
        microscope.acquire()
    for path, kept in ((f"api/frames/{number + 1}.jpg", "no-store"), ("labels", "no-cache"), ("page.js", "no-cache")):
        with urllib.request.urlopen(shared.page + path, timeout=60) as response:
            assert response.headers["Cache-Control"] == kept, path
            assert response.headers["X-Frame-Options"] == "DENY", path


@pytest.mark.parametrize(
    ("host", "token"), [("0.0.0.0", None), ("127.0.0.1", "short"), ("127.0.0.1", "ünicode-ünicode-ü")]
)
def test_a_server_beyond_this_computer_needs_a_token_worth_the_name(host, token):
    with pytest.raises(semdrivers.InvalidParameterError, match="token"), sharing(TIN, host=host, port=0, token=token):
        pass


def test_nobody_at_the_address_is_no_connection():
    with sharing(TIN, port=0) as server:
        address = server.url
    with pytest.raises(semdrivers.NotConnectedError, match="no microscope at"):
        semdrivers.connect(address)


@pytest.mark.parametrize(
    "url", ["semfocus+http://", "semfocus+http://a:b", "semfocus+http://h/path", "semfocus+http://h?x=1"]
)
def test_a_malformed_address_is_refused_before_anything_is_sent(url):
    with pytest.raises(semdrivers.InvalidParameterError):
        semdrivers.connect(url)


def test_metrics_count_runs_frames_and_seconds(shared):
    def metrics():
        lines = ask(shared, "GET", "metrics")[1].decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}

    before = metrics()
    with semdrivers.connect(shared.url) as microscope:
        result = microscope.autofocus()
        microscope.acquire()
    after = metrics()
    more = {name: after[name] - before[name] for name in after}
    assert more["semfocus_frames_total"] == result.frames + 1
    assert more['semfocus_runs_total{status="focused"}'] == 1
    assert more["semfocus_run_seconds_total"] == pytest.approx(result.elapsed)
    assert more["semfocus_dose_electrons_per_square_micrometre_total"] > 0


@pytest.mark.slow
def test_the_command_serves_until_it_is_terminated():
    import signal
    import subprocess
    import sys

    code = "from semfocus_plugin.lab.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", TIN, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        told = json.loads(process.stdout.readline())
        with semdrivers.connect(told["url"]) as microscope:
            assert microscope.acquire().pixels.shape == (240, 320)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, process.stderr.read()


def test_the_command_exposes_nothing_without_a_token(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from semfocus_plugin.lab.cli import app

    monkeypatch.delenv("SEMFOCUS_TOKEN", raising=False)
    outcome = CliRunner().invoke(app, ["serve", TIN, "--expose", "--port", "0"])
    assert outcome.exit_code == 2
    assert "--token-file" in outcome.output
    (tmp_path / "empty").write_text("\n")
    outcome = CliRunner().invoke(app, ["serve", TIN, "--token-file", str(tmp_path / "empty"), "--port", "0"])
    assert outcome.exit_code == 2


def test_control_lapses_by_silence():
    with (
        sharing(TIN, port=0, lease=0.3) as server,
        semdrivers.connect(server.url, client="Ada") as ada,
        semdrivers.connect(server.url, client="Bob") as bob,
    ):
        ada.working_distance = 12.0
        while not server.desk.control()["free"]:
            time.sleep(0.05)
        bob.working_distance = 12.5
        assert server.desk.control()["client"] == "Bob"
