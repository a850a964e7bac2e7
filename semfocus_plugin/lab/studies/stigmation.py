"""How well focus and stigmator are corrected together: on the emulator, and on columns that are not the emulator's.

The columns of their own have a stigmator in percent whose axes are turned against the picture. A run is good when the
place and both components of the astigmatism end within half a depth of field.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import semdrivers
from firmware_protocol.profile import EM30
from semdrivers.emulator import Emulator
from semdrivers.errors import OutOfRangeError
from semdrivers.focus import AutofocusSettings
from semdrivers.microscope import HasStigmator, Microscope, Range
from semfocus_plugin import methods
from semfocus_plugin.lab.benchmark.column import MARGIN, SimulatedColumn
from semfocus_plugin.lab.benchmark.peers import Optics
from semfocus_plugin.lab.benchmark.peers.bench import Bench, approach
from semfocus_plugin.lab.benchmark.peers.with_stigmator import PEERS
from semfocus_plugin.lab.benchmark.pictures import read_folder
from semfocus_plugin.lab.benchmark.runs import CountedMicroscope, Reporting
from semfocus_plugin.lab.benchmark.textures import random_texture, sample_for
from semfocus_plugin.lab.parallel import run_all
from semfocus_plugin.run import run as run_method

__all__ = ["FALSE", "HEADINGS", "KINDS", "OURS", "Run", "StigmatedColumn", "run_once", "table"]

KINDS = (
    *("emulator", "micrographs", "textures", "wave", "featureless", "stripes"),
    *("emulator-unknown", "micrographs-unknown", "emulator-coils"),
)
"""Rows of the table. A featureless sample is to be refused, and stripes show one of the components alone. The last
three have samples and starts of the first two; it is not known what the stigmator does, or its coils are those of the
preset `hostile`."""
OURS = "ours"
"""The default method."""
HEADINGS = (
    "instrument and samples",
    "method",
    "within ½ DoF in all three",
    "largest of the three, median / p90 (DoF)",
    "frames, median / p90",
    "instrument, s",
    "false beyond 2 DoF",
    "refused",
)
"""Headings of the table."""
FALSE = 2.0
"""Depths of field beyond which a result that claims focus is false."""

_SHAPE = 240 + 2 * MARGIN, 320 + 2 * MARGIN
_SPECIMENS = {
    "tin-balls": (800.0, 12_000.0),
    "tem-grid": (800.0, 10_000.0),
    "gold-nanoparticles": (8_000.0, 30_000.0),
    "butterfly-wing": (800.0, 10_000.0),
    "fabric": (800.0, 10_000.0),
}
_COILS: dict[str, Any] = {"stigmator_hysteresis": 4.0, "stigmator_rotation": 1.5, "stigmator_shift": 20.0}
"""A stigmator that remembers where it came from, whose axes turn with the lens, and that moves the picture."""
_DEFOCUS, _ASTIGMATISM = 10.0, 5.0
"""Depths of field: the start is within these of the focus, and of either component."""


class StigmatedColumn(SimulatedColumn):
    """A simulated column with a stigmator in percent.

    Attributes
    ----------
    effect : ndarray of shape (2, 2), float64
        Astigmatism (x, y) in mm that a percent of either axis adds; set it, and what the capabilities report of it,
        before the first frame.
    """

    effect = np.eye(2)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._own = np.array(self.astigmatism, float)
        self._setting = (0.0, 0.0)

    @property
    def stigmator(self) -> tuple[float, float]:
        """Setting of both axes, percent."""
        return self._setting

    @stigmator.setter
    def stigmator(self, value: tuple[float, float]) -> None:
        x, y = value
        if not max(abs(x), abs(y)) <= 100:
            raise OutOfRangeError(f"stigmator ({x:g}, {y:g}) is outside -100 to 100 %")
        self._setting = round(x, 2), round(y, 2)
        added = self._own + self.effect @ self._setting
        self.astigmatism = float(added[0]), float(added[1])
        self._clean = {}


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Parameters
    ----------
    status, reason : str
        Of the result.
    frames : int
        Acquired.
    left : tuple of float
        Distance from the focus, and both components of the astigmatism, in depths of field.
    seconds : float
        Of the instrument's clock; NaN where it has none.
    """

    status: str
    reason: str
    frames: int
    left: tuple[float, float, float]
    seconds: float = math.nan

    @property
    def worst(self) -> float:
        """Largest of the three, depths of field."""
        return max(map(abs, self.left))


def run_once(number: int, seed: int, kind: str, folder: str, by: str = OURS) -> Run:
    """Correct focus and stigmator once.

    Parameters
    ----------
    number, seed : int
        Of the run; the same numbers give the same run.
    kind : str
        One of `KINDS`.
    folder : str
        Of micrographs; empty without.
    by : str
        `OURS`, or a peer: it is given the half-angle, what the stigmator does, and steps in depths of field.
    """
    random = np.random.default_rng([seed, KINDS.index(kind.partition("-")[0]), number])
    if kind.startswith("emulator"):
        return _on_emulator(number, random, kind, by)
    return _on_column(number, random, kind, folder, by)


def _on_emulator(number: int, random: np.random.Generator, kind: str, by: str) -> Run:
    name = tuple(_SPECIMENS)[number % len(_SPECIMENS)]
    magnification = float(np.exp(random.uniform(*np.log(_SPECIMENS[name]))))
    strengths = _COILS if kind.endswith("coils") else {}
    with (
        Emulator(name, seed=int(random.integers(1 << 30)), magnification=magnification, **strengths) as emulator,
        semdrivers.connect(emulator.url) as microscope,
    ):
        truth = emulator.truth
        unit = truth.depth_of_field
        assert isinstance(microscope, HasStigmator)
        x, y = random.uniform(-_ASTIGMATISM, _ASTIGMATISM, 2) * unit * 1e3
        microscope.stigmator = float(x), float(y)
        microscope.working_distance = truth.working_distance + random.uniform(-_DEFOCUS, _DEFOCUS) * unit
        began = emulator.instrument.clock.now()
        optics = Optics(EM30.aperture_radius * 1e-3, 36e-6)
        reach = -2 * _DEFOCUS * unit, 2 * _DEFOCUS * unit
        found = _solved(
            Reporting(microscope, stigmator_matrix=None) if kind.endswith("unknown") else microscope,
            by,
            optics,
            reach,
            1e-3 * np.eye(2),
        )
        seconds = emulator.instrument.clock.now() - began
        conditions, after = emulator.instrument.conditions(), emulator.truth
        away = conditions.working_distance + conditions.focus_offset - after.working_distance
        left = away / unit, after.astigmatism[0] / unit * 1e-3, after.astigmatism[1] / unit * 1e-3
    return Run(*found[:3], left, seconds)


def _on_column(number: int, random: np.random.Generator, kind: str, folder: str, by: str) -> Run:
    pictures = read_folder(Path(folder)) if folder and kind != "textures" else ()
    sample = sample_for(pictures, 2 * number, _SHAPE, random) if pictures else random_texture(_SHAPE, random)
    if kind == "featureless":
        sample = np.full(_SHAPE, 0.5, np.float32)
    if kind == "stripes":
        across = np.arange(_SHAPE[1]) * random.uniform(14, 30) / _SHAPE[1] % 1.0 < 0.4
        sample = np.broadcast_to(0.3 + 0.5 * across, _SHAPE).astype(np.float32)
    pixel = float(np.exp(random.uniform(math.log(3e-5), math.log(6e-4))))
    focus, alpha, core, wavelength = random.uniform(8.0, 20.0), 3e-3, 36e-6, 0.0
    if kind == "wave":
        voltage = number % 2
        alpha, wavelength, focus = (8e-3, 3e-3)[voltage], (27.4e-9, 9.9e-9)[voltage], random.uniform(4.0, 9.0)
        pixel, core = float(np.exp(random.uniform(math.log(2.5e-6), math.log(25e-6)))), random.uniform(1e-6, 2.5e-6)
    unit = math.hypot(pixel, math.hypot(core, 0.61 * wavelength / alpha)) / alpha
    column = StigmatedColumn(
        sample,
        pixel=pixel,
        focus=focus,
        aperture=alpha * focus,
        core=core,
        position=focus + random.uniform(-_DEFOCUS, _DEFOCUS) * unit,
        astigmatism=tuple(random.uniform(-_ASTIGMATISM, _ASTIGMATISM, 2) * unit),
        wavelength=wavelength,
        electrons=random.uniform(60, 200),
        magnification=0.4 / pixel,
        seed=int(random.integers(2**31)),
    )
    turn = random.uniform(0, 2 * math.pi)
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    column.effect = turned @ np.diag(random.uniform(0.15, 0.4, 2)) * unit
    column.reports = {"stigmator": Range(-100.0, 100.0, 0.01)}
    if "unknown" not in kind:
        column.reports["stigmator_matrix"] = (column.effect * 1e3).tolist()
    optics = Optics(column.aperture, core)
    reach = -2 * _DEFOCUS * unit, 2 * _DEFOCUS * unit
    status, reason, frames, unseen = _solved(column, by, optics, reach, column.effect)
    left = (column.in_focus - focus) / unit, column.astigmatism[0] / unit, column.astigmatism[1] / unit
    if unseen is not None and min(unseen, 90 - unseen) < 5:
        # Upright lines are sharp where z + x is 0, and show the other component alone; the run says which it is.
        left = left[0] + left[1], 0.0, left[2]
    return Run(status, reason, frames, left)


def _solved(
    microscope: Microscope, by: str, optics: Optics, reach: tuple[float, float], matrix: NDArray[np.float64]
) -> tuple[str, str, int, float | None]:
    """Correct by a method; ours runs as on an instrument that nobody has calibrated, and gets none of the rest.

    Returns status, reason, frames, and the direction that the sample does not show.
    """
    if by == OURS:
        method = methods.find(None)
        assert method is not None
        result = run_method(method, microscope, AutofocusSettings(stigmate=True))
        unseen = None if result.astigmatism is None else result.astigmatism.unseen
        return result.status, result.reason, result.frames, unseen
    counted = CountedMicroscope(microscope)
    start = counted.working_distance
    bench = Bench(counted, optics, (start + reach[0], start + reach[1]), start)
    answer = PEERS[by](bench, matrix)
    approach(counted, bench.limits, answer.working_distance)
    return "focused" if answer.claimed else "refused", answer.reason, counted.frames, None


def table(
    runs: int,
    seed: int,
    kinds: Sequence[str] = KINDS,
    folder: str = "",
    workers: int | None = None,
    peers: Sequence[str] = (),
) -> Iterator[tuple[str, ...]]:
    """Yield the headings, then a row for every kind.

    Parameters
    ----------
    runs : int
        Of each kind.
    seed : int
        Fixes all that is drawn.
    kinds : sequence of str
        Of `KINDS`.
    folder : str
        Of micrographs; textures stand for them without.
    workers : int, optional
        Processes.
    peers : sequence of str
        Of `PEERS`, on the same seeds; not where the matrix is unknown.
    """
    yield HEADINGS
    for kind, by in ((kind, by) for kind in kinds for by in (OURS, *peers)):
        if by != OURS and "unknown" in kind:
            continue
        calls = [(number, seed, kind, folder, by) for number in range(runs)]
        done = run_all(run_once, calls, workers=workers)
        claimed = [each for each in done if each.status == "focused"]
        worst = [each.worst for each in claimed] or [math.nan]
        frames = [each.frames for each in done]
        good = sum(each.worst <= 0.5 for each in claimed)
        yield (
            kind,
            by,
            f"{good / runs:.0%}",
            f"{statistics.median(worst):.2f} / {np.percentile(worst, 90):.2f}",
            f"{statistics.median(frames):.0f} / {np.percentile(frames, 90):.0f}",
            "" if math.isnan(done[0].seconds) else f"{statistics.median(each.seconds for each in done):.0f}",
            str(sum(each.worst > FALSE for each in claimed)),
            str(sum(each.status == "refused" for each in done)),
        )
