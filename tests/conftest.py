"""What tests of every package share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

import semdrivers

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
"""A property that holds slowly on a busy machine holds."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Tests run in more processes than there are cores."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
"""Each of the many processes that tests start would compile every module again."""

for _name in ("COLUMNS", "LINES"):  # the size of the terminal of whoever runs the tests, which readline exports
    os.environ.pop(_name, None)

os.environ["SEMFOCUS_CALIBRATION"] = os.devnull
"""No calibration that the person running the tests keeps."""

os.environ["SEMFOCUS_LEARNING"] = "off"
"""No aperture that earlier runs measured."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half again as many processes as cores: while one test waits for a silence or another process, two compute."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + cores // 2


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real micrographs: SEMFOCUS_DATA, or ../shared/data beside the checkout."""
    named = os.environ.get("SEMFOCUS_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real micrographs at {folder}; set SEMFOCUS_DATA")
    return folder


@pytest.fixture
def demo_camera(tmp_path: Path) -> Path:
    """A Micro-Manager configuration: the C++ demo camera looking at beads that blur away from z = 0."""
    pytest.importorskip("mm_test_adapters", reason="mm-test-adapters are not installed: pip install '.[simulators]'")
    pytest.importorskip("pymmcore_plus", reason="pymmcore-plus is not installed: pip install '.[pymmcore]'")
    from semfocus_plugin.lab.studies import stand_ins

    return stand_ins.demo_camera(tmp_path / "demo camera.cfg")


@pytest.fixture(scope="module")
def virtual_zem() -> Iterator[Callable[..., str]]:
    """Start the maker's simulator of a ZEM in a process of its own, on loopback; returns its address."""
    pytest.importorskip("zemrpc", reason="pyzemrpc is not installed: pip install '.[zem-simulator]'")
    from semfocus_plugin.lab.studies import stand_ins

    with ExitStack() as running:
        yield lambda *arguments: running.enter_context(stand_ins.virtual_zem(*arguments))


@pytest.fixture
def offer_method() -> Iterator[Callable[..., object]]:
    """Register a function as the autofocus method of its name, for one test.

    It returns a result, or those fields of one that are not as where it is sharp where the microscope stands.
    """
    manager = semdrivers.get_plugin_manager()
    registered = []

    def offer(focus: Callable[..., object], name: str = "test-method") -> object:
        class Plugin:
            @semdrivers.hookimpl
            def semdrivers_autofocus_methods(self) -> dict[str, str]:
                return {name: "a method of the tests"}

            @semdrivers.hookimpl
            def semdrivers_autofocus(self, microscope, settings, progress, cancel):
                if settings.method != name:
                    return None
                start = microscope.working_distance
                made = focus(microscope, settings, progress, cancel)
                if not isinstance(made, dict):
                    return made
                usual = {"status": "focused", "reason": "the test says so", "score": 8.5, "confidence": 0.9}
                place = {"working_distance": microscope.working_distance, "start_working_distance": start}
                return semdrivers.AutofocusResult(
                    **{**usual, **place, "frames": 1, "elapsed": 0.1, "method": name, **made}
                )

        plugin = Plugin()
        manager.register(plugin, f"plugin-of-{name}")
        registered.append(plugin)
        return plugin

    yield offer
    for plugin in registered:
        manager.unregister(plugin)
