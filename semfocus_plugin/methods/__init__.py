"""The methods that ship, the best first."""

from __future__ import annotations

from semfocus_plugin.loop import Method
from semfocus_plugin.methods import defocus_pair, dual_network, paper

METHODS: tuple[Method, ...] = (defocus_pair.METHOD, dual_network.METHOD, paper.METHOD)
"""The first is the default of the plugin."""


def find(name: str | None) -> Method | None:
    """Return the method of that name, the default for None, or None when the name is another plugin's."""
    if name is None:
        return METHODS[0]
    return next((method for method in METHODS if method.name == name), None)
