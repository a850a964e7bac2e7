"""What lies under the beam: procedural specimens, seeded and infinite in x and y, and users' own pictures."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Protocol

from semdrivers.emulator.specimens._fields import Array, Window, footprint, lattice_uniform, noise, rough
from semdrivers.emulator.specimens._metal import GoldNanoparticles, TemGrid, TinBalls
from semdrivers.emulator.specimens._organic import ButterflyWing, Fabric, Featureless
from semdrivers.emulator.specimens._periodic import PERIODIC, Periodic
from semdrivers.emulator.specimens._picture import Picture
from semdrivers.errors import InvalidParameterError

__all__ = [
    "PERIODIC", "SPECIMENS", "Array", "Periodic", "Picture", "Specimen", "SpecimenFactory", "Window", "footprint",
    "lattice_uniform", "make_specimen", "noise", "rough",
]  # fmt: skip


class Specimen(Protocol):
    """A surface: what it looks like and how high it is."""

    def render(self, window: Window) -> tuple[Array, Array]:
        """Return (intensity, height in µm) on the window's pixels, each (height, width) float32.

        Intensity is the local secondary yield over the nominal one, without blur or noise.
        """
        ...


SpecimenFactory = Callable[[int], Specimen]
"""Makes a specimen from a random seed."""

SPECIMENS: Mapping[str, SpecimenFactory] = {
    "tin-balls": TinBalls,
    "tem-grid": TemGrid,
    "gold-nanoparticles": GoldNanoparticles,
    "butterfly-wing": ButterflyWing,
    "fabric": Fabric,
    "featureless": Featureless,
    **PERIODIC,
}
"""The procedural specimens by name."""


def make_specimen(name: str, seed: int, factories: Mapping[str, SpecimenFactory] = SPECIMENS) -> Specimen:
    """Return the specimen of that name.

    Raises
    ------
    InvalidParameterError
        For an unknown name; the message lists the known ones.
    """
    try:
        factory = factories[name]
    except (KeyError, TypeError):
        close = difflib.get_close_matches(str(name), factories, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise InvalidParameterError(
            f"no specimen {name!r}{hint} Known: {', '.join(sorted(factories))}, or image with a path"
        ) from None
    return factory(seed)
