"""Other people's autofocus, each given the half-angle, steps in depths of field, and a window with the focus in it.

Packages are used where they exist; the rest is written anew from its description.
"""

from __future__ import annotations

import importlib.util

from semfocus_plugin.lab.benchmark.peers import deepfocus_like, fibsem_sweeps, mapfost_pair, searches
from semfocus_plugin.lab.benchmark.peers.bench import Answer, Bench, Optics, Peer

PEERS: tuple[Peer, ...] = (
    *(searches.BRENT, searches.GOLDEN_SECTION, searches.TWO_PASS_SWEEP),
    *(mapfost_pair.PEER, fibsem_sweeps.PEER, deepfocus_like.PEER),
)
"""The methods of others, in the order of the tables."""


def missing_packages(peer: Peer) -> tuple[str, ...]:
    """Return the modules that a peer needs and this Python lacks."""
    return tuple(name for name in peer.packages if importlib.util.find_spec(name) is None)


__all__ = ["PEERS", "Answer", "Bench", "Optics", "Peer", "missing_packages"]
