"""``semdrivers new-driver NAME``: the package of a driver that passes its tests at once, to be changed step by step.

It has a driver that speaks lines of text over TCP, a fake instrument of 40 lines that answers them, the checks of
`semdrivers.conformance`, and a wire test of (sent, received) pairs.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from semdrivers.errors import InvalidParameterError
from semdrivers.files import replacing
from semdrivers.plugins import get_plugin_manager

__all__ = ["new_driver"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_PYPROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
description = "A driver for semdrivers"
requires-python = ">=3.11"
dependencies = ["semdrivers", "numpy"]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points.semdrivers]
$package = "$package.plugin"

[tool.pytest.ini_options]
pythonpath = ["src"]
testpaths = ["tests"]
"""

_README = """# $name

A driver for [semdrivers](https://pypi.org/project/semdrivers/). Nobody has run it on an instrument yet.

1. `pip install -e '.[test]' && pytest` passes, on the fake instrument in `src/$package/fake.py`.
2. Replace the commands in `src/$package/driver.py` by those of your instrument, and say in `tests/test_wire.py` what is
   sent and received. Copy the pairs from its manual, not from the driver.
3. Let the fake answer them too, with the habits of the instrument: limits cut silently, a lens that takes time.
4. `semdrivers check $name://HOST:PORT` on the instrument, with a sample that may be lost.
"""

_INIT = '''"""A driver for semdrivers: ``$name://HOST:PORT``."""

from $package.driver import $driver, connect

__all__ = ["$driver", "connect"]
'''

_PLUGIN = '''"""What semdrivers finds through the entry point."""

from semdrivers import hookimpl


@hookimpl
def semdrivers_schemes():
    """Name the scheme."""
    return {"$name": "$name://192.168.1.30:4000"}


@hookimpl
def semdrivers_connect(url, options):
    """Open the instrument, or return None for another scheme."""
    if url.partition("://")[0].lower() != "$name":
        return None
    from $package.driver import connect

    return connect(url, options)
'''

_DRIVER = '''"""The driver. Its wire: a line of text is answered by a line; pixels follow the answer to SNAP."""

import socket
import threading

import numpy as np
from semdrivers import Capabilities, Image, InvalidParameterError, NotConnectedError, Range, ScanMode, TransportError
from semdrivers.base import MicroscopeBase
from semdrivers.connection import split_url
from semdrivers.image import SCAN_MODES
from semdrivers.microscope import check_read_back

COMMANDS = {"working_distance": "WD", "magnification": "MAG"}
FIELD_AT_UNITY = 128e6  # nm; magnification 1000 is a field of 128 um


class Link:
    """Lines and bytes over TCP, each within a deadline."""

    def __init__(self, host, port, timeout=10.0):
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise NotConnectedError(f"$name at {host}:{port}: {error}") from error
        self._file = self._socket.makefile("rwb")

    def ask(self, line):
        """Send a line and return the answer."""
        try:
            self._file.write(line.encode() + b"\\n")
            self._file.flush()
            answer = self._file.readline()
        except OSError as error:
            raise TransportError(f"$name: no answer to {line!r}: {error}") from error
        if not answer.endswith(b"\\n"):
            raise TransportError(f"$name: the connection ended at {line!r}")
        return answer.decode().strip()

    def read(self, count):
        """Return the bytes that follow an answer."""
        try:
            data = self._file.read(count)
        except OSError as error:
            raise TransportError(f"$name: the picture did not come: {error}") from error
        if len(data) < count:
            raise TransportError(f"$name: {count - len(data)} of {count} bytes of a picture are missing")
        return data

    def close(self):
        """Hang up."""
        self._file.close()
        self._socket.close()


class $driver(MicroscopeBase):
    """The instrument. Thread safe: one operation at a time."""

    capabilities = Capabilities(Range(5.0, 25.0, 0.001), Range(100.0, 20000.0, 1.0), SCAN_MODES, model="$name")

    def __init__(self, link):
        self._link, self._lock, self._closed, self._frames = link, threading.RLock(), False, 0

    def _ask(self, line):
        with self._lock:
            if self._closed:
                raise NotConnectedError("$name: the connection is closed; connect again")
            word, _, value = self._link.ask(line).partition(" ")
            if word == "ERROR":
                raise TransportError(f"$name: {line!r} is answered by {value}")
            return value

    def _read(self, name):
        return float(self._ask(f"{COMMANDS[name]}?"))

    def _write(self, name, value):
        limits = getattr(self.capabilities, name)
        value = limits.check(name, value)
        with self._lock:
            self._ask(f"{COMMANDS[name]} {value:.3f}")  # answered once the lens has settled
            check_read_back(name, value, self._read(name), limits.step)

    def acquire(self, mode=ScanMode.FAST):
        """Scan one frame and return it."""
        if not isinstance(mode, ScanMode):
            raise InvalidParameterError(f"mode must be a semdrivers.ScanMode, not {mode!r}")
        with self._lock:
            place, magnification = self.working_distance, self.magnification
            count = int(self._ask(f"SNAP {mode.width} {mode.height}"))
            pixels = np.frombuffer(self._link.read(count), np.uint8).reshape(mode.height, mode.width).copy()
            self._frames += 1
            pixel_size = FIELD_AT_UNITY / magnification / mode.width
            return Image(pixels, place, magnification, pixel_size, self._frames, scan_mode=mode)

    def close(self):
        """Hang up. A second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._link.close()


def connect(url, options):
    """Open ``$name://HOST:PORT``."""
    parts, _ = split_url(url, options, (), "$name")
    if not parts.hostname or not parts.port:
        raise InvalidParameterError(f"{url}: write $name://HOST:PORT")
    return $driver(Link(parts.hostname, parts.port))
'''

_FAKE = '''"""A fake instrument: the wire of the real one, over a picture that blurs away from 11 mm."""

import socketserver
import threading

import numpy as np


class Handler(socketserver.StreamRequestHandler):
    """Answers one client, line by line."""

    def handle(self):
        """Answer until the client leaves."""
        for raw in self.rfile:
            word, *values = raw.decode().split()
            name, state = word.rstrip("?"), self.server.state
            if word == "SNAP":
                pixels = picture(int(values[0]), int(values[1]), state).tobytes()
                self.wfile.write(b"PIXELS %d\\n" % len(pixels) + pixels)
            elif name in state:
                for value in values:
                    low, high = self.server.limits[name]
                    state[name] = min(max(float(value), low), high)  # cut without a word, as instruments do
                self.wfile.write(f"{name} {state[name]:.3f}\\n".encode())
            else:
                self.wfile.write(b"ERROR unknown\\n")


def picture(width, height, state):
    """Return blobs, blurred by the distance from focus, with noise."""
    grain = np.random.default_rng(1).normal(size=(height, width))
    fx, fy = np.fft.fftfreq(width), np.fft.fftfreq(height)[:, None]
    blur = 2 + abs(state["WD"] - 11) * 3e-3 / (128 / state["MAG"] / width)  # pixels, at 3 mrad
    seen = np.fft.ifft2(np.fft.fft2(grain) * np.exp(-2 * (np.pi * blur) ** 2 * (fx**2 + fy**2))).real
    noise = np.random.default_rng().normal(scale=4, size=seen.shape)
    return np.clip(128 + 500 * seen + noise, 0, 255).astype(np.uint8)


class Fake(socketserver.ThreadingTCPServer):
    """The fake, on loopback: ``with Fake() as fake: connect(fake.url)``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.state, self.limits = {"WD": 12.0, "MAG": 1000.0}, {"WD": (5.0, 25.0), "MAG": (100.0, 20000.0)}
        self.url = f"$name://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
'''

_CONFORMANCE = '''"""What every microscope must do, on the fake."""

import pytest
from semdrivers.conformance import CHECKS, Skipped

from $package import connect
from $package.fake import Fake


@pytest.fixture
def microscope():
    with Fake() as fake, connect(fake.url, {}) as opened:
        yield opened


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_microscope(check, microscope):
    try:
        check(microscope)
    except Skipped as reason:
        pytest.skip(str(reason))
'''

_WIRE = '''"""What goes over the wire, as the manual has it: (sent, received), and nothing else."""

import pytest
import semdrivers
from semdrivers.conformance import Wire

from $package import $driver

READ = [("WD?", "WD 12.000")]
SET = [("WD 12.500", "WD 12.500"), ("WD?", "WD 12.500")]
CUT = [("WD 24.000", "WD 20.000"), ("WD?", "WD 20.000")]
FRAME = [("WD?", "WD 12.000"), ("MAG?", "MAG 1000.000"), ("SNAP 320 240", "PIXELS 76800")]


def test_reading():
    with Wire(READ) as wire:
        assert $driver(wire).working_distance == 12.0


def test_setting():
    with Wire(SET) as wire:
        $driver(wire).working_distance = 12.5


def test_a_value_that_is_cut_is_named():
    with Wire(CUT) as wire, pytest.raises(semdrivers.DeviceError, match="was set to 24 and reads 20"):
        $driver(wire).working_distance = 24.0


def test_a_frame():
    with Wire(FRAME, data=bytes(range(256)) * 300) as wire:
        image = $driver(wire).acquire()
    assert image.pixels[0, 255] == 255
    assert image.pixel_size == 400.0
'''

_FILES = {
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    "src/$package/__init__.py": _INIT,
    "src/$package/plugin.py": _PLUGIN,
    "src/$package/driver.py": _DRIVER,
    "src/$package/fake.py": _FAKE,
    "tests/test_conformance.py": _CONFORMANCE,
    "tests/test_wire.py": _WIRE,
}


def new_driver(name: str, folder: str | Path = ".") -> Path:
    """Write the package of a new driver.

    Parameters
    ----------
    name : str
        Name of the distribution and of the scheme of its addresses: small letters, digits and single hyphens.
    folder : str or Path
        Folder in which the new one, `name`, is made.

    Returns
    -------
    Path
        The new folder; ``pytest`` passes in it.

    Raises
    ------
    InvalidParameterError
        When the name cannot be one or a driver has it already, or there is such a folder.
    OSError
        When it cannot be written.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameterError(f"the name of a driver has small letters, digits and hyphens, not {name!r}")
    if name in get_plugin_manager().schemes() or name in ("semdrivers", "test", "tests"):
        raise InvalidParameterError(f"there is a driver {name!r} already; choose another name")
    root = Path(folder) / name
    if root.exists():
        raise InvalidParameterError(f"{root} exists already; choose another name or folder")
    words = {"name": name, "package": name.replace("-", "_"), "driver": "".join(map(str.title, name.split("-")))}
    for place, text in _FILES.items():
        path = root / Template(place).substitute(words)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(Template(text).substitute(words), encoding="utf-8")
    return root
