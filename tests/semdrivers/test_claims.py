"""One use of an instrument at a time, through whatever it is reached."""

from __future__ import annotations

import threading

import pytest

import semdrivers
from semdrivers.base import WrappedMicroscope
from semdrivers.claims import check_free, claimed, innermost
from semdrivers.hosts import FocusedMicroscope, FocusKeeper, focused
from semdrivers.instruments import Instrument, LimitedMicroscope


class Delegate:
    """Passes every attribute on to what it keeps in a slot."""

    __slots__ = ("_kept",)

    def __init__(self, kept):
        object.__setattr__(self, "_kept", kept)

    def __getattr__(self, name):
        return getattr(self._kept, name)

    def __setattr__(self, name, value):
        setattr(self._kept, name, value)


def hidden(microscope):
    """A wrapper whose microscope is in no attribute of it."""

    class Hidden:
        def __getattr__(self, name):
            return getattr(microscope, name)

    return Hidden()


WRAPPERS = {
    "recorder": lambda microscope, folder: semdrivers.Recorder(microscope, folder / "session"),
    "keeper": lambda microscope, folder: FocusedMicroscope(FocusKeeper(microscope)),
    "delegate": lambda microscope, folder: Delegate(microscope),
    "two delegates": lambda microscope, folder: Delegate(Delegate(microscope)),
    "recorder of a delegate": lambda microscope, folder: semdrivers.Recorder(Delegate(microscope), folder / "s"),
    "hidden": lambda microscope, folder: hidden(microscope),
}


@pytest.fixture
def running(foreign, offer_method):
    """An autofocus run on the microscope itself that goes on until the test ends."""
    begun, go_on = threading.Event(), threading.Event()

    def focus(microscope, settings, progress, cancel):
        begun.set()
        assert go_on.wait(20)
        return {}

    offer_method(focus)
    thread = threading.Thread(target=lambda: semdrivers.autofocus(foreign, method="test-method"))
    thread.start()
    assert begun.wait(20)
    yield foreign
    go_on.set()
    thread.join(20)


@pytest.fixture
def told(offer_method):
    """An autofocus that knows: sharp at 13 mm."""

    def focus(microscope, settings, progress, cancel):
        microscope.working_distance = 13.0
        return {}

    return offer_method(focus, "told")


@pytest.mark.parametrize("name", [name for name in WRAPPERS if name != "hidden"])
def test_the_instrument_is_the_innermost(foreign, tmp_path, name):
    assert innermost(WRAPPERS[name](foreign, tmp_path)) is foreign
    assert (foreign.frames, foreign.moves) == (0, [])


def test_what_wraps_nothing_is_itself(foreign, foreign_type):
    pair = foreign_type()
    pair.left, pair.right = foreign_type(), foreign_type()
    own = foreign_type()
    own.me = own
    for one in (foreign, pair, own, object()):
        assert innermost(one) is one


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_beside_the_microscope_is_busy(running, tmp_path, name):
    wrapper = WRAPPERS[name](running, tmp_path)
    frames = running.frames
    with pytest.raises(semdrivers.BusyError, match="autofocus run is under way on this ForeignMicroscope"):
        semdrivers.autofocus(wrapper, method="test-method")
    assert running.frames == frames


def test_a_keeper_beside_a_run_is_busy_and_takes_no_frame(running):
    keeper = FocusKeeper(running, method="test-method")
    with pytest.raises(semdrivers.BusyError):
        keeper.acquire()
    with pytest.raises(semdrivers.BusyError):
        keeper.focus()
    with pytest.raises(semdrivers.BusyError), focused(running, method="test-method"):
        pass
    assert running.frames == 0


def test_two_recorders_of_one_microscope_do_not_focus_at_once(foreign, offer_method, tmp_path):
    first, second = (semdrivers.Recorder(foreign, tmp_path / name) for name in "ab")
    seen = []

    def focus(microscope, settings, progress, cancel):
        with pytest.raises(semdrivers.BusyError):
            semdrivers.autofocus(second, method="test-method")
        seen.append(microscope)
        return {}

    offer_method(focus)
    assert semdrivers.autofocus(first, method="test-method").focused
    assert seen == [first]


def test_two_keepers_hold_one_microscope_one_after_the_other(foreign, told, foreign_type):
    with focused(foreign, method="told") as held:
        with pytest.raises(semdrivers.BusyError, match="kept in focus"), focused(Delegate(foreign), method="told"):
            pass
        with focused(foreign_type(), method="told") as other:
            other.acquire()
        held.acquire()
        assert semdrivers.autofocus(foreign, method="told").focused, "the thread that holds it may focus by hand"
    with focused(foreign, method="told") as held:
        held.acquire()


def test_a_kept_microscope_is_busy_for_other_threads(foreign, told):
    raised = []

    def beside():
        try:
            semdrivers.autofocus(foreign, method="told")
        except semdrivers.BusyError as error:
            raised.append(error)

    with focused(foreign, method="told") as held:
        held.acquire()
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join(20)
    assert len(raised) == 1


def test_an_instrument_that_takes_no_attribute_is_held_too_and_let_go():
    class Slotted:
        __slots__ = ("acquire", "capabilities", "close", "magnification", "working_distance")

    one, other = Slotted(), Slotted()
    with claimed(one, "a test"):
        with pytest.raises(semdrivers.BusyError, match="a test is under way on this Slotted"):
            check_free(one)
        check_free(other)
    check_free(one)


def test_a_claim_ends_with_an_exception(foreign):
    with pytest.raises(ZeroDivisionError), claimed(foreign, "a test"):
        raise ZeroDivisionError
    check_free(foreign)


def test_what_names_what_it_wraps_is_claimed_with_it(foreign):
    class Named:
        def __init__(self, inner):
            self.__wrapped__ = inner

    Named.__wrapped__ = None
    assert innermost(Named(foreign)) is foreign
    with claimed(foreign, "a run"), pytest.raises(semdrivers.BusyError, match="a run is under way"):
        check_free(Named(foreign))
    check_free(Named(foreign))


class Compared(WrappedMicroscope):
    """A wrapper that looks at another microscope, too."""

    def __init__(self, microscope, other):
        super().__init__(microscope)
        self._other = other


def test_a_wrapper_that_holds_another_microscope_too_wraps_its_own(foreign, foreign_type, offer_method):
    offer_method(lambda *_: {})
    wrapper = Compared(foreign, foreign_type())
    assert innermost(wrapper) is foreign
    with claimed(foreign, "a test"), pytest.raises(semdrivers.BusyError, match="a test is under way"):
        semdrivers.autofocus(wrapper, method="test-method")


def test_limits_of_a_named_instrument_hold_through_such_a_wrapper(foreign, foreign_type, offer_method):
    seen = []
    offer_method(lambda microscope, settings, *_: seen.append(settings.bounds) or {})
    limited = LimitedMicroscope(foreign, Instrument("em30://192.168.1.30", max_travel=1.0))
    semdrivers.autofocus(Compared(limited, foreign_type()), method="test-method")
    assert seen == [(11.0, 13.0)]
