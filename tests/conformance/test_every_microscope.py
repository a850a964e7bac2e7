"""One suite for every microscope.

The emulators of an EM-30 and of a TESCAN in this process, one that is shared over HTTP, one in another process and
over a serial line; Micro-Manager's demo camera; fibsem's demo microscope; the maker's simulator of a ZEM; and hardware
when ``SEMDRIVERS_TEST_URL`` names it. The checks are those of ``semdrivers check URL``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import semdrivers
from semdrivers.conformance import CHECKS, Skipped

START = ["--specimen", "tin-balls", "--seed", "1", "--magnification", "2000"]
MICROSCOPES = [
    pytest.param("emulator"),
    pytest.param("tescan"),
    pytest.param("micromanager"),
    pytest.param("fibsem"),
    pytest.param("zem"),
    pytest.param("shared"),
    pytest.param("other-process", marks=pytest.mark.slow),
    pytest.param(
        "serial-line",
        marks=[pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")],
    ),
    pytest.param(
        "hardware",
        marks=[
            pytest.mark.hardware,
            pytest.mark.skipif("SEMDRIVERS_TEST_URL" not in os.environ, reason="set SEMDRIVERS_TEST_URL"),
        ],
    ),
]


@pytest.fixture(scope="module")
def other_process() -> Iterator[dict[str, str]]:
    """Addresses of an emulator in a process of its own."""
    extra = [] if sys.platform == "win32" else ["--serial"]
    command = [sys.executable, "-c", "from semdrivers._cli import main; main()", "emulate", "--json", *START, *extra]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield json.loads(process.stdout.readline())
        process.terminate()


@pytest.fixture(scope="module")
def zem_url(virtual_zem) -> str:
    """Address of the maker's simulator of a ZEM, its lens made to move and its high voltage on."""
    url = virtual_zem("moving-lens")
    with semdrivers.connect(url) as zem:
        zem.beam_on = True
    return url


@pytest.fixture(scope="module")
def served():
    """An emulator that another program would share."""
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(name, reason="the extra view is not installed")
    from semfocus_plugin.server import sharing

    with sharing("emulator://tin-balls?seed=1&magnification=2000", port=0) as server:
        yield server


@pytest.fixture(params=MICROSCOPES)
def microscope(request):
    name = request.param
    if name == "emulator":
        url = "emulator://tin-balls?seed=1&magnification=2000"
    elif name == "tescan":
        url = "tescan-emulator://tin-balls?seed=1&magnification=2000"
    elif name == "micromanager":
        place = str(request.getfixturevalue("demo_camera")).replace(" ", "%20")
        url = f"micromanager://{place}?numerical_aperture=0.3&working_distance=-0.2:0.2"
    elif name == "fibsem":
        pytest.importorskip("fibsem", reason="fibsem is not installed: pip install '.[fibsem]'")
        url = "fibsem://?manufacturer=Demo"
    elif name == "zem":
        url = request.getfixturevalue("zem_url")
    elif name == "hardware":
        url = os.environ["SEMDRIVERS_TEST_URL"]
    elif name == "shared":
        url = request.getfixturevalue("served").url
    else:
        url = request.getfixturevalue("other_process")["url" if name == "other-process" else "serial_url"]
    opened = semdrivers.connect(url)
    yield opened
    opened.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_microscope(check, microscope):
    try:
        check(microscope)
    except Skipped as reason:
        pytest.skip(str(reason))
