"""Where `autofocus` sends lens and stage, place by place, on a microscope that notes every place."""

from __future__ import annotations

import dataclasses
import math

import pytest

import semdrivers
from semdrivers import AutofocusResult, FocusMap, Range
from semdrivers.focus import Drift
from semdrivers.microscope import TAKE_UP, allowed_range, approach, restoring

RADIUS, TARGET = 0.2, (1.0, 2.0)


@pytest.fixture
def staged(foreign_type):
    """A microscope whose stage stands at `TARGET`; `short` is the part of each way that it does not go."""

    class Staged(foreign_type):
        stage_position, short = TARGET, 0.0

        def __init__(self):
            super().__init__()
            self.places = []

        def move_stage(self, x, y):
            self.places.append((x, y))
            now = self.stage_position
            self.stage_position = tuple(to - self.short * (to - at) for at, to in zip(now, (x, y), strict=True))
            return self.stage_position

    return Staged()


def ends(status, **changes):
    """A method of autofocus that moves nothing and ends so."""

    def focus(microscope, settings, progress, cancel):
        now = microscope.working_distance
        place = {"status": status, "reason": "the test says so", "working_distance": now, "start_working_distance": now}
        counted = {"score": 8.0, "confidence": 0.9, "frames": 1, "elapsed": 0.1, "method": "test-method"}
        return AutofocusResult(**place, **counted, **changes)

    return focus


def test_contrast_is_looked_for_all_around_the_target(staged, offer_method):
    offer_method(ends("refused"))
    semdrivers.autofocus(staged, method="test-method", move_to_contrast=True, contrast_radius=RADIUS)
    near, far = 0.5 * RADIUS, 0.7 * RADIUS
    ways = [(near, 0), (0, near), (-near, 0), (0, -near), (far, far), (-far, far), (-far, -far), (far, -far), (0, 0)]
    assert staged.places == [pytest.approx((TARGET[0] + x, TARGET[1] + y)) for x, y in ways]


@pytest.mark.parametrize(
    ("offset", "short", "stands"),
    [((1.0, 0.0), 0.4, True), ((1.0, 0.0), 0.6, False), ((0.004, 0.0), 1.0, True), ((0.0, 0.006), 1.0, False)],
)
def test_a_stage_may_miss_by_half_of_its_way_or_by_five_micrometres(staged, offer_method, offset, short, stands):
    offer_method(ends("refused"))
    staged.short = short
    if stands:
        assert semdrivers.autofocus(staged, method="test-method", focus_offset=offset).status == "refused"
    else:
        with pytest.raises(semdrivers.DeviceError, match="the stage stands at"):
            semdrivers.autofocus(staged, method="test-method", focus_offset=offset)


def test_where_the_radius_is_wide_a_stage_may_miss_by_half_of_it(staged, offer_method):
    offer_method(ends("refused"))
    staged.short = 0.4
    focused = {"method": "test-method", "move_to_contrast": True, "contrast_radius": RADIUS}
    assert semdrivers.autofocus(staged, **focused).status == "refused"


def test_the_stage_goes_back_to_where_the_target_has_drifted(staged, offer_method):
    offer_method(ends("focused", drift=Drift(1.0, -2.0, 0.1, 60.0, corrected=(300.0, -500.0))))
    semdrivers.autofocus(staged, method="test-method", focus_offset=(0.1, 0.3), correct_drift=True)
    assert staged.places == [pytest.approx((TARGET[0] + 0.1, TARGET[1] + 0.3)), pytest.approx((1.0003, 1.9995))]


@pytest.mark.parametrize(("points", "side"), [(1, 1), (2, -1)])
def test_a_run_begins_two_depths_of_field_from_what_a_map_predicts_on_alternating_sides(
    staged, offer_method, points, side
):
    begun = []

    def focus(microscope, settings, progress, cancel):
        begun.append(microscope.working_distance)
        return dataclasses.replace(ends("refused")(microscope, settings, progress, cancel), depth_of_field=0.02)

    offer_method(focus)
    known = FocusMap()
    for _ in range(points):
        known.add(-40.0, -40.0, 13.0, depth_of_field=0.02, magnification=2000)
    aim, sigma = known.predict(*TARGET)
    assert not known.trusts(sigma, 2000)
    semdrivers.autofocus(staged, method="test-method", map=known)
    assert begun == [pytest.approx(aim + side * 2 * known.depth_of_field(2000), abs=2e-3)]


def test_a_focus_by_the_map_is_as_sure_as_the_map(staged):
    known = FocusMap()
    for x, y in ((0.5, 1.5), (1.5, 1.5), (1.5, 2.5), (0.5, 2.5)):
        known.add(x, y, 13.0, depth_of_field=0.1, magnification=2000)
    aim, sigma = known.predict(*TARGET)
    result = semdrivers.autofocus(staged, map=known)
    assert (result.method, result.frames) == ("focus-map", 0)
    assert f"±{sigma / known.depth_of_field(2000):.2f} depths of field" in result.reason
    assert staged.working_distance == pytest.approx(aim, abs=1e-3)
    assert result.confidence == pytest.approx(math.erf(known.depth_of_field(2000) / (sigma * math.sqrt(2))), rel=1e-7)
    assert result.confidence < 1


def test_the_lens_comes_from_below_to_a_place_on_its_grid(foreign):
    foreign.working_distance = 14.0
    foreign.moves.clear()
    approach(foreign, 12.1234567894, Range(1.0, 50.0))
    assert foreign.moves == [round(12.1234567894 - TAKE_UP, 9), 12.1234567894]
    foreign.moves.clear()
    approach(foreign, 12.3456, Range(1.0, 50.0, 0.01))
    assert foreign.moves == [12.35]
    approach(foreign, 12.0049, Range(12.0, 50.0, 0.01))
    assert foreign.moves == [12.35, 12.0]


def test_a_run_may_begin_half_a_step_beyond_the_limits():
    limits = Range(5.0, 30.0, 0.5)
    for start in (4.75, 30.25):
        assert allowed_range(limits, None, start) == limits
    for start in (4.74, 30.26):
        with pytest.raises(semdrivers.OutOfRangeError, match="move there first"):
            allowed_range(limits, None, start)


def test_all_is_put_back_by_default(foreign):
    with restoring(foreign) as start:
        foreign.working_distance, foreign.magnification = 20.0, 500
    assert (foreign.working_distance, foreign.magnification) == (12.0, 2000.0)
    assert start == {"magnification": 2000.0, "working_distance": 12.0}
