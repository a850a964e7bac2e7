"""What drivers, hosts and methods share: wrapped microscopes, putting an instrument back, checks of numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import semdrivers
from semdrivers.base import WrappedMicroscope
from semdrivers.connection import flag_option, split_url, whole_option
from semdrivers.microscope import (
    HasDetector,
    HasStage,
    Range,
    check_read_back,
    checked_limits,
    number,
    put_back,
    read_number,
    reported,
    reported_picture,
    restoring,
    stigmator_of,
    whole_number,
    within,
)


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


def test_methods_of_a_wrapped_microscope_take_their_arguments_by_name(foreign_type):
    kind = type("Staged", (foreign_type,), {"stage_position": (0.0, 0.0), "move_stage": lambda self, x, y: (x, y)})
    wrapped = WrappedMicroscope(kind())
    assert wrapped.move_stage(1.0, 2.0) == wrapped.move_stage(y=2.0, x=1.0) == (1.0, 2.0)
    for arguments in ((1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(TypeError, match="argument"):
            wrapped.move_stage(*arguments)


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


class Parts:
    """Something with settings that notes every set, and fails on request."""

    def __init__(self, **values):
        object.__setattr__(self, "done", [])
        object.__setattr__(self, "failing", {})
        self.__dict__.update(values)

    def __setattr__(self, name, value):
        self.done.append((name, value))
        for error in self.failing.get(name, ()):
            self.failing[name] = self.failing[name][1:]
            raise error
        self.__dict__[name] = value

    def move_stage(self, x, y):
        self.stage_position = x, y


def test_what_is_put_back_is_set_in_order_and_only_where_it_has_changed():
    start = {"stage_position": (1.0, 2.0), "magnification": 2000.0, "working_distance": 12.0}
    parts = Parts(stage_position=(3.0, 2.0), magnification=2000.0, working_distance=13.0)
    assert put_back(parts, start) == {}
    assert parts.done == [("stage_position", (1.0, 2.0)), ("working_distance", 12.0)]
    parts.done.clear()
    assert put_back(parts, start, changed_only=False) == {}
    assert parts.done == list(start.items())


@pytest.mark.parametrize("changed_only", [True, False])
def test_a_stigmator_that_reads_its_value_is_never_set(changed_only):
    parts = Parts(stigmator=(1.0, 2.0))
    assert put_back(parts, {"stigmator": (1.0, 2.0)}, changed_only=changed_only) == {}
    assert parts.done == []
    assert put_back(parts, {"stigmator": (1.0, 2.5)}, changed_only=changed_only) == {}
    assert parts.done == [("stigmator", (1.0, 2.5))]


@pytest.mark.parametrize("name", ["magnification", "stigmator", "stage_position", "beam_shift"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_never_put_back_and_the_rest_is(name, value):
    before = 500.0 if name == "magnification" else (1.0, 2.0)
    parts = Parts(**{name: before, "working_distance": 13.0})
    failures = put_back(parts, {name: value if isinstance(before, float) else (1.0, value), "working_distance": 12.0})
    assert list(failures) == [name]
    assert isinstance(failures[name], semdrivers.OutOfRangeError)
    assert parts.done == [("working_distance", 12.0)]


@pytest.mark.parametrize("impatience", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize(("presses", "set_at_last"), [(1, True), (2, True), (3, False)])
def test_an_impatient_person_leaves_nothing_out_and_ends_the_program(impatience, presses, set_at_last):
    parts = Parts(magnification=500.0, working_distance=13.0)
    parts.failing["magnification"] = (impatience(),) * presses
    with pytest.raises(impatience):
        put_back(parts, {"magnification": 2000.0, "working_distance": 12.0})
    assert (parts.magnification == 2000.0) is set_at_last
    assert parts.working_distance == 12.0
    assert len(parts.done) == min(presses + 1, 3) + 1


def test_an_impatient_person_still_learns_what_could_not_be_put_back(caplog):
    parts = Parts(magnification=500.0, working_distance=13.0)
    parts.failing |= {"magnification": (SystemExit(143),), "working_distance": (semdrivers.DeviceError("stuck"),)}
    with (
        pytest.raises(SystemExit) as ended,
        restoring(parts, values={"magnification": 2000.0, "working_distance": 12.0}),
    ):
        raise KeyboardInterrupt
    assert ended.value.__notes__ == ["and working_distance could not be put back to 12.0: stuck"]
    assert "working_distance could not be put back to 12.0: stuck" in caplog.text


def test_what_failed_is_told_by_name_and_tried_once():
    error = semdrivers.DeviceError("stuck")
    parts = Parts(magnification=500.0, working_distance=13.0)
    parts.failing["magnification"] = (error,)
    assert put_back(parts, {"magnification": 2000.0, "working_distance": 12.0}) == {"magnification": error}
    assert [name for name, _ in parts.done] == ["magnification", "working_distance"]


def test_a_block_that_ended_well_raises_the_first_failure():
    parts = Parts(magnification=500.0)
    parts.failing["magnification"] = (semdrivers.DeviceError("stuck"),)
    with pytest.raises(semdrivers.DeviceError, match="stuck"), restoring(parts, values={"magnification": 2000.0}):
        pass


def test_a_link_opened_again_to_put_back_says_what_is_back_and_what_is_not(caplog):
    parts = Parts(magnification=500.0, working_distance=13.0)
    parts.failing["magnification"] = (semdrivers.DeviceError("stuck"),)
    start = {"magnification": 2000.0, "working_distance": 12.0}
    with pytest.raises(semdrivers.TransportError) as lost, restoring(parts, values=start):
        raise semdrivers.TransportError("gone")
    assert lost.value.__notes__ == [
        "and magnification could not be put back to 2000.0: stuck",
        "the link was opened again: working_distance is back at 12.0",
    ]
    assert "magnification could not be put back to 2000.0: stuck" in caplog.text
    parts.failing["working_distance"] = (semdrivers.DeviceError("stuck"),)
    with pytest.raises(semdrivers.TransportError) as lost, restoring(parts, values={"working_distance": 12.0}):
        raise semdrivers.TransportError("gone")
    assert len(lost.value.__notes__) == 1


@pytest.mark.parametrize(
    ("value", "read", "tolerance", "same"),
    [
        (10.0, 10.0100099, 0.01, True),
        (10.0, 9.98998, 0.01, False),
        (1000.0, 1000.005, 0.0, True),
        (1000.0, 999.99, 0.0, False),
    ],
)
def test_a_value_read_back_may_differ_by_rounding_alone(value, read, tolerance, same):
    if same:
        check_read_back("lens", value, read, tolerance)
    else:
        with pytest.raises(semdrivers.DeviceError, match=f"lens was set to {value:g} and reads {read:g}: "):
            check_read_back("lens", value, read, tolerance)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: number("lens", "1"), "lens must be a number, not '1'"),
        (lambda: number("lens", None, "mm"), "lens must be a number in mm, not None"),
        (lambda: number("lens", math.inf, "mm"), "lens must be finite, not inf mm"),
        (lambda: number("lens", 10**400), "lens must be finite, not a number of more than 300 digits"),
        (lambda: reported("lens", "nan", "mm"), "lens reads 'nan', which is no finite number; check the instrument"),
        (lambda: within("x", 2, 0, 1), "x must be within 0 to 1, not 2"),
        (lambda: whole_number("x", True, 0), "x must be a whole number, not True"),
        (lambda: checked_limits(0.0, None), "max_travel must be above 0 mm, not 0 mm"),
        (lambda: checked_limits(0.0, None, unit=""), "max_travel must be above 0, not 0"),
        (lambda: checked_limits(None, (2.0, 2.0)), "bounds must be (low, high) in mm with low < high, not (2, 2)"),
        (lambda: checked_limits(None, 3), "bounds must be two numbers in mm, not 3"),
        (lambda: checked_limits(None, 3, unit=""), "bounds must be two numbers, not 3"),
        (lambda: Range(1.0, 2.0).check("x", 2.5), "x 2.5 is outside 1 to 2"),
        (lambda: Range(1.0, 2.0).check("x", 0.5, "mm"), "x 0.5 mm is outside 1 to 2 mm"),
        (
            lambda: read_number(Parts(working_distance=math.nan), "working_distance", "mm"),
            "the instrument reads back no usable value: working distance must be finite, not nan mm; check its driver",
        ),
        (
            lambda: stigmator_of(Parts(stigmator=(1.0, math.nan))),
            "the instrument reads back no usable stigmator: stigmator y must be finite, not nan; check its driver",
        ),
        (
            lambda: stigmator_of(Parts(stigmator=None)),
            "the instrument reads back no usable stigmator: cannot unpack non-iterable NoneType object; check its driver",
        ),
    ],
)  # fmt: skip
def test_a_refusal_is_this_text(work, words):
    with pytest.raises(semdrivers.SemDriversError) as refused:
        work()
    assert str(refused.value) == words


def test_a_value_at_a_limit_is_taken_also_when_single_precision_has_moved_it():
    limits = Range(3.0, 5.0)
    for value, taken in ((3.0, 3.0), (5.0, 5.0), (3.0 - 2e-6, 3.0), (5.0 + 4e-6, 5.0)):
        assert limits.check("x", value) == taken
    for value in (3.0 - 4e-6, 5.0 + 6e-6):
        with pytest.raises(semdrivers.OutOfRangeError):
            limits.check("x", value)
    assert limits.intersect(4.0, 9.0) == Range(4.0, 5.0)
    assert limits.intersect(0.0, 4.0) == Range(3.0, 4.0)
    assert 3.0 in limits
    assert 5.0 in limits
    assert "4" not in limits
    assert math.nan not in limits
    assert checked_limits(0.1, [1, 2]) == (1.0, 2.0)
    assert within("x", 1, 0, 1) == 1.0
    assert whole_number("x", -3) == -3


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32])
def test_a_picture_of_a_library_is_copied(kind):
    given = np.arange(6, dtype=kind).reshape(2, 3)
    picture = reported_picture("the core", given)
    given[:] = 0
    assert (picture.dtype, picture.tolist()) == (kind, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    "data", [None, "a picture", [1, 2], np.zeros((2, 2, 3)), np.zeros((0, 3)), np.zeros((2, 2), bool)]
)
def test_what_is_no_picture_is_named(data):
    with pytest.raises(semdrivers.ProtocolError, match="the core returns no picture of grey levels, but"):
        reported_picture("the core", data)
