"""An instrument that answers something else than it was asked: a named error with field and value, never a wrong number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import semdrivers
from firmware_protocol.messages import Parameter
from semdrivers.emulator import Emulator
from semdrivers.emulator.instrument import Instrument
from semdrivers.errors import ProtocolError

PICTURE = np.random.default_rng(5).integers(0, 256, (200, 300), np.uint8)


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(PICTURE, pixel_size=50.0, seed=1, working_distance=14.0) as running:
        yield running


def lying(method: str, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Have the instrument do as it is told, and answer with other values."""
    honest: Callable[..., Any] = getattr(Instrument, method)
    monkeypatch.setattr(Instrument, method, lambda *given: dataclasses.replace(honest(*given), **fields))


@pytest.mark.parametrize(
    ("method", "fields", "act", "message"),
    [
        ("set_parameter", {"value": 12.0}, lambda m: setattr(m, "working_distance", 13.0), "to 13 with value 12"),
        ("set_parameter", {"value": math.nan}, lambda m: setattr(m, "magnification", 900), "with value nan"),
        ("set_parameter", {"time": math.inf}, lambda m: setattr(m, "contrast", 0.4), "with time inf"),
        (
            "set_parameter",
            {"parameter": Parameter.MAGNIFICATION},
            lambda m: setattr(m, "working_distance", 13.0),
            "with parameter magnification",
        ),
        ("move_stage", {"y": 3.0}, lambda m: m.move_stage(0.5, 0.5), "with y 3"),
        ("orient_stage", {"tilt": 3.0}, lambda m: m.orient_stage(1.0, 2.0), "with tilt 3"),
        ("set_stigmator", {"x": 9.0}, lambda m: setattr(m, "stigmator", (1.0, 2.0)), "with x 9"),
        ("set_beam", {"on": True}, lambda m: setattr(m, "beam_on", False), "with on True"),
        ("start_scan", {"frame_time": math.nan}, lambda m: m.acquire(), "with frame_time nan"),
        ("start_scan", {"frame_time": 1e9}, lambda m: m.acquire(), "with frame_time 1000000000"),
        ("start_scan", {"time": math.nan}, lambda m: m.acquire(), "with time nan"),
    ],
)
def test_an_answer_that_is_none_to_the_question_is_a_named_error(emulator, monkeypatch, method, fields, act, message):
    lying(method, monkeypatch, **fields)
    with semdrivers.connect(emulator.url) as microscope, pytest.raises(ProtocolError, match=message):
        act(microscope)
