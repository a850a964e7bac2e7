"""Floods of idle connections, for the servers of the emulator."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

FLOOD = """
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
idle = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(1200)]
print("connected", len(idle), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def idle_connections() -> Callable[[int], AbstractContextManager[None]]:
    """Hold 1200 connections to a port that say nothing, from another process."""

    @contextlib.contextmanager
    def flood(port: int) -> Iterator[None]:
        command = [sys.executable, "-c", FLOOD, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"connected 1200")
            yield
            process.communicate()

    return flood


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Let this process open some forty descriptors more, and no others."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as highest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno() + 40, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
