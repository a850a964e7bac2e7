"""What the tests of every host share: a sloping sample in the emulator, and an autofocus that does as it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import semdrivers
from semdrivers.emulator import Emulator
from semdrivers.emulator.physics import ColumnPreset

PLACES = ((0.0, 0.0), (9.0, 0.0), (0.0, 9.0), (9.0, 9.0))
"""Stage positions in mm; best focus differs between them by many depths of field."""


@pytest.fixture
def places() -> tuple[tuple[float, float], ...]:
    return PLACES


@pytest.fixture
def emulator(request) -> Iterator[Emulator]:
    """A slope, featureless unless the test asks for a specimen: what is told where the focus is needs none."""
    specimen = getattr(request, "param", "featureless")
    with Emulator(specimen, magnification=3000, seed=3, preset=ColumnPreset(tilt=150.0)) as running:
        yield running


@pytest.fixture
def microscope(emulator) -> Iterator[Any]:
    with semdrivers.connect(emulator.url) as opened:
        yield opened


@pytest.fixture
def error(emulator) -> Callable[[float], float]:
    """How far a working distance is from best focus at the present stage position, in depths of field."""
    return lambda value: abs(value - emulator.truth.working_distance) / emulator.truth.depth_of_field


@pytest.fixture
def known(microscope, emulator) -> semdrivers.FocusMap:
    """A focus map of the slope, as five runs on 0.4 mm by 0.4 mm would have measured it."""
    known = semdrivers.FocusMap(tolerance=0.5 * emulator.truth.depth_of_field)
    for x, y in ((0.0, 0.0), (0.4, 0.0), (0.0, 0.4), (0.4, 0.4), (0.2, 0.2)):
        microscope.move_stage(x, y)
        known.add(x, y, emulator.truth.working_distance)
    microscope.working_distance = known.predict(0.2, 0.2)[0]
    return known


@pytest.fixture
def best_method() -> str | None:
    """The name of the method for runs that must end in focus: the shipped one, if its networks are there."""
    try:
        from semfocus_plugin import networks

        networks.load()
    except (ImportError, semdrivers.ModelError):
        return "told"
    return None


@pytest.fixture
def core(microscope) -> Iterator[Any]:
    """A core of pymmcore-plus that has loaded the microscope."""
    from pymmcore_plus.experimental.unicore import UniMMCore

    from semdrivers.hosts.pymmcore import load_microscope

    core = UniMMCore()
    load_microscope(core, microscope)
    yield core
    core.unloadAllDevices()


@pytest.fixture
def frames(core) -> list[tuple[Any, ...]]:
    """Everything that an acquisition delivers: (pixels, event, metadata)."""
    taken: list[tuple[Any, ...]] = []
    core.mda.events.frameReady.connect(lambda *frame: taken.append(frame))
    return taken


@pytest.fixture
def RE() -> Iterator[Any]:
    """A run engine of Bluesky."""
    from bluesky import RunEngine

    engine = RunEngine({}, context_managers=[])
    yield engine
    if engine.state != "idle":
        engine.halt()


@pytest.fixture
def sem(microscope) -> Any:
    """The devices of Bluesky."""
    from semdrivers.hosts.bluesky import devices

    return devices(microscope)


@dataclass
class Told:
    """An autofocus that moves the lens for six frames and then knows the answer, or refuses if it is told to."""

    truth: Callable[[], float]
    refuse: Callable[[], bool] = lambda: False
    at_frame: Callable[[int], object] = lambda frames: None
    """Called after each frame, with how many the run has taken."""

    runs: int = 0
    sent: list[float] = field(default_factory=list)

    def __call__(self, microscope, settings, progress, cancel) -> semdrivers.AutofocusResult:
        self.runs += 1
        start, began = microscope.working_distance, time.perf_counter()
        trace: list[semdrivers.FocusStep] = []

        def ended(status: str, reason: str) -> semdrivers.AutofocusResult:
            here = microscope.working_distance
            elapsed = time.perf_counter() - began
            return semdrivers.AutofocusResult(
                status=status, reason=reason, working_distance=here, start_working_distance=start, score=8.0,
                confidence=1.0, frames=len(trace), elapsed=elapsed, method="told", trace=tuple(trace),
            )  # fmt: skip

        for index in range(6):
            if cancel is not None and cancel.is_set():
                return ended("cancelled", f"cancelled after {index} frames")
            microscope.working_distance = start + 0.05 * (index + 1)
            image = microscope.acquire(settings.scan_mode)
            trace.append(
                semdrivers.FocusStep(index, "search", image.working_distance, image.magnification, 5.0, 0.1, 5.0)
            )
            if progress is not None:
                progress(trace[-1])
            self.at_frame(len(trace))
        if self.refuse():
            return ended("refused", "told to refuse")
        microscope.working_distance = round(self.truth(), 3)
        self.sent.append(microscope.working_distance)
        return ended("focused", "told where")


@pytest.fixture
def told(emulator, offer_method) -> Told:
    method = Told(lambda: emulator.truth.working_distance)
    offer_method(method, "told")
    return method
