"""The numbers of the EM-30: where they come from, and what follows from them."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest

from firmware_protocol.profile import EM30, InstrumentProfile


def test_every_number_says_whether_it_is_sourced_or_assumed() -> None:
    assert InstrumentProfile.__doc__ is not None
    entries = re.split(r"\n    (?=\w[\w, ]* : )", InstrumentProfile.__doc__)[1:]
    told = {}
    for entry in entries:
        names, text = entry.split(" : ", 1)
        told.update(dict.fromkeys(names.split(", "), text))
    fields = {field.name for field in dataclasses.fields(InstrumentProfile)}
    assert set(told) == fields
    for name in fields - {"model", "firmware"}:
        assert re.search(r"\b[AS]\b", told[name]), name


def test_the_geometry_is_that_of_the_design() -> None:
    assert EM30.pixel_size(1000, 320) == pytest.approx(400.0)
    assert EM30.pixel_size(1000, 640) == pytest.approx(200.0)
    assert EM30.half_angle(15.0) == pytest.approx(3.0)


@pytest.mark.parametrize(("name", "seconds"), [("FAST", 0.1), ("STANDARD", 1.0), ("SLOW", 10.0)])
def test_frames_take_about_as_long_as_assumed(name: str, seconds: float) -> None:
    (mode,) = [mode for mode in EM30.scan_modes if mode.name == name]
    assert mode.frame_time == pytest.approx(seconds, rel=0.03)
    assert EM30.scan_mode(mode.width, mode.height) is mode
    assert EM30.scan_mode(mode.width + 1, mode.height) is None


def test_a_settled_lens_is_within_half_a_quantum() -> None:
    for change in (0.001, 0.036, 1.2, 49.0):
        left = change * math.exp(-EM30.lens_settling(change) / EM30.lens_time_constant)
        assert left <= EM30.working_distance_step / 2 * (1 + 1e-9)
    assert EM30.lens_settling(0.0) == EM30.lens_settling(-0.0004) == 0.0
    assert EM30.lens_settling(-1.0) == EM30.lens_settling(1.0)


def test_the_collision_envelope_rises_with_the_stage() -> None:
    assert EM30.lowest_working_distance(EM30.stage_free_height) == EM30.working_distance_minimum
    assert EM30.lowest_working_distance(EM30.stage_free_height + 5) == EM30.working_distance_minimum + 5
