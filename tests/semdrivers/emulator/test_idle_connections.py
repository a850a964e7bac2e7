"""Floods of connections that say nothing, on an emulator in a process of its own that may open few descriptors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

import semdrivers
from semdrivers.errors import InterlockError

pytest.importorskip("resource", reason="Windows limits no descriptors")

DESCRIPTORS = 64
EMULATOR = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
from semdrivers._cli import main
main()
"""
FLOOD = """
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
idle = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(1200)]
print("connected", flush=True)
sys.stdin.read()
"""


@contextmanager
def child(code: str, *arguments: str) -> Iterator[str]:
    """Run Python code in another process, yield the first line that it prints, and end it."""
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline()
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("flooded", ["control", "usb"])
def test_idle_connections_disturb_neither_owner_nor_newcomer(flooded: str) -> None:
    with child(EMULATOR, "emulate", "--magnification", "2000", "--json") as line:
        url = json.loads(line)["url"]
        parts = urlsplit(url)
        port = parts.port if flooded == "control" else urlsplit(parts.query.removeprefix("usb=")).port
        with semdrivers.connect(url) as owner, child(FLOOD, str(port)) as said:
            assert said == "connected\n"
            owner.working_distance = 14.0
            assert owner.acquire().working_distance == 14.0
            semdrivers.stop(url, client="a newcomer")
            with pytest.raises(InterlockError, match="beam off"):
                owner.acquire()
            owner.close()
            with semdrivers.connect(url) as newcomer:
                newcomer.beam_on = True
                assert newcomer.acquire().working_distance == 14.0
