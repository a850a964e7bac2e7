"""A foreign microscope and a foreign autofocus, both a few lines, neither of this distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

import semdrivers


class ForeignMicroscope:
    """The five members of the contract over a pair of numbers; keeps what was set and what was acquired."""

    capabilities = semdrivers.Capabilities(semdrivers.Range(5.0, 30.0, 0.001), semdrivers.Range(100, 50000))

    def __init__(self, working_distance: float = 12.0, magnification: float = 2000.0) -> None:
        self._working_distance = working_distance
        self._magnification = magnification
        self.moves: list[float] = []
        self.frames = 0
        self.closed = False

    @property
    def working_distance(self) -> float:
        return self._working_distance

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        value = self.capabilities.working_distance.check("working distance", value, "mm")
        self.moves.append(value)
        self._working_distance = value

    @property
    def magnification(self) -> float:
        return self._magnification

    @magnification.setter
    def magnification(self, value: float) -> None:
        self._magnification = self.capabilities.magnification.check("magnification", value)

    def acquire(self, mode: semdrivers.ScanMode = semdrivers.ScanMode.FAST) -> semdrivers.Image:
        if not isinstance(mode, semdrivers.ScanMode):
            raise semdrivers.InvalidParameterError(f"no scan mode: {mode!r}")
        self.frames += 1
        pixels = np.full((mode.height, mode.width), self.frames % 256, np.uint8)
        return semdrivers.Image(
            pixels, self._working_distance, self._magnification, 400e3 / self._magnification, self.frames
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def foreign() -> ForeignMicroscope:
    return ForeignMicroscope()


@pytest.fixture
def foreign_type() -> type[ForeignMicroscope]:
    return ForeignMicroscope


@pytest.fixture
def offer_method() -> Iterator[Callable[..., object]]:
    """Register a function as the autofocus method of its name, for one test."""
    manager = semdrivers.get_plugin_manager()
    registered = []

    def offer(focus: Callable[..., object], name: str = "test-method") -> object:
        class Plugin:
            @semdrivers.hookimpl
            def semdrivers_autofocus_methods(self) -> dict[str, str]:
                return {name: "a method of the tests"}

            @semdrivers.hookimpl
            def semdrivers_autofocus(self, microscope, settings, progress, cancel):
                return focus(microscope, settings, progress, cancel) if settings.method == name else None

        plugin = Plugin()
        manager.register(plugin, f"plugin-of-{name}")
        registered.append(plugin)
        return plugin

    yield offer
    for plugin in registered:
        manager.unregister(plugin)
