"""How well the default autofocus does through each driver, on what stands in for the instrument.

Each run has a sample, a magnification and a start of its own, 5 to 30 depths of field from the focus. The autofocus is
given nothing but the microscope, and learns nothing from run to run.
"""

from __future__ import annotations

import atexit
import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import semdrivers
from semdrivers.emulator import Emulator, TescanEmulator
from semdrivers.smartsem import SmartSem
from semfocus_plugin.lab.benchmark.report import FALSE_FOCUS
from semfocus_plugin.lab.parallel import run_all
from semfocus_plugin.lab.studies import stand_ins
from semfocus_plugin.optics import NOMINAL_PIXEL

__all__ = ["DRIVERS", "HALF_ANGLES", "HEADINGS", "SPECIMENS", "Driver", "Run", "missing", "run_once", "table"]

SPECIMENS = {
    "tin-balls": (500, 20_000, 0.040),
    "gold-nanoparticles": (8_000, 30_000, 0.0002),
    "tem-grid": (500, 10_000, 0.010),
    "butterfly-wing": (500, 10_000, 0.0045),
}
"""Lowest and highest magnification that each is seen at, and its relief in mm.

A sample is seen no larger than with a depth of field of its relief: beyond, no single working distance is the focus.
"""
HALF_ANGLES = (1.2, 3.0, 6.0, 10.0, 15.0, 20.0)
"""Of the emulated TESCAN microscopes at 15 mm, mrad."""
_NEAREST, _FURTHEST = 5.0, 30.0

_Station = tuple[Any, Callable[[], float]]
"""A microscope at its start, and a function that returns how many depths of field it is from the focus."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What autofocus is tried on.

    Parameters
    ----------
    opened : callable
        Opens the instrument of a run, from a number of the run and random numbers.
    packages : tuple of str
        Modules that it needs beside this distribution.
    refuses : bool
        Whether the only right answer is a refusal.
    """

    opened: Callable[[int, np.random.Generator], AbstractContextManager[_Station]]
    packages: tuple[str, ...] = ()
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Parameters
    ----------
    driver : str
        Key of `DRIVERS`.
    number : int
        Of the run.
    status, reason : str
        Of the result; ``"error"`` and the message where it raised.
    frames : int
        Acquired.
    start, error : float
        Distance from the truth before and after, depths of field.
    """

    driver: str
    number: int
    status: str
    reason: str
    frames: int
    start: float
    error: float


def _sample(number: int, random: np.random.Generator, half_angle: float = 3.0) -> dict[str, Any]:
    """Return the arguments of an emulator whose beam has a half-angle in mrad."""
    specimen = tuple(SPECIMENS)[number % len(SPECIMENS)]
    low, high, relief = SPECIMENS[specimen]
    highest = max(min(high, NOMINAL_PIXEL / (relief * half_angle * 1e-3)), low)
    magnification = float(np.exp(random.uniform(*np.log((low, highest)))))
    return {"specimen": specimen, "magnification": magnification, "seed": int(random.integers(1 << 30))}


def _from_focus(microscope: Any, emulator: Emulator | TescanEmulator) -> float:
    truth = emulator.truth
    return float(abs(microscope.working_distance - truth.working_distance) / truth.depth_of_field)


@contextmanager
def _tescan(half_angle: float, number: int, random: np.random.Generator) -> Iterator[_Station]:
    with (
        TescanEmulator(**_sample(number, random, half_angle), half_angle=half_angle) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        yield microscope, partial(_from_focus, microscope, emulator)


@contextmanager
def _em30(serial: bool, number: int, random: np.random.Generator) -> Iterator[_Station]:
    with (
        Emulator(**_sample(number, random), serial=serial) as emulator,
        semdrivers.connect(emulator.serial_url if serial else emulator.url) as microscope,
    ):
        yield microscope, partial(_from_focus, microscope, emulator)


@contextmanager
def _smartsem(number: int, random: np.random.Generator) -> Iterator[_Station]:
    with Emulator(**_sample(number, random)) as emulator, semdrivers.connect(emulator.url) as inner:
        limits = inner.capabilities.working_distance
        with SmartSem(stand_ins.SmartSemObject(inner), working_distance=limits, settle=0.0) as microscope:
            yield microscope, partial(_from_focus, microscope, emulator)


@contextmanager
def _fibsem(number: int, random: np.random.Generator) -> Iterator[_Station]:
    """Open fibsem's demo microscope, and let it look at the emulator's sample."""
    with (
        Emulator(**_sample(number, random)) as emulator,
        semdrivers.connect(emulator.url) as inner,
        semdrivers.connect("fibsem://?manufacturer=Demo&working_distance=5:30") as microscope,
    ):
        stand_ins.look_through(microscope.fibsem, inner)  # type: ignore[attr-defined]
        yield microscope, partial(_from_focus, microscope, emulator)


@contextmanager
def _noise_of_fibsem(number: int, random: np.random.Generator) -> Iterator[_Station]:
    """Open fibsem's demo microscope as it is: its pictures are noise."""
    with semdrivers.connect("fibsem://?manufacturer=Demo") as microscope:
        microscope.magnification = float(np.exp(random.uniform(*np.log((500, 10_000)))))
        yield microscope, lambda: np.nan


@contextmanager
def _micromanager(number: int, random: np.random.Generator) -> Iterator[_Station]:
    """Open Micro-Manager's demo camera, somewhere over its beads, which are in focus at z = 0."""
    aperture = stand_ins.DEMO_CAMERA_APERTURE
    with tempfile.TemporaryDirectory() as folder:
        path = stand_ins.demo_camera(Path(folder) / "demo.cfg")
        with semdrivers.connect(
            f"micromanager://{path}?numerical_aperture={aperture}&working_distance=-0.2:0.2"
        ) as microscope:
            microscope.move_stage(*random.uniform(-1, 1, 2))  # type: ignore[attr-defined]
            about = microscope.capabilities
            assert about.probe_diameter is not None
            depth = math.hypot(microscope.acquire().pixel_size, about.probe_diameter) * 1e-6 / aperture
            microscope.working_distance = _away(random) * depth
            yield microscope, lambda: abs(microscope.working_distance) / depth


@contextmanager
def _zem(number: int, random: np.random.Generator) -> Iterator[_Station]:
    """Open the maker's simulator, its lens made to move."""
    with semdrivers.connect(_simulator()) as microscope:
        microscope.beam_on = True  # type: ignore[attr-defined]
        microscope.magnification = float(np.exp(random.uniform(*np.log((500, 5000)))))
        microscope.move_stage(*random.uniform(-0.5, 0.5, 2))  # type: ignore[attr-defined]
        focus = stand_ins.ZEM_FOCUS
        depth = microscope.acquire().pixel_size * 1e-6 / stand_ins.ZEM_HALF_ANGLE
        microscope.working_distance = focus + _away(random) * depth
        yield microscope, lambda: abs(microscope.working_distance - focus) / depth


@cache
def _simulator() -> str:
    """Start one simulator for all runs of this process; it takes seconds."""
    running = ExitStack()
    atexit.register(running.close)
    return running.enter_context(stand_ins.virtual_zem("moving-lens"))


def _away(random: np.random.Generator) -> float:
    return float(random.uniform(_NEAREST, _FURTHEST) * random.choice((-1, 1)))


DRIVERS: Mapping[str, Driver] = MappingProxyType(
    {
        **{f"tescan, {angle:g} mrad": Driver(partial(_tescan, angle)) for angle in HALF_ANGLES},
        "em30": Driver(partial(_em30, False)),
        "em30+serial": Driver(partial(_em30, True)),
        "smartsem": Driver(_smartsem),
        "fibsem": Driver(_fibsem, ("fibsem",)),
        "fibsem, noise": Driver(_noise_of_fibsem, ("fibsem",), refuses=True),
        "zem": Driver(_zem, ("zemrpc",)),
        "micromanager": Driver(_micromanager, ("pymmcore_plus", "mm_test_adapters")),
    }
)
"""What autofocus is tried on, by the name of a row."""


def missing(name: str) -> list[str]:
    """Return the modules that a row needs and that are not installed."""
    return [module for module in DRIVERS[name].packages if importlib.util.find_spec(module) is None]


def run_once(name: str, number: int, seed: int) -> Run:
    """Focus once.

    Parameters
    ----------
    name : str
        Key of `DRIVERS`.
    number, seed : int
        Of the run, and of all runs.
    """
    random = np.random.default_rng([seed, number, *name.encode()])
    start = error = math.nan
    try:
        with DRIVERS[name].opened(number, random) as (microscope, from_focus):
            start = from_focus()
            try:
                result = semdrivers.autofocus(microscope, learn_aperture=False)
            finally:
                error = from_focus()
            return Run(name, number, result.status, result.reason, result.frames, start, error)
    except semdrivers.SemDriversError as raised:
        return Run(name, number, "error", f"{type(raised).__name__}: {raised}", 0, start, error)


def table(
    runs: int,
    seed: int,
    names: Sequence[str],
    workers: int | None = None,
    progress: Callable[[Run], object] | None = None,
) -> tuple[tuple[Run, ...], list[tuple[str, ...]]]:
    """Return every run, and how the rows compare."""
    tasks = [(name, number, seed) for name in names for number in range(runs)]
    done = run_all(run_once, tasks, workers=workers, progress=progress)
    return done, [HEADINGS, *(_row(name, [run for run in done if run.driver == name]) for name in names)]


HEADINGS = ("driver", "runs", "right", "false", "refused", "raised", "frames, median / p90", "error, DoF, median / p90")
"""Of the table. Right is a focus within 1 DoF of the truth, or a refusal where there is nothing to focus on."""


def _row(name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    focused = [run for run in runs if run.status == "focused"]
    refused = sum(run.status == "refused" for run in runs)
    refuses = DRIVERS[name].refuses
    right = refused if refuses else sum(run.error <= 1 for run in focused)
    errors = [run.error for run in focused]
    frames = [run.frames for run in runs]
    return (
        name,
        str(len(runs)),
        f"{right / len(runs):.0%}",
        str(len(focused) if refuses else sum(not run.error <= FALSE_FOCUS for run in focused)),
        str(refused),
        str(sum(run.status == "error" for run in runs)),
        f"{np.median(frames):.3g} / {np.quantile(frames, 0.9):.3g}",
        f"{np.median(errors):.2f} / {np.quantile(errors, 0.9):.2f}" if errors and not refuses else "–",
    )
