"""`connect` with addresses that lead nowhere: one clear error each, before any I/O."""

from __future__ import annotations

import pytest

import semdrivers
from semdrivers.connection import read_token
from semdrivers.errors import error_named
from semdrivers.plugins import get_plugin_manager


@pytest.mark.parametrize("url", [None, 7, b"em30://localhost", ["em30://localhost"]])
def test_an_address_must_be_a_string(url):
    with pytest.raises(semdrivers.InvalidParameterError, match="must be a string"):
        semdrivers.connect(url)


@pytest.mark.parametrize("url", ["", "tin-balls", "192.168.1.30", "em30:/x", "://x", "7em://x", "em30:localhost"])
def test_an_address_must_look_like_one(url):
    with pytest.raises(semdrivers.InvalidParameterError, match="no address of a microscope; it must look like"):
        semdrivers.connect(url)


@pytest.mark.parametrize("url", ["em30://local host", "em30://a\n", "emulator://tin-balls\0"])
def test_an_address_holds_no_space_and_no_control_character(url):
    with pytest.raises(semdrivers.InvalidParameterError, match="a space or a control character"):
        semdrivers.connect(url)


def test_an_unknown_scheme_lists_the_known_ones():
    with pytest.raises(semdrivers.InvalidParameterError) as caught:
        semdrivers.connect("em3O://192.168.1.30")
    message = str(caught.value)
    assert "unknown scheme 'em3o' (did you mean 'em30'?)" in message
    assert "em30, em30+serial, emulator" in message


@pytest.fixture
def driver():
    """Register a connect hook for one test."""
    manager = get_plugin_manager()
    registered = []

    def register(connect):
        class Plugin:
            @semdrivers.hookimpl
            def semdrivers_connect(self, url, options):
                return connect(url, options) if url.startswith("test-driver://") else None

        plugin = Plugin()
        manager.register(plugin, "test-driver")
        registered.append(plugin)

    yield register
    for plugin in registered:
        manager.unregister(plugin)


def test_options_reach_the_driver(driver, foreign):
    seen = {}
    driver(lambda url, options: seen.update(url=url, **options) or foreign)
    assert semdrivers.connect("test-driver://here", timeout=3) is foreign
    assert seen == {"url": "test-driver://here", "timeout": 3}


def test_a_crash_in_a_driver_becomes_a_tree(driver):
    def crash(url, options):
        raise ZeroDivisionError("in the driver")

    driver(crash)
    with pytest.raises(semdrivers.NotConnectedError) as caught:
        semdrivers.connect("test-driver://here")
    assert str(caught.value).splitlines()[:2] == [
        "could not open test-driver://here",
        "  plugin test-driver: ZeroDivisionError: in the driver",
    ]


def test_an_error_of_the_contract_passes_as_it_is(driver):
    def refuse(url, options):
        raise semdrivers.BusyError("another client controls the instrument")

    driver(refuse)
    with pytest.raises(semdrivers.BusyError, match="another client"):
        semdrivers.connect("test-driver://here")


def test_what_is_no_microscope_is_not_handed_out(driver):
    driver(lambda url, options: object())
    with pytest.raises(semdrivers.NotConnectedError, match="no Microscope: it lacks capabilities, working_distance"):
        semdrivers.connect("test-driver://here")


def test_a_tree_of_failures_prints_as_one():
    inner = semdrivers.NotConnectedError("usb", {"0547:1002": "not found"})
    outer = semdrivers.NotConnectedError("em30://x", {"control": "refused", "images": inner})
    assert str(outer) == "em30://x\n  control: refused\n  images: usb\n    0547:1002: not found"


@pytest.mark.parametrize("content", ["", "\n secret", "  \n"])
def test_a_file_without_a_token_is_named(tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(semdrivers.InvalidParameterError, match="its first line is empty; write the token there"):
        read_token(path)
    path.write_text(" a secret \nand more")
    assert read_token(path) == "a secret"


def test_what_cannot_be_stopped_is_named_and_left_closed(driver, foreign):
    driver(lambda url, options: foreign)
    with pytest.raises(semdrivers.InvalidParameterError, match="cannot stop the instrument; stop it by hand"):
        semdrivers.stop("test-driver://x")
    assert foreign.closed


def test_what_has_no_way_of_its_own_is_stopped_as_its_client(driver, foreign_type):
    class Stoppable(foreign_type):
        stops = ()

        def stop(self, keep_beam=False):
            self.stops += (keep_beam,)

    microscope = Stoppable()
    driver(lambda url, options: microscope)
    semdrivers.stop("test-driver://x", client="tests")
    assert (microscope.stops, microscope.closed) == ((False,), True)


def test_a_beam_that_cannot_be_blanked_is_a_note_of_what_went_wrong(driver, foreign_type):
    class Deaf(foreign_type):
        def stop(self, keep_beam=False):
            raise semdrivers.HardwareFault("no answer")

    microscope = Deaf()
    driver(lambda url, options: microscope)
    with pytest.raises(ZeroDivisionError) as caught, semdrivers.opened("test-driver://x"):
        raise ZeroDivisionError
    assert caught.value.__notes__ == ["and the beam could not be blanked: no answer; look at the instrument"]
    assert microscope.closed


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("semfocus+http://", {}, "write semfocus+http://HOST:PORT"),
        ("semfocus+http://h:99999", {}, "write semfocus+http://HOST:PORT"),
        ("semfocus+http://me@h", {}, "write semfocus+http://HOST:PORT"),
        ("semfocus+http://h/x", {}, "write semfocus+http://HOST:PORT"),
        ("semfocus+http://h?timeout=soon", {}, "timeout must be a number in s, not 'soon'"),
        ("semfocus+http://h?timeout=0", {}, "timeout must be above 0 s, not 0 s"),
        ("semfocus+http://h", {"token": "a\nb"}, "token must be a printable text"),
        ("semfocus+http://h", {"client": 3}, "client must be a printable text"),
        ("tescan://h:65535", {}, "with PORT from 1 to 65534"),
        ("tescan://h/x", {}, "with PORT from 1 to 65534"),
        ("tescan://h", {"on_close": 3}, "on_close must be callable, not 3"),
        ("em30://h?usb=1209", {}, "usb=1209 names no USB device"),
        ("em30://h?usb=tcp://h:0", {}, "names no USB device"),
    ],
)
def test_an_address_that_cannot_be_is_refused_before_any_io(url, options, words):
    with pytest.raises(semdrivers.InvalidParameterError, match=words.replace("+", r"\+")):
        semdrivers.connect(url, **options)


@pytest.mark.parametrize("name", ["int", "True", "no such", "UnicodeDecodeError"])
def test_an_error_of_a_name_that_is_none_keeps_what_it_said(name):
    error = error_named(name, "why")
    assert (type(error), str(error)) == (semdrivers.SemDriversError, f"{name}: why")
