"""The methods that ship, the best first."""

from __future__ import annotations

from semfocus_plugin.methods import _defocus_pair, _dual_network, _paper
from semfocus_plugin.methods._search import zigzag
from semfocus_plugin.run import Method

__all__ = ["METHODS", "find", "zigzag"]

METHODS: tuple[Method, ...] = (_defocus_pair.METHOD, _dual_network.METHOD, _paper.METHOD)
"""The first is the default of the plugin."""


def find(name: str | None) -> Method | None:
    """Return the method of that name, the default for None, or None when the name is another plugin's."""
    if name is None:
        return METHODS[0]
    return next((method for method in METHODS if method.name == name), None)
