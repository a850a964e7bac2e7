"""A driver that may be called from one thread alone, in a program of several."""

from __future__ import annotations

import threading

import pytest

import semdrivers
from semdrivers.claims import innermost
from semdrivers.conformance import CHECKS, run_check


@pytest.fixture
def bound_type(foreign_type):
    """A microscope that refuses every thread but the one that made it, as those over COM do."""

    class Bound(foreign_type):
        home = None

        def __init__(self):
            self.home = threading.get_ident()
            super().__init__()

        def __getattribute__(self, name):
            home = object.__getattribute__(self, "home")
            if home not in (None, threading.get_ident()) and not name.startswith("__"):
                raise RuntimeError(f"{name} was called on the wrong thread")
            return object.__getattribute__(self, name)

        def __setattr__(self, name, value):
            if self.home is not None:
                object.__getattribute__(self, "home") == threading.get_ident() or pytest.fail(
                    f"{name} on a wrong thread"
                )
            object.__setattr__(self, name, value)

        stage_position = (1.0, 2.0)

        def move_stage(self, x, y):
            return (x, y)

        def blank(self, *, seconds):
            return f"blanked for {seconds} s"

    return Bound


@pytest.fixture
def threaded(bound_type):
    microscope = semdrivers.on_one_thread(bound_type)
    yield microscope
    microscope.close()


def elsewhere(work):
    """Do it on another thread; return what it returned or raised."""
    answers = []

    def run():
        try:
            answers.append(work())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return answers[0]


def test_the_driver_alone_refuses_other_threads(bound_type):
    microscope = bound_type()
    assert isinstance(elsewhere(lambda: microscope.working_distance), RuntimeError)


def test_every_thread_may_call_it(threaded):
    threaded.working_distance = 13.0
    assert elsewhere(lambda: threaded.working_distance) == 13.0
    assert elsewhere(threaded.acquire).pixels.shape == (240, 320)
    assert elsewhere(lambda: threaded.move_stage(3.0, 4.0)) == (3.0, 4.0)
    assert elsewhere(lambda: threaded.blank(seconds=2)) == "blanked for 2 s"
    assert isinstance(threaded, semdrivers.HasStage)
    assert not isinstance(threaded, semdrivers.HasBeam)
    assert isinstance(threaded, semdrivers.Microscope)


def test_what_a_call_raises_is_raised_where_it_was_made(threaded):
    with pytest.raises(semdrivers.OutOfRangeError, match="working distance"):
        threaded.working_distance = 1e9
    assert isinstance(elsewhere(lambda: threaded.acquire("fast")), semdrivers.InvalidParameterError)
    with pytest.raises(AttributeError):
        _ = threaded.nothing_of_that_name
    assert threaded.working_distance == 12.0


def test_a_timeout_of_the_driver_is_the_drivers_own(foreign_type):
    class Slow(foreign_type):
        def acquire(self, mode=semdrivers.ScanMode.FAST):
            raise TimeoutError("no frame came")

    with semdrivers.on_one_thread(Slow) as microscope, pytest.raises(TimeoutError, match="no frame came"):
        microscope.acquire()


def test_an_autofocus_runs_its_progress_and_its_cancel(threaded, offer_method):
    cancel, seen = threading.Event(), []

    def focus(microscope, settings, progress, cancel):
        microscope.working_distance = 13.0
        step = semdrivers.FocusStep(0, "search", 13.0, 2000.0, 5.0, 0.1, 5.0)
        progress(step)
        assert cancel.is_set()
        return {"status": "cancelled"}

    offer_method(focus)
    result = threaded.autofocus(
        method="test-method", progress=lambda step: (seen.append(threading.get_ident()), cancel.set()), cancel=cancel
    )
    assert (result.status, threaded.working_distance) == ("cancelled", 12.0)
    assert seen == [threading.get_ident()]


def test_closing_ends_the_thread_and_twice_does_nothing(bound_type):
    before = threading.active_count()
    microscope = semdrivers.on_one_thread(bound_type)
    assert threading.active_count() == before + 1
    microscope.close()
    microscope.close()
    assert threading.active_count() == before
    with pytest.raises(semdrivers.NotConnectedError, match="closed"):
        _ = microscope.working_distance


def test_what_fails_to_open_leaves_no_thread():
    before = threading.active_count()

    def fail():
        raise semdrivers.NotConnectedError("no cable")

    for wrong, error in ((fail, semdrivers.NotConnectedError), (object, semdrivers.InvalidParameterError)):
        with pytest.raises(error):
            semdrivers.on_one_thread(wrong)
    with pytest.raises(semdrivers.InvalidParameterError, match="takes a microscope or a function"):
        semdrivers.on_one_thread("em30://somewhere")
    assert threading.active_count() == before


def test_two_runs_on_one_driver_exclude_each_other(threaded, offer_method):
    def focus(microscope, settings, progress, cancel):
        with pytest.raises(semdrivers.BusyError):
            threaded.autofocus(method="test-method")
        return {}

    offer_method(focus)
    assert threaded.autofocus(method="test-method").focused


def test_it_is_a_wrapper_of_the_microscope(foreign):
    with semdrivers.on_one_thread(foreign) as microscope:
        assert innermost(microscope) is foreign
    assert foreign.closed


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(foreign, check):
    microscope = semdrivers.on_one_thread(foreign)
    try:
        outcome = run_check(check, microscope)
        assert outcome.status != "failed" or run_check(check, type(foreign)()).status == "failed", outcome
    finally:
        microscope.close()
