"""What tests of every package share."""

from __future__ import annotations

import os
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
