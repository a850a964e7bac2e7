"""The plugin manager with plugins of the test's own."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import semdrivers
from semdrivers.plugins import PluginManager, get_plugin_manager


@pytest.fixture
def manager() -> PluginManager:
    return PluginManager()


class Raising:
    @semdrivers.hookimpl
    def semdrivers_specimens(self):
        raise ZeroDivisionError("always")

    @semdrivers.hookimpl
    def semdrivers_frame(self, microscope, image):
        raise ZeroDivisionError("always")


class Offering:
    def __init__(self):
        self.frames = []

    @semdrivers.hookimpl
    def semdrivers_specimens(self):
        return {"moon-dust": list}

    @semdrivers.hookimpl
    def semdrivers_frame(self, microscope, image):
        self.frames.append(image)


def test_there_is_one_manager_a_process():
    assert get_plugin_manager() is get_plugin_manager()


def test_a_plugin_that_raises_does_not_spoil_what_others_offer(manager, caplog):
    manager.register(Offering(), "offering")
    manager.register(Raising(), "raising")
    with caplog.at_level(logging.WARNING):
        assert manager.specimens() == {"moon-dust": list}
    assert "plugin raising: semdrivers_specimens failed: ZeroDivisionError: always" in caplog.text


def test_a_plugin_that_answers_something_else_is_logged(manager, caplog):
    class Wrong:
        @semdrivers.hookimpl
        def semdrivers_specimens(self):
            return ["moon-dust"]

    manager.register(Wrong(), "wrong")
    with caplog.at_level(logging.WARNING):
        assert manager.specimens() == {}
    assert "plugin wrong: semdrivers_specimens failed: it returned list" in caplog.text


def test_a_watcher_that_raises_is_logged_and_the_others_see_the_frame(manager, foreign, caplog):
    watcher = Offering()
    manager.register(watcher, "watcher")
    manager.register(Raising(), "raising")
    image = foreign.acquire()
    with caplog.at_level(logging.ERROR):
        manager.notify_frame(foreign, image)
    assert watcher.frames == [image]
    assert "plugin raising raised while watching a frame" in caplog.text


def test_a_wrapper_stands_around_every_answer(manager):
    class Wrapping:
        @semdrivers.hookimpl(wrapper=True)
        def semdrivers_specimens(self):
            answers = yield
            return [{f"wrapped-{name}": factory for name, factory in answer.items()} for answer in answers]

    manager.register(Offering(), "offering")
    manager.register(Wrapping(), "wrapping")
    assert list(manager.specimens()) == ["wrapped-moon-dust"]


def test_a_frame_passes_quickly_when_nobody_watches(manager, foreign):
    manager.notify_frame(foreign, foreign.acquire())
    assert np.array_equal(foreign.acquire().pixels, np.full((240, 320), 2, np.uint8))


def test_an_object_that_cannot_be_hashed_is_refused_before_it_spoils_the_others(manager):
    manager.register(Offering(), "offering")
    with pytest.raises(semdrivers.InvalidParameterError, match="'unhashable' is a dict, which cannot be hashed"):
        manager.register({}, "unhashable")
    assert manager.specimens() == {"moon-dust": list}


def test_the_second_plugin_of_a_name_is_not_loaded_and_says_who_has_it(manager):
    manager.load([EntryPoint("twice", module, "semdrivers") for module in ("json", "math")], None)
    errors = {record.value: record.error for record in manager.records}
    assert errors == {"json": None, "math": "the name 'twice' is taken by unknown"}


def test_records_are_frozen():
    record = get_plugin_manager().records[0]
    with pytest.raises(AttributeError):
        record.name = "another"


def test_the_builtins_are_a_plugin_like_any():
    record = next(record for record in get_plugin_manager().records if record.name == "builtin")
    assert record.distribution == "semdrivers"
    assert record.value == "semdrivers._builtin"
    assert record.loaded
    assert {"em30", "em30+serial", "emulator"} <= set(get_plugin_manager().schemes())
