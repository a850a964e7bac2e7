"""What tests of every package share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
"""A property that holds slowly on a busy machine holds."""

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Tests run in as many processes as there are cores."""

for _name in ("COLUMNS", "LINES"):  # the size of the terminal of whoever runs the tests, which readline exports
    os.environ.pop(_name, None)

os.environ["SEMFOCUS_CALIBRATION"] = os.devnull
"""No calibration that the person running the tests keeps."""

os.environ["SEMFOCUS_LEARNING"] = "off"
"""No aperture that earlier runs measured."""


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
    path = tmp_path / "demo camera.cfg"
    path.write_text(
        "Device,Camera,DemoCamera,DCam\n"
        "Device,Z,DemoCamera,DStage\n"
        "Device,XY,DemoCamera,DXYStage\n"
        "Device,Objective,DemoCamera,DObjective\n"
        "Property,Core,Initialize,1\n"
        "Property,Core,Camera,Camera\n"
        "Property,Core,Focus,Z\n"
        "Property,Core,XYStage,XY\n"
        "Property,Core,AutoShutter,0\n"
        "Property,Camera,Mode,Fluorescent Beads\n"
        "Property,Camera,PixelType,16bit\n"
        "Property,Camera,BitDepth,12\n"
        "Property,Camera,Exposure,5\n"
        "Property,Camera,Offset,100\n"
        "ConfigPixelSize,Res20x,Objective,Label,Objective-A\n"
        "PixelSize_um,Res20x,0.5\n"
    )
    return path


@pytest.fixture(scope="module")
def virtual_zem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Start the maker's simulator of a ZEM in a process of its own, on loopback; returns its address."""
    pytest.importorskip("zemrpc", reason="pyzemrpc is not installed: pip install '.[zem-simulator]'")
    started: list[subprocess.Popen[str]] = []
    home = str(tmp_path_factory.mktemp("zem"))

    def start(*arguments: str) -> str:
        script = Path(__file__).parent / "fixtures" / "virtual_zem.py"
        around = {**os.environ, "HOME": home, "USERPROFILE": home}
        command = [sys.executable, str(script), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=around, cwd=home)
        started.append(process)
        for line in process.stdout:
            if line.strip().isdecimal():
                return f"zem://127.0.0.1:{line.strip()}?settle=0&timeout=60"
        raise RuntimeError("the simulator did not start")

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
