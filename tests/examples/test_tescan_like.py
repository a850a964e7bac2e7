"""The example of a second make: another wire, the same conformance checks, and the autofocus that never heard of it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

import semdrivers
from semdrivers.conformance import CHECKS, Skipped
from semdrivers.hosts import focused

SOURCE = Path(__file__).parents[2] / "examples" / "tescan_like" / "src"


@pytest.fixture(scope="module", autouse=True)
def plugin():
    """The example's package and plugin, as if it had been installed."""
    sys.path.insert(0, str(SOURCE))
    import tescan_like.plugin as module

    manager = semdrivers.get_plugin_manager()
    manager.register(module, "tescan-like")
    yield module
    manager.unregister(module)
    sys.path.remove(str(SOURCE))


@pytest.fixture
def emulator():
    from tescan_like.emulator import TescanLikeEmulator

    with TescanLikeEmulator(seed=4) as running:
        yield running


@pytest.fixture
def microscope(emulator):
    with semdrivers.connect(emulator.url) as opened:
        yield opened


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_it_keeps_the_contract(check, microscope):
    try:
        check(microscope)
    except Skipped as reason:
        pytest.skip(str(reason))
    except semdrivers.ModelError as error:
        pytest.skip(f"no shipped models: {error}")


def test_it_knows_the_public_names_of_semdrivers_alone():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(("semdrivers.", "firmware_protocol"))], path


def test_it_focuses_over_a_slope_and_the_frames_say_so(microscope, emulator):
    from semfocus_plugin.networks import _models as networks

    try:
        networks.load()
    except semdrivers.ModelError as error:
        pytest.skip(f"no shipped models: {error}")
    microscope.magnification = 3000
    with focused(microscope, stage_travel=1.0, max_travel=3.0) as held:
        for x in (0.0, 10.0, 20.0, -10.0):
            held.move_stage(x, 0.0)
            image = held.acquire()
            assert abs(image.working_distance - emulator.truth) < 2 * emulator.depth_of_field
            assert image.metadata["autofocus"]["status"] == "focused"


def test_its_errors_are_the_documented_ones(microscope, emulator):
    with pytest.raises(semdrivers.OutOfRangeError, match=r"stage x 99 mm is outside -30 to 30 mm"):
        microscope.move_stage(99.0, 0.0)
    assert emulator.stage == (0.0, 0.0)
    microscope.close()
    with pytest.raises(semdrivers.NotConnectedError, match="closed"):
        _ = microscope.working_distance


def test_a_damaged_picture_is_never_delivered(microscope, emulator):
    emulator.damage = lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:]
    with pytest.raises(semdrivers.TransportError, match="damaged"):
        microscope.acquire()


def test_a_lost_instrument_is_told(microscope, emulator):
    emulator.__exit__()
    with pytest.raises(semdrivers.TransportError):
        microscope.working_distance = 12.0


def test_its_lines_are_put_where_they_belong(microscope, emulator):
    """Blocks arrive out of order; a ramp down the picture shows any that was put elsewhere."""
    ramp = np.repeat(np.linspace(0, 255, 480).astype(np.uint8)[:, None], 640, axis=1)
    emulator._look = lambda width, height: ramp
    assert np.array_equal(microscope.acquire(semdrivers.ScanMode.STANDARD).pixels, ramp)


@pytest.mark.parametrize("url", ["tescan-like://", "tescan-like://host:port", "tescan-like://host/path"])
def test_a_malformed_address_is_told(url):
    with pytest.raises(semdrivers.InvalidParameterError, match="tescan-like"):
        semdrivers.connect(url)


def test_a_closed_port_is_told():
    with pytest.raises(semdrivers.NotConnectedError, match=r"could not open TESCAN-like at 127\.0\.0\.1:1"):
        semdrivers.connect("tescan-like://127.0.0.1:1")
