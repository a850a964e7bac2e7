"""What drivers, hosts and methods share: wrapped microscopes, putting an instrument back, checks of numbers."""

from __future__ import annotations

import pytest

import semdrivers
from semdrivers.base import WrappedMicroscope
from semdrivers.connection import flag_option, split_url, whole_option
from semdrivers.microscope import HasDetector, HasStage, restoring, whole_number, within


def test_a_wrapped_microscope_has_what_the_other_has_and_no_more(foreign_type):
    class WithStage(foreign_type):
        stage_position = (1.0, 2.0)

        def move_stage(self, x, y):
            self.stage_position = x, y
            return x, y

    inner = WithStage()
    wrapped = WrappedMicroscope(inner)
    assert isinstance(wrapped, semdrivers.Microscope)
    assert isinstance(wrapped, HasStage)
    assert not isinstance(wrapped, HasDetector)
    assert not isinstance(WrappedMicroscope(foreign_type()), HasStage)
    wrapped.working_distance = 13.0
    assert wrapped.move_stage(3.0, 4.0) == wrapped.stage_position == (3.0, 4.0)
    assert inner.moves == [13.0]
    assert wrapped.acquire().working_distance == 13.0
    with wrapped:
        pass
    assert inner.closed


def test_only_a_microscope_can_be_wrapped():
    with pytest.raises(semdrivers.InvalidParameterError, match="object is no Microscope: it lacks capabilities"):
        WrappedMicroscope(object())


def test_each_value_is_put_back_and_what_fails_is_a_note(foreign_type):
    class Stuck(foreign_type):
        stuck = False

        @property
        def magnification(self):
            return 2000.0

        @magnification.setter
        def magnification(self, value):
            if self.stuck:
                raise semdrivers.BusyError("the scan coils are busy")

    microscope = Stuck()

    def fail():
        with restoring(microscope):
            microscope.working_distance = 20.0
            microscope.stuck = True
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail()
    assert microscope.working_distance == 12.0
    assert caught.value.__notes__ == ["and magnification could not be put back to 2000.0: the scan coils are busy"]


@pytest.mark.parametrize(("only_on_error", "end"), [(False, 12.0), (True, 20.0)])
def test_a_block_that_ends_well_is_put_back_unless_it_shall_stay(foreign, only_on_error, end):
    with restoring(foreign, "working_distance", only_on_error=only_on_error):
        foreign.working_distance = 20.0
    assert foreign.working_distance == end


def test_checks_name_parameter_value_and_limit():
    assert whole_number("frames", 3, 1) == 3
    assert within("score", 9, 0, 9) == 9.0
    with pytest.raises(semdrivers.OutOfRangeError, match="frames must be at least 1, not 0"):
        whole_number("frames", 0, 1)
    with pytest.raises(semdrivers.InvalidParameterError, match=r"frames must be a whole number, not 2\.0"):
        whole_number("frames", 2.0, 1)
    with pytest.raises(semdrivers.OutOfRangeError, match=r"probe must be within 0\.1 to 1000 nm, not 0"):
        within("probe", 0, 0.1, 1000, "nm")


def test_an_option_stands_above_the_query_and_unknown_ones_are_listed():
    parts, given = split_url("x://host?a=1&b=no", {"a": 2}, ("a", "b", "on_close"), "an X")
    assert (parts.hostname, given) == ("host", {"a": 2, "b": "no"})
    assert whole_option("x://", "a", "17") == 17
    assert flag_option("x://", "b", "no") is False
    with pytest.raises(semdrivers.InvalidParameterError, match=r"there is no option 'c'; an X takes a, b$"):
        split_url("x://host?c=1", {}, ("a", "b", "on_close"), "an X")
