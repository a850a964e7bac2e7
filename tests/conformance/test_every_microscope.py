"""One suite for every microscope: the emulator here, and hardware when SEMDRIVERS_TEST_URL names it."""

from __future__ import annotations

import os

import pytest

import semdrivers
from semdrivers.conformance import CHECKS, Skipped

ADDRESSES = [
    pytest.param("emulator://tin-balls?seed=1&magnification=2000", id="emulator"),
    pytest.param(
        os.environ.get("SEMDRIVERS_TEST_URL", ""),
        id="hardware",
        marks=[
            pytest.mark.hardware,
            pytest.mark.skipif("SEMDRIVERS_TEST_URL" not in os.environ, reason="set SEMDRIVERS_TEST_URL"),
        ],
    ),
]


@pytest.fixture(params=ADDRESSES)
def microscope(request):
    opened = semdrivers.connect(request.param)
    yield opened
    opened.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_microscope(check, microscope):
    try:
        check(microscope)
    except Skipped as reason:
        pytest.skip(str(reason))
