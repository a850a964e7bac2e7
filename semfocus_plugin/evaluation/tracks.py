"""The tracks of the comparison: what is under the beam, how far away it starts, and how awkward the column is.

Every track but the last two differs from ``near`` in one thing. All numbers of a case follow from the seed, the track
and the number of the case, so more runs of the same seed begin with the same runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from semdrivers.errors import InvalidParameterError, OutOfRangeError
from semfocus_plugin.evaluation.cases import FEATURELESS, TRAINED, UNSEEN, draw_magnification, draw_stage
from semfocus_plugin.evaluation.pictures import Picture

DEVELOPMENT_SEED = 1
"""Of the runs that methods and peers were tuned on."""

REPORTING_SEED = 2026
"""Of the runs that are reported; nothing was tuned on them."""

NEAR = 9.0
FAR = 40.0
ANYWHERE = (5.0, 30.0)
"""Start of the blind track, and the widest window that a peer is told on any; mm."""

SPARE = 1.1
"""Window that a peer is told, over the furthest start."""


@dataclass(frozen=True, slots=True)
class Track:
    """What a track is.

    Parameters
    ----------
    name, description : str
        For tables.
    specimens : tuple of str
        Taken in turn; none for real micrographs.
    reach : float or None
        Furthest start from the focus, in depths of field; None for anywhere, with the magnification free.
    preset : str
        Of the emulator.
    aperture_factors : tuple of float
        True aperture over the nominal one, which is what peers are told; taken in turn.
    refuses : bool
        Whether the only right answer is a refusal.
    stigmator : tuple of float
        Depths of field by which the stigmator is off, in a random direction; taken in turn.
    instrument : str
        What stands in for the emulator: a name of `semfocus_plugin.evaluation.instruments`, or empty.
    earlier : int
        Runs on the same instrument before the one that counts, on other samples; apertures are learned in them.
    """

    name: str
    description: str
    specimens: tuple[str, ...] = TRAINED + UNSEEN
    reach: float | None = NEAR
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


TRACKS: Mapping[str, Track] = MappingProxyType(
    {
        track.name: track
        for track in (
            Track("near", "five specimens, start within ±9 DoF"),
            Track("far", "five specimens, start within ±40 DoF", reach=FAR),
            Track("blind", "five specimens, start anywhere in 5 to 30 mm, magnification free", reach=None),
            Track("unseen", "the two specimens that were never trained on, start within ±40 DoF", UNSEEN, FAR),
            Track("real", "real micrographs as specimens, start within ±9 DoF", ()),
            Track("hostile", "five specimens, hostile column, start within ±9 DoF", preset="hostile"),
            Track(
                "wrong-alpha",
                "five specimens, α 20 % off what is told, start within ±9 DoF",
                aperture_factors=(0.8, 1.2),
            ),
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
            Track("periodic", "periodic samples, start 4 to 40 DoF away", (), FAR, instrument="periodic"),
            Track("series", "focal series recorded on real instruments", (), instrument="series"),
            Track("featureless", "nothing but noise; the right answer is a refusal", (FEATURELESS,), refuses=True),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One case of a track, the same for every method.

    Parameters
    ----------
    track : Track
        Which.
    specimen : str
        Name, also of a picture.
    picture : Picture or None
        Where the specimen is one.
    magnification : float
        Plain number.
    stage : tuple of float
        (x, y) in mm.
    start : float
        From the focus in depths of field; on a blind track the working distance in mm.
    aperture_factor : float
        True aperture over the one that is told.
    seed : int
        Of the emulator.
    number, base_seed : int
        Of the trial within its track, and of all trials.
    folder : str
        Of micrographs, where there are some.
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
    """Return `runs` trials of a track.

    Raises
    ------
    OutOfRangeError
        When `runs` is below 1 or `seed` below 0.
    InvalidParameterError
        When a track of real micrographs is given no pictures.
    """
    if runs < 1:
        raise OutOfRangeError(f"runs must be at least 1, not {runs}")
    if seed < 0:
        raise OutOfRangeError(f"seed must be at least 0, not {seed}")
    if track.real and not pictures:
        raise InvalidParameterError(f"track {track.name!r} needs pictures")
    return tuple(_trial(track, number, seed, pictures, folder) for number in range(runs))


def _trial(track: Track, number: int, seed: int, pictures: Sequence[Picture], folder: str) -> Trial:
    if track.instrument:
        return Trial(track, track.instrument, None, 0.0, (0.0, 0.0), 0.0, 1.0, number, number, seed, folder)
    key = int.from_bytes(hashlib.sha256(track.name.encode()).digest()[:4], "big")
    random = np.random.default_rng([seed, key, number])
    picture = pictures[number % len(pictures)] if track.real else None
    specimen = picture.name if picture else track.specimens[number % len(track.specimens)]
    magnification = draw_magnification(random, specimen, picture)
    low, high = ANYWHERE if track.reach is None else (-track.reach, track.reach)
    return Trial(
        track=track,
        specimen=specimen,
        picture=picture,
        magnification=magnification,
        stage=draw_stage(random, magnification, picture),
        start=float(random.uniform(low, high)),
        aperture_factor=track.aperture_factors[number % len(track.aperture_factors)],
        seed=int(random.integers(1, 2**31)),
        number=number,
        base_seed=seed,
        folder=folder,
    )
