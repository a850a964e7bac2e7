"""Trials: what is under the beam, how far from the focus it starts, and how awkward the column is.

Every number of a trial follows from the seed, so that more runs of one seed begin with the same runs. A track is added
in `TRACKS`, and nowhere else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin.lab.benchmark.pictures import Picture
from semfocus_plugin.networks import paper_factor
from semfocus_plugin.optics import NOMINAL_PIXEL

__all__ = [
    "ANYWHERE", "DEVELOPMENT_SEED", "MAGNIFICATIONS", "OFFSET", "REPORTING_SEED", "TRACKS", "TRAINED", "UNSEEN",
    "Track", "Trial", "draw_online", "draw_trials", "tracks_named",
]  # fmt: skip

TRAINED = ("tin-balls", "tem-grid", "gold-nanoparticles")
"""Specimens that the networks were trained on."""
UNSEEN = ("butterfly-wing", "fabric")
"""Specimens that no network was trained on."""
_FEATURELESS = "featureless"  # The specimen without structure

MAGNIFICATIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    dict.fromkeys((*TRAINED, *UNSEEN, _FEATURELESS), (500.0, 10_000.0)) | {"gold-nanoparticles": (8_000.0, 30_000.0)}
)
"""Ranges of the paper ("Datasets"); butterfly wing and fabric as tin balls and TEM grid ("Online test")."""

DEVELOPMENT_SEED = 1
"""Seed of the runs that methods and peers were tuned on."""

REPORTING_SEED = 2026
"""Seed of the runs that are reported; nothing was tuned on them."""

_NEAR = 9.0  # Furthest start of the near tracks, depths of field
_FAR = 40.0  # Furthest start of the far tracks, depths of field
ANYWHERE = (5.0, 30.0)
"""Range of starts of the blind track, and the widest window that a peer is given on any track; mm."""

OFFSET = 3.0
"""Furthest start from the focus in mm, times the factor of equation 5, of the paper's online test."""

_STAGE = 5.0  # Furthest lateral position from the centre of a procedural specimen, mm


@dataclass(frozen=True, slots=True)
class Track:
    """Trials of one kind.

    Parameters
    ----------
    name, description : str
        Texts for tables.
    specimens : tuple of str
        Specimens, taken in turn; empty for real micrographs.
    reach : float or None
        Furthest start from the focus, in depths of field; in mm times the factor of equation 5 where `scaled`; None
        for a start anywhere, with the magnification free.
    scaled : bool
        Whether `reach` is in mm times the factor of equation 5.
    preset : str
        Preset of the emulator.
    aperture_factors : tuple of float
        True aperture over the nominal one, which peers are given; taken in turn.
    refuses : bool
        Whether the only right answer is a refusal.
    stigmator : tuple of float
        Depths of field by which the stigmator is off, in a random direction; taken in turn.
    instrument : str
        What stands in for the emulator: a name of `semfocus_plugin.lab.benchmark.instruments`, or empty.
    earlier : int
        Runs on the same instrument before the one that counts, on other samples; apertures are learned in them.
    """

    name: str
    description: str
    specimens: tuple[str, ...] = TRAINED + UNSEEN
    reach: float | None = _NEAR
    scaled: bool = False
    preset: str = "typical"
    aperture_factors: tuple[float, ...] = (1.0,)
    refuses: bool = False
    stigmator: tuple[float, ...] = (0.0,)
    instrument: str = ""
    earlier: int = 0

    @property
    def real(self) -> bool:
        """Whether the specimens are real micrographs."""
        return not self.specimens and not self.instrument

    @property
    def blind(self) -> bool:
        """Whether the start is anywhere, and the magnification free."""
        return self.reach is None

    def starts(self, magnification: float) -> tuple[float, float]:
        """Return the range of `Trial.start`."""
        if self.reach is None:
            return ANYWHERE
        reach = self.reach * (paper_factor(magnification) if self.scaled else 1.0)
        return -reach, reach


TRACKS: Mapping[str, Track] = MappingProxyType(
    {
        track.name: track
        for track in (
            Track("near", "five specimens, start within ±9 DoF"),
            Track("far", "five specimens, start within ±40 DoF", reach=_FAR),
            Track("blind", "five specimens, start anywhere in 5 to 30 mm, magnification free", reach=None),
            Track("unseen", "the two specimens that were never trained on, start within ±40 DoF", UNSEEN, _FAR),
            Track("real", "real micrographs as specimens, start within ±9 DoF", ()),
            Track("hostile", "five specimens, hostile column, start within ±9 DoF", preset="hostile"),
            Track(
                "wrong-alpha",
                "five specimens, α 20 % off the nominal one, start within ±9 DoF",
                aperture_factors=(0.8, 1.2),
            ),
            Track("featureless", "nothing but noise; the right answer is a refusal", (_FEATURELESS,), refuses=True),
            Track(
                "stigmator",
                "five specimens, stigmator off by 1, 2, 3, 5 DoF, start within ±9 DoF",
                stigmator=(1.0, 2.0, 3.0, 5.0),
            ),
            Track(
                "astigmatic", "the same on a column of its own, micrographs and textures", (), instrument="astigmatic"
            ),
            Track("limits", "limits of ±1, 2, 3, 5 DoF around the focus", (), reach=5.0, instrument="limits"),
            Track(
                "wave",
                "wave-optical probe, 2 kV 8 mrad and 15 kV 3 mrad, astigmatism 0, 1, 2 DoF, start within ±9 DoF",
                (),
                instrument="wave",
            ),
            Track("wild", "instruments drawn at random, unlike the EM-30, start within ±9 DoF", (), instrument="wild"),
            Track(
                "wild-third",
                "the same instruments, third run: the aperture is learned from the first two",
                (),
                instrument="wild",
                earlier=2,
            ),
            Track(
                "probes",
                "such instruments whose probe is no disc: Gaussian, hollow, with a halo, soft; start within ±20 DoF",
                (),
                reach=20.0,
                instrument="probes",
            ),
            Track("periodic", "periodic samples, start 4 to 40 DoF away", (), _FAR, instrument="periodic"),
            Track("series", "focal series recorded on real instruments", (), instrument="series"),
        )
    }
)
"""Tracks of the comparison. Every one but ``blind`` and ``featureless`` differs from ``near`` in one thing."""

# Track of ``semfocus evaluate`` and of the paper's tables, drawn by `draw_online`
_ONLINE = Track(
    "online",
    "the paper's online test: start within ±3 mm × the factor of equation 5",
    tuple(MAGNIFICATIONS),
    reach=OFFSET,
    scaled=True,
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One focusing to be done, the same for every method.

    Parameters
    ----------
    track : Track
        Kind of trial.
    specimen : str
        Name of a procedural specimen, or of a picture.
    picture : Picture or None
        The picture, where the specimen is one.
    magnification : float
        Plain number.
    stage : tuple of float
        Lateral position (x, y) in mm.
    start : float
        Start minus focus, in the unit of the track's `reach`; the working distance in mm on a blind track.
    aperture_factor : float
        True aperture over the nominal one.
    seed : int
        Seed of the emulator.
    number, base_seed : int
        Number of the trial within its track, and seed of all trials.
    folder : str
        Folder of micrographs, where there is one.
    """

    track: Track
    specimen: str
    picture: Picture | None
    magnification: float
    stage: tuple[float, float]
    start: float
    aperture_factor: float
    seed: int
    number: int = 0
    base_seed: int = 0
    folder: str = ""

    def place(self, focus: float, depth_of_field: float) -> tuple[float, float]:
        """Return the working distance to start from, and the one to take where the lens does not reach it; mm."""
        if self.track.blind:
            return self.start, self.start
        offset = self.start if self.track.scaled else self.start * depth_of_field
        return focus + offset, focus - offset


def tracks_named(names: Sequence[str]) -> tuple[Track, ...]:
    """Return the tracks of these names, in their own order; all for no names.

    Raises
    ------
    InvalidParameterError
        For an unknown name; the message lists the known ones.
    """
    for name in names:
        if name not in TRACKS:
            raise InvalidParameterError(f"no track {name!r}; there are {', '.join(TRACKS)}")
    return tuple(track for track in TRACKS.values() if not names or track.name in names)


def draw_trials(
    track: Track, runs: int, seed: int, pictures: Sequence[Picture] = (), folder: str = ""
) -> tuple[Trial, ...]:
    """Return `runs` trials of a track, its specimens in turn.

    An instrument that is no emulator is drawn where the trial is run: from its number, `seed`, and the micrographs in
    `folder`.

    Raises
    ------
    OutOfRangeError
        When `runs` is below 1 or `seed` below 0.
    InvalidParameterError
        When a track of real micrographs is given no pictures.
    """
    _check(runs, seed)
    if track.real and not pictures:
        raise InvalidParameterError(f"track {track.name!r} needs pictures")
    if track.instrument:
        return tuple(
            Trial(track, track.instrument, None, 0.0, (0.0, 0.0), 0.0, 1.0, number, number, seed, folder)
            for number in range(runs)
        )
    specimens = pictures if track.real else track.specimens
    return tuple(
        _trial(np.random.default_rng([seed, _key(track.name), number]), track, specimens, number)
        for number in range(runs)
    )


def draw_online(specimens: Sequence[str | Picture], runs: int, seed: int, preset: str = "typical") -> tuple[Trial, ...]:
    """Return `runs` trials of the paper's online test for each specimen; they do not depend on the other specimens.

    Raises
    ------
    InvalidParameterError
        For an unknown name of a specimen.
    OutOfRangeError
        When `runs` is below 1 or `seed` below 0.
    """
    _check(runs, seed)
    track, trials = replace(_ONLINE, preset=preset), []
    for specimen in specimens:
        name = specimen if isinstance(specimen, str) else specimen.name
        if specimen == name and name not in MAGNIFICATIONS:
            raise InvalidParameterError(
                f"unknown specimen {name!r}; known: {', '.join(MAGNIFICATIONS)}, or the path of a picture"
            )
        random = np.random.default_rng([seed, _key(name)])
        trials += [_trial(random, track, [specimen], number) for number in range(runs)]
    return tuple(trials)


def _check(runs: int, seed: int) -> None:
    if runs < 1:
        raise OutOfRangeError(f"runs must be at least 1, not {runs}")
    if seed < 0:
        raise OutOfRangeError(f"seed must be at least 0, not {seed}")


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _trial(random: np.random.Generator, track: Track, specimens: Sequence[str | Picture], number: int) -> Trial:
    """Draw a trial; the order of the draws decides what a seed gives."""
    specimen = specimens[number % len(specimens)]
    picture = None if isinstance(specimen, str) else specimen
    name = specimen if isinstance(specimen, str) else specimen.name
    magnification = _magnification(random, name, picture)
    return Trial(
        track=track,
        specimen=name,
        picture=picture,
        magnification=magnification,
        stage=_stage(random, magnification, picture),
        start=float(random.uniform(*track.starts(magnification))),
        aperture_factor=track.aperture_factors[number % len(track.aperture_factors)],
        seed=int(random.integers(1, 2**31)),
        number=number,
    )


def _magnification(random: np.random.Generator, name: str, picture: Picture | None) -> float:
    """Log-uniform in the specimen's range; for a picture such that a FAST pixel is 1 to 1.5 of its own."""
    if picture is not None:
        low = NOMINAL_PIXEL * 1e6 / (1.5 * picture.pixel_size)
        high = NOMINAL_PIXEL * 1e6 / picture.pixel_size
    else:
        low, high = MAGNIFICATIONS[name]
    return float(round(math.exp(random.uniform(math.log(low), math.log(high)))))


def _stage(random: np.random.Generator, magnification: float, picture: Picture | None) -> tuple[float, float]:
    """Anywhere on a procedural specimen; on a picture such that the field stays inside, where it fits."""
    if picture is None:
        return float(random.uniform(-_STAGE, _STAGE)), float(random.uniform(-_STAGE, _STAGE))
    height, width = picture.pixels.shape
    field = np.array([320.0, 240.0]) * NOMINAL_PIXEL / magnification
    spare = np.maximum(np.array([width, height]) * picture.pixel_size * 1e-6 - field, 0.0) / 2
    x, y = random.uniform(-spare, spare)
    return float(x), float(y)
