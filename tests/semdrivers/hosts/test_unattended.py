"""A night without anybody: the link goes, the beam goes, and the pictures go on, or end in time."""

from __future__ import annotations

import logging
import threading
from typing import ClassVar

import pytest

import semdrivers
from semdrivers.hosts import unattended

QUICK = {"pause": 0.01, "method": "told"}


@pytest.fixture
def told(told):
    told.truth = lambda: 13.0
    return told


@pytest.fixture
def opened(emulator):
    """The microscopes opened so far, and a function that opens one more; the real driver over its wires."""

    class Opened(list):
        def __call__(self):
            self.append(semdrivers.connect(emulator.url))
            return self[-1]

    return Opened()


@pytest.fixture
def flaky(foreign_type):
    """Makes microscopes with a beam; each loses its link, or its beam, before the frames of given numbers."""

    class Flaky(foreign_type):
        made: ClassVar[list] = []
        lost, dark, refused = frozenset(), frozenset(), 0
        taken = 0

        def __init__(self):
            if type(self).refused:
                type(self).refused -= 1
                raise semdrivers.NotConnectedError("nobody answers")
            super().__init__()
            self.beam_on = True
            self.made.append(self)

        def acquire(self, mode=semdrivers.ScanMode.FAST):
            kind = type(self)
            kind.taken += 1
            if kind.taken in self.lost:
                raise semdrivers.TransportError("the cable is out")
            if kind.taken in self.dark:
                self.beam_on = False
            if not self.beam_on:
                raise semdrivers.InterlockError("the beam is off")
            return super().acquire(mode)

    return Flaky


def test_ten_lines_are_a_night(emulator, told, caplog):
    with caplog.at_level(logging.INFO), unattended(emulator.url, every=1, **QUICK) as night:
        night.magnification = 3000
        images = []
        for x in (0.0, 0.5):
            night.move_stage(x, 0.0)
            images.append(night.picture(semdrivers.ScanMode.STANDARD))
    assert [image.metadata["autofocus"]["status"] for image in images] == ["focused", "focused"]
    with semdrivers.connect(emulator.url) as free_again:
        assert free_again.beam_on, "a beam that may not be switched is left alone"


def test_a_lost_link_is_opened_again_and_the_settings_are_back(opened, told):
    with unattended(opened, **QUICK) as night:
        night.magnification = 2500
        night.picture()
        opened[-1].close()
        image = night.picture()
    assert len(opened) == 2
    assert (image.magnification, told.runs) == (2500.0, 1)
    assert image.metadata["autofocus"]["lens_offset"] == pytest.approx(0.0, abs=0.001)


@pytest.mark.parametrize("lost", [{3}, {7}, {3, 4}])
def test_in_the_middle_of_a_focusing_too_and_an_instrument_that_forgot_is_set_again(flaky, told, lost):
    flaky.lost, flaky.refused = lost, 0
    with unattended(flaky, **QUICK) as night:
        night.magnification = 4000
        image = night.picture()
    assert len(flaky.made) == 1 + len(lost)
    assert (image.working_distance, image.magnification, told.runs) == (13.0, 4000.0, 1)
    assert all(one.closed for one in flaky.made)


def test_tries_are_bounded_and_the_last_failure_is_raised(flaky, told):
    flaky.lost = set(range(8, 100))
    with unattended(flaky, tries=3, **QUICK) as night:
        night.picture()
        with pytest.raises(semdrivers.TransportError, match="the cable is out"):
            night.picture()
    assert len(flaky.made) == 1 + 3


def test_one_that_cannot_be_opened_again_ends_the_night(flaky, told):
    flaky.lost = {8}
    with unattended(flaky, tries=2, **QUICK) as night:
        night.picture()
        flaky.refused = 100
        with pytest.raises(semdrivers.NotConnectedError, match="nobody answers"):
            night.picture()


def test_a_frame_that_succeeds_gives_the_tries_back(flaky, told):
    flaky.lost = {8, 10, 12}
    with unattended(flaky, tries=1, **QUICK) as night:
        assert all(night.picture() is not None for _ in range(4))


def test_the_beam_is_switched_on_again_where_that_is_allowed_and_off_at_the_end(flaky, told, caplog):
    flaky.dark = {8}
    with unattended(flaky, may_switch_beam=True, **QUICK) as night:
        assert night.picture() is not None
        flaky.made[-1].beam_on = False
        flaky.dark = set()
        assert night.picture() is not None
    assert flaky.made[-1].beam_on is False
    assert "the beam is off; switching it on" in caplog.text


def test_where_it_is_not_allowed_the_night_ends_and_the_beam_stays_off(flaky, told):
    with unattended(flaky, **QUICK) as night:
        night.picture()
        flaky.made[-1].beam_on = False
        with pytest.raises(semdrivers.InterlockError):
            night.picture()
        assert flaky.made[-1].beam_on is False


def test_a_beam_that_the_script_switched_off_stays_off(flaky, told):
    with unattended(flaky, may_switch_beam=True, **QUICK) as night:
        night.picture()
        night.beam_on = False
        with pytest.raises(semdrivers.InterlockError):
            night.picture()


def test_a_beam_is_off_after_an_exception_too(opened, emulator, told):
    def night():
        with unattended(opened, may_switch_beam=True, **QUICK) as night:
            night.picture()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        night()
    with semdrivers.connect(emulator.url) as microscope:
        assert microscope.beam_on is False


def test_a_picture_without_focus_is_left_out_and_the_night_goes_on(flaky, told):
    told.refuse = lambda: told.runs == 1
    with unattended(flaky, **QUICK) as night:
        assert night.picture() is None
        assert night.picture() is not None


def test_a_cancel_ends_the_wait_for_a_link(flaky, told):
    cancel = threading.Event()
    flaky.lost = set(range(8, 100))
    with unattended(flaky, cancel=cancel, pause=60, method="told") as night:
        night.picture()
        threading.Timer(0.2, cancel.set).start()
        with pytest.raises(semdrivers.TransportError):
            night.picture()


@pytest.mark.parametrize("wrong", [{"tries": -1}, {"pause": -1.0}, {"every": 0}, {"evrey": 1}])
def test_nonsense_is_refused_before_anything_is_opened(flaky, wrong):
    with (
        pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError)),
        unattended(flaky, **wrong),
    ):
        pass
    assert flaky.made == []


def test_an_open_microscope_cannot_be_opened_again(foreign):
    with pytest.raises(semdrivers.InvalidParameterError, match="connect again"), unattended(foreign):
        pass
