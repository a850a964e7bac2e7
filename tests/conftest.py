"""What tests of every package share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
"""A property that holds slowly on a busy machine holds."""

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
