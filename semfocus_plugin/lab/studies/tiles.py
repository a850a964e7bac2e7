"""How many tiles of a whole sample are sharp, and at what cost: with a fixed focus, a plane, autofocus at each, a map.

The sample is tilted by 2 degrees and bowed, and its height drifts. The emulated instrument is used without its wires,
and times are those that it would take. The scene `spread` has fields far apart; in `joined` they overlap, so that the
tiles can track the focus. In `foreign` the instrument is one that the benchmark draws at random, unlike the emulator
in its aperture, probe, raster and faults.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import semdrivers
from firmware_protocol.messages import Parameter
from firmware_protocol.profile import EM30
from semdrivers.base import MicroscopeBase
from semdrivers.emulator import Emulator
from semdrivers.emulator.specimens import Picture, Window, make_specimen
from semdrivers.image import SCAN_MODES
from semdrivers.maps import FocusMap
from semfocus_plugin.lab.benchmark.instruments import wild_column
from semfocus_plugin.lab.benchmark.textures import random_texture
from semfocus_plugin.lab.parallel import run_all
from semfocus_plugin.tiles import MAP, Plan, Tile, open_folder, plan_tiles, take_tiles

__all__ = ["SCENES", "TILT", "Outcome", "Scene", "run_scene", "table"]

_WIDTH = 640  # Pixels of a STANDARD frame
_FAST, _PICTURE = (mode.frame_time for mode in EM30.scan_modes[:2])  # s
_ELECTRONS = EM30.beam_current * 1e-12 / 1.602e-19  # Electrons a second
_EXPECTED, _NO_DRIFT = 10.0, 1e-3  # nm/s: what a map counts on by default, and one that counts on none
_ASTIGMATISM = 0.3  # Depths of field with which `astigmatic` takes its tiles
_SHEET = 1536, 1152  # Pixels
_FIELDS, _MOVE = 6, 0.5  # Fields of a foreign instrument; s of a move of its lens or stage
TILT = math.tan(math.radians(2.0))
"""mm/mm."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A sample, and where its tiles lie.

    Parameters
    ----------
    magnification : float
        Of the tiles.
    pitch : float
        Distance of neighbouring tiles, in widths of a tile.
    bow : float
        µm/mm², as the emulator has it.
    strategies : tuple of str
        Ways to focus that are compared.
    """

    magnification: float
    pitch: float
    bow: float
    strategies: tuple[str, ...]


_TRACKED = ("map", "tracked", "astigmatic")
SCENES = {
    "spread": Scene(5000.0, 15.0, 5.0, ("fixed", "plane", "each", "map", "astigmatic")),
    "joined": Scene(
        15000.0, 0.9, 5.0, ("fixed", "plane", *(way + more for way in _TRACKED for more in (" without drift", "")))
    ),
    "foreign": Scene(5000.0, 15.0, 5.0, ("fixed", "plane", "each", "map")),
}
"""The scenes by name; the magnification of `foreign` is its instrument's, and tilt, bow and drift go with its field."""
_DRAWN = {"spread": "map", "joined": "tracked", "foreign": "map"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a strategy came to.

    Parameters
    ----------
    scene, strategy : str
        Which.
    errors : tuple of float
        Distance of each tile's working distance from the focus, depths of field.
    frames : tuple of int
        For focusing, before each tile.
    seconds : float
        That the instrument took.
    dose : float
        Mean on a tile, focusing included, electrons per µm².
    """

    scene: str
    strategy: str
    errors: tuple[float, ...]
    frames: tuple[int, ...]
    seconds: float
    dose: float


def run_scene(
    scene: str, strategy: str, columns: int, rows: int, drift: float, seed: int, keep: Path | None
) -> Outcome:
    """Take all tiles of a scene by one strategy.

    Parameters
    ----------
    scene, strategy : str
        From `SCENES`.
    columns, rows : int
        Tiles.
    drift : float
        nm/s.
    seed : int
        Of the emulator.
    keep : Path, optional
        Draw the focus map of the strategy here, where it has one: ``.png``.
    """
    what = SCENES[scene]
    bench = _Foreign(what, drift, seed) if scene == "foreign" else _Emulated(what, drift, seed)
    width, height = bench.field
    plan = plan_tiles(
        (columns, rows),
        _region(columns, rows, width * what.pitch),
        0.1,
        place=(0.0, 0.0),
        field=bench.field,
        magnification=bench.microscope.magnification,
        mode=semdrivers.ScanMode.STANDARD,
        track=strategy.startswith("tracked"),
        astigmatism=_ASTIGMATISM if strategy.startswith("astigmatic") else 0.0,
    )
    began = bench.now()
    taken = _by_map if strategy.startswith(_TRACKED) else _without_map
    found = list(taken(bench, plan, strategy, keep))
    seconds = bench.now() - began
    bench.microscope.close()
    frames = tuple(frames for _, frames in found)
    electrons = _ELECTRONS * (_PICTURE + float(np.mean(frames)) * _FAST)
    return Outcome(
        scene, strategy, tuple(error for error, _ in found), frames, seconds, electrons / (width * height * 1e6)
    )


class _Bench(Protocol):
    """An instrument with a stage, its clock and its truth."""

    microscope: Any
    field: tuple[float, float]
    """Width and height of a tile, mm."""
    drift: float
    """That the map expects, nm/s."""

    def now(self) -> float:
        """Return the time, s."""
        ...

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def error(self) -> float:
        """Return how far the lens stands from the focus, depths of field."""
        ...


class _Emulated:
    """The emulated EM-30 on gold."""

    def __init__(self, what: Scene, drift: float, seed: int) -> None:
        self._emulator = Emulator(
            _gold(what.magnification),
            magnification=what.magnification,
            seed=seed,
            tilt=_tilt(seed),
            bow=what.bow,
            height_drift=drift,
        )
        self.microscope = _Unwired(self._emulator)
        width = self._emulator.instrument.profile.field_width_at_unity / what.magnification
        self.field, self.drift = (width, 0.75 * width), _EXPECTED
        self.now = self._emulator.instrument.clock.now

    def wait(self, seconds: float) -> None:
        clock = self._emulator.instrument.clock
        clock.wait_until(clock.now() + seconds)

    def error(self) -> float:
        truth = self._emulator.truth
        return abs(self.microscope.working_distance - truth.working_distance) / truth.depth_of_field


class _Foreign:
    """An instrument of the benchmark's track `wild`, with a stage; it is its own microscope.

    Every place shows one of a few fields. Bow and drift of the emulated sample are stretched as the field is, so that
    both compare in depths of field.
    """

    def __init__(self, what: Scene, drift: float, seed: int) -> None:
        random = np.random.default_rng([seed, 41])
        self._samples: list[Any] = []

        def drawn(shape: tuple[int, int]) -> Any:
            self._samples = [random_texture(shape, random) for _ in range(_FIELDS)]
            return self._samples[0]

        self._column = wild_column(random, drawn)
        self._level, self._stage, self._seconds, self._seed = self._column.focus, (0.0, 0.0), 0.0, seed
        height, width = (n * self._column.pixel for n in self._column.shape)
        self.field = width, height
        larger = self.field[0] * what.magnification / EM30.field_width_at_unity
        self._bow, self._drift, self.drift = 1e-3 * what.bow / larger, 1e-6 * drift * larger, _EXPECTED * larger
        turn = random.uniform(0, 2 * math.pi)
        self._tilt = TILT * math.cos(turn), TILT * math.sin(turn)
        self.microscope = self
        self.move_stage(0.0, 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._column, name)

    def now(self) -> float:
        return self._seconds

    def wait(self, seconds: float) -> None:
        self._seconds += seconds
        x, y = self._stage
        along, across = self._tilt
        height = along * x + across * y + self._bow * (x * x + y * y)
        self._column.focus = self._level + height + self._drift * self._seconds

    def error(self) -> float:
        return abs(self._column.in_focus - self._column.focus) / self._column.depth_of_field

    @property
    def working_distance(self) -> float:
        return self._column.working_distance

    @working_distance.setter
    def working_distance(self, value: float) -> None:
        self._column.working_distance = value
        self.wait(_MOVE)

    @property
    def stage_position(self) -> tuple[float, float]:
        return self._stage

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        self._stage = (x, y)
        place = [int(v / self._column.pixel) & 0xFFFFFFFF for v in (x, y)]
        random = np.random.default_rng([self._seed, *place])
        sample = self._samples[random.integers(_FIELDS)]
        self._column.show(sample[:: random.choice((-1, 1)), :: random.choice((-1, 1))])
        self.wait(_MOVE)
        return self._stage

    def acquire(self, mode: semdrivers.ScanMode = semdrivers.ScanMode.FAST) -> semdrivers.Image:
        self.wait(_FAST if mode == semdrivers.ScanMode.FAST else _PICTURE)
        return self._column.acquire(mode)


@functools.cache
def _gold(magnification: float) -> Picture:
    """A field of gold, drawn once and mirrored at its edges: drawing every tile anew took nine tenths of the time."""
    pixel = EM30.field_width_at_unity * 1e3 / magnification / _WIDTH
    columns, rows = _SHEET
    sheet = Window(-0.5 * columns * pixel, -0.5 * rows * pixel, pixel, columns, rows)
    return Picture(make_specimen("gold-nanoparticles", 0).render(sheet)[0], pixel * 1e3)


class _Unwired(MicroscopeBase):
    """The emulated instrument in this process, without wires: a frame is there as soon as it is drawn."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator, self._instrument = emulator, emulator.instrument

    @property
    def capabilities(self) -> semdrivers.Capabilities:
        """Limits of the profile."""
        profile = self._instrument.profile
        return semdrivers.Capabilities(
            semdrivers.Range(
                profile.working_distance_minimum, profile.working_distance_maximum, profile.working_distance_step
            ),
            semdrivers.Range(profile.magnification_minimum, profile.magnification_maximum, profile.magnification_step),
            SCAN_MODES,
            model=profile.model,
            stigmator=semdrivers.Range(*(sign * profile.stigmator_range for sign in (-1, 1))),
            stigmator_matrix=((1.0, 0.0), (0.0, 1.0)),
        )

    @property
    def stigmator(self) -> tuple[float, float]:
        """Both axes, µm."""
        return self._instrument.value(Parameter.STIGMATOR_X), self._instrument.value(Parameter.STIGMATOR_Y)

    @stigmator.setter
    def stigmator(self, value: tuple[float, float]) -> None:
        for parameter, each in zip((Parameter.STIGMATOR_X, Parameter.STIGMATOR_Y), value, strict=True):
            self._settle(self._instrument.set_parameter(parameter, each).time)

    @property
    def stage_position(self) -> tuple[float, float]:
        """Position (x, y) in mm."""
        return self._instrument.value(Parameter.STAGE_X), self._instrument.value(Parameter.STAGE_Y)

    def move_stage(self, x: float, y: float) -> tuple[float, float]:
        """Move to (x, y) in mm."""
        self._settle(self._instrument.move_stage(x, y).time)
        return self.stage_position

    def acquire(self, mode: semdrivers.ScanMode = semdrivers.ScanMode.FAST) -> semdrivers.Image:
        """Scan one frame."""
        self._instrument.start_scan(mode.width, mode.height, 8, 1)
        frame = self._instrument.next_frame()
        assert frame is not None
        return semdrivers.Image(
            frame.pixels,
            frame.working_distance,
            frame.magnification,
            frame.pixel_size,
            frame.frame_id,
            frame.start_time,
            mode,
        )

    def close(self) -> None:
        """Switch off."""
        self._instrument.close()

    def _read(self, name: str) -> float:
        return self._instrument.value(Parameter[name.upper()])

    def _write(self, name: str, value: float) -> None:
        self._settle(self._instrument.set_parameter(Parameter[name.upper()], value).time)

    def _settle(self, until: float) -> None:
        self._instrument.clock.wait_until(until)
        self._instrument.update()


def _by_map(bench: _Bench, plan: Plan, strategy: str, keep: Path | None) -> Iterator[tuple[float, int]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tiles"
        open_folder(folder, lambda: plan, resume=False, overwrite=False)
        FocusMap(drift=_NO_DRIFT if strategy.endswith("without drift") else bench.drift).save(folder / MAP)
        found: list[tuple[float, int]] = []
        take_tiles(
            bench.microscope,
            folder,
            plan,
            settings=semdrivers.AutofocusSettings(learn_aperture=False),
            progress=lambda record, _: found.append((bench.error(), record.frames)),
            clock=bench.now,
        )
        if keep is not None:
            FocusMap.load(folder / MAP, clock=bench.now).plot(keep, overwrite=True)
        yield from found


def _without_map(bench: _Bench, plan: Plan, strategy: str, keep: Path | None) -> Iterator[tuple[float, int]]:
    x0, y0, x1, y1 = plan.region
    first = [((x0 + x1) / 2, (y0 + y1) / 2)] if strategy == "fixed" else []
    first = [(x0, y0), (x1, y0), (x0, y1)] if strategy == "plane" else first
    results = [_focused(bench.microscope, *place) for place in first]
    waiting = sum(result.frames for result in results)
    for tile in plan.tiles:
        if strategy == "each":
            waiting += _focused(bench.microscope, tile.x, tile.y).frames
        else:
            bench.microscope.move_stage(tile.x, tile.y)
            focus = _plane(first, [result.working_distance for result in results])(tile)
            bench.microscope.working_distance = round(focus, 3)
        bench.wait(_PICTURE)  # The picture itself would add nothing
        yield bench.error(), waiting
        waiting = 0


def _focused(microscope: Any, x: float, y: float) -> semdrivers.AutofocusResult:
    microscope.move_stage(x, y)
    return semdrivers.autofocus(microscope, learn_aperture=False)


def _plane(places: list[tuple[float, float]], heights: list[float]) -> Callable[[Tile], float]:
    """Return the plane through three places, or the height of the one."""
    if len(places) == 1:
        return lambda tile: heights[0]
    a, b, c = np.linalg.solve(np.array([(x, y, 1.0) for x, y in places]), np.array(heights))
    return lambda tile: float(a * tile.x + b * tile.y + c)


def _region(columns: int, rows: int, pitch: float) -> tuple[float, float, float, float]:
    x, y = 0.5 * (columns - 1) * pitch, 0.5 * (rows - 1) * 0.75 * pitch
    return -x, -y, x, y


def _tilt(seed: int) -> float:
    """Return the strength `tilt` in µm/mm with which the sample of a seed is tilted by 2 degrees."""
    emulator = Emulator("featureless", seed=seed, tilt=1.0)
    microscope = _Unwired(emulator)
    heights = []
    for x, y in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        microscope.move_stage(x, y)
        heights.append(emulator.truth.working_distance)
    slope = math.hypot(heights[1] - heights[0], heights[2] - heights[0])
    return TILT / slope


def table(
    columns: int,
    rows: int,
    drift: float,
    seed: int,
    scenes: tuple[str, ...],
    pictures: Path | None,
    workers: int | None,
) -> list[tuple[str, ...]]:
    """Return how the strategies compare, a row each; arguments as in `run_scene`."""
    tasks = [
        (
            scene,
            strategy,
            columns,
            rows,
            drift,
            seed,
            pictures / f"focus_map_{scene}.png" if pictures is not None and strategy == _DRAWN[scene] else None,
        )
        for scene in scenes
        for strategy in SCENES[scene].strategies
    ]
    rows_: list[tuple[str, ...]] = [
        (
            "scene",
            "focus",
            "within ½ DoF",
            "within 1 DoF",
            "worst, DoF",
            "frames, first 100",
            "frames a tile beyond",
            "electrons/µm²",
            "h",
        )
    ]
    for found in run_all(run_scene, tasks, workers=workers):
        errors, later = np.array(found.errors), found.frames[100:]
        rows_.append(
            (
                found.scene,
                found.strategy,
                f"{np.mean(errors <= 0.5):.0%}",
                f"{np.mean(errors <= 1):.0%}",
                f"{errors.max():.2f}",
                f"{np.mean(found.frames[:100]):.2f} a tile",
                f"{np.mean(later):.2f}" if later else "",
                f"{found.dose:.2g}",
                f"{found.seconds / 3600:.2f}",
            )
        )
    return rows_
