"""Any value in terms of JSON's own types."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import semdrivers
from semdrivers.files import plain


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: object


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.array([[1, 2]]), [[1, 2]]),
        ((1, "a", None, True), [1, "a", None, True]),
        ({1: Path("x")}, {"1": "x"}),
        (Colour.RED, "red"),
        (semdrivers.ScanMode.FAST, {"name": "FAST", "width": 320, "height": 240, "dwell": None}),
        (Point(1.5, Point(2.5, float("nan"))), {"x": 1.5, "y": {"x": 2.5, "y": None}}),
        (object, "<class 'object'>"),
    ],
)
def test_any_value_has_a_json_form(value, expected):
    assert plain(value) == expected


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text(),
        lambda inner: st.tuples(inner, inner) | st.sets(st.floats()),
    )
)
def test_the_form_is_strict_json(value):
    json.dumps(plain(value), allow_nan=False)
