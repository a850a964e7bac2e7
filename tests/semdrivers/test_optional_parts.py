"""Instruments that lack a stage, a tilt, a stigmator, a brightness: what they offer is what they have."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers import HasDetector, HasStage, HasStageOrientation, HasStigmator, Microscope, RecordsFocus
from semdrivers._cli import app
from semdrivers.base import WrappedMicroscope
from semdrivers.conformance import (
    check_capabilities,
    check_members,
    check_stage,
    check_stage_orientation,
    check_stigmator,
    run_check,
)
from semdrivers.emulator import Emulator
from semdrivers.errors import DeviceError
from semdrivers.microscope import has_part

OPTIONAL = check_stage, check_stage_orientation, check_stigmator
ABSENT = {
    HasStage: "stage_y",
    HasStageOrientation: "stage_tilt",
    HasStigmator: "stigmator_x",
    HasDetector: "brightness",
}


def emulator_without(*names):
    return Emulator("tin-balls", seed=1, magnification=2000, profile=dataclasses.replace(EM30, absent=frozenset(names)))


@pytest.mark.parametrize("part", ABSENT)
def test_an_instrument_offers_all_parts_but_the_one_it_lacks(part):
    with emulator_without(ABSENT[part]) as emulator, semdrivers.connect(emulator.url) as microscope:
        for other in ABSENT:
            assert isinstance(microscope, other) is has_part(microscope, other) is (other is not part)
            assert isinstance(WrappedMicroscope(microscope), other) is (other is not part)


def test_a_bare_instrument_is_described_checked_and_focused():
    with emulator_without(*ABSENT.values()) as emulator:
        answer = CliRunner().invoke(app, ["info", emulator.url, "--json"])
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["offers"] == ["beam", "vacuum", "stop within a frame", "high voltage"]
        with semdrivers.connect(emulator.url) as microscope:
            outcomes = [run_check(check, microscope).status for check in (check_members, check_capabilities, *OPTIONAL)]
            assert outcomes == ["passed", "passed", "skipped", "skipped", "skipped"]
            assert microscope.autofocus().focused


def test_what_an_instrument_lacks_is_named_and_refused_on_the_wire_too():
    with emulator_without("stigmator_x", "stage_x") as emulator, semdrivers.connect(emulator.url) as microscope:
        with pytest.raises(AttributeError, match="does not offer stigmator"):
            microscope.stigmator  # noqa: B018
        with pytest.raises(AttributeError, match="does not offer stigmator"):
            microscope.stigmator = 1.0, 1.0
        with pytest.raises(AttributeError, match="does not offer move_stage"):
            microscope.move_stage(1.0, 1.0)
    with emulator_without() as emulator, semdrivers.connect(emulator.url) as microscope:
        object.__setattr__(emulator.instrument, "profile", dataclasses.replace(EM30, absent=frozenset(["stage_x"])))
        with pytest.raises(DeviceError, match="has no stage_x"):
            microscope.move_stage(1.0, 1.0)


class Unreadable:
    """Every property raises: asking for one asks the instrument."""

    def acquire(self, mode=None): ...

    def close(self): ...

    def move_stage(self, x, y): ...


for _name in ("capabilities", "working_distance", "magnification", "stage_position", "stigmator"):
    setattr(Unreadable, _name, property(lambda self: pytest.fail("it was read")))


def test_isinstance_asks_the_instrument_nothing():
    microscope = Unreadable()
    assert isinstance(microscope, Microscope)
    assert isinstance(microscope, HasStage)
    assert isinstance(microscope, HasStigmator)
    assert not isinstance(microscope, HasDetector)
    assert not isinstance(microscope, RecordsFocus)


def test_a_class_that_names_a_protocol_among_its_bases_is_a_class_as_ever():
    class Driver(HasStage):
        pass

    assert isinstance(Driver(), Driver)
    assert isinstance(Driver(), HasStage)
    assert not isinstance(Unreadable(), Driver)


def test_a_lost_link_changes_no_answer():
    with emulator_without("stage_tilt") as emulator:
        microscope = semdrivers.connect(emulator.url)
        microscope.close()
        assert isinstance(microscope, HasStage)
        assert not isinstance(microscope, HasStageOrientation)
