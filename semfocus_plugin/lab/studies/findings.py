"""How often the frames of a run show astigmatism and relief, and how often they seem to where there is none.

Emulated are FAST frames as a run of the default method leaves them: two to four of one field, one of them within one
depth of field of the focus, the others at 1.5 to 9 on one side or both; the focus that the run reports is off by 0.35
depths of field (standard deviation). `astigmatism` and `relief` of `semfocus_plugin.optics` were tuned on the seeds 11
to 14; the tables are of another. The last table takes the sharp micrographs of a folder with MANIFEST.csv as specimens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firmware_protocol.profile import EM30
from semdrivers.emulator.physics import ElectronColumn, ScanConditions, pixel_size, preset_named, seen
from semdrivers.emulator.specimens import Picture, Specimen, Window, make_specimen
from semfocus_plugin.lab.benchmark.pictures import read_folder
from semfocus_plugin.optics import Astigmatism, Relief, View, astigmatism, relief

__all__ = [
    "SEED", "TABLES", "Case", "Situation", "case", "diagnosed", "median", "share", "spread", "tables", "turned",
]  # fmt: skip

SEED = 7001
"""Seed of the reported figures; no threshold was set on it."""
# Magnifications that each is seen at
_SPECIMENS: Mapping[str, tuple[float, float]] = {
    "tin-balls": (500, 10_000),
    "tem-grid": (500, 10_000),
    "gold-nanoparticles": (8_000, 30_000),
    "butterfly-wing": (500, 10_000),
    "fabric": (500, 10_000),
    "stripes": (500, 30_000),
    "featureless": (500, 30_000),
}

_AMOUNTS = (1.0, 1.5, 2.0, 3.0, 5.0)  # Amounts of astigmatism, depths of field
_SPREADS = (1.0, 1.5, 2.5, 4.0, math.inf)  # Limits of the classes of relief, depths of field
_WIDTH, _HEIGHT = 320, 240  # size of a frame, pixels


@dataclass(frozen=True, slots=True)
class Situation:
    """A column, and the frames that a run takes under it; lengths in depths of field unless they say otherwise.

    Parameters
    ----------
    preset : str
        Preset of the column.
    astigmatism : float, optional
        Half-distance of the line foci; that of the preset by default.
    working_distance : tuple of float
        Best one, from and to, mm: a short one makes a short depth of field.
    tilt, step : float
        From the upper to the lower edge of the field; between two halves of the sample.
    aperture : float
        True aperture over that which the functions are given.
    focus_error : float
        Standard deviation of the reported focus.
    counts : tuple of int
        Fewest and most frames.
    farthest : float
        Farthest frame.
    """

    preset: str = "typical"
    astigmatism: float | None = None
    working_distance: tuple[float, float] = (11.5, 19.5)
    tilt: float = 0.0
    step: float = 0.0
    aperture: float = 1.0
    focus_error: float = 0.35
    counts: tuple[int, int] = (2, 4)
    farthest: float = 9.0


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """The frames of a run, and the truth."""

    specimen: str
    views: tuple[View, ...]
    focus: float
    amount: float
    angle: float
    spread: float


@dataclass(frozen=True, slots=True)
class _Step:
    """A specimen of which one half lies higher."""

    specimen: Specimen
    height: float
    angle: float
    x: float
    y: float

    def render(self, window: Window) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return (intensity, height in µm)."""
        tone, height = self.specimen.render(window)
        x = window.x + np.arange(window.width) * window.pixel - self.x
        y = window.y + np.arange(window.height) * window.pixel - self.y
        beyond = x[None, :] * math.cos(self.angle) + y[:, None] * math.sin(self.angle) > 0
        return tone, (height + self.height * beyond).astype(np.float32)


def _stripes(random: np.random.Generator, pixel: float) -> Picture:
    """Return stripes of one direction, on half of the samples with a little texture; `pixel` in nm."""
    y, x = np.mgrid[:480, :640]
    angle, period = random.uniform(0, math.pi), random.uniform(5, 30)
    wave = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / period)
    tone = 1 + 0.4 * (wave > random.uniform(-0.5, 0.5))
    if random.random() < 0.5:
        tone += 0.1 * random.standard_normal(tone.shape)
    return Picture(tone.astype(np.float32), pixel * random.uniform(0.6, 1.3))


def case(random: np.random.Generator, name: str, situation: Situation, micrograph: NDArray[Any] | None = None) -> Case:
    """Draw a field of a specimen, or a view of a micrograph, and the frames of a run on it."""
    low, high = _SPECIMENS.get(name, (500, 30_000))
    magnification = math.exp(random.uniform(math.log(low), math.log(high)))
    pixel = pixel_size(magnification, _WIDTH)
    seed = int(random.integers(1 << 30))
    specimen: Specimen
    if micrograph is not None:
        specimen = Picture(micrograph, pixel * random.uniform(0.5, 1.2))
    else:
        specimen = _stripes(random, pixel) if name == "stripes" else make_specimen(name, seed)
    reach = 0.0 if micrograph is not None else 10.0
    preset = preset_named(situation.preset)
    if situation.astigmatism is not None:
        preset = dataclasses.replace(preset, astigmatism=0.0)
    at = ScanConditions(
        working_distance=15.0,
        magnification=magnification,
        width=_WIDTH,
        height=_HEIGHT,
        stage_x=random.uniform(-reach, reach),
        stage_y=random.uniform(-reach, reach),
        brightness=random.uniform(0.45, 0.53),
        contrast=random.uniform(0.4, 0.6),
        start_time=random.uniform(0, 100),
    )
    made: dict[str, Any] = {
        "seed": seed,
        "preset": preset,
        "profile": dataclasses.replace(EM30, aperture_radius=EM30.aperture_radius * situation.aperture),
        "best_working_distance": random.uniform(*situation.working_distance),
    }
    unit = ElectronColumn(specimen, **made).truth(at).depth_of_field
    if situation.step:
        direction = random.uniform(0, 2 * math.pi)
        specimen = _Step(specimen, situation.step * unit * 1e3, direction, at.stage_x * 1e3, at.stage_y * 1e3)
    amount, angle = (situation.astigmatism or 0.0) * unit * 1e3, random.uniform(0, math.pi)
    at = dataclasses.replace(
        at,
        stage_tilt=min(math.degrees(math.atan(situation.tilt * unit / (_HEIGHT * pixel * 1e-6))), 70.0),
        stigmator_x=amount * math.cos(2 * angle),
        stigmator_y=amount * math.sin(2 * angle),
    )
    column = ElectronColumn(specimen, **made)
    best = column.truth(at).working_distance
    views = []
    for k, place in enumerate(_places(random, situation)):
        scan = dataclasses.replace(
            at, working_distance=best + place * unit, frame_id=k, start_time=at.start_time + 0.3 * k
        )
        views.append(View(scan.working_distance, pixel * 1e-6, column.render(scan)))
    return Case(
        specimen=name,
        views=tuple(views),
        focus=best + random.normal(0, situation.focus_error) * unit,
        amount=situation.astigmatism or 0.0,
        angle=math.degrees(angle),
        spread=spread(specimen, at, pixel * 1e-3) * 1e-3 / unit,
    )


def _places(random: np.random.Generator, situation: Situation) -> list[float]:
    """Return where the frames of a run are, in depths of field."""
    chosen, side, both = [random.uniform(-1, 1)], random.choice([-1, 1]), random.random() < 0.6
    for k in range(int(random.integers(situation.counts[0], situation.counts[1] + 1)) - 1):
        chosen.append(side * random.uniform(1.5 if k else 2.5, situation.farthest))
        side = -side if both else side
    return chosen


def spread(specimen: Specimen, at: ScanConditions, pixel: float) -> float:
    """Return 2.56 standard deviations of the mean height of twelve tiles, µm; `pixel` in µm."""
    left, top = at.stage_x * 1e3 - (_WIDTH - 1) / 2 * pixel, at.stage_y * 1e3 - (_HEIGHT - 1) / 2 * pixel
    height = seen(specimen, Window(left, top, pixel, _WIDTH, _HEIGHT), at.stage_tilt, at.stage_rotation)[1]
    return 2.56 * float(height.reshape(3, _HEIGHT // 3, 4, _WIDTH // 4).mean(axis=(1, 3)).std())


def diagnosed(cases: Iterable[Case]) -> list[tuple[Case, Astigmatism | None, Relief | None]]:
    """Return what the frames of every case show."""
    return [(each, astigmatism(each.views, each.focus), relief(each.views, each.focus)) for each in cases]


def share(hits: Sequence[bool]) -> str:
    """Return per cent and number."""
    return f"{100 * sum(hits) / len(hits):.1f} % of {len(hits)}" if hits else "–"


def median(values: Sequence[float], unit: str) -> str:
    """Return the median, rounded."""
    return f"{np.median(values):.2g}{unit}" if len(values) else "–"


def turned(angle: float, other: float) -> float:
    """Return the angle between two axes, degrees."""
    return abs((angle - other + 90) % 180 - 90)


def _false_reports(seed: int, fields: int) -> Iterator[list[str]]:
    """Yield the table of fields that are flat, under columns of the preset ``typical``."""
    yield ["specimen", "says astigmatism", "says relief"]
    everything = []
    for name in _SPECIMENS:
        random = np.random.default_rng([seed, 1, *name.encode()])
        cases = diagnosed(case(random, name, Situation()) for _ in range(6 * fields))
        everything += cases
        yield [name, *_said(cases)]
    yield ["all", *_said(everything)]


def _said(cases: list[tuple[Case, Astigmatism | None, Relief | None]]) -> list[str]:
    flat = [bool(r) for c, _, r in cases if c.spread < _SPREADS[0]]
    return [share([bool(a) for _, a, _ in cases]), share(flat)]


def _detection(seed: int, fields: int) -> Iterator[list[str]]:
    """Yield the table of columns with astigmatism."""
    yield ["specimen", *(f"{a:g}" for a in _AMOUNTS), "error of the amount", "error of the angle", "says relief"]
    for name in _SPECIMENS:
        random = np.random.default_rng([seed, 2, *name.encode()])
        cells, detected, wrong = [], [], []
        for amount in _AMOUNTS:
            cases = diagnosed(case(random, name, Situation(astigmatism=amount)) for _ in range(fields))
            cells.append(share([bool(a) for _, a, _ in cases]))
            detected += [(c, a) for c, a, _ in cases if a]
            wrong += [bool(r) for c, a, r in cases if c.spread < _SPREADS[0] and not a]
        amounts = [100 * abs(a.amount / c.amount - 1) for c, a in detected]
        angles = [turned(a.angle, c.angle) for c, a in detected]
        yield [name, *cells, median(amounts, " %"), median(angles, "°"), share(wrong)]


def _heights(seed: int, fields: int) -> Iterator[list[str]]:
    """Yield the table of fields with relief, at working distances of 4 to 8 mm."""
    bands = [f"{low:g} to {high:g}" if high < math.inf else f"above {low:g}" for low, high in _bands()]
    yield ["relief", *bands, "error", "says astigmatism"]
    kinds: dict[str, tuple[tuple[str, ...], list[Situation]]] = {
        "tin balls as they lie": (("tin-balls",), [Situation()] * 12),
        "tilted stage": (_shown(), [Situation(tilt=tilt) for tilt in (2.0, 3.0, 4.5, 6.0)]),
        "a step in the sample": (_shown(), [Situation(step=step) for step in (1.5, 2.0, 3.0, 5.0)]),
    }
    for kind, (names, situations) in kinds.items():
        random = np.random.default_rng([seed, 3, *kind.encode()])
        short = [dataclasses.replace(each, working_distance=(4.0, 8.0)) for each in situations]
        count = max(fields // 2, 1)
        cases = diagnosed(case(random, name, each) for name in names for each in short for _ in range(count))
        cells = [share([bool(r) for c, _, r in cases if low <= c.spread < high]) for low, high in _bands()]
        errors = [abs(r.spread - c.spread) for c, _, r in cases if r and c.spread >= _SPREADS[1]]
        yield [kind, *cells, median(errors, ""), share([bool(a) for c, a, _ in cases if c.spread >= _SPREADS[0]])]


def _bands() -> list[tuple[float, float]]:
    return list(zip((0.0, *_SPREADS), _SPREADS, strict=False))


def _shown() -> tuple[str, ...]:
    return tuple(name for name in _SPECIMENS if name not in ("stripes", "featureless"))


def _circumstances(seed: int, fields: int) -> Iterator[list[str]]:
    """Yield the table of what the functions do not know, over the five specimens."""
    yield ["circumstance", "says astigmatism: none", "of 3", "says relief: none"]
    rows = {
        "as above": Situation(),
        "preset hostile": Situation(preset="hostile"),
        "aperture 20 % wider than given": Situation(aperture=1.2),
        "aperture 20 % narrower than given": Situation(aperture=1 / 1.2),
        "focus reported 2 depths of field off": Situation(focus_error=2.0),
        "two frames only": Situation(counts=(2, 2)),
        "frames up to 30 depths of field away": Situation(farthest=30.0),
    }
    for label, situation in rows.items():
        cells = []
        for amount in (0.0, 3.0):
            random = np.random.default_rng([seed, 4, int(amount)])
            each = dataclasses.replace(situation, astigmatism=amount)
            cases = diagnosed(case(random, name, each) for name in _shown() for _ in range(max(fields // 2, 1)))
            cells.append(share([bool(a) for _, a, _ in cases]))
            if not amount:
                wrong = share([bool(r) for c, _, r in cases if c.spread < _SPREADS[0]])
        yield [label, *cells, wrong]


def _micrographs(seed: int, views: int, folder: Path) -> Iterator[list[str]]:
    """Yield the table of real micrographs as specimens, `views` of each."""
    yield [
        "astigmatism",
        "says astigmatism",
        "says relief, not astigmatism",
        "error of the amount",
        "error of the angle",
    ]
    pictures = list(read_folder(folder))
    for amount in (0.0, 2.0, 3.0):
        random = np.random.default_rng([seed, 5, int(amount)])
        each = Situation(astigmatism=amount or None)
        cases = diagnosed(case(random, p.name, each, p.pixels) for p in pictures for _ in range(views))
        detected = [(c, a) for c, a, _ in cases if a] if amount else []
        amounts = [100 * abs(a.amount / c.amount - 1) for c, a in detected]
        angles = [turned(a.angle, c.angle) for c, a in detected]
        hits = share([bool(a) for _, a, _ in cases])
        other = share([bool(r) and not a for _, a, r in cases])
        yield [f"{amount:g}" if amount else "none", hits, other, median(amounts, " %"), median(angles, "°")]


TABLES: dict[str, Callable[[int, int], Iterator[list[str]]]] = {
    "Fields that are flat, columns without astigmatism": _false_reports,
    "Astigmatism, by its amount in depths of field": _detection,
    "Relief, by the spread of the focus in depths of field": _heights,
    "What is not known": _circumstances,
}
"""The tables by their titles."""


def tables(seed: int, fields: int, folder: Path | None) -> dict[str, Callable[[], Iterator[list[str]]]]:
    """Return every table by its title; the one of real micrographs where there is a folder of them."""
    made: dict[str, Callable[[], Iterator[list[str]]]] = {
        title: partial(table, seed, fields) for title, table in TABLES.items()
    }
    if folder is not None:
        made["Real micrographs as specimens"] = partial(_micrographs, seed, max(fields // 5, 1), folder)
    return made
