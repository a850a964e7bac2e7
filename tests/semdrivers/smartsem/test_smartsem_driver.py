"""``smartsem://`` on an object that stands in for SmartSEM's COM object, with the emulator's optics under it."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tifffile

import semdrivers
from semdrivers.conformance import CHECKS, run_check
from semdrivers.emulator import Emulator
from semfocus_plugin.lab.studies.stand_ins import SmartSemObject


@pytest.fixture
def api(monkeypatch):
    with (
        Emulator("tin-balls", magnification=2000, seed=1) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        stand_in = SmartSemObject(microscope)
        stand_in.truth = lambda: emulator.truth
        client = ModuleType("win32com.client")
        client.Dispatch = lambda name: stand_in if name == "CZ.EMApiCtrl.1" else None
        monkeypatch.setitem(sys.modules, "win32com", SimpleNamespace(client=client))
        monkeypatch.setitem(sys.modules, "win32com.client", client)
        yield stand_in


@pytest.mark.slow
def test_it_keeps_the_contract(api):
    microscope = semdrivers.connect("smartsem://?settle=0&working_distance=5:30")
    outcomes = [run_check(check, microscope) for check in CHECKS]
    assert [outcome for outcome in outcomes if outcome.status == "failed"] == []
    assert api.done[-1] == "closed"


def test_metres_per_cent_and_frames(api):
    with semdrivers.connect("smartsem://?settle=0&working_distance=5:30") as microscope:
        microscope.working_distance = 12.0
        assert api.Get("AP_WD", 0) == (0, pytest.approx(0.012))
        microscope.stigmator = (1.5, -2.0)
        assert (api.values["AP_STIG_X"], api.values["AP_STIG_Y"]) == (1.5, -2.0)
        image = microscope.acquire()
        assert (image.pixels.shape, image.working_distance) == ((768, 1024), 12.0)
        assert image.pixel_size == pytest.approx(128e6 / 2000 / 1024)
        assert np.ptp(image.pixels) > 0
        assert api.done == ["CMD_UNFREEZE_ALL", "CMD_FREEZE_ALL"]
    assert api.done[-2:] == ["CMD_UNFREEZE_ALL", "closed"]


def test_autofocus_over_it(api):
    pytest.importorskip("semfocus_plugin")
    with semdrivers.connect("smartsem://?settle=0&working_distance=5:30") as microscope:
        result = microscope.autofocus()
        assert result.focused, result.reason
        truth = api.truth()
        assert abs(result.working_distance - truth.working_distance) < 2 * truth.depth_of_field


@pytest.mark.parametrize("value", [None, float("nan"), "", "0,012", "12 mm", "infinity", [0.012]])
@pytest.mark.parametrize(
    ("parameter", "member"), [("AP_WD", "working_distance"), ("AP_MAG", "magnification"), ("AP_STIG_Y", "stigmator")]
)
def test_what_is_no_number_is_named(api, parameter, member, value):
    with semdrivers.connect("smartsem://?settle=0") as microscope:
        api.values[parameter] = value
        with pytest.raises(semdrivers.ProtocolError, match=f"SmartSEM: {parameter} reads .* no finite number"):
            getattr(microscope, member)


@pytest.mark.parametrize("frozen", [True, 1, "1", "Yes", " YES "])
def test_a_state_comes_as_a_text_a_number_or_a_truth(api, frozen):
    with semdrivers.connect("smartsem://?settle=0&frame_time=5") as microscope:
        api.Execute = lambda command: api.values.update(DP_FROZEN=frozen) or 0
        api.Grab = lambda *_: 1023  # the scan has ended, and this is what comes next
        with pytest.raises(semdrivers.DeviceError, match="1023"):
            microscope.acquire()


def test_a_parameter_that_the_version_lacks_is_named(api):
    with semdrivers.connect("smartsem://?settle=0") as microscope:
        api.Get, known = (lambda name, _: (1008, 0) if name == "AP_PIXEL_SIZE" else known(name, _)), api.Get
        with pytest.raises(semdrivers.DeviceError, match=r"AP_PIXEL_SIZE.* returns the status 1008"):
            microscope.acquire()


def test_what_the_object_raises_is_an_error_of_the_device_to_the_end(api):
    def gone(*_):
        raise OSError("the server is gone")

    api.ClosingControl = gone
    microscope = semdrivers.connect("smartsem://?settle=0")
    api.Get = gone
    for act in (lambda: microscope.working_distance, microscope.close):
        with pytest.raises(semdrivers.DeviceError, match="OSError: the server is gone"):
            act()


def test_what_goes_wrong_is_named(api):
    with semdrivers.connect("smartsem://?settle=0&working_distance=5:30&frame_time=0.2") as microscope:
        here = microscope.working_distance
        api.ignored.add("AP_WD")
        with pytest.raises(semdrivers.DeviceError, match=f"AP_WD was set to 9 mm and reads {here:g} mm"):
            microscope.working_distance = 9.0
        api.Grab = lambda *_: 1023
        with pytest.raises(semdrivers.DeviceError, match="returns the status 1023"):
            microscope.acquire()
        api.Grab = lambda *_: 0
        with pytest.raises(semdrivers.TransportError, match="grabbed no picture"):
            microscope.acquire()
        api.Execute = lambda command: 0
        api.values["DP_FROZEN"] = "No"
        with pytest.raises(semdrivers.TransportError, match="did not end within"):
            microscope.acquire()


def test_a_magnification_is_set_and_one_that_is_ignored_is_named(api):
    with semdrivers.connect("smartsem://?settle=0") as microscope:
        microscope.magnification = 2500
        assert microscope.magnification == api.Get("AP_MAG", 0)[1] == 2500
        api.Set = lambda name, value: (0, value)
        with pytest.raises(semdrivers.DeviceError, match="AP_MAG was set to 4000 and reads 2500"):
            microscope.magnification = 4000


@pytest.mark.parametrize("pixels", [np.zeros((768, 512), np.uint8), np.zeros((384, 1024), np.uint16)])
def test_a_picture_of_another_size_than_was_asked_for_is_named(api, pixels):
    def grab(*arguments):
        tifffile.imwrite(arguments[-1], pixels)
        return 0

    api.Grab = grab
    microscope = semdrivers.connect("smartsem://?settle=0")
    with microscope, pytest.raises(semdrivers.ProtocolError, match=re.escape(f"grabbed a picture of {pixels.shape}")):
        microscope.acquire()


def test_without_the_object_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "win32com.client", None)
    with pytest.raises(semdrivers.NotConnectedError, match="on Windows alone, with pywin32"):
        semdrivers.connect("smartsem://")
    for wrong in ("smartsem://192.168.1.3", "smartsem://?settle=-1", "smartsem://?beam=1"):
        with pytest.raises((semdrivers.InvalidParameterError, semdrivers.OutOfRangeError)):
            semdrivers.connect(wrong)


def test_what_cannot_be_asked_for_never_reaches_the_object(api):
    microscope = semdrivers.connect("smartsem://?settle=0")
    with pytest.raises(semdrivers.InvalidParameterError, match=r"mode must be a semdrivers\.ScanMode, not 'FAST'"):
        microscope.acquire("FAST")
    assert api.done == []
    microscope.close()
    microscope.close()
    assert api.done == ["closed"]
    with pytest.raises(semdrivers.NotConnectedError, match="the connection to SmartSEM is closed; connect again"):
        microscope.working_distance  # noqa: B018


def test_remoting_that_does_not_begin_is_named(api):
    api.InitialiseRemoting = lambda: 1001
    with pytest.raises(semdrivers.NotConnectedError, match="InitialiseRemoting returns the status 1001"):
        semdrivers.connect("smartsem://?settle=0")
